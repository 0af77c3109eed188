"""The Bures distance of covariances, and its derivatives.

Dowson, Landau, "The Frechet Distance between Multivariate Normal Distributions", 1982.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from .algebra import congruence, diagonal, eigh, root, safe_divide, safe_sqrt


def bures(cov: Array, target: Array) -> Array:
    """The squared Bures distance of covariances [F] | [B, k, k], as parts to sum, [F] | [B, n]:

        tr(cov + target - 2 (target^1/2 cov target^1/2)^1/2)

    In blocks its derivative by the target is tr((1 - S) d target), S = T^-1 M T^-1 the transport
    from it to cov. Derivatives of that are right by cov, not by the target again.
    """
    if cov.ndim == 1:
        return bures_residuals(cov, target) ** 2
    transport = _transport(cov, jax.lax.stop_gradient(target))
    inverse = transport.inverse
    S = inverse[..., :, None] * transport.moved * inverse[..., None, :]
    parts = _residuals_of(transport) ** 2
    return jnp.concatenate([parts, _zero(transport.vectors, S, target)], axis=-1)


@jax.custom_jvp
def _zero(vectors: Array, S: Array, target: Array) -> Array:
    """0 [B, k], whose derivative is that of the Bures distance by the target."""
    del vectors, S
    return jnp.zeros(target.shape[:-1], target.dtype)


@partial(_zero.defjvp, symbolic_zeros=True)
def _slope_by_target(
    primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]
) -> tuple[Array, Array]:
    vectors, S, target = primals
    zero = _zero(vectors, S, target)
    if isinstance(tangents[2], SymbolicZero):  # what is learned changes no posterior
        return zero, jnp.zeros_like(zero)
    change = congruence(vectors.mT, tangents[2])
    return zero, diagonal(change) - jnp.sum(S * change, axis=-1)


def bures_residuals(cov: Array, target: Array) -> Array:
    """What has the squared Bures distance of covariances [F] | [B, k, k] for its sum of squares,
    [F] | [B, k (k + 1) / 2 + 1].

    The optimal transport from T T to cov moves T to T^-1 M, M = (T cov T)^1/2, T = target^1/2. By
    eigenvectors of T, where M is symmetric, entries (i, j) and (j, i) of T^-1 M are one residual,

        T_i^-1 M_ii - T_i,      sqrt(T_i^-2 + T_j^-2) M_ij,  i < j.

    Where the target has no variance all of cov's counts. Of independent modes, the gap of the
    standard deviations. In blocks not to be differentiated by the target, whose eigenvectors may be
    any: `bures` is.
    """
    if cov.ndim == 1:
        return safe_sqrt(cov) - safe_sqrt(target)
    return _residuals_of(_transport(cov, target))


class _Transport(NamedTuple):
    """Of a block, by the eigenvectors of the target."""

    vectors: Array
    std: Array  # T, [B, k]
    inverse: Array  # T^-1, 0 where T is
    moved: Array  # M = (T cov T)^1/2
    known: Array  # variances of cov where T is 0


def _transport(cov: Array, target: Array) -> _Transport:
    values, vectors = eigh(target)
    tiny = cov.shape[-1] * jnp.finfo(cov.dtype).eps * jnp.max(values, axis=-1, keepdims=True)
    std = jnp.where(values > tiny, safe_sqrt(values), 0)
    by_vectors = congruence(vectors.mT, cov)
    moved = root(std[..., :, None] * by_vectors * std[..., None, :])
    known = jnp.where(std > 0, 0, diagonal(by_vectors))
    return _Transport(vectors, std, safe_divide(jnp.ones_like(std), std), moved, known)


def _residuals_of(transport: _Transport) -> Array:
    _, std, inverse, moved, known = transport
    i, j = np.triu_indices(std.shape[-1], 1)
    parts = [
        inverse * diagonal(moved) - std,
        safe_sqrt(inverse[..., i] ** 2 + inverse[..., j] ** 2) * moved[..., i, j],
        safe_sqrt(jnp.sum(known, axis=-1, keepdims=True)),
    ]
    return jnp.concatenate(parts, axis=-1)
