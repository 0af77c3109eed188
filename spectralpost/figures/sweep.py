"""What a sweep has found: heat maps, lines over an axis, weights over the steps."""

from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .base import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

HUES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "os^vDPX"
MOST_NUMBERS = 600  # cells of a heat map that has numbers in them
FARTHEST = 1e4  # an unstable default may be off by 10^30: so many times the least is the end
PER_ROW = 4  # panels


class Axis(NamedTuple):
    """An axis of a figure."""

    name: str  # in words, with its unit
    labels: tuple[str, ...]  # of its values
    at: np.ndarray | None = None  # where they are, if they are numbers
    log: bool = False


class Drawn(NamedTuple):
    """What is drawn of cells."""

    words: str
    title: str
    log: bool  # a metric that is a size; else decibels
    is_ratio: bool  # 1 is the same


def heat_map_figure(panels: dict[str, np.ndarray], x: Axis, y: Axis, drawn: Drawn) -> "Figure":
    """Panels [values of y, values of x] in one scale; NaN where there is nothing."""
    width = min(max(0.62 * len(x.labels) + 1.0, 3.4), 9)
    height = min(max(0.42 * len(y.labels) + 1.0, 2.6), 7)
    figure, grid = _grid(len(panels), width, height, drawn.title)
    norm, ends = _scale(np.concatenate([one.ravel() for one in panels.values()]), drawn)
    image = None
    for axes, (name, values) in zip(grid, panels.items(), strict=True):
        # What is infinite is beyond the end of the scale.
        shown = np.ma.masked_array(np.nan_to_num(values, posinf=1e300), np.isnan(values))
        image = axes.imshow(
            shown, origin="lower", aspect="auto", cmap=_colours(drawn.is_ratio), norm=norm
        )
        # Hatched: grey alone is in the middle of the scale.
        axes.set_facecolor("white")
        axes.patch.set(hatch="////", edgecolor="0.6", linewidth=0)
        axes.set_title(name, fontsize=10)
        _name_values(
            axes, x, y if axes in _left(grid) else y._replace(labels=("",) * len(y.labels))
        )
        if values.size * len(panels) <= MOST_NUMBERS:
            _write_numbers(axes, values, image, drawn)
    _name_axes(figure, grid, x.name, y.name)
    assert image is not None
    bar = figure.colorbar(image, ax=list(grid), extend=ends)
    bar.set_label(fill(drawn.words + "; hatched: no cells", int(13 * height)))
    low, high = (float(end) for end in norm.inverse(np.asarray([0.0, 1.0])))
    if drawn.is_ratio:
        _ticks_of_ratios(bar.ax.yaxis, high)
        # 1 is white whatever there is; of the scale only what the cells need is shown.
        found = np.concatenate([one[np.isfinite(one)] for one in panels.values()])
        if found.size and ends == "neither":
            low, high = min(float(found.min()), 1.0), max(float(found.max()), 1.0)
            if low < high:  # else all are 1
                bar.ax.set_ylim(low, high)
    elif drawn.log:
        _plain_ticks(bar.ax.yaxis, np.asarray([low, high]))
    return figure


def sweep_lines_figure(
    panels: dict[str, dict[str, np.ndarray]], x: Axis, lines: str, ordered: bool, drawn: Drawn
) -> "Figure":
    """Panels of lines [values of x]: of schedules (names in COLOURS), or of values of an axis.

    lines     what lines are of, in words
    ordered   they are of numbers: colours say which are larger
    """
    figure, grid = _grid(len(panels), 5.4 if len(panels) == 1 else 3.6, 3.6, drawn.title, True)
    names = list(dict.fromkeys(name for one in panels.values() for name in one))
    styles = _styles(names, ordered)
    at = np.arange(len(x.labels)) if x.at is None else x.at
    for axes, (name, of_panel) in zip(grid, panels.items(), strict=True):
        for label, values in of_panel.items():
            known = np.isfinite(values) & np.isfinite(at)
            # Texts have no order: nothing is between them.
            style: Any = styles[label] | ({} if x.at is not None else {"linestyle": "none"})
            axes.plot(at[known], values[known], label=label, **style)
        axes.set_title(name, fontsize=10)
        axes.grid(linewidth=0.4)
        if x.at is None:
            _name_values(axes, x)
        elif x.log:
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, at[np.isfinite(at)], 7 if len(grid) == 1 else 5)
        if drawn.is_ratio:
            axes.axhline(1, color="black", linewidth=1, zorder=0)
    _limit(grid, np.concatenate([v for one in panels.values() for v in one.values()]), drawn)
    _name_axes(figure, grid, x.name, drawn.words)
    _legend(figure, grid, lines)
    return figure


def sweep_weights_figure(
    panels: dict[str, dict[str, np.ndarray]], lines: str, ordered: bool, whole: bool, title: str
) -> "Figure":
    """Panels, one a weight, of lines [S] over the steps, one for each value of an axis.

    whole   all have the same S; else steps are shown as shares of the way
    """
    figure, grid = _grid(len(panels), 5.4 if len(panels) == 1 else 3.8, 3.4, title)
    names = list(dict.fromkeys(name for one in panels.values() for name in one))
    styles = _styles(names, ordered)
    for axes, (name, of_panel) in zip(grid, panels.items(), strict=True):
        for label, weights in of_panel.items():
            steps = np.arange(1, len(weights) + 1)
            at = steps if whole else (steps - 0.5) / len(weights)
            style: Any = styles[label] | {"markersize": 3}
            axes.plot(at, weights, label=label, **style)
        every = np.concatenate(list(of_panel.values()))
        if every.min() > 0 and every.max() > 5 * every.min():
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis, every)
        elif every.min() >= 0 and np.ptp(every) < 0.01 * every.max():
            axes.set_ylim(0, 1.5 * every.max())  # hardly a difference: it should not look like one
        if whole:
            axes.locator_params(axis="x", integer=True)
        axes.set_title(name, fontsize=10)
        axes.grid(linewidth=0.4)
    along = "step (1: noise)" if whole else "share of the steps (0: noise, 1: image)"
    _name_axes(figure, grid, along, "weight, median of the cells")
    _legend(figure, grid, lines)
    return figure


# -------------------------------------------------------------------------------------- shared


def _grid(
    num: int, width: float, height: float, title: str, shared: bool = False
) -> tuple["Figure", list["Axes"]]:
    """A figure of so many panels, each about so large in inches, row by row."""
    columns = min(num, PER_ROW)
    rows = -(-num // columns)
    size = max(width * columns + 2.2, 7.2), height * rows + 1.2
    figure = new_figure(size)
    every = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for axes in every[num:]:
        axes.remove()
    if shared and rows > 1:
        for axes in every[:num]:
            axes.tick_params(labelbottom=True)
    figure.suptitle(fill(title, int(13 * size[0])), fontsize=10)
    return figure, list(every[:num])


def _left(grid: list["Axes"]) -> list["Axes"]:
    return grid[::PER_ROW]


def _lowest(grid: list["Axes"]) -> list["Axes"]:
    """Those that have nothing below them."""
    return grid[-PER_ROW:]


def _name_axes(figure: "Figure", grid: list["Axes"], x: str, y: str) -> None:
    """Names at the left and below, in lines that are no longer than a panel."""
    width, height = figure.get_size_inches()
    wide = int(11 * (width - 2) / min(len(grid), PER_ROW))
    high = int(11 * (height - 1) / -(-len(grid) // PER_ROW))
    for axes in _left(grid):
        axes.set_ylabel(fill(y, high))
    for axes in _lowest(grid):
        axes.set_xlabel(fill(x, wide))


def _scale(values: np.ndarray, drawn: Drawn) -> tuple["Normalize", str]:
    """Colours for values, and at which ends of the scale some are beyond it."""
    from matplotlib.colors import LogNorm, Normalize

    finite = values[np.isfinite(values) & ((values > 0) | (not drawn.log))]
    if not len(finite):
        return Normalize(0, 1), "neither"
    low, high = float(finite.min()), float(finite.max())
    if drawn.is_ratio:  # 1 in the middle, of logarithms
        far = min(max(high, 1 / low, 1.01), 100.0)
        ends = (low < 1 / far * (1 - 1e-9), max(high, _largest(values)) > far * (1 + 1e-9))
        words = {(False, False): "neither", (True, False): "min", (False, True): "max"}
        return LogNorm(1 / far, far), words.get(ends, "both")
    if not drawn.log:
        return Normalize(low, high if high > low else low + 1), "neither"
    end = min(high, FARTHEST * low)
    beyond = _largest(values) > end
    if end <= 3 * low:
        return Normalize(low, end if end > low else low * 1.01), "max" if beyond else "neither"
    return LogNorm(low, end), "max" if beyond else "neither"


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(values))


def _colours(is_ratio: bool) -> Any:
    """Blue to red with white for 1; else from dark to light, in order for all kinds of vision."""
    from matplotlib import colormaps

    return colormaps["RdBu_r" if is_ratio else "cividis"].copy()


def _name_values(axes: "Axes", x: Axis, y: Axis | None = None) -> None:
    panel = axes.get_window_extent().width / 100 - 0.5  # inches, nearly
    long = 11 * panel < (max(map(len, x.labels)) + 2) * len(x.labels)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(x.labels)), x.labels, fontsize=8, **turned)
    if y is not None:
        axes.set_yticks(range(len(y.labels)), y.labels, fontsize=8)


def _write_numbers(axes: "Axes", values: np.ndarray, image: Any, drawn: Drawn) -> None:
    digits = 3 if np.nanmax(np.abs(values - 1)) < 0.1 else 2
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(min(value, 1e300)))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        colour = "white" if dark else "black"
        text = f"{value:.{digits}f}" if drawn.is_ratio and value < 100 else f"{value:.2g}"
        text = text if drawn.log else f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _styles(names: list[str], ordered: bool) -> dict[str, dict[str, Any]]:
    from matplotlib import colormaps

    if set(names) <= set(COLOURS):
        return {
            name: {
                "color": COLOURS[name],
                "linestyle": LINES[name],
                "marker": MARKERS[list(COLOURS).index(name)],
                "markersize": 4,
            }
            for name in names
        }
    if ordered:
        shades = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
        styles: dict[str, dict[str, Any]] = {
            name: {"color": shade, "marker": "o", "markersize": 4}
            for name, shade in zip(names, shades, strict=True)
        }
        return styles
    number = len(HUES)
    return {
        name: {
            "color": HUES[i % number],
            "linestyle": "-" if i < number else "--",
            "marker": MARKERS[i % number],
            "markersize": 4,
        }
        for i, name in enumerate(names)
    }


def _limit(grid: list["Axes"], values: np.ndarray, drawn: Drawn) -> None:
    """Logarithmic where that is needed, and without what is beyond all measure."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    low, high = float(finite.min()), float(finite.max())
    if (drawn.log or drawn.is_ratio) and low > 0 and high > 5 * low:
        grid[0].set_yscale("log")
        for axes in grid[1:]:
            axes.set_yscale("log")
        if high <= FARTHEST * low:
            _plain_ticks(grid[0].yaxis, finite)
        elif not drawn.is_ratio:
            grid[0].set_ylim(low / 2, FARTHEST * low)


def _plain_ticks(axis: Any, values: np.ndarray, most: int = 7) -> None:
    """Numbers such as 0.02 along a logarithmic axis, few enough to be read; between them ticks
    without numbers, by which the axis is seen to be logarithmic."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    low, high = float(values.min()), float(values.max())
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        tens = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
        ticks = [f * 10.0**ten for ten in tens for f in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:
        ticks = list(np.unique(values))[:: max(1, len(np.unique(values)) // 5)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _ticks_of_ratios(axis: Any, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    half = np.geomspace(1, high, 4)[1:]
    axis.set_major_locator(FixedLocator([*(1 / half[::-1]), 1.0, *half]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _legend(figure: "Figure", grid: list["Axes"], title: str) -> None:
    """Beside all panels, so that it hides nothing; an entry for each of several lines."""
    place: Any = "outside center right"
    found = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) < 2:  # the axis says what it is
        return
    figure.legend(
        found.values(),
        [fill(label, 26) for label in found],
        loc=place,
        title=fill(title, 26),
        fontsize=9,
        title_fontsize=9,
    )
