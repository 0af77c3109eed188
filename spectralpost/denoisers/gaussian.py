"""The denoisers of the model: exact for stationary Gaussian priors, images [..., H, W]."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, cast

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import as_floating, floating
from ..denoiser_checks import as_returned, check_of_size, check_one_level
from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import Prior, along_axes, along_planes, denoiser_gain, denoiser_variance

D = TypeVar("D", bound=Callable[[Array, NoiseLevel], Array])


class GaussianDenoiser(NamedTuple):
    """The exact denoiser of a stationary Gaussian prior, by FFT, plane by plane; of a prior of
    colour axis by axis, for images [..., C, H, W].

    x_hat = mean + F^-1 g F (x_t - alpha_t mean),  g = `prior.denoiser_gain`. Build it with
    `GaussianDenoiser.of(prior)`; pixels are in the prior's pixel range. Computes in the floating
    dtype of x_t, integers in JAX's default.

    >>> sp.GaussianDenoiser.of(prior)(x_0, sp.NoiseLevel(0.8, 0.6)).shape
    (4, 8, 8)
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
        check_of_size(x_t, t, self.spectrum.shape)
        prior, t = floating(self, t, dtype=x_t.dtype)
        x_t = along_axes(x_t, prior.axes)
        mean = jnp.broadcast_to(prior.mean, x_t.shape)
        gain = denoiser_gain(prior.spectrum, t)
        return along_planes(mean + prior._filtered(x_t - t.alpha * mean, gain), prior.axes)

    def cov(self, v: Array, t: NoiseLevel) -> Array:
        """C_t v, C_t = Cov(x_0 | x_t), for images v: what `samplers.steps.data_cov` asks for."""
        prior, t = floating(self, t, dtype=v.dtype)
        variance = denoiser_variance(prior.spectrum, t)
        return along_planes(prior._filtered(along_axes(v, prior.axes), variance), prior.axes)

    def _filtered(self, x: Array, gain: Array) -> Array:
        """F^-1 gain F x; the gain is real and even, so half the spectrum of a real x is enough."""
        axes = tuple(range(-self.mean.ndim + (self.axes is not None), 0))
        modes = jnp.fft.rfftn(x, axes=axes)
        gain = gain[..., : modes.shape[-1]].astype(modes.dtype)
        size = self.mean.shape[-len(axes) :]
        return jnp.fft.irfftn(jnp.broadcast_to(gain, modes.shape) * modes, s=size, axes=axes)


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
        return cls(as_pytree(denoiser), GaussianDenoiser.of(prior), jnp.asarray(limit))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        check_one_level(t)
        t, limit = floating(t, self.limit, dtype=x_t.dtype)
        inside = t.sigma <= limit * t.alpha
        # Where both are evaluated (levels that differ within a batch) the one that is not taken
        # must stay finite.
        within = NoiseLevel(jnp.where(inside, t.alpha, 1), jnp.where(inside, t.sigma, limit))
        return jax.lax.cond(
            inside,
            lambda x_t: as_returned(self.denoiser(x_t, within), x_t).astype(x_t.dtype),
            lambda x_t: self.gaussian(x_t, t),
            x_t,
        )

    def cov(self, v: Array, t: NoiseLevel) -> Array:
        """As of the Gaussian denoiser."""
        return self.gaussian.cov(v, t)


@flax.struct.dataclass
class WithCovariance(Generic[D]):
    """A denoiser that knows the covariance of its images, which `samplers.freehunch` asks for.

    Build it with `WithCovariance.of`; images have the prior's size and pixel range.
    """

    denoiser: D
    gaussian: GaussianDenoiser

    @classmethod
    def of(cls, denoiser: D, prior: Prior) -> "WithCovariance[D]":
        """denoiser: a pytree or a function."""
        return cls(as_pytree(denoiser), GaussianDenoiser.of(prior))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        return self.denoiser(x_t, t)

    def cov(self, v: Array, t: NoiseLevel) -> Array:
        """Of the prior's `GaussianDenoiser`."""
        return self.gaussian.cov(v, t)


def as_pytree(denoiser: D) -> D:
    """A function as a pytree without leaves."""
    if jax.tree_util.all_leaves([denoiser]):
        return cast(D, jax.tree_util.Partial(denoiser))
    return denoiser
