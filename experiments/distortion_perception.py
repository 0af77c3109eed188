"""Distortion and perception: what does each sampler pay for images that look like images?

Root mean squared error against the distance (W2) from the law of the outputs to that of images, of
every sampler in one number of steps: the published default, the constant tuned for W2^2 to the
posterior, the schedule learned for it, and schedules learned for mse + price x perception with all
weights free. Below is the least error that any estimate can have at that perception (Freirich,
Michaeli, Meir, arXiv 2107.02555), and the exact conditional score in as many steps of DDIM.

    python experiments/distortion_perception.py --out DIR   writes distortion_perception.png, .json:
                                                            12 minutes of CPU time
    python experiments/distortion_perception.py --quick     one sampler and price, 32x32, checked

Every sampler's numbers are kept in DIR/cells: a run that is stopped goes on from there. 64x64
pixels, power law of exponent 2, Gaussian blur of std 2, sigma_y 0.05 in [-1, 1], 20 uniform steps
of the linear VP grid. Root mean squared error, root of perception, and the squared error as a
multiple of the least possible at that perception:

                     published         learned         price 0        price 10       price 100
    dps        0.551 0.117 3.48 0.350 0.071 1.21 0.346 0.090 1.26 0.347 0.068 1.18 0.351 0.068 1.21
    pigdm      0.337 0.057 1.07 0.341 0.059 1.11 0.323 0.077 1.06 0.335 0.056 1.06 0.337 0.055 1.07
    ddnm       0.322 0.080 1.06 0.318 0.111 1.14 0.306 0.113 1.06 0.345 0.034 1.03 0.351 0.030 1.06
    ddrm       0.322 0.080 1.06 0.318 0.112 1.14 0.306 0.113 1.06 0.345 0.034 1.03 0.351 0.030 1.06
    diffpir    0.341 0.058 1.10 0.342 0.057 1.11 0.306 0.105 1.04 0.342 0.046 1.06 0.349 0.042 1.09
    mpgd       0.379 0.072 1.42 0.343 0.064 1.14 0.334 0.084 1.16 0.341 0.064 1.13 0.341 0.063 1.12
    dmps       0.329 0.070 1.07 0.338 0.067 1.12 0.320 0.078 1.04 0.335 0.048 1.03 0.342 0.046 1.06
    tmpd       0.326 0.078 1.08 0.343 0.057 1.11 0.323 0.077 1.06 0.335 0.056 1.06 0.337 0.056 1.07
    freehunch  0.340 0.057 1.09 0.343 0.057 1.11 0.323 0.077 1.06 0.335 0.056 1.06 0.337 0.056 1.07
    dds        0.369 0.100 1.49 0.344 0.056 1.11 0.306 0.105 1.04 0.340 0.048 1.06 0.346 0.046 1.09
    mcg        0.381 0.173 1.91 0.390 0.165 1.97 0.381 0.172 1.90 0.391 0.164 1.97 0.391 0.164 1.98
    ilvr       0.347 0.077 1.21 0.357 0.084 1.32 0.340 0.100 1.26 0.359 0.054 1.21 0.367 0.051 1.25
    reddiff    0.307 0.187 1.26 0.375 0.029 1.20 0.268 0.243 1.00 0.359 0.034 1.12 0.393 0.005 1.21
    daps       0.357 0.021 1.06 0.378 0.003 1.11 0.346 0.033 1.04 0.352 0.023 1.04 0.366 0.003 1.04
    exact score, DDIM   0.340 0.057 1.09;   true posterior samples 0.378 0;   least 0.267

By its price a schedule goes along the optimum, 3 to 9 % of squared error above it, for all but DPS,
MPGD, MCG, ILVR and RED-diff; how far it gets depends on the sampler. RED-diff gets farthest, from
the posterior mean (price 0, off the panel) to nearly perfect realism at 21 % more error than that
needs; DAPS is as realistic for 4 %. True posterior samples are 10 % above the optimum: what is
learned for W2^2 to the posterior cannot be nearer once it succeeds.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro

import spectralpost as sp
from spectralpost.figures import Format, save_with_caption, tradeoffs_figure
from spectralpost.files import kept_json
from spectralpost.metrics import Tradeoff
from spectralpost.objectives import Objective
from spectralpost.samplers.base import Guidance

Row = dict[str, float]  # metrics of a schedule
SIGMA_Y, BLUR = 0.05, 2.0
PUBLISHED, TUNED, LEARNED = "published default", "tuned constant, W2^2", "learned, W2^2"
EXACT = "exact score"
# Root mean squared error and perception of the published default in --quick, closed forms.
QUICK = 0.5222, 0.3131


@dataclass
class Options:
    """All samplers in the plane of distortion and perception."""

    quick: bool = False
    """One sampler and one price, 32x32 pixels, checked."""
    samplers: tuple[str, ...] = tuple(name for name in sp.SAMPLERS if name != "exact")
    """Any of `spectralpost samplers`."""
    steps: int = 20
    """Number of steps."""
    prices: tuple[float, ...] = (0.0, 10.0, 100.0)
    """Of perception, each with a schedule of its own."""
    out: Path | None = None
    """Folder of the figure, a new one or that of a run to go on with; else none is drawn."""
    format: Format = "png"
    """Of the figure."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    # Compiling takes most of the time; numbers change by rounding only.
    jax.config.update("jax_disable_most_optimizations", True)
    for name in options.samplers:
        if name not in sp.SAMPLERS or name == "exact":
            raise sp.InputError(f"sampler = {name!r}: known are {', '.join(Options.samplers)}")
    if not options.prices or not all(0 <= price < np.inf for price in options.prices):
        raise sp.InputError(f"prices = {options.prices}: one or more numbers >= 0 are needed")
    size, bins, search = 64, 100, sp.Search(starts=8, explore=False)
    if options.quick:
        options = replace(options, samplers=("dps",), steps=4, prices=(1.0,))
        size, bins, search = 32, 40, sp.Search(starts=2, max_iterations=20, explore=False)
    if options.out is not None:
        (options.out / "cells").mkdir(parents=True, exist_ok=True)
    shape = (size, size)
    whole = sp.image_problem(sp.power_law(shape), sp.gaussian_blur(shape, BLUR), SIGMA_Y)
    problem = sp.unique_modes(whole)[0]
    small, best = sp.bin_modes(problem, bins)[0], sp.optimal_tradeoff(problem)
    objectives = {} if options.quick else {LEARNED: sp.wasserstein2}
    objectives |= {
        f"learned, price {price:g}": sp.WeightedSum(mse=1.0, perception=price)
        for price in sorted(set(options.prices))
    }
    levels = sp.vp_linear(options.steps)
    score = sp.SAMPLERS["exact"](problem)
    exact = row_of(score, problem, levels, sp.heuristic(score, problem, levels))
    print(f"{'':<10}{'':<24}{'error':>9}{'perception':>12}{'of least':>10}")
    print(f"{'':<10}{EXACT:<24}{in_words(exact)}")
    panels = {}
    for name in options.samplers:
        rows = {}
        sampler = sp.SAMPLERS[name]()
        for label, objective in objectives.items():
            kept = f"{name}, {options.steps}, {label}.json"
            path = None if options.out is None else options.out / "cells" / kept
            rows |= kept_json(
                path, partial(learned, sampler, problem, small, levels, label, objective, search)
            )
        panels[name] = {EXACT: exact, **rows}
        for label, row in rows.items():
            print(f"{name:<10}{label:<24}{in_words(row)}", flush=True)
    if options.quick and (wrong := check_quick(panels["dps"])):
        sys.exit(f"distortion_perception: not as expected: {'; '.join(wrong)}")
    if options.out is not None:
        save(panels, best, options, size)


def learned(
    sampler: sp.Sampler,
    problem: sp.Problem,
    small: sp.Problem,
    levels: sp.NoiseLevel,
    label: str,
    objective: Objective,
    search: sp.Search,
) -> dict[str, Row]:
    """The schedule learned for an objective, with all weights free, and the published default;
    for W2^2 the tuned constant as well."""
    free = tuple(sampler.constraint)
    found = sp.learn(sampler, small, levels, free=free, objective=objective, search=search)
    schedules = {PUBLISHED: found.baseline_guidance["heuristic"], label: found.guidance}
    if label == LEARNED:
        schedules[TUNED] = found.baseline_guidance["tuned_constant"]
    rows = {name: row_of(sampler, problem, levels, one) for name, one in schedules.items()}
    if isinstance(objective, sp.WeightedSum):  # what it was learned for, of it and of the constant
        constant = row_of(sampler, problem, levels, found.baseline_guidance["tuned_constant"])
        rows[label] |= {
            "objective": worth(objective, rows[label]),
            "of the constant": worth(objective, constant),
        }
    return rows


def row_of(
    sampler: sp.Sampler, problem: sp.Problem, levels: sp.NoiseLevel, guidance: Guidance
) -> Row:
    """Its metrics per pixel, on all modes."""
    transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
    metrics = {"W2^2": sp.wasserstein2, "mse": sp.mse, "perception": sp.perception}
    row = {name: float(metric(problem, transfer)) for name, metric in metrics.items()}
    least = float(sp.optimal_tradeoff(problem).mse_at(row["perception"]))
    return row | {"of least": row["mse"] / least}


def worth(objective: sp.WeightedSum, row: Row) -> float:
    return objective.mse * row["mse"] + objective.perception * row["perception"]


def in_words(row: Row) -> str:
    """A line of the table, after its names."""
    error, perception = (np.sqrt(row[name]) for name in ("mse", "perception"))
    return f"{error:>9.4f}{perception:>12.4f}{row['of least']:>10.3f}"


def check_quick(rows: dict[str, Row]) -> list[str]:
    """What is not as it should be."""
    wrong = []
    for name, expected in zip(("mse", "perception"), QUICK, strict=True):
        found = float(np.sqrt(rows[PUBLISHED][name]))
        if not abs(found - expected) < 0.6e-4:  # half of the last digit, and rounding
            wrong.append(f"root {name} of the published default: {found:.4f}, not {expected}")
    for label, row in rows.items():
        # A theorem; both sides are sums of some hundred terms, each rounded a few times.
        if not row["of least"] > 1 - 1e-12:
            wrong.append(f"{label}: less error than possible, {row['of least']}")
    priced = rows["learned, price 1"]
    if not priced["objective"] < priced["of the constant"]:
        wrong.append(f"price 1: {priced['objective']:.5f}, no less than the constant's")
    return wrong


def save(panels: dict[str, dict[str, Row]], best: Tradeoff, options: Options, size: int) -> None:
    """The figure with what it shows."""
    assert options.out is not None
    prices = ", ".join(f"{price:g}" for price in sorted(set(options.prices)))
    caption = (
        "Root mean squared error against the root of perception, which is the squared distance "
        f"(W2) from the law of outputs to that of images, per pixel, in {options.steps} steps. "
        "Black: the least error that any estimate can have at that perception, and (star) true "
        "posterior samples, which are no such estimate. Light blue: schedules learned for mse + "
        f"price x perception, all weights free, prices {prices}; of price 0 the one farthest to "
        "the right. Diamond: the exact conditional score in as many steps of DDIM. Schedules that "
        f"are beyond a panel are named in it. {size}x{size} pixels, power law of exponent 2, "
        f"Gaussian blur of std {BLUR:g} pixels, sigma_y {SIGMA_Y} in [-1, 1], linear VP grid. "
        "Numbers: metrics per pixel, not their roots; the column 'of least': squared error as a "
        "multiple of the least possible at that perception."
    )
    shown = ("mse", "perception", "of least", "W2^2")
    save_with_caption(
        tradeoffs_figure(best, panels, ""),
        options.out,
        "distortion_perception",
        title=f"Distortion and perception of all samplers, {options.steps} steps",
        caption=caption,
        numbers={
            name: {label: {key: row[key] for key in shown} for label, row in rows.items()}
            for name, rows in panels.items()
        },
        format=options.format,
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.splitlines()[0]))
    except sp.InputError as error:
        sys.exit(f"distortion_perception: {error}")
