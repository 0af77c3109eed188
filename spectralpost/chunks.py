"""Many modes or blocks a few at a time, in memory that does not grow with them.

Blocks do not mix, and a gain of a block of k modes has k^2 numbers: of 256 blocks of 256 modes
(super-resolution by 16 of 256x256 pixels) a single array takes 134 MB.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .problem import Problem, num_pixels

T = TypeVar("T")

AT_ONCE = 2**18  # numbers of a gain: two megabytes, of which a step has a dozen


def num_chunks(problem: Problem, memory: int = 0) -> int:
    """Into how many chunks a problem had better be split: 1 of independent modes. `memory`: how
    many signals are carried besides x."""
    if problem.basis is None:
        return 1
    rows, k = problem.spectrum.shape
    return -(-rows // max(AT_ONCE // ((memory + 1) * k) ** 2, 1))


def split(tree: T, num: int) -> T:
    """Arrays of rows in `num` equal chunks, leaves [num, rows of a chunk, ...]; the last row is
    repeated to fill them up. Numbers without rows go to every chunk."""

    def of_leaf(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return jnp.broadcast_to(leaf, (num,))
        rows = leaf.shape[0]
        size = -(-rows // num)
        filled = leaf[np.minimum(np.arange(num * size), rows - 1)] if rows % num else leaf
        return filled.reshape(num, size, *leaf.shape[1:])

    return jax.tree.map(of_leaf, tree)


def split_problem(problem: Problem, num: int) -> Problem:
    """`split`, the rows that fill up with weight 0."""
    rows = problem.spectrum.shape[0]
    weight = jnp.pad(problem.weight, (0, -rows % num))
    return split(problem._replace(weight=weight[:rows]), num)._replace(
        weight=weight.reshape(num, -1)
    )


def average_of_chunks(
    function: Callable[..., Any], problem: Problem, num: int, *of_rows: Any
) -> Any:
    """function(problem, *of_rows), where that is an average over modes, or several: chunk by chunk.

    Differentiable, in as little memory.
    """
    if num == 1:
        return function(problem, *of_rows)
    pixels = num_pixels(problem)
    chunks = split_problem(problem, num), *(split(one, num) for one in of_rows)
    parts = jax.lax.map(jax.checkpoint(lambda chunk: share_of(function, pixels, *chunk)), chunks)
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)


def share_of(function: Callable[..., Any], pixels: Array, chunk: Problem, *of_rows: Any) -> Any:
    """What a chunk contributes to an average over all modes of so many pixels."""
    share = num_pixels(chunk) / pixels
    # An average over modes of weight 0 alone would not be a number.
    chunk = chunk._replace(weight=jnp.where(share > 0, chunk.weight, 1))
    return jax.tree.map(lambda part: share * part, function(chunk, *of_rows))
