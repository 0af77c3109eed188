"""A schedule for the levels that a network knows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, check_kind
from ..metrics import wasserstein2
from ..noise import NoiseLevel
from ..noise_grid import NoiseGrid, rounded
from ..objectives import Objective
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from .baselines import heuristic
from .continuing import HasSchedule, starts_from
from .for_network import for_network
from .guidance import names_of
from .learn import LearnResult, learn
from .loss import Prices
from .parameters import Freedom
from .preparing import check_free, default_free
from .search import Progress, Search


class Learned(NamedTuple):
    """What `learn_on_grid` returns."""

    grid: NoiseGrid  # its levels and time steps
    result: LearnResult  # on these
    search: LearnResult  # the one to go on with: where levels are learned, before rounding them


def learn_on_grid(
    sampler: Sampler,
    problem: Problem,
    grid: NoiseGrid,
    start: Callable[[NoiseLevel], Guidance] | None = None,
    free: tuple[str, ...] | None = None,
    *,
    learn_levels: bool | None = None,
    network: bool = False,
    schedules: Sequence[HasSchedule] = (),
    objective: Objective = wasserstein2,
    search: Search = Search(),
    progress: Callable[[Progress], None] | None = None,
    resume: Guidance | None = None,
) -> Learned:
    """Learn weights; with learn_levels levels and weights, then weights for the rounded levels.

    grid       `noise_grid(name, steps)`
    start      the schedule to begin with, for levels (default: the sampler's published default)
    free       as in `learn`, one weight at least
    network    as `for_network` says: prices, which weights are free, and, where learn_levels is
               None, whether levels are
    schedules  to begin from in place of exploring, see `starts_from`
    resume     `search.kept` of an earlier result of the same call

    The rest, and the errors raised, are those of `learn`. A network knows the levels of its time
    steps only; where the grid has none (VE, rectified flow) learned levels stay as they are.

    >>> found = sp.learn_on_grid(
    ...     sampler, problem, sp.noise_grid("vp_linear", 3), network=True,
    ...     search=sp.Search(starts=2, max_iterations=20),
    ... )
    >>> len(found.grid.timesteps), found.result.guidance["zeta"].shape
    (3, (3,))
    """
    check_kind("grid", grid, NoiseGrid, "such as `noise_grid` returns")
    if resume is not None and schedules:
        raise InputError("resume: a search that is resumed has begun; leave schedules out")
    if free is not None:  # before a search of levels alone, after which there is nothing to learn
        check_free(sampler, names := names_of(free))
        free = names
    start = partial(heuristic, sampler, problem) if start is None else start
    levels, prices = grid.levels, Prices()
    if network:
        chosen = for_network(sampler, levels)
        free, prices = chosen["free"] if free is None else free, chosen["prices"]
        learn_levels = chosen["freedom"].levels if learn_levels is None else learn_levels
    if schedules:
        names = default_free(sampler) if free is None else free
        begin: Any = starts_from(sampler, schedules, levels, names, bool(learn_levels))
        resume, search = begin, search._replace(explore=False)

    def learned_on(levels: NoiseLevel, **how: Any) -> LearnResult:
        how |= {"objective": objective, "prices": prices, "progress": progress}
        return learn(sampler, problem, levels, start(levels), free, **how)

    if not learn_levels:
        result = learned_on(levels, search=search, resume=resume)
        return Learned(grid, result, result)
    found = learned_on(levels, search=search, resume=resume, freedom=Freedom(levels=True))
    grid = rounded(grid, found.levels)
    if not network:
        result = learned_on(grid.levels, search=search)
        interrupted = found.interrupted or result.interrupted
        return Learned(grid, result._replace(interrupted=interrupted), found)
    # What was found, of smooth weights, is nearly right: no need to explore again.
    best = {name: kept[:1] for name, kept in found.kept.items()}
    result = learned_on(
        grid.levels,
        search=search._replace(explore=False),
        resume=best,
        freedom=Freedom(levels=True, held=True),
    )
    result = result._replace(
        explored=found.explored,
        history=np.append(found.history, result.history),
        interrupted=found.interrupted or result.interrupted,
    )
    return Learned(grid, result, found)
