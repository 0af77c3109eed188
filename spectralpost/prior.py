"""Gaussian priors given by a mean and a power spectrum.

The prior is x_0 ~ N(mean, C) with C stationary on a periodic grid: the discrete Fourier transform
diagonalises it. `spectrum` holds its eigenvalues in the order of `numpy.fft.fftn`, normalised to
the unitary transform, so that

    spectrum[k] = E |F (x_0 - mean)|_k^2,       mean over k of spectrum = variance of a pixel.

All values are in units of the pixel range (spectrum in its square).

Colour. The planes of photographs are far from independent: nearly all of their variance is common
to all three. Rotated by Q, the eigenvectors of the covariance of a pixel's planes, they are
uncorrelated, and each rotated plane has a spectrum of its own. A degradation that treats planes
alike commutes with Q, and noise stays white, so a mode is (axis, frequency): still independent
scalars, one weight schedule for all. Samplers run on planes as they are; only the prior's numbers
are of axes.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jax import Array

from .algebra import einsum, safe_divide
from .calibration import Profile
from .errors import InputError, check_shape, check_whole, times
from .images import PIXEL_RANGE, WIDTHS, PixelRange, check_pixel_range
from .noise import NoiseLevel, noisy_variance
from .prior_checks import checked_prior
from .spectra import batches, mean_and_spectrum, on_grid

# Of the variance of natural colours: green against magenta, yellow against blue, grey. Close to
# those of scikit-image's photographs.
SHARES = (0.01, 0.16, 0.83)
AXES = np.array([[1, -2, 1], [1, 0, -1], [1, 1, 1]]).T / np.sqrt([6, 2, 3])

MAX_VALUES = 2**25  # of a stored prior: a square of 5792 pixels, 256 MiB
MAX_VARIANCE = WIDTHS[1] ** 2 * MAX_VALUES  # of a mode: all pixels swing alike, as far as allowed


@dataclass(frozen=True, eq=False)
class Prior:
    """A stationary Gaussian prior, for each plane alike, or (axes given) for colour images.

    Raises InputError for a spectrum that is no variance of a real field (negative, not finite, or
    not the same at f and -f), a mean of another shape, axes that are not orthonormal, and a pixel
    range without low < high. Under `jit` or `grad` the spectrum and mean may be traced.
    """

    spectrum: np.ndarray  # [H, W] (or [n] for signals), variances >= 0, FFT order; axes: [C, H, W]
    mean: np.ndarray  # [H, W]; axes: [C, H, W], along them
    pixel_range: PixelRange  # of the planes of an image; along axes pixels can go beyond
    source: str  # where it comes from, in words
    calibration: Profile | None = None  # of the denoiser that is used with it, see `calibrate`
    # [C, C], orthonormal: column a holds the planes' shares of axis a; the least variance first.
    axes: np.ndarray | None = None

    def __post_init__(self) -> None:
        numbers = checked_prior(self.spectrum, self.mean, self.pixel_range, self.axes)
        for name, array in zip(("spectrum", "mean", "axes"), numbers, strict=True):
            object.__setattr__(self, name, array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a plane."""
        return self.spectrum.shape if self.axes is None else self.spectrum.shape[1:]

    def along_axes(self, images: Any) -> Any:
        """Images [..., C, H, W] as the prior's numbers are: turned into its axes, if it has any."""
        return along_axes(images, self.axes)

    def along_planes(self, turned: Any) -> Any:
        """The way back: [..., C, H, W]."""
        return along_planes(turned, self.axes)

    @property
    def hash(self) -> str:
        """Of all numbers: equal for priors that are the same."""
        digest = hashlib.sha256()
        numbers = (self.spectrum, self.mean, np.asarray(self.pixel_range))
        axes = () if self.axes is None else (self.axes,)
        for part in (*numbers, *axes, *(self.calibration or ())):
            digest.update(repr(part.shape).encode())
            digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]


def along_axes(images: Any, axes: Any) -> Any:
    """[..., C, H, W] turned into the axes [C, C], in columns, or None. NumPy's arrays stay so."""
    if axes is None:
        return images
    return einsum("...chw,ca->...ahw", images, axes.astype(images.dtype))


def along_planes(turned: Any, axes: Any) -> Any:
    """The way back."""
    if axes is None:
        return turned
    return einsum("...ahw,ca->...chw", turned, axes.astype(turned.dtype))


def denoiser_gain(spectrum: Array, level: NoiseLevel) -> Array:
    """d E[x_0 | x_t] / d x_t, mode by mode: alpha spectrum / (alpha^2 spectrum + sigma^2)."""
    return safe_divide(level.alpha * spectrum, noisy_variance(spectrum, level))


def denoiser_variance(spectrum: Array, level: NoiseLevel) -> Array:
    """Var(x_0 | x_t), mode by mode: sigma^2 spectrum / (alpha^2 spectrum + sigma^2)."""
    return safe_divide(level.sigma**2 * spectrum, noisy_variance(spectrum, level))


def power_law(
    shape: tuple[int, ...],
    exponent: float = 2.0,
    *,
    std: float = 0.5,
    mean: float = 0.0,
    pixel_range: PixelRange = PIXEL_RANGE,
    colour: bool = False,
) -> Prior:
    """spectrum proportional to |f|^-exponent, the classical model of natural images (exponent 2).

    f is in cycles per pixel; the constant component is given the variance of the lowest frequency.
    `std` is the standard deviation of a pixel, of mean `mean`: numbers of `pixel_range`, whose
    middle and quarter they are by default for [-1, 1] alone (for [0, 1] give 0.25 and 0.5).
    `colour`: of images of three planes, which share
    out the variance as photographs do: 83 % grey, 16 % yellow against blue, 1 % green against
    magenta; `std` is then the root mean square over the planes, `mean` a grey.

    >>> round(float(sp.power_law((8, 8), std=0.5).spectrum.mean()), 3)  # std^2
    0.25
    >>> sp.power_law((8, 8), colour=True).spectrum.shape
    (3, 8, 8)
    """
    shape = _check_shape(shape)
    _check_numbers(exponent=exponent, std=std, mean=mean)
    f = frequency(shape)
    with np.errstate(over="ignore"):  # refused below
        density = np.maximum(f, 1 / max(shape)) ** -float(exponent)
    source = f"power law, exponent {exponent:g}, std {std:g}"
    return _with_std(density, std, mean, pixel_range, source, colour)


def matern(
    shape: tuple[int, ...],
    length: float = 8.0,
    smoothness: float = 1.0,
    *,
    std: float = 0.5,
    mean: float = 0.0,
    pixel_range: PixelRange = PIXEL_RANGE,
    colour: bool = False,
) -> Prior:
    """spectrum proportional to (2 nu / length^2 + 4 pi^2 |f|^2)^-(nu + d/2), nu = smoothness.

    `length` is the correlation length in pixels, d the number of dimensions, `std` the standard
    deviation of a pixel, `colour` as of `power_law`. Source: Rasmussen, Williams, "Gaussian
    Processes for Machine Learning", 2006, equation (4.15).

    >>> round(float(sp.matern((8, 8), length=3.0, std=0.5).spectrum.mean()), 3)  # std^2
    0.25
    """
    _check_numbers(length=length, smoothness=smoothness, std=std, mean=mean)
    if not (length > 0 and smoothness > 0):
        raise InputError(f"length = {length}, smoothness = {smoothness}: both must be > 0")
    shape = _check_shape(shape)
    f = frequency(shape)
    decay = smoothness + len(shape) / 2
    with np.errstate(over="ignore", divide="ignore"):  # refused below
        density = (2 * smoothness / np.float64(length) ** 2 + 4 * np.pi**2 * f**2) ** -decay
    source = f"Matern, length {length:g} pixels, smoothness {smoothness:g}, std {std:g}"
    return _with_std(density, std, mean, pixel_range, source, colour)


def from_images(
    planes: np.ndarray | Iterable[np.ndarray],
    *,
    colour: bool = False,
    mean: Literal["constant", "pixelwise"] = "constant",
    window: Literal["none", "hann"] = "none",
    pixel_range: PixelRange = PIXEL_RANGE,
    source: str = "images",
) -> Prior:
    """Mean and power spectrum (averaged periodogram) of a set of planes [N, H, W].

    planes   an array, or anything that yields planes [H, W] or sets of them [..., H, W]: it is gone
             through once, so that a folder need not fit in memory. Summed in float64.
    colour   images [N, C, H, W], or what yields [C, H, W] or [..., C, H, W]: a spectrum for each
             axis of colour
    mean     "constant": one grey value, which is all that a stationary model has. "pixelwise": the
             average plane, for aligned sets such as faces (wants many more images than one).
    window   "none": the spectrum of the planes as they are, wrapped around. Circular degradations
             act on the wrapped plane, so this describes exactly the signals they see, the jump at
             the border included (a bright cross along the axes). "hann": tapers the jump away and
             describes the scene behind the border instead.

    Raises InputError for an empty set, a wrong shape, colour last, NaN, or pixels outside of
    `pixel_range`. Warns if that is [-1, 1] and no pixel is below 0.

    >>> estimated = sp.from_images(x_0.clip(-1, 1))
    >>> estimated.shape, estimated.pixel_range
    ((8, 8), (-1.0, 1.0))
    """
    check_pixel_range(pixel_range)
    if mean not in ("constant", "pixelwise"):
        raise InputError(f"mean = {mean!r}: allowed are constant, pixelwise")
    if window not in ("none", "hann"):
        raise InputError(f"window = {window!r}: allowed are none, hann")
    low, high = map(float, pixel_range)
    centre, spectra = mean_and_spectrum(planes, colour, mean, window, (low, high))
    if not colour:
        return Prior(spectra[0, 0], centre[0], (low, high), source)
    axes = np.linalg.eigh(spectra.mean(axis=(2, 3)))[1]  # of the covariance of a pixel's planes
    along = np.einsum("ca,da,cdhw->ahw", axes, axes, spectra)
    turned = np.einsum("chw,ca->ahw", centre, axes)
    return Prior(np.maximum(along, 0), turned, (low, high), source, axes=axes)


def resized(prior: Prior, shape: tuple[int, ...]) -> Prior:
    """The same random field on a periodic grid of another size, the pixels as large as before.

    A smaller grid is a crop, a larger one shows more of the scene: `spectra.on_grid` says what is
    kept, first of all the variance of a pixel, exactly. A mean that is not constant cannot be
    resized: InputError.

    >>> sp.resized(prior, (16, 12)).shape
    (16, 12)
    """
    shape = check_shape(shape, 2)
    if math.prod(shape) > MAX_VALUES:
        raise InputError(f"shape = {shape}: a prior has at most {MAX_VALUES} values")
    if shape == prior.shape:
        return prior
    if len(shape) != len(prior.shape):
        raise InputError(f"a prior of size {prior.shape} cannot be used at size {shape}")
    planes = prior.mean.shape[: prior.mean.ndim - len(prior.shape)]  # (C,) of colour, else ()
    means = prior.mean.reshape(*planes, -1)
    if has_pixelwise_mean(prior):
        raise InputError(f"a pixelwise mean of size {prior.shape} cannot be used at size {shape}")
    spectra = prior.spectrum.reshape(-1, *prior.shape)
    spectrum = np.stack([on_grid(one, shape) for one in spectra]).reshape(*planes, *shape)
    source = f"{prior.source}, resized from {times(prior.shape)}"
    mean = means[..., 0].reshape(*planes, *(1 for _ in shape)) + np.zeros(shape)
    return replace(prior, spectrum=spectrum, mean=mean, source=source)


def _check_numbers(**options: float) -> None:
    for name, value in options.items():
        if np.ndim(value) > 0 or np.asarray(value).dtype.kind not in "iuf":
            raise InputError(f"{name} = {value!r}: must be a number")


def _with_std(
    density: np.ndarray,
    std: float,
    mean: float,
    pixel_range: PixelRange,
    source: str,
    colour: bool,
) -> Prior:
    check_pixel_range(pixel_range)
    if colour and density.ndim != 2:
        raise InputError(f"colour: is of images, not of signals of shape {density.shape}")
    if not 0 < std <= WIDTHS[1]:
        raise InputError(f"std = {std}: must be > 0, at most {WIDTHS[1]:g}")
    if not abs(mean) <= WIDTHS[1]:
        raise InputError(f"mean = {mean}: must be within ±{WIDTHS[1]:g}")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        spectrum = density * (std**2 / density.mean())
    if not (np.all(np.isfinite(spectrum)) and spectrum.max() > 0):
        raise InputError(f"{source}: beyond the range of floating-point numbers")
    low, high = map(float, pixel_range)
    centre = np.full(density.shape, float(mean))
    if not colour:
        return Prior(spectrum, centre, (low, high), source)
    of_axes = len(SHARES) * np.asarray(SHARES)[:, None, None] * spectrum
    nothing = np.zeros_like(centre)
    turned = np.stack([nothing, nothing, np.sqrt(3) * centre])  # all planes alike: grey
    words = ", ".join(f"{share:g}" for share in SHARES)
    source = f"{source}, variance of three axes of colour {words}"
    return Prior(of_axes, turned, (low, high), source, axes=AXES.copy())


def frequency(shape: tuple[int, ...]) -> np.ndarray:
    """|f| in cycles per pixel on the FFT grid, [*shape].

    Squares are summed over integers when the grid is square, so equal |f| are equal numbers.
    """
    axes = np.meshgrid(*(np.rint(np.fft.fftfreq(n) * n) for n in shape), indexing="ij")
    if len(set(shape)) == 1:
        return np.sqrt(sum(axis**2 for axis in axes)) / shape[0]
    return np.sqrt(sum((axis / n) ** 2 for axis, n in zip(axes, shape, strict=True)))


def _check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = check_shape(shape, 2)
    if len(shape) > 2:
        raise InputError(f"shape = {shape}: one or two axes are needed")
    if math.prod(shape) > MAX_VALUES:
        raise InputError(f"shape = {shape}: at most {MAX_VALUES} pixels")
    return shape


def has_pixelwise_mean(prior: Prior) -> bool:
    """Whether the mean differs from pixel to pixel, as of aligned images."""
    size_axes = tuple(range(-len(prior.shape), 0))
    return bool(np.any(np.ptp(prior.mean, axis=size_axes) > 0))


def draw(prior: Prior, num: int, seed: int = 0) -> np.ndarray:
    """Independent samples of the prior, [num, *shape], of colour [num, C, H, W].

    Raises InputError for num < 1 or seed < 0, or if one is not a whole number.

    >>> sp.draw(prior, 4, seed=0).shape
    (4, 8, 8)
    """
    num, seed = check_whole("num", num), check_whole("seed", seed, 0)
    white = np.random.default_rng(seed).normal(size=(num, *prior.spectrum.shape))
    axes = tuple(range(-len(prior.shape), 0))
    shaped = np.sqrt(prior.spectrum) * np.fft.fftn(white, axes=axes)
    return prior.along_planes(prior.mean + np.fft.ifftn(shaped, axes=axes).real)


def excess_kurtosis(prior: Prior, planes: np.ndarray | Iterable[np.ndarray]) -> float:
    """How far planes [N, H, W] are from the model: 0 for Gaussian, > 0 for images with edges.

    Each plane is whitened by the prior's spectrum, which turns the model into independent standard
    normal pixels; returned is their fourth moment / squared second moment - 3. Planes as for
    `from_images`; of colour, along the axes.
    """
    amplitude = np.sqrt(prior.spectrum)
    inverse = np.divide(1, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
    num, second, fourth = 0, 0.0, 0.0
    for batch in batches(planes, colour=prior.axes is not None):
        whitened = np.fft.ifft2(np.fft.fft2(prior.along_axes(batch) - prior.mean) * inverse).real
        square = whitened**2
        num += square.size
        second += square.sum()
        fourth += np.sum(square**2)  # much faster than the fourth power
    return float(num * fourth / second**2 - 3)
