"""What a learned schedule is held against: published default, best constant, exact score."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import InputError
from ..metrics import Objective, wasserstein2
from ..noise import NoiseLevel
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import exact
from ..transfer import sampler_transfer
from .guidance import constant_grid
from .lanes import losses_of
from .levenberg_marquardt import finite
from .loss import Loss
from .parameters import schedule_of

FEW = 16  # points, of which `losses_of` takes as many at a time


@partial(jax.jit, static_argnames=("sampler", "objective"))
def evaluate(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    objective: Objective = wasserstein2,
) -> Array:
    """The objective of one schedule: levels [S + 1], guidance leaves [S] or by mode [S, F]."""
    return objective(problem, sampler_transfer(sampler, problem, levels, guidance))


@partial(jax.jit, static_argnames="objective")
def evaluate_exact(
    problem: Problem, levels: NoiseLevel, eta: Array, objective: Objective = wasserstein2
) -> Array:
    """The objective of the exact conditional denoiser in DDIM(eta), eta [S]."""
    transfer = sampler_transfer(exact(problem), problem, levels, {"eta": eta})
    return objective(problem, transfer)


@partial(jax.jit, static_argnames="sampler")
def heuristic(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0
) -> Guidance:
    """`Sampler.heuristic`, compiled: the published default, its constant times factor, [S]."""
    return sampler.heuristic(problem, levels, factor)


def tuned_constant(loss: Loss, given: Guidance) -> tuple[Guidance, float]:
    """The best schedule that one number per weight can give, and its loss.

    Either constant weights, or the published default with its own constant changed, whichever is
    better: a published constant may stand for weights that are not (`Sampler.heuristic`). `loss`
    has one parameter per weight; the weights that stay are those of `given`.
    """
    parameters = loss.parameters
    sampler, dtype = parameters.sampler, parameters.levels.alpha.dtype
    logs = lambda points: np.asarray(points, dtype)  # noqa: E731
    constants, least = _zoom(lambda points: losses_of(loss, logs(points)), len(parameters.weights))
    factors, least_published = _zoom(
        lambda points: _published_losses(loss, logs(points[:, 0]), given), 1
    )
    if not np.isfinite(min(least, least_published)):
        raise InputError(f"no constant weight of {sampler.name} has a finite loss on this problem")
    if least <= least_published:
        return schedule_of(parameters, logs(constants)).guidance, least
    return _published(loss, logs(factors[0]), given), least_published


def _zoom(losses: Callable[[np.ndarray], Array], num: int) -> tuple[np.ndarray, float]:
    """Minimise over [-log 1e4, log 1e4]^num, by a grid that zooms in on its best point.

    No derivatives: the loss of a constant has cliffs where the sampler becomes unstable. Once they
    are seen, few points of one number do.
    """
    grid = constant_grid(num)
    best, best_loss, reach = np.zeros(num), np.inf, np.log(1e4)
    while reach > 1e-3:  # a loss within a millionth of its curvature
        points = best + reach * grid
        values = np.asarray(losses(points))
        if values.min() < best_loss:
            best, best_loss = points[values.argmin()], float(values.min())
        # Two spacings of the grid around its best point; of many weights these are no zoom.
        reach *= min(4 / len(grid) ** (1 / num), 0.8)
        grid = constant_grid(1, FEW) if num == 1 else grid
    return best, best_loss


@jax.jit
def _published(loss: Loss, log_factor: Array, given: Guidance) -> Guidance:
    """The published default times exp(log_factor) in the free weights, the others as given.

    Of several problems that of the first.
    """
    parameters = loss.parameters
    problem = jax.tree.map(lambda leaf: leaf[0], loss.problems)
    default = parameters.sampler.heuristic(problem, parameters.levels, jnp.exp(log_factor))
    return given | {name: default[name] for name in parameters.weights}


@jax.jit
def _published_losses(loss: Loss, log_factors: Array, given: Guidance) -> Array:
    def one(log_factor: Array) -> Array:
        return loss.of_guidance(_published(loss, log_factor, given))

    return finite(jax.lax.map(one, log_factors, batch_size=16))
