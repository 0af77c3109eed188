"""The search of `learn`: where it begins, and its stages.

explored   from random curves around the two baselines, generations on few bins; what these find
           is refined on the whole problem (`generations`, then `halved`)
few        the same starts, or of dense blocks the better ones, halved on few bins; the best of
           them is refined on the whole problem (`search_each`)
as given   schedules of an earlier search, or of another problem, or where there are no few
           bins the starts: refined on the whole problem (`halved`)
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax.typing import ArrayLike

from ..errors import InputError
from . import generations
from .generations import PATIENCE
from .guidance import unconstrain
from .halving import halved, search_each
from .loss import COARSE, Loss, is_dense
from .parameters import LEVELS, parameters_of
from .preparing import Prepared, coarse_of, default_free, first_starts
from .search import CHUNK, Search, Watch


def searched(
    prepared: Prepared, search: Search, watch: Watch, resume: Mapping[str, ArrayLike] | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """All vectors that were refined, best first, [n, P], what they cost, [n], and whether the
    search ended by itself."""
    loss, method, coarse = prepared.loss, prepared.method, coarse_of(prepared)
    given = None if resume is None else loss.parameters.fit(_checked(resume, loss))
    one = partial(jax.tree.map, lambda leaf: np.asarray(leaf)[None])
    dense = is_dense(loss.problems)  # their generations would take minutes
    explores = search.explore and method.optimizer == "lm" and not dense
    if explores:
        starts = _explored(prepared, search, watch, given)
    else:
        starts, constant = first_starts(prepared, search)
        if given is not None:
            starts = _with_constant(given, constant)
        elif coarse is not None or not search.explore:
            few = (one(loss), coarse and one(coarse), method, starts[None], constant[None])
            return search_each(*few, search, watch, CHUNK if dense else None)
    (reached,), (cost,), ended = halved(one(loss), method, starts[None], search, watch, CHUNK)
    order = np.argsort(cost, kind="stable")
    return reached[order], cost[order], ended


def _explored(
    prepared: Prepared, search: Search, watch: Watch, given: np.ndarray | None
) -> np.ndarray:
    """What generations find, from the `given` vectors if there are any, [n, P]."""
    loss, (starts, constant) = prepared.loss, first_starts(prepared, search)
    coarse = loss.on_bins(COARSE)
    plain = _plain(coarse, prepared)
    if given is not None:
        starts = given
    elif loss.parameters.weights:
        starts = loss.parameters.fit_weights(_found(plain, prepared, search, watch))
        usual = default_free(loss.parameters.sampler)
        names = tuple(name for name in loss.parameters.weights if name in usual)
        if plain is not coarse and 0 < len(names) < len(loss.parameters.weights):
            fewer = _found_with_fewer(coarse, names, prepared, search, watch)
            starts = np.concatenate([loss.parameters.fit(fewer), starts])
    if given is not None or plain is not coarse:
        starts, _ = generations.generations(coarse, starts, search, watch, PATIENCE)
    return _with_constant(starts, constant)


def _with_constant(starts: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """The tuned constant once more: refining cannot end above it, prices included."""
    return np.concatenate([starts, constant[None]])


def _found(loss: Loss, prepared: Prepared, search: Search, watch: Watch) -> dict[str, np.ndarray]:
    """Weights that exploring finds from the two baselines."""
    centres = _single(prepared.heuristic), _single(prepared.constant)
    return generations.explore(loss, centres, search, watch)


def _plain(loss: Loss, prepared: Prepared) -> Loss:
    """The loss of one weight a step on the levels as given; the same object if that is all."""
    parameters = loss.parameters
    if LEVELS not in parameters.basis and parameters.band_knots is None:
        return loss
    guidance = _single(prepared.heuristic)
    plain = parameters_of(
        parameters.sampler, parameters.levels, guidance, parameters.weights, knots=parameters.knots
    )
    return replace(loss, parameters=plain)


def _found_with_fewer(
    coarse: Loss, names: tuple[str, ...], prepared: Prepared, search: Search, watch: Watch
) -> dict[str, np.ndarray]:
    """Numbers to begin from: the weights `names` and levels learned, all other weights as given.

    On levels as given the best eta is little, on learned ones much: a search for all at once ends
    in between. By band, weights are those of one band.
    """
    parameters, given = coarse.parameters, _single(prepared.heuristic)
    sampler, levels = parameters.sampler, parameters.levels
    few = parameters_of(
        sampler,
        levels,
        given,
        names,
        learn_levels=LEVELS in parameters.basis,
        knots=parameters.knots,
    )
    loss = replace(coarse, parameters=few)
    starts = few.fit_weights(_found(_plain(loss, prepared), prepared, search, watch))
    starts, _ = generations.generations(loss, starts, search, watch, PATIENCE)
    u = few.numbers(starts)
    others = [name for name in parameters.weights if name not in names]
    rest = unconstrain(sampler.constraint, {name: given[name] for name in others})
    u |= {name: np.tile(np.asarray(one), (len(starts), 1)) for name, one in rest.items()}
    if parameters.band_knots is not None:
        bands = len(parameters.band_knots)
        u |= {name: np.repeat(u[name][:, :, None], bands, axis=2) for name in parameters.weights}
    return u


def _single(tree):
    """All arrays in single precision, which does for exploring, in less time."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


def _checked(resume: Mapping[str, ArrayLike], loss: Loss) -> dict[str, np.ndarray]:
    """Numbers to go on from; InputError if they are of another search."""
    have = {name: np.shape(u)[1:] for name, u in resume.items()}
    want = {name: basis.shape[:-1] for name, basis in loss.parameters.basis.items()}
    if have != want:
        raise InputError(f"resume: a search of {have}; this one is of {want}")
    return {name: np.asarray(u) for name, u in resume.items()}
