"""Refining, by successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification
and Hyperparameter Optimization", AISTATS 2016): all starts go some iterations, then the better half
of them, and so on; the last one until it gains no more.

So end the searches of `learn`, whatever they begin from; and so go many of them side by side, those
of a sweep: first on problems of few bins, which leaves the whole problem one start of each.
"""

from functools import partial

import jax
import numpy as np

from .guidance import on_host
from .lanes import (
    Lanes,
    Method,
    advance_each,
    begin,
    best_of_each,
    losses_of_each,
    next_power_of_two,
    spread,
    taken,
)
from .loss import Loss
from .search import CHUNK, Search, Watch

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
        reached, cost, _ = halved(coarse, method, found, search, watch, EXPLORING, explores=True)
        found = best_of_each(reached, cost)[0][:, None]
    candidates = np.concatenate([found, constants[:, None]], axis=1)
    candidates = candidates.astype(losses.parameters.levels.alpha.dtype)
    # A search that begins from the constant ends no worse: what it costs takes no program then.
    begun = np.any(np.all(found == constants[:, None], axis=2), axis=1)
    cost = None if coarse is None and begun.all() else losses_of_each(losses, candidates)
    if coarse is not None:
        found = best_of_each(candidates, np.asarray(cost))[0][:, None]
    reached, least, ended = halved(losses, method, found, search, watch, chunk)
    if cost is not None:
        reached = np.concatenate([reached, candidates], axis=1)
        least = np.concatenate([least, cost], axis=1)
    return *best_of_each(reached, least), ended


def halved(
    losses: Loss,
    method: Method,
    starts: np.ndarray,
    search: Search,
    watch: Watch,
    chunk: int,
    *,
    explores: bool = False,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Where all searches of each loss ended, [N, starts, P], what that costs, [N, starts], and
    whether they did by themselves: starts [N, starts, P], losses with leaves [N, ...].

    After every `chunk` iterations the better half of each loss goes on, one alone as long as it
    gains.

    explores   on few bins, where it is quick to go all at once, and where nobody asks for the
               losses of a search that the user has interrupted before the first look
    """
    cells, num, size = starts.shape
    width = _width(cells if not explores else cells * num, cells * num)
    record = watch.explored if explores else watch.refined
    starts = starts.astype(losses.parameters.levels.alpha.dtype)
    vectors = starts.reshape(-1, size)
    reached, cost = vectors.copy(), np.full(len(vectors), np.inf)
    at = np.arange(len(vectors))  # of the searches that go on
    lanes = on_host(begin(method, vectors))
    chunks = -(-search.max_iterations // chunk)
    for done in range(1, chunks + 1):
        cell = at // num
        go = partial(_advanced, losses, cell, lanes, method, chunk, width)
        after = watch.run(go, lambda lanes: float(np.min(lanes.loss)), record, chunk, chunks - done)
        if after is None:
            if done == 1 and not explores:
                cost = np.array(losses_of_each(losses, starts)).reshape(-1)
            break
        reached[at], cost[at] = after.vector, after.loss
        # Rank 0 is the best of its loss.
        order = np.lexsort((after.loss, cell))
        counts = np.bincount(cell, minlength=cells)
        rank = np.empty(len(cell), int)
        rank[order] = np.arange(len(cell)) - (np.cumsum(counts) - counts)[cell[order]]
        with np.errstate(invalid="ignore"):  # infinite before and after
            gains = lanes.loss - after.loss > search.tolerance * after.loss
        alone = counts[cell] == 1
        goes_on = np.where(alone, gains, rank < (counts[cell] + 1) // 2)
        lanes, at = taken(after, goes_on), at[goes_on]
        if not len(at):
            break
    return reached.reshape(starts.shape), cost.reshape(cells, num), not len(at)


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


def _width(on_cpu: int, most: int) -> int:
    """How many searches go at once, on a CPU and on an accelerator."""
    if jax.default_backend() != "cpu":
        return next_power_of_two(most)
    return min(next_power_of_two(on_cpu), WIDTH * jax.local_device_count())
