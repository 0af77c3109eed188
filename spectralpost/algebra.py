"""Arithmetic that is the same for independent modes and for blocks of k modes; safe roots.

A gain or covariance is [F] (one number a mode) or [B, k, k] (one matrix a block); a signal is [F]
or [B, k].
"""

from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jax import Array


def namespace(x: Array | np.ndarray) -> ModuleType:
    """NumPy for NumPy's arrays, so that small work on the host compiles nothing; else jax.numpy."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def safe_sqrt(x: Array) -> Array:
    """sqrt(max(x, 0)) whose gradient at x <= 0 is zero instead of infinite or NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 (with zero gradient) where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


def apply_gain(gain: Array, x: Array) -> Array:
    """gain x: a signal; x may have axes before, such as planes."""
    if gain.ndim == 1:
        return jnp.broadcast_to(gain, x.shape) * x
    return jnp.einsum("bij,...bj->...bi", gain, x)


def multiply(left: Array, right: Array) -> Array:
    """left right: a gain."""
    return left * right if left.ndim == 1 else left @ right


def divide(gain: Array, x: Array) -> Array:
    """gain^-1 x: a signal."""
    if gain.ndim == 1:
        return x / gain
    return jnp.linalg.solve(gain, x[..., None])[..., 0]


def root(cov: Array) -> Array:
    """The symmetric square root of a covariance: a gain."""
    if cov.ndim == 1:
        return safe_sqrt(cov)
    values, vectors = jnp.linalg.eigh(cov)
    return (vectors * safe_sqrt(values)[..., None, :]) @ vectors.mT


def congruence(gain: Array, cov: Array | None = None) -> Array:
    """gain cov gain^T: the covariance of gain x; cov defaults to the identity."""
    if gain.ndim == 1:
        return gain**2 if cov is None else gain**2 * cov
    return gain @ gain.mT if cov is None else gain @ cov @ gain.mT


def diagonal(cov: Array) -> Array:
    """The variance of each mode: a signal."""
    return cov if cov.ndim == 1 else jnp.diagonal(cov, axis1=-2, axis2=-1)


def identity_gain(x: Array) -> Array:
    """The gain that changes nothing, for signals of the shape of x ([F] | [B, k])."""
    if x.ndim == 1:
        return jnp.ones_like(x)
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), (*x.shape, x.shape[-1]))
