"""The figures, drawn with matplotlib (imported when the first one is drawn)."""

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax import Array

from .algebra import congruence, diagonal
from .degradations import Degradation
from .errors import InputError
from .images import PIXEL_RANGE, PixelRange, to_uint8
from .learning import LearnResult
from .learning.generations import CHUNK
from .metrics import Tradeoff, output_cov
from .noise import NoiseLevel, log_snr, step_pairs
from .prior import frequency
from .problem import Problem, ideal_posterior
from .samplers.base import Guidance
from .transfer import Transfer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by all common kinds of colour vision; black is the truth.
COLOURS = {
    "published default": "#D55E00",
    "tuned constant": "#E69F00",
    "learned": "#0072B2",
    "exact reference": "#009E73",
}
LINES = {
    "published default": "--",
    "tuned constant": "-.",
    "learned": "-",
    "exact reference": ":",
}
HARDLY = 1e-3  # sensitivity of a weight that hardly matters


class Panel(NamedTuple):
    """One image of `restored_figure`."""

    title: str
    image: np.ndarray  # [C, H, W]
    caption: str = ""


def report_figure(
    problem: Problem,
    degradation: Degradation,
    levels: NoiseLevel,
    result: LearnResult,
    transfers: dict[str, Transfer],
    title: str,
    objective: str = "W2$^2$ per pixel",
    sensitivity: Guidance | None = None,
) -> "Figure":
    """Schedule, transfer gain and output spread per frequency, and loss history.

    problem of all modes of a plane, or of all axes (shown is the last, with most variance), and
    transfers on it by label in COLOURS. By `sensitivity`, weights that hardly matter are hollow.
    Modes of a block are shown as the frequencies that are mixed in it.
    """
    figure = _figure((12, 8.4))
    schedule, history, gain, spread = figure.subplots(2, 2).ravel()
    _draw_schedule(schedule, levels, result, sensitivity or {})
    _draw_history(history, result, objective)
    f, vectors = frequency(degradation.shape).ravel(), degradation.eigenvectors
    f = f if vectors is None else f[vectors.frequency]
    last = partial(jax.tree.map, lambda leaf: leaf[-len(f) :] if leaf.ndim else leaf)
    problem, transfers = last(problem), {label: last(one) for label, one in transfers.items()}
    ideal = ideal_posterior(problem)
    gains = {"true posterior": ideal.gain}
    gains |= {label: one.data_gain for label, one in transfers.items()}
    gains = {label: _along_prior(problem, _of_signal(problem, one)) for label, one in gains.items()}
    covs = {"true posterior": ideal.cov}
    covs |= {label: output_cov(one) for label, one in transfers.items()}
    for label in gains:
        _draw_spectrum(gain, f, gains[label], label)
        _draw_spectrum(spread, f, np.sqrt(_along_prior(problem, covs[label])), label)
    gain.set_title("How much of the photograph comes back")
    gain.set_ylabel("gain from $x_0$ to the output's mean")
    spread.set(title="How much the outputs differ from each other", yscale="log")
    spread.set_ylabel("output standard deviation (pixel range)")
    for axes in (gain, spread):
        axes.set(xlabel="frequency, averaged over directions (cycles per pixel)", xscale="log")
        axes.legend()
    gain.set_ylim(*_gain_limits(gains))
    figure.suptitle(title)
    return figure


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
    figure = _figure((1.5 + 4.2 * len(losses), 1.8 + 0.34 * len(order)))
    panels = figure.subplots(1, len(losses), squeeze=False, sharex=True, sharey=True)[0]
    markers = {"published default": "X", "tuned constant": "v", "learned": "o"}
    for axes, steps in zip(panels, sorted(losses), strict=True):
        best = min(loss["learned"] for loss in losses[steps].values())
        # An unstable default may be off by 10^30: it is drawn at the edge.
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
        for line, (name, loss) in zip((":", "--"), references[steps].items(), strict=False):
            axes.axvline(loss, color=COLOURS["exact reference"], linestyle=line, label=name)
        axes.set_xscale("log")
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="y", linewidth=0.4)
        axes.set_title(f"{steps} steps")
        axes.set_xlabel("W2$^2$ per pixel to the true posterior")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = len(labels) if len(losses) > 1 else 2  # one panel is narrower than one row
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    figure.suptitle(title)
    return figure


def tradeoff_figure(best: Tradeoff, rows: dict[str, dict[str, float]], title: str) -> "Figure":
    """Root mean squared error against root perception: schedules, and the curve of the optimum.

    rows: name -> {"mse", "perception"}; names that begin with "learned, price" are joined.
    """
    figure = _figure((7.2, 5.2))
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


def restored_figure(
    rows: Sequence[Sequence[Panel]], title: str, pixel_range: PixelRange = PIXEL_RANGE
) -> "Figure":
    """Rows of images with a title above and a caption below each."""
    columns = max(len(row) for row in rows)
    figure = _figure((2.9 * columns, 3.7 * len(rows) + 0.4))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_row, row, strict=False):
            axes.imshow(
                to_uint8(panel.image, pixel_range),
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
            axes.set_title(panel.title, fontsize=10)
            axes.set_xlabel(panel.caption, fontsize=9)
        for axes in axes_row:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def training_figure(
    sigmas: Sequence[float], gain: Sequence[float], losses: Sequence[tuple[int, float]], title: str
) -> "Figure":
    """How a network was trained: loss by step, and its gain in dB on the Gaussian denoiser."""
    figure = _figure((9, 3.6))
    left, right = figure.subplots(1, 2)
    left.semilogy(*zip(*losses, strict=True), "o-", color=COLOURS["learned"])
    left.set(xlabel="step", ylabel="loss (1: nothing learned)")
    right.axhline(0, color="black", linewidth=0.8)
    right.semilogx(sigmas, gain, "o-", color=COLOURS["learned"])
    right.set(xlabel="sigma, pixels in [-1, 1]", ylabel="PSNR over the Gaussian denoiser's (dB)")
    figure.suptitle(title, fontsize=10)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str], dpi: int = 130) -> None:
    """Write a figure as PNG, and forget it; InputError if the file cannot be written."""
    try:
        figure.savefig(path, dpi=dpi, format="png")
    except OSError as error:
        raise InputError(f"figure {str(path)!r}: cannot be written ({error.strerror})") from error
    figure.clear()


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
    turned = gain if problem.basis is None else congruence(problem.basis.mT, gain)
    return np.asarray(diagonal(turned))


def _gain_limits(gains: dict[str, np.ndarray]) -> tuple[float, float]:
    """Limits that show the ideal gain and sensible outputs even if one sampler is unstable."""
    top = max([1.0, *(float(np.quantile(gain, 0.999)) for gain in gains.values())])
    return min(0.0, float(gains["true posterior"].min())) - 0.05, min(top, 2.0) + 0.05


def _figure(size: tuple[float, float]) -> "Figure":
    # The object-oriented interface: no global state, no display needed.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _draw_schedule(
    axes: "Axes", levels: NoiseLevel, result: LearnResult, sensitivity: Guidance
) -> None:
    position = np.asarray(log_snr(step_pairs(levels)[0]))
    curves = {
        "published default": result.baseline_guidance["heuristic"],
        "tuned constant": result.baseline_guidance["tuned_constant"],
        "learned": result.guidance,
    }
    markers = ("o", "s", "^", "v")
    for label, guidance in curves.items():
        for name, marker in zip(result.free, markers, strict=False):
            axes.plot(
                position,
                np.maximum(np.asarray(guidance[name]), 1e-6),
                LINES[label],
                color=COLOURS[label],
                marker=marker,
                markersize=4,
                label=f"{name}, {label}" if len(result.free) > 1 else label,
            )
    for name, marker in zip(result.free, markers, strict=False):
        weights = np.maximum(np.asarray(result.guidance[name]), 1e-6)
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
    hollow = " (hollow: 10 % change the loss by < 0.1 %)" if sensitivity else ""
    axes.set_title("Guidance schedule" + hollow)
    axes.set_xlabel(
        "log-SNR = log(alpha$_t^2$ / sigma$_t^2$): noise on the left, image on the right"
    )
    axes.set_ylabel("weight" if len(result.free) > 1 else f"weight {''.join(result.free)}")
    axes.legend(fontsize="small" if len(result.free) > 1 else None)


def _draw_history(axes: "Axes", result: LearnResult, objective: str) -> None:
    found, refined = len(result.explored), len(result.history)
    if found:
        axes.plot(
            CHUNK * np.arange(1, found + 1),
            result.explored,
            LINES["learned"],
            color=COLOURS["learned"],
            alpha=0.45,
            label="exploring (few bins), with prices",
        )
    axes.plot(
        CHUNK * np.arange(found + 1, found + refined + 1),
        result.history,
        LINES["learned"],
        color=COLOURS["learned"],
        marker="o",
        markersize=4,
        label="refining, with prices",
    )
    labels = {
        "heuristic": "published default",
        "tuned_constant": "tuned constant",
        "exact": "exact reference",
    }
    for name, label in labels.items():
        axes.axhline(
            result.baselines[name], color=COLOURS[label], linestyle=LINES[label], label=label
        )
    axes.set_yscale("log")
    axes.set_title("Loss while learning")
    axes.set_xlabel("iteration")
    axes.set_ylabel(objective)
    axes.legend()


def _draw_spectrum(axes: "Axes", f: np.ndarray, values: np.ndarray, label: str) -> None:
    f, values = f.ravel(), values.ravel()
    colour, line = COLOURS.get(label, "black"), LINES.get(label, "-")
    width = 3.5 if label == "true posterior" else 1.6
    axes.plot(*radial_average(f, values), line, color=colour, linewidth=width, label=label)
