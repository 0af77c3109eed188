"""Transfer functions against the published algorithms, written out densely in pixels."""

import functools
import gc
import weakref

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
    TWINS,
    Affine,
    circular,
    expanded,
    literal_steps,
    literal_total,
    random_guidance,
    rounding,
    total_and_steps,
)

import spectralpost as sp
from spectralpost.affine import Transfer, compose, identity_transfer, solver
from spectralpost.errors import InputError
from spectralpost.learning import low_pass
from spectralpost.noise import NoiseLevel, rectified_flow, step_pairs, ve_karras, vp_linear
from spectralpost.prior import frequency
from spectralpost.problem import basis_matrix, denoise, make_problem
from spectralpost.samplers import SAMPLERS, make_sampler
from spectralpost.samplers.base import Measurement, Step, check_guidance
from spectralpost.samplers.dps import dps
from spectralpost.samplers.exact import exact
from spectralpost.transfer import (
    Leeway,
    divides_by_norms,
    mean_field_norms,
    sampler_transfer,
    start_transfer,
    step_transfer,
    trajectory,
)

pytestmark = pytest.mark.usefixtures("quick")

# alpha_T is 0 on one grid and 6e-5 on another: gains of 10^4 would leave no digits to compare.
DIVIDE_BY_ALPHA = ("dmps", "dmps, paper", "exact, flow", "daps")


def test_every_sampler_has_a_row():
    """The row is the price of entry: without one a sampler would go untested."""
    assert set(ROWS) == set(SAMPLERS)
    for row in ALL.values():
        assert row.literal in literal.STEPS


def test_the_twins_are_twins():
    """The dense H and C are diagonal (block-diagonal) in the coordinates given: check the cases."""
    for twin in (make() for make in TWINS.values()):
        problem, (m, n) = twin.problem, twin.H.shape
        np.testing.assert_allclose(twin.V.T @ twin.V, np.eye(n), atol=n * EPS * 10)
        np.testing.assert_allclose(
            twin.H @ twin.V, twin.U * np.ravel(problem.response), atol=n * EPS * 10
        )
        seen = np.abs(twin.U).max(axis=0) > 0
        assert seen.sum() == m
        np.testing.assert_allclose(twin.U[:, seen].T @ twin.U[:, seen], np.eye(m), atol=1e-14)
        if problem.basis is None:
            prior = np.diag(problem.spectrum)
        else:
            basis = np.asarray(basis_matrix(problem))
            prior = (basis * np.asarray(problem.spectrum)[:, None, :]) @ basis.mT
            prior = expanded(problem, prior)
        np.testing.assert_allclose(twin.V.T @ twin.C @ twin.V, prior, atol=n * EPS * 10)


def assert_same_transfer(twin, transfer: Transfer, literal_map: Affine, bound: float):
    """All of V^T (A, B, Q, c) U, off-diagonals (off-blocks) included, within the rounding bound."""
    A, B, Q, c = literal_map
    shifted = c - twin.mu + B @ twin.H @ twin.mu
    wanted = (twin.V.T @ A @ twin.V, twin.V.T @ B @ twin.U, twin.V.T @ Q @ twin.V)
    gains = (transfer.state_gain, transfer.data_gain, transfer.noise_cov)
    for name, gain, want in zip(Transfer._fields, gains, wanted, strict=False):
        np.testing.assert_allclose(
            expanded(twin.problem, gain), want, rtol=0, atol=bound, err_msg=name
        )
    np.testing.assert_allclose(
        np.ravel(transfer.offset), twin.V.T @ shifted, rtol=0, atol=bound, err_msg="offset"
    )


@pytest.mark.parametrize("shape", TWINS)
@pytest.mark.parametrize("name", ALL)
def test_transfer_is_the_literal_algorithm(name, shape):
    """Whole sampler and every step, on every grid, with random weights and a non-zero mean."""
    twin = TWINS[shape]()
    sampler = ALL[name].make(twin.problem)
    for seed, (grid, make) in enumerate(GRIDS.items()):
        levels, guidance = make(NUM_STEPS), random_guidance(name, seed)
        if name in DIVIDE_BY_ALPHA:
            levels = jax.tree.map(lambda leaf: leaf[1:], make(NUM_STEPS + 1))
        total, steps = total_and_steps(name)(twin.problem, levels, guidance)
        steps = jax.tree.map(np.asarray, steps)
        dense_steps = literal_steps(name, twin, levels, guidance)
        step_bound, bound = rounding(twin, levels, dense_steps)
        whole = literal_total(name, twin, levels, guidance)
        # the bound must mean something: 1e-9 of the largest gain
        assert bound < 1e-9 * np.abs(whole.A).max() + 1e-9 * np.abs(whole.B).max(), grid
        assert_same_transfer(twin, total, whole, bound)
        for i, step in enumerate(dense_steps):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], steps)
            if sampler.equivariant:
                np.testing.assert_array_equal(one.offset, 0)
            # A step maps x_t - alpha_t mean: its literal offset must be the one in that form.
            centres = sampler.centre(NoiseLevel(*map(np.asarray, levels)))
            c = step.c + step.A @ (centres[i] * twin.mu) - centres[i + 1] * twin.mu
            relative = step._replace(c=c + twin.mu)
            assert_same_transfer(twin, one, relative, step_bound)


def dense_low_pass(shape: tuple[int, ...], cutoff: float) -> np.ndarray:
    """P [n, n]: away with the Fourier coefficients at and above the cutoff, in cycles per pixel."""
    axes = np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")
    passes, n = np.hypot(axes[0], axes[-1] if len(shape) == 2 else 0) < cutoff, np.prod(shape)
    signals = np.fft.fftn(np.eye(n).reshape(n, *shape), axes=range(1, len(shape) + 1))
    out = np.fft.ifftn(passes * signals, axes=range(1, len(shape) + 1))
    np.testing.assert_allclose(out.imag, 0, atol=EPS)
    return out.real.reshape(n, n).T


@pytest.mark.parametrize("shape", [(12,), (4, 3)])
def test_low_pass_is_the_literal_algorithm_on_a_filtered_residual(shape):
    """FGPS: literal DPS with grad ||P_i (y - H x_hat)||^2, as P_i y measured by P_i H."""
    twin, levels, whole = circular(shape), vp_linear(NUM_STEPS), random_guidance("dps", 0)
    cutoffs = np.linspace(0, 0.55, NUM_STEPS)  # from nothing on, not even the mean
    alphas, sigmas = map(np.asarray, levels)
    n, steps = len(twin.mu), []
    law = Affine(sigmas[0] * np.eye(n), np.zeros((n, n)), np.zeros((n, n)), np.zeros(n))
    for i, cutoff in enumerate(cutoffs):
        P = dense_low_pass(shape, cutoff)
        at = slice(i, i + 2)
        weights = {name: values[i : i + 1] for name, values in whole.items()}
        known = (P @ twin.H, twin.mu, twin.C, twin.sigma_y, alphas[at], sigmas[at], weights)
        A, B, Q, c = literal.affine("dps", *known, from_state=True)
        steps.append(Affine(A, B @ P, Q, c))
        law = Affine(A @ law.A, A @ law.B + B @ P, A @ law.Q @ A.T + Q, A @ law.c + c)
    windowed = low_pass(whole, frequency(shape), cutoffs)
    assert windowed["zeta"].shape == (NUM_STEPS, n)
    total, _ = total_and_steps("dps")(twin.problem, levels, windowed)
    _, bound = rounding(twin, levels, steps)
    assert_same_transfer(twin, total, law, bound)
    open_, _ = total_and_steps("dps")(twin.problem, levels, whole)  # or the filter does nothing
    assert np.abs(total.data_gain - open_.data_gain).max() > 0.01


# ------------------------------------------------------------------------------------- composition


def random_transfer(seed: int, blocks: bool) -> Transfer:
    rng = np.random.default_rng(seed)
    shape = (3, 4, 4) if blocks else (5,)
    gains = rng.normal(size=(3, *shape))
    root = gains[2]
    noise_cov = root @ root.mT if blocks else root**2
    offset = rng.normal(size=shape[:-1] if blocks else shape)
    return Transfer(*map(jnp.asarray, (gains[0], gains[1], noise_cov, offset)))


def assert_close(left: Transfer, right: Transfer, rtol: float):
    for name, a, b in zip(Transfer._fields, left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("blocks", [False, True])
def test_compose_is_a_monoid(blocks):
    """Associative with a neutral element: prefixes, suffixes and totals are one type."""
    a, b, c = (random_transfer(seed, blocks) for seed in range(3))
    # products of three matrices of size 4: a few dozen roundings
    assert_close(compose(compose(a, b), c), compose(a, compose(b, c)), 100 * EPS)
    signal = np.ones(a.offset.shape)
    basis = np.broadcast_to(np.eye(4), (3, 4, 4)) if blocks else None
    neutral = identity_transfer(make_problem(signal, signal, 1.0, basis=basis))
    assert_close(compose(a, neutral), a, EPS)
    assert_close(compose(neutral, a), a, EPS)
    with pytest.raises(AssertionError):  # order matters, so the laws above are not vacuous
        assert_close(compose(a, b), compose(b, a), 1e-3)


@pytest.mark.parametrize("shape", ["1-D", "four blocks, decimate 3"])
def test_scan_is_a_loop_and_an_associative_scan(shape):
    """Three ways to multiply the same steps."""
    problem, levels = TWINS[shape]().problem, GRIDS["ve_karras"](NUM_STEPS)
    guidance = random_guidance("pigdm", 0)
    total, jax_steps = total_and_steps("pigdm")(problem, levels, guidance)
    steps = jax.tree.map(np.asarray, jax_steps)
    start = start_transfer(
        ROWS["pigdm"].make(problem), problem, NoiseLevel(*(v[0] for v in levels))
    )
    law = start
    for i in range(NUM_STEPS):
        law = compose(law, jax.tree.map(lambda leaf, i=i: leaf[i], steps))
    assert_close(total, law, 100 * NUM_STEPS * EPS)
    prefixes = jax.jit(lambda s: jax.lax.associative_scan(jax.vmap(compose), s))(jax_steps)
    last = jax.tree.map(lambda leaf: np.asarray(leaf)[-1], prefixes)
    assert_close(total, compose(start, last), 100 * NUM_STEPS * EPS)


def test_start_draws_around_zero():
    """x_T = sigma_T u misses alpha_T mean, the one place where the prior mean re-enters."""
    twin, level = circular(), NoiseLevel(jnp.asarray(0.6), jnp.asarray(0.8))
    start = start_transfer(ROWS["dps"].make(twin.problem), twin.problem, level)
    np.testing.assert_allclose(start.state_gain, 0.8)
    np.testing.assert_array_equal(start.data_gain, 0)
    np.testing.assert_array_equal(start.noise_cov, 0)
    np.testing.assert_allclose(start.offset, -0.6 * twin.problem.mean, rtol=EPS)


def test_guidance_must_fit():
    """A missing, unknown or short schedule is the user's most likely mistake."""
    levels, sampler = vp_linear(4), make_sampler("dps")
    good = {"zeta": np.ones(4), "eta": np.ones(4)}
    check_guidance(sampler, levels, good)
    for bad, message in (
        ({"zeta": np.ones(4)}, "needed are"),
        ({**good, "scale": np.ones(4)}, "needed are"),
        ({**good, "eta": np.ones(3)}, "one weight per step"),
        ({**good, "eta": np.float64(1)}, "one weight per step"),
    ):
        with pytest.raises(InputError, match=message):
            check_guidance(sampler, levels, bad)
        with pytest.raises(InputError, match=message):
            sampler_transfer(sampler, circular().problem, levels, bad)


GOOD = {"zeta": np.full(3, 0.2), "eta": np.ones(3)}
ASKED = {
    "sampler_transfer": lambda problem, levels, guidance: sampler_transfer(
        make_sampler("dps"), problem, levels, guidance
    ),
    "evaluate": lambda problem, levels, guidance: sp.evaluate(
        make_sampler("dps"), problem, levels, guidance
    ),
    "plateau": lambda problem, levels, guidance: sp.plateau(
        make_sampler("dps"), problem, levels, guidance
    ),
    "sensitivity": lambda problem, levels, guidance: sp.sensitivity(
        make_sampler("dps"), problem, levels, guidance, ("zeta",)
    ),
    "loss_and_gradient": lambda problem, levels, guidance: sp.loss_and_gradient(
        make_sampler("dps"), problem, levels, guidance, ("zeta",)
    ),
    "to_literal": lambda problem, levels, guidance: sp.to_literal(
        make_sampler("dps"), problem, levels, guidance
    ),
    "evaluate_exact": lambda problem, levels, guidance: sp.evaluate_exact(
        problem, levels, guidance["eta"]
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_whoever_takes_a_schedule_checks_it(name):
    """Levels that are no grid, and weights that a sampler cannot have, compiled or not; plain lists
    are arrays."""
    ask, problem, levels = ASKED[name], circular().problem, vp_linear(3)
    first = jax.tree.leaves(ask(problem, levels, GOOD))
    again = jax.tree.leaves(ask(problem, levels, {key: one.tolist() for key, one in GOOD.items()}))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    stuck = NoiseLevel(np.array([0.1, 0.5, 0.5, 1.0]), np.array([0.9, 0.5, 0.5, 0.0]))
    for bad in (NoiseLevel(*(one[::-1] for one in levels)), stuck):
        with pytest.raises(InputError, match="levels"):
            ask(problem, bad, GOOD)
        with pytest.raises(InputError, match="levels"):
            sp.heuristic(make_sampler("dps"), problem, bad)
    weight = "eta" if name == "evaluate_exact" else "zeta"
    with pytest.raises(InputError, match=rf"guidance\.{weight}: all values must be finite"):
        ask(problem, levels, GOOD | {weight: np.array([-1.0, 0.2, 0.3])})


def test_one_step_names_the_weight_that_it_lacks():
    t, s = NoiseLevel(0.6, 0.8), NoiseLevel(0.8, 0.6)
    with pytest.raises(InputError, match=r"\['eta', 'zeta'\]"):
        step_transfer(make_sampler("dps"), circular().problem, t, s, {"zeta": 1.0})


def test_what_a_sampler_closes_over_is_not_kept():
    """`exact` knows a whole problem: it goes with it."""
    gone = []
    for i in range(3):
        problem = sp.make_problem(np.full(10, i + 1.0), np.ones(10), 0.1)
        sampler = exact(problem)
        assert sp.evaluate_exact(problem, vp_linear(2), np.zeros(2)) > 0
        assert not divides_by_norms(sampler, problem)
        gone.append(weakref.ref(sampler))
        del sampler, problem
    gc.collect()
    assert [one() for one in gone] == [None] * 3


def test_make_sampler_errors():
    with pytest.raises(InputError, match="allowed are exact"):
        make_sampler("ddpm")
    with pytest.raises(InputError, match="options"):
        make_sampler("dps", strength=1.0)


# -------------------------------------------------------------------------- mean-field closed form


@functools.cache
def closure():
    """Compiled (problem, levels, guidance) -> trajectory of dps(normalised=True)."""
    return jax.jit(functools.partial(trajectory, dps(normalised=True)))


def closure_run(shape: str):
    """A twin, its grid, its weights, and the closed form of normalised DPS on it."""
    twin, levels = TWINS[shape](), ve_karras(NUM_STEPS, sigma_max=3.0, sigma_min=0.1)
    rng = np.random.default_rng(0)
    guidance = {"scale": rng.uniform(0.3, 1.5, NUM_STEPS), "eta": rng.uniform(size=NUM_STEPS)}
    run = closure()(twin.problem, levels, guidance)
    assert run.norms.shape == (NUM_STEPS, 1)
    zeta = guidance["scale"] / (2 * np.asarray(run.norms)[:, 0])
    return twin, levels, {"zeta": zeta, "eta": guidance["eta"]}, run


def literal_path(
    twin, levels: NoiseLevel, guidance: dict, below: float = 0.0, times: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Per step of literal DPS: sqrt(E ||y - H x_hat||^2), and the worst amplification along an
    eigenvector of the prior, of those of less variance than `below` divided by `times`.

    With w = y - H mu and x_t - alpha_t mu = A u + B w + b + N(0, Q):
    r = w - H J (x_t - alpha_t mu).
    """
    n, basis = len(twin.mu), twin.problem.basis
    basis = None if basis is None else basis_matrix(twin.problem)
    S_y = dense.measurement_covariance(twin.H, twin.C, twin.sigma_y)
    alphas, sigmas = (np.asarray(leaf) for leaf in levels)
    E = twin.V if basis is None else twin.V @ scipy.linalg.block_diag(*np.asarray(basis))
    A, B, Q = sigmas[0] * np.eye(n), np.zeros(twin.H.T.shape), np.zeros((n, n))
    b = -alphas[0] * twin.mu
    norms, amplifications = [], []
    for i, step in enumerate(literal_steps("dps", twin, levels, guidance)):
        HJ = twin.H @ literal.denoiser_jacobian(alphas[i], sigmas[i], twin.C)
        gain = np.eye(len(twin.H)) - HJ @ B
        cov = gain @ S_y @ gain.T + HJ @ (A @ A.T + Q) @ HJ.T
        norms.append(np.sqrt(np.trace(cov) + np.sum((HJ @ b) ** 2)))
        power = A @ A.T + B @ S_y @ B.T + Q + np.outer(b, b)
        clean = alphas[i] ** 2 * twin.C + sigmas[i] ** 2 * np.eye(n)
        ratio = np.diag(E.T @ power @ E) / np.diag(E.T @ clean @ E)
        weak = np.diag(E.T @ twin.C @ E) < below
        amplifications.append(np.max(np.sqrt(ratio) / np.where(weak, times, 1)))
        A, B, Q, b = step.A @ A, step.A @ B + step.B, step.A @ Q @ step.A.T + step.Q, step.A @ b
    return np.array(norms), np.array(amplifications)


@pytest.mark.parametrize("shape", TWINS)
def test_mean_field_norms_are_root_mean_squares(shape):
    """R_t against E ||r||^2 by dense matrices, in the measurement's own m pixels."""
    twin, levels, guidance, run = closure_run(shape)
    norms, _ = literal_path(twin, levels, guidance)
    np.testing.assert_allclose(run.norms[:, 0], norms, rtol=1e-11)


@pytest.mark.parametrize("shape", TWINS)
def test_amplification_is_a_ratio_of_root_mean_squares(shape):
    """How far the states leave what the denoiser was made for, worst mode, by dense matrices."""
    twin, levels, guidance, run = closure_run(shape)
    _, amplifications = literal_path(twin, levels, guidance)
    np.testing.assert_allclose(run.amplification, amplifications, rtol=1e-11)


@pytest.mark.parametrize("shape", TWINS)
def test_amplification_of_weak_modes_may_count_less(shape):
    twin, levels, guidance, run = closure_run(shape)
    below, times = 0.999 * np.max(twin.problem.spectrum), 1.5
    _, amplifications = literal_path(twin, levels, guidance, below, times)
    held = trajectory(dps(), twin.problem, levels, guidance, Leeway(below, times))
    np.testing.assert_allclose(held.amplification, amplifications, rtol=1e-11)
    assert np.any(amplifications < 0.99 * run.amplification)


@pytest.mark.parametrize("shape", TWINS)
def test_normalised_dps_is_squared_dps_with_converted_weights(shape):
    """zeta = scale / (2 R_t) is exactly the same sampler."""
    twin, levels, guidance, run = closure_run(shape)
    squared, _ = total_and_steps("dps")(twin.problem, levels, guidance)
    assert_close(run.total, squared, 100 * NUM_STEPS * EPS)


def test_heuristic_of_dps_is_the_converted_official_scale():
    """Schedules are learned in zeta and published as scale: the mean-field norm converts."""
    problem, levels = circular().problem, vp_linear(NUM_STEPS)
    official = dps(scale=0.7, normalised=True).heuristic(problem, levels)
    np.testing.assert_array_equal(official["scale"], 0.7)
    np.testing.assert_array_equal(official["eta"], 1.0)
    norms = closure()(problem, levels, official).norms
    same = mean_field_norms(dps(normalised=True), problem, levels, official)
    np.testing.assert_allclose(same, norms, rtol=100 * EPS)
    converted = dps(scale=0.7).heuristic(problem, levels)
    np.testing.assert_allclose(converted["zeta"], 0.7 / (2 * norms[:, 0]), rtol=100 * EPS)
    np.testing.assert_array_equal(converted["eta"], 1.0)


def test_norm_is_of_all_planes():
    """Three planes share one norm, sqrt(3) larger: scale sqrt(3) undoes it."""
    problem, levels = circular().problem, rectified_flow(NUM_STEPS)
    three = problem._replace(weight=3 * problem.weight)
    scale, eta = np.linspace(0.5, 2.0, NUM_STEPS), np.full(NUM_STEPS, 0.5)
    one_plane, norms, _ = closure()(problem, levels, {"scale": scale, "eta": eta})
    three_planes, norms3, _ = closure()(three, levels, {"scale": np.sqrt(3) * scale, "eta": eta})
    np.testing.assert_allclose(norms3, np.sqrt(3) * norms, rtol=100 * EPS)
    assert_close(three_planes, one_plane, 1000 * EPS)


def test_step_transfer_takes_the_norm_it_is_given():
    """`norms` replaces measurement.norm: the step with norm R is squared DPS with scale / 2 R."""
    problem, levels = circular().problem, vp_linear(NUM_STEPS)
    t, s = (jax.tree.map(lambda leaf: leaf[2], level) for level in step_pairs(levels))
    scale, eta, norm = jnp.asarray(0.8), jnp.asarray(0.3), jnp.asarray(1.7)
    given = step_transfer(
        dps(normalised=True), problem, t, s, {"scale": scale, "eta": eta}, (norm,)
    )
    squared = step_transfer(dps(), problem, t, s, {"zeta": scale / (2 * norm), "eta": eta})
    assert_close(given, squared, 100 * EPS)


@pytest.mark.parametrize("shape", ["1-D", "four blocks, decimate 3"])
def test_normalised_update_is_the_literal_one(shape):
    """Not affine, so no transfer: one step with the real norm, from a point, in pixels."""
    twin, levels = TWINS[shape](), vp_linear(NUM_STEPS)
    problem, (m, n) = twin.problem, twin.H.shape
    rng = np.random.default_rng(0)
    x_t, y, z = rng.normal(size=n), rng.normal(size=m), rng.normal(size=n)
    t, s = (jax.tree.map(lambda leaf: leaf[2], level) for level in step_pairs(levels))
    weights = {"scale": 0.8, "eta": 0.3}
    wanted = literal.step_dps_normalised(
        x_t, y, z, *map(float, t), *map(float, s), weights, twin.H, twin.mu, twin.C, twin.sigma_y
    )
    relative = (
        (x_t - float(t.alpha) * twin.mu) @ twin.V,
        (y - twin.H @ twin.mu) @ twin.U,
        z @ twin.V,
    )
    x_s = dps(normalised=True).update(
        functools.partial(denoise, problem),
        Measurement(problem.response, problem.sigma_y, jnp.linalg.norm, solver(problem)),
        Step(
            t,
            s,
            *(jnp.asarray(part.reshape(problem.spectrum.shape)) for part in relative),
            weights,
        ),
    )
    got = twin.V @ np.ravel(x_s) + float(s.alpha) * twin.mu
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1000 * EPS * np.abs(wanted).max())
