"""Points put into cells of small spread: what binning of modes and of blocks has in common."""

from functools import partial

import numpy as np


def split_worst_first(features: np.ndarray, share: np.ndarray, num_cells: int) -> np.ndarray:
    """The cell [F] of each point, at most `num_cells`, of points with few `features`, [D, F].

    The cell with the largest spread (weighted sum of squares along its worst axis) is split there
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


def log_sizes(spectrum: np.ndarray) -> np.ndarray:
    """By which blocks are alike: logs of the largest, mean and least variance, [B, k] -> [3, B]."""
    least = np.maximum(spectrum, spectrum.max() * 1e-12)
    return np.log([least.max(axis=1), least.mean(axis=1), least.min(axis=1)])


def nearest_to_mean(features: np.ndarray, share: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Of each cell the point that is nearest to its mean: features [D, F], cell [F] -> [cells]."""
    total = np.bincount(cell, share)
    centre = np.stack([np.bincount(cell, share * along) / total for along in features])
    distance = np.sum((features - centre[:, cell]) ** 2, axis=0)
    order = np.lexsort((distance, cell))
    return order[np.searchsorted(cell[order], np.arange(total.size))]


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
