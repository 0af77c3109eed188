"""The denoiser of the model: exact for stationary Gaussian priors, images [..., H, W]."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..algebra import as_floating, floating
from ..noise import NoiseLevel
from ..prior import Prior, denoiser_gain


class GaussianDenoiser(NamedTuple):
    """The exact denoiser of a stationary Gaussian prior, by FFT, plane by plane; of a prior of
    colour axis by axis, for images [..., C, H, W].

    x_hat = mean + F^-1 g F (x_t - alpha_t mean),  g = `prior.denoiser_gain`. Build it with
    `GaussianDenoiser.of(prior)`; pixels are in the prior's pixel range. Computes in the floating
    dtype of x_t, integers in JAX's default.
    """

    spectrum: Array  # [H, W] (or [n]), FFT order; with axes [C, H, W]
    mean: Array  # as the spectrum
    axes: Array | None = None  # [C, C], see `Prior`

    @classmethod
    def of(cls, prior: Prior) -> "GaussianDenoiser":
        colour = None if prior.axes is None else jnp.asarray(prior.axes)
        return cls(jnp.asarray(prior.spectrum), jnp.asarray(prior.mean), colour)

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        prior, t = floating(self, t, dtype=x_t.dtype)
        if prior.axes is not None:
            x_t = jnp.einsum("...chw,ca->...ahw", x_t, prior.axes)
        axes = tuple(range(-self.mean.ndim + (prior.axes is not None), 0))
        mean = jnp.broadcast_to(prior.mean, x_t.shape)
        centred = jnp.fft.rfftn(x_t - t.alpha * mean, axes=axes)
        # The gain is real and even, so the half spectrum of a real image is enough.
        gain = denoiser_gain(prior.spectrum, t)[..., : centred.shape[-1]].astype(centred.dtype)
        denoised = jnp.broadcast_to(gain, centred.shape) * centred
        size = self.mean.shape[-len(axes) :]
        x_hat = mean + jnp.fft.irfftn(denoised, s=size, axes=axes)
        return x_hat if prior.axes is None else jnp.einsum("...ahw,ca->...chw", x_hat, prior.axes)
