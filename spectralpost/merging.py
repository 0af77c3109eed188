"""Fewer modes: equal ones merged, similar ones binned; problems stacked and padded."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .algebra import floating, namespace
from .errors import InputError, check_whole
from .merging_blocks import bin_blocks, unique_blocks
from .problem import Problem, basis_matrix, reflects
from .splitting import split_worst_first

# Which modes have a row of their own in `bin_modes`: of each factor exp(1/2) of the spectrum the
# one that responds most, if its 2 asinh(10 h / sigma_y) is so far above its row's (h^2 by 1 %: what
# is just stable by the row grows sevenfold in 100 steps). At most one row in 16 is for these.
PER_LOG, HIDDEN, FOR_HIDDEN = 2, 0.01, 16


def unique_modes(problem: Problem) -> tuple[Problem, np.ndarray]:
    """Merge modes with equal spectrum, response and calibration; no loss of this package changes.

    Returns the smaller problem, weights added up, and the index [F] of each old mode's new row.
    A symmetric image problem loses most of its modes: f and -f always coincide, and all of equal
    |f| where prior and blur are isotropic. Means enter all losses by their squares, so a merged row
    carries their root mean square. Equal means: to 12 digits of spectrum and of the largest
    response in float64, to 5 in float32. Blocks: see `merging_blocks`.

    >>> smaller, row = sp.unique_modes(sp.image_problem(prior, blur, sigma_y=0.1))
    >>> smaller.spectrum.shape, int(smaller.weight.sum()), row.shape
    ((15,), 64, (64,))
    """
    problem = _of_floats(problem)
    if problem.basis is not None:
        return unique_blocks(problem)
    rows = problem.spectrum.shape[0]
    one = 10.0 ** (12 if problem.spectrum.dtype == jnp.float64 else 5)
    spectrum, response = np.asarray(problem.spectrum, float), np.asarray(problem.response, float)
    with np.errstate(divide="ignore"):
        exponent = np.where(spectrum > 0, np.floor(np.log10(spectrum)), 0)
    # Exponent and digits (up to 10 * one) in one whole number, below 2^53. Numbers are sorted
    # many times faster than rows of numbers.
    spectra = exponent * (20 * one) + np.rint(spectrum / 10.0**exponent * one)
    responses = np.rint(response / max(response.max(), np.finfo(float).tiny) * one)
    rank = lambda keys: np.unique(keys, return_inverse=True)[1]  # noqa: E731
    index = rank(rank(spectra) * rows + rank(responses))
    if problem.calibration is not None:
        for ratios in np.rint(np.asarray(problem.calibration.ratio, float).T * one):
            index = rank(index * rows + rank(ratios))
    return _merge(problem, index), index


# Variances near the end of the number range may overflow: so do their losses, which says it.
@np.errstate(over="ignore", invalid="ignore")
def bin_modes(problem: Problem, num_bins: int) -> tuple[Problem, np.ndarray]:
    """Merge modes with similar (spectrum, response) into at most `num_bins` rows (approximate).

    Modes of similar log spectrum and similar 2 asinh(10 h / sigma_y) share a row: a response
    matters by how far it is above the noise. (Of pixels in another range the rows may be others.)
    The cell and direction with the largest sum of squares, each mode weighted by its share of the
    signal, is split at its mean first. What is unstable is so where the response is large, however
    little the signal: the mode of largest response among those of similar spectrum has a row of its
    own, unless its row is much like it. Compare a loss on both problems to
    know the error (`benchmarks/binning.py`). Returns the smaller problem and the index [F] of each
    old mode's new row. Blocks become smaller as well: see `merging_blocks`.

    >>> sp.bin_modes(problem, 5)[0].spectrum.shape
    (5,)
    """
    num_bins, problem = check_whole("bins", num_bins), _of_floats(problem)
    if problem.basis is not None:
        return bin_blocks(problem, num_bins)
    rows = problem.spectrum.shape[0]
    if rows <= num_bins:
        return problem, np.arange(rows)
    spectrum, response = np.asarray(problem.spectrum, float), np.asarray(problem.response, float)
    floor = max(spectrum.max() * 1e-12, np.finfo(float).tiny)
    above_noise = np.arcsinh(10 * response / float(problem.sigma_y))
    features = np.stack([np.log(np.maximum(spectrum, floor)), 2 * above_noise])
    share = np.asarray(problem.weight, float) * np.maximum(spectrum, floor)
    share = share / share.sum() + np.finfo(float).eps
    index = split_worst_first(features, share, num_bins)
    hidden = _hidden(features, np.asarray(problem.weight, float), index)
    hidden = hidden[: num_bins // FOR_HIDDEN]
    if hidden.size:
        index = split_worst_first(features, share, num_bins - hidden.size)
        index[hidden] = num_bins + np.arange(hidden.size)
        index = np.unique(index, return_inverse=True)[1]  # some rows may have had no other
    return _merge(problem, index), index


def _hidden(features: np.ndarray, weight: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The modes that respond most among those of similar spectrum, and more than their row `index`:
    the most hidden ones first."""
    log_spectrum, above_noise = features
    similar = np.floor(PER_LOG * log_spectrum)
    order = np.lexsort((above_noise, similar))
    most = order[np.append(np.diff(similar[order]) > 0, True)]
    total = np.bincount(index, weight)
    row = np.bincount(index, weight * above_noise) / np.maximum(total, np.finfo(float).tiny)
    more = np.where(weight[most] > 0, above_noise[most] - row[index[most]], 0)
    first = np.argsort(-more, kind="stable")
    return most[first][more[first] > HIDDEN]


def stack_problems(problems: Sequence[Problem]) -> Problem:
    """Problems side by side, leaves [K, ...]; the shorter ones are filled up with rows of weight 0.

    Raises InputError for a mixture of blocks and independent modes, or blocks of two sizes.
    """
    if len({(p.basis is None, p.spectrum.shape[1:]) for p in problems}) != 1:
        raise InputError("problems: all or none must have blocks, and these of one size")
    if len({reflects(p) for p in problems}) > 1:
        problems = [p._replace(basis=basis_matrix(p)) for p in problems]
    if len({p.calibration is None for p in problems}) != 1:
        raise InputError("problems: all or none must be calibrated")
    rows = max(problem.spectrum.shape[0] for problem in problems)
    filled = [pad_modes(problem, rows) for problem in problems]
    xp = namespace(filled[0].spectrum)
    return jax.tree.map(lambda *leaves: xp.stack(leaves), *filled)


def pad_modes(problem: Problem, rows: int) -> Problem:
    """The same problem in `rows` rows: the last one repeated with weight 0, so no loss changes.

    Raises InputError if the problem has more.
    """
    missing = rows - problem.spectrum.shape[0]
    if missing < 0:
        raise InputError(f"rows = {rows}: the problem has {problem.spectrum.shape[0]}")
    if missing == 0:
        return problem
    xp = namespace(problem.spectrum)

    def fill(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        return xp.concatenate([leaf, xp.repeat(leaf[-1:], missing, axis=0)])

    weight = xp.pad(problem.weight, (0, missing))
    return jax.tree.map(fill, problem)._replace(weight=weight)


def _of_floats(problem: Problem) -> Problem:
    """Means of whole numbers are none."""
    if jnp.issubdtype(problem.spectrum.dtype, jnp.floating):
        return problem
    return floating(problem)[0]


def _merge(problem: Problem, index: np.ndarray) -> Problem:
    """One row per value of index: weights add up, the rest are weighted means."""
    weight = np.asarray(problem.weight, float)
    total = np.bincount(index, weight)

    def average(values: ArrayLike) -> np.ndarray:
        return np.bincount(index, weight * np.asarray(values, float)) / total

    dtype, calibration = problem.spectrum.dtype, problem.calibration
    xp = namespace(problem.spectrum)
    if calibration is not None:
        ratios = [xp.asarray(average(column), dtype) for column in calibration.ratio.T]
        calibration = calibration._replace(ratio=xp.stack(ratios, axis=1))
    return problem._replace(
        spectrum=xp.asarray(average(problem.spectrum), dtype),
        response=xp.asarray(average(problem.response), dtype),
        mean=xp.asarray(np.sqrt(average(np.asarray(problem.mean) ** 2)), dtype),
        weight=xp.asarray(total, dtype),
        calibration=calibration,
    )
