"""The Jacobian of a whole trajectory, and Levenberg-Marquardt steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, random_guidance
from compiling import quick_compilation
from spectralpost.least_squares import (
    MAX_STEP,
    initial_search,
    levenberg_marquardt,
    linearise,
)

from spectralpost.metrics import wasserstein2, wasserstein2_residuals
from spectralpost.noise import NoiseLevel, rectified_flow, ve_karras, vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.exact import exact
from spectralpost.transfer import sampler_transfer, trajectory

STEPS, MODES = 6, 7


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


def small_problem(seed=0):
    """Random modes with means (so that offsets count) and one that is not measured at all."""
    rng = np.random.default_rng(seed)
    response = rng.uniform(0.1, 1, MODES)
    response[3] = 0
    return make_problem(
        rng.uniform(0.05, 2, MODES),
        response,
        0.3,
        mean=rng.normal(size=MODES),
        weight=rng.integers(1, 5, MODES),
    )


GRIDS = {
    "vp": vp_linear(STEPS),
    "ve": ve_karras(STEPS, sigma_max=5.0, sigma_min=0.1),
    "flow": rectified_flow(STEPS),
}


@pytest.mark.parametrize("name", ["dps", "pigdm", "diffpir", "exact"])
def test_jacobians_are_the_derivatives(name):
    """Of residuals and of growth, by every weight of every step, eta included, against forward
    differentiation of the whole trajectory.

    Equal up to rounding: 1e-10 of the largest entry is a million times eps, for six steps.
    """
    problem = small_problem()
    sampler = exact(problem) if name == "exact" else SAMPLERS[name]()
    free = tuple(sampler.constraint)

    @jax.jit
    def literally(levels, guidance):
        def values(guidance):
            run = trajectory(sampler, problem, levels, guidance)
            return wasserstein2_residuals(problem, run.total), jnp.log(run.amplification)

        return values(guidance), jax.jacfwd(values)(guidance)

    @jax.jit
    def quickly(levels, guidance):
        directions = {name: {name: jnp.ones((1, STEPS))} for name in free}
        return linearise(sampler, problem, levels, guidance, directions, wasserstein2_residuals)

    for levels in GRIDS.values():
        guidance = random_guidance(name, seed=1, num_steps=STEPS)
        expected = zip(*literally(levels, guidance), strict=True)
        for found, (values, jacobian) in zip(quickly(levels, guidance), expected, strict=True):
            atol = 1e-10 * np.abs(values).max()
            np.testing.assert_allclose(found.values, values, rtol=0, atol=atol)
            assert set(found.jacobian) == set(free)
            for weight in free:
                largest = np.abs(jacobian[weight]).max()
                assert largest > 0
                np.testing.assert_allclose(
                    found.jacobian[weight][0].T, jacobian[weight], rtol=0, atol=1e-10 * largest
                )


def test_residuals_are_those_of_the_distance_in_blocks():
    """Sum of squares == averaged W2^2 of the same modes as 1 x 1 blocks.

    Blocks go another way, through eigenvalues and the general Bures formula, which subtracts: its
    rounding error is a few eps of the sum of the variances.
    """
    problem = small_problem()
    guidance = random_guidance("dps", seed=2, num_steps=STEPS)
    run = partial(sampler_transfer, SAMPLERS["dps"]())
    residuals = wasserstein2_residuals(problem, run(problem, GRIDS["ve"], guidance))
    assert residuals.shape == (3 * MODES,)
    blocks = make_problem(
        problem.spectrum[:, None],
        problem.response[:, None],
        problem.sigma_y,
        mean=problem.mean[:, None],
        weight=problem.weight,
        basis=jnp.ones((MODES, 1, 1)),
    )
    distance = wasserstein2(blocks, run(blocks, GRIDS["ve"], guidance))
    variances = 3 * float(problem.spectrum.max())
    np.testing.assert_allclose(
        jnp.sum(residuals**2), distance, rtol=0, atol=100 * np.finfo(float).eps * variances
    )


# ------------------------------------------------------------------------------------------- steps


def iterate(residuals, start, iterations):
    """The searches after 1, 2, ... iterations."""

    @jax.jit
    def step(search):
        return levenberg_marquardt(
            search,
            lambda x: jnp.sum(residuals(x) ** 2),
            lambda x: (residuals(x), jax.jacfwd(residuals)(x)),
        )

    searches = [initial_search(jnp.asarray(start))]
    for _ in range(iterations):
        searches.append(step(searches[-1]))
    return searches[1:]


def losses_of(searches):
    return np.asarray([search.loss for search in searches])


def rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def test_search_starts_with_an_infinite_loss():
    search = initial_search(jnp.zeros(3, jnp.float32))
    assert search.loss == np.inf and search.damping == 1
    assert {leaf.dtype for leaf in search} == {jnp.dtype(jnp.float32)}


def test_linear_problem_is_solved():
    """Without curvature the damping can fall until a step is a Gauss-Newton step."""
    rng = np.random.default_rng(0)
    matrix, target = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=8))
    search = iterate(lambda x: matrix @ x - target, np.zeros(3), 20)[-1]
    expected, rest, *_ = np.linalg.lstsq(np.asarray(matrix), np.asarray(target))
    np.testing.assert_allclose(search.params, expected, rtol=1e-8)
    np.testing.assert_allclose(search.loss, rest[0], rtol=1e-12)


def test_rosenbrock_is_solved():
    """The curved valley from its classical start, in tens of iterations instead of thousands.

    The loss never rises, and after each iteration it is that of the parameters.
    """
    searches = iterate(rosenbrock, np.asarray([-1.2, 1.0]), 40)
    assert np.all(np.diff(losses_of(searches)) <= 0)
    for search in searches[:10]:
        np.testing.assert_allclose(search.loss, np.sum(rosenbrock(search.params) ** 2), rtol=1e-12)
    np.testing.assert_allclose(searches[-1].params, 1, rtol=1e-8)


def test_directions_without_effect_stay():
    """A zero column of the Jacobian must not make the system singular."""
    search = iterate(lambda x: jnp.stack([x[0] - 1, 2 * x[0]]), np.asarray([5.0, 7.0]), 20)[-1]
    np.testing.assert_allclose(search.params, [0.2, 7.0], rtol=1e-8)


def test_nothing_to_gain_anywhere():
    """All residuals constant: parameters, loss and damping stay finite."""
    search = iterate(lambda x: jnp.ones(2) + 0 * x, np.asarray([1.0, 2.0]), 10)[-1]
    np.testing.assert_array_equal(search.params, [1, 2])
    assert search.loss == 2 and np.isfinite(search.damping)


def test_steps_are_short():
    """A factor of 7 for a weight at most, however far away the minimum is."""
    search = iterate(lambda x: 1e-3 * (x - 100), np.zeros(1), 1)[-1]
    assert 0 < search.params[0] <= MAX_STEP


def test_unstable_trials_are_not_accepted():
    """Residuals that overflow or are NaN away from the start."""

    def residuals(x):
        return jnp.where(jnp.abs(x) > 0.5, jnp.nan, x - 1)

    searches = iterate(residuals, np.zeros(1), 10)
    assert np.all(np.isfinite(losses_of(searches)))
    assert np.all(np.diff(losses_of(searches)) <= 0)
    assert abs(searches[-1].params[0]) <= 0.5


# -------------------------------------------------------------- weights by mode, and noise levels


@pytest.mark.parametrize("name", ["dps", "diffpir", "reddiff"])
def test_jacobians_by_band_and_level(name):
    """Directions that differ by mode, and those of the levels that steps go from and to, in two
    ways each, against forward differentiation of the trajectory.

    RED-diff's state is an estimate of the clean signal, to which noise of the level is added.
    """
    problem, sampler = small_problem(), ALL[name].make(small_problem())
    weights = sorted(sampler.constraint)
    rng = np.random.default_rng(3)
    shape = (2, STEPS, MODES)
    rates = {weight: jnp.asarray(rng.uniform(0, 1, shape)) for weight in weights}
    # The start is not differentiated: the first level and the clean end stay.
    moving = np.asarray(rng.normal(size=(2, 2, STEPS + 1)))
    moving[:, :, [0, -1]] = 0
    levels_rates = NoiseLevel(*jnp.asarray(moving))  # [2, S + 1] each

    @jax.jit
    def literally(levels, guidance):
        def values(shift):
            along = lambda leaf, rate: leaf + shift["levels"] @ rate  # noqa: E731
            moved = jax.tree.map(along, levels, levels_rates)
            weight_of = {
                key: guidance[key] + jnp.einsum("ds,dsf->sf", shift[key], rates[key])
                for key in weights
            }
            run = trajectory(sampler, problem, moved, weight_of)
            return wasserstein2_residuals(problem, run.total), jnp.log(run.amplification)

        nothing = {key: jnp.zeros((2, STEPS)) for key in weights} | {"levels": jnp.zeros(2)}
        return values(nothing), jax.jacfwd(values)(nothing)

    @jax.jit
    def quickly(levels, guidance):
        directions = {key: {key: rates[key]} for key in weights}
        directions["from"] = {"t": jax.tree.map(lambda rate: rate[:, :-1], levels_rates)}
        directions["to"] = {"s": jax.tree.map(lambda rate: rate[:, 1:], levels_rates)}
        return linearise(sampler, problem, levels, guidance, directions, wasserstein2_residuals)

    low, high = np.asarray([ALL[name].ranges[key] for key in weights]).T
    for levels in (GRIDS["vp"], GRIDS["flow"]):
        guidance = {
            key: jnp.asarray(rng.uniform(low[i], high[i], (STEPS, MODES)))
            for i, key in enumerate(weights)
        }
        expected = zip(*literally(levels, guidance), strict=True)
        for found, (values, jacobian) in zip(quickly(levels, guidance), expected, strict=True):
            scale = np.abs(values).max()
            np.testing.assert_allclose(found.values, values, rtol=0, atol=1e-10 * scale)
            for key in weights:
                largest = np.abs(jacobian[key]).max()
                assert largest > 0
                np.testing.assert_allclose(
                    np.moveaxis(found.jacobian[key], 2, 0),
                    jacobian[key],
                    rtol=0,
                    atol=1e-10 * largest,
                )
            # all steps that a level belongs to move at once
            both = found.jacobian["from"].sum(axis=1) + found.jacobian["to"].sum(axis=1)
            largest = np.abs(jacobian["levels"]).max()
            assert largest > 0
            np.testing.assert_allclose(both.T, jacobian["levels"], rtol=0, atol=1e-10 * largest)
