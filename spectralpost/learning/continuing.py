"""Where a search may begin: schedules that were learned for something else."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..noise import NoiseLevel, check_levels, moved_positions, num_steps_of
from ..samplers.base import Guidance, Sampler
from .guidance import on_host, unconstrain
from .parameters import LEVELS


class HasSchedule(Protocol):
    """A `Schedule`, a `LearnResult`, what `load_schedule` or `gallery_schedule` gives."""

    @property
    def levels(self) -> NoiseLevel: ...
    @property
    def guidance(self) -> Guidance: ...


def starts_from(
    sampler: Sampler,
    schedules: Sequence[HasSchedule],
    levels: NoiseLevel,
    free: Iterable[str],
    learn_levels: bool = False,
) -> dict[str, np.ndarray]:
    """Numbers from which `learn(resume=...)` goes on, [n, S] by name: these schedules, of problems
    that are alike or of other numbers of steps, in the steps of `levels`.

    levels        [S + 1], what `learn` is given
    free          the weights that it learns
    learn_levels  it learns levels too: its steps are then where those of a schedule are, and
                  between them where there are more. Else weights alone are carried to `levels`

    Weights are interpolated in log-SNR. They may be per step or per unit of time: a schedule of
    another number of steps counts twice, with nonnegative weights as they are and times its steps
    / S. A search that begins so needs no exploring, `Search(explore=False)`, and takes a fraction
    of the time: so the gallery's of 100 steps are made from those of fewer (docs/gallery.md).

    Raises InputError for a schedule without one of these weights, or with weights by band.

    >>> found = sp.learn(sampler, problem, levels, search=sp.Search(starts=2))
    >>> start = sp.starts_from(sampler, [found], sp.vp_linear(6), ("zeta",))
    >>> {name: numbers.shape for name, numbers in start.items()}
    {'zeta': (2, 6)}
    >>> quick = sp.Search(explore=False)
    >>> more = sp.learn(sampler, problem, sp.vp_linear(6), search=quick, resume=start)
    >>> more.loss < found.loss
    True
    """
    free, steps = tuple(free), num_steps_of(check_levels(levels))
    rows: list[dict[str, np.ndarray]] = []
    for schedule in schedules:
        own = _numbers(sampler, schedule, free)
        before = _positions(schedule.levels)
        here = given = _positions(levels)
        u = {}
        if learn_levels:
            if len(before) > 1:  # one step says nothing of others
                index = np.linspace(0, 1, len(before))
                here = np.interp(np.linspace(0, 1, steps), index, before)
            u[LEVELS] = np.log(np.diff(here) / np.diff(given))  # logarithms of factors of gaps
        u |= {name: np.interp(-here, -before, one) for name, one in own.items()}
        rows.append(u)
        if len(before) != steps:
            per_step = np.log(len(before) / steps)
            kinds = sampler.constraint
            shifts = {name: per_step for name in free if kinds[name] == "nonnegative"}
            rows.append({name: one + shifts.get(name, 0.0) for name, one in u.items()})
    if not rows:
        raise InputError("schedules: one at least is needed")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _positions(levels: NoiseLevel) -> np.ndarray:
    """log(sigma / alpha) of the noisy levels, descending, [S]."""
    as_given = jnp.zeros(num_steps_of(levels) - 1)
    return np.asarray(moved_positions(on_host(levels), as_given), float)


def _numbers(sampler: Sampler, schedule: HasSchedule, free: tuple[str, ...]) -> Guidance:
    """Unconstrained numbers of these weights, [S]."""
    weights = {}
    for name in free:
        if name not in schedule.guidance:
            have = ", ".join(schedule.guidance)
            raise InputError(f"schedules: {name!r} is learned, but one of them has only {have}")
        weights[name] = np.asarray(schedule.guidance[name], float)
        if weights[name].ndim != 1:
            raise InputError(f"schedules: {name!r} of one of them has numbers by band")
    return unconstrain(sampler.constraint, weights)
