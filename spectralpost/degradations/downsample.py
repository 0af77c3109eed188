"""Super-resolution: a circular blur, then every factor-th pixel along each axis.

y has shape / factor pixels. All frequencies q + j shape / factor, j = 0 ... factor - 1 along each
axis, become frequency q of y: a block of k = factor^axes modes, of which H measures one number,

    y_q = sum_j a_j x_(q,j),      a_j = |DFT of the kernel| / sqrt(k),

with x in Hartley coordinates (see `circular`) of which the kernel's phase has been taken. So H has
rank one in a block, V^T is the reflection that takes a to |a| e_1, and the prior is diagonal before
it: no matrix of a block is needed to change coordinates.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import reflected, reflection
from ..errors import InputError, check_shape, check_whole, times
from .base import Degradation, Eigenvectors, Orthogonal, made, scale
from .circular import (
    RESPONSE_FLOOR,
    gaussian_on_grid,
    hartley,
    kernel_array,
    on_grid,
    transfer_and_phase,
)

KERNELS = ("bicubic", "average", "gaussian", "none")


def downsample(
    shape: tuple[int, ...],
    factor: int = 4,
    kernel: str | ArrayLike = "bicubic",
    std: float | None = None,
    offset: int = 0,
) -> Degradation:
    """Blur and keep every `factor`-th pixel, circular: super-resolution. shape: of the large image.

    kernel  "bicubic": cubic convolution (a = -1/2), stretched by factor against aliasing, at the
            middle of each square of factor x factor pixels, as MATLAB's imresize and, away from
            borders, Pillow and PyTorch (antialias=True) have it. "average": the mean of each
            square. "gaussian": of standard deviation `std` pixels (default: factor / 2), around the
            pixel that is kept. "none". Or an array, a convolution whose centre is the pixel
            size // 2 along each axis, around the pixel that is kept
    offset  which pixel of each square is kept after a Gaussian or a given kernel, from 0 (the
            first, as x[::factor]) to factor - 1

    Raises InputError if factor does not divide the shape, or for a kernel as `from_kernel`.

    >>> small = sp.downsample((8, 8), factor=2)
    >>> small.measured, small.apply(x_0).shape
    ((4, 4), (4, 4, 4))
    """
    shape, factor = check_shape(shape), check_whole("factor", factor)
    if any(n % factor for n in shape):
        near = times(tuple(max(n - n % factor, factor) for n in shape))
        raise InputError(
            f"factor = {factor}: does not divide the size {times(shape)}; it divides {near}"
        )
    options: dict = {"factor": factor}
    named = isinstance(kernel, str)
    offset = check_whole("offset", offset, 0)
    if offset >= factor:
        raise InputError(f"offset = {offset}: allowed are 0 to {factor - 1}, below factor")
    if named and kernel not in KERNELS:
        raise InputError(f"kernel = {kernel!r}: allowed are {', '.join(KERNELS)}, or an array")
    if std is not None and not (named and kernel == "gaussian"):
        raise InputError(f"std = {std}: is of kernel = 'gaussian' alone")
    if offset and named and kernel in ("bicubic", "average"):
        raise InputError(f"offset = {offset}: {kernel} has its own place, the middle of a square")
    if named:
        options["kernel"] = kernel
    if not named:
        given = kernel_array(kernel, shape)
        options["kernel"] = given.tolist()
        blur = on_grid(given, shape)
    elif kernel == "gaussian":
        std = factor / 2 if std is None else std
        blur = gaussian_on_grid(shape, std)
        options["std"] = float(std)
    else:
        blur = np.ones((1,) * len(shape))
        for axis, n in enumerate(shape):
            along = _along_axis(str(kernel), n, factor)
            blur = blur * np.expand_dims(along, tuple(i for i in range(len(shape)) if i != axis))
    if offset:
        options["offset"] = offset
        # What stands around the kept pixel is moved to where the first one is kept.
        blur = np.roll(blur, (-offset,) * len(shape), axis=range(len(shape)))
    return _decimated(options, blur, factor)


def _along_axis(kernel: str, n: int, factor: int) -> np.ndarray:
    """Its kernel along an axis of n pixels, circular: y_0 = sum_i w_i x_i is stored at index -i."""
    if kernel == "none":
        weights = {0: 1.0}
    elif kernel == "average":
        weights = dict.fromkeys(range(factor), 1 / factor)
    else:
        middle = (factor - 1) / 2
        places = np.arange(np.floor(middle - 2 * factor), np.ceil(middle + 2 * factor) + 1)
        values = _cubic((places - middle) / factor)
        values = (values / values.sum()).tolist()
        weights = dict(zip(places.astype(int).tolist(), values, strict=True))
    blur = np.zeros(n)
    for place, weight in weights.items():  # a kernel wider than the image wraps around
        blur[-place % n] += weight
    return blur


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981: a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def aliased(x: Any, factor: int, dims: int) -> Any:
    """[..., *grid] by frequency -> [..., rows, factor^dims]: those that become one on a grid of
    every factor-th pixel beside each other. Of NumPy or JAX."""
    lead, grid = x.shape[: x.ndim - dims], x.shape[x.ndim - dims :]
    split = [size for n in grid for size in (factor, n // factor)]  # an axis is (j, q)
    order = [*range(1, 2 * dims, 2), *range(0, 2 * dims, 2)]  # all q, then all j
    moved = x.reshape(*lead, *split).transpose(
        *range(len(lead)), *(len(lead) + axis for axis in order)
    )
    return moved.reshape(*lead, -1, factor**dims)


def unaliased(x: Any, factor: int, grid: tuple[int, ...]) -> Any:
    """The inverse of `aliased`: [..., rows, factor^dims] -> [..., *grid]."""
    lead, dims = x.shape[:-2], len(grid)
    cut = x.reshape(*lead, *(n // factor for n in grid), *(factor,) * dims)
    order = [axis for i in range(dims) for axis in (dims + i, i)]
    return cut.transpose(*range(len(lead)), *(len(lead) + axis for axis in order)).reshape(
        *lead, *grid
    )


def _decimated(options: dict, kernel: np.ndarray, factor: int) -> Degradation:
    """Circular convolution with a kernel on the whole grid, origin at index 0, then [::factor]."""
    shape, dims = kernel.shape, kernel.ndim
    low, k = tuple(n // factor for n in shape), factor**dims
    magnitude, phase = transfer_and_phase(kernel)
    a = aliased(magnitude, factor, dims) / np.sqrt(k)
    v = reflection(np.asarray(a))
    response = np.zeros(a.shape)
    response[:, 0] = np.linalg.norm(a, axis=1)
    response[response < RESPONSE_FLOOR * response.max()] = 0

    def eigenvectors() -> Eigenvectors:
        places = np.arange(kernel.size).reshape(shape)
        return Eigenvectors(aliased(places, factor, dims), v)

    return made(
        "downsample",
        options,
        shape,
        response,
        signals=Orthogonal(
            lambda x: _to_modes(x, phase, v, factor),
            lambda modes: _from_modes(modes, phase, v, factor),
        ),
        measurements=Orthogonal(
            lambda y: _to_first(y, dims, k), lambda modes: _from_first(modes, low)
        ),
        measured=low,
        make_eigenvectors=eigenvectors,
    )


# The changes of coordinates, x [..., *grid] and modes [..., rows, k]. Each is one program for all
# images of a size, whatever the kernel: phase [*grid] of its DFT, v [rows, k] of `reflection`.


@partial(jax.jit, static_argnames="factor")
def _to_modes(x: Array, phase: Array, v: Array, factor: int) -> Array:
    axes = _last(phase.ndim)
    found = scale(phase, jnp.fft.fftn(x, axes=axes, norm="ortho"))
    return reflected(v, aliased(found.real - found.imag, factor, phase.ndim))


@partial(jax.jit, static_argnames="factor")
def _from_modes(modes: Array, phase: Array, v: Array, factor: int) -> Array:
    axes = _last(phase.ndim)
    along = unaliased(reflected(v, modes), factor, phase.shape)
    mirrored = jnp.roll(jnp.flip(along, axes), (1,) * len(axes), axes)
    found = jax.lax.complex((along + mirrored) / 2, (mirrored - along) / 2)
    return jnp.fft.ifftn(scale(jnp.conj(phase), found), axes=axes, norm="ortho").real


@partial(jax.jit, static_argnames=("dims", "k"))
def _to_first(y: Array, dims: int, k: int) -> Array:
    """The Hartley transform of measurements: the first of each block of k."""
    first = hartley(y, _last(dims)).reshape(*y.shape[: y.ndim - dims], -1, 1)
    return jnp.pad(first, [(0, 0)] * (first.ndim - 1) + [(0, k - 1)])


@partial(jax.jit, static_argnames="low")
def _from_first(modes: Array, low: tuple[int, ...]) -> Array:
    return hartley(modes[..., 0].reshape(*modes.shape[:-2], *low), _last(len(low)))


def _last(dims: int) -> tuple[int, ...]:
    return tuple(range(-dims, 0))
