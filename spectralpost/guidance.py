"""How a guidance schedule is parameterised for an optimiser.

Optimisers work on unconstrained numbers u, samplers on constrained weights:

    "nonnegative"   weight = exp(u)
    "unit"          weight = 1 / (1 + exp(-u))
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .noise import NoiseLevel, log_snr, step_pairs
from .step import Guidance

# Published defaults may sit on a boundary (0, or 1 for "unit"), where u would be infinite.
BOUNDARY = 1e-4  # for "nonnegative" relative to the schedule's largest weight


def to_weight(constraint: str, u: Array) -> Array:
    """The constrained weight of unconstrained u."""
    return jnp.exp(u) if constraint == "nonnegative" else jax.nn.sigmoid(u)


def from_weight(constraint: str, weight: Array) -> Array:
    """The inverse of `to_weight`, kept `BOUNDARY` away from where u is infinite."""
    if constraint == "nonnegative":
        largest = jnp.max(weight)
        return jnp.log(jnp.maximum(weight, BOUNDARY * jnp.where(largest > 0, largest, 1)))
    weight = jnp.clip(weight, BOUNDARY, 1 - BOUNDARY)
    return jnp.log(weight) - jnp.log1p(-weight)


def constrain(constraint: dict[str, str], u: Guidance) -> Guidance:
    """The weights of a pytree of unconstrained numbers."""
    return {name: to_weight(constraint[name], values) for name, values in u.items()}


def unconstrain(constraint: dict[str, str], weights: Guidance) -> Guidance:
    """The unconstrained numbers of a pytree of weights."""
    return {name: from_weight(constraint[name], values) for name, values in weights.items()}


def constant_grid(num_weights: int, num_points: int = 128) -> np.ndarray:
    """Points that cover the cube [-1, 1]^num_weights: [num_points, num_weights].

    One weight: evenly spaced. Several: a Halton sequence, which covers their joint range evenly.
    """
    if num_weights == 1:
        points = np.linspace(0, 1, num_points)[:, None]
    else:
        from scipy.stats import qmc  # slow to import

        points = qmc.Halton(num_weights, scramble=False).random(num_points)
    return 2 * points - 1


def log_snr_position(levels: NoiseLevel) -> Array:
    """Where each step begins, in log-SNR from 0 (the first) to 1 (the last): [S]."""
    t, _ = step_pairs(levels)
    position = jnp.clip(log_snr(t), -30, 30)  # pure noise and clean signal are infinitely far
    return (position - position[0]) / jnp.maximum(position[-1] - position[0], 1e-6)


def interpolation(levels: NoiseLevel, knots: int | None) -> np.ndarray:
    """[S, P]: unconstrained numbers of all steps from P numbers, u = interpolation @ params.

    knots None: P = S, one number a step. Else P = knots, u linear in log-SNR between knots, which
    lie at quantiles of the steps; 1 is a constant. More knots than steps count as None.
    """
    position = np.asarray(log_snr_position(levels))
    steps = position.size
    if knots is None or knots >= steps:
        return np.eye(steps)
    if knots == 1:
        return np.ones((steps, 1))
    at = np.quantile(position, np.linspace(0, 1, knots))
    return np.stack([np.interp(position, at, one) for one in np.eye(knots)], axis=1)


def roughness(u: Array, levels: NoiseLevel) -> Array:
    """Numbers [S - 1] whose squares add up to how rough unconstrained numbers u [S] are.

    The mean over steps of du^2, a step counting less the wider it is in log-SNR: 0 for a constant,
    d^2 for a zigzag by d on levels evenly spaced in log-SNR.
    """
    count = max(u.shape[0] - 1, 1)
    width = count * jnp.diff(log_snr_position(levels))
    return jnp.diff(u) / jnp.sqrt(count * jnp.maximum(width, 0.1))


def smooth_curves(key: Array, levels: NoiseLevel, num: int) -> Array:
    """Random curves, smooth in log-SNR, to be added to unconstrained numbers: [num, S].

    A curve is a sum of four cosines of standard deviations 2, 1, 2/3, 1/2.
    """
    position = log_snr_position(levels)
    order = jnp.arange(4, dtype=position.dtype)
    waves = jnp.cos(jnp.pi * order[:, None] * position[None, :])
    size = 2 / (1 + order)
    return (size[None, :] * jax.random.normal(key, (num, 4), position.dtype)) @ waves
