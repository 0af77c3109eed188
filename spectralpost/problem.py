"""The inverse problem in mode coordinates: prior x degradation x measurement noise.

A mode is a coordinate of V^T x (see `degradations`). Where the degradation keeps the prior's basis,
modes are independent scalars and `basis` is None. Otherwise they fall into independent blocks of k
modes; in a block the prior covariance is E diag(spectrum) E^T with E = `basis`. Where one number
is measured of each block, as by decimation, that is the first mode and E a reflection
(`algebra.reflection`): k numbers, and nothing costs more than k^2.

Everything is written relative to the prior mean: x - mean, y - H mean. Published samplers commute
with that shift; the mean itself only re-enters where the sampler starts from (see `transfer`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .algebra import (
    apply_gain,
    as_floating,
    congruence,
    diagonal,
    identity_gain,
    inverse,
    is_concrete,
    product,
    reflected,
    reflection_matrix,
)
from .calibration import Calibration
from .degradations import Degradation
from .errors import InputError, check_kind, check_whole
from .noise import NoiseLevel
from .prior import Prior, denoiser_gain, denoiser_variance, frequency
from .problem_checks import check_array, check_has_square, check_sigma_y, orthonormal


class Problem(NamedTuple):
    """Leading axis: modes [F], or blocks of k modes [B, k]. Build it with `make_problem`."""

    spectrum: Array  # prior variances                                   [F] | [B, k]
    response: Array  # singular values of H, >= 0                        [F] | [B, k]
    # eigenvectors of the prior in a block, or their `reflection`      None | [B, k, k] | [B, k]
    basis: Array | None
    mean: Array  # prior mean                                            [F] | [B, k]
    weight: Array  # how many identical modes (blocks) a row stands for  [F] | [B]
    sigma_y: Array  # standard deviation of the measurement noise        []
    calibration: Calibration | None = None  # how the denoiser's Jacobian differs from its gain


class Posterior(NamedTuple):
    """Law of x_0 given y: mean + gain (y - H mean), covariance `cov`."""

    gain: Array  # [F] | [B, k, k]
    cov: Array  # variances [F] | covariances [B, k, k]

    @property
    def var(self) -> Array:
        """Variances: [F] | [B, k]."""
        return diagonal(self.cov)


def make_problem(
    spectrum: ArrayLike,
    response: ArrayLike,
    sigma_y: ArrayLike,
    mean: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    basis: ArrayLike | None = None,
) -> Problem:
    """A checked problem.

    spectrum [F] or [B, k], response of the same shape, mean likewise (default 0), weight [F] or [B]
    (default 1), basis [B, k, k] with orthonormal columns, or [B, k], unit vectors of reflections
    (then nothing but the first mode of a block has a response). sigma_y in units of the pixel
    range. All take the floating dtype of the spectrum. Raises InputError, naming the argument, for
    wrong shapes, NaN, negative or zero values (while JAX traces the values: for shapes only).

    >>> sp.make_problem(spectrum=[1.0, 0.1], response=[1.0, 0.5], sigma_y=0.1).weight.shape
    (2,)
    """
    spectrum = as_floating("spectrum", spectrum)
    number = partial(as_floating, dtype=spectrum.dtype)
    if spectrum.ndim != (1 if basis is None else 2) or spectrum.size == 0:
        allowed = "[F] (or [B, k] together with a basis)" if basis is None else "[B, k]"
        raise InputError(f"spectrum of shape {spectrum.shape}: {allowed} is needed")
    rows = spectrum.shape[:1]
    response = number("response", response)
    mean = jnp.zeros_like(spectrum) if mean is None else number("mean", mean)
    weight = jnp.ones_like(spectrum, shape=rows) if weight is None else number("weight", weight)
    sigma_y = number("sigma_y", sigma_y)
    check_array("spectrum", spectrum, spectrum.shape, minimum=0)
    check_array("response", response, spectrum.shape, minimum=0)
    check_array("mean", mean, spectrum.shape)
    check_array("weight", weight, rows, above=0)
    check_array("sigma_y", sigma_y, ())
    check_sigma_y(sigma_y)
    check_has_square("sigma_y", sigma_y)
    if basis is not None:
        basis = number("basis", basis)
        k = spectrum.shape[1]
        check_array("basis", basis, (*rows, k) if basis.ndim == 2 else (*rows, k, k))
        if is_concrete(basis) and not orthonormal(np.asarray(basis)):
            raise InputError("basis: the columns of each block must be orthonormal")
        if basis.ndim == 2 and is_concrete(response) and np.any(np.asarray(response)[:, 1:]):
            raise InputError("response: with reflections for a basis, only the first mode has one")
    return Problem(spectrum, response, basis, mean, weight, sigma_y)


def image_problem(
    prior: Prior, degradation: Degradation, sigma_y: ArrayLike, channels: int | None = None
) -> Problem:
    """The problem of restoring images of `channels` planes: one mode per pixel of a plane, [F], or
    in the degradation's blocks, [B, k].

    Each row has weight `channels` (default 1). Losses are averages per pixel, so the number of
    planes matters only to samplers that divide by the norm of a whole image. Of a prior of colour
    the rows of all axes, [C F] or [C B, k], each of weight 1. Of a degradation that takes planes
    together its blocks, [B, k], of all of them.
    Raises InputError for channels that are no whole number >= 1, or not the prior's, for two sizes,
    and as `make_problem`.

    >>> sp.image_problem(prior, blur, sigma_y=0.1).spectrum.shape  # one mode a pixel
    (64,)
    """
    planes, share = planes_of(prior, degradation, channels)
    together, vectors = degradation.planes, degradation.eigenvectors
    sets, mean = planes, prior.mean
    if together is not None:
        sets, mean = 1, prior.along_planes(np.broadcast_to(mean, (together, *prior.shape)))

    def in_rows(values: np.ndarray) -> np.ndarray:
        """[planes, F, ...] by frequency -> [sets F, ...] | [sets B, k, ...] by eigenvector."""
        if together is not None:
            values = np.broadcast_to(values, (together, *values.shape[1:]))
        values = values.reshape(sets, -1, *values.shape[2:])
        found = values if vectors is None else values[:, vectors.frequency]
        return found.reshape(-1, *found.shape[2:])

    rows = lambda one: np.tile(one, (sets, *[1] * (one.ndim - 1)))  # noqa: E731
    response, basis = rows(degradation.response), None if vectors is None else rows(vectors.basis)
    if basis is not None and together is not None and prior.axes is not None:
        # Of planes, while the prior is diagonal along its axes.
        basis = basis @ np.kron(prior.axes, np.eye(basis.shape[-1] // together))
    problem = make_problem(
        in_rows(prior.spectrum.reshape(planes, -1)),
        response,
        sigma_y,
        degradation.to_modes(mean).reshape(response.shape),
        np.full(response.shape[:1], share),
        basis,
    )
    if prior.calibration is None:
        return problem
    ratio = prior.calibration.on(np.ravel(frequency(prior.shape)))
    return with_ratio(problem, in_rows(ratio.reshape(planes, -1, ratio.shape[-1])), prior)


def image_modes(prior: Prior, degradation: Degradation, images: Array) -> Array:
    """Images [..., C, H, W] (or [..., *shape] of a prior without axes) less the prior mean, in the
    coordinates of `image_problem`: [n, F] | [n, B, k], n sets of its rows."""
    along = prior.along_axes(images)
    centred = along - jnp.broadcast_to(prior.mean, along.shape)
    if degradation.planes is not None:
        centred = prior.along_planes(centred)
    found = degradation.to_modes(centred)
    planes = 1 if degradation.planes is not None or prior.axes is None else len(prior.axes)
    rows, *k = degradation.response.shape
    return found.reshape(-1, planes * rows, *k)


def planes_of(
    prior: Prior, degradation: Degradation, channels: int | None = None
) -> tuple[int, int]:
    """How many planes a prior has rows for, and how many planes of an image each stands for.

    InputError for channels that are no whole number >= 1, or not the prior's or the degradation's,
    and for two sizes.
    """
    check_kind("prior", prior, Prior)
    check_kind("degradation", degradation, Degradation)
    planes = 1 if prior.axes is None else len(prior.axes)
    together = degradation.planes
    channels = together or planes if channels is None else check_whole("channels", channels)
    if together is not None and channels != together:
        raise InputError(f"channels = {channels}: {degradation.name} is of {together} planes")
    if planes > 1 and channels != planes:
        raise InputError(f"channels = {channels}: the prior is of {planes}")
    if prior.shape != degradation.shape:
        raise InputError(f"prior of size {prior.shape}, degradation of size {degradation.shape}")
    return planes, 1 if together is not None else channels // planes


def with_ratio(problem: Problem, ratio: np.ndarray, prior: Prior) -> Problem:
    """The problem with the ratios of the prior's calibration for its modes, [F, K] | [B, k, K]."""
    low, high = prior.pixel_range
    number = partial(jnp.asarray, dtype=problem.spectrum.dtype)
    return problem._replace(calibration=Calibration(number(ratio), number((high - low) / 2)))


# ------------------------------------------------------------------------------- closed-form facts


def denoise(problem: Problem, x_t: Array, t: NoiseLevel) -> Array:
    """E[x_0 | x_t] relative to the mean, for x_t of shape [F] | [B, k]."""
    return _by_prior(problem, denoiser_gain(problem.spectrum, t), x_t)


def denoiser_jacobian(problem: Problem, v: Array, t: NoiseLevel) -> Array:
    """J v (and J^T v), J the derivative of the denoiser at this level: see `calibration`."""
    jacobian = denoiser_gain(problem.spectrum, t)
    if problem.calibration is not None:
        jacobian = problem.calibration.at(t) * jacobian
    return _by_prior(problem, jacobian, v)


def denoiser_cov(problem: Problem, t: NoiseLevel) -> Array:
    """Cov(x_0 | x_t): variances [F] | covariances [B, k, k]."""
    return _covariance(problem, denoiser_variance(problem.spectrum, t))


def condition(problem: Problem, cov: Array) -> Posterior:
    """Condition a Gaussian of covariance `cov` ([F] | [B, k, k]) on y = H x + sigma_y n.

    gain = cov H^T (H cov H^T + sigma_y^2)^-1,  covariance = cov - gain H cov.
    """
    h, sigma_y = problem.response, problem.sigma_y
    if problem.basis is None:
        cov_y = h**2 * cov + sigma_y**2
        return Posterior(cov * h / cov_y, sigma_y**2 * cov / cov_y)
    if reflects(problem):
        # One number is measured: a division, and matrices of rank one.
        h_0, by_first = h[..., :1], cov[..., 0, :]
        column = h_0 * by_first / (h_0**2 * by_first[..., :1] + sigma_y**2)
        gain = column[..., None] * identity_gain(h)[..., :1, :]
        lost = (h_0 * column)[..., None]
        rest = cov - lost * by_first[..., None, :]  # Joseph's form, as below
        rest = rest - rest[..., :, :1] * lost.mT
        return Posterior(gain, rest + sigma_y**2 * column[..., None] * column[..., None, :])
    h_cov = h[..., :, None] * cov
    cov_y = h_cov * h[..., None, :] + sigma_y**2 * identity_gain(h)
    gain = product(inverse(cov_y), h_cov).mT
    # Joseph's form stays symmetric and positive: (I - gain H) cov (I - gain H)^T + noise.
    rest = identity_gain(h) - gain * h[..., None, :]
    return Posterior(gain, congruence(rest, cov) + sigma_y**2 * congruence(gain))


def ideal_posterior(problem: Problem) -> Posterior:
    """The true posterior of x_0 given y: the Wiener filter and its error covariance.

    >>> sp.ideal_posterior(problem).var.shape
    (15,)
    >>> bool((sp.ideal_posterior(problem).var < problem.spectrum).all())
    True
    """
    return condition(problem, prior_cov(problem))


def prior_cov(problem: Problem) -> Array:
    """Cov(x_0): variances [F] | covariances [B, k, k]."""
    return _covariance(problem, problem.spectrum)


def measurement_cov(problem: Problem) -> Array:
    """Cov(y), over signals and noise: variances [F] | covariances [B, k, k]."""
    h, cov, noise = problem.response, prior_cov(problem), measurement_noise(problem)
    if problem.basis is None:
        return h**2 * cov + noise
    return h[..., :, None] * cov * h[..., None, :] + noise


def measurement_noise(problem: Problem) -> Array:
    """Cov(y | x_0): variances [F] | covariances [B, k, k]."""
    h, variance = problem.response, problem.sigma_y**2
    if problem.basis is None:
        return variance * jnp.ones_like(h)
    # In a block a zero singular value is a direction that is not measured: no noise there either.
    return variance * identity_gain(h) * (h > 0)[..., None, :].astype(h.dtype)


def num_pixels(problem: Problem) -> Array:
    """Number of modes that the problem stands for, which is the number of pixels."""
    modes_per_row = 1 if problem.basis is None else problem.spectrum.shape[-1]
    return modes_per_row * jnp.sum(problem.weight)


def per_pixel(problem: Problem, values: Array) -> Array:
    """Average over all pixels of a quantity of the modes, [F] | [B, k]."""
    rows = values if values.ndim == 1 else values.sum(axis=-1)
    return jnp.sum(problem.weight * rows) / num_pixels(problem)


def reflects(problem: Problem) -> bool:
    """Whether one number of each block is measured, the first, and `basis` holds reflections."""
    return problem.basis is not None and problem.basis.ndim == 2


def basis_matrix(problem: Problem) -> Array:
    """The eigenvectors of the prior in blocks as matrices, [B, k, k]."""
    assert problem.basis is not None
    return reflection_matrix(problem.basis) if reflects(problem) else problem.basis


def along_prior(problem: Problem, x: Array) -> Array:
    """E^T x: a signal in the eigenvectors of the prior, [F] | [..., B, k]."""
    if problem.basis is None:
        return x
    if reflects(problem):
        return reflected(problem.basis, x)
    return apply_gain(problem.basis.mT, x)


def gain_along_prior(problem: Problem, gain: Array) -> Array:
    """E^T gain E: a gain or covariance in the eigenvectors of the prior."""
    if problem.basis is None:
        return gain
    if reflects(problem):
        rows = jax.vmap(partial(reflected, problem.basis), in_axes=1, out_axes=1)
        return rows(rows(gain).mT).mT
    return congruence(problem.basis.mT, gain)


def _by_prior(problem: Problem, gain: Array, x: Array) -> Array:
    """A gain for each eigenvector of the prior, applied to x."""
    found = gain * along_prior(problem, x)
    if problem.basis is None:
        return found
    # A reflection is its own inverse.
    return along_prior(problem, found) if reflects(problem) else apply_gain(problem.basis, found)


def _covariance(problem: Problem, variances: Array) -> Array:
    if problem.basis is None:
        return variances
    if reflects(problem):
        return gain_along_prior(problem, variances[..., None] * identity_gain(variances))
    return product(problem.basis * variances[..., None, :], problem.basis.mT)
