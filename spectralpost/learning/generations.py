"""What a search is asked for and tells, and its first stage: exploring few bins in generations.

Each stage runs lanes of compiled iterations in chunks, tells its progress, and ends with the best
so far when the user interrupts it.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from threadpoolctl import ThreadpoolController

from ..errors import InputError
from ..noise import num_steps_of
from ..samplers.base import Guidance
from .guidance import on_host, smooth_curves, unconstrain
from .lanes import Lanes, Method, Optimizer, advance, begin, losses_of
from .loss import Loss
from .parameters import LEVELS

T = TypeVar("T")

CHUNK = 20  # iterations between two looks at the loss
PATIENCE = 10  # generations without progress
AGREED_PATIENCE = 3  # the same where starts agree
SHORT = 20  # from twice as many steps on, every second level is explored first
# Shares of independent starts that come within 1 % of the best at once. There may be several minima
# within 1 %, so that only nearly all of them say that there is one place to go to.
AGREED, EASY = 2 / 3, 0.9
KEPT = 12  # parents of a generation
LEAST_SQUARES = Method("lm", 0.0)
# Of searches in several threads one at a time. JAX factorises many matrices by tasks of the pool in
# whose threads programs run: two programs on two cores would wait for each other for ever.
ALONE = threading.Lock()

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


class Search(NamedTuple):
    """How a search is made.

    starts          searches run side by side: from the given schedule, from the tuned constant, and
                    from random smooth curves around these two. The landscape has many minima
    max_iterations  of exploring, and of refining, each rounded up to a multiple of 20
    tolerance       the last search stops once its loss falls by less than this fraction in 20
                    iterations
    optimizer       "lm": Levenberg-Marquardt, for objectives that are sums of squares (all metrics
                    but kl). Explores in generations of 20 iterations
                    on a problem of 64 bins in single precision, each begun by the best schedules so
                    far and perturbed copies of these, then refines the best few on the whole
                    problem: after every 20 iterations the better half of them goes on (`halving`).
                    "lbfgs" (optax, zoom line search) and "adam" (optax, with
                    `learning_rate`): any objective, samplers that divide by norms; they only
                    refine. "auto": lm where it applies, else lbfgs
    seed            searches are deterministic for a given one
    explore         False: no generations. With "lm" the starts are halved on the problem of 64
                    bins, after every 15 iterations, and the best alone is refined, with a look at
                    the loss every 4: a fraction of the time where few starts do, as in a sweep.
                    Schedules to begin from (`resume`) are refined as they are
    """

    starts: int = 48
    max_iterations: int = 400
    tolerance: float = 1e-4
    optimizer: Optimizer = "auto"
    learning_rate: float = 0.03
    seed: int = 0
    explore: bool = True

    @property
    def max_chunks(self) -> int:
        return -(-self.max_iterations // CHUNK)

    def check(self) -> None:
        if self.starts < 1:
            raise InputError(f"starts = {self.starts}: must be >= 1")
        if self.max_iterations < 1:
            raise InputError(f"max_iterations = {self.max_iterations}: must be >= 1")
        if self.optimizer not in ("auto", "lm", "lbfgs", "adam"):
            raise InputError(f"optimizer = {self.optimizer!r}: allowed are auto, lm, lbfgs, adam")


class Progress(NamedTuple):
    """How far a search is."""

    iteration: int
    loss: float  # best so far; of the coarse problem while exploring, of the whole one after it
    seconds_left: float  # until this stage ends if nothing better turns up


@dataclass
class Watch:
    """What a search has found so far, and whether the user has had enough."""

    tell: Callable[[Progress], None] | None = None
    explored: list[float] = field(default_factory=list)  # best loss of each chunk
    refined: list[float] = field(default_factory=list)
    interrupted: bool = False
    iterations: int = 0
    libraries: ThreadpoolController = field(default_factory=ThreadpoolController)

    def run(
        self,
        go: Callable[[], T],
        loss_of: Callable[[T], float],
        record: list[float],
        iterations: int,
        chunks_left: int,
    ) -> T | None:
        """What a chunk of so many iterations gives, of which `chunks_left` follow if nothing
        changes; None if the user interrupts. Its best loss is recorded and told."""
        if self.interrupted:
            return None
        begun = time.perf_counter()
        try:
            # Threads gain nothing in systems of a few hundred numbers, and wait for each other
            # where another process has one of the cores.
            with ALONE, self.libraries.limit(limits=1, user_api="blas"):
                found = go()
                record.append(float(loss_of(found)))
            seconds = time.perf_counter() - begun
            self.iterations += iterations
            if self.tell is not None:
                self.tell(Progress(self.iterations, min(record), chunks_left * seconds))
        except KeyboardInterrupt:
            self.interrupted = True
            return None
        return found

    def explore(self, loss: Loss, vectors: np.ndarray, chunks_left: int) -> Lanes | None:
        """Searches by least squares after CHUNK iterations from these vectors, see `run`."""
        lanes = begin(LEAST_SQUARES, vectors)
        go = lambda: advance(loss, lanes, LEAST_SQUARES, CHUNK)[0]  # noqa: E731
        least = lambda lanes: np.min(np.asarray(lanes.loss))  # noqa: E731
        return self.run(go, least, self.explored, CHUNK, chunks_left)


def explore(
    loss: Loss, centres: tuple[Guidance, Guidance], search: Search, watch: Watch
) -> dict[str, np.ndarray]:
    """Unconstrained numbers of the best few schedules, name -> [KEPT, S].

    The landscape is rugged, and good minima are near each other: after some iterations the best are
    kept, and the other lanes go on from perturbed copies of these. On a problem of few bins, where
    an iteration costs a fraction; what is learned there is refined on the whole problem. Many steps
    begin from what is found on every second level; if enough independent starts went to the same
    place there, refining does the rest.
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
        lanes = watch.explore(loss, vectors, patience - stale - 1)
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
