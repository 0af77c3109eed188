"""A learned schedule, and what it does to each frequency."""

from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array

from ..affine import Transfer
from ..algebra import diagonal
from ..learning import LearnResult
from ..metrics import output_cov
from ..noise import NoiseLevel, log_snr, step_pairs
from ..problem import Problem, gain_along_prior, ideal_posterior
from ..samplers.base import Guidance
from .base import COLOURS, LABELS, LINES, frequency_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 1e-6  # of a weight on a logarithmic axis
HARDLY = 1e-3  # sensitivity of a weight that hardly matters
ROUNDED = 1e-6  # cycles per pixel: that of a block's constant component is 0 up to rounding


def report_figure(
    problem: Problem,
    f: np.ndarray,
    levels: NoiseLevel,
    result: LearnResult,
    transfers: dict[str, Transfer],
    title: str,
    objective: str = "W2$^2$ per pixel",
    sensitivity: Guidance | None = None,
) -> "Figure":
    """Schedule, transfer gain and output spread per frequency, and loss history.

    problem of all modes of a plane, or of all axes (shown is the last, with most variance), with
    their frequencies f (`mode_frequency`), and transfers on it by label in COLOURS. By
    `sensitivity`, weights that hardly matter are hollow. Modes of a block are shown as the
    frequencies that are mixed in it.
    """
    f = np.where(f < ROUNDED, 0, f)
    figure = new_figure((12, 8.4))
    schedule, history, gain, spread = figure.subplots(2, 2).ravel()
    _draw_schedule(schedule, levels, result, sensitivity or {})
    _draw_history(history, result, objective)
    # On the host, where small work compiles nothing.
    last = partial(jax.tree.map, lambda leaf: np.asarray(leaf)[-len(f) :] if leaf.ndim else leaf)
    problem, transfers = last(problem), {label: last(one) for label, one in transfers.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # of unstable samplers
        ideal = ideal_posterior(problem)
        gains = {"true posterior": ideal.gain}
        gains |= {label: one.data_gain for label, one in transfers.items()}
        gains = {
            label: _along_prior(problem, _of_signal(problem, one)) for label, one in gains.items()
        }
        covs = {"true posterior": ideal.cov}
        covs |= {label: output_cov(one) for label, one in transfers.items()}
        spreads = {label: np.sqrt(_along_prior(problem, one)) for label, one in covs.items()}
    for label in gains:
        _draw_spectrum(gain, f, gains[label], label)
        _draw_spectrum(spread, f, spreads[label], label)
    gain.set_title("How much of the photograph comes back")
    gain.set_ylabel("gain from $x_0$ to the output's mean")
    spread.set(title="How much the outputs differ from each other", yscale="log")
    spread.set_ylabel("output standard deviation (pixel range)")
    for axes in (gain, spread):
        axes.set_xlabel("frequency, averaged over directions (cycles per pixel)")
        frequency_axis(axes, f)
        axes.legend(fontsize="small")
    gain.set_ylim(*_gain_limits(gains))
    figure.suptitle(title)
    return figure


def radial_average(
    f: np.ndarray, values: np.ndarray, num_bins: int = 48
) -> tuple[np.ndarray, np.ndarray]:
    """Means of values over rings of frequency, log-spaced; the constant component is left out."""
    keep = f > 0
    f, values = f[keep], values[keep]
    edges = np.geomspace(f.min(), f.max() * (1 + 1e-9), num_bins + 1)
    ring = np.clip(np.searchsorted(edges, f, side="right") - 1, 0, num_bins - 1)
    count = np.bincount(ring, minlength=num_bins)
    used = count > 0
    centre = np.bincount(ring, f, num_bins)[used] / count[used]
    return centre, np.bincount(ring, values, num_bins)[used] / count[used]


def _of_signal(problem: Problem, gain: Array) -> Array:
    """The gain from x_0 where this is the one from y."""
    return gain * (problem.response if gain.ndim == 1 else problem.response[..., None, :])


def _along_prior(problem: Problem, gain: Array) -> np.ndarray:
    """A gain or covariance along the eigenvectors of the prior: [F] | [B, k]."""
    return np.asarray(diagonal(gain_along_prior(problem, gain)))


def _gain_limits(gains: dict[str, np.ndarray]) -> tuple[float, float]:
    """Limits that show the ideal gain and sensible outputs even if one sampler is unstable."""
    top = max([1.0, *(float(np.quantile(gain, 0.999)) for gain in gains.values())])
    return min(0.0, float(gains["true posterior"].min())) - 0.05, min(top, 2.0) + 0.05


def _draw_schedule(
    axes: "Axes", levels: NoiseLevel, result: LearnResult, sensitivity: Guidance
) -> None:
    position = log_snr(step_pairs(jax.tree.map(np.asarray, levels))[0])
    curves = {
        LABELS["heuristic"]: result.baseline_guidance["heuristic"],
        LABELS["tuned_constant"]: result.baseline_guidance["tuned_constant"],
        LABELS["learned"]: result.guidance,
    }
    marked = list(zip(result.free, cycle("os^vDPX"), strict=False))
    several = len(marked) > 1
    every = [np.ravel(one[name]) for one in curves.values() for name in result.free]
    drawn = np.concatenate([*every, np.zeros(0)])  # levels alone may be learned
    floor = max(LEAST, drawn[drawn > 0].min() / 3) if np.any(drawn > 0) else LEAST  # for 0
    for label, guidance in curves.items():
        for i, (name, marker) in enumerate(marked):
            weights = np.asarray(guidance[name])
            # What is tuned is the number of the official form, which a norm divides.
            official = label == LABELS["tuned_constant"] and np.ptp(weights) > 1e-3 * weights.max()
            words = f"{label} of the official form" if official else label
            axes.plot(
                position,
                np.maximum(weights, floor),
                LINES[label],
                color=COLOURS[label],
                marker=marker,
                markersize=4,
                label=words if i == 0 else None,
            )
    if several:  # lines say whose a weight is, markers which it is
        for name, marker in marked:
            axes.plot([], [], marker, color="black", markersize=4, label=name)
    for name, marker in marked:
        weights = np.maximum(np.asarray(result.guidance[name]), floor)
        idle = np.asarray(sensitivity.get(name, np.inf)) < HARDLY + 0 * weights
        if idle.any():
            axes.plot(
                position[idle],
                weights[idle],
                marker,
                color=COLOURS["learned"],
                markerfacecolor="white",
                markersize=5,
            )
    axes.set_yscale("log")
    if sensitivity:
        words = "hollow: ±10 % cost < 0.1 %"
        axes.plot([], [], "o", color=COLOURS["learned"], markerfacecolor="white", label=words)
    _make_room(axes, 0.3)
    axes.set_title("Guidance schedule")
    axes.set_xlabel(
        "log-SNR = log(alpha$_t^2$ / sigma$_t^2$): noise on the left, image on the right"
    )
    below = drawn[drawn < floor]
    least = f"below {floor:.1g}" if below.any() else "0"
    zero = f" ({least}: at the bottom)" if below.size else ""
    axes.set_ylabel(("weight" if several else f"weight {''.join(result.free)}") + zero)
    if marked:
        axes.legend(loc="upper center", ncols=2, fontsize="small")


def _draw_history(axes: "Axes", result: LearnResult, objective: str) -> None:
    from matplotlib.ticker import MaxNLocator

    found, refined = len(result.explored), len(result.history)
    if found:
        axes.plot(
            np.arange(1, found + 1),
            result.explored,
            LINES["learned"],
            color=COLOURS["learned"],
            alpha=0.45,
            label="exploring (few bins), with prices",
        )
    axes.plot(
        np.arange(found + 1, found + refined + 1),
        result.history,
        LINES["learned"],
        color=COLOURS["learned"],
        marker="o",
        markersize=4,
        label="refining, with prices",
    )
    # Prices are no part of what the other lines are, so the end of the search is shown without.
    axes.plot(
        found + refined,
        result.loss,
        "*",
        color=COLOURS["learned"],
        markersize=13,
        linestyle="none",
        label="learned, without prices",
    )
    for name, value in result.baselines.items():
        label = LABELS[name]
        axes.axhline(value, color=COLOURS[label], linestyle=LINES[label], label=label)
    axes.set_yscale("log")
    _make_room(axes, 0.3)
    axes.set_title("Loss while learning")
    axes.set_xlabel("evaluation of the loss, one every few iterations")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(objective)
    axes.legend(loc="upper center", ncols=2)


def _make_room(axes: "Axes", share: float) -> None:
    """For rows of a legend above what is drawn, `share` of its height on a logarithmic axis."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** share)


def _draw_spectrum(axes: "Axes", f: np.ndarray, values: np.ndarray, label: str) -> None:
    f, values = f.ravel(), values.ravel()
    colour, line = COLOURS.get(label, "black"), LINES.get(label, "-")
    width = 3.5 if label == "true posterior" else 1.6
    axes.plot(*radial_average(f, values), line, color=colour, linewidth=width, label=label)
