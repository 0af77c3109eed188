"""How good a schedule of the gallery is: on its own problem, and how far from it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..degradations import Degradation
from ..inpainting import learning_problem
from ..learning import evaluate, for_network, heuristic
from ..learning.lanes import next_power_of_two
from ..learning.preparing import constant_of
from ..merging import bin_modes, pad_modes, unique_modes
from ..metrics import predicted_energy_score, wasserstein2
from ..noise import NoiseLevel
from ..objectives import Objective
from ..problem import Problem
from ..samplers import make_sampler
from ..samplers.base import Guidance, Sampler
from .entries import TASKS, gallery_prior

WITHIN = 1.05


class Scores(NamedTuple):
    """Of one schedule on one problem; None where they are not finite."""

    w2: float | None  # averaged W2^2 per pixel
    energy: float | None  # `predicted_energy_score`


def problem_on(degradation: Degradation, sigma_y: float, bins: int | None = None) -> Problem:
    """The problem of the gallery's prior; all its modes, or so many bins. Filled up to a power of
    two of rows, so that few programs do for all problems."""
    prior = gallery_prior(degradation.shape[0])
    problem, _ = unique_modes(
        learning_problem(prior, degradation, sigma_y, channels=len(prior.spectrum))
    )
    if bins is not None:
        problem, _ = bin_modes(problem, bins)
    return pad_modes(problem, next_power_of_two(len(problem.spectrum)))


def scores_of(sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance) -> Scores:
    """By closed form."""

    def value(objective: Objective) -> float | None:
        found = float(evaluate(sampler, problem, levels, guidance, objective))
        return found if np.isfinite(found) else None

    return Scores(value(wasserstein2), value(predicted_energy_score))


def tuned_of(sampler: Sampler, problem: Problem, levels: NoiseLevel) -> Guidance:
    """The tuned constant of a problem, name -> [S].

    Of all weights that `for_network` learns: one constant each, or the published default with its
    constant changed, as `learn` has it as a baseline.
    """
    free = for_network(sampler, levels)["free"]
    return constant_of(sampler, problem, levels, heuristic(sampler, problem, levels), free)


def published_of(name: str, task: str, problem: Problem, levels: NoiseLevel) -> Guidance:
    """The published default of a sampler: of its program for this task, where there are several."""
    return heuristic(make_sampler(name, **TASKS[task].programs.get(name, {})), problem, levels)


def gain_of(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    constant_levels: NoiseLevel,
) -> float:
    """W2^2 of a schedule, relative to the tuned constant of the problem.

    constant_levels   those of the constant: uniform time steps
    """
    constant = tuned_of(sampler, problem, constant_levels)
    w2 = partial(evaluate, sampler, problem)
    return float(w2(levels, guidance)) / float(w2(constant_levels, constant))


def holds_between(
    values: Sequence[float], gain_at: Callable[[int], float], own: int
) -> tuple[float, float]:
    """The smallest and the largest value up to which a schedule holds.

    gain_at   `gain_of` for values[i]; not asked for beyond the first value that is worse

    It holds where W2^2 relative to the tuned constant of that problem is at most 5 % more than on
    its own, values[own], and everywhere between. No search is made for the other problems: what one
    would find there is not known, so this is where the advantage over the best constant lasts, not
    where the schedule is optimal within 5 %.
    """
    worst = WITHIN * gain_at(own)
    low = high = own
    while low > 0 and gain_at(low - 1) <= worst:  # False for NaN
        low -= 1
    while high < len(values) - 1 and gain_at(high + 1) <= worst:
        high += 1
    return float(values[low]), float(values[high])
