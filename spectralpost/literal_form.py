"""Official, norm-normalised weights from a schedule's and back, by mean-field norms.

Data of each sampler (`Sampler.literal` and its two conversions); the norms come from trajectories.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .affine import Transfer, compose
from .algebra import floating
from .errors import InputError
from .noise import NoiseLevel, step_pairs
from .problem import Problem
from .samplers.base import Conversion, Guidance, Sampler
from .transfer import (
    checked,
    norms_asked,
    sampler_transfer,
    start_transfer,
    step_transfer,
    trajectory,
)


def to_literal(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Guidance:
    """The weights of `sampler.literal` that take the same steps as this guidance, leaves [S].

    By the mean-field norms along this sampler's own trajectory: at the same law the literal form
    divides by the same norm. InputError if the sampler has no literal form.

    >>> scale = sp.to_literal(sampler, problem, levels, guidance)["scale"]
    >>> [round(float(one), 2) for one in scale]  # the official constant again
    [0.3, 0.3, 0.3]
    """
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    literal, convert, _ = _literal(sampler)
    t, s = step_pairs(levels)
    one = jnp.ones((t.alpha.shape[0], 1), problem.spectrum.dtype)
    # The norms do not depend on the weight that is converted (see `Sampler`): any number will do.
    likely = convert(guidance, one, levels)

    def step(law: Transfer, inputs) -> tuple[Transfer, Array]:
        t, s, guidance_t, likely_t = inputs
        (norm,) = norms_asked(literal, problem, t, s, likely_t, law)
        return compose(law, step_transfer(sampler, problem, t, s, guidance_t)), norm

    start = start_transfer(sampler, problem, jax.tree.map(lambda leaf: leaf[0], levels))
    norms = jax.lax.scan(step, start, (t, s, guidance, likely))[1]
    return convert(guidance, norms[:, None], levels)


def from_literal(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, literal_guidance: Guidance
) -> Guidance:
    """The weights that take the same steps as `sampler.literal` with these, in the mean-field
    closure, leaves [S]. InputError if the sampler has no literal form.

    >>> literal = sp.to_literal(sampler, problem, levels, guidance)
    >>> again = sp.from_literal(sampler, problem, levels, literal)
    >>> bool(abs(again["zeta"] / guidance["zeta"] - 1).max() < 1e-3)
    True
    """
    return _from_literal(sampler, problem, levels, literal_guidance)[0]


def published(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0
) -> tuple[Guidance, Transfer]:
    """`Sampler.heuristic`, and the whole sampler's transfer with it: by one trajectory."""
    official = sampler.defaults(problem, levels, factor)
    if sampler.literal is not None:
        return _from_literal(sampler, problem, levels, official)
    return official, sampler_transfer(sampler, problem, levels, official)


def _from_literal(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, literal_guidance: Guidance
) -> tuple[Guidance, Transfer]:
    """`from_literal`, and the transfer that the literal form and it both have."""
    literal, _, convert = _literal(sampler)
    problem, levels, literal_guidance = floating(problem, levels, literal_guidance)
    run = trajectory(literal, problem, levels, literal_guidance)
    return convert(literal_guidance, run.norms, levels), run.total


def _literal(sampler: Sampler) -> tuple[Sampler, Conversion, Conversion]:
    """The literal form, and the conversions to it and from it."""
    literal, to, back = sampler.literal, sampler.to_literal, sampler.from_literal
    if literal is None or to is None or back is None:
        raise InputError(f"sampler = {sampler.name!r}: has no form that divides by a norm")
    return literal, to, back
