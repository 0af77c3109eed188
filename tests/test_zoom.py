"""The least loss of one number or a few, where the loss has cliffs and narrow valleys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import circular

from spectralpost import SAMPLERS, evaluate, vp_linear
from spectralpost.learning import Search, learn
from spectralpost.learning.zoom import ENOUGH, look_everywhere

pytestmark = pytest.mark.usefixtures("quick")
REACH = np.log(1e4)


def found_by_zoom(losses, num=1):
    where, least = look_everywhere(losses, np.float64, np.zeros((1, num)), np.full(1, REACH))
    assert where.shape == (*least.shape, num)
    at = least[0].argmin()
    return where[0, at], least[0, at]


def test_a_narrow_valley_that_is_deeper_is_found():
    """Its floor is narrower than the spacing of the first grid, which sees its walls alone."""

    def losses(x):
        x = x[..., 0]
        return np.minimum(1 + (x - 1) ** 2, 0.5 + 60 * np.abs(x + 2.03))

    at = np.linspace(-REACH, REACH, 128)
    seen = losses(at[None, :, None])[0]
    assert 1.5 < seen[np.abs(at + 2.03) < 0.1].min() < 5  # above the other valley
    where, least = found_by_zoom(losses)
    assert abs(where[0] + 2.03) < ENOUGH and least < 0.5 + 60 * ENOUGH


def test_infinite_losses_and_several_numbers():
    nowhere = lambda x: np.full(x.shape[:2], np.inf)  # noqa: E731
    assert found_by_zoom(nowhere)[1] == np.inf
    bowl = lambda x: np.sum((x - [1, -0.5]) ** 2, axis=-1)  # noqa: E731
    np.testing.assert_allclose(found_by_zoom(bowl, 2)[0], [1, -0.5], atol=0.05)
    cliff = lambda x: np.where(x[..., 0] > 0.3, np.inf, -x[..., 0])  # noqa: E731
    assert found_by_zoom(cliff)[1] == pytest.approx(-0.3, abs=ENOUGH)


def test_a_narrow_valley_in_a_plane_is_found():
    """Of the first number, wherever the second is, which has its best value far from the centre."""

    def losses(x):
        x, y = x[..., 0], x[..., 1]
        return np.minimum(1 + (x - 1) ** 2, 0.5 + 60 * np.abs(x + 2.03)) + 0.1 * (y - 3) ** 2

    where, least = found_by_zoom(losses, 2)
    assert abs(where[0] + 2.03) < ENOUGH and least < 0.5 + 60 * ENOUGH
    assert abs(where[1] - 3) < ENOUGH**0.5


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_no_constant_of_a_fine_grid_is_better(steps):
    """DPS in few steps, whose deepest valley may be narrow."""
    sampler, levels = SAMPLERS["dps"](), vp_linear(steps)
    problem = circular((12,)).problem
    given = sampler.heuristic(problem, levels)

    @jax.jit
    def losses(zetas):
        one = lambda z: evaluate(sampler, problem, levels, given | {"zeta": jnp.full(steps, z)})  # noqa: E731
        return jax.lax.map(one, zetas, batch_size=64)

    fine = np.asarray(losses(np.exp(np.linspace(-REACH, REACH, 8192))))
    few = Search(starts=1, max_iterations=1, optimizer="adam")
    tuned = learn(sampler, problem, levels, search=few).baselines["tuned_constant"]
    assert tuned <= np.nanmin(fine) * (1 + 1e-5)
    more = learn(sampler, problem, levels, free=("zeta", "eta"), search=few)
    assert more.baselines["tuned_constant"] <= tuned * (1 + 1e-5)
