"""The plane of distortion and perception."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import Tradeoff
from .base import COLOURS, SKY, new_figure, outside_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = dict[str, dict[str, float]]  # schedule -> {"mse", "perception"}
X_NAME = "root of perception: W2 from outputs to images, per pixel"
Y_NAME = "root mean squared error, per pixel"
PRICED = "learned for mse + price x perception"
MARKERS = {
    "published default": ("X", COLOURS["published default"]),
    "tuned constant, W2^2": ("v", COLOURS["tuned constant"]),
    "learned, W2^2": ("s", COLOURS["learned"]),
    "exact score": ("D", COLOURS["exact reference"]),
}
PER_ROW = 4


def tradeoff_figure(best: Tradeoff, rows: Rows, title: str) -> "Figure":
    """Root mean squared error against root perception: schedules, and the curve of the optimum.

    Names that begin with "learned, price" are joined.
    """
    figure = new_figure((7.2, 5.2))
    axes = figure.subplots()
    # An unstable default would hide all others: it is named instead of drawn.
    highest = 3 * _of_posterior(best)
    outside = _draw_plane(axes, best, rows, highest, markerfacecolor="none")
    priced = [name for name in rows if name.startswith("learned, price")]
    points = _points(rows)
    # The two ends: those between may lie on top of each other. Names go away from each other too.
    ends = sorted({*priced[:1], *priced[-1:]}, key=lambda name: points[name][0])
    for i, name in enumerate(ends):
        left = i == 0 and len(ends) > 1
        axes.annotate(
            f"price {name.rsplit(' ', 1)[1]}",
            points[name],
            xytext=(-7, 5) if left else (7, -12),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )
    shown = [y for _, y in points.values() if y <= highest] + [_of_posterior(best)]
    axes.set_xlim(left=0)
    axes.set_ylim(_lowest(best), 1.05 * max(shown))
    axes.set_xlabel(X_NAME)
    axes.set_ylabel(Y_NAME)
    far = [name for name in outside if name.startswith("price ")]
    for line in axes.get_lines():
        if beyond := outside.get(str(line.get_label())):
            line.set_label(f"{line.get_label()} (error {beyond[1]:.2g}, outside)")
        elif far and line.get_label() == PRICED:
            line.set_label(f"{PRICED} ({', '.join(far)} outside)")
    axes.legend(fontsize="small")
    axes.set_title(title, fontsize=10)
    return figure


def tradeoffs_figure(
    best: Tradeoff, panels: dict[str, Rows], title: str, highest: float = 1.1, widest: float = 0.8
) -> "Figure":
    """A plane for each of several samplers, panels all alike, with one legend.

    highest, widest   the ends of the axes, as multiples of the true posterior's error and of the
                      posterior mean's perception; what is beyond is said in its panel
    """
    deep = -(-len(panels) // PER_ROW)
    columns = min(PER_ROW, len(panels))
    in_row = 2 if columns < 3 else 4  # of the legend
    figure = new_figure((max(2.9 * columns, 5.8), 2.5 * deep + 4 / in_row))
    every = figure.subplots(deep, columns, squeeze=False, sharex=True, sharey=True).ravel()
    top, right = highest * _of_posterior(best), widest * float(np.sqrt(best.its_perception))
    for axes, (name, rows) in zip(every, panels.items(), strict=False):
        outside = _draw_plane(axes, best, rows, top, right, markersize=7, markerfacecolor="none")
        words = [f"{label} at ({x:.2g}, {y:.2g})" for label, (x, y) in outside.items()]
        axes.text(
            0.97, 0.96, "\n".join(words), ha="right", va="top", fontsize=8, transform=axes.transAxes
        )
        axes.set_title(name, fontsize=10)
        axes.grid(linewidth=0.4)
    for axes in every[len(panels) :]:
        axes.remove()
    for axes in every[: len(panels)][-columns:]:
        axes.tick_params(labelbottom=True)
    every[0].set(xlim=(-0.03 * right, right), ylim=(_lowest(best), top))
    outside_legend(figure, "upper center", ncols=in_row, fontsize=9)
    figure.supxlabel(X_NAME, fontsize=10)
    figure.supylabel(Y_NAME, fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_plane(
    axes: "Axes",
    best: Tradeoff,
    rows: Rows,
    highest: float,
    widest: float = np.inf,
    markersize: float = 9,
    **style: Any,
) -> dict[str, tuple[float, float]]:
    """The optimum and schedules; those that are beyond the ends, by label.

    style: of the markers.
    """
    end = 1.05 * float(np.sqrt(best.its_perception)) if np.isinf(widest) else widest
    depth = np.linspace(0, end, 200)
    axes.plot(depth, np.sqrt(best.mse_at(depth**2)), "k-", linewidth=3, label="least possible")
    posterior, words = _of_posterior(best), "true posterior samples"
    axes.plot(0, posterior, "k*", markersize=12, clip_on=False, label=words, linestyle="none")
    points, outside = _points(rows), {}
    priced = [name for name in rows if name.startswith("learned, price")]
    if priced:
        line = np.array([points[name] for name in priced])
        size = 2 * markersize / 3
        axes.plot(*line.T, "-o", color=SKY, markersize=size, label=PRICED)
        outside |= {
            name.removeprefix("learned, "): points[name]
            for name, (x, y) in zip(priced, line, strict=True)
            if not (y <= highest and x <= widest)
        }
    for name, (marker, colour) in MARKERS.items():
        if name in points:
            x, y = points[name]
            label = name.replace("W2^2", "W2$^2$")
            if not (y <= highest and x <= widest):
                outside[label] = points[name]
                x, y = [], []
            style |= {"linestyle": "none", "markersize": markersize}
            axes.plot(x, y, marker, color=colour, label=label, markeredgewidth=1.6, **style)
    return outside


def _points(rows: Rows) -> dict[str, tuple[float, float]]:
    return {name: (np.sqrt(row["perception"]), np.sqrt(row["mse"])) for name, row in rows.items()}


def _of_posterior(best: Tradeoff) -> float:
    """The root mean squared error of its samples."""
    return float(np.sqrt(2 * best.least_mse))


def _lowest(best: Tradeoff) -> float:
    return 0.93 * float(np.sqrt(best.least_mse))
