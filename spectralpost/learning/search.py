"""What a search is asked for, what it tells, and how it is watched and interrupted.

Each of its stages runs lanes of compiled iterations in chunks, tells its progress, and ends with
the best so far when the user interrupts it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from threadpoolctl import ThreadpoolController

from ..errors import InputError, check_whole, is_number
from .lanes import Method, Optimizer

T = TypeVar("T")

CHUNK = 20  # iterations between two looks at the loss
LEAST_SQUARES = Method("lm", 0.0)
# Of searches in several threads one at a time. JAX factorises many matrices by tasks of the pool in
# whose threads programs run: two programs on two cores would wait for each other for ever.
ALONE = threading.Lock()


class Search(NamedTuple):
    """How a search is made.

    starts          searches run side by side: from the given schedule, from the tuned constant, and
                    from random smooth curves around these two. The landscape has many minima
    max_iterations  of exploring, and of refining, each rounded up to a multiple of 20
                    (without `explore` of 15, and of 4)
    tolerance       the last search stops once its loss falls by less than this fraction in 20
                    iterations
    optimizer       "lm": Levenberg-Marquardt, for objectives that are sums of squares (W2^2, mse,
                    perception and their `WeightedSum`). Explores in generations of 20 iterations
                    on a problem of 64 bins in single precision, each begun by the best schedules so
                    far and perturbed copies of these, then refines the best few on the whole
                    problem: after every 20 iterations the better half of them goes on (`halving`).
                    "lbfgs" (optax, zoom line search) and "adam" (optax, with
                    `learning_rate`): any objective, samplers that divide by norms; they only
                    refine. "auto": lm where it applies, else lbfgs
    seed            searches are deterministic for a given one and number of threads
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

    def checked(self) -> "Search":
        """With whole numbers as ints; InputError for what no search can be made with."""
        if not (is_number(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"tolerance = {self.tolerance}: must be a number >= 0")
        if not (is_number(self.learning_rate) and 0 < self.learning_rate < float("inf")):
            raise InputError(f"learning_rate = {self.learning_rate}: must be > 0 and finite")
        if self.optimizer not in ("auto", "lm", "lbfgs", "adam"):
            raise InputError(f"optimizer = {self.optimizer!r}: allowed are auto, lm, lbfgs, adam")
        return self._replace(
            starts=check_whole("starts", self.starts),
            max_iterations=check_whole("max_iterations", self.max_iterations),
            seed=check_whole("seed", self.seed, 0),
        )


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
