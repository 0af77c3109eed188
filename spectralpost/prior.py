"""Gaussian priors given by a mean and a power spectrum.

The prior is x_0 ~ N(mean, C) with C stationary on a periodic grid: the discrete Fourier transform
diagonalises it. `spectrum` holds its eigenvalues in the order of `numpy.fft.fftn`, normalised to
the unitary transform, so that

    spectrum[k] = E |F (x_0 - mean)|_k^2,       mean over k of spectrum = variance of a pixel.

All values are in units of the pixel range (spectrum in its square).
"""

import hashlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from jax import Array

from .algebra import safe_divide
from .calibration import LEVELS, Profile
from .errors import InputError
from .files import whole_file
from .images import PIXEL_RANGE, WIDTHS, PixelRange, check_pixel_range, printable
from .noise import NoiseLevel
from .spectra import batches, mean_and_spectrum, on_grid

MAX_VALUES = 2**25  # of a stored prior: a square of 5792 pixels, 256 MiB
MAX_VARIANCE = WIDTHS[1] ** 2 * MAX_VALUES  # of a mode: all pixels swing alike, as far as allowed


@dataclass(frozen=True, eq=False)
class Prior:
    """A stationary Gaussian prior for one plane."""

    spectrum: np.ndarray  # [H, W] (or [n] for signals), variances >= 0, FFT order
    mean: np.ndarray  # [H, W]
    pixel_range: PixelRange
    source: str  # where it comes from, in words
    calibration: Profile | None = None  # of the denoiser that is used with it, see `calibrate`

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spectrum.shape

    @property
    def hash(self) -> str:
        """Of all numbers: equal for priors that are the same."""
        digest = hashlib.sha256()
        numbers = (self.spectrum, self.mean, np.asarray(self.pixel_range))
        for part in (*numbers, *(self.calibration or ())):
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
    with np.errstate(over="ignore"):  # refused below
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
    with np.errstate(over="ignore", divide="ignore"):  # refused below
        density = (2 * smoothness / np.float64(length) ** 2 + 4 * np.pi**2 * f**2) ** -decay
    source = f"Matern, length {length:g} pixels, smoothness {smoothness:g}, std {std:g}"
    return _with_std(density, std, mean, pixel_range, source)


def from_images(
    planes: np.ndarray | Iterable[np.ndarray],
    *,
    mean: Literal["constant", "pixelwise"] = "constant",
    window: Literal["none", "hann"] = "none",
    pixel_range: PixelRange = PIXEL_RANGE,
    source: str = "images",
) -> Prior:
    """Mean and power spectrum (averaged periodogram) of a set of planes [N, H, W].

    planes   an array, or anything that yields planes [H, W] or sets of them [..., H, W]: it is gone
             through once, so that a folder need not fit in memory. Summed in float64.
    mean     "constant": one grey value, which is all that a stationary model has. "pixelwise": the
             average plane, for aligned sets such as faces (wants many more images than one).
    window   "none": the spectrum of the planes as they are, wrapped around. Circular degradations
             act on the wrapped plane, so this describes exactly the signals they see, the jump at
             the border included (a bright cross along the axes). "hann": tapers the jump away and
             describes the scene behind the border instead.

    Raises InputError for an empty set, a wrong shape, NaN, or pixels outside of `pixel_range`.
    """
    check_pixel_range(pixel_range)
    if mean not in ("constant", "pixelwise"):
        raise InputError(f"mean = {mean!r}: allowed are constant, pixelwise")
    if window not in ("none", "hann"):
        raise InputError(f"window = {window!r}: allowed are none, hann")
    low, high = map(float, pixel_range)
    if isinstance(planes, np.ndarray) and (planes.ndim != 3 or 0 in planes.shape):
        raise InputError(f"planes of shape {planes.shape}: [N, H, W] with N >= 1 is needed")
    centre, spectrum = mean_and_spectrum(planes, mean, window, (low, high))
    return Prior(spectrum, centre, (low, high), source)


def resized(prior: Prior, shape: tuple[int, ...]) -> Prior:
    """The same random field on a periodic grid of another size, the pixels as large as before.

    A smaller grid is a crop, a larger one shows more of the scene: `spectra.on_grid` says what is
    kept, first of all the variance of a pixel, exactly. A mean that is not constant cannot be
    resized: InputError.
    """
    if shape == prior.shape:
        return prior
    if len(shape) != len(prior.shape):
        raise InputError(f"a prior of size {prior.shape} cannot be used at size {shape}")
    if np.ptp(prior.mean) > 0:
        raise InputError(f"a pixelwise mean of size {prior.shape} cannot be used at size {shape}")
    spectrum = on_grid(prior.spectrum, shape)
    source = f"{prior.source}, resized from {'x'.join(map(str, prior.shape))}"
    mean = np.full(shape, prior.mean.flat[0])
    return Prior(spectrum, mean, prior.pixel_range, source, prior.calibration)


def save_prior(path: str | os.PathLike[str], prior: Prior) -> None:
    """Write a prior as .npz (plain arrays, no pickle); InputError if the file exists."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            spectrum=prior.spectrum,
            mean=prior.mean,
            pixel_range=np.asarray(prior.pixel_range),
            source=np.asarray(prior.source),
            **({} if prior.calibration is None else prior.calibration._asdict()),
        )


def load_prior(path: str | os.PathLike[str]) -> Prior:
    """Read a prior written by `save_prior`.

    Raises InputError if the file is missing, is not one, or holds what no prior has: other types or
    shapes, numbers that are not finite, a negative spectrum, more than `MAX_VALUES` values.
    """
    name = f"prior {str(path)!r}"
    if not os.path.isfile(path):
        raise InputError(f"{name}: missing, or not a prior file")
    try:
        # Opened here, since NumPy leaves a broken archive open.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old versions of the format
            _check_archive(file, name)
            with np.load(file, allow_pickle=False) as stored:
                spectrum, mean, pixel_range, source = (stored[key] for key in _STORED)
                profile = [stored[key] for key in Profile._fields if key in stored.files]
    except InputError:
        raise
    except Exception as error:  # a broken archive raises a dozen kinds
        raise InputError(f"{name}: missing, or not a prior file") from error
    for key, values in (("spectrum", spectrum), ("mean", mean), ("pixel_range", pixel_range)):
        if values.dtype.kind not in "fiu" or not np.all(np.isfinite(values)):
            raise InputError(f"{name}: {key} must be finite numbers")
    if spectrum.ndim not in (1, 2) or spectrum.size == 0:
        raise InputError(f"{name}: spectrum of shape {spectrum.shape}; [H, W] or [n] is needed")
    if spectrum.min() < 0 or not spectrum.max() < MAX_VARIANCE:
        raise InputError(
            f"{name}: spectrum from {spectrum.min():g} to {spectrum.max():g}; "
            f"allowed is 0 to {MAX_VARIANCE:g}"
        )
    if mean.shape != spectrum.shape:
        raise InputError(f"{name}: mean of shape {mean.shape}, spectrum {spectrum.shape}")
    if pixel_range.shape != (2,):
        raise InputError(f"{name}: pixel_range of shape {pixel_range.shape}; (low, high) is needed")
    if source.dtype.kind != "U" or source.shape != ():
        raise InputError(f"{name}: source must be a text")
    low, high = map(float, pixel_range)
    check_pixel_range((low, high))
    calibration = _checked_profile(name, profile) if profile else None
    source = printable(str(source))
    return Prior(spectrum.astype(float), mean.astype(float), (low, high), source, calibration)


_STORED = ("spectrum", "mean", "pixel_range", "source")


def _checked_profile(name: str, profile: list[np.ndarray]) -> Profile:
    """A calibration that was stored; InputError if its numbers cannot be one."""
    calibration = Profile(*profile) if len(profile) == 2 else None
    if calibration is not None and all(part.dtype.kind == "f" for part in profile):
        frequency, ratio = (part.astype(float) for part in profile)
        rows = frequency.size
        ascending = frequency.ndim == 1 and rows and np.all(np.diff(frequency) > 0)
        finite = np.all(np.isfinite(frequency)) and np.all(np.isfinite(ratio))
        if ascending and finite and ratio.shape == (rows, LEVELS.size) and np.all(ratio >= 0):
            return Profile(frequency, ratio)
    raise InputError(
        f"{name}: a calibration is ascending frequencies [R] and ratios >= 0 [R, {LEVELS.size}]"
    )


def _check_archive(file: BinaryIO, name: str) -> None:
    """InputError if an array is larger than allowed, or than its part of the file: before any of it
    is read, as a few bytes can claim any size."""
    largest = 8 * MAX_VALUES
    with zipfile.ZipFile(file) as archive:
        extra = [key for key in Profile._fields if f"{key}.npy" in archive.namelist()]
        for key in (*_STORED, *extra):
            entry = archive.getinfo(f"{key}.npy")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}[version]
                shape, _, dtype = getattr(np.lib.format, read)(member)
            size = math.prod(shape) * dtype.itemsize
            if size > largest or entry.file_size > largest + 2**16:
                raise InputError(f"{name}: {key} of shape {shape}; at most {MAX_VALUES} values")
            if size > entry.file_size:
                raise InputError(f"{name}: {key} of shape {shape} is cut short")
    file.seek(0)


def _with_std(
    density: np.ndarray, std: float, mean: float, pixel_range: PixelRange, source: str
) -> Prior:
    check_pixel_range(pixel_range)
    if not 0 < std <= WIDTHS[1]:
        raise InputError(f"std = {std}: must be > 0, at most {WIDTHS[1]:g}")
    if not abs(mean) <= WIDTHS[1]:
        raise InputError(f"mean = {mean}: must be within ±{WIDTHS[1]:g}")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        spectrum = density * (std**2 / density.mean())
    if not (np.all(np.isfinite(spectrum)) and spectrum.max() > 0):
        raise InputError(f"{source}: beyond the range of floating-point numbers")
    low, high = map(float, pixel_range)
    return Prior(spectrum, np.full(density.shape, float(mean)), (low, high), source)


def frequency(shape: tuple[int, ...]) -> np.ndarray:
    """|f| in cycles per pixel on the FFT grid, [*shape].

    Squares are summed over integers when the grid is square, so equal |f| are equal numbers.
    """
    axes = np.meshgrid(*(np.rint(np.fft.fftfreq(n) * n) for n in shape), indexing="ij")
    if len(set(shape)) == 1:
        return np.sqrt(sum(axis**2 for axis in axes)) / shape[0]
    return np.sqrt(sum((axis / n) ** 2 for axis, n in zip(axes, shape, strict=True)))


def _check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= 2 or any(n % 1 != 0 or n < 2 for n in shape):
        raise InputError(f"shape = {shape}: one or two whole numbers >= 2 are needed")
    if math.prod(shape) > MAX_VALUES:
        raise InputError(f"shape = {shape}: at most {MAX_VALUES} pixels")
    return shape


def draw(prior: Prior, num: int, seed: int = 0) -> np.ndarray:
    """Independent samples of the prior, [num, *shape]."""
    white = np.random.default_rng(seed).normal(size=(num, *prior.shape))
    axes = tuple(range(1, white.ndim))
    shaped = np.sqrt(prior.spectrum) * np.fft.fftn(white, axes=axes)
    return prior.mean + np.fft.ifftn(shaped, axes=axes).real


def excess_kurtosis(prior: Prior, planes: np.ndarray | Iterable[np.ndarray]) -> float:
    """How far planes [N, H, W] are from the model: 0 for Gaussian, > 0 for images with edges.

    Each plane is whitened by the prior's spectrum, which turns the model into independent standard
    normal pixels; returned is their fourth moment / squared second moment - 3. Planes as for
    `from_images`.
    """
    amplitude = np.sqrt(prior.spectrum)
    inverse = np.divide(1, amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
    num, second, fourth = 0, 0.0, 0.0
    for batch in batches(planes):
        whitened = np.fft.ifft2(np.fft.fft2(batch - prior.mean) * inverse).real
        square = whitened**2
        num += square.size
        second += square.sum()
        fourth += np.sum(square**2)  # much faster than the fourth power
    return float(num * fourth / second**2 - 3)
