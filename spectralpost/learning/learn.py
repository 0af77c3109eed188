"""Learn a guidance schedule: minimise a closed-form loss through the whole sampling trajectory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import floating
from ..compiled import drop_compiled_programs_if_crowded
from ..errors import InputError, check_kind
from ..kept_jit import kept_jit
from ..merging import unique_modes
from ..metrics import wasserstein2
from ..noise import NoiseLevel, check_levels
from ..objectives import Objective
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..transfer import checked
from .baselines import evaluate, evaluate_exact
from .guidance import constrain, names_of, per_mode, unconstrain
from .loss import Loss, Prices, Several
from .parameters import Freedom, schedule_of
from .preparing import check_free, constant_of, prepare
from .search import Progress, Search, Watch
from .searching import searched

HOLDS = 1.05  # times its loss on merged modes: up to there a schedule holds on all


class LearnResult(NamedTuple):
    """What `learn` returns."""

    guidance: Guidance  # the learned schedule, name -> [S]; by band [S, bands], see `per_mode`
    levels: NoiseLevel  # those given, or those learned
    band_knots: Array | None  # [bands], for `guidance.per_mode`
    free: tuple[str, ...]  # the weights that were learned
    loss: float  # the objective of the learned schedule
    losses: np.ndarray  # the same of each problem, [K]
    baselines: dict[str, float]  # the objective of "heuristic", "tuned_constant" and "exact"
    baseline_guidance: dict[str, Guidance]  # the schedules of those three
    history: np.ndarray  # best loss (objective + prices) after each chunk of refining, see `Search`
    explored: np.ndarray  # the same of each generation, on the coarse problem ("lm" only)
    final_losses: np.ndarray  # of all schedules that were refined, as far as each was, best first
    converged: bool  # False if max_iterations or the user ended the search
    interrupted: bool  # by the user: this is the best so far
    # Unconstrained numbers of all refined schedules, best first, for `resume`.
    kept: dict[str, np.ndarray]


def constant_that_holds(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, result: LearnResult, loss: float
) -> Guidance:
    """The tuned constant of a problem of all modes, whose merged modes were learned on.

    loss: W2^2 of the constant of `result` on it. One at the edge of what is stable may be beyond
    for modes that merging has hidden among others: then it is tuned again, on all.
    """
    if loss <= HOLDS * result.baselines["tuned_constant"]:
        return result.baseline_guidance["tuned_constant"]
    whole, _ = unique_modes(problem)
    return constant_of(sampler, whole, levels, result.baseline_guidance["heuristic"], result.free)


def learn(
    sampler: Sampler,
    problem: Problem | Sequence[Problem],
    levels: NoiseLevel,
    guidance: Guidance | None = None,
    free: tuple[str, ...] | None = None,
    *,
    objective: Objective = wasserstein2,
    freedom: Freedom = Freedom(),
    prices: Prices = Prices(),
    several: Several = Several(),
    search: Search = Search(),
    progress: Callable[[Progress], None] | None = None,
    resume: Guidance | None = None,
) -> LearnResult:
    """Find the weights named in `free` that minimise `objective`; the others stay as they are.

    problem    or several, for one schedule that serves all: other sigma_y, blur, exponent. The
               first is the nominal one, whose published default is the start
    levels     [S + 1]
    guidance   name -> [S]: the fixed weights, and a start for the free ones (default: the
               sampler's published default)
    free       default: all weights but eta, or eta where there is no other (`default_free`).
               () learns the noise levels of `freedom` alone
    objective  (problem, transfer) -> scalar: `metrics.wasserstein2` (default), `mse`, `perception`,
               a `WeightedSum` of these, `kl`, or your own
    freedom    noise levels, knots, bands: `Freedom`
    prices     limits that keep schedules usable: `Prices`
    several    how the losses of several problems become one: `Several`
    search     starts, iterations, optimizer, seed: `Search`
    progress   called with a `Progress` at every look at the loss, see `Search`
    resume     `kept` of an earlier result of the same call, perhaps on other levels, or other
               schedules by `starts_from`: the search goes on from there, without exploring if
               `search` says so

    Deterministic for a given seed and number of threads. Ctrl-C ends the search with the best
    schedule so far. Merge equal modes first (`unique_modes`), and bin those of large images
    (`bin_modes`): time and memory are proportional to rows x steps x starts. Blocks of more than 8
    modes are explored without generations, on 8 that stand for all; where there are no more, from
    the two best starts alone.
    Computed in the wider of the dtypes of problem and levels.

    The baselines: `heuristic` is `guidance` as given; `tuned_constant` the best that one number per
    free weight can do, at any amplification (constant weights, or the published default with its
    own constant changed, whichever is better); `exact` the exact conditional denoiser in the same
    steps (`samplers.exact`, same eta), a reference that knows the prior's covariance.

    Raises InputError for wrong names, shapes or options, and if no start has a finite loss.

    >>> result = sp.learn(sampler, problem, levels, search=sp.Search(starts=2))
    >>> result.loss < result.baselines["tuned_constant"] < result.baselines["heuristic"]
    True
    >>> {name: weights.shape for name, weights in result.guidance.items()}
    {'eta': (3,), 'zeta': (3,)}
    """
    for name, given, kind in (
        ("freedom", freedom, Freedom),
        ("prices", prices, Prices),
        ("several", several, Several),
        ("search", search, Search),
    ):
        if not isinstance(given, kind):
            raise InputError(f"{name} = {given!r}: must be {kind.__name__}(...)")
    search = search.checked()
    drop_compiled_programs_if_crowded()
    is_one = isinstance(problem, Problem) or not isinstance(problem, list | tuple)
    if is_one:
        check_kind("problem", problem, Problem, "or a list of them")
    problems: list[Any] = [problem] if is_one else list(problem)
    check_levels(levels)
    levels, *problems = floating(levels, *problems)
    prepared = prepare(
        sampler,
        problems,
        levels,
        guidance,
        free,
        objective=objective,
        freedom=freedom,
        prices=prices,
        several=several,
        search=search,
    )
    loss, watch = prepared.loss, Watch(progress)
    vectors, final, converged = searched(prepared, search, watch, resume)
    learned, knots = schedule_of(loss.parameters, vectors[0]), loss.parameters.band_knots
    if freedom.held:
        learned = learned._replace(levels=levels)

    def losses_on(levels: NoiseLevel, guidance: Guidance) -> np.ndarray:
        found = []
        for one in problems:
            on = guidance if knots is None else per_mode(sampler.constraint, guidance, one, knots)
            found.append(evaluate(sampler, one, levels, on, objective))
        return np.asarray(found)

    combined = lambda losses: float(jax.jit(Loss.combined)(prepared.given, losses))  # noqa: E731
    losses = losses_on(learned.levels, learned.guidance)
    eta: Any = prepared.heuristic.get("eta", np.zeros_like(np.asarray(levels.alpha)[1:]))
    exact = np.asarray([evaluate_exact(p, levels, eta, objective) for p in problems])
    return LearnResult(
        guidance=learned.guidance,
        levels=learned.levels,
        band_knots=knots,
        free=loss.parameters.weights,
        loss=combined(losses),
        losses=np.asarray(losses, float),
        baselines={
            "heuristic": combined(losses_on(levels, prepared.heuristic)),
            "tuned_constant": combined(losses_on(levels, prepared.constant)),
            "exact": combined(exact),
        },
        baseline_guidance={
            "heuristic": prepared.heuristic,
            "tuned_constant": prepared.constant,
            "exact": {"eta": eta},
        },
        history=np.asarray(watch.refined),
        explored=np.asarray(watch.explored),
        final_losses=final,
        converged=converged,
        interrupted=watch.interrupted,
        kept=loss.parameters.numbers(vectors),
    )


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
    its odds), mean of up and down; near 0 where the loss does not care. Raises InputError for other
    names, and as `sampler_transfer`.

    >>> sp.sensitivity(sampler, problem, levels, guidance, ("zeta",))["zeta"].shape
    (3,)
    """
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    free = names_of(free)
    check_free(sampler, free, levels=True)  # there may be none where levels are
    for name in free:
        if guidance[name].ndim > 1:
            raise InputError(f"guidance {name!r}: is by mode; one weight a step is needed")
    return _sensitivity(sampler, problem, levels, guidance, free, objective)


@partial(kept_jit, static_argnames=("sampler", "free", "objective"))
def _sensitivity(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...],
    objective: Objective,
) -> Guidance:
    change = {}
    for name in free:
        own = unconstrain(sampler.constraint, {name: guidance[name]})

        def moved(shift: Array, own: Guidance = own) -> Array:
            shifted = jax.tree.map(lambda u: u + shift, own)
            weights = guidance | constrain(sampler.constraint, shifted)
            return evaluate(sampler, problem, levels, weights, objective)

        shifts = 0.1 * jnp.eye(len(own[name]), dtype=own[name].dtype)
        # Unmoved the same way: a weight on its boundary is not quite there (`from_weight`).
        every = jnp.concatenate([jnp.zeros_like(shifts[:1]), shifts, -shifts])
        here, *both = jnp.split(jax.lax.map(moved, every, batch_size=16), [1, 1 + len(shifts)])
        change[name] = jnp.mean(jnp.stack(both), axis=0) / here - 1
    return change
