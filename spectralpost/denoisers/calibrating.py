"""How much a denoiser's error, and so its Jacobian, differs from the Gaussian model's."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import as_floating
from ..calibration import LEVELS, Profile
from ..denoiser_checks import all_finite, as_returned, check_made_for, level_in_words
from ..errors import InputError, check_kind
from ..images import check_pixels
from ..noise import NoiseLevel
from ..prior import Prior, denoiser_variance, frequency, resized

RINGS = 12  # of radial frequency
BATCH = 32  # images denoised at once
ENOUGH, TOO_FEW = 0.05, 0.2  # standard error of a ratio that is good, and that is refused
POOR = 4.0  # times the Gaussian denoiser's squared error, which is said


def calibrate(
    prior: Prior,
    denoiser: Callable[[Array, NoiseLevel], Array],
    images: ArrayLike,
    *,
    seed: int = 0,
    notice: Callable[[str], None] | None = None,
) -> Prior:
    """The prior with the `Profile` of a denoiser, measured on images by forward passes only.

    images   [N, H, W] or [N, planes, H, W], in the prior's pixel range, like those that the prior
             is of, better none that the denoiser was trained on; the prior is resized to theirs.
             Planes count alike, or by axis where the prior is of colour. Each is denoised once at
             each of `LEVELS`, alpha = 1
    denoiser (x_t, t) -> x_hat of a batch of such images
    notice   called with a line if the ratios' standard error (its median over the rings, at the
             worst level) is more than 5 %: how many images would do; and if at some level the
             denoiser has more than 4 times the squared error of the Gaussian one

    The ratio of a ring of frequencies is its squared error over that of the prior's Gaussian
    denoiser (the expectation, not that on these images), at most 1. The samplers which multiply by
    the denoiser's Jacobian then have closed forms with J = ratio x gain: see `calibration`. Source:
    Tweedie's second identity, Cov(x_0 | x_t) = (sigma^2 / alpha) J.

    Raises InputError for images of another size or range than the prior's (outside of its pixel
    range; all on one side of its mean, as those in [0, 1] are for [-1, 1]), a network that is known
    to be for another range, a denoiser that returns no real images of the same shape, or NaN, and
    so few images that the error is more than 20 %.

    >>> images = sp.draw(prior, 64).clip(-1, 1)
    >>> calibrated = sp.calibrate(prior, sp.GaussianDenoiser.of(prior), images)
    >>> calibrated.calibration.ratio.shape  # rings of frequency, noise levels
    (10, 12)
    """
    check_kind("prior", prior, Prior)
    x_0 = as_floating("images", images)
    if x_0.ndim not in (3, 4) or 0 in x_0.shape:
        raise InputError(f"images of shape {x_0.shape}: [N, H, W] or [N, planes, H, W] is needed")
    low, high = prior.pixel_range
    check_pixels("images", x_0, prior.pixel_range)
    check_made_for(denoiser, prior.pixel_range)
    if prior.axes is not None and x_0.shape[1:-2] != prior.axes.shape[:1]:
        raise InputError(f"images of shape {x_0.shape}: {len(prior.axes)} planes are needed")
    size = x_0.shape[-2:]
    here = resized(prior, size)
    _check_like_the_prior(np.asarray(x_0), here)
    spectra = here.spectrum.reshape(-1, *size)
    ring, centres = _rings(frequency(size))
    run = jax.jit(lambda x_t, t: as_returned(denoiser(x_t, t), x_t))
    ratio = np.zeros((len(spectra), len(centres), LEVELS.size))
    worst, times_worse = 0.0, np.ones(LEVELS.size)
    for k, level in enumerate(LEVELS * (high - low) / 2):
        t = NoiseLevel(jnp.ones((), x_0.dtype), jnp.asarray(level, x_0.dtype))
        key = jax.random.fold_in(jax.random.key(seed), k)
        parts = []
        for i in range(0, len(x_0), BATCH):
            batch = x_0[i : i + BATCH]
            eps = jax.random.normal(jax.random.fold_in(key, i), batch.shape, batch.dtype)
            x_hat = run(batch + t.sigma * eps, t)
            if not all_finite(x_hat):
                at = level_in_words(t)
                raise InputError(f"denoiser: returns NaN or infinite pixels at the level {at}")
            error = prior.along_axes(x_hat - batch)
            parts.append(_ring_energy(np.asarray(error, float), ring, len(spectra)))
        of_images = np.concatenate(parts)  # [N, axes, R]
        variances = np.asarray(denoiser_variance(jnp.asarray(spectra, x_0.dtype), t), float)
        expected = np.stack([np.bincount(ring, one.ravel()) for one in variances])
        mean = of_images.mean(axis=0)
        measured = np.divide(mean, expected, out=np.ones_like(mean), where=expected > 0)
        times_worse[k] = mean.sum() / expected.sum()
        # The exact denoiser is nowhere worse than the Gaussian one. What a network has beyond is
        # its own error, no covariance: Tweedie's identity does not hold of it.
        ratio[..., k] = np.minimum(measured, 1)
        error = of_images.std(axis=0, ddof=1) / np.sqrt(len(x_0)) if len(x_0) > 1 else np.inf
        worst = max(worst, float(np.median(error / np.maximum(mean, np.finfo(float).tiny))))
    if notice is not None and times_worse.max() > POOR:
        first = LEVELS[np.argmax(times_worse > POOR)] * (high - low) / 2
        notice(
            f"denoiser: its squared error is {times_worse.max():.3g} times that of the Gaussian "
            f"one, more than {POOR:g} times from sigma / alpha = {first:.3g} on; GaussianAbove "
            "puts that in its place where a network was not trained"
        )
    if worst > ENOUGH:
        needed = len(x_0) * (worst / ENOUGH) ** 2 if len(x_0) > 1 else 64
        reached = f"{len(x_0)} calibrate to {worst:.0%} only" if len(x_0) > 1 else "1 is too few"
        words = f"images: {reached}; about {needed:.0f} are needed for {ENOUGH:.0%}"
        if worst > TOO_FEW:
            raise InputError(words)
        if notice is not None:
            notice(words)
    profile = Profile(centres, ratio[0] if prior.axes is None else ratio)
    return replace(prior, calibration=profile)


def _rings(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ring of each frequency, from 0, and the mean frequency of each ring; none is empty."""
    f = np.ravel(f)
    edges = np.linspace(0, f.max(), RINGS + 1)[1:-1]
    ring = np.unique(np.searchsorted(edges, f), return_inverse=True)[1]
    return ring, np.bincount(ring, f) / np.bincount(ring)


def _ring_energy(errors: np.ndarray, ring: np.ndarray, axes: int) -> np.ndarray:
    """Energy of errors [N, (planes,) H, W] in each ring, by axis or (axes = 1) of all planes.

    Returns [N, axes, R].
    """
    power = np.abs(np.fft.fft2(errors, norm="ortho")) ** 2
    power = power.reshape(len(errors), axes, -1, ring.size).mean(axis=2)
    return np.stack([[np.bincount(ring, one) for one in image] for image in power])


def _check_like_the_prior(images: np.ndarray, prior: Prior) -> None:
    """InputError unless some pixels are above the prior's mean, and some below."""
    mean = prior.along_planes(prior.mean)
    if np.all(images >= mean) or np.all(images <= mean):
        low, high = prior.pixel_range
        raise InputError(
            f"images: pixels from {images.min():g} to {images.max():g}, all on one side of the "
            f"prior's mean {mean.mean():.3g}; images like the prior's are needed, in its pixel "
            f"range [{low:g}, {high:g}]"
        )
