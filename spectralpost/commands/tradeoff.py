"""`spectralpost tradeoff`: from least error to most realistic images."""

import json

import jax
import numpy as np
from rich.table import Table

from .. import figures, metrics
from ..cli import Tradeoff, to_yaml
from ..errors import InputError
from ..files import check_free, fresh_folder, whole_folder
from ..learning import Search, learn
from ..problem import image_problem
from ..samplers import make_sampler
from .console import MAX_ITERATIONS, console, progress_bar, transfer_of
from .setting import degradation_of, levels_of, merged, parsed_options, prior_and_photo, title_of


def tradeoff(options: Tradeoff) -> None:
    """A table and a figure of error against perception: learned schedules and the best possible."""
    out = options.out or fresh_folder("runs", "tradeoff")
    check_free(out)
    if options.sampler == "exact":
        raise InputError("sampler = 'exact': is a reference, with nothing to learn")
    if not options.prices or not all(0 <= price < np.inf for price in options.prices):
        given = " ".join(map(str, options.prices))
        raise InputError(f"prices = {given}: one or more numbers >= 0 are needed")
    sampler = make_sampler(options.sampler, **parsed_options(options.sampler_options))
    levels, _, grid = levels_of(options, options.steps)
    prior, photo, _, _ = prior_and_photo(options)
    degradation = degradation_of(options, options.degradation, prior.shape)
    problem = image_problem(prior, degradation, options.sigma_y, channels=len(photo))
    small = merged(problem, options.bins)
    guidance = jax.jit(sampler.heuristic)(problem, levels)

    objectives = {"learned, W2^2": metrics.wasserstein2} | {
        f"learned, price {price:g}": metrics.WeightedSum(mse=1.0, perception=price)
        for price in sorted(set(options.prices))
    }
    schedules = {"published default": guidance}
    with progress_bar() as bar:
        task = bar.add_task("", total=len(objectives))
        for name, objective in objectives.items():
            bar.update(task, description=name)
            result = learn(
                sampler,
                small,
                levels,
                guidance,
                options.free or tuple(sampler.constraint),
                objective=objective,
                search=Search(
                    starts=options.starts, max_iterations=MAX_ITERATIONS, seed=options.seed
                ),
            )
            if objective is metrics.wasserstein2:
                schedules["tuned constant, W2^2"] = result.baseline_guidance["tuned_constant"]
            schedules[name] = result.guidance
            bar.advance(task)

    best = metrics.optimal_tradeoff(problem)
    scores = {}
    for name, schedule in schedules.items():
        transfer = transfer_of(sampler, problem, levels, schedule)
        mse, perception = metrics.mse(problem, transfer), metrics.perception(problem, transfer)
        scores[name] = {
            "W2^2": float(metrics.wasserstein2(problem, transfer)),
            "mse": float(mse),
            "PSNR": float(metrics.psnr(mse, prior.pixel_range)),
            "perception": float(perception),
            "least mse at this perception": float(best.mse_at(perception)),
        }
    title = f"{sampler.name}, {title_of(options, options.steps, grid)}"
    table = Table(
        title=title,
        caption="per pixel; least mse: what no estimate with the same perception can go below; "
        "perception: W2^2 from outputs to images",
    )
    table.add_column("schedule", no_wrap=True)
    for column in ("W2^2", "mse", "PSNR (dB)", "perception", "least mse"):
        table.add_column(column, justify="right")
    for name, row in scores.items():
        numbers = (row["W2^2"], row["mse"], row["perception"], row["least mse at this perception"])
        w2, mse, perception, least = (f"{number:.5f}" for number in numbers)
        table.add_row(name, w2, mse, f"{row['PSNR']:.2f}", perception, least)
    console.print(table)
    figure = figures.tradeoff_figure(best, scores, title)
    with whole_folder(out) as folder:
        figures.save_figure(figure, folder / "tradeoff.png")
        (folder / "tradeoff.json").write_text(json.dumps(scores, indent=1) + "\n")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: tradeoff.png, tradeoff.json", soft_wrap=True)
