"""`spectralpost sweep-report`: what a sweep has found, in tables and figures."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from .. import figures
from ..errors import InputError
from ..sweep_options import SweepReport
from ..sweeps.dataset import manifest_of
from ..sweeps.reading import Cells, axes_in, grids_of, num_cells_of, read_cells, selected
from ..sweeps.summary import (
    LABELS,
    METRIC_WORDS,
    Marginal,
    axis_in_words,
    best,
    check_metric,
    counted,
    grouped,
    higher_is_better,
    in_words,
    kind_of,
    log_spaced,
    marginals,
    metric_of,
    schedules_of,
    varying,
)
from ..sweeps.views import (
    View,
    Weights,
    heat_of,
    lines_of,
    median_over,
    shown_of,
    view_of,
    weights_of,
)
from .console import Say, console, print_whole, quiet

MOST_REASONS = 10


class Best(NamedTuple):
    """A cell: what it has of the axes that vary, and its metrics by schedule."""

    axes: dict[str, str]
    metrics: dict[str, float]


class Result(NamedTuple):
    """What there is to say of the selected cells."""

    status: tuple[str, ...]  # lines
    reasons: dict[str, int]  # why cells failed
    metric: str
    cells: Cells  # selected, and ended well
    axes: dict[str, int]  # that vary: how many values
    best: tuple[Best, ...]
    marginals: dict[str, list[Marginal]]  # axis -> groups
    view: View | None  # of the figures
    ratio: tuple[str, str] | None  # schedules
    weights: Weights | None
    notes: tuple[str, ...]


def default_folder(options: SweepReport) -> Path:
    return options.sweep / "report"


def compute(options: SweepReport, say: Say = quiet) -> Result:
    """Read what is there of a sweep, and sum it up."""
    if options.best < 0:
        raise InputError(f"best = {options.best}: must be >= 0")
    kinds = manifest_of(options.sweep)["columns"]
    kind = check_metric(options.metric, kinds)
    over = _ratio_of(options.ratio, kind)
    of, exact = num_cells_of(grids_of(options.sweep))
    columns = list(schedules_of(kind).values())
    every, chosen = read_cells(options.sweep, columns, options.where, say)
    good, done = every.good, every.num
    status = [
        f"{done} of {'' if exact else 'at most '}{of} cells are done, {done - good.sum()} failed"
    ]
    if done and not chosen.any():
        raise InputError(f"where = {' '.join(options.where)}: none of {done} cells is so")
    if options.where:
        status.append(f"{chosen.sum()} of them where {', '.join(options.where)}")
    say("summing up")
    cells = selected(every, chosen & good)
    reasons = counted(selected(every, chosen & ~good).error)
    del every
    metric, axes = options.metric or "learned_w2", varying(cells)
    have = _by_schedule(cells, kind)
    if missing := [label for label in over or () if label not in have]:
        raise InputError(
            f"ratio = {options.ratio!r}: no cell has {missing[0]}; there are {', '.join(have)}"
        )
    if cells.num:
        metric = metric_of(options.metric, kinds, cells)
    view = None
    if axes:
        words = ", ".join(f"{axis} ({number} values)" for axis, number in axes.items())
        status.append(f"axes that vary: {words}")
        given = (getattr(options, key) or "" for key in View._fields)
        view = view_of(View(*given), axes, axes_in(kinds))
    return Result(
        tuple(status),
        reasons,
        metric,
        cells,
        axes,
        _best_of(cells, metric, list(axes), options.best),
        {
            axis: marginals(
                grouped(cells.axes[axis]), _by_schedule(cells, kind), higher_is_better(metric)
            )
            for axis in axes
        },
        view,
        over,
        weights_of(cells, axes, options.color or options.x or "") if axes else None,
        () if axes else ("nothing varies among the cells: there are no figures",),
    )


def write(result: Result, folder: Path) -> None:
    """Heat map, lines and weights, as far as there is something to draw."""
    cells, view, axes = result.cells, result.view, result.axes
    if view is None:
        return
    shown = shown_of(cells, result.metric, result.ratio)
    log = not higher_is_better(result.metric)
    x = _axis(cells, view.x)
    if view.y:
        title = median_over(cells, axes, (view.x, view.y, view.facet))
        drawn = figures.Drawn(shown.words, title, log, shown.is_ratio)
        panels = heat_of(cells, view, shown.values)
        figure = figures.heat_map_figure(panels, x, _axis(cells, view.y), drawn)
        figures.save_figure(figure, folder / "heat_map.png")
    columns, legend, ordered = {shown.words: shown.values}, "", False
    words = shown.words
    if view.color:
        legend = axis_in_words(view.color)
        ordered = _axis(cells, view.color).at is not None
    elif result.ratio is None:
        kind = kind_of(result.metric)
        of = _by_schedule(cells, kind)
        columns = {LABELS[label]: values for label, values in of.items()}
        words = METRIC_WORDS[kind]
    title = median_over(cells, axes, (view.x, view.color, view.facet))
    drawn = figures.Drawn(words, title, log, shown.is_ratio)
    lines = lines_of(cells, view, columns)
    figure = figures.sweep_lines_figure(lines, x, legend, ordered, drawn)
    figures.save_figure(figure, folder / "lines.png")
    if result.weights is not None:
        panels, axis, ordered, whole, title = result.weights
        figure = figures.sweep_weights_figure(panels, axis_in_words(axis), ordered, whole, title)
        figures.save_figure(figure, folder / "weights.png")


def present(result: Result) -> None:
    for line in result.status:
        console.print(line, soft_wrap=True)
    reasons = list(result.reasons.items())
    for reason, number in reasons[:MOST_REASONS]:
        console.print(f"  {number} failed: {reason}", soft_wrap=True)
    if len(reasons) > MOST_REASONS:
        rest = sum(number for _, number in reasons[MOST_REASONS:])
        console.print(f"  {rest} failed for {len(reasons) - MOST_REASONS} other reasons")
    if result.best:
        table = _best_table(result)
        schedules = range(len(result.axes), len(table.columns) - 1)
        print_whole(table, schedules)
    if result.marginals:
        print_whole(_marginal_table(result))


def _ratio_of(given: str | None, kind: str) -> tuple[str, str] | None:
    """The schedules of a ratio such as learned/tuned."""
    if given is None:
        return None
    one, _, other = given.partition("/")
    if not {one, other} <= set(LABELS):
        raise InputError(f"ratio = {given!r}: one/other is needed, of {', '.join(LABELS)}")
    if kind == "psnr":
        raise InputError(f"ratio = {given!r}: PSNR is in dB, of which there are no ratios")
    return one, other


def _by_schedule(cells: Cells, kind: str) -> dict[str, np.ndarray]:
    """A metric by schedule, [N], of those that any cell has."""
    found = {label: cells.numbers[column] for label, column in schedules_of(kind).items()}
    return {label: values for label, values in found.items() if not np.isnan(values).all()}


def _best_of(cells: Cells, metric: str, axes: list[str], num: int) -> tuple[Best, ...]:
    found, by_schedule = [], _by_schedule(cells, kind_of(metric))
    for i in best(cells.numbers[metric], num, higher_is_better(metric)):
        columns = {axis: cells.axes[axis] for axis in axes}
        words = {axis: in_words(one.values[one.codes[i]]) for axis, one in columns.items()}
        found.append(Best(words, {k: float(v[i]) for k, v in by_schedule.items()}))
    return tuple(found)


def _axis(cells: Cells, name: str) -> figures.Axis:
    groups = grouped(cells.axes[name])
    log = groups.at is not None and log_spaced(groups.at)
    return figures.Axis(axis_in_words(name), groups.labels, groups.at, log)


# ----------------------------------------------------------------------------------------- tables


def _best_table(result: Result) -> Table:
    table = Table(title=f"Best cells by {result.metric}")
    for axis in result.axes:
        table.add_column(axis)
    for label in result.best[0].metrics:
        table.add_column(label, justify="right", no_wrap=True)
    for row in result.best:
        numbers = (_number(value, result.metric) for value in row.metrics.values())
        table.add_row(*row.axes.values(), *numbers)
    return table


def _marginal_table(result: Result) -> Table:
    kind = kind_of(result.metric)
    labels = list(_by_schedule(result.cells, kind))
    ratios = kind != "psnr" and {"tuned", "published"} <= set(labels)
    learned = ratios and "learned" in labels
    caption = "medians"
    if learned:
        caption += "; l/t, t/p: of the ratios learned/tuned, tuned/published; pays: cells where "
        caption += "learned is more than 1 % better than tuned, elsewhere a constant suffices"
    table = Table(title=f"{kind} by axis", caption=caption)
    for name in ("axis", "value"):
        table.add_column(name)
    for name in ("cells", *labels, *(["l/t"] if learned else []), *(["t/p"] if ratios else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if learned:
        table.add_column("pays", justify="right", no_wrap=True)
    for axis, groups in result.marginals.items():
        for i, row in enumerate(groups):
            numbers = [_number(row.medians[label], result.metric) for label in labels]
            if learned:
                numbers.append(f"{row.learned_over_tuned:.3f}")
            if ratios:
                numbers.append(f"{row.tuned_over_published:.3f}")
            if learned:
                pays = row.learned_pays
                numbers.append("" if math.isnan(pays) else f"{100 * pays:.0f} %")
            table.add_row("" if i else axis, row.label, str(row.cells), *numbers)
        table.add_section()
    return table


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if higher_is_better(metric) else f"{value:.4g}"
