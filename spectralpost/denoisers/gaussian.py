"""The denoisers of the model: exact for stationary Gaussian priors, images [..., H, W]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import as_floating, floating
from ..colour import ColourPrior
from ..noise import NoiseLevel
from ..prior import Prior, denoiser_gain


class GaussianDenoiser(NamedTuple):
    """The exact denoiser of a stationary Gaussian prior, by FFT, plane by plane.

    x_hat = mean + F^-1 g F (x_t - alpha_t mean),  g = `prior.denoiser_gain`. Build it with
    `GaussianDenoiser.of(prior)`; pixels are in the prior's pixel range. Computes in the floating
    dtype of x_t, integers in JAX's default.
    """

    spectrum: Array  # [H, W] (or [n]), FFT order
    mean: Array  # [H, W]

    @classmethod
    def of(cls, prior: Prior) -> "GaussianDenoiser":
        return cls(jnp.asarray(prior.spectrum), jnp.asarray(prior.mean))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        prior, t = floating(self, t, dtype=x_t.dtype)
        axes = tuple(range(-self.mean.ndim, 0))
        mean = jnp.broadcast_to(prior.mean, x_t.shape)
        centred = jnp.fft.rfftn(x_t - t.alpha * mean, axes=axes)
        # The gain is real and even, so the half spectrum of a real image is enough.
        gain = denoiser_gain(prior.spectrum, t)[..., : centred.shape[-1]].astype(centred.dtype)
        denoised = jnp.broadcast_to(gain, centred.shape) * centred
        return mean + jnp.fft.irfftn(denoised, s=self.mean.shape, axes=axes)


class ColourDenoiser(NamedTuple):
    """The exact denoiser of a `ColourPrior`, for images [..., C, H, W]: `GaussianDenoiser` along
    each axis. Build it with `ColourDenoiser.of(prior)`."""

    planes: GaussianDenoiser  # leaves [C, H, W]
    axes: Array  # [C, C]

    @classmethod
    def of(cls, prior: ColourPrior) -> "ColourDenoiser":
        spectra = jnp.stack([jnp.asarray(plane.spectrum) for plane in prior.planes])
        means = jnp.stack([jnp.asarray(plane.mean) for plane in prior.planes])
        return cls(GaussianDenoiser(spectra, means), jnp.asarray(prior.axes))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        planes, axes, t = floating(self.planes, self.axes, t, dtype=x_t.dtype)
        rotated = jnp.einsum("...chw,ca->...ahw", x_t, axes)
        along = jax.vmap(lambda plane, x: plane(x, t), in_axes=(0, -3), out_axes=-3)
        return jnp.einsum("...ahw,ca->...chw", along(planes, rotated), axes)
