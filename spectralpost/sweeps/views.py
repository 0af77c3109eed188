"""What figures of a sweep show: medians over all axes but those that are drawn."""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .reading import Cells, selected, take
from .summary import (
    LABELS,
    METRIC_WORDS,
    Groups,
    axis_in_words,
    grouped,
    kind_of,
    medians,
    ratio,
    schedules_of,
    table_of_medians,
)

MOST_LISTS = 100_000  # cells whose weights are looked at
MOST_PANELS = 12  # of weights


class View(NamedTuple):
    """The axes of figures; empty for none."""

    x: str = ""
    y: str = ""
    color: str = ""
    facet: str = ""


class Shown(NamedTuple):
    """What is drawn of each cell."""

    values: np.ndarray  # [N]
    words: str
    is_ratio: bool


class Weights(NamedTuple):
    """Median weights over the steps."""

    panels: dict[str, dict[str, np.ndarray]]  # weight -> value of an axis -> [S]
    axis: str
    ordered: bool  # it is one of numbers
    whole: bool  # all have the same S
    title: str


def view_of(given: View, axes: dict[str, int], known: list[str]) -> View:
    """The axes that were asked for; x and y, where they were not, have the most values.

    axes    those that vary, those with the most values first; known: all
    Raises InputError for an unknown axis, one that does not vary, or one that is named twice.
    """
    found = given._asdict()
    for key, axis in found.items():
        if axis and axis not in known:
            raise InputError(f"{key} = {axis!r}: no such axis; allowed are {', '.join(axes)}")
        if axis and axis not in axes:
            raise InputError(
                f"{key} = {axis!r}: all cells have the same; those that vary are {', '.join(axes)}"
            )
    pairs = (("x", "y"), ("x", "color"), ("x", "facet"), ("y", "facet"), ("color", "facet"))
    for one, other in pairs:
        if found[one] and found[one] == found[other]:
            raise InputError(f"{one} = {other} = {found[one]!r}: name two axes")
    for key in ("x", "y"):
        free = [axis for axis in axes if axis not in found.values()]
        found[key] = found[key] or (free[0] if free else "")
    if not found["x"]:
        raise InputError(f"x: the options leave no axis; those that vary are {', '.join(axes)}")
    return View(**found)


def shown_of(cells: Cells, metric: str, over: tuple[str, str] | None) -> Shown:
    """The metric; or the ratio of two schedules."""
    kind = kind_of(metric)
    if over is None:
        label = LABELS[metric.split("_")[0]]
        return Shown(cells.numbers[metric], f"{METRIC_WORDS[kind]}: {label}", False)
    above, below = (cells.numbers[schedules_of(kind)[label]] for label in over)
    words = f"{METRIC_WORDS[kind]}: {LABELS[over[0]]} / {LABELS[over[1]]}"
    return Shown(ratio(above, below), words, True)


def facets_of(cells: Cells, facet: str) -> dict[str, np.ndarray]:
    """Title of a panel -> its cells, a mask [N]."""
    if not facet:
        return {"": np.ones(cells.num, bool)}
    groups = grouped(cells.axes[facet])
    return {f"{facet} = {label}": groups.codes == i for i, label in enumerate(groups.labels)}


def heat_of(cells: Cells, view: View, values: np.ndarray) -> dict[str, np.ndarray]:
    """Title of a panel -> medians [groups of y, groups of x]."""
    x, y = (grouped(cells.axes[axis]) for axis in (view.x, view.y))
    return {
        title: table_of_medians(_some(x, own), _some(y, own), values[own])
        for title, own in facets_of(cells, view.facet).items()
    }


def lines_of(
    cells: Cells, view: View, columns: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Title of a panel -> label of a line -> medians [groups of x].

    columns   label -> values [N], a line each; one column if a line is a value of `view.color`
    """
    x, panels = grouped(cells.axes[view.x]), {}
    for title, own in facets_of(cells, view.facet).items():
        if view.color:
            (values,), color = columns.values(), grouped(cells.axes[view.color])
            table = table_of_medians(_some(x, own), _some(color, own), values[own])
            lines = dict(zip(color.labels, table, strict=True))
        else:
            lines = {
                label: medians(x.codes[own], len(x.labels), values[own])
                for label, values in columns.items()
            }
        panels[title] = {k: v for k, v in lines.items() if not np.isnan(v).all()}
    return panels


def median_over(cells: Cells, axes: dict[str, int], shown: tuple[str, ...]) -> str:
    """What a figure is of: said in it."""
    rest = [axis for axis in axes if axis not in shown]
    over = f"median over {', '.join(rest)}; " if rest else "median; "
    return f"{over}{cells.num} cells"


def weights_of(cells: Cells, axes: dict[str, int], axis: str) -> Weights | None:
    """How weights depend on an axis; if it is empty on the numbers that have the most values.

    Of each sampler; of the number of steps that most cells have, unless lines are of these. Weights
    that are the same in all cells are left out: None if all are.
    """
    numbers = [axis for axis in axes if cells.axes[axis].values.dtype.kind == "f"]
    wanted = [axis, *(axis for axis in numbers if axis != "steps"), *axes]
    axis = next((one for one in wanted if one and one != "sampler"), "steps")
    counts = np.bincount(cells.axes["steps"].codes)
    steps = cells.axes["steps"].values.astype(int)
    some, whole = cells, axis != "steps" or len(steps) == 1
    if whole and len(steps) > 1:
        some = selected(cells, cells.axes["steps"].codes == counts.argmax())
    of = some.num
    if of > MOST_LISTS:  # by chance: every so-manieth would have few of the values of an axis
        drawn = np.random.default_rng(0).choice(of, MOST_LISTS, replace=False)
        some = selected(some, np.sort(drawn))
    samplers, groups = grouped(some.axes["sampler"]), grouped(some.axes[axis])
    names = [name for name in cells.kinds if name.startswith("weight_")]
    panels: dict[str, dict[str, np.ndarray]] = {}
    for i, sampler in enumerate(samplers.labels):
        own = np.flatnonzero(samplers.codes == i)
        table = take(some, own, names)
        for name in names:
            lists = table[name].to_pylist()
            lines = _median_lists(lists, _some(groups, own))
            if lines and _differ([one for one in lists if one]):
                word = name.removeprefix("weight_").rstrip("_")
                panels[f"{sampler}, {word}" if len(samplers.labels) > 1 else word] = lines
    panels = dict(list(panels.items())[:MOST_PANELS])
    if not panels:
        return None
    title = f"Weights by {axis_in_words(axis)}: median of {of} cells"
    title += f" of {steps[counts.argmax()]} steps" if whole else ""
    title += f" ({MOST_LISTS} of them, drawn by chance)" if of > MOST_LISTS else ""
    return Weights(panels, axis, groups.at is not None, whole, title)


def _some(groups: Groups, own: np.ndarray) -> Groups:
    return groups._replace(codes=groups.codes[own])


def _differ(lists: list[list[float]]) -> bool:
    """Whether weights are not all the same, to rounding."""
    every = np.concatenate(lists)
    return bool(np.ptp(every) > 1e-6 * np.max(np.abs(every)))


def _median_lists(lists: list[list[float] | None], groups: Groups) -> dict[str, np.ndarray]:
    """Label of a group -> the median [S] of its lists; of the length that most of them have."""
    found = {}
    for i, label in enumerate(groups.labels):
        own = [lists[k] for k in np.flatnonzero(groups.codes == i)]
        own = [one for one in own if one]
        lengths = [len(one) for one in own]
        if own:
            length = max(set(lengths), key=lengths.count)
            found[label] = np.median([one for one in own if len(one) == length], axis=0)
    return found
