"""The Jacobian of a whole trajectory, against forward differentiation of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, random_guidance

from spectralpost.learning.jacobian import linearise
from spectralpost.metrics import wasserstein2, wasserstein2_residuals
from spectralpost.noise import NoiseLevel, rectified_flow, ve_karras, vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.exact import exact
from spectralpost.transfer import sampler_transfer, trajectory

STEPS, MODES = 6, 7

pytestmark = pytest.mark.usefixtures("quick")


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
