"""One iteration of Levenberg-Marquardt, for any sum of squares; knows no sampler."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import matmul


class Descent(NamedTuple):
    """State of one search."""

    vector: Array  # [P]
    loss: Array
    damping: Array


# Tried at once in every iteration, times the current damping; costs four losses, saves the
# iterations that a rejected step would waste in lockstep with the other starts. The first two are
# relative to the diagonal of J^T J (Marquardt), which steps far along directions that hardly
# matter; the others to its largest entry (Levenberg), which does not.
TRIALS = ((0.01, "diagonal"), (1.0, "diagonal"), (0.1, "largest"), (10.0, "largest"))
MAX_STEP = 2.0  # of an unconstrained number: a factor of 7 for a weight


def begin(vector: Array) -> Descent:
    """A search that has not begun: vector [P]."""
    return Descent(vector, jnp.full((), jnp.inf, vector.dtype), jnp.ones((), vector.dtype))


def finite(losses: Array) -> Array:
    """Infinite where a loss is not a number: that of an unstable sampler."""
    return jnp.where(jnp.isfinite(losses), losses, jnp.inf)


def iterate(
    descent: Descent,
    loss: Callable[[Array], Array],
    linearised: Callable[[Array], tuple[Array, Array]],
) -> Descent:
    """One iteration: the best of four dampings, kept only if it lowers the sum of squares.

    loss(vector); linearised(vector) -> residuals [R] whose squares have the sum and the gradient of
    the loss here, Jacobian [R, P].
    """
    r, jacobian = linearised(descent.vector)
    normal, gradient = matmul(jacobian.T, jacobian), matmul(jacobian.T, r)
    curvature = jnp.diagonal(normal)  # Gauss and Newton's
    # Directions that do not matter at all must not make the system singular.
    floor = jnp.finfo(r.dtype).eps * jnp.max(curvature) + jnp.finfo(r.dtype).tiny
    scales = {
        "diagonal": jnp.maximum(curvature, floor),
        "largest": jnp.full_like(curvature, jnp.max(curvature) + floor),
    }
    scale = jnp.stack([factor * scales[kind] for factor, kind in TRIALS])

    def trial(scale: Array) -> tuple[Array, Array]:
        damped = normal + jnp.diag(descent.damping * scale)
        step = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), -gradient)
        vector = descent.vector + jnp.clip(step, -MAX_STEP, MAX_STEP)
        return vector, loss(vector)

    factors = jnp.asarray([factor for factor, _ in TRIALS], r.dtype)
    candidates, losses = jax.vmap(trial)(scale)
    losses = finite(losses)
    best = jnp.argmin(losses)
    # Of the same vector, whose loss was rounded in another order when it was accepted.
    here = jnp.minimum(finite(jnp.sum(r**2)), descent.loss)
    accepted = losses[best] < here
    damping = descent.damping * jnp.where(accepted, factors[best], 100.0)
    return Descent(
        jnp.where(accepted, candidates[best], descent.vector),
        jnp.where(accepted, losses[best], here),
        jnp.clip(damping, 1e-10, 1e10),
    )
