"""Fewer and smaller blocks, where one number is measured of each: decimation.

In the eigenvectors of the prior such a block is k pairs (variance s_j, gain a_j) with

    y = sum_j a_j x_j + noise,      x_j ~ N(0, s_j) independent,

and blocks with the same pairs, in any order and whatever the signs of a_j, are the same problem.

Of eigenvectors with equal variance only the direction a is measured. Any other direction among them
is an independent mode that is not, so a block of k modes with c different variances is one of c,
and k - c modes without a response. Similar variances are taken for equal (`bin_blocks`): a block
keeps two or three modes whatever k is. What it measures, sum a_j^2 s_j, and the variances of all
modes stay what they are; what is lost is how the variance of a group differs along what is measured
and across it.

Blocks of which more than one number is measured are compared by their variances if all have the
same eigenvectors and response, as those of a mosaic have; else they are returned as they are, and
`representative_blocks` makes a rough model of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .algebra import SMALL, reflected, reflection, reflection_matrix
from .problem import Problem, reflects
from .splitting import log_sizes, nearest_to_mean, split_worst_first

# How many bins make blocks of that many modes worth their cost. More modes of a block want more
# blocks as well: they have more in which they differ.
SIZES = {0: 2, 300: 3, 10_000: 4}
LEAST, LEAST_ALIKE = 32, 64  # blocks; of those with the same eigenvectors
UNMEASURED = 4  # one bin in so many is for modes without a response
# Digits to which numbers count as equal; those of modes, less what forming a block rounds off.
DIGITS = {np.dtype(np.float64): 11, np.dtype(np.float32): 5}


class Pairs(NamedTuple):
    """Blocks in the eigenvectors of the prior, the most measured first; in their own order, and
    without gains, where all have the same eigenvectors."""

    variance: np.ndarray  # [B, k]
    gain: np.ndarray  # [B, k], >= 0 | [B, 0]
    mean: np.ndarray  # [B, k]
    ratio: np.ndarray  # [B, k, K], of a calibration; K = 0 without one
    weight: np.ndarray  # [B]


def unique_blocks(problem: Problem) -> tuple[Problem, np.ndarray]:
    """Merge blocks of equal pairs and means; no loss of this package changes.

    Returns the smaller problem, weights added up, and the index [B] of each old block's new row.
    """
    rows = problem.spectrum.shape[0]
    pairs = pairs_of(problem)
    if pairs is None:
        return problem, np.arange(rows)
    one = 10.0 ** DIGITS[np.dtype(problem.spectrum.dtype)]
    index = np.zeros(rows, int)
    size = np.log(np.maximum(pairs.variance, np.finfo(np.float32).tiny))  # equal to some digits
    for values in (size, pairs.gain, pairs.mean, pairs.ratio.reshape(rows, -1)):
        largest = np.abs(values).max() if values.size else 0
        for column in np.rint(values / largest * one).T if largest > 0 else ():
            index = np.unique(index * rows + _rank(column), return_inverse=True)[1]
    if index.max() + 1 == rows:
        return problem, np.arange(rows)
    return problem_of(problem, _averaged(pairs, index)), index


def bin_blocks(problem: Problem, num_bins: int) -> tuple[Problem, np.ndarray]:
    """Blocks of few modes, k, that cost about as much as `num_bins` modes (approximate).

    They are num_bins / k^2, since a gain of a block has k^2 numbers; 32 at least. Blocks that keep
    their modes, since all have the same eigenvectors, are num_bins / k; 64 at least.

    Returns the smaller problem, and the index [B] of the row that what is measured of each old
    block went to.
    """
    pairs = pairs_of(problem)
    rows, k = problem.spectrum.shape
    if pairs is None or rows * k**2 <= num_bins:
        return problem, np.arange(rows)
    if not pairs.gain.size:
        return _binned_alike(problem, pairs, max(num_bins // k, LEAST_ALIKE))
    size = [size for least, size in SIZES.items() if least <= num_bins][-1]
    size = min(size, pairs.gain.shape[1])
    num_bins = max(num_bins // size**2, LEAST)
    small, rest = _grouped(pairs, size, float(problem.sigma_y))
    unmeasured = num_bins // UNMEASURED if rest.weight.size else 0
    kept = max(num_bins - unmeasured, 1)
    index = np.arange(rows)
    if rows > kept:
        noise = float(problem.sigma_y)
        magnitude = np.log(np.maximum(small.variance, small.variance.max() * 1e-12))
        above = 2 * np.arcsinh(10 * small.gain / noise)
        share = _share(small, small.gain**2 * small.variance, noise)
        features = np.concatenate([magnitude, above], axis=1).T
        index = split_worst_first(features, share, kept)
        small = _averaged(small, index)
    if unmeasured:
        small = _joined(small, _unmeasured_blocks(rest, unmeasured, small.gain.shape[1]))
    return problem_of(problem, small), index


def representative_blocks(problem: Problem, num: int) -> Problem:
    """At most `num` of the blocks [B, k], each for all that have similar variances and response: a
    rough model of blocks of any kind, to search on first. Blocks of weight 0 are left out.

    One of a group stands for it, not the average: of masks, or of blocks that are each other's
    mirror images, that is none. It has the variance of the group.
    """
    if len(problem.spectrum) <= num:
        return problem
    weight = np.asarray(problem.weight, float)
    rows = np.flatnonzero(weight > 0)
    weight = weight[rows]
    spectrum, response = (
        np.asarray(one, float)[rows] for one in (problem.spectrum, problem.response)
    )
    features = np.append(log_sizes(spectrum), [np.mean(response**2, axis=1)], axis=0)
    variance = weight * spectrum.sum(axis=1)
    share = variance / variance.sum() + weight / weight.sum()
    group = split_worst_first(features, share, num)
    place = nearest_to_mean(features, share, group)
    of_group = np.bincount(group, weight)
    have = of_group * np.maximum(spectrum[place].sum(axis=1), np.finfo(float).tiny)
    alike = jax.tree.map(lambda leaf: leaf[rows[place]] if np.ndim(leaf) else leaf, problem)
    scale = np.bincount(group, variance) / have
    dtype = problem.spectrum.dtype
    return alike._replace(
        spectrum=alike.spectrum * scale[:, None].astype(dtype), weight=of_group.astype(dtype)
    )


def pairs_of(problem: Problem) -> Pairs | None:
    """The blocks of a problem, or None if more than one number is measured of any, and they do not
    have the same eigenvectors and response."""
    response, basis = np.asarray(problem.response, float), np.asarray(problem.basis, float)
    rows = np.arange(len(response))
    if np.count_nonzero(response, axis=1).max() > 1:
        if not (np.all(response == response[0]) and np.all(basis == basis[0])):
            return None
        variance, calibration = np.asarray(problem.spectrum, float), problem.calibration
        ratio = np.zeros((*variance.shape, 0)) if calibration is None else calibration.ratio
        mean = np.asarray(problem.mean, float) @ basis[0]
        weight = np.asarray(problem.weight, float)
        return Pairs(variance, variance[:, :0], mean, np.asarray(ratio, float), weight)
    mean = np.asarray(problem.mean, float)
    if reflects(problem):
        gain, mean = reflected(basis, response), reflected(basis, mean)
    else:
        place = np.argmax(response, axis=1)
        gain = response[rows, place][:, None] * basis[rows, place]
        mean = np.einsum("bij,bi->bj", basis, mean)
    sign = np.where(gain < 0, -1.0, 1.0)
    mean = mean * sign
    variance, gain = np.asarray(problem.spectrum, float), np.abs(gain)
    calibration = problem.calibration
    ratio = np.zeros((*variance.shape, 0)) if calibration is None else calibration.ratio
    # Digits that rounding made must not decide about the order.
    digits = np.rint(gain / max(gain.max(), np.finfo(float).tiny) * 1e9)
    order = np.lexsort((-variance, -digits), axis=-1)
    sorted_ = lambda one: np.take_along_axis(one, order, axis=1)  # noqa: E731
    ratio = np.take_along_axis(np.asarray(ratio, float), order[..., None], axis=1)
    weight = np.asarray(problem.weight, float)
    return Pairs(sorted_(variance), sorted_(gain), sorted_(mean), ratio, weight)


def problem_of(like: Problem, pairs: Pairs) -> Problem:
    """The problem of these blocks, with sigma_y, dtype and calibration as those of another."""
    if pairs.gain.size:
        basis = reflection(pairs.gain)
        mean = reflected(basis, pairs.mean)
        if basis.shape[1] <= SMALL:  # products of small matrices are as fast
            basis = reflection_matrix(basis)
        response = np.zeros_like(pairs.gain)
        response[:, 0] = np.linalg.norm(pairs.gain, axis=1)
    else:
        rows = len(pairs.variance)
        assert like.basis is not None
        basis, response = (
            np.repeat(np.asarray(one[:1], float), rows, 0) for one in (like.basis, like.response)
        )
        mean = pairs.mean @ basis[0].T
    number = lambda one: jnp.asarray(one, like.spectrum.dtype)  # noqa: E731
    calibration = like.calibration
    return like._replace(
        spectrum=number(pairs.variance),
        response=number(response),
        basis=number(basis),
        mean=number(mean),
        weight=number(pairs.weight),
        calibration=calibration and calibration._replace(ratio=number(pairs.ratio)),
    )


def _binned_alike(problem: Problem, pairs: Pairs, num: int) -> tuple[Problem, np.ndarray]:
    """Of blocks with the same eigenvectors: `num`, by their variances."""
    if len(pairs.variance) <= num:
        return problem, np.arange(len(pairs.variance))
    features = np.log(np.maximum(pairs.variance, pairs.variance.max() * 1e-12)).T
    h2, shares = (
        np.asarray(problem.response, float)[0] ** 2,
        np.asarray(problem.basis, float)[0] ** 2,
    )
    signal = h2 * (pairs.variance @ shares.T)
    index = split_worst_first(features, _share(pairs, signal, float(problem.sigma_y)), num)
    return problem_of(problem, _averaged(pairs, index)), index


def _share(pairs: Pairs, signal: np.ndarray, noise: float) -> np.ndarray:
    """How much blocks count, [B], by what is measured well of them, of which `signal` [B, k] is the
    variance, and by how large they are: a sampler may blow up the one of the mean grey value, which
    is none of many that are measured well."""
    heard = pairs.weight * (signal / (signal + noise**2) + 1e-3).sum(axis=1)
    large = pairs.weight * pairs.variance.sum(axis=1)
    return heard / heard.sum() + large / large.sum()


def _rank(column: np.ndarray) -> np.ndarray:
    return np.unique(column, return_inverse=True)[1]


def _averaged(pairs: Pairs, index: np.ndarray) -> Pairs:
    """One block per value of index: weights add up, a^2 and the rest are weighted means.

    Means of different blocks enter losses by their squares.
    """
    weight = np.bincount(index, pairs.weight)

    def average(values: np.ndarray) -> np.ndarray:
        found = np.empty((len(weight), *values.shape[1:]))
        for place in np.ndindex(values.shape[1:]):
            found[:, *place] = np.bincount(index, pairs.weight * values[:, *place]) / weight
        return found

    sign = np.where(average(pairs.mean) < 0, -1, 1)
    return Pairs(
        average(pairs.variance),
        np.sqrt(average(pairs.gain**2)),
        sign * np.sqrt(average(pairs.mean**2)),
        average(pairs.ratio),
        weight,
    )


def _grouped(pairs: Pairs, size: int, noise: float) -> tuple[Pairs, Pairs]:
    """Blocks of `size` modes, and the modes without a response that are left, as blocks of one.

    Neighbours in the order of gain are put together, those first where it changes least. With gains
    a, b and variances s, r the part across what is measured of both is correlated with it by
    a b (s - r) / (a^2 + b^2), so a measurement of noise n tells of its variance
    a^2 b^2 / (a^2 + b^2) (s - r)^2 / (a^2 s + b^2 r + n^2): that is what is no longer known.
    """
    rows, k = pairs.gain.shape
    power, variance, tiny = pairs.gain**2, pairs.variance, np.finfo(float).tiny
    ends = np.ones((rows, k), bool)  # whether a group ends with this mode
    p, ps = power.copy(), power * variance  # of the group that ends here, where one does
    each = np.arange(rows)
    for _ in range(k - size):
        column = np.nonzero(ends)[1].reshape(rows, -1)
        gained, signal = np.take_along_axis(p, column, 1), np.take_along_axis(ps, column, 1)
        s = signal / np.maximum(gained, tiny)
        first, second = slice(None, -1), slice(1, None)
        both = gained[:, first] + gained[:, second]
        shared = gained[:, first] * gained[:, second] / np.maximum(both, tiny)
        heard = signal[:, first] + signal[:, second] + noise**2
        best = np.argmin(shared * (s[:, second] - s[:, first]) ** 2 / heard, axis=1)
        one, other = column[each, best], column[each, best + 1]
        p[each, other] += p[each, one]
        ps[each, other] += ps[each, one]
        ends[each, one] = False
    group = np.cumsum(ends, axis=1) - ends  # of each mode, from 0
    place = (each[:, None] * size + group).ravel()

    def added(values: np.ndarray) -> np.ndarray:
        """Sums over groups: [B, k] -> [B, size]."""
        return np.bincount(place, values.ravel(), rows * size).reshape(rows, size)

    members, total = added(np.ones_like(power)), added(power)
    # A mode's share of the direction of its group that is measured; all alike where none is.
    of_group = np.take_along_axis(total, group, 1)
    alike = 1 / np.take_along_axis(members, group, 1)
    share = np.where(of_group > 0, power / np.maximum(of_group, tiny), alike)
    ratio = np.empty((rows, size, pairs.ratio.shape[-1]))
    for level in range(ratio.shape[-1]):
        ratio[..., level] = added(share * pairs.ratio[..., level])
    mean = added(np.sqrt(share) * pairs.mean)
    small = Pairs(added(share * variance), np.sqrt(total), mean, ratio, pairs.weight)
    left = (pairs.weight[:, None] * (1 - share)).ravel()
    some = left > 1e-12 * pairs.weight.max()
    nothing = np.zeros((np.count_nonzero(some), 1))
    ratios = pairs.ratio.reshape(rows * k, 1, -1)[some]
    return small, Pairs(variance.ravel()[some, None], nothing, nothing, ratios, left[some])


def _unmeasured_blocks(rest: Pairs, num: int, size: int) -> Pairs:
    """Modes without a response, in `num` bins by variance; each a block of `size` equal ones."""
    features = np.log(np.maximum(rest.variance, rest.variance.max() * 1e-12)).T
    share = rest.weight * np.sqrt(rest.variance[:, 0]) + np.finfo(float).eps
    binned = _averaged(rest, split_worst_first(features, share / share.sum(), num))
    repeat = lambda one: np.repeat(one, size, axis=1)  # noqa: E731
    return Pairs(*map(repeat, binned[:-1]), weight=binned.weight / size)


def _joined(one: Pairs, other: Pairs) -> Pairs:
    return Pairs(*(np.concatenate(parts) for parts in zip(one, other, strict=True)))
