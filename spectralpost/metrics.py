"""How far a sampler's output is from the true posterior: closed forms, averaged over y.

All take a problem and a whole sampler's transfer (`sampler_transfer`) and return a number per
pixel, in squared units of the pixel range where it is a squared distance. `bias` below is the mean
of the output minus the posterior mean, a function of y; `cov` the output's covariance given y.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .affine import Transfer
from .algebra import (
    apply_gain,
    as_floating,
    congruence,
    diagonal,
    eigh,
    identity_gain,
    inverse,
    log_det,
    multiply,
    root,
    safe_sqrt,
)
from .bures import bures, bures_residuals
from .errors import InputError
from .images import PIXEL_RANGE, PixelRange, check_pixel_range
from .problem import (
    Problem,
    basis_matrix,
    ideal_posterior,
    measurement_cov,
    measurement_noise,
    num_pixels,
    per_pixel,
    prior_cov,
)


class ModeError(NamedTuple):
    """Per mode, [F] | [B, k]: where a sampler goes wrong."""

    bias2: Array  # E over y of the squared bias
    var: Array  # variance of the output given y
    ideal_var: Array  # variance of the true posterior


def output_cov(transfer: Transfer) -> Array:
    """Covariance of the output given y, over start noise and fresh noise: [F] | [B, k, k]."""
    return congruence(transfer.state_gain) + transfer.noise_cov


def mode_error(problem: Problem, transfer: Transfer) -> ModeError:
    """Bias and variance of every mode; the diagonal in blocks."""
    ideal = ideal_posterior(problem)
    bias2 = diagonal(_bias_cov(problem, transfer, ideal.gain)) + transfer.offset**2
    return ModeError(bias2, diagonal(output_cov(transfer)), ideal.var)


def wasserstein2(problem: Problem, transfer: Transfer, y: ArrayLike | None = None) -> Array:
    """Squared 2-Wasserstein distance between output and true posterior, averaged over y, per pixel.

    With y ([F] | [B, k], relative to H mean, in mode coordinates): for that measurement. Dowson,
    Landau, 1982, for Gaussians: E ||bias||^2 + the Bures distance of the covariances.

    >>> transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
    >>> round(float(sp.wasserstein2(problem, transfer)), 4)
    0.2056
    """
    if y is None and problem.basis is None:
        return jnp.sum(wasserstein2_residuals(problem, transfer) ** 2)
    ideal = ideal_posterior(problem)
    if y is None:
        bias2 = mode_error(problem, transfer).bias2
    else:
        y = as_floating("y", y, ideal.gain.dtype)
        if y.shape != problem.spectrum.shape:
            raise InputError(f"y of shape {y.shape}: {problem.spectrum.shape} is needed, as modes")
        bias2 = (apply_gain(transfer.data_gain - ideal.gain, y) + transfer.offset) ** 2
    distance = bures(output_cov(transfer), ideal.cov)
    return per_pixel(problem, bias2) + per_pixel(problem, distance)


def wasserstein2_residuals(problem: Problem, transfer: Transfer) -> Array:
    """The averaged W2^2 is the sum of the squares of these, [3 F] | [B (k^2 + k (k + 3) / 2 + 1)].

    Per mode and sqrt(weight / pixels): the gap of the data gains times the standard deviation of y,
    the gap of the posterior standard deviations, and the offset.
    """
    ideal = ideal_posterior(problem)
    parts = [
        multiply(transfer.data_gain - ideal.gain, root(measurement_cov(problem))),
        bures_residuals(output_cov(transfer), ideal.cov),
        transfer.offset,
    ]
    return _shared_out(problem, parts)


def kl(problem: Problem, transfer: Transfer) -> Array:
    """Kullback-Leibler divergence KL(output || true posterior), averaged over y, per pixel (nats).

    Where the prior has no variance, neither has the posterior: there 0 if the output is just that
    too, else infinite. Infinite as well if the output is deterministic where the posterior is not.
    In blocks no variance means one that rounding hides: below k eps of the largest.

    >>> bool(sp.evaluate(sampler, problem, levels, guidance, sp.kl) > 0)
    True
    """
    ideal, cov = ideal_posterior(problem), output_cov(transfer)
    bias, counts = _bias_cov(problem, transfer, ideal.gain), problem.weight > 0
    if problem.basis is None:
        moment, known = cov + bias + transfer.offset**2, ideal.cov == 0
        # Both may be there where the square of a gain is too small a number.
        parts = jnp.abs(transfer.state_gain), safe_sqrt(transfer.noise_cov)
        none = (parts[0] == 0) & (parts[1] == 0)
        infinite = jnp.where(known, moment != 0, none) & counts
        # 1 where the formula does not hold: it is 0 there, and its gradient finite.
        target, moment = (jnp.where(known, 1, law) for law in (ideal.cov, moment))
        std = jnp.hypot(jnp.where(known | none, 1, parts[0]), jnp.where(known | none, 0, parts[1]))
        terms = moment / target - 1 - 2 * jnp.log(std / jnp.sqrt(target))
        return per_pixel(problem, jnp.where(infinite, jnp.inf, terms)) / 2
    moment = cov + bias + transfer.offset[..., :, None] * transfer.offset[..., None, :]
    k = problem.spectrum.shape[-1]
    tiny, trace = k * jnp.finfo(cov.dtype).eps, partial(jnp.trace, axis1=-2, axis2=-1)
    # The projection on what has no prior variance. There both laws get the variance `largest`.
    known = jnp.where((problem.spectrum == 0)[..., None, :], basis_matrix(problem), 0)
    known = multiply(known, known.mT)
    rest = identity_gain(problem.spectrum) - known
    largest = jnp.max(problem.spectrum + diagonal(moment), axis=-1)
    infinite = trace(multiply(known, moment)) > tiny * largest
    unit = jnp.where(largest > 0, largest, 1)[..., None, None] * known
    target = ideal.cov + unit
    cov, moment = (congruence(rest, law) + unit for law in (cov, moment))
    infinite = (infinite | _deterministic(cov, tiny)) & counts
    cov = jnp.where(infinite[..., None, None], target, cov)
    terms = trace(multiply(inverse(target), moment)) - k - (log_det(cov) - log_det(target))
    terms = jnp.where(infinite, jnp.inf, jnp.where(counts, terms, 0))
    return jnp.sum(problem.weight * terms) / (2 * num_pixels(problem))


def mse(problem: Problem, transfer: Transfer) -> Array:
    """E ||output - x_0||^2 per pixel, over signals, measurements and the sampler's own noise: the
    posterior variance (which no estimate can avoid) + squared bias + output variance.

    >>> round(float(sp.psnr(sp.evaluate(sampler, problem, levels, guidance, sp.mse))), 1)  # dB
    12.3
    """
    error = mode_error(problem, transfer)
    return per_pixel(problem, error.ideal_var + error.bias2 + error.var)


def predicted_energy_score(problem: Problem, transfer: Transfer) -> Array:
    """The energy score of a sampler on images of many pixels, in units of the pixel range.

    E ||x - x_0|| - E ||x - x'|| / 2 of two outputs x, x' of one measurement (norms: root mean
    square per pixel; Gneiting, Raftery, 2007), as `polishing.energy_score` measures it. Here with
    the roots of E ||.||^2: its limit for many modes, whose norms hardly vary.

    >>> round(float(sp.evaluate(sampler, problem, levels, guidance, sp.predicted_energy_score)), 3)
    0.416
    """
    spread = 2 * per_pixel(problem, mode_error(problem, transfer).var)
    return safe_sqrt(mse(problem, transfer)) - safe_sqrt(spread) / 2


def psnr(mean_squared_error: ArrayLike, pixel_range: PixelRange = PIXEL_RANGE) -> Array:
    """Peak signal-to-noise ratio in dB of a mean squared error, peak = width of the pixel range.

    >>> round(float(sp.psnr(0.01)), 2)  # of pixels in [-1, 1]
    26.02
    """
    check_pixel_range(pixel_range)
    low, high = map(float, pixel_range)
    error = as_floating("mean squared error", mean_squared_error)
    return 10 * jnp.log10((high - low) ** 2 / error)


def perception(problem: Problem, transfer: Transfer) -> Array:
    """Squared 2-Wasserstein distance per pixel between the law of outputs, y averaged out, and the
    prior: 0 if restored images look, on average, like images (Blau, Michaeli, 2018).

    >>> bool(sp.evaluate(sampler, problem, levels, guidance, sp.perception) > 0)
    True
    """
    distance = bures(_averaged_cov(problem, transfer), prior_cov(problem))
    return per_pixel(problem, transfer.offset**2) + per_pixel(problem, distance)


def mse_residuals(problem: Problem, transfer: Transfer) -> Array:
    """`mse` is the sum of the squares of these, [4 F] | [B (k^2 + 3 k)]."""
    ideal = ideal_posterior(problem)
    parts = [
        multiply(transfer.data_gain - ideal.gain, root(measurement_cov(problem))),
        safe_sqrt(diagonal(output_cov(transfer))),
        transfer.offset,
        safe_sqrt(ideal.var),
    ]
    return _shared_out(problem, parts)


def perception_residuals(problem: Problem, transfer: Transfer) -> Array:
    """`perception` is the sum of the squares of these, [2 F] | [B (k^2 + k + 1)]."""
    cov = _averaged_cov(problem, transfer)
    return _shared_out(problem, [bures_residuals(cov, prior_cov(problem)), transfer.offset])


def _averaged_cov(problem: Problem, transfer: Transfer) -> Array:
    """Of outputs, y averaged out."""
    return output_cov(transfer) + congruence(transfer.data_gain, measurement_cov(problem))


class Tradeoff(NamedTuple):
    """The least distortion that any estimate can have at a level of perception, per pixel."""

    least_mse: Array  # of the posterior mean
    its_perception: Array  # `perception` of the posterior mean

    def mse_at(self, perception: ArrayLike) -> Array:
        """D(P) = D* + max(P* - P, 0)^2 with P the square root of `perception`."""
        perception = as_floating("perception", perception, self.least_mse.dtype)
        gap = jnp.sqrt(self.its_perception) - jnp.sqrt(perception)
        return self.least_mse + jnp.maximum(gap, 0) ** 2


def optimal_tradeoff(problem: Problem) -> Tradeoff:
    """What no sampler can beat: Freirich, Michaeli, Meir, "A Theory of the Distortion-Perception
    Tradeoff in Wasserstein Space", NeurIPS 2021 (arXiv 2107.02555), for a Gaussian prior.

    >>> best = sp.optimal_tradeoff(problem)
    >>> bool(best.mse_at(0.0) > best.least_mse)  # realism has a price
    True
    """
    ideal = ideal_posterior(problem)
    gain, offset = ideal.gain, jnp.zeros_like(problem.mean)
    mean = Transfer(jnp.zeros_like(gain), gain, jnp.zeros_like(gain), offset)
    return Tradeoff(per_pixel(problem, ideal.var), perception(problem, mean))


def image_mse(problem: Problem, transfer: Transfer, x_0: ArrayLike, num_samples: int = 1) -> Array:
    """E ||output - x_0||^2 per pixel for one given image x_0, over all noise only.

    Of the mean of `num_samples` outputs for one measurement. x_0 [F] | [B, k] in mode coordinates,
    relative to the mean. A linear prediction, so it holds for an image that does not follow the
    prior, as long as the Gaussian denoiser is used.
    """
    x_0 = as_floating("x_0", x_0, problem.spectrum.dtype)
    bias = apply_gain(transfer.data_gain, problem.response * x_0) - x_0 + transfer.offset
    noise = congruence(transfer.data_gain, measurement_noise(problem))
    return per_pixel(problem, bias**2 + diagonal(noise + output_cov(transfer) / num_samples))


def _shared_out(problem: Problem, parts: list[Array]) -> Array:
    """Parts of modes ([F] | [B, k]) and of gains times sqrt(weight / pixels), in one vector."""
    share = jnp.sqrt(problem.weight / num_pixels(problem))
    spread = lambda part: jnp.expand_dims(share, tuple(range(1, part.ndim)))  # noqa: E731
    scaled = [jnp.broadcast_to(spread(part), part.shape) * part for part in parts]
    return jnp.concatenate([part.ravel() for part in scaled])


def _bias_cov(problem: Problem, transfer: Transfer, ideal_gain: Array) -> Array:
    """Covariance over y of (data_gain - ideal_gain) y."""
    return congruence(transfer.data_gain - ideal_gain, measurement_cov(problem))


def _deterministic(cov: Array, tiny: ArrayLike) -> Array:
    """Whether a block's law has a direction without variance, as far as rounding tells: [B].

    Relative to the modes' own variances, which may be of very different size.
    """
    std = safe_sqrt(diagonal(jax.lax.stop_gradient(cov)))
    size = jnp.where(std > 0, std, 1)
    correlation = jax.lax.stop_gradient(cov) / (size[..., :, None] * size[..., None, :])
    return jnp.min(eigh(correlation)[0], axis=-1) <= tiny
