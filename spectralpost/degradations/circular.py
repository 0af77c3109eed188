"""Circular convolutions.

|DFT of the kernel| are the singular values. V^T is the discrete Hartley transform (real part minus
imaginary part of the unitary DFT): real, orthogonal, its own inverse, and a stationary prior is
diagonal in it, as |DFT| and power spectra agree at f and -f. The phase of the kernel's DFT goes
into U.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import namespace
from ..errors import InputError, check_shape, times
from .base import Degradation, Orthogonal, made, numbers, scale

# Singular values below this fraction of the largest are rounding of exact zeros.
RESPONSE_FLOOR = 1e-13
WIDEST = 1e100  # standard deviation, in pixels, whose square is still a number


def identity(shape: tuple[int, ...]) -> Degradation:
    """H = I: plain denoising.

    >>> sp.identity((8, 8)).apply(x_0).shape
    (4, 8, 8)
    """
    shape = check_shape(shape)
    return _circular("identity", {}, on_grid(np.ones((1,) * len(shape)), shape))


def gaussian_blur(shape: tuple[int, ...], std: float = 2.0) -> Degradation:
    """Circular blur with a Gaussian sampled on the whole periodic grid; `std` in pixels.

    >>> blurred = sp.gaussian_blur((8, 8), std=1.0).apply(x_0)
    >>> blurred.shape, bool(blurred.std() < x_0.std())
    ((4, 8, 8), True)
    """
    shape, std = check_shape(shape), _positive("std", std)
    return _circular("gaussian_blur", {"std": std}, gaussian_on_grid(shape, std))


def uniform_blur(shape: tuple[int, ...], size: int = 9) -> Degradation:
    """Circular mean over a box of `size` pixels along each axis, `size` odd.

    >>> sp.uniform_blur((8, 8), size=3).apply(x_0).shape
    (4, 8, 8)
    """
    shape, number = check_shape(shape), _number("size", size, "an odd whole number >= 1")
    if number < 1 or number % 2 != 1:
        raise InputError(f"blur size = {size}: must be an odd whole number >= 1")
    size = int(number)
    _check_fits((size,) * len(shape), shape)  # before a kernel of its size is made
    kernel = np.full((size,) * len(shape), 1.0 / size ** len(shape))
    return _circular("uniform_blur", {"size": size}, on_grid(kernel, shape))


def motion_blur(shape: tuple[int, ...], length: float = 15.0, angle: float = 45.0) -> Degradation:
    """Circular blur along a straight line of `length` pixels, at `angle` degrees (2-D only).

    Angle 0 is horizontal and 90 points up. The line is spread linearly over the nearest pixels.

    >>> sp.motion_blur((8, 8), length=3.0, angle=0.0).apply(x_0).shape
    (4, 8, 8)
    """
    shape, length = check_shape(shape), _positive("length", length)
    angle = _number("angle", angle, "a finite number")
    if len(shape) != 2:
        raise InputError(f"shape = {shape}: motion blur is for two dimensions")
    # A line that cannot fit at any angle is refused before a kernel of its size is made.
    if length > 2 * max(shape):
        raise InputError(f"blur length = {length}: larger than the {times(shape)} image")
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1,) * 2)
    along = (np.arange(16 * reach) + 0.5) / (16 * reach) * length - length / 2
    rows = reach - along * np.sin(np.deg2rad(angle))
    columns = reach + along * np.cos(np.deg2rad(angle))
    for dr in (0, 1):
        for dc in (0, 1):
            r, c = np.floor(rows).astype(int) + dr, np.floor(columns).astype(int) + dc
            share = np.maximum(0, 1 - np.abs(rows - r)) * np.maximum(0, 1 - np.abs(columns - c))
            np.add.at(kernel, (r, c), share)
    # A length near zero leaves a border of zeros that need not fit into the image.
    used = np.flatnonzero(kernel.any(axis=0) | kernel.any(axis=1))
    cut = slice(min(used[0], 2 * reach - used[-1]), max(used[-1], 2 * reach - used[0]) + 1)
    kernel = kernel[cut, cut] / kernel.sum()
    options = {"length": length, "angle": angle}
    return _circular("motion_blur", options, on_grid(kernel, shape))


def from_kernel(kernel: ArrayLike, shape: tuple[int, ...]) -> Degradation:
    """Circular convolution with `kernel`, whose centre is the pixel size // 2 along each axis.

    The kernel is used as it is (normalise it before if the mean grey value is to be kept).
    Raises InputError if it is larger than the image, or not finite, or of another dimension.

    >>> sp.from_kernel([[0.25, 0.5, 0.25]], (8, 8)).apply(x_0).shape
    (4, 8, 8)
    """
    shape = check_shape(shape)
    kernel = kernel_array(kernel, shape)
    return _circular("from_kernel", {"kernel": kernel.tolist()}, on_grid(kernel, shape))


# ------------------------------------------------------------- kernels, for decimated blurs as well


def kernel_array(kernel: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel for images of a shape in double precision, or InputError."""
    array = numbers("kernel", kernel)
    if array.ndim != len(shape):
        raise InputError(f"kernel of shape {array.shape}: {len(shape)} dimensions are needed")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.abs(array).sum()):
            raise InputError("kernel: the sum of its values is too large a number")
    return array


def gaussian_on_grid(shape: tuple[int, ...], std: float) -> np.ndarray:
    """A periodic Gaussian of sum 1, its centre at index 0."""
    std = _positive("std", std)
    if std > WIDEST:
        raise InputError(f"std = {std:g}: must be at most {WIDEST:g}")
    distance2 = sum(axis**2 for axis in _wrapped_axes(shape))
    with np.errstate(over="ignore"):  # far narrower than a pixel: exp(-inf) = 0
        kernel = np.exp(-distance2 / max(2 * std**2, np.finfo(float).tiny))
    return kernel / kernel.sum()


def hartley(x: Any, axes: tuple[int, ...]) -> Any:
    """The Hartley transform of an array of NumPy or JAX along some axes; its own inverse."""
    return (_hartley if namespace(x) is np else _compiled_hartley)(x, axes)


def _hartley(x: Any, axes: tuple[int, ...]) -> Any:
    transformed = namespace(x).fft.fftn(x, axes=axes, norm="ortho")
    return transformed.real - transformed.imag


# One program and not eight, where nothing around it is compiled.
_compiled_hartley = jax.jit(_hartley, static_argnames="axes")


def hartley_matrix(shape: tuple[int, ...]) -> np.ndarray:
    """The Hartley transform of a grid as a matrix [n, n], symmetric and orthogonal."""
    n = int(np.prod(shape))
    return hartley(np.eye(n).reshape(n, *shape), tuple(range(1, len(shape) + 1))).reshape(n, n)


def transfer_and_phase(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase (1 where there is no magnitude) of the DFT of a kernel on the grid."""
    transfer = np.fft.fftn(kernel)
    # Exactly Hermitian, so that U is exactly real and |transfer| exactly even.
    transfer = (transfer + np.conj(mirrored(transfer))) / 2
    response = np.abs(transfer)
    response[response < RESPONSE_FLOOR * response.max()] = 0
    return response, np.where(response > 0, transfer / np.where(response > 0, response, 1), 1)


def mirrored(grid: np.ndarray) -> np.ndarray:
    """What stands at the frequencies -f, in the order of f."""
    return np.roll(np.flip(grid), 1, axis=range(grid.ndim))


def on_grid(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel on the whole grid, its centre at index 0; InputError if it is larger."""
    _check_fits(kernel.shape, shape)
    whole = np.zeros(shape)
    whole[tuple(slice(k) for k in kernel.shape)] = kernel
    return np.roll(whole, [-(k // 2) for k in kernel.shape], axis=range(kernel.ndim))


def _check_fits(kernel_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if any(k > n for k, n in zip(kernel_shape, shape, strict=True)):
        raise InputError(f"kernel of size {times(kernel_shape)}: larger than {times(shape)} image")


def _circular(name: str, options: dict[str, Any], kernel: np.ndarray) -> Degradation:
    """Circular convolution with a kernel given on the whole grid, origin at index 0."""
    return by_frequency(name, options, *transfer_and_phase(kernel))


def by_frequency(
    name: str, options: dict[str, Any], response: np.ndarray, phase: np.ndarray
) -> Degradation:
    """Frequencies are multiplied by response, real and even, and phase, Hermitian: [*shape]."""
    shape, axes = response.shape, tuple(range(-response.ndim, 0))

    def flat(x: Array) -> Array:
        return x.reshape(*x.shape[: -len(shape)], -1)

    def grid(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], *shape)

    return made(
        name,
        options,
        shape,
        response.ravel(),
        signals=Orthogonal(
            lambda x: flat(hartley(x, axes)), lambda modes: hartley(grid(modes), axes)
        ),
        measurements=Orthogonal(
            lambda y: flat(hartley(_filtered(y, np.conj(phase)), axes)),
            lambda modes: _filtered(hartley(grid(modes), axes), phase),
        ),
    )


@jax.jit
def _filtered(x: Array, transfer: np.ndarray) -> Array:
    """Frequencies are multiplied by what is given for a plane, Hermitian."""
    axes = tuple(range(-transfer.ndim, 0))
    return jnp.fft.ifftn(scale(transfer, jnp.fft.fftn(x, axes=axes)), axes=axes).real


def _wrapped_axes(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Signed distances from the origin on the periodic grid, one array [*shape] per axis."""
    return list(np.meshgrid(*(np.fft.fftfreq(n) * n for n in shape), indexing="ij"))


def _positive(name: str, value: float) -> float:
    number = _number(name, value, "a finite number > 0")
    if number <= 0:
        raise InputError(f"blur {name} = {value}: must be a finite number > 0")
    return number


def _number(name: str, value: float, allowed: str) -> float:
    """The value as a Python float, so that 2 and 2.0 make the same degradation."""
    try:
        number = float("nan") if isinstance(value, bool | str) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"blur {name} = {value}: must be {allowed}")
    return number
