"""Gaussian priors given by a mean and a power spectrum.

The prior is x_0 ~ N(mean, C) with C stationary on a periodic grid: the discrete Fourier transform
diagonalises it. `spectrum` holds its eigenvalues in the order of `numpy.fft.fftn`, normalised to
the unitary transform, so that

    spectrum[k] = E |F (x_0 - mean)|_k^2,       mean over k of spectrum = variance of a pixel.

All values are in units of the pixel range (spectrum in its square).
"""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jax import Array

from .algebra import safe_divide
from .errors import InputError
from .files import whole_file
from .images import PIXEL_RANGE, PixelRange, check_pixel_range
from .noise import NoiseLevel


@dataclass(frozen=True, eq=False)
class Prior:
    """A stationary Gaussian prior for one plane."""

    spectrum: np.ndarray  # [H, W] (or [n] for signals), variances >= 0, FFT order
    mean: np.ndarray  # [H, W]
    pixel_range: PixelRange
    source: str  # where it comes from, in words

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spectrum.shape

    @property
    def hash(self) -> str:
        """Of spectrum, mean and pixel range: equal for priors that are the same numbers."""
        digest = hashlib.sha256()
        for part in (self.spectrum, self.mean, np.asarray(self.pixel_range)):
            digest.update(repr(part.shape).encode())
            digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]


def denoiser_gain(spectrum: Array, level: NoiseLevel) -> Array:
    """d E[x_0 | x_t] / d x_t, mode by mode: alpha spectrum / (alpha^2 spectrum + sigma^2)."""
    return safe_divide(level.alpha * spectrum, noisy_variance(spectrum, level))


def noisy_variance(variance: Array, level: NoiseLevel) -> Array:
    """Variance of x_t where x_0 has `variance`: alpha^2 variance + sigma^2."""
    return level.alpha**2 * variance + level.sigma**2


def power_law(
    shape: tuple[int, ...],
    exponent: float = 2.0,
    *,
    std: float = 0.5,
    mean: float = 0.0,
    pixel_range: PixelRange = PIXEL_RANGE,
) -> Prior:
    """spectrum proportional to |f|^-exponent, the classical model of natural images (exponent 2).

    f is in cycles per pixel; the constant component is given the variance of the lowest frequency.
    `std` is the standard deviation of a pixel.
    """
    f = frequency(_check_shape(shape))
    density = np.maximum(f, 1 / max(shape)) ** -float(exponent)
    source = f"power law, exponent {exponent:g}, std {std:g}"
    return _with_std(density, std, mean, pixel_range, source)


def matern(
    shape: tuple[int, ...],
    length: float = 8.0,
    smoothness: float = 1.0,
    *,
    std: float = 0.5,
    mean: float = 0.0,
    pixel_range: PixelRange = PIXEL_RANGE,
) -> Prior:
    """spectrum proportional to (2 nu / length^2 + 4 pi^2 |f|^2)^-(nu + d/2), nu = smoothness.

    `length` is the correlation length in pixels, d the number of dimensions, `std` the standard
    deviation of a pixel. Source: Rasmussen, Williams, "Gaussian Processes for Machine Learning",
    2006, equation (4.15).
    """
    if not (length > 0 and smoothness > 0):
        raise InputError(f"length = {length}, smoothness = {smoothness}: both must be > 0")
    f = frequency(_check_shape(shape))
    decay = smoothness + len(shape) / 2
    density = (2 * smoothness / length**2 + 4 * np.pi**2 * f**2) ** -decay
    source = f"Matern, length {length:g} pixels, smoothness {smoothness:g}, std {std:g}"
    return _with_std(density, std, mean, pixel_range, source)


def from_images(
    planes: np.ndarray,
    *,
    mean: Literal["constant", "pixelwise"] = "constant",
    window: Literal["none", "hann"] = "none",
    pixel_range: PixelRange = PIXEL_RANGE,
    source: str = "images",
) -> Prior:
    """Mean and power spectrum (averaged periodogram) of a set of planes [N, H, W].

    mean     "constant": one grey value, which is all that a stationary model has. "pixelwise": the
             average plane, for aligned sets such as faces (wants many more images than one).
    window   "none": the spectrum of the planes as they are, wrapped around. Circular degradations
             act on the wrapped plane, so this describes exactly the signals they see, the jump at
             the border included (a bright cross along the axes). "hann": tapers the jump away and
             describes the scene behind the border instead.

    Raises InputError for an empty set, a wrong shape, NaN, or pixels outside of `pixel_range`.
    """
    check_pixel_range(pixel_range)
    planes = np.asarray(planes, dtype=float)
    if planes.ndim != 3 or 0 in planes.shape:
        raise InputError(f"planes of shape {planes.shape}: [N, H, W] with N >= 1 is needed")
    if not np.all(np.isfinite(planes)):
        raise InputError("planes: NaN or infinite pixels")
    low, high = pixel_range
    slack = 1e-6 * (high - low)  # float32 images carried through a change of range
    if planes.min() < low - slack or planes.max() > high + slack:
        raise InputError(
            f"planes: pixels from {planes.min():g} to {planes.max():g}, "
            f"outside of the pixel range [{low:g}, {high:g}]"
        )
    if mean not in ("constant", "pixelwise"):
        raise InputError(f"mean = {mean!r}: allowed are constant, pixelwise")
    if window not in ("none", "hann"):
        raise InputError(f"window = {window!r}: allowed are none, hann")
    shape = planes.shape[1:]
    centre = planes.mean(axis=0) if mean == "pixelwise" else np.full(shape, planes.mean())
    taper = np.ones(shape)
    if window == "hann":
        taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
        taper /= np.sqrt(np.mean(taper**2))  # keeps the variance of a white signal
    power = np.zeros(shape)
    for plane in planes:  # one at a time: a set of photographs need not fit in memory twice
        power += np.abs(np.fft.fft2(taper * (plane - centre), norm="ortho")) ** 2
    if power.max() <= (1e-12 * (high - low)) ** 2 * power.size * len(planes):
        raise InputError("planes: no variance; a prior needs images that differ from their mean")
    return Prior(power / len(planes), centre, (float(low), float(high)), source)


def resized(prior: Prior, shape: tuple[int, ...]) -> Prior:
    """The same random field on a periodic grid of another size.

    The spectrum is a density in cycles per pixel, hence read off at the new grid's frequencies
    (linear in its logarithm; between the constant component and the old grid's lowest frequency
    where the new grid is finer). A mean that is not constant cannot be resized: InputError.
    """
    if shape == prior.shape:
        return prior
    if np.ptp(prior.mean) > 0:
        raise InputError(f"a pixelwise mean of size {prior.shape} cannot be used at size {shape}")
    from scipy.ndimage import map_coordinates

    log_density = np.log(np.maximum(prior.spectrum, np.finfo(float).tiny))
    where = np.meshgrid(
        *(np.fft.fftfreq(n) * old for n, old in zip(shape, prior.shape, strict=True)), indexing="ij"
    )
    density = np.exp(map_coordinates(log_density, where, order=1, mode="grid-wrap"))
    source = f"{prior.source}, resized from {'x'.join(map(str, prior.shape))}"
    return Prior(density, np.full(shape, prior.mean.flat[0]), prior.pixel_range, source)


def save_prior(path: str | os.PathLike[str], prior: Prior) -> None:
    """Write a prior as .npz (plain arrays, no pickle); InputError if the file exists."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            spectrum=prior.spectrum,
            mean=prior.mean,
            pixel_range=np.asarray(prior.pixel_range),
            source=np.asarray(prior.source),
        )


def load_prior(path: str | os.PathLike[str]) -> Prior:
    """Read a prior written by `save_prior`; InputError if the file is missing or not one."""
    try:
        # Opened here, since NumPy leaves a broken archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            low, high = stored["pixel_range"].tolist()
            return Prior(stored["spectrum"], stored["mean"], (low, high), str(stored["source"]))
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"prior {str(path)!r}: missing, or not a prior file") from error


def _with_std(
    density: np.ndarray, std: float, mean: float, pixel_range: PixelRange, source: str
) -> Prior:
    check_pixel_range(pixel_range)
    if not std > 0:
        raise InputError(f"std = {std}: must be > 0")
    spectrum = density * (std**2 / density.mean())
    low, high = pixel_range
    return Prior(spectrum, np.full(density.shape, float(mean)), (float(low), float(high)), source)


def frequency(shape: tuple[int, ...]) -> np.ndarray:
    """|f| in cycles per pixel on the FFT grid, [*shape].

    Squares are summed over integers when the grid is square, so equal |f| are equal numbers.
    """
    axes = np.meshgrid(*(np.rint(np.fft.fftfreq(n) * n) for n in shape), indexing="ij")
    if len(set(shape)) == 1:
        return np.sqrt(sum(axis**2 for axis in axes)) / shape[0]
    return np.sqrt(sum((axis / n) ** 2 for axis, n in zip(axes, shape, strict=True)))


def _check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= 2 or any(int(n) != n or n < 2 for n in shape):
        raise InputError(f"shape = {shape}: one or two whole numbers >= 2 are needed")
    return shape


def draw(prior: Prior, num: int, seed: int = 0) -> np.ndarray:
    """Independent samples of the prior, [num, *shape]."""
    white = np.random.default_rng(seed).normal(size=(num, *prior.shape))
    axes = tuple(range(1, white.ndim))
    shaped = np.sqrt(prior.spectrum) * np.fft.fftn(white, axes=axes)
    return prior.mean + np.fft.ifftn(shaped, axes=axes).real


def excess_kurtosis(prior: Prior, planes: np.ndarray) -> float:
    """How far planes [N, H, W] are from the model: 0 for Gaussian, > 0 for images with edges.

    Each plane is whitened by the prior's spectrum, which turns the model into independent standard
    normal pixels; returned is their fourth moment / squared second moment - 3.
    """
    amplitude = np.sqrt(prior.spectrum)
    inverse = np.divide(1, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
    second = fourth = 0.0
    for plane in planes:
        whitened = np.fft.ifft2(np.fft.fft2(plane - prior.mean) * inverse).real
        second += np.mean(whitened**2)
        fourth += np.mean(whitened**4)
    return float(len(planes) * fourth / second**2 - 3)
