"""From the arguments of `learn` to a loss, a method and the two schedules it begins from."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import floating
from ..denoiser_use import differentiates_denoiser
from ..errors import InputError
from ..kept_jit import kept_jit
from ..metrics import wasserstein2
from ..noise import NoiseLevel, check_levels, num_steps_of
from ..objectives import Objective, check_objective, is_average, residuals_of
from ..problem import Problem
from ..samplers.base import Guidance, Sampler, check_guidance, check_kinds
from ..transfer import check_arguments, divides_by_norms, in_chunks, trajectory
from .baselines import heuristic, tuned_constant
from .generations import random_starts
from .gradient import CHUNK as LARGE
from .guidance import names_of
from .lanes import Method, losses_of
from .loss import Loss, Prices, Several, binned, is_dense, loss_of, with_scales
from .parameters import LEVELS, Freedom, parameters_of
from .search import LEAST_SQUARES, Search

WATCHED = 400  # modes whose amplification is watched where there are very many
# In blocks that are dense a search costs much, a loss little. Starts whose loss is looked at, of up
# to so many modes; how many of these are searched on few blocks; how many where there are no more.
TRIED, MODERATE = 128, 64
EXPLORED, SEARCHED = 16, 2


class Prepared(NamedTuple):
    """The loss of a search, and where it begins."""

    loss: Loss
    given: Loss  # the same of the problems that were given, without prices
    method: Method
    heuristic: Guidance  # the schedule that was given, or the published default
    constant: Guidance  # the tuned constant


def prepare(
    sampler: Sampler,
    problems: Sequence[Problem],
    levels: NoiseLevel,
    guidance: Guidance | None = None,
    free: tuple[str, ...] | None = None,
    *,
    objective: Objective = wasserstein2,
    freedom: Freedom = Freedom(),
    prices: Prices = Prices(),
    several: Several = Several(),
    search: Search = Search(),
    tune: bool = True,
) -> Prepared:
    """What `learn` minimises with the same arguments, and the two schedules it begins from.

    tune   False: without the tuned constant, for who finds many at once and adds them by `tuned`
    """
    check_levels(levels)
    if not problems:
        raise InputError("problem: one at least is needed")
    for problem in problems:
        check_arguments(sampler, problem, guidance)
    check_objective(objective)
    prices.check()
    free = default_free(sampler) if free is None else names_of(free)
    check_free(sampler, free, freedom.levels)
    given = heuristic(sampler, problems[0], levels) if guidance is None else guidance
    (given,) = floating(given, dtype=levels.alpha.dtype)
    check_guidance(sampler, levels, given)
    method = _method(search, sampler, problems[0], objective)
    freedom = freedom.checked(levels, problems)

    rows, blocks = problems[0].spectrum.shape[0], problems[0].basis is not None
    everything, together = with_scales(problems, several, prices.scales)
    plain = len(everything) == 1 and freedom.bands is None and not freedom.levels and not blocks
    chunked = plain and rows > 2 * LARGE and method.optimizer != "lm"
    chunked = chunked and is_average(objective) and not sampler.memory
    chunked = chunked and in_chunks(sampler, problems[0])
    # Nobody who tunes a constant looks at amplification or scales: the baseline is free of them.
    unlimited = loss_of(
        parameters_of(sampler, levels, given, free, knots=1),
        problems,
        objective,
        several=several,
        weak_modes=prices.weak_modes,
        watched=binned(problems, WATCHED) if chunked else None,
    )
    parameters = parameters_of(
        sampler,
        levels,
        given,
        free,
        learn_levels=freedom.levels,
        held=freedom.held,
        knots=freedom.knots,
        bands=freedom.bands,
        problem=problems[0],
    )
    number = partial(np.asarray, dtype=levels.alpha.dtype)
    loss = unlimited
    if prices.scales:
        loss = loss_of(
            unlimited.parameters,
            everything,
            objective,
            several=together,
            weak_modes=prices.weak_modes,
        )
    limit = np.full(num_steps_of(levels), np.log(prices.max_amplification))
    loss = replace(
        loss,
        parameters=parameters,
        max_growth=number(limit),
        rough_price=number(prices.smoothness),
        spectrum_scale=number(np.repeat([1.0, *prices.scales], len(problems))),
    )
    prepared = Prepared(loss, unlimited, method, given, given)
    if not tune:
        return prepared
    constant, constant_loss = tuned_constant(unlimited, given)
    growth = None
    # What is usual on the problem itself says nothing of other scales, where a constant need not
    # work; one that only mixes cannot fail there either.
    if not differentiates_denoiser(sampler) and (not prices.scales or only_mixes(sampler)):
        judged = loss if prices.scales else unlimited
        growth = np.asarray(usual_growth(judged, given, constant))
    return tuned(prepared, constant, constant_loss, growth)


def only_mixes(sampler: Sampler) -> bool:
    """Whether all weights are shares, between 0 and 1, so that none can be too large for a network:
    what is amplified is what the sampler overwrites, as DDRM known pixels of an image that is
    smooth yet. Tried on the network with DDRM and ILVR."""
    kinds = sampler.constraint.values()
    return bool(kinds) and all(kind == "unit" for kind in kinds)


def constant_of(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...] | None = None,
) -> Guidance:
    """The tuned constant of a problem, whose arguments are those of `learn`."""
    prepared = prepare(sampler, [problem], levels, guidance, free, tune=False)
    return tuned_constant(prepared.given, prepared.heuristic)[0]


def tuned(
    prepared: Prepared, constant: Guidance, constant_loss: float, growth: np.ndarray | None
) -> Prepared:
    """With the tuned constant and its loss, which prices are relative to; and, where there is one,
    `usual_growth`, within which the sampler may be at any rate."""
    loss, number = prepared.loss, partial(np.asarray, dtype=prepared.loss.max_growth.dtype)
    # The constant need not work at other scales: as though it were as good there.
    relative = float(loss.scales[0] / prepared.given.scales[0])
    price = loss.rough_price * (constant_loss if np.isfinite(constant_loss) else 1.0) * relative
    limit = loss.max_growth
    if growth is not None:
        limit = np.fmax(limit, np.where(np.isfinite(growth), growth, limit))
    loss = replace(loss, max_growth=number(limit), rough_price=number(price))
    return prepared._replace(loss=loss, constant=constant)


@kept_jit
def usual_growth(loss: Loss, published: Guidance, constant: Guidance) -> Array:
    """Log amplification before each step of the worst of all problems, [S]: what the published
    default and the tuned constant both do."""
    parameters = loss.parameters

    def one(guidance: Guidance, problem: Problem, spectrum_scale: Array) -> Array:
        leeway = loss.leeway(problem, spectrum_scale)
        run = trajectory(parameters.sampler, problem, parameters.levels, guidance, leeway)
        return run.amplification

    growths = [
        jnp.max(jax.vmap(partial(one, guidance))(loss.problems, loss.spectrum_scale), axis=0)
        for guidance in (published, constant)
    ]
    return jnp.log(jnp.minimum(*growths))


def first_starts(prepared: Prepared, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """The starts of a search, [n, P], and the tuned constant as a vector, [P]."""
    loss, num = prepared.loss, search.starts
    dense, coarse = is_dense(loss.problems), coarse_of(prepared)
    moderate = dense and loss.problems.spectrum.shape[-1] <= MODERATE
    centres = prepared.heuristic, prepared.constant
    starts = random_starts(loss, centres, TRIED if moderate else max(num, 2), search.seed)
    constant = starts[1]
    if moderate:
        # Nobody who tunes a constant looks at the prices: at 25 times the spectrum both baselines
        # may be hopeless.
        judge = loss if coarse is None else coarse
        losses = losses_of(judge, starts.astype(judge.parameters.levels.alpha.dtype))
        starts = starts[np.argsort(np.asarray(losses), kind="stable")]
    if dense:
        num = min(num, SEARCHED if coarse is None else EXPLORED)
    return starts[:num], constant


def coarse_of(prepared: Prepared) -> Loss | None:
    """Where a search by least squares had better begin: see `Loss.coarse`."""
    return prepared.loss.coarse if prepared.method.optimizer == "lm" else None


def default_free(sampler: Sampler) -> tuple[str, ...]:
    """The weights that `learn` learns if not told: all but eta, or eta if that is all there is.

    >>> sp.default_free(sampler)
    ('zeta',)
    """
    check_kinds(sampler, None)
    return tuple(name for name in sampler.constraint if name != "eta") or tuple(sampler.constraint)


def _method(
    search: Search,
    sampler: Sampler,
    problem: Problem,
    objective: Objective,
) -> Method:
    """What "auto" stands for; InputError if "lm" is asked for and does not apply."""
    if search.optimizer in ("lbfgs", "adam"):
        return Method(search.optimizer, search.learning_rate)
    applies = residuals_of(objective) is not None and not divides_by_norms(sampler, problem)
    if search.optimizer == "lm" and not applies:
        raise InputError(
            "optimizer = 'lm': needs a sum of squares (the averaged W2, mse, perception), a "
            "sampler without norms; allowed here are lbfgs, adam"
        )
    return LEAST_SQUARES if applies else Method("lbfgs", 0.0)


def check_free(sampler: Sampler, free: tuple[str, ...], levels: bool = False) -> None:
    """InputError unless these are weights of the sampler, each once, and one at least, or noise
    levels are learned."""
    known = ", ".join(sampler.constraint)
    for name in free:
        if name == LEVELS:
            raise InputError(
                f"free = {name!r}: noise levels are learned by freedom=Freedom(levels=True)"
            )
        if name not in sampler.constraint:
            raise InputError(f"free = {name!r}: {sampler.name} has the weights {known}")
    if not (free or levels):
        raise InputError(f"free: name one weight at least; {sampler.name} has {known}")
    if len(set(free)) < len(free):
        raise InputError(f"free = {', '.join(free)}: names a weight twice")
