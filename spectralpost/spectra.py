"""Power spectra of stationary fields: estimated from planes, carried to a grid of another size.

In the order and the unitary normalisation of `prior`: the mean over all frequencies is the variance
of a pixel, and the value at 0 is N_pixels times the variance of the mean grey value.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal

import jax
import numpy as np

from .algebra import is_real
from .errors import InputError, times
from .images import PIXEL_RANGE, check_pixels

BATCH = 2**18  # pixels that are transformed at a time: many small planes, or one large one


def mean_and_spectrum(
    planes: np.ndarray | Iterable[np.ndarray],
    colour: bool,
    mean: Literal["constant", "pixelwise"],
    window: Literal["none", "hann"],
    pixel_range: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [C, H, W] and averaged cross-periodograms [C, C, H, W] (their real parts) of images
    [C, H, W]; without colour each plane is an image, C = 1. See `prior.from_images`."""
    low, high = pixel_range
    num, centre, power, taper = 0, np.zeros(0), np.zeros(0), np.ones(0)
    least = np.inf
    for batch in batches(planes, colour):
        images = batch if colour else batch[:, None]
        check_pixels("planes", images, pixel_range)
        least = min(least, float(images.min()))
        if num == 0:
            if colour and images.shape[1] > 4 and images.shape[3] in (3, 4):
                size = times(images.shape[1:])
                raise InputError(f"planes of {size}: colour comes first, [N, C, H, W] is needed")
            centre = np.zeros(images.shape[1:])
            power = np.zeros((images.shape[1], *images.shape[1:]))
            taper = _taper(images.shape[2:], window)
        # Means and sums of squares about them, merged frequency by frequency: nothing cancels.
        # Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983.
        count, average = len(images), images.mean(axis=0)
        difference = average - centre
        power += _periodograms(taper * (images - average))
        power += num * count / (num + count) * _periodograms(taper * difference[None])
        num += count
        centre += count / num * difference
    if num == 0:
        raise InputError("planes: none; [N, H, W] with N >= 1 is needed")
    if mean == "constant":
        average = centre
        centre = np.broadcast_to(average.mean(axis=(1, 2), keepdims=True), average.shape).copy()
        power += num * _periodograms(taper * (average - centre)[None])
    if power.max() <= (1e-12 * (high - low)) ** 2 * centre[0].size * num:
        raise InputError("planes: no variance; a prior needs images that differ from their mean")
    if least >= 0 and (low, high) == PIXEL_RANGE:
        warnings.warn("no pixel is below 0: are these images in [0, 1], not [-1, 1]?", stacklevel=3)
    return centre, power / num


def batches(
    planes: np.ndarray | Iterable[np.ndarray], colour: bool = False
) -> Iterator[np.ndarray]:
    """Planes as float64 [n, H, W], of colour images as [n, C, H, W], about `BATCH` pixels at a
    time.

    From an array [N, H, W] ([N, C, H, W]), or from anything that yields planes [H, W] ([C, H, W])
    or sets of them [..., H, W]. Raises InputError for another shape and for two sizes.
    """
    ndim, needed = (3, "planes, H, W]") if colour else (2, "H, W]")
    if isinstance(planes, np.ndarray | jax.Array):  # others may be longer than memory
        planes = np.asarray(planes)
        if planes.ndim != ndim + 1 or 0 in planes.shape:
            kind = "images" if colour else "planes"
            raise InputError(f"{kind} of shape {planes.shape}: [N, {needed} with N >= 1 is needed")
        planes = [planes]
    shape = None
    for given in planes:
        some = np.asarray(given)
        if not (is_real(some.dtype) or some.dtype == np.bool_):
            raise InputError(f"planes of dtype {some.dtype}: real numbers are needed")
        if some.ndim < ndim or 0 in some.shape[-2:]:
            raise InputError(f"a plane of shape {some.shape}: [{needed} is needed")
        shape = shape or some.shape[-ndim:]
        if some.shape[-2:] != shape[-2:]:
            sizes = sorted(times(size[-2:]) for size in (shape, some.shape))
            raise InputError(f"images of mixed sizes: {', '.join(sizes)}")
        if some.shape[-ndim:] != shape:
            raise InputError(f"images of {some.shape[-3]} planes among others of {shape[0]}")
        some = some.reshape(-1, *shape)
        count = max(1, BATCH // some[0].size) if len(some) else 1
        for start in range(0, len(some), count):
            yield some[start : start + count].astype(float)


def _taper(shape: tuple[int, ...], window: str) -> np.ndarray:
    """The window [H, W]; its mean square is 1, which keeps the variance of a white signal."""
    if window == "none":
        return np.ones(shape)
    taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
    return taper / np.sqrt(np.mean(taper**2))


def _periodograms(images: np.ndarray) -> np.ndarray:
    """Products of the transforms of all pairs of planes, summed over images: [C, C, H, W]."""
    turned = np.fft.fft2(images, norm="ortho")
    pairs = [(turned[:, c, None] * turned.conj()).real.sum(axis=0) for c in range(images.shape[1])]
    return np.stack(pairs)


def on_grid(spectrum: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The spectrum of the same field on a periodic grid of another size, the pixels as large.

    A smaller grid is a crop, a larger one shows more of the scene. Each frequency of a grid of n
    pixels stands for a band 1/n wide, and the variance in a band is the same on every grid: the
    new spectrum is the mean of the old one over the new frequency's band. So

    * the variance of a pixel is kept exactly, and a flat stretch of the spectrum its value;
    * in a crop the mean grey value takes over the variance of all waves too slow for the crop;
    * on a larger grid the mean grey value keeps the variance that it has beyond its neighbours. A
      constant component higher than the slowest waves lead to expect is a peak at 0: it stays
      there, N_pixels times the variance of a grey value that is common to all pixels, and is not
      smeared over the new, slower waves. Expected is the power law from the second slowest to the
      slowest wave, carried on by one octave.

    Not known is the jump of an image at its border, whose share grows in a crop.
    """
    density, zero = spectrum.astype(float), (0,) * len(shape)
    common = (density[zero] - _expected_at_zero(density)) / density.size
    density[zero] -= common * density.size
    for axis, (new, old) in enumerate(zip(shape, spectrum.shape, strict=True)):
        density = np.moveaxis(np.tensordot(_shared_band(new, old), density, (1, axis)), 0, axis)
    density[zero] += common * density.size
    return density


def _expected_at_zero(spectrum: np.ndarray) -> float:
    """What the slowest waves say of the spectrum at 0; at most what it is."""
    axes = [axis for axis, n in enumerate(spectrum.shape) if n > 1]
    if not axes:
        return float(spectrum.flat[0])
    first, second = (
        np.mean([spectrum.take(min(k, spectrum.shape[axis] // 2), axis).flat[0] for axis in axes])
        for k in (1, 2)
    )
    steepness = max(first / second, 1.0) if second > 0 else 1.0
    return float(min(spectrum.flat[0], first * steepness))


def _shared_band(new: int, old: int) -> np.ndarray:
    """Part of each new frequency's band that lies in that of an old one, [new, old]; rows add to 1.

    Bands of 1/new and 1/old around the frequencies of a periodic axis.
    """
    # In units of 1 / (2 new old), in which all edges are whole numbers; once around is 2 new old.
    apart = 2 * old * np.arange(new)[:, None] - 2 * new * np.arange(old)[None]
    turns = np.array([-1, 0, 1])[:, None, None] * 2 * new * old
    overlap = np.clip(old + new - np.abs(apart + turns), 0, 2 * min(old, new)).sum(axis=0)
    return overlap / (2 * old)
