"""Fewer modes: equal ones merged, similar ones binned; problems stacked and padded."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import InputError, check_whole
from .problem import Problem


def unique_modes(problem: Problem) -> tuple[Problem, np.ndarray]:
    """Merge modes with equal spectrum, response and calibration; no loss of this package changes.

    Returns the smaller problem, weights added up, and the index [F] of each old mode's new row.
    A symmetric image problem loses most of its modes: f and -f always coincide, and all of equal
    |f| where prior and blur are isotropic. Means enter all losses by their squares, so a merged row
    carries their root mean square. Equal means: to 12 digits of spectrum and of the largest
    response in float64, to 5 in float32. Blocks are returned as they are.
    """
    rows = problem.spectrum.shape[0]
    if problem.basis is not None:
        return problem, np.arange(rows)
    one = 10.0 ** (12 if problem.spectrum.dtype == jnp.float64 else 5)
    spectrum, response = np.asarray(problem.spectrum, float), np.asarray(problem.response, float)
    with np.errstate(divide="ignore"):
        exponent = np.where(spectrum > 0, np.floor(np.log10(spectrum)), 0)
    # Exponent and digits (up to 10 * one) in one whole number, below 2^53. Numbers are sorted
    # many times faster than rows of numbers.
    spectra = exponent * (20 * one) + np.rint(spectrum / 10.0**exponent * one)
    responses = np.rint(response / max(response.max(), np.finfo(float).tiny) * one)
    rank = lambda keys: np.unique(keys, return_inverse=True)[1]  # noqa: E731
    index = rank(rank(spectra) * rows + rank(responses))
    if problem.calibration is not None:
        for ratios in np.rint(np.asarray(problem.calibration.ratio, float).T * one):
            index = rank(index * rows + rank(ratios))
    return _merge(problem, index), index


def bin_modes(problem: Problem, num_bins: int) -> tuple[Problem, np.ndarray]:
    """Merge modes with similar (spectrum, response) into at most `num_bins` rows (approximate).

    Modes of similar log spectrum and similar asinh(10 h / sigma_y) share a row: a response matters
    by how far it is above the noise. The cell and direction with the largest sum of squares, each
    mode weighted by its share of the signal, is split at its mean first. Compare a loss on both
    problems to know the error (`benchmarks/binning.py`). Returns the smaller problem and the index
    [F] of each old mode's new row. Blocks are returned as they are.
    """
    num_bins = check_whole("bins", num_bins)
    rows = problem.spectrum.shape[0]
    if problem.basis is not None or rows <= num_bins:
        return problem, np.arange(rows)
    spectrum, response = np.asarray(problem.spectrum, float), np.asarray(problem.response, float)
    floor = max(spectrum.max() * 1e-12, np.finfo(float).tiny)
    above_noise = np.arcsinh(10 * response / float(problem.sigma_y))
    features = np.stack([np.log(np.maximum(spectrum, floor)), 2 * above_noise])
    share = np.asarray(problem.weight, float) * np.maximum(spectrum, floor)
    share = share / share.sum() + np.finfo(float).eps
    index = _split_worst_first(features, share, num_bins)
    return _merge(problem, index), index


def stack_problems(problems: Sequence[Problem]) -> Problem:
    """Problems side by side, leaves [K, ...]; the shorter ones are filled up with rows of weight 0.

    Raises InputError for a mixture of blocks and independent modes, or blocks of two sizes.
    """
    if len({(p.basis is None, p.spectrum.shape[1:]) for p in problems}) != 1:
        raise InputError("problems: all or none must have blocks, and these of one size")
    if len({p.calibration is None for p in problems}) != 1:
        raise InputError("problems: all or none must be calibrated")
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

    dtype, calibration = problem.spectrum.dtype, problem.calibration
    if calibration is not None:
        ratios = [jnp.asarray(average(column), dtype) for column in calibration.ratio.T]
        calibration = calibration._replace(ratio=jnp.stack(ratios, axis=1))
    return problem._replace(
        spectrum=jnp.asarray(average(problem.spectrum), dtype),
        response=jnp.asarray(average(problem.response), dtype),
        mean=jnp.asarray(np.sqrt(average(problem.mean**2)), dtype),
        weight=jnp.asarray(total, dtype),
        calibration=calibration,
    )


def _split_worst_first(features: np.ndarray, share: np.ndarray, num_cells: int) -> np.ndarray:
    """The cell [F] of each point, at most `num_cells`, of points with two `features`, [2, F].

    The cell with the largest spread (weighted sum of squares along its worse axis) is split there
    at its mean, again and again. No part has a larger spread than the whole, so the cells that this
    splits are those of largest spread in the tree of all splits. Hence a pass over the points
    splits all cells but those known to be too many, and at the end those of small spread are put
    together again: as many passes as the tree is deep, instead of one for each cell.
    """
    node = np.zeros(share.size, int)  # the smallest cell that holds each point
    spread, parent = np.zeros(0), np.zeros(0, int)  # of each cell
    made = np.zeros(1, int)  # what this pass's cells are parts of
    # Those points that are in them. `take` is several times faster than an index here.
    points, cell, weight, values = np.arange(share.size), node, share, tuple(features)
    while made.size:
        add_up = partial(np.bincount, cell, minlength=made.size)
        total = add_up(weight)
        means = [add_up(weight * along) / total for along in values]
        squares = [
            add_up(weight * (along - mean.take(cell)) ** 2)
            for along, mean in zip(values, means, strict=True)
        ]
        axis = np.argmax(squares, axis=0)
        along, mean = np.choose(axis.take(cell), values), np.choose(axis, means)
        low, high = np.full(made.size, np.inf), np.full(made.size, -np.inf)
        np.minimum.at(low, cell, along)
        np.maximum.at(high, cell, along)
        worst = np.where(low < high, np.max(squares, axis=0), 0)  # 0: all the same, no gain
        if parent.size:  # larger than the whole's by rounding only
            worst = np.minimum(worst, spread[made])
        first = parent.size
        spread, parent = np.append(spread, worst), np.append(parent, made)

        bar = np.sort(spread)[-(num_cells - 1)] if 0 < num_cells - 1 <= spread.size else 0
        splits = (worst > 0) & (worst >= bar) & (num_cells > 1)
        # Rounding may put the mean of nearly equal points beyond them.
        middle = np.clip(mean, low, np.nextafter(high, -np.inf))
        kept = splits.take(cell)
        above = along > middle.take(cell)
        cell = (2 * (np.cumsum(splits) - 1).take(cell) + above)[kept]
        points, weight, values = points[kept], weight[kept], tuple(one[kept] for one in values)
        node[points] = spread.size + cell
        made = np.repeat(first + np.flatnonzero(splits), 2)
    return _put_together(spread, parent, num_cells)[node]


def _put_together(spread: np.ndarray, parent: np.ndarray, num_cells: int) -> np.ndarray:
    """For each cell of a tree the number, from 0, of the one that holds it when only the
    `num_cells` - 1 of largest spread are split. Parents come before their parts."""
    is_split = np.zeros(spread.size, bool)
    is_split[np.argsort(-spread, kind="stable")[: num_cells - 1]] = True
    is_split &= spread > 0
    holder, number = np.zeros(spread.size, int), 0
    for cell in range(spread.size):
        if cell > 0 and not is_split[parent[cell]]:
            holder[cell] = holder[parent[cell]]
        elif not is_split[cell]:
            holder[cell] = number
            number += 1
    return holder
