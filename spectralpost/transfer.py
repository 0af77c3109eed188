"""Spectral transfer functions: a sampler's update, differentiated.

Under a Gaussian prior a step is an affine map of (x_t, y, fresh noise), so its derivative on unit
tangents is the step's transfer function, mode by mode. Steps are composed by `lax.scan`; one step,
a prefix and a whole sampler are the same type.

Norm-normalised samplers (`measurement.norm`) are not affine. Their mean-field closure takes for
||u|| its root mean square under the current law, R = sqrt(E ||u||^2), which is known in closed
form; the norm concentrates as the number of pixels grows, so this is asymptotically exact.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .affine import (
    Transfer,
    affine,
    affine_after,
    measurement_of,
    model_update,
    signal,
    slopes,
    together,
)
from .algebra import (
    congruence,
    diagonal,
    floating,
    identity_gain,
    is_concrete,
    safe_sqrt,
)
from .chunks import num_chunks, split_problem
from .denoiser_use import uses_of
from .errors import check_kind
from .kept_jit import kept_jit
from .noise import NoiseLevel, check_levels, noisy_variance, step_pairs
from .problem import (
    Problem,
    along_prior,
    gain_along_prior,
    measurement_cov,
    num_pixels,
    per_pixel,
    reflects,
)
from .sampler_checks import check_linear
from .samplers.base import Guidance, Sampler, check_guidance, check_kinds, check_names


class Leeway(NamedTuple):
    """Amplification of weak modes counts less."""

    below: Array  # scalar: weak is a mode whose spectrum is below this
    times: Array  # scalar: how many times less


class Trajectory(NamedTuple):
    """A whole run."""

    total: Transfer  # start included
    norms: Array  # mean-field norms that each step divides by, [S, norms per step]
    amplification: Array  # of the signal that each step hands to the denoiser, worst mode, [S]


def step_transfer(
    sampler: Sampler,
    problem: Problem,
    t: NoiseLevel,
    s: NoiseLevel,
    guidance_t: Guidance,
    norms: Sequence[Array] = (),
) -> Transfer:
    """Transfer of one step t -> s, from (x_t, y) to x_s.

    `norms` are the norms that the sampler divides by, in order (see `mean_field_norms`). Raises
    InputError unless guidance_t has just the sampler's weights.

    >>> t, s = sp.NoiseLevel(0.6, 0.8), sp.NoiseLevel(0.8, 0.6)
    >>> step = sp.step_transfer(sampler, problem, t, s, {"zeta": 1.0, "eta": 1.0})
    >>> step.state_gain.shape == problem.spectrum.shape
    True
    """
    check_arguments(sampler, problem, guidance_t)
    check_names(sampler, guidance_t)
    problem, t, s, guidance_t = floating(problem, t, s, guidance_t)
    of = partial(affine, sampler, problem, t)
    return _step(of, sampler, problem, t, s, guidance_t, norms)


def _step(
    of: Callable[[Callable[..., Array]], Transfer],
    sampler: Sampler,
    problem: Problem,
    t: NoiseLevel,
    s: NoiseLevel,
    guidance_t: Guidance,
    norms: Sequence[Array],
) -> Transfer:
    """The transfer of one step, or of what was before it too: as `of` makes one of the update."""

    def update(mean: Array | None, *inputs: Array) -> Array:
        remaining = iter(norms)
        norm = lambda u: next(remaining)  # noqa: E731
        return model_update(sampler, problem, t, s, guidance_t, norm, mean, *inputs)

    transfer = of(update)
    if sampler.equivariant:
        return transfer
    return transfer._replace(offset=transfer.offset - sampler.centre(s) * problem.mean)


def start_transfer(sampler: Sampler, problem: Problem, level: NoiseLevel) -> Transfer:
    """Transfer of the start, from (unit-normal noise, y) to x_T.

    The offset is what the start, which does not know the prior mean, misses of alpha_T mean.
    """
    measurement = measurement_of(problem, jnp.linalg.norm)

    def start(eps: Array, y: Array) -> Array:
        return sampler.start(measurement, level, y, eps)

    zero = jnp.zeros_like(problem.mean)
    state_gain, data_gain = slopes(start, zero, zero)
    offset = start(zero, problem.response * problem.mean) - sampler.centre(level) * problem.mean
    if not sampler.memory:
        return Transfer(state_gain, data_gain, jnp.zeros_like(state_gain), offset)
    # Nothing is remembered: 0, which lacks the mean of an estimate.
    if problem.basis is None:
        state_gain, data_gain = state_gain[:, None, None], data_gain[:, None, None]
    more = [(0, 0), (0, sampler.memory * state_gain.shape[-1]), (0, 0)]
    state_gain, data_gain = jnp.pad(state_gain, more), jnp.pad(data_gain, more)
    estimates = sampler.memory - sampler.directions
    before = [-problem.mean] * estimates + [zero] * sampler.directions
    offset = together(problem, [offset, *before])
    return Transfer(state_gain, data_gain, 0 * identity_gain(offset), offset)


def sampler_transfer(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Transfer:
    """Total transfer, start included: from (unit-normal start noise, y - H mean) to x - mean.

    levels [S + 1], guidance leaves [S] (or [S, F], see `guidance.per_mode`), all computed in the
    widest floating dtype of problem, levels and guidance. Differentiable in everything but the
    sampler; where noise is the square root of a weight (zeta of DiffPIR) its derivative counts as 0
    at weight 0, not as the one-sided one. Raises InputError if levels are no grid, or guidance
    lacks a weight, has an unknown one, or one of another length.

    >>> transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
    >>> transfer.data_gain.shape, transfer.noise_cov.shape  # of each mode
    ((15,), (15,))
    """
    return trajectory(sampler, problem, levels, guidance).total


def mean_field_norms(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Array:
    """The norms R that each step divides by, in the mean-field closure, [S, norms per step].

    >>> literal = sp.to_literal(sampler, problem, levels, guidance)
    >>> sp.mean_field_norms(sampler.literal, problem, levels, literal).shape
    (3, 1)
    """
    return trajectory(sampler, problem, levels, guidance).norms


def divides_by_norms(sampler: Sampler, problem: Problem) -> bool:
    """Whether the update asks for the norm of a whole image, which makes modes depend on others."""
    return uses_of(sampler, problem).norms > 0


def checked(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> tuple[Problem, NoiseLevel, Guidance]:
    """All in their widest floating dtype; InputError for what is no grid, and for weights that the
    sampler does not have or cannot have: as far as JAX does not trace them, so before `jit`."""
    check_arguments(sampler, problem, guidance)
    check_levels(levels)
    problem, levels, guidance = floating(problem, levels, guidance)
    in_blocks = problem.basis is not None
    modes = None if in_blocks else problem.spectrum.size
    check_guidance(sampler, levels, guidance, modes, in_blocks)
    return problem, levels, guidance


def check_arguments(sampler: Sampler, problem: Problem, guidance: Guidance | None) -> None:
    """As `check_kinds`; and a sampler that `check_linear` refuses."""
    check_kinds(sampler, guidance)
    check_linear(sampler)
    check_kind("problem", problem, Problem, "the first of what `unique_modes`, `bin_modes` return")


def in_chunks(sampler: Sampler, problem: Problem) -> bool:
    """Whether some of the modes can do without the others: `exact` closes over the whole problem,
    a norm couples modes."""
    return sampler.compares_by_call and not divides_by_norms(sampler, problem)


def trajectory(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    leeway: Leeway | None = None,
) -> Trajectory:
    """The total transfer, and what happens on the way. Arguments as in `sampler_transfer`.

    leeway   amplification of weak modes counts less, see `Leeway`

    >>> run = sp.trajectory(sampler, problem, levels, guidance)
    >>> run.amplification.shape  # [S]
    (3,)
    """
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    # Outside of `jit` JAX compiles a loop anew at every call: once for samplers that compare equal.
    once = sampler.compares_by_call and is_concrete((problem, levels, guidance))
    return (_compiled if once else _trajectory)(sampler, problem, levels, guidance, leeway)


def _trajectory(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    leeway: Leeway | None,
) -> Trajectory:
    num = num_chunks(problem, sampler.memory)
    if num == 1 or not in_chunks(sampler, problem):
        return _at_once(sampler, problem, levels, guidance, leeway)
    one = jax.checkpoint(lambda chunk: _at_once(sampler, chunk, levels, guidance, leeway))
    total, norms, growth = jax.lax.map(one, split_problem(problem, num))
    rows = problem.spectrum.shape[0]
    total = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:rows], total)
    return Trajectory(total, norms[0], jnp.max(growth, axis=0))


def _at_once(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    leeway: Leeway | None,
) -> Trajectory:
    t, s = step_pairs(levels)
    start = start_transfer(sampler, problem, jax.tree.map(lambda leaf: leaf[0], levels))

    def step(law: Transfer, inputs: tuple[NoiseLevel, NoiseLevel, Guidance]):
        t, s, guidance_t = inputs
        norms = norms_asked(sampler, problem, t, s, guidance_t, law)
        of = partial(affine_after, law, sampler, problem, t)
        after = _step(of, sampler, problem, t, s, guidance_t, norms)
        stacked = jnp.stack(norms) if norms else jnp.zeros(0, problem.spectrum.dtype)
        return after, (stacked, jnp.max(amplification(sampler, problem, t, law, leeway)))

    # Recomputing a step in the backward pass is cheaper than storing what is inside of it.
    law, on_the_way = jax.lax.scan(jax.checkpoint(step), start, (t, s, guidance))
    return Trajectory(signal(problem, law), *on_the_way)


_compiled = kept_jit(_trajectory, static_argnames="sampler")


def amplification(
    sampler: Sampler, problem: Problem, t: NoiseLevel, law: Transfer, leeway: Leeway | None = None
) -> Array:
    """How much larger a sampler's x_t is than the signals its denoiser was made for, [F] | [B, k].

    Ratio of root mean squares, E over signals, measurements and noise, along each eigenvector of
    the prior: 1 for unguided sampling in small steps. `law` is the transfer from the start to the
    state before step t.

    leeway   that of weak modes counts less, see `Leeway`
    """
    made_for = noisy_variance(problem.spectrum, t)
    handed = _mean_square(problem, law)
    if sampler.state == "x_0":
        handed = noisy_variance(handed, t)
    ratio = jnp.sqrt(handed / made_for)
    if leeway is None:
        return ratio
    return jnp.where(problem.spectrum < leeway.below, ratio / leeway.times, ratio)


def second_moment(problem: Problem, law: Transfer) -> Array:
    """E ||x||^2, over signals, measurements and noise, of all pixels: relative to the mean."""
    return num_pixels(problem) * per_pixel(problem, _mean_square(problem, law))


# -------------------------------------------------------------------------------------- machinery


def _mean_square(problem: Problem, law: Transfer) -> Array:
    """E x^2 along each eigenvector of the prior, over signals, measurements and noise,
    [F] | [B, k]."""
    law, cov_y = signal(problem, law), measurement_cov(problem)
    offset = along_prior(problem, law.offset)
    if reflects(problem):  # one number is measured, and only variances are asked for
        from_state = jax.vmap(partial(along_prior, problem), 1, 1)(law.state_gain.mT)
        from_data = along_prior(problem, law.data_gain[..., 0])
        known = jnp.sum(from_state**2, axis=-2) + cov_y[..., 0, :1] * from_data**2
        return known + diagonal(gain_along_prior(problem, law.noise_cov)) + offset**2
    cov = congruence(law.data_gain, cov_y) + congruence(law.state_gain) + law.noise_cov
    return diagonal(gain_along_prior(problem, cov)) + offset**2


def norms_asked(
    sampler: Sampler,
    problem: Problem,
    t: NoiseLevel,
    s: NoiseLevel,
    guidance_t: Guidance,
    law: Transfer,
) -> list[Array]:
    """R = sqrt(E ||u||^2) for each u whose norm the update asks for, in the order it asks.

    A u is an affine function of (x_t, y, eps), like the update itself, once the earlier norms are
    numbers: its transfer is found by differentiating what the update hands to `norm`. `law` is the
    transfer from the start to x_t.
    """
    norms: list[Array] = []

    def asked(mean: Array | None, *inputs: Array) -> list[Array]:
        seen: list[Array] = []

        def norm(u: Array) -> Array:
            seen.append(together(problem, [u]) if sampler.memory else u)
            return norms[len(seen) - 1] if len(seen) <= len(norms) else jnp.ones((), u.dtype)

        model_update(sampler, problem, t, s, guidance_t, norm, mean, *inputs)
        return seen

    for i in range(uses_of(sampler, problem).norms):
        u = affine_after(law, sampler, problem, t, lambda *inputs, i=i: asked(*inputs)[i])
        norms.append(safe_sqrt(second_moment(problem, u)))
    return norms
