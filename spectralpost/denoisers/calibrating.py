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
from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import Prior, frequency, resized

RINGS = 12  # of radial frequency
BATCH = 32  # images denoised at once
ENOUGH, TOO_FEW = 0.05, 0.2  # standard error of a ratio that is good, and that is refused


def calibrate(
    prior: Prior,
    denoiser: Callable[[Array, NoiseLevel], Array],
    images: ArrayLike,
    *,
    seed: int = 0,
) -> Prior:
    """The prior with the `Profile` of a denoiser, measured on images by forward passes only.

    images   [N, H, W] or [N, planes, H, W], in the prior's pixel range, like those that the prior
             is of, better none that the denoiser was trained on; the prior is resized to theirs.
             Planes count alike, or by axis where the prior is of colour. Each is denoised once at
             each of `LEVELS`, alpha = 1
    denoiser (x_t, t) -> x_hat of a batch of such images

    The ratio of a ring of frequencies is its squared error over that of the prior's Gaussian
    denoiser (the expectation, not that on these images), at most 1. The samplers which multiply by
    the denoiser's Jacobian then have closed forms with J = ratio x gain: see `calibration`. Source:
    Tweedie's second identity, Cov(x_0 | x_t) = (sigma^2 / alpha) J.

    Raises InputError for images of another size or range than the denoiser's, a denoiser that
    returns another shape or NaN, and too few images.

    >>> images = sp.draw(prior, 64).clip(-1, 1)
    >>> calibrated = sp.calibrate(prior, sp.GaussianDenoiser.of(prior), images)
    >>> calibrated.calibration.ratio.shape  # rings of frequency, noise levels
    (10, 12)
    """
    x_0 = as_floating("images", images)
    if x_0.ndim not in (3, 4) or 0 in x_0.shape:
        raise InputError(f"images of shape {x_0.shape}: [N, H, W] or [N, planes, H, W] is needed")
    low, high = prior.pixel_range
    if not (jnp.min(x_0) >= low and jnp.max(x_0) <= high):
        raise InputError(f"images: pixels outside of the prior's range {low:g} to {high:g}, or NaN")
    if prior.axes is not None and x_0.shape[1:-2] != prior.axes.shape[:1]:
        raise InputError(f"images of shape {x_0.shape}: {len(prior.axes)} planes are needed")
    size = x_0.shape[-2:]
    spectra = resized(prior, size).spectrum.reshape(-1, *size)
    ring, centres = _rings(frequency(size))
    run = jax.jit(lambda x_t, t: denoiser(x_t, t))
    ratio = np.zeros((len(spectra), len(centres), LEVELS.size))
    worst = 0.0
    for k, level in enumerate(LEVELS * (high - low) / 2):
        t = NoiseLevel(jnp.ones((), x_0.dtype), jnp.asarray(level, x_0.dtype))
        key = jax.random.fold_in(jax.random.key(seed), k)
        parts = []
        for i in range(0, len(x_0), BATCH):
            batch = x_0[i : i + BATCH]
            eps = jax.random.normal(jax.random.fold_in(key, i), batch.shape, batch.dtype)
            x_hat = _checked(run(batch + t.sigma * eps, t), batch)
            error = prior.along_axes(x_hat - batch)
            parts.append(_ring_energy(np.asarray(error, float), ring, len(spectra)))
        of_images = np.concatenate(parts)  # [N, axes, R]
        variances = level**2 * spectra / (spectra + level**2)
        expected = np.stack([np.bincount(ring, one.ravel()) for one in variances])
        mean = of_images.mean(axis=0)
        measured = np.divide(mean, expected, out=np.ones_like(mean), where=expected > 0)
        # The exact denoiser is nowhere worse than the Gaussian one. What a network has beyond is
        # its own error, no covariance: Tweedie's identity does not hold of it.
        ratio[..., k] = np.minimum(measured, 1)
        error = of_images.std(axis=0, ddof=1) / np.sqrt(len(x_0)) if len(x_0) > 1 else np.inf
        worst = max(worst, float(np.median(error / np.maximum(mean, np.finfo(float).tiny))))
    if worst > TOO_FEW:
        needed = len(x_0) * (worst / ENOUGH) ** 2 if len(x_0) > 1 else 64
        raise InputError(
            f"images: {len(x_0)} calibrate to {worst:.0%} only; about {needed:.0f} are needed for "
            f"{ENOUGH:.0%}"
        )
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


def _checked(x_hat: Array, batch: Array) -> Array:
    if x_hat.shape != batch.shape:
        raise InputError(f"denoiser: returns the shape {x_hat.shape} for {batch.shape}")
    if not jnp.all(jnp.isfinite(x_hat)):
        raise InputError("denoiser: returns NaN or infinite pixels")
    return x_hat
