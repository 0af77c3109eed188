"""One iteration of Levenberg-Marquardt, on sums of squares whose minimum is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectralpost.learning.levenberg_marquardt import MAX_STEP, begin, iterate

pytestmark = pytest.mark.usefixtures("quick")


def descend(residuals, start, iterations):
    """The states after 1, 2, ... iterations."""

    @jax.jit
    def step(descent):
        return iterate(
            descent,
            lambda x: jnp.sum(residuals(x) ** 2),
            lambda x: (residuals(x), jax.jacfwd(residuals)(x)),
        )

    descents = [begin(jnp.asarray(start))]
    for _ in range(iterations):
        descents.append(step(descents[-1]))
    return descents[1:]


def losses_of(descents):
    return np.asarray([descent.loss for descent in descents])


def rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def test_descent_starts_with_an_infinite_loss():
    descent = begin(jnp.zeros(3, jnp.float32))
    assert descent.loss == np.inf and descent.damping == 1
    chex.assert_type(list(descent), jnp.float32)


def test_linear_problem_is_solved():
    """Without curvature the damping can fall until a step is a Gauss-Newton step."""
    rng = np.random.default_rng(0)
    matrix, target = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=8))
    descent = descend(lambda x: matrix @ x - target, np.zeros(3), 20)[-1]
    expected, rest, *_ = np.linalg.lstsq(np.asarray(matrix), np.asarray(target))
    np.testing.assert_allclose(descent.vector, expected, rtol=1e-8)
    np.testing.assert_allclose(descent.loss, rest[0], rtol=1e-12)


def test_rosenbrock_is_solved():
    """The curved valley from its classical start, in tens of iterations instead of thousands.

    The loss never rises, and after each iteration it is that of the parameters.
    """
    descents = descend(rosenbrock, np.asarray([-1.2, 1.0]), 40)
    assert np.all(np.diff(losses_of(descents)) <= 0)
    for descent in descents[:10]:
        np.testing.assert_allclose(
            descent.loss, np.sum(rosenbrock(descent.vector) ** 2), rtol=1e-12
        )
    np.testing.assert_allclose(descents[-1].vector, 1, rtol=1e-8)


def test_directions_without_effect_stay():
    """A zero column of the Jacobian must not make the system singular."""
    descent = descend(lambda x: jnp.stack([x[0] - 1, 2 * x[0]]), np.asarray([5.0, 7.0]), 20)[-1]
    np.testing.assert_allclose(descent.vector, [0.2, 7.0], rtol=1e-8)


def test_nothing_to_gain_anywhere():
    """All residuals constant: parameters, loss and damping stay finite."""
    descent = descend(lambda x: jnp.ones(2) + 0 * x, np.asarray([1.0, 2.0]), 10)[-1]
    np.testing.assert_array_equal(descent.vector, [1, 2])
    assert descent.loss == 2 and np.isfinite(descent.damping)


def test_steps_are_short():
    """A factor of 7 for a weight at most, however far away the minimum is."""
    descent = descend(lambda x: 1e-3 * (x - 100), np.zeros(1), 1)[-1]
    assert 0 < descent.vector[0] <= MAX_STEP


def test_unstable_trials_are_not_accepted():
    """Residuals that overflow or are NaN away from the start."""

    def residuals(x):
        return jnp.where(jnp.abs(x) > 0.5, jnp.nan, x - 1)

    descents = descend(residuals, np.zeros(1), 10)
    assert np.all(np.isfinite(losses_of(descents)))
    assert np.all(np.diff(losses_of(descents)) <= 0)
    assert abs(descents[-1].vector[0]) <= 0.5
