"""The first stage of a search: exploring few bins in generations.

The landscape is rugged, and good minima are near each other: after some iterations the best are
kept, and the other searches go on from perturbed copies of these.
"""

import math

import jax
import numpy as np

from ..noise import num_steps_of
from ..samplers.base import Guidance
from .guidance import on_host, smooth_curves, unconstrain
from .lanes import Lanes, advance, begin, losses_of
from .loss import Loss
from .parameters import LEVELS
from .search import CHUNK, LEAST_SQUARES, Search, Watch

PATIENCE = 10  # generations without progress
AGREED_PATIENCE = 3  # the same where starts agree
SHORT = 20  # from twice as many steps on, every second level is explored first
# Shares of independent starts that come within 1 % of the best at once. There may be several minima
# within 1 %, so that only nearly all of them say that there is one place to go to.
AGREED, EASY = 2 / 3, 0.9
KEPT = 12  # parents of a generation

# Children of a good schedule: what is added to its unconstrained numbers, and its size. "smooth":
# a random curve in log-SNR; "white": noise; "local": noise on a quarter of the steps, on a run of
# neighbours, since what is good elsewhere had better stay.
KICKS = (
    ("smooth", 0.3),
    ("white", 0.1),
    ("smooth", 1.0),
    ("white", 0.3),
    ("white", 1.0),
    ("local", 1.0),
    ("local", 0.3),
)


def explore(
    loss: Loss, centres: tuple[Guidance, Guidance], search: Search, watch: Watch
) -> dict[str, np.ndarray]:
    """Unconstrained numbers of the best few schedules, name -> [KEPT, S].

    On a problem of few bins, where an iteration costs a fraction; what is learned there is refined
    on the whole problem. Many steps begin from what is found on every second level; if enough
    independent starts went to the same place there, refining does the rest.
    """
    parents, easy = _explored(loss, centres, search, watch)
    share = 1 / 4 if easy else _num_lanes(loss, search) / search.starts
    return loss.parameters.numbers(parents[: math.ceil(share * KEPT)])


def _explored(
    loss: Loss, centres: tuple[Guidance, Guidance], search: Search, watch: Watch
) -> tuple[np.ndarray, bool]:
    """The best few vectors, and whether the landscape is easy."""
    steps = num_steps_of(loss.parameters.levels)
    if steps < 2 * SHORT:
        starts = random_starts(loss, centres, search.starts, search.seed)
        return generations(loss, starts, search, watch, PATIENCE, fresh=True)
    kept = np.rint(np.linspace(0, steps, steps // 2 + 1)).astype(int)
    half = loss.thinned(kept)
    of_half = jax.tree.map(lambda leaf: leaf[kept[:-1]], centres)
    found, easy = _explored(half, of_half, search, watch)
    # What costs more per iteration, or is known to lead to one place, is done less often.
    share = 1 / 4 if easy else _num_lanes(half, search) / search.starts
    parents = _lifted(loss, half, half.parameters.numbers(found[: math.ceil(share * KEPT)]), search)
    if not easy:
        parents, _ = generations(loss, parents, search, watch, 2)
    return parents, easy


def _lifted(loss: Loss, half: Loss, found: dict[str, np.ndarray], search: Search) -> np.ndarray:
    """Schedules of half the steps, interpolated in log-SNR: [num, P]. Weights may be per step or
    per unit of time, so half the weights are tried as well."""
    parameters = loss.parameters
    u = parameters.carried(found, half.parameters.levels)
    halved = {
        name: rows - np.log(2) * (parameters.sampler.constraint[name] == "nonnegative")
        for name, rows in u.items()
    }
    starts = np.concatenate([parameters.fit(u), parameters.fit(halved)])
    losses = np.asarray(losses_of(loss, starts.astype(parameters.levels.alpha.dtype)))
    return starts[np.argsort(losses)[: -(-search.starts // 2)]]


def _num_lanes(loss: Loss, search: Search) -> int:
    """Searches side by side in a generation: all that were asked for, fewer on very many steps,
    where an iteration of one costs more than twice as much for each doubling."""
    num, steps = search.starts, num_steps_of(loss.parameters.levels)
    while steps >= 4 * SHORT:
        num, steps = -(-num // 2), steps // 2
    return num


def generations(
    loss: Loss,
    starts: np.ndarray,
    search: Search,
    watch: Watch,
    patience: int,
    *,
    fresh: bool = False,
) -> tuple[np.ndarray, bool]:
    """The best few vectors, [KEPT, P], from those given and perturbed copies; is it easy?

    fresh: the starts are independent, which shows whether the landscape is easy.
    """
    num, dtype = _num_lanes(loss, search), loss.parameters.levels.alpha.dtype
    kept = min(KEPT, -(-num // 2))
    random = np.random.default_rng(search.seed)
    parents, best, stale, easy = np.asarray(starts), np.inf, 0, False
    vectors = parents.astype(dtype)
    if not fresh:
        vectors = next_generation(random, parents[:num], loss, num)
    for generation in range(search.max_chunks):
        lanes = _generation(loss, vectors, watch, patience - stale - 1)
        if lanes is None:
            break
        before = best
        losses = np.asarray(lanes.loss)
        parents, best = best_distinct(np.asarray(lanes.vector), losses, kept)
        stale = 0 if best < before * (1 - 1e-3) else stale + 1
        if fresh and generation == 0 and num >= KEPT:
            share = np.mean(losses <= 1.01 * best)
            easy = bool(share >= EASY)
            patience = min(patience, AGREED_PATIENCE) if share >= AGREED else patience
        if stale >= patience:
            break
        vectors = next_generation(random, parents, loss, num)
    return parents[:kept], easy


def _generation(loss: Loss, vectors: np.ndarray, watch: Watch, chunks_left: int) -> Lanes | None:
    """Searches from these vectors after CHUNK iterations, see `Watch.run`."""
    lanes = begin(LEAST_SQUARES, vectors)
    go = lambda: advance(loss, lanes, LEAST_SQUARES, CHUNK)[0]  # noqa: E731
    least = lambda lanes: np.min(np.asarray(lanes.loss))  # noqa: E731
    return watch.run(go, least, watch.explored, CHUNK, chunks_left)


def random_starts(
    loss: Loss, centres: tuple[Guidance, Guidance], num: int, seed: int
) -> np.ndarray:
    """[num, P]: the given schedule, the constant, then random smooth curves around these two.

    On the noise levels as they are, and with the same weight in all bands. Where levels alone are
    learned, all but the first two are random.
    """
    parameters = loss.parameters
    if not parameters.weights:
        gaps = smooth_curves(np.random.default_rng(seed), parameters.levels, num)[:, :-1]
        gaps[:2] = 0
        return parameters.fit({LEVELS: gaps})
    random, u = np.random.default_rng(seed), {}
    constraint = parameters.sampler.constraint
    given, constant = (unconstrain(constraint, on_host(centre)) for centre in centres)
    for name in parameters.weights:
        u[name] = np.stack([(given, constant)[i % 2][name] for i in range(num)])
        u[name][2:] += smooth_curves(random, parameters.levels, num)[2:]
    return parameters.fit_weights(u)


def best_distinct(vectors: np.ndarray, losses: np.ndarray, num: int) -> tuple[np.ndarray, float]:
    """The best vectors, [num, P] (fewer if there are fewer), and the best loss.

    Those whose losses are 0.1 % apart come first: the others are likely to be the same minimum.
    """
    order = np.argsort(losses)  # infinite ones last
    first, other = [order[0]], []
    for i in order[1:]:
        (first if losses[i] > losses[first[-1]] * (1 + 1e-3) else other).append(i)
    return vectors[(first + other)[:num]], float(losses[order[0]])


def next_generation(
    random: np.random.Generator, parents: np.ndarray, loss: Loss, num: int
) -> np.ndarray:
    """The parents, and perturbed copies of them: [num, P]."""
    parameters = loss.parameters
    dtype, num_children = parameters.levels.alpha.dtype, num - len(parents)
    if num_children <= 0:
        return parents[:num].astype(dtype)
    which = np.arange(num_children)
    kinds, sizes = (np.asarray(column)[which % len(KICKS)] for column in zip(*KICKS, strict=True))
    kicks = {}
    for name, basis in parameters.basis.items():
        steps, *bands = basis.shape[:-1]
        curves = smooth_curves(random, parameters.levels, num_children * int(np.prod(bands)))
        curves = curves.reshape(num_children, *bands, -1)
        # The gaps between levels are one fewer than the steps.
        smooth = np.moveaxis(curves, -1, 1)[:, :steps]
        white = random.normal(size=(num_children, steps, *bands))
        first = random.uniform(-0.25, 1, (num_children, 1))
        step = np.arange(steps)[None] / steps
        near = ((step >= first) & (step < first + 0.25)).reshape(
            white.shape[:2] + (1,) * len(bands)
        )
        kind, size = (x.reshape(-1, *[1] * (white.ndim - 1)) for x in (kinds, sizes))
        chosen = np.where(kind == "smooth", smooth, np.where(kind == "local", white * near, white))
        kicks[name] = size * chosen
    children = parents[which % len(parents)] + parameters.fit(kicks)
    return np.concatenate([parents, children]).astype(dtype)
