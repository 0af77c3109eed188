"""`spectralpost tradeoff`: from least error to most realistic images."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from .. import figures, metrics
from ..errors import InputError
from ..learning import heuristic, learn_on_grid
from ..noise_grid import NoiseGrid
from ..objectives import WeightedSum
from ..options import Tradeoff
from ..plain_json import text_of
from ..samplers.base import Guidance
from .console import (
    Say,
    baselines_of,
    console,
    ended_early,
    levels_in_words,
    metrics_of,
    print_whole,
    quiet,
    transfer_of,
    watched,
)
from .inputs import free_weights, grid_of, inputs_of, sampler_of, search_of, title_of

LEAST = "least mse at this perception"
SPARE = (3, 2)  # columns of the table that a narrow terminal does without


class Result(NamedTuple):
    """Schedules from least error to most realistic images, and what theory allows."""

    title: str
    schedules: dict[str, tuple[NoiseGrid, Guidance]]  # each for levels of its own
    rows: dict[str, dict[str, float]]  # their metrics
    best: metrics.Tradeoff
    interrupted: tuple[str, ...]  # schedules that are the best so far
    notes: tuple[str, ...]  # what there is to say of the files


def compute(options: Tradeoff, say: Say = quiet) -> Result:
    """Learn a schedule for each price of unrealistic images."""
    if not options.prices or not all(0 <= price < np.inf for price in options.prices):
        given = " ".join(map(str, options.prices))
        raise InputError(f"prices = {given}: one or more numbers >= 0 are needed")
    sampler = sampler_of(options)
    free = free_weights(options) or tuple(sampler.constraint)
    grid = grid_of(options, options.steps)
    inputs = inputs_of(options)
    problem, start = inputs.problem, partial(heuristic, sampler, inputs.problem)

    objectives = {"learned, W2^2": metrics.wasserstein2} | {
        f"learned, price {price:g}": WeightedSum(mse=1.0, perception=price)
        for price in sorted(set(options.prices))
    }
    schedules = {"published default": (grid, start(grid.levels))}
    interrupted = []
    for i, (name, objective) in enumerate(objectives.items()):
        title = f"{name} ({i + 1} of {len(objectives)})"
        learned = learn_on_grid(
            sampler,
            inputs.small,
            grid,
            start,
            free,
            learn_levels=options.learn_levels,
            objective=objective,
            search=search_of(options),
            progress=watched(say, title),
        )
        if objective is metrics.wasserstein2:
            given = sampler, problem, grid.levels, learned.search, inputs.prior
            schedules["tuned constant, W2^2"] = grid, baselines_of(*given)["tuned_constant"]
        schedules[name] = learned.grid, learned.result.guidance
        if learned.result.interrupted:
            interrupted.append(name)

    best = metrics.optimal_tradeoff(problem)
    rows = {}
    for name, (its_grid, guidance) in schedules.items():
        transfer = transfer_of(sampler, problem, its_grid.levels, guidance)
        mse, perception = metrics.mse(problem, transfer), metrics.perception(problem, transfer)
        rows[name] = metrics_of(problem, transfer, inputs.prior) | {
            "mse": float(mse),
            LEAST: float(best.mse_at(perception)),
        }
    label = f"{grid.name}, learned" if options.learn_levels else grid.label
    title = f"{sampler.name}, {title_of(options, options.steps, inputs, label)}"
    return Result(title, schedules, rows, best, tuple(interrupted), inputs.notes)


def write(result: Result, folder: Path) -> None:
    figure = figures.tradeoff_figure(result.best, result.rows, result.title)
    figures.save_figure(figure, folder / "tradeoff.png")
    (folder / "tradeoff.json").write_text(text_of(result.rows))


def present(result: Result) -> None:
    table = Table(
        title=result.title,
        caption="per pixel; least mse: what no estimate with the same perception can go below; "
        "perception: W2^2 from outputs to images",
    )
    table.add_column("schedule", no_wrap=True)
    for column in ("W2^2", "mse", "PSNR\n(dB)", "perception", "least mse"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in result.rows.items():
        numbers = (row["W2^2"], row["mse"], row["perception"], row[LEAST])
        w2, mse, perception, least = (f"{number:.5f}" for number in numbers)
        table.add_row(name, w2, mse, f"{row['PSNR']:.2f}", perception, least)
    print_whole(table, SPARE)
    ended_early(result.interrupted)
    given, _ = result.schedules["published default"]
    for name, (grid, _) in result.schedules.items():
        if grid is not given:
            console.print(f"{name}: {levels_in_words(grid)}", soft_wrap=True)
