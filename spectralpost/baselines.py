"""What a learned schedule is held against: published default, best constant, exact score."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import InputError
from .guidance import constant_grid
from .least_squares import finite
from .metrics import Objective, wasserstein2
from .noise import NoiseLevel
from .problem import Problem
from .samplers.base import Guidance, Sampler
from .samplers.exact import exact
from .search import Setting, Task, guidance_loss, losses_of, schedule_of
from .transfer import sampler_transfer


@partial(jax.jit, static_argnames=("sampler", "objective"))
def score(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    objective: Objective = wasserstein2,
) -> Array:
    """The objective of one schedule."""
    return objective(problem, sampler_transfer(sampler, problem, levels, guidance))


@partial(jax.jit, static_argnames="sampler")
def published(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, log_factor: Array
) -> Guidance:
    """The sampler's published default, its constant multiplied by exp(log_factor): name -> [S]."""
    return sampler.heuristic(problem, levels, jnp.exp(log_factor))


@partial(jax.jit, static_argnames="objective")
def exact_score(
    problem: Problem, levels: NoiseLevel, eta: Array, objective: Objective = wasserstein2
) -> Array:
    """The objective of the exact conditional denoiser in DDIM(eta), eta [S]."""
    transfer = sampler_transfer(exact(problem), problem, levels, {"eta": eta})
    return objective(problem, transfer)


def _zoom(losses: Callable[[np.ndarray], Array], num: int) -> tuple[np.ndarray, float]:
    """Minimise over [-log 1e4, log 1e4]^num, by a grid that zooms in on its best point.

    No derivatives: the loss of a constant has cliffs where the sampler becomes unstable.
    """
    grid = constant_grid(num)
    best, best_loss, reach = np.zeros(num), np.inf, np.log(1e4)
    while reach > 1e-4:
        points = best + reach * grid
        values = np.asarray(losses(points))
        if values.min() < best_loss:
            best, best_loss = points[values.argmin()], float(values.min())
        reach *= 4 / len(grid) ** (1 / num)  # two spacings of the grid around its best point
    return best, best_loss


def tuned_constant(task: Task, setting: Setting, given: Guidance) -> tuple[Guidance, float]:
    """The best schedule that one number per weight can give, and its loss.

    Either constant weights, or the published default with its own constant changed, whichever is
    better: a published constant may stand for weights that are not (`Sampler.heuristic`).
    """
    sampler, dtype = task.sampler, setting.levels.alpha.dtype
    constants, loss = _zoom(
        lambda points: losses_of(task, setting, jnp.asarray(points, dtype)), len(task.free)
    )
    factors, published_loss = _zoom(
        lambda points: _published_losses(task, setting, jnp.asarray(points[:, 0], dtype), given), 1
    )
    if not np.isfinite(min(loss, published_loss)):
        raise InputError(f"no constant weight of {sampler.name} has a finite loss on this problem")
    constant = schedule_of(task, setting, jnp.asarray(constants, dtype)).guidance
    rescaled = _published(task, setting, jnp.asarray(factors[0], dtype), given)
    return (constant, loss) if loss <= published_loss else (rescaled, published_loss)


def _published(task: Task, setting: Setting, log_factor: Array, given: Guidance) -> Guidance:
    """The published default times exp(log_factor) in the free weights, the others as given.

    Of several problems that of the first.
    """
    problem = jax.tree.map(lambda leaf: leaf[0], setting.problems)
    default = published(task.sampler, problem, setting.levels, log_factor)
    return given | {name: default[name] for name in task.free}


@partial(jax.jit, static_argnames="task")
def _published_losses(task: Task, setting: Setting, log_factors: Array, given: Guidance) -> Array:
    def loss(log_factor: Array) -> Array:
        return guidance_loss(task, setting, _published(task, setting, log_factor, given))

    return finite(jax.lax.map(loss, log_factors, batch_size=16))
