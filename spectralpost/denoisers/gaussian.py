"""The denoisers of the model: exact for stationary Gaussian priors, images [..., H, W]."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, cast

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import as_floating, floating
from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import Prior, denoiser_gain

D = TypeVar("D", bound=Callable[[Array, NoiseLevel], Array])


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


@flax.struct.dataclass
class GaussianAbove(Generic[D]):
    """A denoiser up to a noise level, and the Gaussian one of a prior above it.

    Networks are trained up to some sigma / alpha, and samplers start far above. Build it with
    `GaussianAbove.of`; images have the prior's size and pixel range.
    """

    denoiser: D
    gaussian: GaussianDenoiser
    limit: Array  # largest sigma / alpha of the denoiser, in units of the pixel range

    @classmethod
    def of(cls, denoiser: D, prior: Prior, limit: float) -> "GaussianAbove[D]":
        """denoiser: a pytree or a function, for levels that are numbers; limit > 0."""
        if not 0 < limit < float("inf"):
            raise InputError(f"limit = {limit}: must be > 0 and finite")
        if jax.tree_util.all_leaves([denoiser]):
            denoiser = cast(D, jax.tree_util.Partial(denoiser))  # a pytree without leaves
        return cls(denoiser, GaussianDenoiser.of(prior), jnp.asarray(limit))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        t, limit = floating(t, self.limit, dtype=x_t.dtype)
        inside = t.sigma <= limit * t.alpha
        # Where both are evaluated (levels that differ within a batch) the one that is not taken
        # must stay finite.
        alpha, sigma = jnp.where(inside, t.alpha, 1), jnp.where(inside, t.sigma, limit)
        return jax.lax.cond(
            inside,
            lambda x_t: self.denoiser(x_t, NoiseLevel(alpha, sigma)).astype(x_t.dtype),
            lambda x_t: self.gaussian(x_t, t),
            x_t,
        )
