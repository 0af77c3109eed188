"""`spectralpost compare`: all samplers on one problem, for some numbers of steps."""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.table import Table

from .. import figures, metrics
from ..denoiser_use import uses_of
from ..denoisers.gaussian import GaussianDenoiser
from ..errors import InputError
from ..inpainting import is_exact
from ..learning import heuristic, learn
from ..noise import NoiseLevel, num_steps_of
from ..options import Compare
from ..plain_json import text_of
from ..prior import draw
from ..problem import image_modes
from ..restoration import measure, restore
from ..samplers import SAMPLERS, make_sampler
from ..samplers.base import Sampler
from ..samplers.exact import KINDS, Kind, exact
from .console import (
    Say,
    baselines_of,
    console,
    ended_early,
    metrics_of,
    modes_in_words,
    print_whole,
    quiet,
    transfer_of,
    watched,
)
from .inputs import Inputs, grid_of, inputs_of, search_of, title_of

SCHEDULES = ("heuristic", "tuned_constant", "learned")
# Columns of the table that a narrow terminal does without: PSNR and perception, learned last.
SPARE = (8, 9, 5, 6, 10, 7, 1)
REFERENCES = {
    "score": "exact score, DDIM(0)",
    "flow": "exact score, Heun",
    "kernel": "exact kernel",
}
CHECK_IMAGES = 4
CLOSURE_HOLDS = 0.1  # relative error of a predicted mean squared error


class Row(NamedTuple):
    """A sampler, or a reference, at one number of steps."""

    name: str
    steps: int
    calls: int  # of the network
    metrics: dict[str, dict[str, float]]  # schedule -> W2^2, PSNR, perception
    seconds: float  # that learning took, compilation included
    closure: float | None  # measured / predicted error of the literal published default
    interrupted: bool  # by the user: learned is the best so far


class Result(NamedTuple):
    """Samplers, best first, and references at each number of steps."""

    title: str
    inputs: Inputs
    titles: dict[int, str]  # steps -> problem and grid in a line
    samplers: dict[int, list[Row]]
    references: dict[int, list[Row]]
    notes: tuple[str, ...]  # what there is to say of the files


def compute(options: Compare, say: Say = quiet) -> Result:
    """Tune, learn and evaluate all samplers."""
    names = options.samplers
    if names is None:
        names = tuple(name for name in SAMPLERS if name != "exact")
    for given, values in {"samplers": names, "steps": options.steps}.items():
        if len(set(values)) < len(values) or not values:
            words = " ".join(map(str, values)) or "nothing"
            raise InputError(f"{given} = {words}: name one at least, and each once")
    if "exact" in names:
        raise InputError("samplers: 'exact' is the reference of every run, leave it out")
    samplers = [make_sampler(name) for name in names]
    grids = {steps: grid_of(options, steps) for steps in options.steps}
    inputs = inputs_of(options)
    found: dict[int, list[Row]] = {}
    for i, (steps, grid) in enumerate(grids.items()):
        rows = []
        for j, sampler in enumerate(samplers):
            number = f"{i * len(samplers) + j + 1} of {len(grids) * len(samplers)}"
            title = f"{sampler.name}, {steps} steps ({number})"
            row = _learned_row(sampler, inputs, grid.levels, options, say, title)
            # What is simulated is an image: of a mask the closed form is of small models of it.
            exact = is_exact(inputs.degradation)
            if options.check and exact and sampler.literal is not None:
                say(f"{title}: simulating")
                row = row._replace(closure=_closure(sampler.literal, inputs, grid.levels, options))
            rows.append(row)
        found[steps] = sorted(rows, key=lambda row: row.metrics["learned"]["W2^2"])
    return Result(
        title=f"{inputs.degradation.name}, sigma_y = {options.sigma_y:g}",
        inputs=inputs,
        titles={n: title_of(options, n, inputs, grid.label) for n, grid in grids.items()},
        samplers=found,
        references={
            steps: [_reference_row(kind, inputs, grid.levels) for kind in KINDS]
            for steps, grid in grids.items()
        },
        notes=inputs.notes,
    )


def write(result: Result, folder: Path) -> None:
    drawn = (REFERENCES["score"], REFERENCES["flow"])
    figure = figures.compare_figure(
        {
            steps: {
                _with_calls(row): {
                    figures.LABELS[key]: row.metrics[key]["W2^2"] for key in row.metrics
                }
                for row in rows
            }
            for steps, rows in result.samplers.items()
        },
        {
            steps: {row.name: row.metrics["exact"]["W2^2"] for row in rows if row.name in drawn}
            for steps, rows in result.references.items()
        },
        result.title,
    )
    figures.save_figure(figure, folder / "compare.png")
    rows = [row for n in result.samplers for row in result.samplers[n] + result.references[n]]
    (folder / "compare.json").write_text(text_of([row._asdict() for row in rows]))


def present(result: Result) -> None:
    for steps, title in result.titles.items():
        print_whole(_table(result.samplers[steps], result.references[steps], title), SPARE)
    _print_notes(result)


def _learned_row(
    sampler: Sampler, inputs: Inputs, levels: NoiseLevel, options: Compare, say: Say, title: str
) -> Row:
    problem, steps = inputs.problem, num_steps_of(levels)
    begin = time.perf_counter()
    learned = learn(
        sampler,
        inputs.small,
        levels,
        heuristic(sampler, problem, levels),
        search=search_of(options),
        progress=watched(say, title),
    )
    seconds = time.perf_counter() - begin
    baselines = baselines_of(sampler, problem, levels, learned, inputs.prior)
    schedules = baselines | {"learned": learned.guidance}
    found = {
        key: metrics_of(
            problem, transfer_of(sampler, problem, levels, schedules[key]), inputs.prior
        )
        for key in SCHEDULES
    }
    calls = steps * uses_of(sampler, problem).calls
    return Row(sampler.name, steps, calls, found, seconds, None, learned.interrupted)


def _reference_row(kind: Kind, inputs: Inputs, levels: NoiseLevel) -> Row:
    problem, steps = inputs.problem, num_steps_of(levels)
    sampler = exact(problem, kind)
    guidance = sampler.heuristic(problem, levels)
    found = metrics_of(problem, transfer_of(kind, problem, levels, guidance), inputs.prior)
    calls = steps * uses_of(sampler, problem).calls
    return Row(REFERENCES[kind], steps, calls, {"exact": found}, 0.0, None, False)


def _closure(sampler: Sampler, inputs: Inputs, levels: NoiseLevel, options: Compare) -> float:
    """Mean squared error of the literal published default, over that of its closed form.

    For a few images drawn from the prior, so that nothing but the closure can differ.
    """
    prior, degradation, problem = inputs.prior, inputs.degradation, inputs.problem
    guidance = heuristic(sampler, problem, levels)
    num = CHECK_IMAGES * (1 if prior.axes is not None else len(inputs.photo))
    x_0 = jnp.asarray(draw(prior, num, options.seed))
    x_0 = x_0.reshape(CHECK_IMAGES, len(inputs.photo), *prior.shape)
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    y = measure(degradation, x_0, options.sigma_y, noise_key)
    denoiser = GaussianDenoiser.of(prior)
    restored = restore(
        sampler, denoiser, degradation, y, levels, guidance, sampler_key, sigma_y=options.sigma_y
    )
    transfer = transfer_of(sampler, problem, levels, guidance)
    errors = jax.vmap(lambda plane: metrics.image_mse(problem, transfer, plane))
    predicted = jnp.mean(errors(image_modes(prior, degradation, x_0)))
    return float(jnp.mean((restored - x_0) ** 2) / predicted)


def _table(found: list[Row], references: list[Row], title: str) -> Table:
    columns = [(key, metric) for metric in ("W2^2", "PSNR", "perception") for key in SCHEDULES]
    heads = {"heuristic": "published", "tuned_constant": "tuned", "learned": "learned"}
    names = {"W2^2": "W2^2", "PSNR": "PSNR", "perception": "perc."}
    table = Table(
        title=title,
        caption="per pixel, averaged over measurements; PSNR predicted, in dB; perc.: perception, "
        "W2^2 from outputs to images; calls: of the network",
    )
    table.add_column("sampler", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for key, metric in columns:
        table.add_column(f"{names[metric]}\n{heads[key]}", justify="right", no_wrap=True)
    for row in found:
        cells = [_number(row.metrics[key][metric], metric) for key, metric in columns]
        table.add_row(row.name, str(row.calls), *cells)
    table.add_section()
    for row in references:
        cells = [
            _number(row.metrics["exact"][metric], metric) if key == "learned" else ""
            for key, metric in columns
        ]
        table.add_row(row.name, str(row.calls), *cells)
    return table


def _with_calls(row: Row) -> str:
    """The name for the figure, where it needs more than one call of the network a step."""
    calls = row.calls // row.steps
    return row.name if calls == 1 else f"{row.name} ({calls} calls a step)"


def _number(value: float, metric: str) -> str:
    if metric == "PSNR":
        return f"{value:.1f}"
    return f"{value:.5f}" if 1e-4 <= value < 100 else f"{value:.1e}"


def _print_notes(result: Result) -> None:
    inputs, rows = result.inputs, [row for rows in result.samplers.values() for row in rows]
    ended_early(f"{row.name} ({row.steps} steps)" for row in rows if row.interrupted)
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
    for name in dict.fromkeys(row.name for row in rows):
        if caveat := SAMPLERS[name]().caveat:
            console.print(caveat, soft_wrap=True)
    console.print(
        f"Learned on {modes_in_words(inputs)}. Model: "
        f"Gaussian, stationary, no clipping, no network error. Excess kurtosis of the whitened "
        f"images: {inputs.kurtosis:.1f} (0 for the model).",
        soft_wrap=True,
    )
