"""Searches of many losses side by side, quickly: what a sweep does, and `Search(explore=False)`.
Also of one loss of large blocks, where generations would take minutes, and of one whose search
begins from given schedules.

Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016): on a problem of few bins, all starts of a loss go some
iterations, then the better half of them, and so on; the last one until it gains no more. What it
finds, or the tuned constant where that is better, is refined on the whole problem.
"""

from functools import partial

import jax
import numpy as np

from .generations import CHUNK, Search, Watch
from .guidance import on_host
from .lanes import (
    Lanes,
    Method,
    advance_each,
    begin,
    losses_of_each,
    next_power_of_two,
    spread,
    taken,
)
from .loss import Loss

# Searches of one program, for each device: so many, whatever is left of them, so that nothing is
# compiled twice. A CPU is as fast with few: on the whole problem with one of each loss, which is
# what it is left with. An accelerator takes all of them.
WIDTH = 8
EXPLORING = 15  # iterations between two looks on few bins
REFINING = 4  # the same on the whole problem after it


def search_each(
    losses: Loss,
    coarse: Loss | None,
    method: Method,
    starts: np.ndarray,
    constants: np.ndarray,
    search: Search,
    watch: Watch,
    chunk: int | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The best vectors of all losses, [N, P], what they cost, [N], and whether no search was cut.

    losses     leaves [N, ...]
    coarse     the same on few bins; None: all starts are refined on the whole problem
    starts     [N, starts, P]
    constants  [N, P]: nothing that costs more than these is given back
    chunk      iterations between two looks on the whole problem; None: as is quick, few of them
               after a search on few bins, which leaves little to gain
    """
    if chunk is None:
        chunk = CHUNK if coarse is None else REFINING
    found = np.asarray(starts)
    if coarse is not None:
        exploring = EXPLORING, _width(found, 1), watch, watch.explored
        found = _halved(coarse, method, found, search, *exploring)[0][:, None]
    candidates = np.concatenate([found, constants[:, None]], axis=1)
    candidates = candidates.astype(losses.parameters.levels.alpha.dtype)
    # A search that begins from the constant ends no worse: what it costs takes no program then.
    begun = np.any(np.all(found == constants[:, None], axis=2), axis=1)
    cost = None if coarse is None and begun.all() else losses_of_each(losses, candidates)
    if coarse is not None:
        found = _best(candidates, np.asarray(cost))[0][:, None]
    refining = chunk, _width(found, found.shape[1]), watch, watch.refined
    vectors, least, ended = _halved(losses, method, found, search, *refining)
    if cost is None and np.isfinite(least).all():
        return vectors, least, ended
    # All candidates once more: where the user had interrupted, perhaps none of them was refined.
    cost = losses_of_each(losses, candidates) if cost is None else cost
    every = np.concatenate([vectors[:, None], candidates], axis=1)
    return *_best(every, np.concatenate([least[:, None], cost], axis=1)), ended


def _best(vectors: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [N, n, P] and [N, n]: [N, P] and [N]."""
    rows, at = np.arange(len(losses)), losses.argmin(axis=1)
    return vectors[rows, at], losses[rows, at]


def _halved(
    losses: Loss,
    method: Method,
    starts: np.ndarray,
    search: Search,
    chunk: int,
    width: int,
    watch: Watch,
    record: list[float],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The best of all searches of each loss, [N, P] and [N], by `chunk` iterations at a time; and
    whether they ended by themselves: starts [N, starts, P], losses with leaves [N, ...]. `width`
    searches go at once."""
    cells, num, size = starts.shape
    vectors = starts.astype(losses.parameters.levels.alpha.dtype)
    best, least = vectors[:, 0].copy(), np.full(cells, np.inf)
    cell = np.repeat(np.arange(cells), num)
    lanes = on_host(begin(method, vectors.reshape(-1, size)))
    chunks = -(-search.max_iterations // chunk)
    for done in range(1, chunks + 1):
        go = partial(_advanced, losses, cell, lanes, method, chunk, width)
        after = watch.run(go, lambda lanes: float(np.min(lanes.loss)), record, chunk, chunks - done)
        if after is None:
            return best, least, False
        # Rank 0 is the best of its loss.
        order = np.lexsort((after.loss, cell))
        counts = np.bincount(cell, minlength=cells)
        rank = np.empty(len(cell), int)
        rank[order] = np.arange(len(cell)) - (np.cumsum(counts) - counts)[cell[order]]
        first = rank == 0
        better = first & (after.loss < least[cell])
        best[cell[better]], least[cell[better]] = after.vector[better], after.loss[better]
        with np.errstate(invalid="ignore"):  # infinite before and after
            gains = lanes.loss - after.loss > search.tolerance * after.loss
        alone = counts[cell] == 1
        goes_on = np.where(alone, gains, rank < (counts[cell] + 1) // 2)
        lanes, cell = taken(after, goes_on), cell[goes_on]
        if not len(cell):
            return best, least, True
    return best, least, False


def _advanced(
    losses: Loss, cell: np.ndarray, lanes: Lanes, method: Method, iterations: int, width: int
) -> Lanes:
    """Every search some iterations further, each on the loss of its cell: `width` at a time."""
    parts = []
    for begins in range(0, len(cell), width):
        # Filled up with the last one.
        rows = np.arange(begins, begins + width).clip(max=len(cell) - 1)
        some = spread((taken(losses, cell[rows]), taken(lanes, rows[:, None])))
        after, _ = advance_each(*some, method, iterations)
        parts.append(jax.tree.map(lambda leaf: np.array(leaf)[:, 0], after))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(cell)], *parts)


def _width(starts: np.ndarray, each: int) -> int:
    """How many searches go at once, of starts [N, starts, P]; on a CPU one in `each` of a loss."""
    cells, num, _ = starts.shape
    if jax.default_backend() != "cpu":
        return next_power_of_two(cells * num)
    return min(next_power_of_two(cells * num // each), WIDTH * jax.local_device_count())
