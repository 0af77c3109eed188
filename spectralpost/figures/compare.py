"""Samplers beside each other."""

from typing import TYPE_CHECKING

import numpy as np

from .base import COLOURS, new_figure, outside_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FARTHEST = 1e3  # times the worst of what is learned: a value beyond is drawn at the edge


def compare_figure(
    losses: dict[int, dict[str, dict[str, float]]],
    references: dict[int, dict[str, float]],
    title: str,
) -> "Figure":
    """One panel a number of steps, one line a sampler: its loss by schedule, best one on top.

    losses: steps -> sampler -> schedule (as in COLOURS) -> W2^2; references: steps -> name -> W2^2,
    drawn as vertical lines. All panels have the order of the last.
    """
    order = sorted(losses[max(losses)], key=lambda name: -losses[max(losses)][name]["learned"])
    figure = new_figure((1.5 + 4.2 * len(losses), 1.8 + 0.34 * len(order)))
    panels = figure.subplots(1, len(losses), squeeze=False, sharex=True, sharey=True)[0]
    markers = {"published default": "X", "tuned constant": "v", "learned": "o"}
    every = [of_one for of_steps in losses.values() for of_one in of_steps.values()]
    # An unstable default may be off by 10^30: it is drawn at the edge, with its number.
    learned = np.array([of_one["learned"] for of_one in every])
    right = FARTHEST * np.max(learned[np.isfinite(learned)], initial=np.finfo(float).tiny)
    right = min(right, 2 * np.max([value for of_one in every for value in of_one.values()]))
    for axes, steps in zip(panels, sorted(losses), strict=True):
        for label, marker in markers.items():
            values = [np.fmin(losses[steps][name][label], right) for name in order]
            axes.plot(
                values,
                range(len(order)),
                marker,
                color=COLOURS[label],
                markersize=7,
                markerfacecolor="none",  # those of one value lie on top of each other
                markeredgewidth=1.6,
                label=label,
                clip_on=False,
            )
            for row, name in enumerate(order):
                if not losses[steps][name][label] <= right:
                    axes.annotate(
                        f"{losses[steps][name][label]:.0e} \u2192",
                        (right, row),
                        (-7, 0),
                        textcoords="offset points",
                        color=COLOURS[label],
                        fontsize=7,
                        ha="right",
                        va="center",
                    )
        for line, (name, loss) in zip((":", "--"), references[steps].items(), strict=False):
            axes.axvline(loss, color=COLOURS["exact reference"], linestyle=line, label=name)
        axes.set_xscale("log")
        axes.set_xlim(right=right)
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="y", linewidth=0.4)
        axes.set_title(f"{steps} steps")
        axes.set_xlabel("W2$^2$ per pixel to the true posterior")
    # One panel is narrower than one row.
    outside_legend(figure, ncols=2 if len(losses) == 1 else None)
    figure.suptitle(title)
    return figure
