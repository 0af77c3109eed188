"""Learn a guidance schedule: minimise a closed-form loss through the whole sampling trajectory."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .baselines import exact_score, published, score, tuned_constant
from .errors import InputError
from .guidance import constrain, interpolation, smooth_curves, unconstrain
from .least_squares import Search
from .metrics import Objective, wasserstein2
from .noise import NoiseLevel, check_levels
from .problem import Problem, bin_modes
from .search import (
    KEPT,
    Lane,
    Optimizer,
    Setting,
    Task,
    basis_of,
    begin,
    best_distinct,
    best_params,
    choose_optimizer,
    next_generation,
    schedule_of,
    search,
)
from .step import Guidance, Sampler
from .transfer import check_guidance, check_weights

CHUNK = 20  # iterations between two looks at the loss
COARSE = 64  # modes of the problem that is explored
PATIENCE = 10  # generations without progress


class LearnResult(NamedTuple):
    """What `learn` returns."""

    guidance: Guidance  # the learned schedule, name -> [S]
    free: tuple[str, ...]  # the weights that were learned
    loss: float  # the objective of the learned schedule
    baselines: dict[str, float]  # the objective of "heuristic", "tuned_constant" and "exact"
    baseline_guidance: dict[str, Guidance]  # the schedules of those three
    history: np.ndarray  # best loss (objective + penalties) after every 20 iterations of refining
    explored: np.ndarray  # the same of each generation, on the coarse problem ("lm" only)
    final_losses: np.ndarray  # of all schedules that were refined to the end, best first
    converged: bool  # False if max_iterations ended the search


def learn(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance | None = None,
    free: tuple[str, ...] | None = None,
    *,
    objective: Objective = wasserstein2,
    num_starts: int = 48,
    optimizer: Optimizer = "auto",
    learning_rate: float = 0.03,
    max_iterations: int = 400,
    tolerance: float = 1e-4,
    max_amplification: float = 3.0,
    smoothness: float = 1e-4,
    knots: int | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> LearnResult:
    """Find the weights named in `free` that minimise `objective`; the others stay as they are.

    levels       [S + 1]
    guidance     name -> [S]: the fixed weights, and a start for the free ones (default: the
                 sampler's published heuristic)
    free         default: all weights but eta, or eta where there is no other (`default_free`)
    objective    (problem, transfer) -> scalar: `metrics.wasserstein2` (default), `mse`,
                 `perception`, a `metrics.WeightedSum` of these, `kl`, or your own
    num_starts   searches run side by side: from `guidance`, from the tuned constant, and from
                 random smooth curves around these two. The landscape has many minima
    optimizer    "lm": Levenberg-Marquardt, for objectives that are sums of squares of independent
                 modes (all named above but kl). Explores in generations of 20 iterations on a
                 problem of 64 bins, each begun by the best schedules so far and perturbed copies of
                 these, then refines the best few on the whole problem. "lbfgs" (optax, zoom line
                 search) and "adam" (optax, with `learning_rate`): any objective, blocks, samplers
                 that divide by norms; they only refine. "auto": lm where it applies, else lbfgs
    max_iterations
                 of exploring, and of refining, each rounded up to a multiple of 20
    tolerance    stop refining once the best loss falls by less than this fraction in 20 iterations
    max_amplification
                 keeps every signal on the way within this factor of what the denoiser was made for,
                 in root mean square, mode by mode. The bare optimum (inf) of many steps may blow
                 modes up by 10^10 and shrink them again: fine in closed form, useless to a network
                 and even to double precision. Enforced by a penalty, see `search`
    smoothness   a zigzag by a factor of e from step to step costs this fraction of the tuned
                 constant's loss (`guidance.roughness`): steps that do not matter follow their
                 neighbours. 0 gives the bare optimum
    knots        None: one weight a step. k: weights interpolated in log-SNR between k knots
                 (`guidance.interpolation`), for schedules of few numbers; 1 learns a constant
    progress     called with (iteration, best loss) every 20 iterations: the loss of the coarse
                 problem while exploring, of the whole one while refining

    Deterministic for a given seed. Merge equal modes first (`unique_modes`), and bin those of large
    images (`bin_modes`): time and memory are proportional to rows x steps x starts.

    The baselines: `heuristic` is `guidance` as given; `tuned_constant` the best that one number per
    free weight can do, at any amplification (constant weights, or the published default with its
    own constant changed, whichever is better); `exact` the exact conditional denoiser in the same
    steps (`samplers.exact`, same eta), a reference that knows the prior's covariance.

    Raises InputError for wrong names, shapes or options, and if no start has a finite loss.
    """
    check_levels(levels)
    given = guidance or published(sampler, problem, levels, jnp.zeros_like(levels.alpha[0]))
    check_guidance(sampler, levels, given)
    check_weights(sampler, given)
    guidance = {name: jnp.asarray(weights, levels.alpha.dtype) for name, weights in given.items()}
    free = default_free(sampler) if free is None else free
    _check_options(sampler, free, num_starts, max_iterations, max_amplification, smoothness)
    if knots is not None and knots < 1:
        raise InputError(f"knots = {knots}: must be >= 1")
    free = tuple(sorted(free))
    optimizer = choose_optimizer(optimizer, sampler, problem, levels, guidance, objective)
    task = Task(sampler, objective, free, optimizer, learning_rate)
    fixed = {name: weights for name, weights in guidance.items() if name not in free}

    max_growth = jnp.log(jnp.asarray(max_amplification, levels.alpha.dtype))
    zero, ones = jnp.zeros_like(max_growth), basis_of(free, levels, interpolation(levels, 1))
    # Nobody who tunes a constant looks at amplification: the baseline is not held to the limit.
    unlimited = Setting(problem, levels, fixed, jnp.full_like(max_growth, jnp.inf), zero, ones)
    constant, constant_loss = tuned_constant(task, unlimited, guidance)

    shape = interpolation(levels, knots)
    basis = basis_of(free, levels, shape)
    rough_price = jnp.asarray(smoothness * constant_loss, levels.alpha.dtype)
    setting = Setting(problem, levels, fixed, max_growth, rough_price, basis)
    starts = random_starts(seed, sampler, free, guidance, constant, levels, shape, num_starts)
    explored: list[float] = []
    history: list[float] = []

    def record(losses: list[float], loss: float) -> None:
        losses.append(loss)
        if progress is not None:
            progress(CHUNK * len(explored + history), loss)

    if optimizer == "lm":
        record_explored = partial(record, explored)
        best = _explore(task, setting, starts, shape, seed, max_iterations, record_explored)
        # The tuned constant once more: refining cannot end above it, penalties included.
        starts = jnp.concatenate([best, starts[1:2]])
    record_refined = partial(record, history)
    lanes, converged = _refine(task, setting, starts, max_iterations, tolerance, record_refined)

    learned = schedule_of(sampler, setting, best_params(lanes))
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
        explored=np.asarray(explored),
        final_losses=np.sort(np.asarray(lanes.loss)),
        converged=converged,
    )


def default_free(sampler: Sampler) -> tuple[str, ...]:
    """The weights that `learn` learns if not told: all but eta, or eta if that is all there is."""
    return tuple(name for name in sampler.constraint if name != "eta") or tuple(sampler.constraint)


@partial(jax.jit, static_argnames=("sampler", "free", "objective"))
def sensitivity(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...],
    objective: Objective = wasserstein2,
) -> Guidance:
    """How much each weight of each step matters: name -> [S], for the names in `free`.

    The relative increase of the objective when that one weight is changed by 10 % (a unit weight:
    its odds), mean of up and down; near 0 where the loss does not care.
    """
    u = unconstrain(sampler.constraint, {name: guidance[name] for name in free})
    here = score(sampler, problem, levels, guidance, objective)

    def moved(name: str, shift: Array) -> Array:
        weights = guidance | constrain(sampler.constraint, u | {name: u[name] + shift})
        return score(sampler, problem, levels, weights, objective)

    change = {}
    for name in free:
        shifts = 0.1 * jnp.eye(u[name].shape[0], dtype=u[name].dtype)
        both = jax.lax.map(partial(moved, name), jnp.concatenate([shifts, -shifts]), batch_size=16)
        change[name] = jnp.mean(both.reshape(2, -1), axis=0) / here - 1
    return change


# -------------------------------------------------------------------------------------- machinery


def _explore(
    task: Task,
    setting: Setting,
    starts: Array,
    shape: np.ndarray,
    seed: int,
    max_iterations: int,
    record: Callable[[float], None],
) -> Array:
    """The best few schedules that generations of Levenberg-Marquardt searches find: [KEPT, P].

    The landscape is rugged, and good minima are near each other: after some iterations the best are
    kept, and the other lanes go on from perturbed copies of these. On a problem of few bins, where
    an iteration costs a fraction; what is learned there is refined on the whole problem.
    """
    levels, problem = setting.levels, setting.problem
    if problem.spectrum.shape[0] > 2 * COARSE:
        setting = setting._replace(problem=bin_modes(problem, COARSE)[0])
    key = jax.random.key(seed)
    params, best, stale = starts, np.inf, 0
    parents = np.asarray(starts)
    for _ in range(-(-max_iterations // CHUNK)):
        lanes, _ = search(task, setting, begin(task, params), CHUNK)
        before = best
        parents, best = best_distinct(np.asarray(lanes.params), np.asarray(lanes.loss), KEPT)
        record(best)
        stale = 0 if best < before * (1 - 1e-3) else stale + 1
        if stale == PATIENCE:
            break
        key, kick_key = jax.random.split(key)
        params = next_generation(kick_key, parents, levels, shape, len(starts))
    return jnp.asarray(parents, starts.dtype)


def _refine(
    task: Task,
    setting: Setting,
    starts: Array,
    max_iterations: int,
    tolerance: float,
    record: Callable[[float], None],
) -> tuple[Search | Lane, bool]:
    """Searches from all starts, side by side, until the best of them no longer gains."""
    lanes, best, iterations = begin(task, starts), np.inf, 0
    while iterations < max_iterations:
        lanes, losses = search(task, setting, lanes, CHUNK)
        iterations += CHUNK
        before = best
        best = min(best, float(np.asarray(losses).min()))
        record(best)
        if before - best <= tolerance * best:
            return lanes, True
    return lanes, False


def random_starts(
    seed: int,
    sampler: Sampler,
    free: tuple[str, ...],
    given: Guidance,
    constant: Guidance,
    levels: NoiseLevel,
    shape: np.ndarray,
    num: int,
) -> Array:
    """[num, P]: the given schedule, the constant, then random smooth curves around these two."""
    given, constant = (unconstrain(sampler.constraint, weights) for weights in (given, constant))
    fit = jnp.asarray(np.linalg.pinv(shape).T, levels.alpha.dtype)
    columns = []
    for key, name in zip(jax.random.split(jax.random.key(seed), len(free)), free, strict=True):
        centres = jnp.stack([(given, constant)[i % 2][name] for i in range(num)])
        curves = smooth_curves(key, levels, num)
        columns.append((centres + curves.at[:2].set(0)) @ fit)
    return jnp.concatenate(columns, axis=1)


def _check_options(
    sampler: Sampler,
    free: tuple[str, ...],
    num_starts: int,
    max_iterations: int,
    max_amplification: float,
    smoothness: float,
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
    if not 0 <= smoothness < np.inf:
        raise InputError(f"smoothness = {smoothness}: must be a number >= 0")
    if num_starts < 1:
        raise InputError(f"starts = {num_starts}: must be >= 1")
    if max_iterations < 1:
        raise InputError(f"max_iterations = {max_iterations}: must be >= 1")
