"""What the cells of a sweep say: the best ones, medians by one axis or two. Columns are NumPy's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .batch import SCHEDULES
from .reading import Cells, Column, metrics_in

MOST = 12  # values of an axis that are told apart
BINS = 8  # of an axis with more of them, each of about as many cells
NONE = "(none)"  # of cells that do not have an option
# Axes in words; options are "std of the degradation" and the like.
WORDS = {
    "sampler": "sampler",
    "steps": "sampling steps",
    "objective": "objective that is learned for",
    "free": "weights that are learned",
    "learn_levels": "noise levels are learned",
    "degradation": "degradation",
    "prior": "prior",
    "grid": "noise levels",
    "sigma_y": "measurement noise sigma_y (std, pixels in [-1, 1])",
    "factor": "factor of the published constant",
    "max_amplification": "largest amplification allowed",
    "smoothness": "price of roughness",
}
UNITS = {
    "degradation.std": "pixels",
    "degradation.length": "pixels",
    "degradation.size": "pixels",
    "degradation.offset": "pixels",
    "degradation.angle": "degrees",
    "prior.length": "pixels",
    "prior.std": "pixels in [-1, 1]",
}
METRIC_WORDS = {
    "w2": "W2$^2$ to the true posterior, per pixel",
    "mse": "mean squared error, per pixel",
    "psnr": "PSNR (dB)",
    "perception": "perception (W2$^2$ from outputs to images), per pixel",
}
LABELS = {
    "published": "published default",
    "tuned": "tuned constant",
    "learned": "learned",
    "exact": "exact reference",
}
BETTER = 0.99  # what is less than this times the other is better than it


class Groups(NamedTuple):
    """Cells by what they have of an axis."""

    labels: tuple[str, ...]  # [n]
    codes: np.ndarray  # [N]: group of each cell
    at: np.ndarray | None  # [n], of numbers: the value, or the median in a bin; NaN without one


class Marginal(NamedTuple):
    """Cells of one group."""

    label: str
    cells: int
    medians: dict[str, float]  # by schedule
    learned_over_tuned: float  # medians of ratios
    tuned_over_published: float
    learned_pays: float  # share of cells where learned is more than 1 % better than tuned


def kind_of(metric: str) -> str:
    """w2, mse, psnr or perception."""
    return metric.split("_", 1)[1]


def higher_is_better(metric: str) -> bool:
    return kind_of(metric) == "psnr"


def schedules_of(kind: str) -> dict[str, str]:
    """Schedule -> its column of one of METRICS."""
    return {label: f"{label}_{kind}" for label in SCHEDULES}


def axis_in_words(axis: str) -> str:
    head, _, option = axis.partition(".")
    text = f"{option} of the {WORDS.get(head, head)}" if option else WORDS.get(head, head)
    return f"{text} ({UNITS[axis]})" if axis in UNITS else text


def metric_of(given: str | None, kinds: Mapping[str, str], cells: Cells) -> str:
    """The metric asked for; or W2 of the best schedules that any cell has."""
    some = [name for name in metrics_in(kinds) if np.isfinite(cells.numbers.get(name, [])).any()]
    if given is None:
        wanted = [f"{label}_w2" for label in ("learned", "tuned", "published")]
        return next((name for name in wanted if name in some), wanted[-1])
    if given not in some:
        raise InputError(f"metric = {given!r}: no cell has it; there are {', '.join(some)}")
    return given


def check_metric(given: str | None, kinds: Mapping[str, str]) -> str:
    """w2, mse, psnr or perception: what a metric is, before any cell is read."""
    if given is not None and given not in metrics_in(kinds):
        raise InputError(f"metric = {given!r}: allowed are {', '.join(metrics_in(kinds))}")
    return "w2" if given is None else kind_of(given)


def varying(cells: Cells) -> dict[str, int]:
    """The axes that vary, with their numbers of values; those with most values first.

    Options that the name says already (the only length of motion_blur) do not count.
    """
    found = {}
    for axis, (values, codes) in cells.axes.items():
        owner = cells.axes.get(axis.split(".")[0])
        if owner is None or "." not in axis:
            number = len(values)
        else:
            pairs = np.unique(owner.codes.astype(np.int64) * len(values) + codes)
            number = 1 + len(pairs) - len(owner.values)
        if number > 1:
            found[axis] = len(values) - _is_none(values[-1])
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def best(values: np.ndarray, num: int, higher: bool = False) -> np.ndarray:
    """The numbers of the best `num` of values [N], best first; those that are not finite never."""
    finite = np.flatnonzero(np.isfinite(values))
    keys = -values[finite] if higher else values[finite]
    if num < len(keys):  # not all need sorting
        some = np.flatnonzero(keys <= np.partition(keys, num - 1)[num - 1])
        finite, keys = finite[some], keys[some]
    return finite[np.argsort(keys, kind="stable")[:num]]


def best_of_each(codes: np.ndarray, values: np.ndarray, higher: bool = False) -> np.ndarray:
    """For each group that has one the number of its best finite value."""
    finite = np.flatnonzero(np.isfinite(values))
    keys = -values[finite] if higher else values[finite]
    order = finite[np.lexsort((keys, codes[finite]))]
    return order[np.unique(codes[order], return_index=True)[1]]


def in_words(value: object) -> str:
    """A value of an axis, as tables and figures have it."""
    if _is_none(value):
        return NONE
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def grouped(column: Column, most: int = MOST) -> Groups:
    """Values as they are if there are at most so many; else bins of numbers, or the commonest."""
    values, codes = column
    number = values.dtype.kind == "f"
    if len(values) - _is_none(values[-1] if len(values) else 0) <= most:
        labels = tuple(in_words(value) for value in values)
        if len(set(labels)) < len(labels):  # numbers that differ in later digits
            labels = tuple(str(value) for value in values)
        return Groups(labels, codes, values if number else None)
    if not number:
        counts = np.bincount(codes, minlength=len(values))
        common = np.sort(np.argsort(-counts, kind="stable")[: most - 1])
        rank = np.full(len(values), len(common))
        rank[common] = np.arange(len(common))
        labels = [in_words(values[i]) for i in common] + [f"{len(values) - len(common)} others"]
        return Groups(tuple(labels), rank[codes], None)
    known = values[~np.isnan(values)]
    has = codes < len(known)
    # Bins of about as many cells: edges are values, each in the bin that it begins.
    ends = np.cumsum(np.bincount(codes[has], minlength=len(known)))
    bins = np.minimum((ends - 1) * BINS // ends[-1], BINS - 1)
    used, starts, place = np.unique(bins, return_index=True, return_inverse=True)
    stops = np.append(starts[1:], len(known))
    labels, at = [], []
    for start, stop in zip(starts, stops, strict=True):
        low, high = float(known[start]), float(known[stop - 1])
        labels.append(in_words(low) + ("" if low == high else f" to {high:g}"))
        before = ends[start - 1] if start else 0
        at.append(known[np.searchsorted(ends, (before + ends[stop - 1]) / 2)])
    if len(known) < len(values):
        labels, at, place = [*labels, NONE], [*at, np.nan], np.append(place, len(used))
    return Groups(tuple(labels), place[codes], np.asarray(at))


def medians(codes: np.ndarray, num: int, values: np.ndarray) -> np.ndarray:
    """The median of values [N] in each of `num` groups; NaN are left out, and where nothing is."""
    known = ~np.isnan(values)
    codes, values = codes[known], values[known]
    order = np.argsort(values)
    small = np.int16 if num < 2**15 else np.int64  # small ones are sorted by their digits
    order = order[np.argsort(codes[order].astype(small), kind="stable")]
    counts = np.bincount(codes, minlength=num)
    starts = np.cumsum(counts) - counts
    found = np.full(num, np.nan)
    some = counts > 0
    low = values[order[starts[some] + (counts[some] - 1) // 2]]
    high = values[order[starts[some] + counts[some] // 2]]
    with np.errstate(over="ignore"):
        found[some] = np.where(low == high, low, (low + high) / 2)  # infinity is one
    return found


def table_of_medians(x: Groups, y: Groups, values: np.ndarray) -> np.ndarray:
    """Medians by two axes, [groups of y, groups of x]; NaN where there is no cell."""
    shape = len(y.labels), len(x.labels)
    flat = medians(y.codes * shape[1] + x.codes, shape[0] * shape[1], values)
    return flat.reshape(shape)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return above / below


def marginals(groups: Groups, columns: Mapping[str, np.ndarray], higher: bool) -> list[Marginal]:
    """One for each group.

    columns   schedule -> [N]; those that no cell has may be missing
    higher    decibels, higher is better: of these there are no ratios
    """
    num = len(groups.labels)
    nothing = np.full(len(groups.codes), np.nan)
    values = {label: columns.get(label, nothing) for label in SCHEDULES}
    found = {label: medians(groups.codes, num, one) for label, one in values.items()}
    learned, tuned, published = (values[label] for label in ("learned", "tuned", "published"))
    if higher:
        one = other = pays = np.full(num, np.nan)
    else:
        one = medians(groups.codes, num, ratio(learned, tuned))
        other = medians(groups.codes, num, ratio(tuned, published))
        both = np.isfinite(learned) & np.isfinite(tuned)
        counts = np.bincount(groups.codes[both], minlength=num)
        less = np.bincount(groups.codes[both & (learned < BETTER * tuned)], minlength=num)
        pays = ratio(less, counts)
    cells = np.bincount(groups.codes, minlength=num)
    return [
        Marginal(
            label,
            int(cells[i]),
            {label: float(of_label[i]) for label, of_label in found.items()},
            float(one[i]),
            float(other[i]),
            float(pays[i]),
        )
        for i, label in enumerate(groups.labels)
    ]


def counted(column: Column) -> dict[str, int]:
    """How many cells have each text, the commonest first; those without one are left out."""
    counts = np.bincount(column.codes, minlength=len(column.values))
    pairs = [(str(v), int(n)) for v, n in zip(column.values, counts, strict=True) if v is not None]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def log_spaced(values: np.ndarray) -> bool:
    """Whether numbers, in order, are rather evenly spaced in logarithms than as they are."""
    values = np.unique(values[np.isfinite(values)])
    if len(values) < 3 or values[0] <= 0 or values[-1] < 5 * values[0]:
        return False
    steps, factors = np.diff(values), np.diff(np.log(values))
    return bool(np.std(factors) / np.mean(factors) < np.std(steps) / np.mean(steps))


def _is_none(value: object) -> bool:
    return value is None or value != value
