"""Samplers that divide by norms: the published step, its mean-field closure, and where that ends.

The closure puts R = sqrt(E ||u||^2) for each norm ||u||. Write a random vector as a matrix times
unit-normal numbers: E ||u||^2 is then the squared Frobenius norm of the matrix, and the closure is
the published algorithm run on matrices with the Frobenius norm.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import dense
import jax
import jax.numpy as jnp
import literal
import numpy as np
import pytest
from cases import EPS, TWINS, Twin, circular, condition_number, expanded, many_blocks
from test_restoration import prior_samples

from spectralpost.affine import solver
from spectralpost.degradations import Degradation, gaussian_blur
from spectralpost.denoisers.gaussian import GaussianDenoiser
from spectralpost.merging import unique_modes
from spectralpost.metrics import output_cov
from spectralpost.noise import NoiseLevel, step_pairs, ve_karras, vp_linear
from spectralpost.prior import Prior, power_law
from spectralpost.problem import Problem, denoise, image_problem, make_problem
from spectralpost.restoration import measure, restore
from spectralpost.samplers.base import Measurement, Sampler, Step
from spectralpost.samplers.dds import dds
from spectralpost.samplers.dps import dps
from spectralpost.samplers.mcg import mcg
from spectralpost.samplers.mpgd import mpgd
from spectralpost.samplers.reddiff import reddiff
from spectralpost.transfer import Trajectory, sampler_transfer, trajectory

pytestmark = pytest.mark.usefixtures("quick")

NUM_STEPS = 5
SAMPLERS: dict[str, Sampler] = {
    "dps": dps(normalised=True),
    "mpgd": mpgd(normalised=True),
    "mcg": mcg(normalised=True),
    "dds": dds(cg_steps=5),
    "reddiff": reddiff(normalised=True),
}
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "dps": {"scale": (0.3, 1.5), "eta": (0.0, 1.0)},
    "mpgd": {"scale": (0.3, 1.5), "eta": (0.0, 1.0)},
    "mcg": {"scale": (0.3, 1.5), "eta": (0.0, 1.0)},
    "dds": {"gamma": (1.0, 4.0), "eta": (0.0, 1.0)},
    "reddiff": {"lr": (0.3, 1.5), "lambda_": (0.1, 1.0)},
}
# DDS on more than five different singular values: five iterations do not find the solution.
CASES = [(name, "1-D") for name in SAMPLERS] + [
    (name, "one block, not stationary" if name == "dds" else "four blocks, decimate 3")
    for name in SAMPLERS
]


def random_weights(name: str, num_steps: int = NUM_STEPS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.uniform(*limits, num_steps) for key, limits in RANGES[name].items()}


@functools.cache
def closure(sampler: Sampler) -> Callable[..., Trajectory]:
    """Compiled (problem, levels, guidance) -> trajectory."""
    return jax.jit(functools.partial(trajectory, sampler))


# ---------------------------------------------------------------------------------- one real step


def published_step(name: str, twin: Twin, x, y, z, t, s, weights: dict) -> np.ndarray:
    """One step of the literal algorithm with the norm of the vectors at hand, in pixels."""
    if name == "reddiff":
        g = literal.reddiff_gradient(
            x, y, z, *map(float, t), weights["lambda_"], twin.H, twin.mu, twin.C
        )
        return x - weights["lr"] * g / np.linalg.norm(g)
    step = literal.STEPS["dds_cg5" if name == "dds" else f"{name}_normalised"]
    problem = (twin.H, twin.mu, twin.C, twin.sigma_y)
    return step(x, y, z, *map(float, t), *map(float, s), weights, *problem)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_update_is_the_published_step(name, shape):
    """Not affine, so no transfer: one step with the real norm, from a point, mean and all."""
    twin = TWINS[shape]()
    problem, (m, n) = twin.problem, twin.H.shape
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=n), rng.normal(size=m), rng.normal(size=n)
    t, s = (jax.tree.map(lambda leaf: leaf[2], level) for level in step_pairs(vp_linear(NUM_STEPS)))
    weights = {key: float(values[2]) for key, values in random_weights(name).items()}
    wanted = published_step(name, twin, x, y, z, t, s, weights)

    def denoiser(x_t, level):
        return problem.mean + denoise(problem, x_t - level.alpha * problem.mean, level)

    def step(norm):
        measurement = Measurement(problem.response, problem.sigma_y, norm, solver(problem))
        modes = (x @ twin.V, y @ twin.U, z @ twin.V)
        signals = [jnp.asarray(part.reshape(problem.spectrum.shape)) for part in modes]
        return twin.V @ np.ravel(
            SAMPLERS[name].update(denoiser, measurement, Step(t, s, *signals, weights))
        )

    # a few hundred operations on numbers of this size
    bound = 1000 * EPS * np.abs(wanted).max()
    np.testing.assert_allclose(step(jnp.linalg.norm), wanted, rtol=0, atol=bound)
    # twice the norm is another step, but for DDS, where it is in ratios (no longer conjugate), and
    # for MCG where its gradient does not reach the null space
    if name != "dds" and (name, shape) != ("mcg", "1-D"):
        other = step(lambda u: 2 * jnp.linalg.norm(u))
        assert np.abs(other - wanted).max() > 1e-3


# --------------------------------------------------------------------------------- mean-field norms


class Root(NamedTuple):
    """State and measurement as multiples of unit-normal numbers, and of 1 in the last column."""

    X: np.ndarray  # the state, [n, K]
    Y: np.ndarray  # the measurement, [m, K]


def frobenius_conjugate_gradients(H, gamma, r, steps: int) -> tuple[np.ndarray, list[float]]:
    """`steps` iterations for (I + gamma H^T H) x = r from 0 with one step size for all columns."""
    x, p, norms = np.zeros_like(r), r, [np.linalg.norm(r)]
    for i in range(steps):
        norms += [np.linalg.norm(p), np.linalg.norm(H @ p)]
        size = np.linalg.norm(r) ** 2 / np.sum(p * (p + gamma * H.T @ H @ p))
        x, previous = x + size * p, r
        if i + 1 < steps:
            r = r - size * (p + gamma * H.T @ H @ p)
            norms.append(np.linalg.norm(r))
            p = r + (np.linalg.norm(r) / np.linalg.norm(previous)) ** 2 * p
    return x, norms


def path(name: str, twin: Twin, levels: NoiseLevel, weights: dict) -> tuple[np.ndarray, Root]:
    """Norms of each step [S, k] and the final state of the closure, by dense matrices.

    The un-normalised literal steps, column by column, with weights converted by Frobenius norms.
    """
    m, n = twin.H.shape
    alphas, sigmas = (np.asarray(leaf) for leaf in levels)
    K = n + (n + m) + 1
    X, Y = np.zeros((n, K)), np.zeros((m, K))
    Y[:, n : 2 * n] = twin.H @ dense.square_root(twin.C)
    Y[:, 2 * n : 2 * n + m] = twin.sigma_y * np.eye(m)
    Y[:, -1] = twin.H @ twin.mu
    X[:, :n] = sigmas[0] * np.eye(n)
    if name == "reddiff":
        X = literal.pseudo_inverse(twin.H, literal.THRESHOLD) @ Y
    found = []
    for i in range(len(sigmas) - 1):
        fresh = np.zeros((n, n))
        X, Y = (np.concatenate([fresh[: len(M)], M], axis=1) for M in (X, Y))
        z, mu = np.zeros_like(X), np.zeros_like(X)
        z[:, :n], mu[:, -1] = np.eye(n), twin.mu
        level = (alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1])
        w = {key: float(values[i]) for key, values in weights.items()}
        x_hat = literal.denoise(X, *level[:2], mu, twin.C)
        r = Y - twin.H @ x_hat
        R = np.linalg.norm(r)
        if name == "dds":
            residual = w["gamma"] * twin.H.T @ r
            move, norms = frobenius_conjugate_gradients(twin.H, w["gamma"], residual, 5)
            eps_hat = (X - alphas[i] * x_hat) / sigmas[i]
            X = literal.ddnm_type(x_hat + move, eps_hat, z, *level[2:], w["eta"])
            found.append(norms)
            continue
        if name == "reddiff":
            g = literal.reddiff_gradient(X, Y, z, *level[:2], w["lambda_"], twin.H, mu, twin.C)
            R = np.linalg.norm(g)
            w["lr"] /= R
        elif name == "mpgd":
            w["scale"] /= alphas[i + 1] * R
        else:
            w["zeta"] = w.pop("scale") / (2 * R)
        X = literal.STEPS[name](X, Y, z, *level, w, twin.H, mu, twin.C, twin.sigma_y)
        found.append([R])
    return np.array(found), Root(X, Y)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_closure_is_the_algorithm_with_root_mean_squares(name, shape):
    """Every norm of every step, and the law that comes out, by dense matrices."""
    twin, levels = TWINS[shape](), ve_karras(NUM_STEPS, sigma_max=3.0, sigma_min=0.1)
    weights = random_weights(name)
    norms, (X, Y) = path(name, twin, levels, weights)
    total, got, _ = closure(SAMPLERS[name])(twin.problem, levels, weights)
    assert got.shape == norms.shape == (NUM_STEPS, 15 if name == "dds" else 1)
    n = len(twin.mu)
    # n eps kappa S, in numbers of the size of the largest norm
    bound = n * EPS * condition_number(twin, levels, lambda_=1.0) * NUM_STEPS
    np.testing.assert_allclose(got, norms, rtol=0, atol=bound * norms.max())
    # the sources: fresh noise, start noise, measurement, and what is not random
    size = np.linalg.norm(X, 2)
    fresh, start, data = np.split(X[:, :-1], [NUM_STEPS * n, (NUM_STEPS + 1) * n], axis=1)
    noise = twin.V.T @ (fresh @ fresh.T + start @ start.T) @ twin.V
    cov = expanded(twin.problem, output_cov(total))
    np.testing.assert_allclose(cov, noise, rtol=0, atol=bound * size**2)
    gain = expanded(twin.problem, total.data_gain)
    np.testing.assert_allclose(
        gain @ twin.U.T @ Y[:, -1 - data.shape[1] : -1], twin.V.T @ data, rtol=0, atol=bound * size
    )
    offset = twin.V @ np.ravel(total.offset) + twin.mu
    np.testing.assert_allclose(offset, X[:, -1], rtol=0, atol=bound * size)


@pytest.mark.parametrize("name", SAMPLERS)
def test_merged_modes_have_the_same_norms(name):
    """Half of the modes with twice the weight, means by their root mean squares: the same R."""
    problem, levels = circular().problem, ve_karras(NUM_STEPS, sigma_max=3.0, sigma_min=0.1)
    merged, index = unique_modes(problem)
    assert np.bincount(index).tolist() != [1] * 12
    weights = random_weights(name)
    sampler = dds(cg_steps=2) if name == "dds" else SAMPLERS[name]  # less to compile
    whole, part = (closure(sampler)(one, levels, weights) for one in (problem, merged))
    np.testing.assert_allclose(part.norms, whole.norms, rtol=1000 * EPS)
    np.testing.assert_allclose(part.total.data_gain[index], whole.total.data_gain, rtol=1e-12)
    unweighted = merged._replace(weight=jnp.ones_like(merged.weight))
    other = closure(sampler)(unweighted, levels, weights)
    assert np.abs(other.norms / whole.norms - 1).max() > 0.01


# ----------------------------------------------------------------------- the real thing, on images

SIGMA_Y, SHAPE, RUNS, CHANNELS = 0.2, (64, 64), 32, 3


class Setting(NamedTuple):
    prior: Prior
    degradation: Degradation
    problem: Problem
    levels: NoiseLevel


def images(num_steps: int, sigma_y: float = SIGMA_Y, channels: int = CHANNELS) -> Setting:
    prior, blur = power_law(SHAPE, std=0.3, mean=0.2), gaussian_blur(SHAPE, 1.0)
    problem = image_problem(prior, blur, sigma_y, channels=channels)
    return Setting(prior, blur, problem, vp_linear(num_steps))


ZScores = Callable[[Sampler, dict], np.ndarray]


def z_scores(sampler: Sampler, guidance: dict, setting: Setting, getkey) -> ZScores:
    """Literal runs, each with its own image and its own y, against any closed form."""
    prior, degradation, problem, levels = setting
    planes = int(problem.weight[0])
    sigma_y = float(problem.sigma_y)
    y = measure(degradation, prior_samples(prior, RUNS, planes), sigma_y, getkey())
    denoiser = GaussianDenoiser.of(prior)
    out = restore(sampler, denoiser, degradation, y, levels, guidance, getkey(), sigma_y=sigma_y)
    y_modes, x_modes = (
        np.asarray(modes)
        for modes in (degradation.to_measurement_modes(y), degradation.to_modes(out))
    )
    y_modes = y_modes - np.asarray(problem.response * problem.mean)

    def scores(sampler: Sampler, guidance: dict) -> np.ndarray:
        """(output - closed mean) / closed standard deviation: [RUNS, planes, F]."""
        total = jax.jit(sampler_transfer, static_argnums=0)(sampler, problem, levels, guidance)
        total = jax.tree.map(np.asarray, total)
        expected = np.asarray(problem.mean) + total.offset + total.data_gain * y_modes
        return (x_modes - expected) / np.sqrt(total.state_gain**2 + total.noise_cov)

    return scores


def constant(num_steps: int, **weights: float) -> dict[str, np.ndarray]:
    return {name: np.full(num_steps, value) for name, value in weights.items()}


def assert_predicted(z: np.ndarray):
    """Mean z^2 over runs, planes and modes is 1 within 5 standard errors, sqrt(2 / numbers).

    That is below 1.5 % here. The means over runs of each mode are standard normal too.
    """
    error = 5 * np.sqrt(2 / z.size)
    print(f"mean z^2 {np.mean(z**2):.4f}, standard error {error / 5:.4f}")
    assert error < 0.015
    assert abs(np.mean(z**2) - 1) < error, np.mean(z**2)
    means = z.mean(axis=(0, 1)) * np.sqrt(z.shape[0] * z.shape[1])
    assert abs(np.mean(means**2) - 1) < error + 5 * np.sqrt(2 / means.size), np.mean(means**2)


def rejected(z: np.ndarray) -> bool:
    """Whether that check sees that a closed form is another sampler's."""
    return abs(np.mean(z**2) - 1) > 5 * np.sqrt(2 / z.size)


def test_closure_predicts_mpgd(getkey):
    """The literal, not affine algorithm; a norm that is 10 % off would be seen."""
    guidance = constant(20, scale=10.0, eta=0.5)
    scores = z_scores(SAMPLERS["mpgd"], guidance, images(20), getkey)
    assert_predicted(scores(SAMPLERS["mpgd"], guidance))
    assert rejected(scores(SAMPLERS["mpgd"], {**guidance, "scale": guidance["scale"] / 1.1}))


def test_closure_predicts_mcg(getkey):
    """Its gradient acts where H^+ has been cut off: h < 0.7 here, to have something to see.

    Everywhere else the output is H^+ y and noise, exactly.
    """
    guidance, setting = constant(20, scale=100.0, eta=1.0), images(20)
    sampler = mcg(normalised=True, threshold=0.7)
    scores = z_scores(sampler, guidance, setting, getkey)
    cut_off = np.asarray(setting.problem.response) <= 0.7
    assert 0 < cut_off.sum() < cut_off.size
    assert_predicted(scores(sampler, guidance)[..., cut_off])
    weaker = {**guidance, "scale": guidance["scale"] / 1.1}
    assert rejected(scores(sampler, weaker)[..., cut_off])
    assert not rejected(scores(sampler, weaker)[..., ~cut_off])


def test_closure_predicts_conjugate_gradients(getkey):
    """Five iterations with their mean-field coefficients; the exact solution is told apart."""
    guidance = constant(20, gamma=7.0, eta=0.85)
    scores = z_scores(SAMPLERS["dds"], guidance, images(20), getkey)
    assert_predicted(scores(SAMPLERS["dds"], guidance))
    assert rejected(scores(dds(), guidance))


def test_closure_fails_at_the_edge_of_instability(getkey):
    """The documented limit: guidance so strong that single modes grow, and with them the norm.

    R is the root mean square over all runs, but a run whose norm is smaller is pulled harder. Where
    modes grow at each step such differences grow along. At a sixth of that strength all is well.
    """
    setting, sampler = images(30, sigma_y=0.05, channels=1), SAMPLERS["dps"]
    for scale in (4.0, 24.0):
        guidance = constant(30, scale=scale, eta=1.0)
        z = z_scores(sampler, guidance, setting, getkey)(sampler, guidance)
        by_run = np.mean(z**2, axis=(1, 2))
        print(f"scale {scale}: mean z^2 {by_run.mean():.3f}, median run {np.median(by_run):.3f}")
        assert rejected(z) == (scale == 24)
    assert np.mean(by_run) > 1.2
    assert np.median(by_run) > 1.2  # no matter of a few runs


# ------------------------------------------------------------------------------- default schedules


@pytest.mark.parametrize("shape", ["modes", "blocks"])
@pytest.mark.parametrize(
    ("plain", "official"),
    [
        (dps(scale=0.7), dps(scale=0.7, normalised=True)),
        (mpgd(scale=0.9), mpgd(scale=0.9, normalised=True)),
        # a threshold that leaves some of the small problems' modes to the gradient
        (mcg(scale=0.8, threshold=0.8), mcg(scale=0.8, threshold=0.8, normalised=True)),
        (
            mcg(scale=0.8, threshold=0.8, level="s"),
            mcg(scale=0.8, threshold=0.8, level="s", normalised=True),
        ),
        (reddiff(lr=0.05), reddiff(lr=0.05, normalised=True)),
    ],
    ids=["dps", "mpgd", "mcg", "mcg, level s", "reddiff"],
)
def test_default_weights_are_the_official_ones_converted(plain, official, shape):
    """Two names of one sampler: the norms are in the plain weights already."""
    problem = (circular() if shape == "modes" else many_blocks(3)).problem
    levels = vp_linear(NUM_STEPS)

    @jax.jit
    def both(factor):
        return [
            sampler_transfer(one, problem, levels, one.heuristic(problem, levels, factor))
            for one in (plain, official)
        ]

    for factor in (1.0, 0.3):
        left, right = both(jnp.asarray(factor))
        for name, a, b in zip(left._fields, left, right, strict=True):
            # the same operations in another order, NUM_STEPS times
            atol = 100 * NUM_STEPS * EPS * max(1, np.abs(b).max())
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)
    assert np.abs(both(jnp.asarray(1.0))[0].data_gain - left.data_gain).max() > 1e-3


# ---------------------------------------------------------------------------- RED-diff and its Adam


def test_reddiff_stands_for_adam_in_order_of_magnitude_only():
    """Official RED-diff runs Adam; the default rate gives plain descent Adam's root mean square.

    On 16 pixels, 100 steps, defaults: mean output and total variance come out about right, as both
    minimise the same thing. Per frequency the variance does not: Adam scales each pixel by its own
    gradients, plain descent leaves the rate to the strongest mode. Wide limits, not derived: they
    record what was found (mean off by 8 %, total variance by 10 %, per frequency from 1/80 to 14).
    """
    n, num_steps, signals, runs = 16, 100, 40, 40
    prior, blur = power_law((n,), 1.0, std=0.3), gaussian_blur((n,), 1.0)
    problem, levels = image_problem(prior, blur, 0.05), vp_linear(num_steps)
    V = np.asarray(blur.from_modes(jnp.eye(n))).T
    U = np.asarray(blur.from_measurement_modes(jnp.eye(n))).T
    H, C = (U * np.asarray(problem.response)) @ V.T, dense.stationary(prior.spectrum)
    rng = np.random.default_rng(0)
    x_0 = dense.square_root(C) @ rng.normal(size=(n, signals))
    y = H @ x_0 + 0.05 * rng.normal(size=(n, signals))

    plain = reddiff()
    guidance = plain.heuristic(problem, levels)
    total = sampler_transfer(plain, problem, levels, guidance)
    z = rng.normal(size=(num_steps, n, signals * runs))
    adam = V.T @ literal.run_reddiff_adam(
        H,
        np.zeros((n, 1)),
        C,
        *map(np.asarray, levels),
        np.full(num_steps, 0.1),
        np.asarray(guidance["lambda_"]),
        np.repeat(y, runs, axis=1),
        z,
    )
    adam = adam.reshape(n, signals, runs)
    mean, var = adam.mean(axis=-1), adam.var(axis=-1, ddof=1).mean(axis=-1)
    closed_mean = np.asarray(total.data_gain)[:, None] * (U.T @ y)
    closed_var = np.asarray(total.state_gain**2 + total.noise_cov)

    def mse(mean, var):
        return np.mean((mean - V.T @ x_0) ** 2) + np.mean(var)

    off = np.sqrt(np.sum((closed_mean - mean) ** 2) / np.sum(mean**2))
    whole, by_mode = closed_var.sum() / var.sum(), closed_var / var
    errors = mse(closed_mean, closed_var), mse(mean, var)
    print(
        f"mean off by {off:.1%}; variance closed / Adam: total {whole:.2f}, per mode "
        f"{by_mode.min():.3f} to {by_mode.max():.1f}; mse {errors[0]:.4f} and {errors[1]:.4f}"
    )
    assert off < 0.25
    assert 0.5 < whole < 2
    assert abs(errors[0] / errors[1] - 1) < 0.25
    assert by_mode.min() < 1 / 3  # where this fails, plain descent has become better than it was
    assert by_mode.max() > 3


# ---------------------------------------------------------------- conjugate gradients that are done


@pytest.mark.parametrize(("response", "gamma"), [((1.0, 1.0, 1.0), 1.0), ((0.9, 0.4, 0.0), 0.0)])
def test_conjugate_gradients_stop_at_the_solution(response, gamma):
    """One singular value (identity, inpainting) or gamma = 0: nothing is left for iteration two."""
    problem, levels = make_problem(np.ones(3), response, 0.1), vp_linear(NUM_STEPS)
    guidance = constant(NUM_STEPS, gamma=gamma, eta=0.85)
    exact = sampler_transfer(dds(), problem, levels, guidance)
    five = sampler_transfer(dds(cg_steps=5), problem, levels, guidance)
    np.testing.assert_allclose(five.data_gain, exact.data_gain, rtol=0, atol=100 * EPS)
    np.testing.assert_allclose(five.noise_cov, exact.noise_cov, rtol=0, atol=100 * EPS)
