"""Minimise a loss of a sampling trajectory from many starts side by side, compiled once.

Levenberg-Marquardt where the loss is a sum of squares (`least_squares`), optax for the rest.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .errors import InputError
from .guidance import constrain, roughness, smooth_curves
from .least_squares import (
    Residuals,
    Search,
    finite,
    initial_search,
    levenberg_marquardt,
    linearise,
)
from .metrics import RESIDUALS, Objective
from .noise import NoiseLevel
from .problem import Problem, per_pixel
from .step import Guidance, Sampler
from .transfer import Transfer, divides_by_norms, trajectory

Optimizer = Literal["auto", "lm", "lbfgs", "adam"]


def residuals_of(objective: Objective) -> Residuals | None:
    """The square roots of an objective that is a sum of squares, for Levenberg-Marquardt."""
    return RESIDUALS.get(objective) or getattr(objective, "residuals", None)


class Task(NamedTuple):
    """What the compiled search is specialised for (static, hence hashable)."""

    sampler: Sampler
    objective: Objective
    free: tuple[str, ...]
    optimizer: Optimizer
    learning_rate: float


class Setting(NamedTuple):
    """What a search is given as arrays. Unconstrained weights are u = basis params."""

    problem: Problem
    levels: NoiseLevel
    fixed: Guidance  # the weights that stay, name -> [S]
    max_growth: Array  # log of max_amplification
    rough_price: Array  # what roughness 1 of a schedule costs
    basis: Guidance  # name -> [S, P]: identity for a free schedule, ones for a constant


class Lane(NamedTuple):
    """The optax search from one start; `Search` is its counterpart of least squares."""

    params: Array  # [P]
    state: optax.OptState
    best_params: Array
    loss: Array  # of best_params


def choose_optimizer(
    optimizer: Optimizer,
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    objective: Objective,
) -> Optimizer:
    """The optimizer that "auto" stands for; InputError if "lm" is asked for and does not apply."""
    if optimizer not in ("auto", "lm", "lbfgs", "adam"):
        raise InputError(f"optimizer = {optimizer!r}: allowed are auto, lm, lbfgs, adam")
    if optimizer in ("lbfgs", "adam"):
        return optimizer
    applies = (
        residuals_of(objective) is not None
        and problem.basis is None
        and not divides_by_norms(sampler, problem, levels, guidance)
    )
    if optimizer == "lm" and not applies:
        raise InputError(
            "optimizer = 'lm': needs a sum of squares (the averaged W2, mse, perception), "
            "independent modes and a sampler without norms; allowed here are lbfgs, adam"
        )
    return "lm" if applies else "lbfgs"


@partial(jax.jit, static_argnames="sampler")
def schedule_of(sampler: Sampler, setting: Setting, params: Array) -> Guidance:
    """The schedule of a parameter vector [P], fixed weights included."""
    u = {name: basis @ params for name, basis in setting.basis.items()}
    return setting.fixed | constrain(sampler.constraint, u)


def overshoot(problem: Problem, max_growth: Array, growth: Array) -> Array:
    """Square roots of the penalty, [S], for the log amplification of each step: beyond the limit,
    its excess, squared, times the variance of a pixel. So 10 % excess cost 1 % of the image."""
    return jnp.sqrt(per_pixel(problem, problem.spectrum)) * jnp.maximum(growth - max_growth, 0)


def _run(sampler: Sampler, setting: Setting, guidance: Guidance) -> tuple[Transfer, Array]:
    """The total transfer and the overshoot [S] of a schedule."""
    run = trajectory(sampler, setting.problem, setting.levels, guidance)
    growth = jnp.log(run.amplification)
    return run.total, overshoot(setting.problem, setting.max_growth, growth)


def guidance_loss(task: Task, setting: Setting, guidance: Guidance) -> Array:
    transfer, excess = _run(task.sampler, setting, guidance)
    return task.objective(setting.problem, transfer) + jnp.sum(excess**2)


def _loss(task: Task, setting: Setting, params: Array) -> Array:
    loss = guidance_loss(task, setting, schedule_of(task.sampler, setting, params))
    return loss + jnp.sum(_rough(setting, params) ** 2)


def _rough(setting: Setting, params: Array) -> Array:
    """Square roots of the price of roughness, linear in params."""
    rows = [roughness(basis @ params, setting.levels) for basis in setting.basis.values()]
    return jnp.sqrt(setting.rough_price) * jnp.concatenate(rows)


@partial(jax.jit, static_argnames="task")
def losses_of(task: Task, setting: Setting, params: Array) -> Array:
    """The losses of many parameter vectors [num, P]; an unstable sampler's is infinite."""
    return finite(jax.lax.map(partial(_loss, task, setting), params, batch_size=16))


@partial(jax.jit, static_argnames=("task", "iterations"), donate_argnames="lanes")
def search(
    task: Task, setting: Setting, lanes: Search | Lane, iterations: int
) -> tuple[Search | Lane, Array]:
    """Some iterations of every lane; also the best losses so far, [iterations, lanes]."""
    iterate = _lm_iteration if task.optimizer == "lm" else _optax_iteration

    def run(lane: Search | Lane) -> tuple[Search | Lane, Array]:
        def body(lane, _):
            lane = iterate(task, setting, lane)
            return lane, lane.loss

        return jax.lax.scan(body, lane, length=iterations)

    # optax is not written for strict promotion, which callers may have switched on.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.vmap(run, out_axes=(0, 1))(lanes)


def _lm_iteration(task: Task, setting: Setting, search: Search) -> Search:
    sampler, problem, basis = task.sampler, setting.problem, setting.basis
    residuals = residuals_of(task.objective)
    assert residuals is not None  # see `choose_optimizer`
    constraint = partial(constrain, sampler.constraint)

    def at(params: Array) -> Array:
        transfer, excess = _run(sampler, setting, schedule_of(sampler, setting, params))
        return jnp.concatenate([residuals(problem, transfer), excess, _rough(setting, params)])

    def linearised(params: Array) -> tuple[Array, Array]:
        u = {name: basis[name] @ params for name in task.free}
        weights, slopes = jax.jvp(constraint, (u,), (jax.tree.map(jnp.ones_like, u),))
        guidance = setting.fixed | weights
        misfit, growth = linearise(sampler, problem, setting.levels, guidance, task.free, residuals)
        excess, push = jax.linearize(partial(overshoot, problem, setting.max_growth), growth.values)
        values = jnp.concatenate([misfit.values, excess])
        jacobian = jnp.zeros((values.size, params.size), values.dtype)
        for name in task.free:
            by_weight = jnp.concatenate(
                [misfit.jacobian[name], jax.vmap(push)(growth.jacobian[name])], axis=1
            )
            jacobian += (slopes[name][:, None] * by_weight).T @ basis[name]
        rough = partial(_rough, setting)
        return (
            jnp.concatenate([values, rough(params)]),
            jnp.concatenate([jacobian, jax.jacfwd(rough)(params)]),
        )

    return levenberg_marquardt(search, at, linearised)


def _optax_iteration(task: Task, setting: Setting, lane: Lane) -> Lane:
    loss = partial(_loss, task, setting)
    if task.optimizer == "lbfgs":
        value_and_grad = optax.value_and_grad_from_state(loss)
        value, grad = value_and_grad(lane.params, state=lane.state)
        more = {"value": value, "grad": grad, "value_fn": loss}
    else:
        value, grad = jax.value_and_grad(loss)(lane.params)
        more = {}
    better = value < lane.loss  # False for NaN
    updates, state = _transformation(task).update(grad, lane.state, lane.params, **more)
    return Lane(
        jnp.asarray(optax.apply_updates(lane.params, updates)),
        state,
        jnp.where(better, lane.params, lane.best_params),
        jnp.where(better, value, lane.loss),
    )


def _transformation(task: Task) -> optax.GradientTransformationExtraArgs:
    if task.optimizer == "lbfgs":
        return optax.lbfgs()
    return optax.with_extra_args_support(optax.adam(task.learning_rate))


@partial(jax.jit, static_argnames="task")
def begin(task: Task, params: Array) -> Search | Lane:
    """Lanes at their starts, params [lanes, P]."""

    def lane(params: Array) -> Search | Lane:
        if task.optimizer == "lm":
            return initial_search(params)
        state = _transformation(task).init(params)
        return Lane(params, state, params, jnp.full((), jnp.inf, params.dtype))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # optax starts with weakly typed numbers and goes on with strong ones: compiled twice.
        return jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), jax.vmap(lane)(params)
        )


def basis_of(free: tuple[str, ...], levels: NoiseLevel, shape: np.ndarray) -> Guidance:
    """name -> [S, P]: the parameters of all weights, one after the other, `shape` for each."""
    steps, width = shape.shape
    basis = {}
    for i, name in enumerate(free):
        columns = np.zeros((steps, width * len(free)))
        columns[:, i * width : (i + 1) * width] = shape
        basis[name] = jnp.asarray(columns, levels.alpha.dtype)
    return basis


# Children of a good schedule: (smooth in log-SNR or not, size in unconstrained numbers).
KICKS = ((True, 0.3), (False, 0.1), (True, 1.0), (False, 0.3), (False, 1.0))
KEPT = 12  # parents of a generation


def best_distinct(params: np.ndarray, losses: np.ndarray, num: int) -> tuple[np.ndarray, float]:
    """The best parameter vectors, [num, P] (fewer if there are fewer), and the best loss.

    Those whose losses are 0.1 % apart come first: the others are likely to be the same minimum.
    """
    order = np.argsort(losses)  # infinite ones last
    first, other = [order[0]], []
    for i in order[1:]:
        (first if losses[i] > losses[first[-1]] * (1 + 1e-3) else other).append(i)
    return params[(first + other)[:num]], float(losses[order[0]])


def next_generation(
    key: Array, parents: np.ndarray, levels: NoiseLevel, shape: np.ndarray, num: int
) -> Array:
    """The parents, and perturbed copies of them: [num, P]; shape [S, P of one weight]."""
    num_children = num - len(parents)
    smooth_key, white_key = jax.random.split(key)
    num_weights = parents.shape[1] // shape.shape[1]
    fit = np.linalg.pinv(shape).T
    curves = [
        np.asarray(smooth_curves(key, levels, num_children)) @ fit
        for key in jax.random.split(smooth_key, num_weights)
    ]
    white = np.asarray(jax.random.normal(white_key, (num_children, parents.shape[1])))
    which = np.arange(num_children)
    is_smooth, size = (
        np.asarray(column)[which % len(KICKS)] for column in zip(*KICKS, strict=True)
    )
    kicks = np.where(is_smooth[:, None], np.concatenate(curves, axis=1), white) * size[:, None]
    children = parents[which % len(parents)] + kicks
    return jnp.asarray(np.concatenate([parents, children]), levels.alpha.dtype)


def best_params(lanes: Search | Lane) -> Array:
    """The parameters of the best lane, [P]."""
    params = lanes.params if isinstance(lanes, Search) else lanes.best_params
    return params[jnp.argmin(lanes.loss)]
