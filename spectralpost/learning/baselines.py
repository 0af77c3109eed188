"""What a learned schedule is held against: published default, best constant, exact score."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import is_concrete, is_real
from ..chunks import average_of_chunks, num_chunks
from ..errors import InputError
from ..kept_jit import kept_jit
from ..merging import unique_modes
from ..metrics import wasserstein2
from ..noise import NoiseLevel, check_levels, num_steps_of
from ..objectives import Objective, check_objective, is_average
from ..problem import Problem
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import exact
from ..transfer import check_arguments, checked, in_chunks, sampler_transfer
from .guidance import names_of
from .lanes import FEW, best_of_each
from .levenberg_marquardt import finite
from .loss import Loss, is_dense
from .parameters import schedule_of
from .zoom import NEAR, look_everywhere, zoom

EVERYWHERE = np.log(1e4)  # how far logs of constants are from those of the published ones at most
# On few bins: a kind of constant so much worse is not the best on the whole problem. Few blocks are
# off by 10 %, which may decide between the two.
WORSE = 1.2
# Modes times steps up to which few bins do not pay: here they save 0.4 CPU s, and one more program
# takes 2 to 3 to compile.
SOON = 100_000
PLATEAU = 256  # factors either way


def evaluate(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    objective: Objective = wasserstein2,
) -> Array:
    """The objective of one schedule: levels [S + 1], guidance leaves [S] or by mode [S, F].

    Of large blocks the equal ones count as one, and for the metrics of this package that are
    averages memory does not grow with their number. Raises InputError as `sampler_transfer`.

    >>> round(float(sp.evaluate(sampler, problem, levels, guidance)), 4)
    0.2056
    >>> error = sp.evaluate(sampler, problem, levels, guidance, sp.mse)
    >>> round(float(sp.psnr(error)), 1)  # dB
    12.3
    """
    check_objective(objective)
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    return _evaluate(sampler, _once(problem, objective), levels, guidance, objective)


def evaluate_exact(
    problem: Problem, levels: NoiseLevel, eta: Array, objective: Objective = wasserstein2
) -> Array:
    """The objective of the exact conditional denoiser in DDIM(eta), eta [S]. Raises InputError as
    `sampler_transfer`.

    >>> round(float(sp.evaluate_exact(problem, levels, guidance["eta"])), 4)
    0.0699
    """
    problem, levels, guidance = checked(exact(problem), problem, levels, {"eta": eta})
    return _evaluate(None, _once(problem, objective), levels, guidance, objective)


def _once(problem: Problem, objective: Objective) -> Problem:
    """Equal blocks as one, where blocks are many."""
    many = num_chunks(problem) > 1 and is_average(objective) and is_concrete(problem)
    return unique_modes(problem)[0] if many else problem


@partial(kept_jit, static_argnames=("sampler", "objective"))
def _evaluate(
    sampler: Sampler | None,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    objective: Objective,
) -> Array:
    """`evaluate`, without a sampler `evaluate_exact`."""

    def of(problem: Problem) -> Array:
        by = exact(problem) if sampler is None else sampler
        return objective(problem, sampler_transfer(by, problem, levels, guidance))

    num = num_chunks(problem, sampler.memory if sampler else 0) if is_average(objective) else 1
    if sampler is not None and not in_chunks(sampler, problem):
        num = 1
    return average_of_chunks(of, problem, num)


def heuristic(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0
) -> Guidance:
    """`Sampler.heuristic`, compiled: the published default, its constant times factor, [S].
    Raises InputError for what is no grid, and a factor that is not finite or below 0.

    >>> {name: weights.shape for name, weights in sp.heuristic(sampler, problem, levels).items()}
    {'eta': (3,), 'zeta': (3,)}
    """
    check_arguments(sampler, problem, None)
    check_levels(levels)
    if is_concrete(factor):
        values = np.asarray(factor)
        if not (
            is_real(values.dtype) and values.size and 0 <= values.min() <= values.max() < np.inf
        ):
            raise InputError(f"factor = {factor}: must be >= 0 and finite")
    return _heuristic(sampler, problem, levels, factor)


@partial(kept_jit, static_argnames="sampler")
def _heuristic(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, factor: float | Array
) -> Guidance:
    return sampler.heuristic(problem, levels, factor)


def plateau(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    within: float = 0.03,
    names: Sequence[str] | None = None,
) -> tuple[float, float]:
    """By what factors the weights may be multiplied at most: (low, high) around 1 between which
    averaged W2^2 stays within `within` of what it is, in steps of 2.7 %, 1/1000 to 1000.

    names: of weights >= 0 (default: all of these that are not 0)

    How flat an optimum is, and how near to where the sampler oscillates. Searches for DPS on a
    network of others ended at the weak end, by LPIPS; on the network of this package the least W2^2
    is best, by energy score (docs/real_networks.md). Weak is small, but for `lambda_` of DiffPIR,
    which is large then. Raises InputError for within <= 0, names of other
    weights, and a schedule that diverges; and as `sampler_transfer`.

    >>> constant = sp.learn(sampler, problem, levels).baseline_guidance["tuned_constant"]
    >>> low, high = sp.plateau(sampler, problem, levels, constant)
    >>> round(low, 2), round(high, 2)
    (0.76, 1.18)
    """
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    if not within > 0:
        raise InputError(f"within = {within}: must be > 0")
    scalable = [name for name, kind in sampler.constraint.items() if kind == "nonnegative"]
    chosen = tuple(scalable) if names is None else names_of(names)
    if not chosen or any(name not in scalable for name in chosen):
        have = ", ".join(scalable) or "none"
        raise InputError(f"names = {', '.join(chosen) or 'none'}: weights >= 0 of it are {have}")
    factors = np.exp(np.linspace(-1, 1, 2 * PLATEAU + 1) * np.log(1e3))
    factors = factors.astype(problem.spectrum.dtype)
    losses = np.asarray(_of_factors(sampler, problem, levels, guidance, factors, chosen))
    if not np.isfinite(losses[PLATEAU]):
        raise InputError(f"guidance: {sampler.name} diverges with it on this problem")
    off = np.flatnonzero(~(losses <= (1 + within) * losses[PLATEAU]))
    low = int(np.max(off[off < PLATEAU], initial=-1)) + 1
    high = int(np.min(off[off > PLATEAU], initial=len(factors))) - 1
    return float(factors[low]), float(factors[high])


@partial(kept_jit, static_argnames=("sampler", "names"))
def _of_factors(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    factors: Array,
    names: tuple[str, ...],
) -> Array:
    def one(factor: Array) -> Array:
        scaled = {name: factor * guidance[name] for name in names}
        return evaluate(sampler, problem, levels, guidance | scaled)

    return jax.lax.map(one, factors, batch_size=FEW)


def tuned_constant(loss: Loss, given: Guidance) -> tuple[Guidance, float]:
    """The best schedule that one number per weight can give, and its loss.

    Either constant weights, or the published default with its own constant changed, whichever is
    better: a published constant may stand for weights that are not (`Sampler.heuristic`). `loss`
    has one parameter per weight; the weights that stay are those of `given`. Without free weights
    that is all there is.
    """
    if not loss.parameters.weights:
        return given, float(jax.jit(Loss.of_guidance)(loss, given))
    parameters, problems = loss.parameters, loss.problems
    soon = problems.spectrum.size * num_steps_of(parameters.levels) <= SOON
    coarse = None if soon and not is_dense(problems) else loss.coarse
    one = partial(jax.tree.map, lambda leaf: np.asarray(leaf)[None])
    found, least = _best_of_each(one(loss), one(given), None if coarse is None else one(coarse))
    logs, log_factor, take = (part[0] for part in found)
    if not np.isfinite(least[0]):
        name = parameters.sampler.name
        raise InputError(f"no constant weight of {name} has a finite loss on this problem")
    if take:
        return schedule_of(parameters, logs).guidance, float(least[0])
    return _published(loss, float(np.exp(log_factor)), given), float(least[0])


def tuned_constants(
    losses: Loss, given: Guidance, coarse: Loss | None
) -> tuple[Guidance, np.ndarray]:
    """`tuned_constant` of many losses side by side: leaves [N, ...] of all and of what is found.

    coarse: the same on few bins (`Loss.coarse`), where it is looked for everywhere; then near what
    is found there. A loss that is nowhere finite is infinite here, and its schedule none.
    """
    found, least = _best_of_each(losses, given, coarse)
    return _schedules(losses, given, *found), least


def _best_of_each(
    losses: Loss, given: Guidance, coarse: Loss | None
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """What `_chosen` makes the best schedules of: logs [N, weights], log_factors and take, [N]; and
    their losses, [N]."""
    cells, dtype = len(losses.power), losses.parameters.levels.alpha.dtype
    weights = len(losses.parameters.weights)
    everywhere = np.full(cells, EVERYWHERE)

    def constants_at(losses: Loss, logs: np.ndarray) -> Array:
        return _losses_of_each(losses, given, logs, np.zeros_like(logs[..., 0]), True)

    def factors_at(losses: Loss, logs: np.ndarray) -> Array:
        ones = np.zeros((*logs.shape[:2], weights), logs.dtype)
        return _losses_of_each(losses, given, ones, logs[..., 0], False)

    # Constant weights, and factors of the published constant: losses of the logarithms of these.
    kinds = (constants_at, np.zeros((cells, weights))), (factors_at, np.zeros((cells, 1)))
    if coarse is None:
        found = [
            look_everywhere(partial(at, losses), dtype, ones, everywhere) for at, ones in kinds
        ]
    else:
        few = [
            look_everywhere(partial(at, coarse), np.float32, ones, everywhere) for at, ones in kinds
        ]
        least_of_few = np.minimum(*(value.min(axis=1) for _, value in few))
        found = []
        for (at, ones), (centres, value) in zip(kinds, few, strict=True):
            reach = np.where(value.min(axis=1) > WORSE * least_of_few, 0, NEAR)
            best, least = zoom(partial(at, losses), dtype, centres, reach, FEW)
            # Nowhere finite, or at the edge of where it was looked for: few bins have led astray.
            far = np.any(np.abs(best - centres) > 0.9 * NEAR, axis=2) | ~np.isfinite(least)
            astray = np.take_along_axis(far, least.argmin(axis=1)[:, None], 1)[:, 0] & (reach > 0)
            if astray.any():
                reach = np.where(astray, EVERYWHERE, 0)
                again = look_everywhere(partial(at, losses), dtype, ones, reach)
                best = np.where(astray[:, None, None], again[0], best)
                least = np.where(astray[:, None], again[1], least)
            found.append((best, least))
    (constants, least), (log_factors, least_published) = (best_of_each(*one) for one in found)
    take = least <= least_published
    logs = constants.astype(dtype), log_factors[:, 0].astype(dtype)
    return (*logs, take), np.where(take, least, least_published)


@kept_jit
def _losses_of_each(
    losses: Loss, given: Guidance, logs: Array, log_factors: Array, take: Array
) -> Array:
    """Losses [N, num] of `_chosen` schedules: logs [N, num, weights], log_factors [N, num]. Both
    kinds in one program: each compiles for as long as a short search runs."""
    given = jax.tree.map(lambda leaf: leaf.astype(logs.dtype), given)

    def of_cell(loss: Loss, given: Guidance, *candidates: Array) -> Array:
        def one(candidate: tuple[Array, Array]) -> Array:
            return loss.of_guidance(_chosen(loss, given, *candidate, take))

        return finite(jax.lax.map(one, candidates, batch_size=FEW))

    return jax.vmap(of_cell)(losses, given, logs, log_factors)


@kept_jit
def _schedules(
    losses: Loss, given: Guidance, logs: Array, log_factors: Array, take: Array
) -> Guidance:
    return jax.vmap(_chosen)(losses, given, logs, log_factors, take)


def _chosen(loss: Loss, given: Guidance, logs: Array, log_factor: Array, take: Array) -> Guidance:
    """The constants that logs stand for where they are to be taken, else the published default
    times exp(log_factor)."""
    flat = loss.parameters.schedule(logs).guidance
    published = _published(loss, jnp.exp(log_factor), given)
    return {name: jnp.where(take, flat[name], published[name]) for name in flat}


def _published(loss: Loss, factor: float | Array, given: Guidance) -> Guidance:
    """The published default, its constant times factor, in the free weights, the others as given.

    Of several problems that of the first.
    """
    parameters = loss.parameters
    problem = jax.tree.map(lambda leaf: leaf[0], loss.problems)
    default = heuristic(parameters.sampler, problem, parameters.levels, factor)
    return given | {name: default[name] for name in parameters.weights}
