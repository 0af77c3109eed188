"""The plane of distortion and perception."""

from typing import TYPE_CHECKING

import numpy as np

from ..metrics import Tradeoff
from .base import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tradeoff_figure(best: Tradeoff, rows: dict[str, dict[str, float]], title: str) -> "Figure":
    """Root mean squared error against root perception: schedules, and the curve of the optimum.

    rows: name -> {"mse", "perception"}; names that begin with "learned, price" are joined.
    """
    figure = new_figure((7.2, 5.2))
    axes = figure.subplots()
    end = float(np.sqrt(best.its_perception))
    depth = np.linspace(0, 1.05 * end, 200)
    axes.plot(depth, np.sqrt(best.mse_at(depth**2)), "k-", linewidth=3, label="least possible")
    posterior = float(np.sqrt(2 * best.least_mse))
    axes.plot(0, posterior, "k*", markersize=12, clip_on=False, label="true posterior samples")
    priced = [name for name in rows if name.startswith("learned, price")]
    points = {name: (np.sqrt(row["perception"]), np.sqrt(row["mse"])) for name, row in rows.items()}
    if priced:
        line = np.array([points[name] for name in priced])
        label = "learned for mse + price x perception"
        axes.plot(*line.T, "-o", color=COLOURS["learned"], label=label)
        for name in {priced[0], priced[-1]}:  # those between may lie on top of each other
            price = name.rsplit(" ", 1)[1]
            axes.annotate(
                f"price {price}",
                points[name],
                xytext=(7, -12),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS["learned"],
            )
    # An unstable default would hide all others: it is named instead of drawn.
    limit = 3 * posterior
    markers = {
        "published default": ("X", COLOURS["published default"]),
        "tuned constant, W2^2": ("v", COLOURS["tuned constant"]),
        "learned, W2^2": ("s", COLOURS["exact reference"]),
    }
    for name, (marker, colour) in markers.items():
        if name in points:
            outside = points[name][1] > limit
            x, y = ([], []) if outside else points[name]
            label = name.replace("W2^2", "W2$^2$")
            label += f" (error {points[name][1]:.2g}, outside)" if outside else ""
            axes.plot(x, y, marker, color=colour, markersize=9, linestyle="none", label=label)
    shown = [y for _, y in points.values() if y <= limit] + [posterior]
    axes.set_xlim(left=0)
    axes.set_ylim(0.93 * float(np.sqrt(best.least_mse)), 1.05 * max(shown))
    axes.set_xlabel("root of perception: W2 from outputs to images, per pixel")
    axes.set_ylabel("root mean squared error, per pixel")
    axes.legend(fontsize="small")
    axes.set_title(title, fontsize=10)
    return figure
