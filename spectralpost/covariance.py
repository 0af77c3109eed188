"""Gaussian priors of any covariance, for small images: one dense block.

Priors elsewhere are stationary, so that frequencies are independent. Here the covariance of all
pixels is given, and its eigenvectors are those of the one block that a problem is.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .algebra import as_floating, floating, matmul
from .degradations import Degradation
from .degradations.base import numbers
from .degradations.dense import LARGEST
from .denoiser_checks import check_of_size
from .errors import InputError, check_shape
from .noise import NoiseLevel
from .prior import denoiser_gain, denoiser_variance
from .problem import Problem, make_problem

ROUNDING = 1e-6  # of the largest number: of covariances from single precision


def covariance_problem(
    degradation: Degradation,
    covariance: ArrayLike,
    sigma_y: ArrayLike,
    mean: ArrayLike | None = None,
) -> Problem:
    """The problem of images of a given covariance, stationary or not: one block, [1, n].

    degradation  of at most 1024 pixels, such as `from_matrix(shape, H)`
    covariance   [n, n] of all pixels in the order of `ravel`, for n pixels in all planes that
                 the degradation takes together
    sigma_y      in units of the pixel range; mean [n] or of the image's shape (default 0)

    `CovarianceDenoiser` is its denoiser. Raises InputError for more pixels, another shape, NaN, and
    a covariance that is not symmetric or has a negative eigenvalue.

    >>> places = jax.numpy.arange(64)
    >>> covariance = 0.25 * jax.numpy.exp(-abs(places[:, None] - places) / 8)
    >>> sp.covariance_problem(blur, covariance, 0.1).spectrum.shape
    (1, 64)
    """
    pixels = degradation.pixels
    variances, vectors, mean = _checked(covariance, mean, pixels)
    basis = np.asarray(degradation.to_modes(vectors.T.reshape(-1, *pixels)))
    n = len(variances)
    return make_problem(
        variances[None],
        degradation.response.reshape(1, n),
        sigma_y,
        degradation.to_modes(mean).reshape(1, n),
        basis=basis.reshape(1, n, n).mT,
    )


class CovarianceDenoiser(NamedTuple):
    """The exact denoiser of a Gaussian prior of any covariance, for images [..., *shape].

    x_hat = mean + E g E^T (x_t - alpha_t mean), E the eigenvectors, g = `prior.denoiser_gain`.
    Build it with `CovarianceDenoiser.of(covariance, shape)`. Raises InputError for images of
    another size, and for levels [N].

    >>> covariance = jax.numpy.diag(jax.numpy.arange(64) / 64)  # each pixel alone
    >>> sp.CovarianceDenoiser.of(covariance, (8, 8))(x_0, sp.NoiseLevel(0.8, 0.6)).shape
    (4, 8, 8)
    """

    variances: Array  # [n]
    vectors: Array  # [n, n], in columns
    mean: Array  # [*shape]

    @classmethod
    def of(
        cls, covariance: ArrayLike, shape: tuple[int, ...], mean: ArrayLike | None = None
    ) -> "CovarianceDenoiser":
        """Arguments and errors as of `covariance_problem`; shape of images, with planes [C, H, W]
        where these are taken together."""
        return cls(*map(jnp.asarray, _checked(covariance, mean, check_shape(shape))))

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        x_t = as_floating("x_t", x_t)
        check_of_size(x_t, t, self.mean.shape)
        prior, t = floating(self, t, dtype=x_t.dtype)
        mean = jnp.broadcast_to(prior.mean, x_t.shape)
        return mean + prior._filtered(x_t - t.alpha * mean, denoiser_gain(prior.variances, t))

    def cov(self, v: Array, t: NoiseLevel) -> Array:
        """C_t v, C_t = Cov(x_0 | x_t), for images v: what `samplers.steps.data_cov` asks for."""
        prior, t = floating(self, t, dtype=v.dtype)
        return prior._filtered(v, denoiser_variance(prior.variances, t))

    def _filtered(self, x: Array, gain: Array) -> Array:
        flat = x.reshape(*x.shape[: x.ndim - self.mean.ndim], self.mean.size)
        along = matmul(flat, self.vectors)
        return matmul(jnp.broadcast_to(gain, along.shape) * along, self.vectors.mT).reshape(x.shape)


def _checked(
    covariance: ArrayLike, mean: ArrayLike | None, pixels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues [n], eigenvectors [n, n] and mean [*pixels], or InputError."""
    n = int(np.prod(pixels))
    if n > LARGEST:
        raise InputError(f"covariance of {n} pixels: at most {LARGEST} are possible")
    C = numbers("covariance", covariance)
    if C.shape != (n, n):
        raise InputError(f"covariance of shape {C.shape}: ({n}, {n}) is needed")
    variances, vectors = np.linalg.eigh((C + C.T) / 2)
    if np.abs(C - C.T).max() > ROUNDING * np.abs(C).max():
        raise InputError("covariance: is not symmetric")
    if variances[0] < -ROUNDING * variances[-1]:
        raise InputError(f"covariance: has the eigenvalue {variances[0]:g}; none may be negative")
    centre = np.zeros(pixels) if mean is None else np.asarray(mean, float)
    if centre.size != n or not np.all(np.isfinite(centre)):
        raise InputError(f"mean of shape {centre.shape}: {pixels} finite numbers are needed")
    return np.maximum(variances, 0), vectors, centre.reshape(pixels)
