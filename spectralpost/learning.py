"""Learn a guidance schedule: minimise a closed-form loss through the whole sampling trajectory."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .errors import InputError
from .guidance import constant_grid, constrain, smooth_curves, unconstrain
from .least_squares import (
    Residuals,
    Search,
    initial_search,
    levenberg_marquardt,
    linearise,
)
from .metrics import wasserstein2, wasserstein2_residuals
from .noise import NoiseLevel, check_levels, num_steps_of
from .problem import Problem, per_pixel
from .samplers.exact import exact
from .step import Guidance, Sampler
from .transfer import (
    Transfer,
    check_guidance,
    check_weights,
    mean_field_norms,
    sampler_transfer,
    trajectory,
)

Objective = Callable[[Problem, Transfer], Array]
Optimizer = Literal["auto", "lm", "lbfgs", "adam"]

CHUNK = 20  # iterations between two looks at the loss

# Objectives that are sums of squares, for Levenberg-Marquardt.
RESIDUALS: dict[Objective, Residuals] = {wasserstein2: wasserstein2_residuals}


class LearnResult(NamedTuple):
    """What `learn` returns."""

    guidance: Guidance  # the learned schedule, name -> [S]
    free: tuple[str, ...]  # the weights that were learned
    loss: float  # the objective of the learned schedule
    baselines: dict[str, float]  # the objective of "heuristic", "tuned_constant" and "exact"
    baseline_guidance: dict[str, Guidance]  # the schedules of those three
    history: np.ndarray  # best loss so far (objective + penalty), per iteration
    start_losses: np.ndarray  # final loss of each start, best first: how often the best is found
    converged: bool  # False if max_iterations ended the search


class _Task(NamedTuple):
    """What the compiled search is specialised for (static, hence hashable)."""

    sampler: Sampler
    objective: Objective
    free: tuple[str, ...]
    optimizer: Optimizer
    learning_rate: float


class _Setting(NamedTuple):
    """What a search is given as arrays. Unconstrained weights are u = basis params."""

    problem: Problem
    levels: NoiseLevel
    fixed: Guidance  # the weights that stay, name -> [S]
    max_growth: Array  # log of max_amplification
    basis: Guidance  # name -> [S, P]: identity for a free schedule, ones for a constant


class _Lane(NamedTuple):
    """The optax search from one start; `Search` is its counterpart of least squares."""

    params: Array  # [P]
    state: optax.OptState
    best_params: Array
    loss: Array  # of best_params


def learn(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance | None = None,
    free: tuple[str, ...] | None = None,
    *,
    objective: Objective = wasserstein2,
    num_starts: int = 32,
    optimizer: Optimizer = "auto",
    learning_rate: float = 0.03,
    max_iterations: int = 400,
    tolerance: float = 1e-4,
    max_amplification: float = 3.0,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> LearnResult:
    """Find the weights named in `free` that minimise `objective`; the others stay as they are.

    levels       [S + 1]
    guidance     name -> [S]: the fixed weights, and a start for the free ones (default: the
                 sampler's published heuristic)
    free         default: all weights but eta
    objective    (problem, transfer) -> scalar: `metrics.wasserstein2` (default), `kl`, `mse`, ...
    num_starts   searches run side by side: from `guidance`, from the tuned constant, and from
                 random smooth curves around these two. The landscape has many minima.
    optimizer    "lm": Levenberg-Marquardt, for objectives that are sums of squares of independent
                 modes (the averaged W2). "lbfgs" (optax, zoom line search) and "adam" (optax, with
                 `learning_rate`): any objective, blocks, samplers that divide by norms. "auto": lm
                 where it applies, else lbfgs
    tolerance    stop once the best loss falls by less than this fraction in 20 iterations
    max_amplification
                 keeps every signal on the way within this factor of what the denoiser was made for,
                 in root mean square, mode by mode. The bare optimum (inf) of many steps may blow
                 modes up by 10^10 and shrink them again: fine in closed form, useless to a network
                 and even to double precision. Enforced by a penalty, see `_overshoot`
    progress     called with (iteration, best loss) every 20 iterations

    Deterministic for a given seed. Merge equal modes first (`unique_modes`), and bin those of large
    images (`bin_modes`): time and memory are proportional to rows x steps x starts.

    The baselines: `heuristic` is `guidance` as given; `tuned_constant` the best that one number per
    free weight can do, at any amplification (constant weights, or the published default with its
    own constant changed, whichever is better); `exact` the exact conditional denoiser in the same
    steps (`samplers.exact`, same eta), a reference that knows the prior's covariance.

    Raises InputError for wrong names, shapes or options, and if no start has a finite loss.
    """
    check_levels(levels)
    if guidance is None:
        guidance = published(sampler, problem, levels, jnp.zeros_like(levels.alpha[0]))
    check_guidance(sampler, levels, guidance)
    check_weights(sampler, guidance)
    guidance = {
        name: jnp.asarray(weights, levels.alpha.dtype) for name, weights in guidance.items()
    }
    if free is None:
        free = tuple(name for name in sampler.constraint if name != "eta")
    _check_options(sampler, free, num_starts, max_iterations, max_amplification)
    free = tuple(sorted(free))
    optimizer = _choose(optimizer, sampler, problem, levels, guidance, objective)
    task = _Task(sampler, objective, free, optimizer, learning_rate)
    fixed = {name: weights for name, weights in guidance.items() if name not in free}

    max_growth = jnp.log(jnp.asarray(max_amplification, levels.alpha.dtype))
    setting = _Setting(problem, levels, fixed, max_growth, _basis(free, levels, constant=True))
    # Nobody who tunes a constant looks at amplification: the baseline is not held to the limit.
    unlimited = setting._replace(max_growth=jnp.full_like(max_growth, jnp.inf))
    constant = _tuned_constant(task, unlimited, guidance)

    setting = setting._replace(basis=_basis(free, levels, constant=False))
    lanes = _lanes(task, _starts(seed, sampler, free, guidance, constant, levels, num_starts))
    history: list[float] = []
    converged = False
    while not converged and len(history) < max_iterations:
        lanes, losses = _search(task, setting, lanes, CHUNK)
        before = history[-1] if history else np.inf
        history += np.minimum(before, np.asarray(losses).min(axis=1)).tolist()
        converged = before - history[-1] <= tolerance * history[-1]
        if progress is not None:
            progress(len(history), history[-1])

    learned = _guidance(sampler, setting, _best(lanes))
    eta = guidance.get("eta", jnp.zeros_like(levels.alpha[1:]))
    baseline_guidance = {"heuristic": guidance, "tuned_constant": constant, "exact": {"eta": eta}}

    def value(guidance: Guidance) -> float:
        return float(score(sampler, problem, levels, guidance, objective))

    return LearnResult(
        guidance=learned,
        free=free,
        loss=value(learned),
        baselines={
            "heuristic": value(guidance),
            "tuned_constant": value(constant),
            "exact": float(exact_score(problem, levels, eta, objective)),
        },
        baseline_guidance=baseline_guidance,
        history=np.asarray(history),
        start_losses=np.sort(np.asarray(lanes.loss)),
        converged=converged,
    )


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


# -------------------------------------------------------------------------------------- machinery


@partial(jax.jit, static_argnames="sampler")
def _guidance(sampler: Sampler, setting: _Setting, params: Array) -> Guidance:
    """The schedule of a parameter vector [P], fixed weights included."""
    u = {name: basis @ params for name, basis in setting.basis.items()}
    return setting.fixed | constrain(sampler.constraint, u)


def _overshoot(problem: Problem, max_growth: Array, growth: Array) -> Array:
    """Square roots of the penalty, [S], for the log amplification of each step: beyond the limit,
    its excess, squared, times the variance of a pixel. So 10 % excess cost 1 % of the image."""
    return jnp.sqrt(per_pixel(problem, problem.spectrum)) * jnp.maximum(growth - max_growth, 0)


def _run(sampler: Sampler, setting: _Setting, guidance: Guidance) -> tuple[Transfer, Array]:
    """The total transfer and the overshoot [S] of a schedule."""
    run = trajectory(sampler, setting.problem, setting.levels, guidance)
    growth = jnp.log(run.amplification)
    return run.total, _overshoot(setting.problem, setting.max_growth, growth)


def _guidance_loss(task: _Task, setting: _Setting, guidance: Guidance) -> Array:
    transfer, overshoot = _run(task.sampler, setting, guidance)
    return task.objective(setting.problem, transfer) + jnp.sum(overshoot**2)


def _loss(task: _Task, setting: _Setting, params: Array) -> Array:
    return _guidance_loss(task, setting, _guidance(task.sampler, setting, params))


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


def _tuned_constant(task: _Task, setting: _Setting, given: Guidance) -> Guidance:
    """The best schedule that one number per weight can give.

    Either constant weights, or the published default with its own constant changed, whichever is
    better: a published constant may stand for weights that are not (`Sampler.heuristic`).
    """
    sampler, dtype = task.sampler, setting.levels.alpha.dtype
    constants, loss = _zoom(
        lambda points: _losses(task, setting, jnp.asarray(points, dtype)), len(task.free)
    )
    factors, published_loss = _zoom(
        lambda points: _published_losses(task, setting, jnp.asarray(points[:, 0], dtype), given), 1
    )
    if not np.isfinite(min(loss, published_loss)):
        raise InputError(f"no constant weight of {sampler.name} has a finite loss on this problem")
    constant = _guidance(sampler, setting, jnp.asarray(constants, dtype))
    rescaled = _published(task, setting, jnp.asarray(factors[0], dtype), given)
    return constant if loss <= published_loss else rescaled


def _published(task: _Task, setting: _Setting, log_factor: Array, given: Guidance) -> Guidance:
    """The published default times exp(log_factor) in the free weights, the others as given."""
    default = published(task.sampler, setting.problem, setting.levels, log_factor)
    return given | {name: default[name] for name in task.free}


@partial(jax.jit, static_argnames="task")
def _published_losses(task: _Task, setting: _Setting, log_factors: Array, given: Guidance) -> Array:
    def loss(log_factor: Array) -> Array:
        return _guidance_loss(task, setting, _published(task, setting, log_factor, given))

    return _finite(jax.lax.map(loss, log_factors, batch_size=16))


@partial(jax.jit, static_argnames="task")
def _losses(task: _Task, setting: _Setting, params: Array) -> Array:
    """The losses of many parameter vectors [num, P]; an unstable sampler's is infinite."""
    return _finite(jax.lax.map(partial(_loss, task, setting), params, batch_size=16))


def _finite(losses: Array) -> Array:
    return jnp.where(jnp.isfinite(losses), losses, jnp.inf)


@partial(jax.jit, static_argnames=("task", "iterations"), donate_argnames="lanes")
def _search(
    task: _Task, setting: _Setting, lanes: Search | _Lane, iterations: int
) -> tuple[Search | _Lane, Array]:
    """Some iterations of every lane; also the best losses so far, [iterations, lanes]."""
    iterate = _lm_iteration if task.optimizer == "lm" else _optax_iteration

    def run(lane: Search | _Lane) -> tuple[Search | _Lane, Array]:
        def body(lane, _):
            lane = iterate(task, setting, lane)
            return lane, lane.loss

        return jax.lax.scan(body, lane, length=iterations)

    # optax is not written for strict promotion, which callers may have switched on.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.vmap(run, out_axes=(0, 1))(lanes)


def _lm_iteration(task: _Task, setting: _Setting, search: Search) -> Search:
    sampler, problem, basis = task.sampler, setting.problem, setting.basis
    residuals = RESIDUALS[task.objective]
    constraint = partial(constrain, sampler.constraint)

    def at(params: Array) -> Array:
        transfer, overshoot = _run(sampler, setting, _guidance(sampler, setting, params))
        return jnp.concatenate([residuals(problem, transfer), overshoot])

    def linearised(params: Array) -> tuple[Array, Array]:
        u = {name: basis[name] @ params for name in task.free}
        weights, slopes = jax.jvp(constraint, (u,), (jax.tree.map(jnp.ones_like, u),))
        guidance = setting.fixed | weights
        misfit, growth = linearise(sampler, problem, setting.levels, guidance, task.free, residuals)
        overshoot, push = jax.linearize(
            partial(_overshoot, problem, setting.max_growth), growth.values
        )
        jacobian = 0
        for name in task.free:
            by_weight = jnp.concatenate(
                [misfit.jacobian[name], jax.vmap(push)(growth.jacobian[name])], axis=1
            )
            jacobian += (slopes[name][:, None] * by_weight).T @ basis[name]
        return jnp.concatenate([misfit.values, overshoot]), jacobian

    return levenberg_marquardt(search, at, linearised)


def _optax_iteration(task: _Task, setting: _Setting, lane: _Lane) -> _Lane:
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
    return _Lane(
        optax.apply_updates(lane.params, updates),
        state,
        jnp.where(better, lane.params, lane.best_params),
        jnp.where(better, value, lane.loss),
    )


def _transformation(task: _Task) -> optax.GradientTransformationExtraArgs:
    if task.optimizer == "lbfgs":
        return optax.lbfgs()
    return optax.with_extra_args_support(optax.adam(task.learning_rate))


@partial(jax.jit, static_argnames="task")
def _lanes(task: _Task, params: Array) -> Search | _Lane:
    """Lanes at their starts, params [lanes, P]."""

    def lane(params: Array) -> Search | _Lane:
        if task.optimizer == "lm":
            return initial_search(params)
        state = _transformation(task).init(params)
        return _Lane(params, state, params, jnp.full((), jnp.inf, params.dtype))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # optax starts with weakly typed numbers and goes on with strong ones: compiled twice.
        return jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), jax.vmap(lane)(params)
        )


def _basis(free: tuple[str, ...], levels: NoiseLevel, *, constant: bool) -> Guidance:
    """name -> [S, P]: P = one parameter per weight if constant, else one per weight and step."""
    steps = num_steps_of(levels)
    one = np.ones((steps, 1)) if constant else np.eye(steps)
    width = one.shape[1]
    basis = {}
    for i, name in enumerate(free):
        columns = np.zeros((steps, width * len(free)))
        columns[:, i * width : (i + 1) * width] = one
        basis[name] = jnp.asarray(columns, levels.alpha.dtype)
    return basis


def _starts(
    seed: int,
    sampler: Sampler,
    free: tuple[str, ...],
    given: Guidance,
    constant: Guidance,
    levels: NoiseLevel,
    num: int,
) -> Array:
    """[num, P]: the given schedule, the constant, then random smooth curves around these two."""
    given, constant = (unconstrain(sampler.constraint, weights) for weights in (given, constant))
    columns = []
    for key, name in zip(jax.random.split(jax.random.key(seed), len(free)), free, strict=True):
        centres = jnp.stack([(given, constant)[i % 2][name] for i in range(num)])
        curves = smooth_curves(key, levels, num)
        columns.append(centres + curves.at[:2].set(0))
    return jnp.concatenate(columns, axis=1)


def _best(lanes: Search | _Lane) -> Array:
    """The parameters of the best lane, [P]."""
    params = lanes.params if isinstance(lanes, Search) else lanes.best_params
    return params[jnp.argmin(lanes.loss)]


def _choose(
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
    norms = jax.eval_shape(partial(mean_field_norms, sampler), problem, levels, guidance)
    applies = objective in RESIDUALS and problem.basis is None and norms.shape[1] == 0
    if optimizer == "lm" and not applies:
        raise InputError(
            "optimizer = 'lm': needs the averaged W2, independent modes and a sampler without "
            "norms; allowed here are lbfgs, adam"
        )
    return "lm" if applies else "lbfgs"


def _check_options(
    sampler: Sampler,
    free: tuple[str, ...],
    num_starts: int,
    max_iterations: int,
    max_amplification: float,
) -> None:
    known = ", ".join(sampler.constraint)
    for name in free:
        if name not in sampler.constraint:
            raise InputError(f"free = {name!r}: {sampler.name} has the weights {known}")
    if not free:
        raise InputError(f"free: name one weight at least; {sampler.name} has {known}")
    if len(set(free)) < len(free):
        raise InputError(f"free = {', '.join(free)}: names a weight twice")
    if not max_amplification >= 1:
        raise InputError(f"max_amplification = {max_amplification}: must be >= 1")
    if num_starts < 1:
        raise InputError(f"starts = {num_starts}: must be >= 1")
    if max_iterations < 1:
        raise InputError(f"max_iterations = {max_iterations}: must be >= 1")
