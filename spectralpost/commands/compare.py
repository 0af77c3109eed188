"""`spectralpost compare`: all samplers on one problem, for some numbers of steps."""

import json
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.progress import Progress, TaskID
from rich.table import Table

from .. import figures, metrics
from ..cli import Compare, to_yaml
from ..degradations import Degradation
from ..denoisers.gaussian import GaussianDenoiser
from ..errors import InputError
from ..files import check_free, fresh_folder, whole_folder
from ..learning import Progress as SearchProgress
from ..learning import Search, learn
from ..noise import NoiseLevel, num_steps_of
from ..prior import Prior, draw
from ..problem import Problem, image_problem
from ..restoration import measure, restore
from ..samplers import SAMPLERS, make_sampler
from ..samplers.base import Sampler
from ..samplers.exact import KINDS, Kind, exact
from ..transfer import denoiser_calls
from .console import (
    LABELS,
    MAX_ITERATIONS,
    console,
    has_room,
    print_wide,
    progress_bar,
    progress_text,
    scores_of,
    transfer_of,
)
from .setting import degradation_of, levels_of, merged, prior_and_photo, title_of

SCHEDULES = ("heuristic", "tuned_constant", "learned")
REFERENCES = {
    "score": "exact score, DDIM(0)",
    "flow": "exact score, Heun",
    "kernel": "exact kernel",
}
WIDE = 132  # columns that the whole table needs
CHECK_IMAGES = 4
CLOSURE_HOLDS = 0.1  # relative error of a predicted mean squared error


class Row(NamedTuple):
    """A sampler, or a reference, at one number of steps."""

    name: str
    steps: int
    calls: int  # of the network
    scores: dict[str, dict[str, float]]  # schedule -> W2^2, PSNR, perception
    seconds: float  # that learning took, compilation included
    closure: float | None  # measured / predicted error of the literal published default


def compare(options: Compare) -> None:
    """One table and one figure over samplers, schedules and step counts."""
    out = options.out or fresh_folder("runs", "compare")
    check_free(out)
    names = options.samplers or tuple(name for name in SAMPLERS if name != "exact")
    for given, values in {"samplers": names, "steps": options.steps}.items():
        if len(set(values)) < len(values) or not values:
            raise InputError(f"{given} = {' '.join(map(str, values))}: name each one once")
    if "exact" in names:
        raise InputError("samplers: 'exact' is the reference of every run, leave it out")
    samplers = {name: make_sampler(name) for name in names}
    grids = {steps: levels_of(options, steps) for steps in options.steps}
    prior, photo, _, kurtosis = prior_and_photo(options)
    degradation = degradation_of(options, options.degradation, prior.shape)
    problem = image_problem(prior, degradation, options.sigma_y, channels=len(photo))
    small = merged(problem, options.bins)

    rows: list[Row] = []
    with progress_bar() as bar:
        task = bar.add_task("", total=len(samplers) * len(grids))
        for steps, (levels, _, grid) in grids.items():
            found = []
            for name, sampler in samplers.items():
                title = f"{name}, {steps} steps"
                bar.update(task, description=title)
                row = _learned_row(sampler, problem, small, levels, prior, options, (bar, task))
                if options.check and sampler.literal is not None:
                    bar.update(task, description=f"{title}: simulating")
                    closure = _closure(
                        sampler.literal, problem, prior, degradation, levels, options
                    )
                    row = row._replace(closure=closure)
                found.append(row)
                bar.advance(task)
            found.sort(key=lambda row: row.scores["learned"]["W2^2"])
            references = [_reference_row(kind, problem, levels, prior) for kind in KINDS]
            table = _table(found, references, title_of(options, steps, grid))
            print_wide(table, WIDE)
            rows += found + references
    _print_notes(rows, small, problem, kurtosis)

    figure = figures.compare_figure(
        {
            steps: {
                _with_calls(row): {LABELS[key]: row.scores[key]["W2^2"] for key in row.scores}
                for row in rows
                if row.steps == steps and row.name not in REFERENCES.values()
            }
            for steps in grids
        },
        {
            steps: {
                row.name: row.scores["exact"]["W2^2"]
                for row in rows
                if row.steps == steps and row.name in (REFERENCES["score"], REFERENCES["flow"])
            }
            for steps in grids
        },
        f"{options.degradation}, sigma_y = {options.sigma_y:g}",
    )
    with whole_folder(out) as folder:
        figures.save_figure(figure, folder / "compare.png")
        text = json.dumps([row._asdict() for row in rows], indent=1)
        (folder / "compare.json").write_text(text + "\n")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: compare.png, compare.json", soft_wrap=True)


def _learned_row(
    sampler: Sampler,
    problem: Problem,
    small: Problem,
    levels: NoiseLevel,
    prior: Prior,
    options: Compare,
    place: tuple[Progress, TaskID],
) -> Row:
    steps = num_steps_of(levels)
    bar, task = place

    def progress(news: SearchProgress) -> None:
        bar.update(task, description=f"{sampler.name}, {steps} steps: {progress_text(news)}")

    begin = time.perf_counter()
    guidance = jax.jit(sampler.heuristic)(problem, levels)
    result = learn(
        sampler,
        small,
        levels,
        guidance,
        search=Search(starts=options.starts, max_iterations=MAX_ITERATIONS, seed=options.seed),
        progress=progress,
    )
    seconds = time.perf_counter() - begin
    schedules = result.baseline_guidance | {"learned": result.guidance}
    scores = {
        key: scores_of(problem, transfer_of(sampler, problem, levels, schedules[key]), prior)
        for key in SCHEDULES
    }
    calls = steps * denoiser_calls(sampler, problem)
    return Row(sampler.name, steps, calls, scores, seconds, None)


def _reference_row(kind: Kind, problem: Problem, levels: NoiseLevel, prior: Prior) -> Row:
    sampler = exact(problem, kind)
    guidance = sampler.heuristic(problem, levels)
    scores = {"exact": scores_of(problem, transfer_of(kind, problem, levels, guidance), prior)}
    steps = num_steps_of(levels)
    calls = steps * denoiser_calls(sampler, problem)
    return Row(REFERENCES[kind], steps, calls, scores, 0.0, None)


def _closure(
    sampler: Sampler,
    problem: Problem,
    prior: Prior,
    degradation: Degradation,
    levels: NoiseLevel,
    options: Compare,
) -> float:
    """Mean squared error of the literal published default, over that of its closed form.

    For a few images drawn from the prior, so that nothing but the closure can differ.
    """
    guidance = jax.jit(sampler.heuristic)(problem, levels)
    channels = round(float(problem.weight[0]))
    x_0 = jnp.asarray(draw(prior, CHECK_IMAGES * channels, options.seed))
    x_0 = x_0.reshape(CHECK_IMAGES, channels, *prior.shape)
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    y = measure(degradation, x_0, options.sigma_y, noise_key)
    denoiser = GaussianDenoiser.of(prior)
    restored = restore(
        sampler, denoiser, degradation, y, levels, guidance, sampler_key, sigma_y=options.sigma_y
    )
    modes = degradation.to_modes(x_0 - jnp.broadcast_to(prior.mean, x_0.shape))
    transfer = transfer_of(sampler, problem, levels, guidance)
    errors = jax.vmap(lambda plane: metrics.image_mse(problem, transfer, plane))
    predicted = jnp.mean(errors(modes.reshape(-1, modes.shape[-1])))
    return float(jnp.mean((restored - x_0) ** 2) / predicted)


def _table(found: list[Row], references: list[Row], title: str) -> Table:
    columns = [(key, score) for score in ("W2^2", "PSNR", "perception") for key in SCHEDULES]
    if not has_room(WIDE):
        columns = [column for column in columns if column[1] == "W2^2" or column[0] == "learned"]
    heads = {"heuristic": "published", "tuned_constant": "tuned", "learned": "learned"}
    names = {"W2^2": "W2^2", "PSNR": "PSNR", "perception": "perc."}
    table = Table(
        title=title,
        caption="per pixel, averaged over measurements; PSNR predicted, in dB; perc.: perception, "
        "W2^2 from outputs to images; calls: of the network",
    )
    table.add_column("sampler", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for key, score in columns:
        table.add_column(f"{names[score]}\n{heads[key]}", justify="right", no_wrap=True)
    for row in found:
        cells = [_number(row.scores[key][score], score) for key, score in columns]
        table.add_row(row.name, str(row.calls), *cells)
    table.add_section()
    for row in references:
        cells = [
            _number(row.scores["exact"][score], score) if key == "learned" else ""
            for key, score in columns
        ]
        table.add_row(row.name, str(row.calls), *cells)
    return table


def _with_calls(row: Row) -> str:
    """The name for the figure, where it needs more than one call of the network a step."""
    calls = row.calls // row.steps
    return row.name if calls == 1 else f"{row.name} ({calls} calls a step)"


def _number(value: float, score: str) -> str:
    if score == "PSNR":
        return f"{value:.1f}"
    return f"{value:.5f}" if 1e-4 <= value < 100 else f"{value:.1e}"


def _print_notes(rows: list[Row], small: Problem, problem: Problem, kurtosis: float) -> None:
    checked = [row for row in rows if row.closure is not None]
    if checked:
        ratios = ", ".join(f"{row.name} {row.closure:.2f} ({row.steps} steps)" for row in checked)
        console.print(
            "Literal published defaults that divide by a norm, simulated: mean squared error over "
            f"that of the closed form: {ratios}.",
            soft_wrap=True,
        )
    for row in checked:
        # Written so that NaN, of a simulation that overflowed, is off too.
        if row.closure is not None and not abs(row.closure - 1) <= CLOSURE_HOLDS:
            console.print(
                f"Does not hold: the closed form of {row.name}'s published default at {row.steps} "
                "steps; read that column as the form without the norm.",
                soft_wrap=True,
            )
    if any(row.name == "reddiff" for row in rows):
        console.print(
            "RED-diff's published default is Adam's; plain gradient descent, shown here, is right "
            "in order of magnitude only.",
            soft_wrap=True,
        )
    console.print(
        f"Learned on {small.spectrum.size} of {problem.spectrum.size} modes. Model: Gaussian, "
        f"stationary, no clipping, no network error. Excess kurtosis of the whitened images: "
        f"{kurtosis:.1f} (0 for the model).",
        soft_wrap=True,
    )
