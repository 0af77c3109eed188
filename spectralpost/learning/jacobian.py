"""The Jacobian of a sampling trajectory, by all weights and levels of all steps.

The chain of steps is affine, so the derivative of the total by a weight of step t is

    d total / d weight_t = (steps after t) o (d step_t / d weight_t) o (start and steps before t):

one forward pass for the prefixes and one backward pass for the suffixes give the whole Jacobian
at about the cost of one gradient, instead of one pass per weight.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..affine import Transfer, compose, identity_transfer, signal
from ..noise import NoiseLevel, step_pairs
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..transfer import Leeway, amplification, start_transfer, step_transfer

Residuals = Callable[[Problem, Transfer], Array]


# How inputs of the steps move together: input -> tangents with a leading axis [D], one for each of
# D directions. Inputs are the weights, [D, S] or [D, S, F], and the noise levels "t" and "s" that a
# step goes from and to, leaves [D, S].
Direction = dict[str, Array | NoiseLevel]


class Linearisation(NamedTuple):
    """Values [R] and their derivatives if one step's inputs move: label -> [D, S, R]."""

    values: Array
    jacobian: dict[str, Array]


def linearise(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    directions: dict[str, Direction],
    residuals: Residuals,
    leeway: Leeway | None = None,
) -> tuple[Linearisation, Linearisation]:
    """Residuals of the whole sampler, and log `amplification` of each step's worst mode (R = S).

    For samplers that do not divide by norms (`measurement.norm`). In blocks the worst mode is that
    of the worst block.
    """
    t, s = step_pairs(levels)
    inputs = {"t": t, "s": s} | guidance

    def all_steps(moving: dict) -> Transfer:
        every = inputs | moving
        guidance = {name: every[name] for name in sampler.constraint}
        one = lambda *of_step: step_transfer(sampler, problem, *of_step)  # noqa: E731
        return jax.vmap(one)(every["t"], every["s"], guidance)

    # Traced once, whatever the number of directions.
    moving = {name: inputs[name] for direction in directions.values() for name in direction}
    steps, push_steps = jax.linearize(all_steps, moving)
    still = jax.tree.map(jnp.zeros_like, moving)
    start = start_transfer(sampler, problem, jax.tree.map(lambda leaf: leaf[0], levels))
    total, prefixes = jax.lax.scan(lambda law, step: (compose(law, step), law), start, steps)

    def backward(later: Transfer, step: Transfer) -> tuple[Transfer, Transfer]:
        return compose(step, later), later

    nothing = identity_transfer(problem, sampler.memory)
    _, suffixes = jax.lax.scan(backward, nothing, steps, reverse=True)

    r, push = jax.linearize(lambda law: residuals(problem, signal(problem, law)), total)
    growth = jax.vmap(partial(amplification, sampler, problem, leeway=leeway))(t, prefixes)
    growth = growth if growth.ndim == 2 else jnp.max(growth, axis=2)  # of a block
    most = jnp.max(growth, axis=1)
    # As argmax, which XLA does not vectorise on a CPU.
    row = jnp.arange(growth.shape[1])
    worst = jnp.min(jnp.where(growth == most[:, None], row, row[-1]), axis=1)

    growth_of = partial(_growth, sampler, problem, leeway)
    by_steps = _growth_by_steps(growth_of, t, prefixes, steps, worst)  # [S, S]

    def derivative(prefix: Transfer, step: Transfer, slope: Transfer, suffix: Transfer) -> Array:
        at = lambda step: compose(compose(prefix, step), suffix)  # noqa: E731
        return push(jax.jvp(at, (step,), (slope,))[1])

    def along(tangents: Direction) -> tuple[Array, Array]:
        slopes = push_steps(still | tangents)
        # [step that moves, step of the growth], summed over the parts of a transfer
        parts = [by * slope[:, worst] for by, slope in zip(by_steps, slopes, strict=True)]
        of_rows = [jnp.sum(part, axis=tuple(range(2, part.ndim))) for part in parts]
        grown = jnp.sum(jnp.stack(of_rows), axis=0)
        if "t" in tangents:
            # A level is also what the signal of its own step is measured by.
            before = jax.tree.map(lambda leaf: leaf[jnp.arange(worst.shape[0]), worst], prefixes)
            at = lambda t: jax.vmap(growth_of)(t, before, worst)  # noqa: E731
            grown = grown + jnp.diag(jax.jvp(at, (t,), (tangents["t"],))[1])
        return jax.vmap(derivative)(prefixes, steps, slopes, suffixes), grown

    jacobian, growth_jacobian = {}, {}
    for label, direction in directions.items():
        jacobian[label], growth_jacobian[label] = jax.vmap(along)(direction)
    return (
        Linearisation(r, jacobian),
        Linearisation(jnp.log(most), growth_jacobian),
    )


def _growth(
    sampler: Sampler,
    problem: Problem,
    leeway: Leeway | None,
    t: NoiseLevel,
    law: Transfer,
    row: Array,
) -> Array:
    """Log `amplification` of one mode (the worst one of a block), whose law this is."""
    one = jax.tree.map(lambda leaf: leaf[row][None] if leaf.ndim else leaf, problem)
    law = jax.tree.map(lambda leaf: leaf[None], law)
    return jnp.max(jnp.log(amplification(sampler, one, t, law, leeway)))


def _growth_by_steps(
    growth_of: Callable[[NoiseLevel, Transfer, Array], Array],
    t: NoiseLevel,
    laws: Transfer,
    steps: Transfer,
    worst: Array,
) -> Transfer:
    """Derivatives of the log amplification before step i, of its row worst[i], by step j: [j, i].

    laws and steps [S, F] | [S, B, ...]. One pass back through the steps, for all i at once.
    """
    index = jnp.arange(worst.shape[0])
    before = jax.tree.map(lambda leaf: leaf[index, worst], laws)
    seeds = jax.vmap(jax.grad(growth_of, argnums=1))(t, before, worst)

    def backward(adjoint: Transfer, inputs: tuple[Array, Transfer, Transfer]):
        j, law, step = inputs
        begins = index == j + 1  # the growth that sees step j last

        def chosen(seed: Array, later: Array) -> Array:
            axes = tuple(range(1, seed.ndim))
            return jnp.where(jnp.expand_dims(begins, axes), seed, later)

        adjoint = jax.tree.map(chosen, seeds, adjoint)
        by_law, by_step = jax.vjp(compose, law, step)[1](adjoint)
        return by_law, by_step

    at_worst = partial(jax.tree.map, lambda leaf: leaf[:, worst])
    nothing = jax.tree.map(jnp.zeros_like, seeds)
    inputs = (index, at_worst(laws), at_worst(steps))
    return jax.lax.scan(backward, nothing, inputs, reverse=True)[1]
