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
from .gradient import chunked_loss
from .guidance import band_membership, bounded, constrain, roughness, smooth_curves, to_weight
from .least_squares import (
    Direction,
    Residuals,
    Search,
    finite,
    initial_search,
    levenberg_marquardt,
    linearise,
)
from .metrics import RESIDUALS, Objective
from .noise import Curve, NoiseLevel, moved_positions, on_curve, respaced
from .problem import Problem, per_pixel
from .samplers.base import Guidance, Sampler
from .transfer import divides_by_norms, trajectory

Optimizer = Literal["auto", "lm", "lbfgs", "adam"]


def residuals_of(objective: Objective) -> Residuals | None:
    """The square roots of an objective that is a sum of squares, for Levenberg-Marquardt."""
    return RESIDUALS.get(objective) or getattr(objective, "residuals", None)


LEVELS = "levels"  # what is learned, named among the weights: the gaps between noise levels


class Task(NamedTuple):
    """What the compiled search is specialised for (static, hence hashable)."""

    sampler: Sampler
    objective: Objective
    free: tuple[str, ...]  # weights, and LEVELS
    optimizer: Optimizer
    learning_rate: float
    curve: Curve | None = None  # of the grid, where its levels are learned
    chunked: bool = False  # a large problem, whose gradient comes from `gradient`


class Setting(NamedTuple):
    """What a search is given as arrays. Unconstrained numbers are u = basis params."""

    problems: Problem  # leaves [K, ...]: one schedule for all of them
    shares: Array  # of each problem in the loss, [K]
    scales: Array  # what their losses are multiplied by before that, [K]
    power: Array  # 1 for the average of the problems' losses, large for the worst, see `combined`
    levels: NoiseLevel
    fixed: Guidance  # the weights that stay, name -> [S]
    max_growth: Array  # log of max_amplification
    rough_price: Array  # what roughness 1 of a schedule costs
    basis: Guidance  # name -> [S, P], by band [S, bands, P], levels [S - 1, P]
    watched: Problem | None = None  # [K, ...]: whose amplification is limited, if not `problems`'
    band_knots: Array | None = None  # [bands]


class Schedule(NamedTuple):
    """Noise levels and weights: what a parameter vector stands for."""

    levels: NoiseLevel  # [S + 1]
    guidance: Guidance  # name -> [S], by band [S, bands]


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


@partial(jax.jit, static_argnames="task")
def schedule_of(task: Task, setting: Setting, params: Array) -> Schedule:
    """The schedule of a parameter vector [P], fixed weights included."""
    u = unconstrained_of(setting, params)
    weights = {name: values for name, values in u.items() if name != LEVELS}
    guidance = setting.fixed | constrain(task.sampler.constraint, weights)
    return Schedule(_levels(task, setting, u), guidance)


def unconstrained_of(setting: Setting, params: Array) -> Guidance:
    """name -> unconstrained numbers [S], by band [S, bands], levels [S - 1]."""
    return {name: basis @ params for name, basis in setting.basis.items()}


def _levels(task: Task, setting: Setting, u: Guidance) -> NoiseLevel:
    if task.curve is None:
        return setting.levels
    return respaced(task.curve, setting.levels, u[LEVELS])


def _of_modes(task: Task, setting: Setting, problem: Problem, name: str, u: Array) -> Array:
    """Unconstrained numbers of one problem's modes, [S, F], from those of bands; [S] stays."""
    if u.ndim == 1:
        return u
    assert setting.band_knots is not None
    return (
        bounded(task.sampler.constraint[name], u) @ band_membership(problem, setting.band_knots).T
    )


def _guidance(task: Task, setting: Setting, u: Guidance, problem: Problem) -> Guidance:
    """The weights that the sampler is given for one problem, [S] or [S, F]."""
    weights = {
        name: _of_modes(task, setting, problem, name, u[name])
        for name in task.free
        if name != LEVELS
    }
    return setting.fixed | constrain(task.sampler.constraint, weights)


def overshoot(problem: Problem, max_growth: Array, growth: Array) -> Array:
    """Square roots of the penalty, [S], for the log amplification of each step: beyond the limit,
    its excess, squared, times the variance of a pixel. So 10 % excess cost 1 % of the image."""
    return jnp.sqrt(per_pixel(problem, problem.spectrum)) * jnp.maximum(growth - max_growth, 0)


def combined(setting: Setting, losses: Array) -> Array:
    """One loss of all problems': (sum of shares (scales losses)^power)^(1 / power), losses [K]."""
    losses = setting.scales * losses
    largest = jax.lax.stop_gradient(jnp.max(losses))
    largest = jnp.where(largest > 0, largest, 1)  # powers of numbers up to 1 do not overflow
    total = jnp.sum(setting.shares * (losses / largest) ** setting.power)
    return largest * total ** (1 / setting.power)


def _evaluate(
    task: Task, setting: Setting, levels: NoiseLevel, guidance_of: Callable[[Problem], Guidance]
) -> Array:
    """Objective of all problems, and the penalty for amplification."""
    max_growth = setting.max_growth

    def one(problem: Problem) -> tuple[Array, Array]:
        run = trajectory(task.sampler, problem, levels, guidance_of(problem))
        excess = overshoot(problem, max_growth, jnp.log(run.amplification))
        return task.objective(problem, run.total), jnp.sum(excess**2)

    if not task.chunked:
        losses, penalties = jax.vmap(one)(setting.problems)
        return combined(setting, losses) + jnp.sum(penalties)

    def chunked(problem: Problem) -> Array:
        arguments = problem, levels, guidance_of(problem), task.free, task.objective
        return chunked_loss(task.sampler, *arguments)

    assert setting.watched is not None
    losses = jax.lax.map(chunked, setting.problems)
    penalties = jax.vmap(one)(setting.watched)[1]
    return combined(setting, losses) + jnp.sum(penalties)


def guidance_loss(task: Task, setting: Setting, guidance: Guidance) -> Array:
    """The loss of a schedule [S] on the grid as given, without the price of roughness."""
    return _evaluate(task, setting, setting.levels, lambda problem: guidance)


def _loss(task: Task, setting: Setting, params: Array) -> Array:
    u = unconstrained_of(setting, params)
    levels = _levels(task, setting, u)
    loss = _evaluate(task, setting, levels, partial(_guidance, task, setting, u))
    return loss + jnp.sum(_rough(setting, params) ** 2)


def _rough(setting: Setting, params: Array) -> Array:
    """Square roots of the price of roughness, linear in params."""
    rows = []
    for name, u in unconstrained_of(setting, params).items():
        levels = setting.levels
        if name == LEVELS:  # a gap begins at each noisy level but the last
            levels = jax.tree.map(lambda leaf: leaf[:-1], levels)
        columns = u.reshape(u.shape[0], -1)
        rough = jax.vmap(roughness, in_axes=(1, None))(columns, levels)
        rows.append(rough.ravel() / columns.shape[1] ** 0.5)
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
    residuals = residuals_of(task.objective)
    assert residuals is not None  # see `choose_optimizer`

    def linearised(params: Array) -> tuple[Array, Array]:
        u = unconstrained_of(setting, params)
        levels = _levels(task, setting, u)

        def one(problem: Problem):
            guidance, directions = _guidance(task, setting, u, problem), {}
            for name in task.free:
                if name == LEVELS:
                    directions |= _level_directions(task, setting, u[name])
                else:
                    directions[name] = {name: _weight_directions(task, setting, problem, name, u)}
            misfit, growth = linearise(
                task.sampler, problem, levels, guidance, directions, residuals
            )
            excess, push = jax.linearize(
                partial(overshoot, problem, setting.max_growth), growth.values
            )
            pushed = {label: jax.vmap(jax.vmap(push))(by) for label, by in growth.jacobian.items()}
            return misfit.values, misfit.jacobian, excess, pushed

        values, by_inputs, excess, excess_by_inputs = jax.vmap(one)(setting.problems)
        losses = jnp.sum(values**2, axis=1)
        # Weighted so, the squares have the sum and the gradient of `combined`.
        ratio = setting.scales * losses / combined(setting, losses)
        weight = setting.shares * setting.scales * ratio ** (setting.power - 1)
        weight = jnp.sqrt(weight)[:, None]
        rows = (weight * values).ravel(), excess.ravel(), _rough(setting, params)
        jacobian = (
            (weight[..., None] * _by_params(setting, u, by_inputs)).reshape(-1, params.size),
            _by_params(setting, u, excess_by_inputs).reshape(-1, params.size),
            jax.jacfwd(partial(_rough, setting))(params),
        )
        return jnp.concatenate(rows), jnp.concatenate(jacobian)

    return levenberg_marquardt(search, partial(_loss, task, setting), linearised)


def _weight_directions(
    task: Task, setting: Setting, problem: Problem, name: str, u: Guidance
) -> Array:
    """The weights' rates of change with their unconstrained numbers: [1, S], or [bands, S, F]."""
    modes = _of_modes(task, setting, problem, name, u[name])
    to, one = partial(to_weight, task.sampler.constraint[name]), jnp.ones_like
    slope = jax.jvp(to, (modes,), (one(modes),))[1]
    if modes.ndim == 1:
        return slope[None]
    assert setting.band_knots is not None
    counts = jax.jvp(partial(bounded, task.sampler.constraint[name]), (u[name],), (one(u[name]),))[
        1
    ]
    return jnp.einsum("fb,sb,sf->bsf", band_membership(problem, setting.band_knots), counts, slope)


def _level_directions(task: Task, setting: Setting, u: Array) -> dict[str, Direction]:
    """The levels' rates of change with their positions: those that a step goes from, and to."""
    assert task.curve is not None
    positions = moved_positions(setting.levels, u)
    moving = jnp.ones_like(positions).at[0].set(0)
    rates = jax.jvp(partial(on_curve, task.curve), (positions,), (moving,))[1]
    to = jax.tree.map(lambda rate: jnp.append(rate[1:], jnp.zeros(1, rate.dtype)), rates)
    one = partial(jax.tree.map, lambda rate: rate[None])
    return {"from": {"t": one(rates)}, "to": {"s": one(to)}}


def _by_params(setting: Setting, u: Guidance, by_inputs: dict[str, Array]) -> Array:
    """Derivatives by params, [K, R, P], from those by inputs of the steps, [K, D, S, R] each."""
    total = None
    for name, basis in setting.basis.items():
        if name == LEVELS:
            # A position is where one step begins and where the one before it ends.
            before = jnp.pad(by_inputs["to"][:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
            by_position = by_inputs["from"] + before
            positions = jax.jacfwd(partial(moved_positions, setting.levels))(u[name])
            part = jnp.einsum("kdsr,su,up->krp", by_position, positions, basis)
        else:
            by_band = basis if basis.ndim == 3 else basis[:, None, :]
            part = jnp.einsum("kdsr,sdp->krp", by_inputs[name], by_band)
        total = part if total is None else total + part
    assert total is not None
    return total


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


def basis_of(
    free: tuple[str, ...], levels: NoiseLevel, shape: np.ndarray, bands: int | None = None
) -> Guidance:
    """name -> [S, P], by band [S, bands, P], levels [S - 1, P].

    The parameters of all weights, one after the other; `shape` [S, p] for each (and each band).
    """
    blocks = {}
    for name in free:
        if name == LEVELS:
            # One gap less than there are steps; a parameter of the last step alone falls away.
            block = shape[:-1, np.any(shape[:-1] != 0, axis=0)]
        elif bands is not None:
            block = np.einsum("sp,bc->sbpc", shape, np.eye(bands))
            block = block.reshape(len(shape), bands, -1)
        else:
            block = shape
        blocks[name] = block
    widths = [block.shape[-1] for block in blocks.values()]
    basis, before = {}, 0
    for (name, block), width in zip(blocks.items(), widths, strict=True):
        columns = np.zeros((*block.shape[:-1], sum(widths)))
        columns[..., before : before + width] = block
        basis[name] = jnp.asarray(columns, levels.alpha.dtype)
        before += width
    return basis


def fitted(basis: Guidance, u: dict[str, np.ndarray]) -> np.ndarray:
    """The parameters [n, P] whose numbers are nearest to u, name -> [n, S], [n, S, bands]..."""
    rows = [np.asarray(b, float).reshape(-1, b.shape[-1]) for b in basis.values()]
    wanted = [np.asarray(u[name], float).reshape(len(u[name]), -1) for name in basis]
    return np.concatenate(wanted, axis=1) @ np.linalg.pinv(np.concatenate(rows)).T


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


def next_generation(key: Array, parents: np.ndarray, setting: Setting, num: int) -> Array:
    """The parents, and perturbed copies of them: [num, P]."""
    num_children = num - len(parents)
    if num_children <= 0:
        return jnp.asarray(parents[:num], setting.levels.alpha.dtype)
    which = np.arange(num_children)
    kinds, sizes = (np.asarray(column)[which % len(KICKS)] for column in zip(*KICKS, strict=True))
    kicks = {}
    for name_key, (name, basis) in zip(
        jax.random.split(key, len(setting.basis)), setting.basis.items(), strict=True
    ):
        steps, *bands = basis.shape[:-1]
        smooth_key, white_key, place_key = jax.random.split(name_key, 3)
        curves = smooth_curves(smooth_key, setting.levels, num_children * int(np.prod(bands)))
        curves = np.asarray(curves).reshape(num_children, *bands, -1)
        # The gaps between levels are one fewer than the steps.
        smooth = np.moveaxis(curves, -1, 1)[:, :steps]
        white = np.asarray(jax.random.normal(white_key, (num_children, steps, *bands)))
        first = np.asarray(jax.random.uniform(place_key, (num_children, 1))) * 1.25 - 0.25
        step = np.arange(steps)[None] / steps
        near = ((step >= first) & (step < first + 0.25)).reshape(
            white.shape[:2] + (1,) * len(bands)
        )
        kind, size = (x.reshape(-1, *[1] * (white.ndim - 1)) for x in (kinds, sizes))
        chosen = np.where(kind == "smooth", smooth, np.where(kind == "local", white * near, white))
        kicks[name] = size * chosen
    children = parents[which % len(parents)] + fitted(setting.basis, kicks)
    return jnp.asarray(np.concatenate([parents, children]), setting.levels.alpha.dtype)


def best_params(lanes: Search | Lane) -> Array:
    """The parameters of the best lane, [P]."""
    params = lanes.params if isinstance(lanes, Search) else lanes.best_params
    return params[jnp.argmin(lanes.loss)]
