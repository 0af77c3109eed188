"""Samplers that remember: several signals from step to step, in closed form, restored, learned."""

import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, circular, decimated, expanded, random_guidance
from literal import run_combining, run_dps_remembering

import spectralpost as sp
from spectralpost.errors import InputError
from spectralpost.learning import loss_of, parameters_of
from spectralpost.learning.generations import random_starts
from spectralpost.literal_form import from_literal, to_literal
from spectralpost.metrics import wasserstein2
from spectralpost.noise import NoiseLevel, step_pairs
from spectralpost.samplers.base import Measurement, Step
from spectralpost.samplers.steps import MOST_REMEMBERED, second_order
from spectralpost.transfer import sampler_transfer, trajectory

pytestmark = pytest.mark.usefixtures("quick")

TWINS = {"circular": lambda: circular((4, 3)), "blocks": lambda: decimated((6, 2), 2, "average")}
LEVELS = sp.vp_linear(4)
SAMPLER = sp.SAMPLERS["dps"](multistep=True)
EXTRAPOLATIONS: tuple[str, ...] = ("extrapolation", "extrapolation_2", "extrapolation_3")


def dps(m, momentum=False):
    return sp.SAMPLERS["dps"](multistep=m, momentum=momentum)


def weights(seed, m=1, momentum=False, num=4):
    rng = np.random.default_rng(seed)
    drawn = {
        "zeta": jnp.asarray(rng.uniform(0.05, 0.3, num)),
        "eta": jnp.asarray(rng.uniform(0, 1, num)),
    } | {name: jnp.asarray(rng.uniform(0.3, 2, num)) for name in EXTRAPOLATIONS[:m]}
    return drawn | ({"momentum": jnp.asarray(rng.uniform(0.2, 0.9, num))} if momentum else {})


@pytest.mark.parametrize("m, momentum", [(1, False), (2, False), (3, False), (0, True), (2, True)])
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("grid", [sp.vp_linear, sp.ve_karras, sp.rectified_flow])
def test_transfer_is_the_literal_algorithm_in_pixels(name, grid, m, momentum):
    """By probing the literal run with units: linear maps of start noise, y and fresh noise."""
    twin, levels, guidance = TWINS[name](), grid(4), weights(0, m, momentum)
    n, num_measured = len(twin.mu), len(twin.H)
    numbers = (*map(np.asarray, levels), {key: np.asarray(w) for key, w in guidance.items()})
    run = partial(run_dps_remembering, twin.H, twin.mu, twin.C, *numbers, m)
    zero, none, dark = np.zeros(n), np.zeros((4, n)), np.zeros(num_measured)
    c = run(zero, dark, none)
    A = np.stack([run(unit, dark, none) - c for unit in np.eye(n)], axis=1)
    B = np.stack([run(zero, unit, none) - c for unit in np.eye(num_measured)], axis=1)
    fresh = np.eye(4 * n).reshape(-1, 4, n)
    N = np.stack([run(zero, dark, unit) - c for unit in fresh], axis=1)
    found = sampler_transfer(dps(m, momentum), twin.problem, levels, guidance)
    V, U = twin.V, twin.U
    offset = V.T @ (c - twin.mu + B @ twin.H @ twin.mu)
    wanted = (V.T @ A @ V, V.T @ B @ U, V.T @ N @ N.T @ V)
    # Matrices of condition up to 1e4 are inverted (noise levels from 6e-3 on), four times.
    size = max(np.abs(part).max() for part in (*wanted, offset))
    bound = 4 * n * EPS * 1e4 * size
    for part, want in zip(found[:3], wanted, strict=True):
        np.testing.assert_allclose(expanded(twin.problem, part), want, atol=bound)
    np.testing.assert_allclose(np.ravel(found.offset), offset, atol=bound)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("m, fewer", [(1, 0), (3, 1)])
@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "mpgd"])
def test_weights_of_one_are_fewer_estimates(name, m, fewer, twin):
    """Down to none: the sampler itself."""
    problem = TWINS[twin]().problem
    guidance = random_guidance(name, 1, 4)
    guidance |= {one: weights(2, fewer)[one] for one in EXTRAPOLATIONS[:fewer]}
    memory = guidance | dict.fromkeys(EXTRAPOLATIONS[fewer:m], jnp.ones(4))
    mine = trajectory(sp.SAMPLERS[name](multistep=m), problem, LEVELS, memory)
    its = trajectory(sp.SAMPLERS[name](multistep=fewer), problem, LEVELS, guidance)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(its), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("m", [0, 2])
@pytest.mark.parametrize("normalised", [False, True])
def test_no_momentum_is_plain_dps(normalised, m, twin):
    problem, guidance = TWINS[twin]().problem, weights(1, m)
    if normalised:
        guidance["scale"] = guidance.pop("zeta")
    plain, mine = (
        sp.SAMPLERS["dps"](normalised=normalised, multistep=m, momentum=momentum)
        for momentum in (False, True)
    )
    its = trajectory(plain, problem, LEVELS, guidance)
    none = trajectory(mine, problem, LEVELS, guidance | {"momentum": jnp.zeros(4)})
    some = trajectory(mine, problem, LEVELS, guidance | {"momentum": jnp.full(4, 0.5)})
    for one, other in zip(jax.tree.leaves(none), jax.tree.leaves(its), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    gap = jnp.abs(some.total.data_gain - its.total.data_gain).max()
    assert gap > 0.01 * jnp.abs(its.total.data_gain).max()


def test_momentum_is_the_first_moment_of_adam():
    """Guidance of one strength, with the decay of Adam's average that has no bias at its start."""
    decay, num = 0.8, 6
    rng = np.random.default_rng(0)
    y, states = rng.normal(size=5), rng.normal(size=(num, 5))
    measurement = Measurement(jnp.ones(5), jnp.asarray(0.1), jnp.linalg.norm, lambda f, r: r)
    t = s = NoiseLevel(jnp.asarray(0.6), jnp.asarray(0.8))
    sampler, plain, last = dps(0, True), dps(0), jnp.zeros(5)
    average = np.zeros(5)
    for i, x_t in enumerate(states, start=1):
        weights_t = {"zeta": 0.3, "eta": 0.0, "momentum": (decay - decay**i) / (1 - decay**i)}
        step = Step(t, s, jnp.asarray(x_t), jnp.asarray(y), jnp.zeros(5), weights_t)
        x_s, last = sampler.step(lambda x, level: x, measurement, step, last)
        (unguided,) = plain.step(
            lambda x, level: x, measurement, step._replace(guidance=weights_t | {"zeta": 0.0})
        )
        average = decay * average + (1 - decay) * 2 * (y - x_t)  # -grad ||y - x_t||^2
        np.testing.assert_allclose(x_s - unguided, 0.3 * average / (1 - decay**i), rtol=1e-10)


def test_momentum_is_on_or_off():
    assert dps(0, False) is dps(0) and dps(2).directions == 0
    assert list(dps(1, True).constraint) == ["zeta", "eta", "momentum", "extrapolation"]
    for wrong in (0.9, 1, "yes", None):
        with pytest.raises(InputError, match=f"momentum = {wrong!r}: must be true or false"):
            dps(0, wrong)


def test_schedules_with_momentum_are_kept(tmp_path):
    sampler, problem, guidance = dps(1, True), TWINS["circular"]().problem, weights(3, 1, True)
    np.testing.assert_array_equal(sampler.heuristic(problem, LEVELS)["momentum"], 0)
    schedule = sp.Schedule(
        sampler_name="dps",
        sampler_options=dict(sampler.options),
        levels=LEVELS,
        guidance=guidance,
        degradation_name="gaussian_blur",
        degradation_options={"std": 1.0},
        shape=(4, 3),
        sigma_y=0.1,
    )
    sp.save_schedule(tmp_path / "schedule.json", schedule)
    loaded = sp.load_schedule(tmp_path / "schedule.json")
    assert loaded.sampler() == sampler
    for name, values in guidance.items():
        np.testing.assert_array_equal(loaded.guidance[name], values)


@pytest.mark.parametrize("m", range(1, MOST_REMEMBERED + 1))
@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "mpgd"])
def test_weights_of_estimates_add_up_to_one(name, m):
    """A denoiser that is sure of one image, which was measured: the step of the sampler itself."""
    rng = np.random.default_rng(m)
    image, x_t, eps, h = jnp.asarray(rng.uniform(0.1, 1, (4, 5)))
    measurement = Measurement(h, jnp.asarray(0.1), jnp.linalg.norm, lambda operator, r: r)
    t, s = (
        NoiseLevel(jnp.asarray(0.6), jnp.asarray(0.8)),
        NoiseLevel(jnp.asarray(0.8), jnp.asarray(0.6)),
    )
    sampler, plain = sp.SAMPLERS[name](multistep=m), sp.SAMPLERS[name]()
    guidance = dict(zip(sampler.constraint, rng.uniform(0, 1, m + 2), strict=True))
    step = Step(t, s, x_t, h * image, eps, guidance)
    denoise = lambda x, level: image  # noqa: E731
    x_s, *remembered = sampler.step(denoise, measurement, step, *[image] * m)
    (wanted,) = plain.step(denoise, measurement, step)
    np.testing.assert_allclose(x_s, wanted, rtol=1e-12)
    np.testing.assert_allclose(remembered, [image] * m, rtol=1e-12)


def test_how_many_are_remembered():
    factory = sp.SAMPLERS["dps"]
    assert factory(multistep=True) == factory(multistep=1)
    problem = circular((8,)).problem
    alone = sp.heuristic(factory(multistep=True), problem, sp.vp_linear(1))
    np.testing.assert_array_equal(alone["extrapolation"], [1.0])  # nothing before it: DDIM
    assert factory(multistep=0) == factory()
    for wrong in (-1, MOST_REMEMBERED + 1, 1.5, "two", None):
        with pytest.raises(InputError, match=f"multistep = {wrong!r}: must be true, false or how"):
            factory(multistep=wrong)


def test_older_estimates_do_not_count_by_default():
    problem = TWINS["circular"]().problem
    one, three = (dps(m).heuristic(problem, LEVELS) for m in (1, 3))
    assert list(three) == [*one, *EXTRAPOLATIONS[1:]]
    for name, values in three.items():
        np.testing.assert_allclose(values, one.get(name, jnp.ones(4)), rtol=1e-12)


def test_default_weights_are_dpm_solver():
    """Without guidance and fresh noise, DPM-Solver++(2M) as in its paper, in lambda = log(a / s);
    first and last step are DDIM's."""
    levels = sp.vp_linear(5)
    alpha, sigma = map(np.asarray, levels)
    lam = np.log(alpha[:-1] / sigma[:-1])
    rng, mean = np.random.default_rng(0), np.zeros(3)
    problem = sp.make_problem(rng.uniform(0.1, 1, 3), np.ones(3), 0.1, mean)
    measurement = Measurement(problem.response, problem.sigma_y, jnp.linalg.norm, lambda f, r: r)
    extrapolation = second_order(levels)
    x = expected = rng.normal(size=3)

    def denoise(x, t):
        return problem.spectrum * t.alpha * x / (t.alpha**2 * problem.spectrum + t.sigma**2)

    before, last = jnp.zeros(3), None
    t, s = step_pairs(levels)
    for i in range(5):
        at = lambda level, i=i: NoiseLevel(level.alpha[i], level.sigma[i])  # noqa: E731
        guidance = {"zeta": 0.0, "eta": 0.0, "extrapolation": extrapolation[i]}
        step = Step(at(t), at(s), jnp.asarray(x), jnp.zeros(3), jnp.zeros(3), guidance)
        estimate = np.asarray(denoise(expected, at(t)))
        x, before = SAMPLER.step(denoise, measurement, step, before)
        D, h = estimate, 0.0
        if 0 < i < 4:
            h = lam[i + 1] - lam[i]
            r = (lam[i] - lam[i - 1]) / h
            D = (1 + 1 / (2 * r)) * estimate - 1 / (2 * r) * last
        if i < 4:
            h = lam[i + 1] - lam[i]
            expected = sigma[i + 1] / sigma[i] * expected - alpha[i + 1] * np.expm1(-h) * D
        else:
            expected = D  # sigma = 0
        last = estimate
        np.testing.assert_allclose(x, expected, rtol=1e-11)
    assert extrapolation[0] == extrapolation[4] == 1


@jax.jit
def linearised_and_gradient(loss, vector):
    return loss.linearised(vector), jax.value_and_grad(loss)(vector)


@pytest.mark.parametrize("m, momentum", [(1, False), (2, False), (0, True)])
@pytest.mark.parametrize("name", ["circular", "blocks of two"])
def test_jacobian_is_the_derivative(name, m, momentum):
    """Residuals have the sum and the gradient of the loss, levels and limits included.

    Memory makes blocks of 4 and 6 of a block's 2 modes; the derivatives of the roots of larger ones
    are those of test_blocks.
    """
    twin = circular((4, 3)) if name == "circular" else decimated((6,), 2, "average")
    guidance = weights(2, m, momentum)
    free = ("zeta", *EXTRAPOLATIONS[:m], *["momentum"] * momentum)
    parameters = parameters_of(dps(m, momentum), LEVELS, guidance, free, learn_levels=True)
    limits = {"max_amplification": 1.01, "rough_price": 0.01}
    loss = loss_of(parameters, [twin.problem], wasserstein2, **limits)
    vector = random_starts(loss, (guidance, guidance), 3, seed=0)[2]
    (r, jacobian), (value, gradient) = linearised_and_gradient(loss, vector)
    # Two orders of computing the same sums; roots amplify rounding by their slopes, up to 1e4.
    np.testing.assert_allclose(jnp.sum(r**2), value, rtol=1e-10)
    np.testing.assert_allclose(2 * jacobian.T @ r, gradient, rtol=1e-7, atol=1e-9 * value)


@pytest.mark.parametrize("m, momentum", [(1, False), (2, False), (0, True)])
@pytest.mark.parametrize("degradation", [sp.gaussian_blur((8, 8), 1.0), sp.downsample((8, 8), 2)])
def test_restored_images_have_the_moments_of_the_closed_form(degradation, m, momentum):
    prior, guidance = sp.power_law((8, 8), mean=0.4), weights(4, m, momentum)
    y = sp.measure(degradation, sp.draw(prior, 1)[0], 0.2, jax.random.key(0))
    moments = sp.simulate(
        dps(m, momentum),
        sp.GaussianDenoiser.of(prior),
        degradation,
        y,
        LEVELS,
        guidance,
        jax.random.key(1),
        sigma_y=0.2,
        num_runs=2048,
        batch_size=512,
    )
    problem = sp.image_problem(prior, degradation, 0.2)
    law = sampler_transfer(dps(m, momentum), problem, LEVELS, guidance)
    apart = degradation.to_measurement_modes(y) - problem.response * problem.mean
    if problem.basis is None:
        mean, var = law.data_gain * apart, law.state_gain**2 + law.noise_cov
    else:
        mean = jnp.einsum("bij,bj->bi", law.data_gain, apart)
        cov = law.state_gain @ law.state_gain.mT + law.noise_cov
        var = jnp.diagonal(cov, axis1=-2, axis2=-1)
    gap = moments.mean - (problem.mean + mean + law.offset)
    assert np.abs(gap / np.sqrt(var / moments.num_runs)).max() < 4.5  # of 64 modes
    assert np.abs(moments.var / var - 1).max() < 4.5 * np.sqrt(2 / moments.num_runs)


@pytest.mark.parametrize("m, momentum", [(1, False), (2, False), (0, True), (1, True)])
@pytest.mark.parametrize("name", TWINS)
def test_official_weights_and_back(name, m, momentum):
    """Norms of a sampler that remembers: mean-field, along the trajectory of all its signals."""
    sampler, problem = dps(m, momentum), TWINS[name]().problem
    guidance = weights(5, m, momentum)
    literal = to_literal(sampler, problem, LEVELS, guidance)
    back = from_literal(sampler, problem, LEVELS, literal)
    for key, value in guidance.items():
        np.testing.assert_allclose(back[key], value, rtol=1e-10)
    one = sampler_transfer(sampler, problem, LEVELS, guidance)
    assert sampler.literal is not None
    other = sampler_transfer(sampler.literal, problem, LEVELS, literal)
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def combined():
    """Of the experiment that measures what combinations of all estimates are worth."""
    script = Path(__file__).parents[1] / "experiments" / "memory.py"
    return runpy.run_path(str(script))["combined"]


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "mpgd"])
def test_combinations_are_the_least_squares_of_dense_images(name, combined):
    twin, levels = circular((4, 3)), sp.vp_linear(3)
    guidance = random_guidance(name, 1, 3)
    x, weights = run_combining(
        name,
        twin.H,
        twin.C,
        twin.sigma_y,
        *map(np.asarray, levels),
        {key: np.asarray(one) for key, one in guidance.items()},
    )
    found = combined(sp.SAMPLERS[name](), twin.problem, levels, guidance)
    wanted = np.zeros((3, 3))
    wanted[np.tril_indices(3)] = np.concatenate(weights)
    # Normal equations square what estimates that are nearly the same do to rounding.
    np.testing.assert_allclose(found.weights, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    n, m = len(twin.mu), len(twin.H)
    V, U = twin.V, twin.U
    gains = V.T @ x[:, :n] @ V, V.T @ x[:, n : n + m] @ U, V.T @ x[:, n + m :]
    size = max(np.abs(one).max() for one in gains)
    for part, want in zip(found.transfer, (*gains[:2], gains[2] @ gains[2].T), strict=False):
        np.testing.assert_allclose(expanded(twin.problem, part), want, atol=1e-6 * size)


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "mpgd"])
def test_each_estimate_alone_is_the_sampler(name, combined):
    problem, guidance = circular((4, 3)).problem, random_guidance(name, 1, 3)
    given = sp.SAMPLERS[name](), problem, sp.vp_linear(3), guidance
    mine, its = combined(*given, jnp.eye(3)).transfer, sampler_transfer(*given)
    for one, other in zip(mine[:3], its[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_memory_is_learned_and_pays():
    """The search starts from schedules without it, and ends below the best of these."""
    problem, _ = sp.bin_modes(
        sp.image_problem(sp.power_law((32, 32)), sp.gaussian_blur((32, 32), 2.0), 0.05), 60
    )
    search = sp.Search(starts=6, max_iterations=60)
    plain = sp.learn(sp.SAMPLERS["dps"](), problem, LEVELS, search=search)
    memory = sp.learn(SAMPLER, problem, LEVELS, search=search)
    assert memory.loss < 0.95 * plain.loss
    assert float(
        wasserstein2(problem, sampler_transfer(SAMPLER, problem, LEVELS, memory.guidance))
    ) == pytest.approx(memory.loss, rel=1e-10)
    # From there, with one estimate more.
    from_it = memory.guidance | {"extrapolation_2": jnp.ones(4)}
    search = sp.Search(starts=1, max_iterations=20, optimizer="adam")
    assert sp.learn(dps(2), problem, LEVELS, from_it, search=search).loss < 1.005 * memory.loss


def test_all_weights_of_most_estimates_are_learned_and_polished():
    """As many weights as a sampler has, eta included, in both searches."""
    prior, degradation = sp.power_law((8, 8)), sp.gaussian_blur((8, 8), 1.0)
    problem = sp.unique_modes(sp.image_problem(prior, degradation, 0.1))[0]
    sampler, search = dps(MOST_REMEMBERED, True), sp.Search(starts=2, max_iterations=20)
    found = sp.learn(sampler, problem, LEVELS, free=tuple(sampler.constraint), search=search)
    assert found.loss <= found.baselines["tuned_constant"]
    polished = sp.polish(
        sampler,
        sp.GaussianDenoiser.of(prior),
        sp.draw(prior, 8, seed=1).clip(-1, 1),
        degradation,
        0.1,
        LEVELS,
        found.guidance,
        steps=2,
    )
    assert np.all(np.isfinite(polished.curve))
    assert set(polished.guidance) == set(sampler.constraint)


def test_chunks_are_for_samplers_without_memory():
    problem = circular((4, 3)).problem
    with pytest.raises(InputError, match="needs one without norms and memory"):
        sp.loss_and_gradient(SAMPLER, problem, LEVELS, weights(6), ("zeta",))
