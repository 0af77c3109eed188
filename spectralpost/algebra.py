"""Arithmetic that is the same for independent modes and for blocks of k modes; safe roots; the
floating dtype that numbers from outside are computed in.

A gain or covariance is [F] (one number a mode) or [B, k, k] (one matrix a block); a signal is [F]
or [B, k].
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from .errors import InputError

SMALL, SWEEPS = 8, 6  # of `eigh`; one more sweep for each of more than 4 rows
PRECISION = jax.lax.Precision.HIGHEST  # of `matmul`
UNROLLED = 8  # of `product`: the largest that is faster so
LONG_SUM = 32  # of `reflected`: longer ones XLA does twice as fast on a CPU as products


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


def is_real(dtype: Any) -> bool:
    """Whether a dtype, NumPy's or JAX's, is of real numbers; bool is not."""
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer))


def _real(name: str, value: Any) -> np.dtype:
    """The dtype of real numbers; InputError for anything else."""
    try:
        # JAX knows what to do with a list of arrays that it traces, NumPy does not.
        array = value if is_concrete(value) else jnp.asarray(value)
        dtype = array.dtype if isinstance(array, jax.Array) else np.asarray(array).dtype
        if is_real(dtype) or dtype == np.bool_:
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
    gain = jnp.broadcast_to(gain, (*x.shape[:-1], *gain.shape[-2:]))
    return product(gain, x[..., None])[..., 0]


def multiply(left: Array, right: Array) -> Array:
    """left right: a gain."""
    return left * right if left.ndim == 1 else product(left, right)


def matmul(left: Any, right: Any) -> Any:
    """left @ right to the precision of its operands. By default JAX gives float32 away on
    accelerators: 10 bits are left on a GPU, 7 on a TPU, too few for differences of covariances."""
    if namespace(left) is np and namespace(right) is np:
        return left @ right
    return jnp.matmul(left, right, precision=PRECISION)


def einsum(subscripts: str, *operands: Any) -> Any:
    """NumPy's or JAX's, to the precision of its operands: see `matmul`."""
    if all(namespace(one) is np for one in operands):
        return np.einsum(subscripts, *operands)
    return jnp.einsum(subscripts, *operands, precision=PRECISION)


def product(left: Array, right: Array) -> Array:
    """left @ right, of matrices [..., i, j] and [..., j, k].

    From four rows on XLA's product of many small matrices is slow on a CPU, a sum over j is not.
    Its operands are held fast: else they would be computed again for each use.
    """
    inner = left.shape[-1]
    if not 4 <= inner <= UNROLLED:
        return matmul(left, right)
    left, right = jax.lax.optimization_barrier(left), jax.lax.optimization_barrier(right)
    terms = [left[..., :, j, None] * right[..., j, None, :] for j in range(inner)]
    return sum(terms[1:], terms[0])


def divide(gain: Array, x: Array) -> Array:
    """gain^-1 x: a signal."""
    return x / gain if gain.ndim == 1 else apply_gain(inverse(gain), x)


# Functions with loops inside are compiled, once a shape: outside of `jit` JAX compiles a loop anew
# at every call.


@jax.custom_jvp
@jax.jit
def inverse(gain: Array) -> Array:
    """gain^-1 of blocks [..., k, k]."""
    return _each(jnp.linalg.inv, gain)


@inverse.defjvp
def _slope_of_inverse(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = inverse(primals[0])
    return value, -product(product(value, tangents[0]), value)


@jax.custom_jvp
@jax.jit
def log_det(cov: Array) -> Array:
    """log det of covariances [..., k, k]: [...]."""
    return _each(lambda cov: jnp.linalg.slogdet(cov)[1], cov)


@log_det.defjvp
def _slope_of_log_det(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    slope = jnp.sum(inverse(primals[0]).mT * tangents[0], axis=(-1, -2))
    return log_det(primals[0]), slope


def _each(function: Callable[[Array], Any], matrices: Array) -> Any:
    """A function of LAPACK's for matrices [..., k, k], one after the other on a CPU.

    Until 0.11.2 jaxlib spreads a batch over its threads and lets the calling thread, which is one
    of them, wait: as many such calls at once as there are threads, two on two cores, wait for ever.
    """
    if jax.__version_info__ >= (0, 11, 2):
        return function(matrices)

    @jax.custom_batching.custom_vmap
    def one_by_one(matrices: Array) -> Any:
        found = jax.lax.map(function, matrices.reshape(-1, *matrices.shape[-2:]))
        return jax.tree.map(lambda x: x.reshape(*matrices.shape[:-2], *x.shape[1:]), found)

    @one_by_one.def_vmap
    def _(_size: int, _batched: list[bool], matrices: Array) -> tuple[Any, Any]:
        found = one_by_one(matrices)  # the axis stands first
        return found, jax.tree.map(lambda _: True, found)

    return jax.lax.platform_dependent(matrices, cpu=one_by_one, default=function)


def root(cov: Array) -> Array:
    """The symmetric square root of a covariance: a gain.

    Its derivative exists where variances are equal, and takes that of a direction without variance
    for 0, as `safe_sqrt` does.
    """
    if cov.ndim == 1 or cov.shape[-1] == 1:
        return safe_sqrt(cov)
    if cov.shape[-1] == 2:  # R^2 - tr R R + det R = 0, by Cayley and Hamilton
        det = safe_sqrt(cov[..., 0, 0] * cov[..., 1, 1] - cov[..., 0, 1] * cov[..., 1, 0])
        trace = safe_sqrt(cov[..., 0, 0] + cov[..., 1, 1] + 2 * det)
        whole = cov + det[..., None, None] * identity_gain(cov[..., 0])
        return safe_divide(whole, trace[..., None, None])
    return _matrix_root(cov)


@jax.custom_jvp
@jax.jit
def _matrix_root(cov: Array) -> Array:
    values, vectors = eigh(cov)
    return product(vectors * safe_sqrt(values)[..., None, :], vectors.mT)


@_matrix_root.defjvp
@jax.jit
def _slope_of_root(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """R R = C, so dR R + R dR = dC: in the eigenvectors of C a division by sums of roots."""
    values, vectors = eigh(primals[0])
    roots = safe_sqrt(values)
    value = product(vectors * roots[..., None, :], vectors.mT)
    sums = roots[..., :, None] + roots[..., None, :]
    slope = safe_divide(congruence(vectors.mT, tangents[0]), sums)
    return value, congruence(vectors, slope)


@jax.jit
def eigh(symmetric: Array) -> tuple[Array, Array]:
    """Eigenvalues [..., k], in no order, and eigenvectors [..., k, k] (columns).

    Small matrices by Jacobi's rotations, all at once: LAPACK would take them one by one, and a
    search has hundreds of thousands. These sweeps leave nothing to double precision.
    """
    k = symmetric.shape[-1]
    if k > SMALL:
        return _each(lambda x: tuple(jnp.linalg.eigh(x)), symmetric)

    def rotated(x: Array, p: int, q: int, c: Array, s: Array) -> Array:
        """x with its columns p and q rotated."""
        columns = [x[..., i] for i in range(k)]
        columns[p], columns[q] = c * x[..., p] - s * x[..., q], s * x[..., p] + c * x[..., q]
        return jnp.stack(columns, axis=-1)

    def sweep(_, state: tuple[Array, Array]) -> tuple[Array, Array]:
        a, vectors = state
        for p in range(k):
            for q in range(p + 1, k):
                off = a[..., p, q]
                tau = safe_divide(a[..., q, q] - a[..., p, p], 2 * off)
                sign = jnp.where(tau < 0, -1, 1).astype(a.dtype)
                tangent = jnp.where(off != 0, sign / (jnp.abs(tau) + jnp.sqrt(1 + tau**2)), 0)
                c = (1 / jnp.sqrt(1 + tangent**2))[..., None]
                s = tangent[..., None] * c
                a = rotated(rotated(a, p, q, c, s).mT, p, q, c, s)
                vectors = rotated(vectors, p, q, c, s)
        return a, vectors

    state = symmetric, identity_gain(symmetric[..., 0])
    a, vectors = jax.lax.fori_loop(0, SWEEPS + max(k - 4, 0), sweep, state)
    return jnp.diagonal(a, axis1=-2, axis2=-1), vectors


def reflection(h: np.ndarray) -> np.ndarray:
    """For each row of h [..., k], >= 0, the v, |v| = 1, of the symmetric orthogonal matrix

        W = 2 v v^T - 1,      W h = |h| e_1.

    Householder's, with the sign that never cancels: v ~ h / |h| + e_1, the square of which is >= 2.
    """
    first = np.zeros_like(h)
    first[..., 0] = 1
    norm = np.linalg.norm(h, axis=-1, keepdims=True)
    v = np.divide(h, norm, out=np.zeros_like(h), where=norm > 0) + first
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def reflected(v: Any, x: Any) -> Any:
    """W x, by rows: see `reflection`. Of NumPy or JAX."""
    v = namespace(x).broadcast_to(v.astype(x.dtype), x.shape)
    if x.shape[-1] <= LONG_SUM or namespace(x) is np:
        share = namespace(x).sum(v * x, axis=-1, keepdims=True)
    else:
        share = matmul(x[..., None, :], v[..., :, None])[..., 0]
    return 2 * v * share - x


def reflection_matrix(v: Any) -> Any:
    """W of `reflection`: [..., k, k], of NumPy or JAX."""
    one = np.broadcast_to(np.eye(v.shape[-1], dtype=v.dtype), (*v.shape, v.shape[-1]))
    return 2 * v[..., :, None] * v[..., None, :] - one


def congruence(gain: Array, cov: Array | None = None) -> Array:
    """gain cov gain^T: the covariance of gain x; cov defaults to the identity."""
    if gain.ndim == 1:
        return gain**2 if cov is None else gain**2 * cov
    return product(gain if cov is None else product(gain, cov), gain.mT)


def diagonal(cov: Array) -> Array:
    """The variance of each mode: a signal."""
    return cov if cov.ndim == 1 else jnp.diagonal(cov, axis1=-2, axis2=-1)


def identity_gain(x: Array) -> Array:
    """The gain that changes nothing, for signals of the shape of x ([F] | [B, k])."""
    if x.ndim == 1:
        return jnp.ones_like(x)
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), (*x.shape, x.shape[-1]))
