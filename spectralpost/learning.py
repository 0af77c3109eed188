"""Learn a guidance schedule: minimise a closed-form loss through the whole sampling trajectory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .algebra import floating
from .baselines import exact_score, published, score, tuned_constant
from .errors import InputError
from .gradient import CHUNK as LARGE
from .guidance import (
    band_knots,
    constrain,
    interpolation,
    per_mode,
    unconstrain,
)
from .least_squares import Search
from .merging import bin_modes, stack_problems
from .metrics import Objective, wasserstein2
from .noise import NoiseLevel, check_levels, curve_of, num_steps_of
from .problem import Problem
from .search import (
    LEVELS,
    Optimizer,
    Setting,
    Task,
    basis_of,
    best_params,
    choose_optimizer,
    combined,
    fitted,
    schedule_of,
    unconstrained_of,
)
from .stages import PATIENCE, Progress, Stages, enriched
from .step import Guidance, Sampler
from .transfer import check_guidance, check_weights, divides_by_norms

COARSE = 64  # modes of the problem that is explored
WATCHED = 400  # modes whose amplification is watched where there are very many
WORST = 50.0  # `Setting.power` that stands for the worst case
T = TypeVar("T")


class LearnResult(NamedTuple):
    """What `learn` returns."""

    guidance: Guidance  # the learned schedule, name -> [S]; by band [S, bands], see `per_mode`
    levels: NoiseLevel  # those given, or those learned
    band_knots: Array | None  # [bands], for `guidance.per_mode`
    free: tuple[str, ...]  # what was learned
    loss: float  # the objective of the learned schedule
    losses: np.ndarray  # the same of each problem, [K]
    baselines: dict[str, float]  # the objective of "heuristic", "tuned_constant" and "exact"
    baseline_guidance: dict[str, Guidance]  # the schedules of those three
    history: np.ndarray  # best loss (objective + penalties) after every 20 iterations of refining
    explored: np.ndarray  # the same of each generation, on the coarse problem ("lm" only)
    final_losses: np.ndarray  # of all schedules that were refined to the end, best first
    converged: bool  # False if max_iterations or the user ended the search
    interrupted: bool  # by the user: this is the best so far
    kept: Guidance  # unconstrained numbers of all refined schedules, best first, for `resume`


def learn(
    sampler: Sampler,
    problem: Problem | Sequence[Problem],
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
    bands: int | None = None,
    worst_case: bool = False,
    references: Sequence[float] | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    resume: Guidance | None = None,
) -> LearnResult:
    """Find the weights named in `free` that minimise `objective`; the others stay as they are.

    problem      or several, for one schedule that serves all: other sigma_y, blur, exponent. The
                 first is the nominal one, whose published default is the start
    levels       [S + 1]
    guidance     name -> [S]: the fixed weights, and a start for the free ones (default: the
                 sampler's published heuristic)
    free         default: all weights but eta, or eta where there is no other (`default_free`). May
                 also name "levels": the gaps between noise levels, learned with the weights. The
                 first level and the clean end stay, the family (VP, VE, flow) too
    objective    (problem, transfer) -> scalar: `metrics.wasserstein2` (default), `mse`,
                 `perception`, a `metrics.WeightedSum` of these, `kl`, or your own
    num_starts   searches run side by side: from `guidance`, from the tuned constant, and from
                 random smooth curves around these two. The landscape has many minima
    optimizer    "lm": Levenberg-Marquardt, for objectives that are sums of squares of independent
                 modes (all named above but kl). Explores in generations of 20 iterations on a
                 problem of 64 bins in single precision, each begun by the best schedules so far and
                 perturbed copies of these, then refines the best few on the whole problem. "lbfgs"
                 (optax, zoom line search) and "adam" (optax, with `learning_rate`): any objective,
                 blocks, samplers that divide by norms; they only refine. "auto": lm where it
                 applies, else lbfgs
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
    bands        weights [S, bands] that depend on how well a mode is measured, see
                 `guidance.band_membership`; for independent modes
    worst_case   of several problems the largest loss counts, not the average (as the norm of power
                 50 of their losses, which is smooth)
    references   a loss for each problem; their losses are taken relative to these. Without them the
                 hardest problem outweighs the others
    progress     called with a `Progress` every 20 iterations
    resume       `kept` of an earlier result of the same call: its search goes on from there

    Deterministic for a given seed. Ctrl-C ends the search with the best schedule so far. Merge
    equal modes first (`unique_modes`), and bin those of large images (`bin_modes`): time and memory
    are proportional to rows x steps x starts.

    The baselines: `heuristic` is `guidance` as given; `tuned_constant` the best that one number per
    free weight can do, at any amplification (constant weights, or the published default with its
    own constant changed, whichever is better); `exact` the exact conditional denoiser in the same
    steps (`samplers.exact`, same eta), a reference that knows the prior's covariance.

    Raises InputError for wrong names, shapes or options, and if no start has a finite loss.
    """
    check_levels(levels)
    problems = [problem] if isinstance(problem, Problem) else list(problem)
    levels, *problems = floating(levels, *problems)
    free = default_free(sampler) if free is None else free
    _check_options(sampler, free, num_starts, max_iterations, max_amplification, smoothness)
    _check_whole("knots", knots)
    _check_whole("bands", bands)
    scales = _scales(problems, references)
    given = guidance or published(sampler, problems[0], levels, jnp.zeros_like(levels.alpha[0]))
    (given,) = floating(given, dtype=levels.alpha.dtype)
    check_guidance(sampler, levels, given)
    check_weights(sampler, given)
    guidance = given
    free = tuple(sorted(free))
    weights = tuple(name for name in free if name != LEVELS)
    for one in problems:
        choice = choose_optimizer(optimizer, sampler, one, levels, guidance, objective)
    if bands is not None and problems[0].basis is not None:
        raise InputError(f"bands = {bands}: weights by band need independent modes")
    fixed = {name: values for name, values in guidance.items() if name not in free}

    if LEVELS in free and num_steps_of(levels) < 2:
        raise InputError(f"free = {LEVELS!r}: one step has no gap between noise levels")
    curve = curve_of(levels) if LEVELS in free else None
    large = len(problems) == 1 and problems[0].spectrum.shape[0] > 2 * LARGE
    large = large and problems[0].basis is None and bands is None and LEVELS not in free
    chunked = large and choice != "lm" and not divides_by_norms(sampler, one, levels, guidance)
    plain = Task(sampler, objective, weights, choice, learning_rate, chunked=chunked)
    task = plain._replace(free=free, curve=curve)

    number = partial(jnp.asarray, dtype=levels.alpha.dtype)
    max_growth = number(np.log(max_amplification))
    zero, ones = jnp.zeros_like(max_growth), basis_of(weights, levels, interpolation(levels, 1))
    # Nobody who tunes a constant looks at amplification: the baseline is not held to the limit.
    unlimited = Setting(
        stack_problems(problems),
        number(np.full(len(problems), 1 / len(problems))),
        number(scales),
        number(WORST if worst_case else 1.0),
        levels,
        fixed,
        jnp.full_like(max_growth, jnp.inf),
        zero,
        ones,
        watched=_binned(problems, WATCHED) if chunked else None,
    )
    constant, constant_loss = tuned_constant(plain, unlimited, guidance)

    shape = interpolation(levels, knots)
    setting = unlimited._replace(
        max_growth=max_growth,
        rough_price=number(smoothness * constant_loss),
        basis=basis_of(free, levels, shape, bands),
        band_knots=None if bands is None else band_knots(problems[0], bands),
    )
    stages = Stages(max_iterations, tolerance, num_starts, knots, seed, progress)
    centres = guidance, constant
    if resume is not None:
        _check_resumed(resume, setting)
        starts = fitted(setting.basis, jax.tree.map(np.asarray, resume))
    if choice == "lm":
        coarse = _single(setting._replace(problems=_binned(problems, COARSE)))
        if resume is None:
            basis = basis_of(weights, coarse.levels, shape)
            simple = coarse._replace(basis=basis, band_knots=None)
            found = stages.explore(plain, simple, _single(centres))
            starts = fitted(setting.basis, enriched(setting, found))
        if resume is not None or task != plain or bands is not None:
            starts = stages.generations(task, coarse, starts, PATIENCE)
        # The tuned constant once more: refining cannot end above it, penalties included.
        alone = stages.random_starts(task, setting, centres, 2)[1:]
        starts = np.concatenate([starts, alone])
    elif resume is None:
        starts = stages.random_starts(task, setting, centres, num_starts)
    lanes, converged = stages.refine(task, setting, number(starts))

    learned = schedule_of(task, setting, best_params(lanes))
    eta = guidance.get("eta", jnp.zeros_like(levels.alpha[1:]))
    baseline_guidance = {"heuristic": guidance, "tuned_constant": constant, "exact": {"eta": eta}}

    def one_loss(losses: list[Array]) -> float:
        return float(combined(setting, jnp.stack(losses)))

    def values(levels: NoiseLevel, guidance: Guidance) -> list[Array]:
        def on(problem: Problem) -> Guidance:
            if setting.band_knots is None:
                return guidance
            return per_mode(sampler.constraint, guidance, problem, setting.band_knots)

        return [score(sampler, one, levels, on(one), objective) for one in problems]

    losses = values(*learned)
    params = lanes.params if isinstance(lanes, Search) else lanes.best_params
    params = params[jnp.argsort(lanes.loss)]
    return LearnResult(
        guidance=learned.guidance,
        levels=learned.levels,
        band_knots=setting.band_knots,
        free=free,
        loss=one_loss(losses),
        losses=np.asarray(losses, float),
        baselines={
            "heuristic": one_loss(values(levels, guidance)),
            "tuned_constant": one_loss(values(levels, constant)),
            "exact": one_loss([exact_score(one, levels, eta, objective) for one in problems]),
        },
        baseline_guidance=baseline_guidance,
        history=np.asarray(stages.history),
        explored=np.asarray(stages.explored),
        final_losses=np.sort(np.asarray(lanes.loss)),
        converged=converged,
        interrupted=stages.interrupted,
        kept=jax.vmap(partial(unconstrained_of, setting))(params),
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


def _binned(problems: list[Problem], num: int) -> Problem:
    """All problems with at most twice `num` rows each, stacked."""
    return stack_problems(
        [
            bin_modes(problem, num)[0] if problem.spectrum.shape[0] > 2 * num else problem
            for problem in problems
        ]
    )


def _single(tree: T) -> T:
    """All arrays in single precision, which does for exploring, in less time."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _scales(problems: list[Problem], references: Sequence[float] | None) -> np.ndarray:
    """`Setting.scales`: losses relative to the references, as large as without them on average."""
    if not problems:
        raise InputError("problem: one at least is needed")
    if references is None:
        return np.ones(len(problems))
    values = np.asarray(references, float)
    if values.shape != (len(problems),) or not np.all((values > 0) & np.isfinite(values)):
        given = ", ".join(f"{value:g}" for value in values.ravel())
        raise InputError(f"references = {given}: {len(problems)} finite numbers > 0 are needed")
    return values.mean() / values


def _check_resumed(resume: Guidance, setting: Setting) -> None:
    have = {name: np.shape(u)[1:] for name, u in resume.items()}
    want = {name: basis.shape[:-1] for name, basis in setting.basis.items()}
    if have != want:
        raise InputError(f"resume: a search of {have}; this one is of {want}")


def _check_whole(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
        raise InputError(f"{name} = {value}: must be a whole number >= 1")


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
        if name not in (*sampler.constraint, LEVELS):
            raise InputError(
                f"free = {name!r}: {sampler.name} has the weights {known}; {LEVELS} may be learned"
            )
    if not set(free) - {LEVELS}:
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
