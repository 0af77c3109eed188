"""Fewer modes: equal ones merged, similar ones binned; problems stacked and padded."""

import heapq
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import InputError
from .problem import Problem


def unique_modes(problem: Problem) -> tuple[Problem, np.ndarray]:
    """Merge modes with equal (spectrum, response); every loss of this package is unchanged.

    Returns the smaller problem, weights added up, and the index [F] of each old mode's new row.
    A symmetric image problem loses most of its modes: f and -f always coincide, and all of equal
    |f| where prior and blur are isotropic. Means enter all losses by their squares, so a merged row
    carries their root mean square. Equal means: to 12 digits of spectrum and of the largest
    response in float64, to 5 in float32. Blocks are returned as they are.
    """
    rows = problem.spectrum.shape[0]
    if problem.basis is not None:
        return problem, np.arange(rows)
    digits = 12 if problem.spectrum.dtype == jnp.float64 else 5
    spectrum, response = np.asarray(problem.spectrum), np.asarray(problem.response)
    with np.errstate(divide="ignore"):
        exponent = np.where(spectrum > 0, np.floor(np.log10(spectrum)), 0)
    keys = np.stack(
        [
            exponent,
            np.rint(spectrum / 10.0**exponent * 10.0**digits),
            np.rint(response / max(response.max(), np.finfo(response.dtype).tiny) * 10.0**digits),
        ],
        axis=1,
    )
    index = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    return _merge(problem, index), index


def bin_modes(problem: Problem, num_bins: int) -> tuple[Problem, np.ndarray]:
    """Merge modes with similar (spectrum, response) into at most `num_bins` rows (approximate).

    Modes of similar log spectrum and similar asinh(10 h / sigma_y) share a row: a response matters
    by how far it is above the noise. The cell and direction with the largest sum of squares, each
    mode weighted by its share of the signal, is split at its mean first. Compare a loss on both
    problems to know the error (`benchmarks/binning.py`). Returns the smaller problem and the index
    [F] of each old mode's new row. Blocks are returned as they are.
    """
    if num_bins < 1:
        raise InputError(f"bins = {num_bins}: must be >= 1")
    rows = problem.spectrum.shape[0]
    if problem.basis is not None or rows <= num_bins:
        return problem, np.arange(rows)
    spectrum, response = np.asarray(problem.spectrum, float), np.asarray(problem.response, float)
    floor = max(spectrum.max() * 1e-12, np.finfo(float).tiny)
    above_noise = np.arcsinh(10 * response / float(problem.sigma_y))
    features = np.stack([np.log(np.maximum(spectrum, floor)), 2 * above_noise], axis=1)
    share = np.asarray(problem.weight, float) * np.maximum(spectrum, floor)
    share = share / share.sum() + np.finfo(float).eps

    def spread(cell: np.ndarray) -> tuple[float, int, float]:
        """Of the worse direction: sum of squares, which it is, mean."""
        weight, values = share[cell], features[cell]
        mean = weight @ values / weight.sum()
        squares = weight @ (values - mean) ** 2
        axis = int(np.argmax(squares))
        return -float(squares[axis]), axis, float(mean[axis])

    cells = [(*spread(np.arange(rows)), 0, np.arange(rows))]
    while len(cells) < num_bins:
        _, axis, middle, _, cell = heapq.heappop(cells)
        values = features[cell, axis]
        below = values <= middle
        if below.all():  # rounding put the mean on the largest value
            below = values < values.max()
        if not below.any():  # all the same: nothing to gain anywhere
            heapq.heappush(cells, (0.0, axis, middle, cell[0], cell))
            break
        for part in (cell[below], cell[~below]):
            heapq.heappush(cells, (*spread(part), part[0], part))
    index = np.empty(rows, int)
    for number, (*_, cell) in enumerate(cells):
        index[cell] = number
    return _merge(problem, index), index


def stack_problems(problems: Sequence[Problem]) -> Problem:
    """Problems side by side, leaves [K, ...]; the shorter ones are filled up with rows of weight 0.

    Raises InputError for a mixture of blocks and independent modes, or blocks of two sizes.
    """
    if len({(p.basis is None, p.spectrum.shape[1:]) for p in problems}) != 1:
        raise InputError("problems: all or none must have blocks, and these of one size")
    rows = max(problem.spectrum.shape[0] for problem in problems)
    filled = [pad_modes(problem, rows) for problem in problems]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)


def pad_modes(problem: Problem, rows: int) -> Problem:
    """The same problem in `rows` rows: the last one repeated with weight 0, so no loss changes.

    Raises InputError if the problem has more.
    """
    missing = rows - problem.spectrum.shape[0]
    if missing < 0:
        raise InputError(f"rows = {rows}: the problem has {problem.spectrum.shape[0]}")

    def fill(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    weight = jnp.pad(problem.weight, (0, missing))
    return jax.tree.map(fill, problem)._replace(weight=weight)


def _merge(problem: Problem, index: np.ndarray) -> Problem:
    """One row per value of index: weights add up, the rest are weighted means."""
    weight = np.asarray(problem.weight, float)
    total = np.bincount(index, weight)

    def average(values: Array) -> np.ndarray:
        return np.bincount(index, weight * np.asarray(values, float)) / total

    dtype = problem.spectrum.dtype
    return problem._replace(
        spectrum=jnp.asarray(average(problem.spectrum), dtype),
        response=jnp.asarray(average(problem.response), dtype),
        mean=jnp.asarray(np.sqrt(average(problem.mean**2)), dtype),
        weight=jnp.asarray(total, dtype),
    )
