"""The stages of a search: explore a coarse problem in generations, refine what is found.

Each stage runs lanes of compiled iterations (`search`) in chunks, tells its progress, and ends with
the best so far when the user interrupts it.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .guidance import interpolation, log_snr_position, smooth_curves, unconstrain
from .least_squares import Search
from .noise import NoiseLevel, num_steps_of
from .samplers.base import Guidance
from .search import (
    KEPT,
    LEVELS,
    Lane,
    Setting,
    Task,
    basis_of,
    begin,
    best_distinct,
    fitted,
    losses_of,
    next_generation,
    search,
    unconstrained_of,
)

CHUNK = 20  # iterations between two looks at the loss
PATIENCE = 10  # generations without progress
SHORT = 20  # from twice as many steps on, every second level is explored first
EASY = 2 / 3  # of independent starts that come within 1 % of the best at once


class Progress(NamedTuple):
    """How far a search is."""

    iteration: int
    loss: float  # best so far; of the coarse problem while exploring, of the whole one after it
    seconds_left: float  # until this stage ends if nothing better turns up


class Stages:
    """What the stages of a search share: limits, record, whether the user has had enough."""

    def __init__(
        self,
        max_iterations: int,
        tolerance: float,
        num_starts: int,
        knots: int | None,
        seed: int,
        progress: Callable[[Progress], None] | None,
    ):
        self.max_chunks = -(-max_iterations // CHUNK)
        self.tolerance, self.num_starts, self.knots = tolerance, num_starts, knots
        self.seed, self.progress = seed, progress
        self.explored: list[float] = []
        self.history: list[float] = []
        self.interrupted = self.easy = False

    def chunk(
        self,
        task: Task,
        setting: Setting,
        lanes: Search | Lane,
        record: list[float],
        chunks_left: int,
    ) -> Search | Lane | None:
        """The lanes after some iterations, of which `chunks_left` follow if nothing changes; None
        if the user interrupts."""
        if self.interrupted:
            return None
        begun = time.perf_counter()
        try:
            lanes, losses = search(task, setting, lanes, CHUNK)
            record.append(float(np.min(np.asarray(losses[-1]))))
            seconds = time.perf_counter() - begun
            if self.progress is not None:
                iteration = CHUNK * len(self.explored + self.history)
                self.progress(Progress(iteration, min(record), chunks_left * seconds))
        except KeyboardInterrupt:
            self.interrupted = True
            return None
        return lanes

    def explore(
        self, task: Task, setting: Setting, centres: tuple[Guidance, Guidance]
    ) -> dict[str, np.ndarray]:
        """Unconstrained numbers of the best few schedules, name -> [KEPT, S].

        The landscape is rugged, and good minima are near each other: after some iterations the best
        are kept, and the other lanes go on from perturbed copies of these. On a problem of few
        bins, where an iteration costs a fraction; what is learned there is refined on the whole
        problem. Many steps begin from what is found on every second level; if enough independent
        starts went to the same place there, refining does the rest.
        """
        steps = num_steps_of(setting.levels)
        if steps < 2 * SHORT:
            starts = self.random_starts(task, setting, centres, self.num_starts)
            parents = self.generations(task, setting, starts, PATIENCE, fresh=True)
        else:
            kept = np.rint(np.linspace(0, steps, steps // 2 + 1)).astype(int)
            at = lambda leaf: leaf[kept[:-1]]  # noqa: E731
            levels = jax.tree.map(lambda leaf: leaf[kept], setting.levels)
            shape = interpolation(levels, self.knots)
            half = setting._replace(
                levels=levels,
                fixed=jax.tree.map(at, setting.fixed),
                basis=basis_of(task.free, levels, shape),
            )
            found = self.explore(task, half, jax.tree.map(at, centres))
            parents = self.lifted(task, setting, levels, found)
            if not self.easy:
                parents = self.generations(task, setting, parents, 2)
        # What costs more per iteration, or is known to lead to one place, is done less often.
        share = 1 / 4 if self.easy else self.num_lanes(setting) / self.num_starts
        parents = parents[: math.ceil(share * KEPT)]
        params = jnp.asarray(parents, setting.levels.alpha.dtype)
        numbers = jax.vmap(partial(unconstrained_of, setting))(params)
        return {name: np.asarray(u) for name, u in numbers.items()}

    def lifted(
        self, task: Task, setting: Setting, levels: NoiseLevel, found: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Schedules of half the steps, interpolated in log-SNR: [num, P]. Weights may be per step
        or per unit of time, so half the weights are tried as well."""
        old, new = (np.asarray(log_snr_position(grid)) for grid in (levels, setting.levels))
        u = {name: np.stack([np.interp(new, old, one) for one in found[name]]) for name in found}
        halved = {
            name: rows - np.log(2) * (task.sampler.constraint[name] == "nonnegative")
            for name, rows in u.items()
        }
        starts = np.concatenate([fitted(setting.basis, u), fitted(setting.basis, halved)])
        dtype = setting.levels.alpha.dtype
        losses = np.asarray(losses_of(task, setting, jnp.asarray(starts, dtype)))
        return starts[np.argsort(losses)[: -(-self.num_starts // 2)]]

    def num_lanes(self, setting: Setting) -> int:
        """Searches side by side in a generation: all that were asked for, fewer on very many steps,
        where an iteration of one costs more than twice as much for each doubling."""
        num, steps = self.num_starts, num_steps_of(setting.levels)
        while steps >= 4 * SHORT:
            num, steps = -(-num // 2), steps // 2
        return num

    def generations(
        self, task: Task, setting: Setting, starts: np.ndarray, patience: int, fresh: bool = False
    ) -> np.ndarray:
        """The best few parameter vectors, [KEPT, P], from those given and perturbed copies.

        fresh: the starts are independent, and generations end if the landscape is easy.
        """
        num, dtype = self.num_lanes(setting), setting.levels.alpha.dtype
        kept = min(KEPT, -(-num // 2))
        key = jax.random.key(self.seed)
        parents, best, stale = np.asarray(starts), np.inf, 0
        params = jnp.asarray(parents, dtype)
        if not fresh:
            key, kick_key = jax.random.split(key)
            params = next_generation(kick_key, parents[:num], setting, num)
        for generation in range(self.max_chunks):
            lanes = begin(task, params)
            lanes = self.chunk(task, setting, lanes, self.explored, patience - stale - 1)
            if lanes is None:
                break
            before = best
            losses = np.asarray(lanes.loss)
            parents, best = best_distinct(np.asarray(lanes.params), losses, kept)
            stale = 0 if best < before * (1 - 1e-3) else stale + 1
            if fresh and generation == 0 and num >= KEPT:
                self.easy = bool(np.mean(losses <= 1.01 * best) >= EASY)
            if stale >= patience or self.easy:
                break
            key, kick_key = jax.random.split(key)
            params = next_generation(kick_key, parents, setting, num)
        return parents[:kept]

    def refine(self, task: Task, setting: Setting, starts: Array) -> tuple[Search | Lane, bool]:
        """Searches from all starts, side by side, until the best of them no longer gains."""
        lanes = begin(task, starts)
        if self.interrupted:  # what there is, with its losses
            losses = losses_of(task, setting, starts)
            return lanes._replace(loss=losses), False
        best = np.inf
        for done in range(1, self.max_chunks + 1):
            before = jax.tree.map(jnp.copy, lanes)  # the search may reuse the lanes' memory
            after = self.chunk(task, setting, lanes, self.history, self.max_chunks - done)
            if after is None:
                if done == 1:
                    before = before._replace(loss=losses_of(task, setting, starts))
                return before, False
            lanes, last, best = after, best, min(best, self.history[-1])
            if last - best <= self.tolerance * best:
                return lanes, True
        return lanes, False

    def random_starts(
        self, task: Task, setting: Setting, centres: tuple[Guidance, Guidance], num: int
    ) -> np.ndarray:
        """[num, P]: the given schedule, the constant, then random smooth curves around these two.

        On the noise levels as they are, and with the same weight in all bands.
        """
        free = [name for name in task.free if name != LEVELS]
        given, constant = (unconstrain(task.sampler.constraint, centre) for centre in centres)
        u = {}
        for key, name in zip(
            jax.random.split(jax.random.key(self.seed), len(free)), free, strict=True
        ):
            around = jnp.stack([(given, constant)[i % 2][name] for i in range(num)])
            curves = smooth_curves(key, setting.levels, num)
            u[name] = np.asarray(around + curves.at[:2].set(0))
        return fitted(setting.basis, enriched(setting, u))


def enriched(setting: Setting, u: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of weights, [n, S], as those of all that a setting learns: the same in all bands, and
    levels as they are."""
    num, rich = len(next(iter(u.values()))), {}
    for name, basis in setting.basis.items():
        if name == LEVELS:
            rich[name] = np.zeros((num, basis.shape[0]))
        elif basis.ndim == 3:
            rich[name] = np.repeat(u[name][:, :, None], basis.shape[1], axis=2)
        else:
            rich[name] = u[name]
    return rich
