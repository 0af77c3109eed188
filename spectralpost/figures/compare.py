"""Samplers beside each other."""

from typing import TYPE_CHECKING

from .base import COLOURS, new_figure, outside_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    for axes, steps in zip(panels, sorted(losses), strict=True):
        best = min(loss["learned"] for loss in losses[steps].values())
        # An unstable default may be off by 10^30: it is drawn at the edge, with its number.
        right = 1e4 * best
        for label, marker in markers.items():
            values = [min(losses[steps][name][label], right) for name in order]
            axes.plot(
                values,
                range(len(order)),
                marker,
                color=COLOURS[label],
                markersize=7,
                label=label,
                clip_on=False,
            )
            for row, name in enumerate(order):
                if losses[steps][name][label] > right:
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
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="y", linewidth=0.4)
        axes.set_title(f"{steps} steps")
        axes.set_xlabel("W2$^2$ per pixel to the true posterior")
    # One panel is narrower than one row.
    outside_legend(figure, ncols=2 if len(losses) == 1 else None)
    figure.suptitle(title)
    return figure
