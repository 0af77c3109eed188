"""Arithmetic that is the same for independent modes and for blocks of k modes; safe roots; the
floating dtype that numbers from outside are computed in.

A gain or covariance is [F] (one number a mode) or [B, k, k] (one matrix a block); a signal is [F]
or [B, k].
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from .errors import InputError


def float_dtype(*trees: Any) -> np.dtype:
    """What numbers from outside are computed in: the widest floating dtype of all arrays.

    At least float32. Integers, booleans, Python numbers and lists fit into any floating dtype;
    where there is nothing else it is JAX's default (float64 with x64, else float32). Raises
    InputError for what is no real number.
    """
    leaves = [leaf for tree in trees for leaf in jax.tree.leaves(tree, is_leaf=_is_list)]
    found = [_real("input", leaf) for leaf in leaves if not _is_weak(leaf)]
    widths = [dtype.itemsize for dtype in found if jnp.issubdtype(dtype, jnp.floating)]
    wanted = np.float64 if not widths or max(widths) > 4 else np.float32
    return jax.dtypes.canonicalize_dtype(wanted)


def floating(*trees: Any, dtype: np.dtype | None = None) -> list[Any]:
    """The trees with arrays of one floating dtype for leaves, by default their `float_dtype`.

    A list or plain tuple of numbers is one array.
    """
    wanted = float_dtype(*trees) if dtype is None else dtype
    convert = lambda leaf: as_floating("input", leaf, wanted)  # noqa: E731
    return [jax.tree.map(convert, tree, is_leaf=_is_list) for tree in trees]


def as_floating(name: str, value: ArrayLike, dtype: np.dtype | None = None) -> Array:
    """The value as an array of a floating dtype, by default its own `float_dtype`.

    Raises InputError, with the name, for what is not made of real numbers.
    """
    _real(name, value)
    return jnp.asarray(value, float_dtype(value) if dtype is None else dtype)


def is_concrete(value: Any) -> bool:
    """Whether there are numbers to check: not while JAX traces a function (`jit`, `vmap`)."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def _real(name: str, value: Any) -> np.dtype:
    """The dtype of real numbers; InputError for anything else."""
    try:
        # JAX knows what to do with a list of arrays that it traces, NumPy does not.
        array = value if is_concrete(value) else jnp.asarray(value)
        dtype = array.dtype if isinstance(array, jax.Array) else np.asarray(array).dtype
        if any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            return dtype
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name}: an array of real numbers is needed ({error})") from error
    raise InputError(f"{name} of dtype {dtype}: real numbers are needed")


def _is_list(value: Any) -> bool:
    return type(value) in (list, tuple)


def _is_weak(value: Any) -> bool:
    return _is_list(value) or isinstance(value, bool | int | float)


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
