"""How well images were restored: the energy score, and other scores beside it."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from spectralpost import energy_score
from spectralpost.prior import frequency

RINGS = 12  # of frequency
DIVERGED = 3.0  # times the median error: such a sample counts as one that has diverged
# What `of_samples` returns, as numbers of which more is better.
SCORES: dict[str, Callable[[float], float]] = {
    "energy": lambda score: -score,
    "crps": lambda score: -score,
    "psnr_mean": lambda decibels: decibels,
    "ssim": lambda similarity: similarity,
    "spectrum": lambda decibels: -decibels,
    "calibration": lambda ratio: -abs(np.log(max(ratio, 1e-3))),
}


def energies(samples: np.ndarray, x_0: np.ndarray) -> np.ndarray:
    """Energy scores [N] of samples [2, N, C, H, W] of images [N, C, H, W], in [-1, 1]."""
    scores = energy_score(jnp.asarray(finite(samples)), jnp.asarray(x_0))
    return np.asarray(scores).astype(float)


def finite(samples: np.ndarray) -> np.ndarray:
    return np.nan_to_num(samples, nan=1e3, posinf=1e3, neginf=-1e3).clip(-1e3, 1e3)


def of_samples(samples: np.ndarray, x_0: np.ndarray) -> dict:
    """Samples [2, N, C, H, W] of images [N, C, H, W], in [-1, 1]."""
    each = (-3, -2, -1)
    rms = lambda x: np.sqrt(np.mean(x.astype(float) ** 2, axis=each))  # noqa: E731
    size = lambda x: np.mean(np.abs(x), axis=each)  # noqa: E731
    db = lambda error: float(np.mean(-20 * np.log10(error / 2)))  # noqa: E731
    energy, samples = energies(samples, x_0), finite(samples)
    errors = rms(samples - x_0)  # [2, N]
    relative = errors / np.median(errors)
    crps = size(samples - x_0).mean(axis=0) - size(samples[0] - samples[1]) / 2
    pairs = zip(samples[0], x_0, strict=True)
    ssim = [structural_similarity(*pair, channel_axis=0, data_range=2) for pair in pairs]
    ratio = 10 * np.log10(ring_power(samples) / ring_power(x_0))
    mean, variance = samples.mean(axis=0), float(np.mean((samples[0] - samples[1]) ** 2) / 2)
    # Two samples add half of their variance to the error of their mean.
    error = max(float(np.mean((mean - x_0) ** 2)) - variance / 2, np.finfo(float).tiny)
    return {
        "energy": energy.tolist(),
        "crps": crps.tolist(),
        "ssim": [float(one) for one in ssim],
        "spectrum": float(np.sqrt(np.mean(ratio**2))),
        "psnr": db(errors[0]),
        "psnr_mean": db(rms(mean - x_0)),
        "calibration": variance / error,
        "worst": float(relative.max()),
        "beyond": int((relative > DIVERGED).sum()),
    }


def ring_power(images: np.ndarray) -> np.ndarray:
    """Mean power of images [..., H, W] in `RINGS` of radial frequency, of equal width."""
    power = np.abs(np.fft.fft2(images)) ** 2
    f = frequency(images.shape[-2:]).ravel()
    ring = np.minimum(RINGS * f / f.max(), RINGS - 1).astype(int)
    mean = power.reshape(-1, f.size).mean(axis=0)
    return np.bincount(ring, mean) / np.bincount(ring)


def gap_of(cell: dict, label: str) -> tuple[float, float]:
    """How much more energy score than the tuned constant: see `percent_more`."""
    energy, tuned = (np.asarray(cell[one]["energy"]) for one in (label, "tuned"))
    return percent_more(energy, tuned)


def percent_more(energy: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """How much more scores [N] are than others of the same images, on average, in % of the mean of
    these, and the standard error of the paired differences."""
    gap = 100 * (energy - reference) / reference.mean()
    return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(gap.size))
