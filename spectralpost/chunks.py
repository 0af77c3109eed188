"""Many modes or blocks a few at a time, in memory that does not grow with them.

Blocks do not mix, and a gain of a block of k modes has k^2 numbers: of 256 blocks of 256 modes
(super-resolution by 16 of 256x256 pixels) a single array takes 134 MB.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .merging import pad_modes
from .problem import Problem, num_pixels

AT_ONCE = 2**18  # numbers of a gain: two megabytes, of which a step has a dozen


def num_chunks(problem: Problem, memory: int = 0) -> int:
    """Into how many chunks a problem had better be split: 1 of independent modes. `memory`: how
    many signals are carried besides x."""
    if problem.basis is None:
        return 1
    rows, k = problem.spectrum.shape
    return -(-rows // max(AT_ONCE // ((memory + 1) * k) ** 2, 1))


def split_problem(problem: Problem, num: int) -> Problem:
    """Equal chunks of rows, leaves [num, rows of a chunk, ...], filled up with rows of weight 0."""
    size = -(-problem.spectrum.shape[0] // num)

    def split(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return jnp.broadcast_to(leaf, (num,))
        return leaf.reshape(num, size, *leaf.shape[1:])

    return jax.tree.map(split, pad_modes(problem, num * size))


def average_of_chunks(function: Callable[[Problem], Any], problem: Problem, num: int) -> Any:
    """function(problem), where that is an average over modes, or several: chunk by chunk.

    Differentiable, in as little memory.
    """
    if num == 1:
        return function(problem)
    pixels = num_pixels(problem)
    one = jax.checkpoint(partial(share_of, function, pixels))
    parts = jax.lax.map(one, split_problem(problem, num))
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)


def share_of(function: Callable[[Problem], Any], pixels: Array, chunk: Problem) -> Any:
    """What a chunk contributes to an average over all modes of so many pixels."""
    share = num_pixels(chunk) / pixels
    # An average over modes of weight 0 alone would not be a number.
    chunk = chunk._replace(weight=jnp.where(share > 0, chunk.weight, 1))
    return jax.tree.map(lambda part: share * part, function(chunk))
