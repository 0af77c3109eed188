"""A denoiser's squared error beside the Gaussian model's: its Jacobian, as opposed to its gain.

Under a Gaussian prior a mode's gain g = alpha lambda / (alpha^2 lambda + sigma^2) is both the
regression of x_hat on x_t and the derivative of x_hat. A trained denoiser shares the regression, as
any least-squares denoiser of the same images does, but not the derivative. By Tweedie's second
identity that is on average

    J = (alpha / sigma^2) m,      m = E |x_0 - x_hat|^2 of the mode at this level,

while g is the same of the Gaussian model's error. So J = ratio g with ratio = m / the model's
error: 1 for the Gaussian denoiser itself, less for one that knows more than second moments.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from .algebra import matmul
from .noise import NoiseLevel

# sigma / alpha of the levels that ratios are known at, in units of half the pixel range.
LEVELS = 2.0 ** np.arange(-7, 5)


class Calibration(NamedTuple):
    """Ratios of the modes of a problem. Between `LEVELS` linear in log(sigma / alpha), constant
    beyond."""

    ratio: Array  # [F, K] | [B, k, K], K levels
    unit: Array  # half the pixel range, []

    def at(self, t: NoiseLevel) -> Array:
        """The ratio at a level, [F] | [B, k]."""
        dtype = self.ratio.dtype
        known = np.log2(LEVELS).astype(dtype)
        octaves = jnp.log2(jnp.maximum(t.sigma, jnp.finfo(dtype).tiny)) - jnp.log2(
            jnp.maximum(t.alpha * self.unit, jnp.finfo(dtype).tiny)
        )
        octaves = jnp.clip(octaves, known[0], known[-1])
        # One level an octave: a hat function of width 1 around each.
        hats = jnp.maximum(1 - jnp.abs(octaves - known), 0)
        return matmul(self.ratio, hats)


class Profile(NamedTuple):
    """Ratios by radial frequency, as a prior keeps them: for images of any size."""

    frequency: np.ndarray  # [R], in cycles per pixel, ascending
    ratio: np.ndarray  # [R, K], at LEVELS; of colour [C, R, K]

    def on(self, frequency: np.ndarray) -> np.ndarray:
        """Linear in between, constant beyond: [F] -> [F, K], of colour [C F, K]."""
        planes = self.ratio.reshape(-1, *self.ratio.shape[-2:])
        return np.concatenate(
            [
                np.stack([np.interp(frequency, self.frequency, one) for one in plane.T], axis=-1)
                for plane in planes
            ]
        )
