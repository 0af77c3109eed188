"""What every sampler owes, whatever its update: the rows of `cases.ROWS`, one test a property."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import literal
import numpy as np
import pytest
from cases import (
    ALL,
    EPS,
    GRIDS,
    NUM_STEPS,
    ROWS,
    TWINS,
    circular,
    literal_steps,
    many_blocks,
    random_guidance,
    rounding,
    total,
    total_and_steps,
)

from spectralpost.affine import ModelDenoiser, Transfer, solver
from spectralpost.denoiser_use import differentiates_denoiser, uses_of
from spectralpost.errors import InputError
from spectralpost.metrics import kl, mse, perception, wasserstein2
from spectralpost.noise import NoiseLevel, rectified_flow, step_pairs, vp_linear
from spectralpost.problem import Problem, ideal_posterior, make_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.base import Measurement, Sampler, Step
from spectralpost.samplers.daps import daps
from spectralpost.samplers.dds import dds
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dmps import dmps
from spectralpost.samplers.dps import dps
from spectralpost.samplers.exact import exact
from spectralpost.samplers.freehunch import freehunch
from spectralpost.samplers.ilvr import ilvr
from spectralpost.samplers.mcg import mcg
from spectralpost.samplers.mpgd import mpgd
from spectralpost.samplers.steps import ddim_step, noise_estimate
from spectralpost.samplers.tmpd import tmpd
from spectralpost.transfer import sampler_transfer, step_transfer, trajectory

pytestmark = pytest.mark.usefixtures("quick")

BOUNDARY_WEIGHTS = {"unit": (0.0, 1.0), "nonnegative": (0.0,)}


def cast(tree, dtype):
    """Every leaf of a pytree in another dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def assert_close(left: Transfer, right: Transfer, rtol: float, problem: Problem):
    """Equal up to rounding. An offset is the difference of two signals as large as the mean."""
    for name, a, b in zip(Transfer._fields, left, right, strict=True):
        size = np.abs(np.asarray(b)).max()
        if name == "offset":
            size = max(size, np.abs(np.asarray(problem.mean)).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * size, err_msg=name)


@pytest.mark.parametrize("shape", ["1-D", "four blocks, decimate 3"])
@pytest.mark.parametrize("name", [*ROWS, "dps normalised"])
def test_update_is_linear_and_modes_do_not_mix(name, shape):
    """The two facts that let unit tangents find a transfer: full Jacobians, at a random point."""
    problem = TWINS[shape]().problem
    if name == "dps normalised":
        sampler, guidance = dps(normalised=True), {"scale": np.ones(5), "eta": np.full(5, 0.5)}
    else:
        sampler, guidance = ROWS[name].make(problem), random_guidance(name, 3)
    measurement = Measurement(
        problem.response, problem.sigma_y, lambda u: jnp.asarray(1.7), solver(problem)
    )
    t, s, guidance_t = jax.tree.map(lambda leaf: leaf[1], (*step_pairs(vp_linear(5)), guidance))

    def update(x_t, y, eps):
        return sampler.update(
            ModelDenoiser(problem), measurement, Step(t, s, x_t, y, eps, guidance_t)
        )

    rng = np.random.default_rng(0)
    signals = [jnp.asarray(rng.normal(size=problem.spectrum.shape)) for _ in range(3)]
    value, jacobians = jax.jit(
        lambda *args: (update(*args), jax.jacfwd(update, argnums=(0, 1, 2))(*args))
    )(*signals)
    rows = problem.spectrum.shape[0]
    k = problem.spectrum.size // rows
    linear = np.zeros(rows * k)
    for signal, jacobian in zip(signals, jacobians, strict=True):
        by_row = np.asarray(jacobian).reshape(rows, k, rows, k)
        linear += by_row.reshape(rows * k, rows * k) @ np.ravel(signal)
        for row in range(rows):
            others = np.delete(np.arange(rows), row)
            np.testing.assert_array_equal(by_row[row][:, others], 0)
    np.testing.assert_allclose(np.ravel(value), linear, rtol=0, atol=100 * EPS * abs(linear).max())


@pytest.mark.parametrize("name", ROWS)
def test_jit_is_eager(name):
    """A step, operation by operation; that the whole is its steps is checked elsewhere."""
    problem, levels = circular().problem, GRIDS["ve_karras"](NUM_STEPS)
    guidance = random_guidance(name, 4)
    _, steps = total_and_steps(name)(problem, levels, guidance)
    inputs = (*step_pairs(levels), guidance)
    compiled, (t, s, guidance_t) = jax.tree.map(lambda leaf: np.asarray(leaf)[2], (steps, inputs))
    with jax.disable_jit():
        eager = step_transfer(ROWS[name].make(problem), problem, t, s, guidance_t)
    assert_close(compiled, eager, 100 * EPS, problem)


@pytest.mark.parametrize("name", ROWS)
def test_vmap_is_a_loop(name):
    """Many schedules and noise strengths at once."""
    problem, levels = circular().problem, GRIDS["ve_karras"](NUM_STEPS)
    many = [random_guidance(name, seed) for seed in range(3)]
    sigma_y = jnp.asarray([0.2, 0.5, 1.0])

    def one(guidance, sigma_y):
        return total(name)(problem._replace(sigma_y=sigma_y), levels, guidance)

    batched = jax.vmap(one)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *many), sigma_y)
    for i, guidance in enumerate(many):
        single = one(guidance, sigma_y[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batched), single, 500 * EPS, problem)


def counting(sampler: Sampler, calls: list) -> Sampler:
    """The same sampler, noting each time that its update is traced."""

    def update(*args):
        calls.append(1)
        return sampler.update(*args)

    return dataclasses.replace(sampler, update=update)


@pytest.mark.parametrize("name", ROWS)
def test_second_call_does_not_trace_again(name):
    """Everything but the sampler and the number of steps is dynamic."""
    problem, calls = circular().problem, []
    sampler = counting(ROWS[name].make(problem), calls)
    transfer = jax.jit(sampler_transfer, static_argnames="sampler").eval_shape  # traces, no more
    transfer(sampler, problem, vp_linear(NUM_STEPS), sampler.heuristic(problem, vp_linear(5)))
    traced = len(calls)
    assert traced > 0
    other = make_problem(2 * problem.spectrum, problem.response, 0.7, mean=problem.mean)
    for seed, make in enumerate(GRIDS.values()):
        transfer(sampler, other, make(NUM_STEPS), random_guidance(name, seed))
    assert len(calls) == traced


def test_factories_return_the_same_object():
    """A sampler is a static argument, hashed by identity: a new object would compile again."""
    for name, factory in SAMPLERS.items():
        if name != "exact":  # closes over its problem
            assert factory() is factory()
    assert dps(scale=0.3) is dps(scale=0.3)
    assert dps(scale=0.3) is not dps(scale=0.4)


@functools.cache
def loss_and_slope(name: str):
    """Compiled (problem, levels, guidance) -> W2^2 and its gradient by all weights."""

    def loss(guidance, problem, levels):
        sampler = ROWS[name].make(problem)
        return wasserstein2(problem, sampler_transfer(sampler, problem, levels, guidance))

    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda problem, levels, guidance: compiled(guidance, problem, levels)


@pytest.mark.parametrize("name", ROWS)
def test_gradient_against_finite_differences(name):
    """d W2^2 / d (every weight), through the scan and its checkpoint.

    Central differences D(h) = f' + f''' h^2 / 6 + rounding. |D(2h) - D(h)| is three times the
    truncation error of D(h); the rounding is at most that of f, 1000 eps |f| for a few hundred
    operations, over h. h = eps^(1/3) balances the two. Weights are in units of their range.
    """
    assert jax.config.jax_enable_x64
    # MCG's gradient only reaches the null space where the prior couples the modes.
    problem = (many_blocks(3) if name == "mcg" else circular()).problem
    levels, guidance = GRIDS["ve_karras"](NUM_STEPS), random_guidance(name, 5)
    value, slopes = loss_and_slope(name)(problem, levels, guidance)
    h = EPS ** (1 / 3)
    units = {weight: high for weight, (_, high) in ROWS[name].ranges.items()}
    slopes = {weight: slope * units[weight] for weight, slope in slopes.items()}
    largest = max(np.abs(slope).max() for slope in slopes.values())
    for weight, slope in slopes.items():
        for i in range(NUM_STEPS):

            def loss(shift, weight=weight, i=i):
                moved = guidance[weight].copy()
                moved[i] += shift * units[weight]
                return loss_and_slope(name)(problem, levels, {**guidance, weight: moved})[0]

            near = (loss(h) - loss(-h)) / (2 * h)
            far = (loss(2 * h) - loss(-2 * h)) / (4 * h)
            tolerance = abs(far - near) + 1000 * EPS * abs(value) / h
            assert tolerance < 1e-4 * largest  # the comparison must mean something
            assert abs(slope[i] - near) <= tolerance, (weight, i)


@pytest.mark.parametrize("shape", ["1-D", "four blocks, decimate 3"])
@pytest.mark.parametrize("name", ROWS)
def test_float32_in_float32_out(name, shape):
    """No float64 constant may leak in: strict promotion would raise, and the dtypes say so."""
    problem = cast(TWINS[shape]().problem, jnp.float32)
    levels = cast(vp_linear(NUM_STEPS), jnp.float32)

    def everything(problem: Problem, levels: NoiseLevel, guidance: dict):
        sampler = ROWS[name].make(problem)

        def losses(guidance):
            transfer = sampler_transfer(sampler, problem, levels, guidance)
            return {
                metric.__name__: metric(problem, transfer)
                for metric in (wasserstein2, kl, mse, perception)
            }, transfer

        first, transfer = losses(guidance)
        slope = jax.grad(lambda guidance: losses(guidance)[0]["wasserstein2"])(guidance)
        return first, transfer, slope, sampler.heuristic(problem, levels), ideal_posterior(problem)

    guidance = cast(random_guidance(name, 6), jnp.float32)
    for leaf in jax.tree.leaves(jax.eval_shape(everything, problem, levels, guidance)):
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize("name", ROWS)
def test_float32_is_as_accurate_as_its_epsilon(name):
    """The rounding bound of the float64 comparison, with float32's epsilon."""
    twin, levels = circular(), GRIDS["ve_karras"](NUM_STEPS)
    guidance = random_guidance(name, 7)
    single = total(name)(*cast((twin.problem, levels, guidance), jnp.float32))
    double = total(name)(twin.problem, levels, guidance)
    _, bound = rounding(twin, levels, literal_steps(name, twin, levels, guidance))
    bound *= np.finfo(np.float32).eps / EPS
    for leaf32, leaf64 in zip(single, double, strict=True):
        assert leaf32.dtype == jnp.float32
        np.testing.assert_allclose(leaf32, leaf64, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ROWS)
def test_finite_for_extreme_problems(name):
    """Spectra from 1e-12 to 1e6, dead and nearly dead responses, sigma_y from 1e-6 to 1e3."""
    responses = jnp.asarray([0.0, 1e-12, 1e-6, 0.1, 1.0])
    spectra = jnp.asarray([0.0, *np.logspace(-12, 6, 10)])
    spectrum, response = (jnp.ravel(grid) for grid in jnp.meshgrid(spectra, responses))

    @jax.jit
    def losses_and_slopes(sigma_y, levels):
        problem = Problem(
            spectrum,
            response,
            None,
            jnp.ones_like(spectrum),
            jnp.ones_like(spectrum),
            sigma_y,
        )
        sampler = ROWS[name].make(problem)

        def losses(guidance):
            transfer = sampler_transfer(sampler, problem, levels, guidance)
            return sum(metric(problem, transfer) for metric in (wasserstein2, mse, perception))

        guidance = sampler.heuristic(problem, levels)
        return guidance, jax.value_and_grad(losses)(guidance)

    for sigma_y in (1e-6, 1.0, 1e3):
        for levels in (vp_linear(4), rectified_flow(4)):
            for leaf in jax.tree.leaves(losses_and_slopes(jnp.asarray(sigma_y), levels)):
                assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].unguided])
def test_without_guidance_only_the_prior_sampler_is_left(name):
    """x_s = alpha_s x_hat + (share) eps_hat + (share) z, composed in NumPy, mode by mode."""
    row, problem = ROWS[name], circular().problem
    for grid in GRIDS.values():
        levels, guidance = grid(NUM_STEPS), random_guidance(name, 8)
        if name == "diffpir" and levels.alpha[0] == 0:
            # rho = lambda_ sigma_y^2 alpha^2 / sigma^2 = 0 whatever lambda_: start one step later
            levels = jax.tree.map(lambda leaf: leaf[1:], grid(NUM_STEPS + 1))
        for weight, value in row.unguided.items():
            guidance[weight] = np.full(NUM_STEPS, value)
        transfer = total(name)(problem, levels, guidance)
        alpha, sigma = (np.asarray(leaf) for leaf in levels)
        spectrum = np.asarray(problem.spectrum)
        gain, noise, size = np.full(12, sigma[0]), np.zeros(12), sigma[0]
        shares = zip(*row.noise(levels, guidance), strict=True)
        for i, (eps_share, fresh_share) in enumerate(shares):
            wiener = alpha[i] * spectrum / (alpha[i] ** 2 * spectrum + sigma[i] ** 2)
            slope = alpha[i + 1] * wiener + eps_share * (1 - alpha[i] * wiener) / sigma[i]
            gain, noise = slope * gain, slope**2 * noise + fresh_share**2
            size = max(size, np.abs(gain).max(), noise.max())
        # a few roundings per step of numbers no larger than `size`
        atol = 20 * NUM_STEPS * EPS * size
        np.testing.assert_allclose(transfer.state_gain, gain, rtol=0, atol=atol)
        np.testing.assert_allclose(transfer.noise_cov, noise, rtol=0, atol=atol)
        np.testing.assert_allclose(transfer.data_gain, 0, rtol=0, atol=atol)
        wanted = -alpha[0] / sigma[0] * gain * np.asarray(problem.mean)
        np.testing.assert_allclose(transfer.offset, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].decay])
def test_useless_measurements_are_ignored(name):
    """sigma_y -> infinity: the data gain is a power of 1 / sigma_y, and then terms of higher order.

    What these add to the ratio of two gains is at least one order smaller, so ten times smaller
    when both sigma_y are ten times larger; above that is the rounding of the gains.
    """
    problem, levels = circular().problem, vp_linear(NUM_STEPS)
    guidance = random_guidance(name, 9)
    gains = [
        np.asarray(
            total(name)(problem._replace(sigma_y=jnp.asarray(s)), levels, guidance).data_gain
        )
        for s in (1e4, 1e5, 1e6)
    ]
    near, far = (
        np.abs(gains[i] / gains[i + 1] / 10.0 ** ROWS[name].decay - 1).max() for i in (0, 1)
    )
    assert np.abs(gains[1]).max() < 1e-5
    # (sigma_T / alpha_T / sigma_y)^2 = (157 / 1e4)^2, the largest of the second order
    assert near < (levels.sigma[0] / levels.alpha[0] / 1e4) ** 2
    assert far <= 1.01 * near / 10 + 1000 * EPS


@pytest.mark.parametrize("name", ROWS)
def test_gradient_at_the_ends_of_the_weights(name):
    """eta = 1 with sigma_s = 0 has sqrt(0) in it, eta = 0 too, and zeta = 0 or 1: all finite."""
    problem = circular().problem
    constraint = ROWS[name].make(problem).constraint
    for weight, kind in constraint.items():
        for value in BOUNDARY_WEIGHTS[kind]:
            for grid in (vp_linear, rectified_flow):
                guidance = random_guidance(name, 10)
                guidance[weight] = np.full(NUM_STEPS, value)
                for leaf in jax.tree.leaves(
                    loss_and_slope(name)(problem, grid(NUM_STEPS), guidance)
                ):
                    assert np.all(np.isfinite(leaf)), (weight, value)


@pytest.mark.parametrize("name", ROWS)
def test_heuristic_is_a_valid_schedule(name):
    """Exactly the declared weights, one a step, inside their constraint, and as published."""
    row, problem, levels = ROWS[name], circular().problem, vp_linear(NUM_STEPS)
    sampler = row.make(problem)
    assert sampler.name == name
    guidance = sampler.heuristic(problem, levels)
    assert set(guidance) == set(sampler.constraint) == set(row.ranges)
    for weight, kind in sampler.constraint.items():
        values = np.asarray(guidance[weight])
        assert values.shape == (NUM_STEPS,)
        assert kind in BOUNDARY_WEIGHTS
        assert np.all(values >= 0)
        assert kind != "unit" or np.all(values <= 1)
    for weight, value in (row.heuristic or {}).items():
        np.testing.assert_array_equal(guidance[weight], value)


@pytest.mark.parametrize(
    ("options", "lambda_", "zeta"), [({}, 7, 0.3), ({"task": "inpainting"}, 1, 1.0)]
)
def test_diffpir_has_the_defaults_of_its_programs(options, lambda_, zeta):
    """sigma_y in units of [0, 1] and levels in those of [-1, 1]: a lambda there is 1/4 here."""
    guidance = diffpir(**options).heuristic(circular().problem, vp_linear(4))
    np.testing.assert_array_equal(guidance["lambda_"], lambda_ / 4)
    np.testing.assert_array_equal(guidance["zeta"], zeta)


def test_diffpir_has_programs_for_two_tasks():
    with pytest.raises(InputError, match="'sharpening': allowed are deblurring, inpainting"):
        diffpir(task="sharpening")


# ----------------------------------------------------------------------------------- DDIM, exact


def ddim(t, s, x_hat, eps_hat, eps, eta):
    """`ddim_step`, which takes neither x_t nor y."""
    return ddim_step(Step(t, s, None, None, eps, {}), x_hat, eps_hat, jnp.asarray(eta))


def test_ddim_eta_1_is_ddpm_ancestral():
    """x_s = a x_hat + d x_t + sqrt(b) z with DDPM's posterior coefficients, from its betas."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    rng = np.random.default_rng(0)
    x_t, x_hat, z = (jnp.asarray(rng.normal(size=7)) for _ in range(3))
    for i in (1, 10, 500, 999):
        bar_t, bar_s, beta = alpha_bar[i], alpha_bar[i - 1], betas[i]
        a = np.sqrt(bar_s) * beta / (1 - bar_t)
        d = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t)
        b = beta * (1 - bar_s) / (1 - bar_t)
        t, s = (
            NoiseLevel(jnp.asarray(np.sqrt(bar)), jnp.asarray(np.sqrt(1 - bar)))
            for bar in (bar_t, bar_s)
        )
        x_s = ddim(t, s, x_hat, noise_estimate(x_t, x_hat, t), z, 1.0)
        # 1 - bar_t and 1 - (alpha_t sigma_s / alpha_s sigma_t)^2 ~ beta cancel: digits 1 / beta
        np.testing.assert_allclose(x_s, a * x_hat + d * x_t + np.sqrt(b) * z, rtol=50 * EPS / beta)


def test_ddim_keeps_the_variance_of_the_noise():
    """For any eta the part of the noise is sigma_s in total: eps_hat and z, independent."""
    t, s = NoiseLevel(0.6, 0.8), NoiseLevel(0.9, np.sqrt(1 - 0.81))
    zero, one = jnp.zeros(1), jnp.ones(1)
    for eta in (0.0, 0.3, 1.0):
        eps_share = ddim(t, s, zero, one, zero, eta)
        fresh_share = ddim(t, s, zero, zero, one, eta)
        np.testing.assert_allclose(eps_share**2 + fresh_share**2, s.sigma**2, rtol=10 * EPS)
    literal_step = literal.ddim(0.3, 0.7, -1.1, 0.4, *t, *s, 0.5)
    step = ddim(t, s, *(jnp.asarray([v]) for v in (0.7, -1.1, 0.4)), 0.5)
    np.testing.assert_allclose(step, literal_step, rtol=10 * EPS)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("make", [circular, lambda: many_blocks(3)], ids=["modes", "blocks"])
def test_exact_converges_to_the_posterior(make, eta):
    """W2^2 falls with the square of the number of steps.

    eta = 0 integrates an ordinary differential equation to first order, so every gain is off by
    O(1/S). eta = 1 misses a_t^2 Cov(x_0 | x_t, y) of variance per step, a_t = O(1/S), S times.
    Either way W2, linear in gaps of gains and standard deviations, is O(1/S) and W2^2 O(1/S^2).
    A straight path starts at alpha = 0, so the start adds nothing.
    """
    problem = make().problem
    losses = []
    for num_steps in (120, 240):
        guidance = {"eta": np.full(num_steps, eta)}
        transfer = total("exact")(problem, rectified_flow(num_steps), guidance)
        losses.append(float(wasserstein2(problem, transfer)))
        if eta == 1:  # DDPM with the exact conditional mean has the exact posterior mean
            ideal = ideal_posterior(problem).gain
            np.testing.assert_allclose(transfer.data_gain, ideal, rtol=0, atol=1e-12)
            np.testing.assert_allclose(transfer.offset, 0, rtol=0, atol=1e-12)
    orders = np.log2(np.array(losses[:-1]) / losses[1:])
    assert np.all(np.abs(orders - 2) < 0.2), orders
    assert losses[-1] < 1e-3


@pytest.mark.parametrize("name", ROWS)
def test_one_block_of_independent_modes(name):
    """Blocks and modes are one theory: a diagonal problem, told as one block."""
    problem, levels = circular().problem, vp_linear(NUM_STEPS)
    block_problem = make_problem(
        problem.spectrum[None],
        problem.response[None],
        problem.sigma_y,
        mean=problem.mean[None],
        basis=jnp.eye(12)[None],
    )
    guidance = random_guidance(name, 11)
    modes = total(name)(problem, levels, guidance)
    block = total(name)(block_problem, levels, guidance)
    for gain, matrix in zip(modes[:3], block[:3], strict=True):
        size = np.abs(gain).max()
        np.testing.assert_allclose(matrix[0], np.diag(gain), rtol=0, atol=1000 * EPS * size)
    size = np.abs(modes.offset).max()
    np.testing.assert_allclose(block.offset[0], modes.offset, rtol=0, atol=1000 * EPS * size)


def test_calls_of_the_denoiser():
    """Counted, not declared: Heun takes two a step, DAPS one for each node of its inner flow."""
    problem = circular().problem
    calls = {name: uses_of(ROWS[name].make(problem), problem).calls for name in ROWS}
    assert calls.pop("daps") == 5
    assert set(calls.values()) == {1}
    assert uses_of(exact(problem, "flow"), problem).calls == 2
    assert uses_of(daps(ode_steps=3), problem).calls == 3
    assert uses_of(dds(cg_steps=5), problem).calls == 1


def test_samplers_that_differentiate_the_denoiser():
    problem = circular().problem
    for name, row in ALL.items():
        if not name.startswith("exact"):  # which is of one problem, and asks no denoiser
            assert differentiates_denoiser(row.make(problem)) == row.jacobian, name


def test_amplification_of_an_estimate_of_the_clean_signal():
    """RED-diff's state is mu; what its denoiser gets is alpha mu + sigma eps."""
    problem, levels = circular().problem, vp_linear(NUM_STEPS)
    guidance = random_guidance("reddiff", 12)
    run = trajectory(ROWS["reddiff"].make(problem), problem, levels, guidance)
    # mu = H^+ y at first, so E (mu - mean)^2 = spectrum + (sigma_y / h)^2
    alpha, sigma = (np.asarray(leaf)[0] for leaf in levels)
    spectrum, h = np.asarray(problem.spectrum), np.asarray(problem.response)
    mu2 = spectrum + (float(problem.sigma_y) / h) ** 2
    ratio = (alpha**2 * mu2 + sigma**2) / (alpha**2 * spectrum + sigma**2)
    np.testing.assert_allclose(run.amplification[0], np.sqrt(ratio.max()), rtol=20 * EPS)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exact(circular().problem, "guess"),
        lambda: mpgd(scale=-1.0),
        lambda: dmps(variant="book"),
        lambda: tmpd(solver="rk4"),
        lambda: dds(cg_steps=0),
        lambda: freehunch(jacobian=-1.0),
        lambda: freehunch(jacobian=float("inf")),
        lambda: freehunch(jacobian="denoiser"),
        lambda: mcg(scale=float("nan")),
        lambda: dps(scale=float("inf")),
        lambda: dps(normalised="false"),
        lambda: dds(cg_steps=True),
        *(
            lambda name=name, bad=bad: SAMPLERS[name](threshold=bad)
            for name in ("ddnm", "ilvr", "mcg", "pigdm", "reddiff")
            for bad in (-1.0, "0.03")
        ),
        lambda: mcg(level="T"),
        lambda: ilvr(low_pass="none"),
        lambda: ilvr(level="T"),
        lambda: daps(variant="book"),
        lambda: daps(ode_steps=0),
        lambda: daps(langevin_steps=2.5),
    ],
)
def test_bad_options_of_samplers(call):
    """One line that names the option, its value and what is allowed."""
    with pytest.raises(InputError, match=r"^\w+ = .*: (allowed are|must be) "):
        call()
