"""Transfer functions: which frequencies does a sampler get right, and in how many steps?

Under a Gaussian prior a sampler is, frequency by frequency, a gain on the measurement and a spread
of its own. Those of every sampler are drawn beside those of the true posterior, for the published
default and for the schedule learned for so many steps:

    gain     from the image to the mean of the outputs (1: all of it comes back)
    bias     root mean square, over measurements, of what the outputs' mean is off the posterior's
    spread   standard deviation of outputs of one measurement

Bias and spread are shares of the prior's standard deviation at that frequency, averaged over
directions. W2^2 is, frequency by frequency, the squared bias and the squared gap of the spreads.

    python experiments/transfer_functions.py --out DIR   writes transfer_functions.png and .json:
                                                         10 minutes of CPU time
    python experiments/transfer_functions.py --quick     two samplers, 32x32, checked

Every sampler's numbers are kept in DIR/cells: a run that is stopped goes on from there. 64x64
pixels, power law of exponent 2, Gaussian blur of std 2, sigma_y 0.05 in [-1, 1], uniform steps of
the linear VP grid. W2^2 per pixel to the true posterior, all modes, and which share of it is bias:

                  published                                  learned
                          5           20          100            5           20          100
    exact      0.03245  0 % 0.00355  0 % 0.00016  0 %
    dps          0.231 68 %   0.185 57 % 0.08685 57 % 0.05385 37 % 0.01315 49 % 0.00210 49 %
    pigdm      0.04782 34 % 0.00491  4 % 0.03532 79 % 0.03308  5 % 0.00354  4 % 0.00026 26 %
    ddnm       0.06486 23 % 0.03153 43 % 0.06827 78 % 0.05778 23 % 0.01401 15 % 0.01027 25 %
    ddrm       0.06486 23 % 0.03153 43 % 0.06827 78 % 0.06486 23 % 0.03148 43 % 0.06824 78 %
    diffpir    0.05910 41 % 0.00839 48 % 0.00068 17 % 0.03158  2 % 0.00335  3 % 0.00019 21 %
    mpgd         0.276 88 % 0.02580 28 % 0.00194 67 % 0.04376 29 % 0.00677 43 % 0.00134 46 %
    dmps          1449  0 % 0.02244 41 % 0.00909 64 % 0.04214 12 % 0.00825 10 % 0.00124  8 %
    tmpd       0.03590  0 % 0.00661  0 % 0.00071  0 % 0.03415  0 % 0.00594  0 % 0.00063  0 %
    freehunch  0.03245  0 % 0.00355  0 % 0.00016  0 % 0.03087  1 % 0.00322  1 % 0.00014  1 %
    dds        0.06535 46 % 0.02630 65 % 0.01120 75 % 0.03299  2 % 0.00609  1 % 0.00206  1 %
    mcg        0.08856 52 % 0.06392 72 % 0.05891 78 % 0.08842 52 % 0.06369 72 % 0.05870 78 %
    ilvr       0.07932 49 % 0.02014 65 %   0.220 98 % 0.05135 33 % 0.01745 58 % 0.01098 80 %
    reddiff    0.06357 11 % 0.03946 21 % 0.02637 14 % 0.01110 32 % 0.00213  4 % 0.00012 20 %
    daps       0.00553 30 % 0.00375 30 % 0.00362 38 % 0.00023 44 % 0.00001 65 %    1e-6 85 %

What a few steps of DDIM lack is spread where the blur leaves nothing, also with the exact score;
learned schedules of most samplers lack hardly anything else. Bias is left to DPS, MPGD and MCG at
the edge of what is measured, and to DDRM and ILVR beyond it. The published defaults of PiGDM, DDNM,
DDRM and ILVR are worse in 100 steps than in 20. Tuned constants are in the .json. Searches are
short, 8 starts without generations: for DPS in 100 steps experiments/recommended_weights.py, with
24 starts and generations, finds 0.0014.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import spectralpost as sp
from spectralpost.figures import (
    BLUE,
    ORANGE,
    PURPLE,
    WIDE,
    Format,
    new_figure,
    radial_average,
    save_with_caption,
)
from spectralpost.files import kept_json
from spectralpost.metrics import mode_error
from spectralpost.prior import frequency
from spectralpost.problem import per_pixel

SIGMA_Y, BLUR = 0.05, 2.0
SCHEDULES = {"published": "published default", "tuned": "tuned constant", "learned": "learned"}
DRAWN = {"published": (":", 1.3), "learned": ("-", 1.7)}
SHADES = (ORANGE, BLUE, PURPLE)  # few steps to many
COLUMNS = {"gain": "gain", "bias": "bias / prior std", "spread": "spread / prior std"}
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5)
# W2^2 of published defaults in --quick; all digits are the closed form's.
QUICK = {"exact, 5": 0.036448, "exact, 20": 0.003669, "dps, 5": 0.215936}


@dataclass
class Options:
    """Transfer functions of all samplers, beside the true posterior's."""

    quick: bool = False
    """Two samplers of 32x32 pixels, checked."""
    samplers: tuple[str, ...] = tuple(sp.SAMPLERS)
    """Any of `spectralpost samplers`; exact is the exact conditional score."""
    steps: tuple[int, ...] = (5, 20, 100)
    """Three numbers of steps at most."""
    out: Path | None = None
    """Folder of the figure, a new one or that of a run to go on with; else none is drawn."""
    format: Format = "png"
    """Of the figure."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    # Compiling takes most of the time; numbers change by rounding only.
    jax.config.update("jax_disable_most_optimizations", True)
    for name in options.samplers:
        if name not in sp.SAMPLERS:
            raise sp.InputError(f"sampler = {name!r}: known are {', '.join(sp.SAMPLERS)}")
    if not 1 <= len(options.steps) <= len(SHADES):
        raise sp.InputError(f"steps = {options.steps}: 1 to {len(SHADES)} numbers are needed")
    size, bins, search = 64, 100, sp.Search(starts=8, explore=False)
    if options.quick:
        options = replace(options, samplers=("exact", "dps"), steps=(5, 20))
        size, bins, search = 32, 40, sp.Search(starts=2, max_iterations=20, explore=False)
    if options.out is not None:
        (options.out / "cells").mkdir(parents=True, exist_ok=True)
    shape = (size, size)
    whole = sp.image_problem(sp.power_law(shape), sp.gaussian_blur(shape, BLUR), SIGMA_Y)
    problem, rows = sp.unique_modes(whole)
    f = frequency(shape).ravel()
    cells = {}
    print(f"{'':<16}" + "".join(f"{words:>26}" for words in SCHEDULES.values()))
    for name in options.samplers:
        for steps in options.steps:
            if options.quick and (name, steps) == ("dps", 20):
                continue
            cell = partial(cell_of, name, steps, problem, bins, rows, f, search)
            key = f"{name}, {steps}"
            path = None if options.out is None else options.out / "cells" / f"{name}-{steps}.json"
            cells[key] = kept_json(path, cell)
            print(f"{name:<10}{steps:>6}{in_words(cells[key])}", flush=True)
    if options.quick and (wrong := check_quick(cells)):
        sys.exit(f"transfer_functions: not as expected: {'; '.join(wrong)}")
    if options.out is not None:
        curves = ideal_curves(problem, rows, f)
        drawn = figure(options.samplers, options.steps, cells, curves)
        save(drawn, options, cells, size)


def cell_of(
    name: str,
    steps: int,
    problem: sp.Problem,
    bins: int,
    rows: np.ndarray,
    f: np.ndarray,
    search: sp.Search,
) -> dict[str, Any]:
    """Of each schedule: W2^2, its share of bias, and curves over rings of frequency."""
    levels = sp.vp_linear(steps)
    if name == "exact":  # nothing to learn
        sampler = sp.SAMPLERS[name](problem)
        schedules = {"published": sp.heuristic(sampler, problem, levels)}
    else:
        sampler = sp.SAMPLERS[name]()
        found = sp.learn(sampler, sp.bin_modes(problem, bins)[0], levels, search=search)
        schedules = {
            "published": found.baseline_guidance["heuristic"],
            "tuned": found.baseline_guidance["tuned_constant"],
            "learned": found.guidance,
        }
    cell = {}
    for label, guidance in schedules.items():
        transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
        error = mode_error(problem, transfer)
        bias = float(per_pixel(problem, error.bias2))
        gap = np.sqrt(error.var) - np.sqrt(error.ideal_var)
        loss = float(sp.wasserstein2(problem, transfer))
        ring = partial(over_rings, f, rows)
        cell[label] = {
            "W2^2": loss,
            "bias": bias / loss,
            "rest": float(per_pixel(problem, gap**2)) / loss,
            "guidance": {key: np.asarray(one).tolist() for key, one in guidance.items()},
            "curves": {
                "gain": ring(transfer.data_gain * problem.response),
                "bias": np.sqrt(ring(error.bias2 / problem.spectrum)).tolist(),
                "spread": np.sqrt(ring(error.var / problem.spectrum)).tolist(),
            },
        }
    return cell


def over_rings(f: np.ndarray, rows: np.ndarray, values: Any) -> list[float]:
    """Means over rings of frequency of values by row."""
    return radial_average(f, np.asarray(values)[rows])[1].tolist()


def ideal_curves(problem: sp.Problem, rows: np.ndarray, f: np.ndarray) -> dict[str, list[float]]:
    """Those of the true posterior, and the frequencies of the rings."""
    ideal = sp.ideal_posterior(problem)
    spread = np.sqrt(over_rings(f, rows, ideal.var / problem.spectrum))
    gain = over_rings(f, rows, ideal.gain * problem.response)
    at, _ = radial_average(f, f)
    return {"f": at.tolist(), "gain": gain, "bias": [0.0] * len(at), "spread": spread.tolist()}


def in_words(cell: dict[str, Any]) -> str:
    """A line of the table, after its name."""
    parts = [f"{one['W2^2']:>17.6f}{100 * one['bias']:>7.0f} %" for one in cell.values()]
    return "".join(parts)


def check_quick(cells: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    wrong = []
    for key, expected in QUICK.items():
        found = cells[key]["published"]["W2^2"]
        if not abs(found - expected) < 0.6e-6:  # half of the last digit, and rounding
            wrong.append(f"W2^2 of {key}: {found:.6f}, not {expected}")
    for key, cell in cells.items():
        for label, one in cell.items():
            # A sum of some hundred terms, each rounded a few times.
            if not abs(one["bias"] + one["rest"] - 1) < 1e-12:
                wrong.append(f"{key}, {label}: bias and spread are not all of W2^2")
    published, tuned, learned = (one["W2^2"] for one in cells["dps, 5"].values())
    if not learned < tuned < published:
        wrong.append(f"dps: {published:.4f}, {tuned:.4f}, {learned:.4f} are not in order")
    return wrong


def figure(
    samplers: tuple[str, ...], steps: tuple[int, ...], cells: dict[str, Any], ideal: dict[str, Any]
) -> Figure:
    """Three panels a sampler, two of them in a row."""
    deep = (len(samplers) + 1) // 2
    drawn = new_figure((WIDE, 0.9 + 1.25 * deep))
    grid = drawn.subplots(deep, 6, squeeze=False, sharex=True, sharey=True)
    places = [(row, block) for block in (0, 3) for row in range(deep)]
    for (row, block), name in zip(places, samplers, strict=False):
        for axes, column in zip(grid[row, block : block + 3], COLUMNS, strict=True):
            axes.plot(ideal["f"], ideal[column], color="black", linewidth=3.2, alpha=0.85)
            for number, colour in zip(steps, SHADES, strict=False):
                for label, (line, width) in DRAWN.items():
                    if one := cells.get(f"{name}, {number}", {}).get(label):
                        values = one["curves"][column]
                        axes.plot(ideal["f"], values, line, color=colour, linewidth=width)
            axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
            axes.set(xscale="log", ylim=(-0.06, 1.28), yticks=(0, 0.5, 1))
            axes.set_xticks(TICKS, [f"{at:g}" for at in TICKS])
            axes.minorticks_off()
            axes.tick_params(labelsize=8)
            if row == 0:
                axes.set_title(COLUMNS[column], fontsize=10)
        grid[row, block].set_ylabel(name, fontsize=10)
    for row, block in places[len(samplers) :]:
        for axes, above in zip(*grid[[row, row - 1], block : block + 3], strict=True):
            axes.set_axis_off()
            above.tick_params(labelbottom=True)
    drawn.legend(handles=handles_of(steps, cells), loc="outside upper center", ncols=4, fontsize=9)
    drawn.supxlabel("frequency (cycles per pixel)", fontsize=10)
    return drawn


def handles_of(steps: tuple[int, ...], cells: dict[str, Any]) -> list[Line2D]:
    """Of a legend of two rows, which is filled column by column, of what is drawn."""
    handles = [
        Line2D([], [], color="black", linewidth=3.2, label="true posterior"),
        Line2D([], [], linestyle="none", label=" "),
    ]
    for number, colour in zip(steps, SHADES, strict=False):
        for label, (line, width) in DRAWN.items():
            if not any(label in one for key, one in cells.items() if key.endswith(f" {number}")):
                continue
            words = f"{SCHEDULES[label]}, {number} steps"
            handles.append(Line2D([], [], linestyle=line, color=colour, lw=width, label=words))
    return handles


def save(drawn: Figure, options: Options, cells: dict[str, Any], size: int) -> None:
    """The figure with what it shows."""
    assert options.out is not None
    numbers = {
        key: {
            SCHEDULES[label]: {"W2^2": one["W2^2"], "of it bias": one["bias"]}
            for label, one in cell.items()
        }
        for key, cell in cells.items()
    }
    caption = (
        f"Of every sampler, by frequency and for {', '.join(map(str, options.steps))} steps: the "
        "gain from the image to the mean of its outputs; the root mean square, over measurements, "
        "of the bias of that mean; and the standard deviation of outputs of one measurement, the "
        "last two as shares of the prior's standard deviation. Black: the true posterior. Dotted: "
        "the published default, which lies under the solid line where it cannot be seen; solid: "
        "the schedule learned for so many steps. Lines that leave a panel go on above or below it. "
        f"{size}x{size} pixels, power law of exponent 2, Gaussian blur of std {BLUR:g} pixels, "
        f"sigma_y {SIGMA_Y} in [-1, 1], linear VP grid. exact is the exact conditional score, "
        "which has no weights: its lines are dotted. Numbers: W2^2 per pixel, and which share of "
        "it is bias."
    )
    save_with_caption(
        drawn,
        options.out,
        "transfer_functions",
        title="Transfer functions of all samplers",
        caption=caption,
        numbers=numbers,
        format=options.format,
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.splitlines()[0]))
    except sp.InputError as error:
        sys.exit(f"transfer_functions: {error}")
