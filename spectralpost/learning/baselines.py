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
    logs = lambda points: np.asarray(points[0], dtype)  # noqa: E731
    constants, least = _zoom(
        lambda points: losses_of(loss, logs(points))[None], len(parameters.weights)
    )
    factors, least_published = _zoom(
        lambda points: _published_losses(loss, logs(points)[:, 0], given)[None], 1
    )
    if not np.isfinite(min(least[0], least_published[0])):
        raise InputError(f"no constant weight of {sampler.name} has a finite loss on this problem")
    if least[0] <= least_published[0]:
        return schedule_of(parameters, logs(constants)).guidance, float(least[0])
    return _published(loss, logs(factors)[0], given), float(least_published[0])


def tuned_constants(losses: Loss, given: Guidance) -> tuple[Guidance, np.ndarray]:
    """`tuned_constant` of many losses side by side: leaves [N, ...] of both and of what is found.

    A loss that is nowhere finite is infinite here, and its schedule none.
    """
    parameters = losses.parameters
    cells, dtype = len(losses.power), parameters.levels.alpha.dtype
    logs = lambda points: np.asarray(points, dtype)  # noqa: E731
    constants, least = _zoom(
        lambda points: _losses_of_each(losses, logs(points)), len(parameters.weights), cells
    )
    factors, least_published = _zoom(
        lambda points: _published_losses_of_each(losses, logs(points)[..., 0], given), 1, cells
    )
    take = least <= least_published
    found = _schedules(losses, logs(constants), logs(factors)[:, 0], given, take)
    return found, np.where(take, least, least_published)


def _zoom(
    losses: Callable[[np.ndarray], Array], num: int, cells: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise over [-log 1e4, log 1e4]^num, by a grid that zooms in on its best point: [N, num]
    and the least losses [N], of losses of points [N, grid, num].

    No derivatives: the loss of a constant has cliffs where the sampler becomes unstable. Once they
    are seen, few points of one number do.
    """
    grid, each = constant_grid(num), np.arange(cells)
    best, best_loss, reach = np.zeros((cells, num)), np.full(cells, np.inf), np.log(1e4)
    while reach > 1e-3:  # a loss within a millionth of its curvature
        points = best[:, None] + reach * grid
        values = np.asarray(losses(points))
        at = values.argmin(axis=1)
        better = values[each, at] < best_loss
        best = np.where(better[:, None], points[each, at], best)
        best_loss = np.where(better, values[each, at], best_loss)
        # Two spacings of the grid around its best point; of many weights these are no zoom.
        reach *= min(4 / len(grid) ** (1 / num), 0.8)
        grid = constant_grid(1, FEW) if num == 1 else grid
    return best, best_loss


@jax.jit
def _losses_of_each(losses: Loss, points: Array) -> Array:
    return jax.vmap(losses_of)(losses, points)


@jax.jit
def _published_losses_of_each(losses: Loss, log_factors: Array, given: Guidance) -> Array:
    return jax.vmap(_published_losses)(losses, log_factors, given)


@jax.jit
def _schedules(
    losses: Loss, constants: Array, log_factors: Array, given: Guidance, take: Array
) -> Guidance:
    """The constants where they are to be taken, else the published defaults times the factors."""

    def one(loss: Loss, constant: Array, log_factor: Array, given: Guidance, take: Array):
        flat = loss.parameters.schedule(constant).guidance
        published = _published(loss, log_factor, given)
        return {name: jnp.where(take, flat[name], published[name]) for name in flat}

    return jax.vmap(one)(losses, constants, log_factors, given, take)


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
