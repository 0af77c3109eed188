"""A sampler's update as an affine map: its derivative on unit tangents.

Modes (or blocks) do not mix, so a map is one number (or matrix) for each. A sampler with memory
carries several signals: its maps are of all of them, blocks of (memory + 1) k numbers for each
block of k modes (k = 1 of independent modes). What comes out is the first (`signal`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .algebra import SMALL, apply_gain, congruence, divide, identity_gain, multiply
from .noise import NoiseLevel
from .problem import Problem, denoise, denoiser_cov, denoiser_jacobian, reflects
from .samplers.base import Guidance, Measurement, Sampler, Step

Norm = Callable[[Array], Array]


class ModelDenoiser(NamedTuple):
    """The denoiser of the model, in mode coordinates; relative to the prior mean, or (mean given)
    of signals as they are."""

    problem: Problem
    mean: Array | None = None

    def __call__(self, x: Array, level: NoiseLevel) -> Array:
        if self.mean is None:
            return denoise(self.problem, x, level)
        return self.mean + denoise(self.problem, x - level.alpha * self.mean, level)

    def vjp(self, x: Array, level: NoiseLevel) -> tuple[Array, Callable[[Array], Array]]:
        """x_hat and v -> J^T v, for `samplers.steps.denoise_with_vjp`."""
        return self(x, level), lambda v: denoiser_jacobian(self.problem, v, level)

    def cov(self, v: Array, level: NoiseLevel) -> Array:
        """C_t v, for `samplers.steps.data_cov`."""
        return apply_gain(denoiser_cov(self.problem, level), v)


class Transfer(NamedTuple):
    """x_out = state_gain x_in + data_gain y + offset + N(0, noise_cov), relative to the mean.

    Of several signals (`Sampler.memory`) K = (memory + 1) k in place of k, where x stands for them.
    """

    state_gain: Array  # [F] | [B, k, k]
    data_gain: Array  # [F] | [B, k, k]
    noise_cov: Array  # variances [F] | covariances [B, k, k]
    offset: Array  # [F] | [B, k]; 0 for most steps, not for a start that does not know the mean


def compose(first: Transfer, second: Transfer) -> Transfer:
    """First one, then the other. Associative; `identity_transfer` is its neutral element.

    >>> t, s = (sp.NoiseLevel(levels.alpha[i], levels.sigma[i]) for i in (0, 1))
    >>> step = sp.step_transfer(sampler, problem, t, s, {"zeta": 1.0, "eta": 1.0})
    >>> sp.compose(step, step).state_gain.shape == problem.spectrum.shape
    True
    """
    gain = second.state_gain
    return Transfer(
        multiply(gain, first.state_gain),
        multiply(gain, first.data_gain) + second.data_gain,
        congruence(gain, first.noise_cov) + second.noise_cov,
        apply_gain(gain, first.offset) + second.offset,
    )


def identity_transfer(problem: Problem, memory: int = 0) -> Transfer:
    """x_out = x_in."""
    zero, y, _ = nothing(problem, memory)
    one = identity_gain(zero)
    data = jnp.zeros_like(one) if zero.ndim == 1 else jnp.zeros((*zero.shape, y.shape[-1]), y.dtype)
    return Transfer(one, data, jnp.zeros_like(one), zero)


def signal(problem: Problem, law: Transfer) -> Transfer:
    """The transfer to x alone, of all signals that are carried."""
    if law.offset.shape == problem.spectrum.shape:
        return law
    k = 1 if problem.basis is None else problem.spectrum.shape[-1]
    state_gain, data_gain, noise_cov = (gain[..., :k, :k] for gain in law[:3])
    x = Transfer(state_gain, data_gain, noise_cov, law.offset[..., :k])
    return x if problem.basis is not None else Transfer(*(part.reshape(-1) for part in x))


def solver(problem: Problem) -> Callable[[Callable[[Array], Array], Array], Array]:
    """The exact `Measurement.solve`: an operator that keeps modes (blocks) apart, read off it."""
    if reflects(problem):  # it is diagonal, as H mixes the first mode of a block with no other
        return lambda operator, r: r / operator(jnp.ones_like(r))
    return lambda operator, r: divide(slopes(operator, jnp.zeros_like(problem.spectrum))[0], r)


def affine(sampler: Sampler, problem: Problem, t: NoiseLevel, fn: Callable[..., Array]) -> Transfer:
    """The transfer of fn(mean, x_t, y, eps), affine in the last three.

    With mean None all is relative to the prior mean. The offset is fn where x_t and y are just
    what the mean gives, or 0 where that is known.
    """
    inputs = nothing(problem, sampler.memory)
    gains = slopes(partial(fn, None), *inputs)
    rows = gains[0].shape if gains[0].ndim == 1 else gains[0].shape[:-1]
    offset = jnp.zeros(rows, gains[0].dtype)
    if not sampler.equivariant:
        offset = _at_mean(sampler, problem, t, fn)
    return Transfer(gains[0], gains[1], congruence(gains[2]), offset)


def affine_after(
    law: Transfer, sampler: Sampler, problem: Problem, t: NoiseLevel, fn: Callable[..., Array]
) -> Transfer:
    """`compose(law, affine(...))`.

    Large blocks of which one number is measured have no products of matrices, k^3, here: fn, which
    takes k for a signal, is applied to the columns of law, which are signals.
    """
    if not (reflects(problem) and problem.spectrum.shape[-1] > SMALL):
        return compose(law, affine(sampler, problem, t, fn))
    x, y, eps = inputs = nothing(problem, sampler.memory)
    _, push = jax.linearize(partial(fn, None), *inputs)

    first = identity_gain(y)[..., 0]  # what is measured
    # From gains G to G A^T, for A of x and of eps: rows are signals, as they lie in memory.
    through = jax.vmap(lambda x: push(x, 0 * y, 0 * eps), in_axes=1, out_axes=1)
    fresh = jax.vmap(lambda eps: push(0 * x, 0 * y, eps), in_axes=1, out_axes=1)
    offset = push(law.offset, 0 * y, 0 * eps)
    if not sampler.equivariant:
        offset = offset + _at_mean(sampler, problem, t, fn)
    return Transfer(
        through(law.state_gain.mT).mT,
        push(law.data_gain[..., 0], first, 0 * eps)[..., None] * first[..., None, :],
        through(through(law.noise_cov).mT) + fresh(fresh(identity_gain(eps)).mT),
        offset,
    )


def _at_mean(sampler: Sampler, problem: Problem, t: NoiseLevel, fn: Callable[..., Array]) -> Array:
    """fn where x_t and y are just what the prior mean gives."""
    mean = problem.mean
    return fn(mean, sampler.centre(t) * mean, problem.response * mean, 0 * mean)


def model_update(
    sampler: Sampler,
    problem: Problem,
    t: NoiseLevel,
    s: NoiseLevel,
    guidance_t: Guidance,
    norm: Norm,
    mean: Array | None,
    x_t: Array,
    y: Array,
    eps: Array,
) -> Array:
    """One update with the exact denoiser, for signals relative to the prior mean or (mean given)
    as they are. With memory, x_t and what is returned are all signals that are carried."""
    measurement = measurement_of(problem, norm)
    denoiser = ModelDenoiser(problem, mean)
    if not sampler.memory:
        return sampler.step(denoiser, measurement, Step(t, s, x_t, y, eps, guidance_t))[0]
    of_signals = lambda x: x.reshape(problem.spectrum.shape)  # noqa: E731
    x_t, *before = map(of_signals, jnp.split(x_t, sampler.memory + 1, axis=-1))
    step = Step(t, s, x_t, of_signals(y), of_signals(eps), guidance_t)
    return together(problem, sampler.step(denoiser, measurement, step, *before))


def measurement_of(problem: Problem, norm: Norm) -> Measurement:
    return Measurement(problem.response, problem.sigma_y, norm, solver(problem))


def nothing(problem: Problem, memory: int) -> list[Array]:
    """x_t, y and eps of zeros: [F] | [B, k]; with memory [F, memory + 1] | [B, (memory + 1) k] and
    [F, 1] | [B, k]."""
    zero = jnp.zeros_like(problem.spectrum)
    if not memory:
        return [zero] * 3
    one = zero[:, None] if problem.basis is None else zero
    return [jnp.tile(one, memory + 1), one, one]


def together(problem: Problem, signals: Sequence[Array]) -> Array:
    """Signals [F] | [B, k] beside each other: [F, m] | [B, m k]."""
    if problem.basis is None:
        return jnp.stack(list(signals), axis=-1)
    return jnp.concatenate(list(signals), axis=-1)


def slopes(fn: Callable[..., Array], *inputs: Array) -> list[Array]:
    """The derivatives of an affine fn by each input: [F] | [B, rows, columns].

    Modes (blocks) do not mix, so one cotangent of ones (one per mode of a block) finds them all;
    in reverse mode, since that takes one pass through fn for all inputs.
    """
    out, pull = jax.vjp(fn, *inputs)
    if out.ndim == 1:
        return list(pull(jnp.ones_like(out)))
    units = jnp.eye(out.shape[-1], dtype=out.dtype)[:, None, :]
    rows = jax.vmap(pull, out_axes=-2)(jnp.broadcast_to(units, (units.shape[0], *out.shape)))
    return list(rows)
