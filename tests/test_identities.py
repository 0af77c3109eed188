"""Exact identities between samplers: what two published updates share, they compute alike.

Each test compares two independent paths through the package (or one with a formula written out
here), on independent modes and in blocks. Bounds are those of rounding (`cases.rounding`: the
conditioning of the systems solved, step by step) unless a test says otherwise.
"""

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import dense
import jax
import jax.numpy as jnp
import literal
import numpy as np
import pytest
import scipy.linalg
from cases import (
    ALL,
    EPS,
    GRIDS,
    NUM_STEPS,
    ROWS,
    Affine,
    Twin,
    circular,
    expanded,
    literal_steps,
    many_blocks,
    one_block,
    random_guidance,
    rounding,
)

from spectralpost.affine import ModelDenoiser, Transfer, compose, solver
from spectralpost.algebra import congruence, identity_gain, root
from spectralpost.noise import NoiseLevel, step_pairs
from spectralpost.problem import Problem, ideal_posterior
from spectralpost.samplers.base import Measurement, Sampler, Step
from spectralpost.samplers.daps import _geometric, daps
from spectralpost.samplers.exact import exact
from spectralpost.samplers.freehunch import freehunch
from spectralpost.samplers.ilvr import ilvr
from spectralpost.samplers.mcg import mcg
from spectralpost.samplers.reddiff import reddiff
from spectralpost.samplers.steps import ddim_step, noise_estimate
from spectralpost.samplers.tmpd import tmpd
from spectralpost.transfer import start_transfer, step_transfer

pytestmark = pytest.mark.usefixtures("quick")

SHAPES: dict[str, Callable[[], Twin]] = {"modes": circular, "blocks": lambda: many_blocks(3)}
WIDER = {**SHAPES, "one block": lambda: one_block("blur, prior not stationary")}


def regular_levels(grid: str) -> NoiseLevel:
    """A grid of NUM_STEPS without its first level, where alpha is 0 or next to it: some formulas
    divide by it, and would leave no digits to compare."""
    return jax.tree.map(lambda leaf: leaf[1:], GRIDS[grid](NUM_STEPS + 1))


def make(which: str | Sampler, problem: Problem) -> Sampler:
    """A sampler by the name of its row, or the sampler itself."""
    return ALL[which].make(problem) if isinstance(which, str) else which


@functools.cache
def one_step(which: str | Sampler) -> Callable[..., Transfer]:
    """Compiled (problem, t, s, guidance_t) -> transfer of a step: once for any number of steps."""
    return jax.jit(lambda problem, *args: step_transfer(make(which, problem), problem, *args))


def run(
    which: str | Sampler, problem: Problem, levels: NoiseLevel, guidance: dict
) -> tuple[Transfer, Transfer]:
    """Total transfer and those of the steps [S, ...]; the total is composed of them and the start,
    as `sampler_transfer` is (which is tested elsewhere)."""
    level = each(levels)
    total, steps = start_transfer(make(which, problem), problem, level[0]), []
    for i, (t, s) in enumerate(pairwise(level)):
        weights = {name: np.asarray(values)[i] for name, values in guidance.items()}
        steps.append(one_step(which)(problem, t, s, weights))
        total = compose(total, steps[-1])
    return total, jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def each(levels: NoiseLevel) -> list[NoiseLevel]:
    """The levels of a grid one by one."""
    return [NoiseLevel(*map(jnp.asarray, pair)) for pair in zip(*levels, strict=True)]


def bounds(name: str, twin: Twin, levels: NoiseLevel, guidance: dict) -> tuple[float, float]:
    """Rounding of one step and of the whole sampler of a row."""
    step, whole = rounding(twin, levels, literal_steps(name, twin, levels, guidance))
    assert step < 1e-8 and whole < 1e-8  # the comparison must mean something
    return step, whole


def assert_equal(left: Transfer, right: Transfer, bound: float):
    for name, a, b in zip(Transfer._fields, left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)


def differ(left: Transfer, right: Transfer, by: float) -> bool:
    """What shows that an identity is not vacuous: a gain that is off by more than that."""
    return max(np.abs(np.asarray(a) - b).max() for a, b in zip(left, right, strict=True)) > by


def assert_same(left: tuple, right: tuple, within: tuple[float, float]):
    """(total, steps) of two samplers, within the bounds of one step and of the whole."""
    (total, steps), (other_total, other_steps) = left, right
    assert_equal(steps, other_steps, within[0])
    assert_equal(total, other_total, within[1])


def in_modes(twin: Twin, dense_map: Affine) -> tuple[np.ndarray, ...]:
    """A dense map of pixels in the coordinates of the closed forms: gains, covariance, offset."""
    A, B, Q, c = dense_map
    offset = c - twin.mu + B @ twin.H @ twin.mu
    return twin.V.T @ A @ twin.V, twin.V.T @ B @ twin.U, twin.V.T @ Q @ twin.V, twin.V.T @ offset


def unguided(twin: Twin, levels: NoiseLevel, shares, keeps: np.ndarray) -> list[Affine]:
    """Steps x_s = alpha_s x_hat + (share) keeps eps_hat + (share) z: dense matrices.

    `shares` are those of eps_hat and of z, [S] each; `keeps` [n, n] says which part of eps_hat.
    """
    n = len(twin.mu)
    alphas, sigmas = (np.asarray(leaf) for leaf in levels)
    steps = []
    for i, (kept, fresh) in enumerate(zip(*shares, strict=True)):
        J = literal.denoiser_jacobian(alphas[i], sigmas[i], twin.C)
        A = alphas[i + 1] * J + kept * keeps @ (np.eye(n) - alphas[i] * J) / sigmas[i]
        c = alphas[i + 1] * twin.mu - A @ (alphas[i] * twin.mu)
        steps.append(Affine(A, np.zeros_like(twin.H.T), fresh**2 * np.eye(n), c))
    return steps


def from_noise(steps: list[Affine], sigma_T: float) -> Affine:
    """The whole sampler, from x_T = sigma_T u."""
    n = len(steps[0].c)
    A, B, Q, c = sigma_T * np.eye(n), np.zeros_like(steps[0].B), np.zeros((n, n)), np.zeros(n)
    for step in steps:
        Q = step.A @ Q @ step.A.T + step.Q
        A, B, c = step.A @ A, step.A @ B + step.B, step.A @ c + step.c
    return Affine(A, B, Q, c)


# ------------------------------------------------------------------------------ the exact sampler


@pytest.mark.parametrize("shape", WIDER)
def test_tmpd_is_the_exact_sampler(shape):
    """Tweedie's covariance (sigma^2/alpha) J is Cov(x_0 | x_t), and weight 1 the exact mean.

    DDIM(eta) on it is the exact "score"; Heun's method, the exact "flow". On every grid.
    """
    twin, one = WIDER[shape](), np.ones(NUM_STEPS)
    eta = np.random.default_rng(0).uniform(size=NUM_STEPS)
    for grid in GRIDS:
        levels = regular_levels(grid)
        score = run("exact", twin.problem, levels, {"eta": eta})
        weights = {"weight": one, "eta": eta}
        tweedie = run("tmpd", twin.problem, levels, weights)
        assert_same(tweedie, score, bounds("exact", twin, levels, {"eta": eta}))
        weaker = run("tmpd", twin.problem, levels, {**weights, "weight": 0.9 * one})
        assert differ(weaker[0], score[0], by=1e-3)
        flow = run("exact, flow", twin.problem, levels, {})
        heun = run(tmpd(solver="heun"), twin.problem, levels, {"weight": one})
        assert_same(heun, flow, bounds("exact, flow", twin, levels, {}))
        assert differ(score[0], flow[0], by=1e-3)


@pytest.mark.parametrize("shape", WIDER)
def test_freehunch_is_the_exact_sampler(shape):
    """The data's covariance at level t is Cov(x_0 | x_t), and weight 1 the exact mean, by the
    denoiser's Jacobian and without; also at alpha = 0, where there is no Jacobian."""
    twin, one = WIDER[shape](), np.ones(NUM_STEPS)
    eta = np.random.default_rng(0).uniform(size=NUM_STEPS)
    weights = {"weight": one, "eta": eta}
    for make in GRIDS.values():
        levels = make(NUM_STEPS)
        score = run("exact", twin.problem, levels, {"eta": eta})
        bound = bounds("exact", twin, levels, {"eta": eta})
        hunch = run("freehunch", twin.problem, levels, weights)
        assert_same(hunch, score, bound)
        for other in ("freehunch, no Jacobian", "freehunch, Jacobian"):
            assert_same(run(other, twin.problem, levels, weights), score, bound)
        weaker = run("freehunch", twin.problem, levels, {**weights, "weight": 0.9 * one})
        assert differ(weaker[0], score[0], by=1e-3)
    for grid in GRIDS:
        levels = regular_levels(grid)
        flow = run("exact, flow", twin.problem, levels, {})
        heun = run(freehunch(solver="heun"), twin.problem, levels, {"weight": one})
        assert_same(heun, flow, bounds("exact, flow", twin, levels, {}))


@pytest.mark.parametrize("grid", GRIDS)
def test_ddim_0_is_euler_on_the_probability_flow(grid):
    """d(x/alpha) / d(sigma/alpha) = (x/alpha - D) / (sigma/alpha), for a nonlinear denoiser D.

    Both forms multiply and divide by alpha and sigma once: a few roundings of terms no larger than
    |x_t| sigma_s / sigma_t + |x_hat|, and of x_t / alpha_t times alpha_s where alpha_t is small.
    """
    rng = np.random.default_rng(0)
    for t, s in zip(*(each(level) for level in step_pairs(regular_levels(grid))), strict=True):
        x_t, z = jnp.asarray(rng.normal(size=12)), jnp.asarray(rng.normal(size=12))
        x_hat = jnp.tanh(x_t[::-1]) + 0.3
        eps_hat = noise_estimate(x_t, x_hat, t)
        x_s = ddim_step(Step(t, s, x_t, None, z, {}), x_hat, eps_hat, jnp.asarray(0.0))
        x, rho_t, rho_s = x_t / t.alpha, t.sigma / t.alpha, s.sigma / s.alpha
        euler = x + (rho_s - rho_t) * (x - x_hat) / rho_t
        size = np.abs(x).max() * s.alpha + np.abs(x_hat).max()
        np.testing.assert_allclose(x_s, s.alpha * euler, rtol=0, atol=20 * EPS * size)
        stochastic = ddim_step(Step(t, s, x_t, None, z, {}), x_hat, eps_hat, jnp.asarray(1.0))
        assert s.sigma == 0 or np.abs(stochastic - x_s).max() > 1e-3


def noisy_law(problem: Problem, level: NoiseLevel) -> Transfer:
    """The law of x_t given y, as a transfer from unit-normal noise: alpha_t x_0 + sigma_t eps."""
    ideal = ideal_posterior(problem)
    cov = level.alpha**2 * ideal.cov + level.sigma**2 * identity_gain(problem.spectrum)
    zero = jnp.zeros_like(cov)
    return Transfer(root(cov), level.alpha * ideal.gain, zero, jnp.zeros_like(problem.spectrum))


def laws(sampler: Sampler, problem: Problem, levels: NoiseLevel, weights: dict) -> list[Transfer]:
    """The law of the state given y at each level, from the true one at the first."""
    level = each(levels)
    found = [noisy_law(problem, level[0])]
    for t, s in pairwise(level):
        found.append(compose(found[-1], one_step(sampler)(problem, t, s, weights)))
    return found


def law_gap2(twin: Twin, law: Transfer, level: NoiseLevel) -> float:
    """W2^2 between a law given y and the true one of that level, averaged over y."""
    wanted = noisy_law(twin.problem, level)
    gap = expanded(twin.problem, np.asarray(law.data_gain) - wanted.data_gain)
    S_y = twin.U.T @ dense.measurement_covariance(twin.H, twin.C, twin.sigma_y) @ twin.U
    covs = [
        expanded(twin.problem, congruence(one.state_gain) + one.noise_cov) for one in (law, wanted)
    ]
    zero = np.zeros(len(twin.mu))
    return float(np.trace(gap @ S_y @ gap.T)) + dense.w2_squared(zero, covs[0], zero, covs[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_heun_is_second_order(shape):
    """W2 to the true law of level s falls like S^-2, W2^2 like S^-4, from the true law of level t.

    Between levels where the flow is smooth (sigma from 3 to 0.3, VE), so that nothing but the error
    of the method is left; Euler's method (DDIM(0)) is there for contrast, with S^-2.
    """
    twin = SHAPES[shape]()
    errors = {"score": [], "flow": []}
    for kind, found in errors.items():
        sampler = exact(twin.problem, kind)
        weights = {"eta": jnp.asarray(0.0)} if kind == "score" else {}
        for num_steps in (40, 80):
            levels = NoiseLevel(jnp.ones(num_steps + 1), jnp.geomspace(3, 0.3, num_steps + 1))
            end = laws(sampler, twin.problem, levels, weights)[-1]
            found.append(law_gap2(twin, end, each(levels)[-1]))
    # where the next term of W2 is c/S of the first, orders are off by c / (40 ln 2): c < 2.8
    for name, order in (("score", 2), ("flow", 4)):
        assert abs(np.log2(errors[name][0] / errors[name][1]) - order) < 0.1, (name, errors[name])
    # far above the rounding of the distance itself, about 1e-15 of the traces
    assert errors["flow"][1] > 1e-12
    assert errors["flow"][1] < errors["score"][1] / 100


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_has_no_discretisation_error(shape):
    """From the law of x_t given y every step leads to that of x_s, however few steps there are.

    On a rectified flow the start, pure noise, is the true law: the output is the posterior.
    """
    twin = SHAPES[shape]()
    kernel = exact(twin.problem, "kernel")
    for grid, num_steps in itertools.product(GRIDS, (1, 2, 5)):
        levels = GRIDS[grid](num_steps)
        _, bound = bounds("exact, kernel", twin, levels, {})
        assert bound < 1e-9
        found = laws(kernel, twin.problem, levels, {})
        for law, level in zip(found, each(levels), strict=True):
            truth = noisy_law(twin.problem, level)
            cov = congruence(law.state_gain) + law.noise_cov
            np.testing.assert_allclose(law.data_gain, truth.data_gain, rtol=0, atol=bound)
            np.testing.assert_allclose(cov, congruence(truth.state_gain), rtol=0, atol=bound)
        ideal = ideal_posterior(twin.problem)
        np.testing.assert_array_equal(truth.data_gain, ideal.gain)
        if grid == "rectified_flow":
            start = start_transfer(kernel, twin.problem, each(levels)[0])
            assert_equal(start, found[0], 0)


# ---------------------------------------------------------------------------------- DDNM and DDRM


def test_noiseless_ddnm_returns_the_inverse():
    """An invertible H leaves no null space: y / h at the clean end, whatever came before."""
    problem = circular().problem
    assert problem.response.min() > 0.03  # above the threshold of H^+
    for grid in GRIDS.values():
        levels, guidance = grid(NUM_STEPS), random_guidance("ddnm, noiseless", 1)
        total, steps = run("ddnm, noiseless", problem, levels, guidance)
        # x_hat + (y - h x_hat) / h: the state cancels up to roundings of x_hat, here below 1
        np.testing.assert_allclose(total.data_gain, 1 / problem.response, rtol=20 * EPS)
        np.testing.assert_allclose(total.state_gain, 0, atol=100 * EPS)
        np.testing.assert_allclose(total.noise_cov, 0, atol=(100 * EPS) ** 2)
        assert np.abs(steps.state_gain[0]).max() > 1e-3  # earlier steps do keep eps_hat


@pytest.mark.parametrize("shape", SHAPES)
def test_ddnm_plus_is_ddrm_with_eta_b_1(shape):
    """Step by step; the starts differ. DDRM with another eta_b is another sampler."""
    twin = SHAPES[shape]()
    for seed, grid in enumerate(GRIDS.values()):
        levels, guidance = grid(NUM_STEPS), random_guidance("ddnm", seed)
        _, plus = run("ddnm", twin.problem, levels, guidance)
        step_bound, _ = bounds("ddnm", twin, levels, guidance)
        for eta_b, equal in ((1.0, True), (0.7, False)):
            weights = {"eta_b": np.full(NUM_STEPS, eta_b), **guidance}
            _, restored = run("ddrm", twin.problem, levels, weights)
            if equal:
                assert_equal(plus, restored, step_bound)
            else:
                assert differ(plus, restored, by=1e-3)


def test_ddnm_plus_without_measurement_noise():
    """sigma_y -> 0: x_s = alpha_s y / h + sigma_s eps at every level but the clean one.

    There sigma_s = 0 is not above alpha_s sigma_y / h, so that the last step is unguided: out comes
    E[x_0 | x_t] at x_t = alpha_t y / h + sigma_t eps, not y / h. A mode with h = 0 takes DDNM's
    step of the prior at every level.
    """
    twin = circular()
    dead = 3
    problem = twin.problem._replace(
        response=twin.problem.response.at[dead].set(0), sigma_y=jnp.asarray(1e-9)
    )
    h, spectrum = np.asarray(problem.response), np.asarray(problem.spectrum)
    alive = h > 0
    for seed, grid in enumerate(GRIDS.values()):
        levels, guidance = grid(NUM_STEPS), random_guidance("ddnm", seed)
        alpha, sigma = (np.asarray(leaf) for leaf in levels)
        total, steps = run("ddnm", problem, levels, guidance)
        gain = alpha[:-1, None] * spectrum
        gain = gain / (alpha[:-1, None] * gain + sigma[:-1, None] ** 2)
        # the variance of the noise is sigma_s^2 - (alpha_s sigma_y / h)^2: 1e-18 / h^2 below
        informed = jax.tree.map(lambda leaf: np.asarray(leaf)[:-1, alive], steps)
        np.testing.assert_array_equal(informed.state_gain, 0)
        np.testing.assert_allclose(informed.data_gain, alpha[1:-1, None] / h[alive], rtol=10 * EPS)
        np.testing.assert_allclose(
            informed.noise_cov, np.broadcast_to(sigma[1:-1, None] ** 2, informed.noise_cov.shape),
            rtol=1e-13,
        )  # fmt: skip
        last = jax.tree.map(lambda leaf: np.asarray(leaf)[-1, alive], steps)
        np.testing.assert_allclose(last.state_gain, gain[-1, alive], rtol=10 * EPS)
        np.testing.assert_array_equal(last.data_gain, 0)
        np.testing.assert_array_equal(last.noise_cov, 0)
        np.testing.assert_allclose(
            total.data_gain[alive], (gain[-1] * alpha[-2])[alive] / h[alive], rtol=20 * EPS
        )
        assert differ(total.data_gain[None, alive], 1 / h[None, alive], by=1e-6)
        eps_share, fresh = ROWS["ddnm"].noise(levels, guidance)
        slope = (
            alpha[1:] * gain[:, dead] + eps_share * (1 - alpha[:-1] * gain[:, dead]) / sigma[:-1]
        )
        # 1 - alpha gain cancels where there is little noise: roundings of 1 / sigma_t
        np.testing.assert_allclose(steps.state_gain[:, dead], slope, rtol=10 * EPS, atol=1e-13)
        np.testing.assert_allclose(steps.noise_cov[:, dead], fresh**2, rtol=10 * EPS)


# ----------------------------------------------------------------------------- useless measurements

KNOWS_SIGMA_Y = (
    "exact",
    "pigdm",
    "diffpir",
    "dmps",
    "dmps, paper",
    "tmpd",
    "freehunch",
    "ddnm",
    "ddrm",
)


@pytest.mark.parametrize("name", KNOWS_SIGMA_Y)
@pytest.mark.parametrize("shape", SHAPES)
def test_useless_measurements_leave_the_prior_sampler(name, shape):
    """sigma_y -> infinity: the whole transfer, given y, is that of the base step alone.

    Not for DDNM+ and DDRM where h > 0: there (y - h x_hat) / sigma_y takes the place of eps_hat. It
    has its unit variance over y, but given y it is no noise at all: nothing of the state's noise is
    kept, and what is drawn afresh is all there is.
    """
    twin = SHAPES[shape]()
    problem = twin.problem._replace(sigma_y=jnp.asarray(1e30))  # effects of 1e-30: below rounding
    keeps = np.eye(len(twin.mu))
    if name in ("ddnm", "ddrm"):
        keeps = twin.V @ np.diag(np.ravel(problem.response) == 0).astype(float) @ twin.V.T
    for seed, grid in enumerate(GRIDS):
        levels, guidance = regular_levels(grid), random_guidance(name, seed)
        steps = unguided(twin, levels, ALL[name].noise(levels, guidance), keeps)
        A, _, Q, offset = in_modes(twin, from_noise(steps, float(levels.sigma[0])))
        _, bound = rounding(twin, levels, steps)
        total, _ = run(name, problem, levels, guidance)
        np.testing.assert_allclose(expanded(problem, total.state_gain), A, rtol=0, atol=bound)
        np.testing.assert_allclose(expanded(problem, total.noise_cov), Q, rtol=0, atol=bound)
        np.testing.assert_allclose(np.ravel(total.offset), offset, rtol=0, atol=bound)
        np.testing.assert_allclose(total.data_gain, 0, atol=1e-20)
        useful, _ = run(name, twin.problem, levels, guidance)
        assert np.abs(expanded(problem, useful.state_gain) - A).max() > 1e4 * bound


# --------------------------------------------------------------------------- PiGDM and DPS, DDS ...


@pytest.mark.parametrize("shape", SHAPES)
def test_pigdm_is_dps_where_the_measurement_noise_dominates(shape):
    """zeta = weight alpha_s alpha_t r_t^2 / (2 sigma_y^2), up to a relative r_t^2 h^2 / sigma_y^2.

    Exactly: the guidance of PiGDM is DPS's, each measured direction divided by
    1 + r_t^2 h^2 / sigma_y^2. All of r_t^2 are below 1.
    """
    twin, sigma_y = SHAPES[shape](), 1e3
    problem = twin.problem._replace(sigma_y=jnp.asarray(sigma_y))
    for seed, grid in enumerate(GRIDS):
        levels, guidance = regular_levels(grid), random_guidance("pigdm", seed)
        (alpha_t, sigma_t), (alpha_s, _) = (
            tuple(map(np.asarray, level)) for level in step_pairs(levels)
        )
        r2 = sigma_t**2 / (sigma_t**2 + alpha_t**2)
        zeta = guidance["weight"] * alpha_s * alpha_t * r2 / (2 * sigma_y**2)
        weights = {"zeta": zeta, "eta": guidance["eta"]}
        pigdm_total, pigdm_steps = run("pigdm", problem, levels, guidance)
        dps_total, dps_steps = run("dps", problem, levels, weights)
        h = np.asarray(problem.response)
        excess = (r2.reshape(-1, *[1] * h.ndim) * h**2) / sigma_y**2
        if problem.basis is not None:
            excess = excess[..., None, :]  # columns of a gain are measured directions
        np.testing.assert_allclose(
            pigdm_steps.data_gain * (1 + excess), dps_steps.data_gain, rtol=100 * EPS, atol=1e-22
        )
        # of numbers of size 1/sigma_y^2: five steps in a row add up five such errors
        gap = np.abs(np.asarray(pigdm_total.data_gain) - dps_total.data_gain).max()
        size = np.abs(np.asarray(dps_total.data_gain)).max()
        assert 1e-12 < gap / size < NUM_STEPS * h.max() ** 2 / sigma_y**2


@pytest.mark.parametrize("shape", WIDER)
def test_dds_is_the_data_step_of_diffpir(shape):
    """gamma = 1 / rho. With all noise fresh (eta = zeta = 1) the whole samplers agree."""
    twin, one = WIDER[shape](), np.ones(NUM_STEPS)
    for seed, grid in enumerate(GRIDS):
        levels, guidance = regular_levels(grid), random_guidance("diffpir", seed)
        alpha, sigma = (np.asarray(leaf)[:-1] for leaf in levels)
        gamma = 1 / (guidance["lambda_"] * (twin.sigma_y * alpha / sigma) ** 2)
        guidance["zeta"] = one
        diffpir_run = run("diffpir", twin.problem, levels, guidance)
        dds_run = run("dds", twin.problem, levels, {"gamma": gamma, "eta": one})
        assert_same(dds_run, diffpir_run, bounds("diffpir", twin, levels, guidance))
        # Kept noise tells them apart: eps_hat of x_hat' in DiffPIR, of x_hat in DDS.
        half = {"gamma": gamma, "eta": np.sqrt(0.5) * one}
        kept = run("diffpir", twin.problem, levels, {**guidance, "zeta": 0.5 * one})
        other = run("dds", twin.problem, levels, half)
        last = [jax.tree.map(lambda leaf: leaf[-1], run[1]) for run in (kept, other)]
        assert_equal(*last, bounds("diffpir", twin, levels, guidance)[0])  # sigma_s = 0: none kept
        assert differ(kept[0], other[0], by=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_dds_between_the_prior_and_ddnm(shape):
    """gamma = 0 is unguided, gamma -> infinity replaces the measured part: noiseless DDNM."""
    twin = SHAPES[shape]()
    h = np.asarray(twin.problem.response)
    assert np.all((h == 0) | (h > 0.03))  # nothing below the threshold of H^+
    for seed, grid in enumerate(GRIDS):
        levels, eta = regular_levels(grid), random_guidance("dds", seed)["eta"]
        hard = run("dds", twin.problem, levels, {"gamma": np.full(NUM_STEPS, 1e30), "eta": eta})
        replaced = run("ddnm, noiseless", twin.problem, levels, {"eta": eta})
        assert_same(hard, replaced, bounds("ddnm, noiseless", twin, levels, {"eta": eta}))
        off = {"gamma": np.zeros(NUM_STEPS), "eta": eta}
        total, _ = run("dds", twin.problem, levels, off)
        steps = unguided(twin, levels, ROWS["dds"].noise(levels, off), np.eye(len(twin.mu)))
        _, bound = rounding(twin, levels, steps)
        A, B, Q, offset = in_modes(twin, from_noise(steps, float(levels.sigma[0])))
        for gain, want in zip(total[:3], (A, B, Q), strict=True):
            np.testing.assert_allclose(expanded(twin.problem, gain), want, rtol=0, atol=bound)
        np.testing.assert_allclose(np.ravel(total.offset), offset, rtol=0, atol=bound)


@pytest.mark.parametrize("level", ["t", "s"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mcg_without_gradient_is_ilvr_with_a_projection(shape, level):
    """Weight 1 replaces the whole measured part; what it is replaced with is the same."""
    twin = SHAPES[shape]()
    problem, eta = twin.problem, np.random.default_rng(0).uniform(size=NUM_STEPS)
    if shape == "modes":  # some singular values that H^+ leaves out
        problem = problem._replace(response=problem.response.at[jnp.asarray([2, 10])].set(0.02))
    full = {"weight": np.ones(NUM_STEPS), "eta": eta}
    for grid in GRIDS.values():
        levels = grid(NUM_STEPS)
        ilvr_run = run(ilvr(low_pass="projection", level=level), problem, levels, full)
        mcg_run = run(mcg(level=level), problem, levels, {"zeta": 0 * eta, "eta": eta})
        # no system is solved: a few roundings a step of numbers up to the largest gain or noise
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(ilvr_run))
        assert_same(mcg_run, ilvr_run, (100 * EPS * largest,) * 2)
        partly = {"weight": 0.9 * full["weight"], "eta": eta}
        other = run(ilvr(low_pass="projection", level=level), problem, levels, partly)
        assert differ(other[0], mcg_run[0], by=1e-3)


def test_dmps_is_exact_for_a_prior_that_knows_nothing():
    """The paper's form with scale 1 and eta 1, for a flat prior: DDPM with E[x_0 | x_t, y].

    Then x_hat = x_t / alpha_t and Cov(x_0 | x_t) = (sigma_t / alpha_t)^2 I: DMPS's assumption. A
    prior variance of 1e30 is flat to rounding on all of these levels.
    """
    problem = circular().problem
    flat = problem._replace(spectrum=jnp.full_like(problem.spectrum, 1e30))
    one = np.ones(NUM_STEPS)
    for grid in GRIDS:
        levels = regular_levels(grid)
        total, steps = run("dmps, paper", flat, levels, {"scale": one, "eta": one})
        exact_total, exact_steps = run("exact", flat, levels, {"eta": one})
        # the gains of one step are those of x_t / alpha_t, and its errors multiply by them
        growth = np.prod(np.maximum(1, np.asarray(levels.alpha[1:] / levels.alpha[:-1])))
        bound = 100 * EPS * growth * float(levels.sigma[0])
        assert_equal(steps, exact_steps, bound)
        assert_equal(total, exact_total, bound * max(1, growth))
        informed, _ = run("dmps, paper", problem, levels, {"scale": one, "eta": one})
        exact_informed, _ = run("exact", problem, levels, {"eta": one})
        assert differ(informed, exact_informed, by=1e-3)


# ------------------------------------------------------------------------------- RED-diff and DAPS


def test_reddiff_is_the_official_gradient():
    """(sigma_t / alpha_t) (eps_hat - eps) = mu - x_hat for any denoiser, in one update."""
    problem, rng = circular().problem, np.random.default_rng(0)
    mu, y, eps = (jnp.asarray(rng.normal(size=12)) for _ in range(3))
    shift = jnp.asarray(rng.normal(size=12))

    def denoiser(x_t, level):
        return jnp.tanh(2 * x_t[::-1] + shift) / (1 + level.sigma)

    measurement = Measurement(problem.response, problem.sigma_y, jnp.linalg.norm, solver(problem))
    guidance_t = {"lr": jnp.asarray(0.3), "lambda_": jnp.asarray(0.7)}
    for grid in GRIDS:
        for t, s in zip(*(each(level) for level in step_pairs(regular_levels(grid))), strict=True):
            x_t = t.alpha * mu + t.sigma * eps
            eps_hat = (x_t - t.alpha * denoiser(x_t, t)) / t.sigma
            h = problem.response
            g = h * (h * mu - y) + 0.7 * (t.sigma / t.alpha) * (eps_hat - eps)
            got = reddiff().update(denoiser, measurement, Step(t, s, mu, y, eps, guidance_t))
            # eps_hat - eps cancels where sigma / alpha is small, mu - x_hat nowhere
            size = 1 + float(t.sigma / t.alpha)
            np.testing.assert_allclose(got, mu - 0.3 * g, rtol=0, atol=100 * EPS * size)


@pytest.mark.parametrize("shape", SHAPES)
def test_reddiff_converges_to_the_mean_of_its_gradient(shape):
    """At one level, many steps: (H^T H + lambda (I - alpha J)) mu = H^T y, and a little noise.

    2^16 steps by doubling. The noise left, of covariance D, obeys D = M D M + (lr lambda sigma J)^2
    with M = I - lr (H^T H + lambda (I - alpha J)): it falls with lr, the mean does not move.
    """
    twin, lr, lambda_ = SHAPES[shape](), 0.01, 0.5
    alpha, sigma = 0.8, 0.6
    t = NoiseLevel(jnp.asarray(alpha), jnp.asarray(sigma))
    guidance_t = {"lr": jnp.asarray(lr), "lambda_": jnp.asarray(lambda_)}
    steps = step_transfer(reddiff(), twin.problem, t, t, guidance_t)
    for _ in range(16):
        steps = compose(steps, steps)
    J = literal.denoiser_jacobian(alpha, sigma, twin.C)
    system = twin.H.T @ twin.H + lambda_ * (np.eye(len(twin.mu)) - alpha * J)
    M = np.eye(len(twin.mu)) - lr * system
    D = scipy.linalg.solve_discrete_lyapunov(M, (lr * lambda_ * sigma) ** 2 * J @ J.T)
    wanted = (0 * M, twin.V.T @ np.linalg.solve(system, twin.H.T) @ twin.U, twin.V.T @ D @ twin.V)
    # sums of 1/(lr smallest eigenvalue) terms, whose roundings add up
    bound = 100 * EPS / (lr * np.linalg.eigvalsh(system).min())
    for gain, want in zip(steps[:3], wanted, strict=True):
        np.testing.assert_allclose(expanded(twin.problem, gain), want, rtol=0, atol=bound)
    assert 0 < np.abs(D).max() < lr


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_daps_tends_to_the_stationary_law_of_its_langevin_steps(variant):
    """Many short steps at the last level: mean (c h y + x_hat / rho^2) / q, q = c h^2 + 1 / rho^2.

    c = 2 precision (the code) or precision (the paper). The variance is 2 lr / (1 - (1 - lr q)^2),
    1/q for lr -> 0. Of x_hat, the end of the probability flow, the exact slope is known:
    sqrt((C + 0.01^2) / (C + rho^2)); Euler's method gets there to first order.
    """
    problem, lr, precision = circular().problem, 1e-5, 500.0
    rho = 0.1
    t, s = (NoiseLevel(jnp.asarray(1.0), jnp.asarray(sigma)) for sigma in (rho, 0.0))
    guidance_t = {"lr": jnp.asarray(lr), "precision": jnp.asarray(precision)}
    h, spectrum = np.asarray(problem.response), np.asarray(problem.spectrum)
    c = (2 if variant == "code" else 1) * precision
    q = c * h**2 + 1 / rho**2
    slope = np.sqrt((spectrum + 0.01**2) / (spectrum + rho**2))
    errors = []
    for ode_steps in (10, 20):
        sampler = daps(variant=variant, ode_steps=ode_steps, langevin_steps=20_000)
        assert np.all((1 - lr * q) ** 20_000 < EPS)  # the start of the chain is forgotten
        step = one_step(sampler)(problem, t, s, guidance_t)
        # sums of 1 / (lr q) terms
        rtol = 10 * EPS / (lr * q.min())
        np.testing.assert_allclose(step.data_gain, c * h / q, rtol=rtol)
        np.testing.assert_allclose(step.noise_cov, 2 / (q * (2 - lr * q)), rtol=rtol)
        np.testing.assert_allclose(step.noise_cov, 1 / q, rtol=lr * q.max())
        errors.append(np.abs(step.state_gain * q * rho**2 - slope))
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.15)  # 2 + O(1/10)
    assert errors[1].max() < 0.02


@pytest.mark.parametrize("num", [1, 2, 3, 100])
def test_geometric_sums(num):
    """m^num and the sum of the powers below, at m = 1 too; against Python's exact fractions."""
    m = [-1.01, -0.5, 0.0, 0.3, 1.0]
    power, total = _geometric(jnp.asarray(m), num)
    for i, value in enumerate(m):
        powers = [Fraction(value) ** k for k in range(num + 1)]
        # doubling: two roundings a level, on partial sums that do not cancel more than their size
        size = float(sum(abs(p) for p in powers))
        np.testing.assert_allclose(power[i], float(powers[-1]), rtol=num * EPS, atol=0)
        np.testing.assert_allclose(total[i], float(sum(powers[:-1])), rtol=0, atol=20 * EPS * size)
    assert total[-1] == num
    assert (power[2], total[2]) == (0, 1)


# -------------------------------------------------------------------------------- the prior's mean


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_shift_by_the_mean(name, shape):
    """An update on signals with the mean is the shifted update on signals without it.

    x_t by alpha_t mean (the mean itself where the state is an estimate of x_0), y by H mean, x_s by
    alpha_s mean. Where a sampler says it is not equivariant this fails, by just its step's offset.
    """
    problem = SHAPES[shape]().problem
    sampler, guidance = ALL[name].make(problem), random_guidance(name, 0)
    measurement = Measurement(problem.response, problem.sigma_y, jnp.linalg.norm, solver(problem))
    rng = np.random.default_rng(1)
    x, y, eps = (jnp.asarray(rng.normal(size=problem.spectrum.shape)) for _ in range(3))
    mean = problem.mean
    levels = regular_levels("vp_linear")
    t, s = (each(level)[2] for level in step_pairs(levels))
    weights = {key: jnp.asarray(value[2]) for key, value in guidance.items()}

    centred, shifted = ModelDenoiser(problem), ModelDenoiser(problem, mean)

    def both(x, y, eps):
        def update(denoiser, x, y):
            return sampler.update(denoiser, measurement, Step(t, s, x, y, eps, weights))

        x_t, y_full = x + sampler.centre(t) * mean, y + problem.response * mean
        return (
            update(centred, x, y),
            update(shifted, x_t, y_full) - sampler.centre(s) * mean,
            step_transfer(sampler, problem, t, s, weights).offset,
        )

    relative, absolute, offset = jax.jit(both)(x, y, eps)
    # a few dozen roundings of numbers as large as the pull of y, at most 1/h and of order 10 here
    bound = 1000 * EPS * max(np.abs(relative).max(), np.abs(absolute).max(), 10)
    np.testing.assert_allclose(absolute - relative, offset, rtol=0, atol=bound)
    if sampler.equivariant:
        np.testing.assert_array_equal(offset, 0)
    else:
        assert np.abs(absolute - relative).max() > 1e-3
    assert sampler.equivariant == ALL[name].equivariant


# ---------------------------------------------------------------------------------- TMPD, row sums


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(12,), (4, 3)], ids=["1-D", "2-D"])
def test_row_sums_are_those_of_the_constant_component(shape, grid):
    """H J H^T 1 = h_0^2 J_0 1 on a stationary problem: against the dense row sums."""
    twin, levels = circular(shape), regular_levels(grid)
    constant = (float(twin.problem.response[0]), float(twin.problem.spectrum[0]))
    guidance = random_guidance("tmpd", 0)
    alphas, sigmas = (np.asarray(leaf) for leaf in levels)

    def literal_affine(part: slice, weights: dict, **options) -> Affine:
        dense_problem = (twin.H, twin.mu, twin.C, twin.sigma_y)
        return Affine(
            *literal.affine(
                "tmpd_row_sum", *dense_problem, alphas[part], sigmas[part], weights, **options
            )
        )

    total, steps = run(tmpd(row_sum=constant), twin.problem, levels, guidance)
    dense_steps = [
        literal_affine(
            slice(i, i + 2), {k: v[i : i + 1] for k, v in guidance.items()}, from_state=True
        )
        for i in range(NUM_STEPS)
    ]
    step_bound, bound = rounding(twin, levels, dense_steps)
    checks = [(total, literal_affine(slice(None), guidance), bound)]
    for i, step in enumerate(dense_steps):
        c = step.c + step.A @ (alphas[i] * twin.mu) - alphas[i + 1] * twin.mu + twin.mu
        one = jax.tree.map(lambda leaf, i=i: leaf[i], steps)
        checks.append((one, step._replace(c=c), step_bound))
    for transfer, dense_map, atol in checks:
        wanted = in_modes(twin, dense_map)
        for gain, want in zip(transfer[:3], wanted[:3], strict=True):
            np.testing.assert_allclose(expanded(twin.problem, gain), want, rtol=0, atol=atol)
        np.testing.assert_allclose(np.ravel(transfer.offset), wanted[3], rtol=0, atol=atol)
    full, _ = run("tmpd", twin.problem, levels, guidance)
    assert differ(total, full, by=1e-3)  # it damps other frequencies
