"""Many runs of a sampler on one measurement: what closed forms are checked with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .degradations import Degradation
from .errors import check_whole
from .noise import NoiseLevel
from .restoration import PixelDenoiser, restore
from .samplers.base import Guidance, Sampler


class Moments(NamedTuple):
    """Empirical moments of a sampler's output given y, in mode coordinates, [..., F]."""

    mean: Array
    var: Array  # unbiased
    num_runs: int


def simulate(
    sampler: Sampler,
    denoiser: PixelDenoiser,
    degradation: Degradation,
    y: ArrayLike,
    levels: NoiseLevel,
    guidance: Guidance,
    key: Array,
    *,
    sigma_y: ArrayLike,
    num_runs: int,
    batch_size: int = 64,
) -> Moments:
    """Mean and variance of many runs of `restore` on one measurement, to check closed forms.

    With `transfer = sampler_transfer(...)` of the same problem the mean in mode coordinates is
    mean + data_gain (y - H mean) + offset and the variance state_gain^2 + noise_cov. Runs are
    simulated `batch_size` at a time; `num_runs` is rounded up to a multiple of it, at least 2.

    >>> denoiser, key = sp.GaussianDenoiser.of(prior), jax.random.key(1)
    >>> run = sampler, denoiser, blur, y[0], levels, guidance, key
    >>> sp.simulate(*run, sigma_y=0.1, num_runs=64).mean.shape
    (64,)
    """
    num_runs = check_whole("num_runs", num_runs)
    batch_size = max(2, min(check_whole("batch_size", batch_size), num_runs))
    batches = -(-num_runs // batch_size)
    count, mean, squares = 0, 0.0, 0.0
    for batch_key in jax.random.split(key, batches):
        images = restore(
            sampler,
            denoiser,
            degradation,
            y,
            levels,
            guidance,
            batch_key,
            sigma_y=sigma_y,
            num_samples=batch_size,
        )
        # Chan's update of mean and sum of squares: no cancellation however small the variance.
        modes = degradation.to_modes(images)
        batch_mean = modes.mean(axis=0)
        gap = batch_mean - mean
        total = count + batch_size
        squares += jnp.sum((modes - batch_mean[None]) ** 2, axis=0)
        squares += gap**2 * (count * batch_size / total)
        mean += gap * (batch_size / total)
        count = total
    return Moments(jnp.asarray(mean), jnp.asarray(squares) / (count - 1), count)
