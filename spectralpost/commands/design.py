"""`spectralpost design`: from photographs to a guidance schedule."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from .. import figures
from ..affine import Transfer
from ..errors import InputError
from ..inpainting import is_exact, mode_frequency
from ..learning import (
    LEVELS,
    Learned,
    LearnResult,
    default_free,
    evaluate,
    heuristic,
    learn_on_grid,
    sensitivity,
)
from ..noise import NoiseLevel
from ..noise_grid import NoiseGrid
from ..options import Design
from ..plain_json import text_of
from ..polishing import Polished
from ..prior_file import save_prior
from ..restoration import PixelDenoiser
from ..samplers.base import Guidance, Sampler
from ..schedule import Schedule, provenance
from ..schedule_file import save_schedule
from .calibration import calibrated
from .console import (
    Say,
    baselines_of,
    console,
    levels_in_words,
    metric_table,
    metrics_of,
    modes_in_words,
    quiet,
    transfer_of,
    watched,
)
from .going_on import SCHEDULE, SEARCH, check_same, load_search, schedule_to_begin_from
from .inputs import (
    Inputs,
    check_unused,
    denoiser_in_words,
    denoiser_of,
    free_weights,
    grid_of,
    inputs_of,
    sampler_of,
    search_of,
    title_of,
)
from .photograph import check_borders, prediction_in_words, restored_photograph
from .polish import clean_images, polish_with_progress

FAR_OFF = 3.0  # dB below its prediction: a restoration that diverges
SAME = 1e-3  # of W2^2, relative: a difference that nobody reads in a table


class Result(NamedTuple):
    """A learned schedule, why it is good, and a photograph restored with it."""

    title: str
    schedule: Schedule
    inputs: Inputs
    learned: Learned  # its result is the polished one, if any is
    polished: Polished | None
    # By key of `figures.LABELS`.
    rows: dict[str, dict[str, float]]  # the metrics of the average image
    transfers: dict[str, Transfer]
    importance: Guidance  # see `sensitivity`
    panels: list[figures.Panel]  # the photograph
    photo_rows: dict[str, dict[str, float]]  # its PSNR, measured and predicted
    prediction: str  # what is predicted of it, in words
    as_predicted: bool  # whether what is measured is what is predicted
    denoiser: str  # what restored it, in words
    notes: tuple[str, ...]  # what there is to say of the files


class Asked(NamedTuple):
    """What the options mean, as far as no image is needed for it."""

    sampler: Sampler
    free: tuple[str, ...] | None
    grid: NoiseGrid
    begin: list[Schedule]  # from which searches go on
    resume: Guidance | None
    network: bool  # whether within limits of a network


def compute(options: Design, say: Say = quiet) -> Result:
    """Learn a schedule, hold it against the baselines, restore a photograph with it."""
    asked = asked_for(options)
    inputs = inputs_of(options, options.photo)
    check_borders(options, inputs)
    clean = None
    if options.polish is not None:
        clean, notes = clean_images(options, options.polish, inputs)
        inputs = inputs._replace(notes=(*inputs.notes, *notes))
    denoiser = denoiser_of(options.denoiser, inputs.prior, inputs.photo.shape, asked.sampler)
    if options.denoiser != "gaussian":
        say("calibrating the denoiser")
        inputs = calibrated(options, inputs, denoiser)
    if options.resume is not None:
        check_same(options.resume, asked.sampler, inputs, options.sigma_y)
    learned, polished = learned_on(inputs, asked, options, say), None
    if clean is not None:
        given = learned.grid.levels, learned.result, clean, denoiser, say
        polished = polish_with_progress(options, asked.sampler, inputs, *given)
        learned = with_guidance(learned, polished.guidance, inputs, asked.sampler)
    say("evaluating")
    return judged(options, asked, inputs, denoiser, learned, polished)


def asked_for(options: Design) -> Asked:
    """Options held against each other, and files that a search goes on from; InputError for what
    does not go together."""
    sampler = sampler_of(options)
    free, grid = free_weights(options), grid_of(options, options.steps)
    _check_eta(options, sampler)
    if options.eta is not None and free is None:
        free = default_free(sampler)  # an eta that is named is not learned
    resume = None if options.resume is None else load_search(options.resume / SEARCH)
    begin = []
    if options.start is not None:
        begin.append(schedule_to_begin_from(options.start, options, sampler))
    is_network = options.denoiser != "gaussian"
    network = options.limits == "network" or (options.limits == "auto" and is_network)
    if options.hold_levels and (options.learn_levels or not network):
        why = "they are learned, too" if options.learn_levels else "nothing learns them here"
        raise InputError(f"hold levels: {why}; it goes with limits of a network")
    if options.start is not None:
        check_unused(options, Design(), ("starts",), "design --start, which has one")
    return Asked(sampler, free, grid, begin, resume, network)


def learned_on(inputs: Inputs, asked: Asked, options: Design, say: Say) -> Learned:
    """The search, which begins from the published default where nothing else is given."""

    def start(levels: NoiseLevel) -> Guidance:
        guidance = heuristic(asked.sampler, inputs.problem, levels)
        if options.eta is not None:
            guidance["eta"] = jnp.full_like(guidance["eta"], options.eta)
        return guidance

    return learn_on_grid(
        asked.sampler,
        inputs.small,
        asked.grid,
        start,
        asked.free,
        learn_levels=False if options.hold_levels else options.learn_levels or None,
        network=asked.network,
        schedules=asked.begin,
        search=search_of(options),
        progress=watched(say),
        resume=asked.resume,
    )


def with_guidance(
    learned: Learned, guidance: Guidance, inputs: Inputs, sampler: Sampler
) -> Learned:
    """With these weights in place of what the search found."""
    loss = evaluate(sampler, inputs.small, learned.grid.levels, guidance)
    result = learned.result._replace(guidance=guidance, losses=np.asarray([loss]))
    return learned._replace(result=result)


def judged(
    options: Design,
    asked: Asked,
    inputs: Inputs,
    denoiser: PixelDenoiser,
    learned: Learned,
    polished: Polished | None,
) -> Result:
    """The schedule beside the baselines, in closed form on all modes and on a photograph."""
    sampler, grid, result = asked.sampler, learned.grid, learned.result
    prior, problem = inputs.prior, inputs.problem
    baselines = baselines_of(sampler, problem, grid.levels, result, prior)
    result = result._replace(baseline_guidance=baselines)
    schedules = baselines | {"learned": result.guidance}
    transfers = {
        name: transfer_of(
            "score" if name == "exact" else sampler, problem, grid.levels, schedules[name]
        )
        for name in figures.LABELS
    }
    rows = {name: metrics_of(problem, transfer, prior) for name, transfer in transfers.items()}
    panels, photo_rows = restored_photograph(
        options, sampler, inputs, grid, schedules, transfers, denoiser
    )
    schedule = Schedule.of(
        sampler,
        prior,
        inputs.degradation,
        options.sigma_y,
        grid,
        result.guidance,
        channels=len(inputs.photo),
        objective="wasserstein2" if polished is None else "wasserstein2, polished",
        loss=rows["learned"]["W2^2"],
        baselines={name: rows[name]["W2^2"] for name in figures.LABELS if name != "learned"},
        provenance=provenance(options.seed) | {"limits": "network" if asked.network else "bare"},
    )
    return Result(
        title=f"{sampler.name}, {title_of(options, options.steps, inputs, grid.label)}",
        schedule=schedule,
        inputs=inputs,
        learned=learned._replace(result=result),
        polished=polished,
        rows=rows,
        transfers=transfers,
        importance=sensitivity(sampler, inputs.small, grid.levels, result.guidance, result.free),
        panels=panels,
        photo_rows=photo_rows,
        prediction=prediction_in_words(options, inputs.degradation),
        as_predicted=is_exact(inputs.degradation) and options.borders == "circular",
        denoiser=denoiser_in_words(options.denoiser),
        notes=inputs.notes,
    )


def write(result: Result, folder: Path) -> None:
    inputs, learned = result.inputs, result.learned
    save_schedule(folder / SCHEDULE, result.schedule)
    save_prior(folder / "prior.npz", inputs.prior)
    report = figures.report_figure(
        inputs.problem,
        mode_frequency(inputs.prior, inputs.degradation),
        learned.grid.levels,
        learned.result,
        {figures.LABELS[name]: transfer for name, transfer in result.transfers.items()},
        result.title,
        sensitivity=result.importance,
    )
    figures.save_figure(report, folder / "report.png")
    title = f"{inputs.photo_name}, restored with {result.denoiser}: {result.title}"
    restored = figures.restored_figure([result.panels], title, inputs.prior.pixel_range)
    figures.save_figure(restored, folder / "restored.png")
    found = {
        "average image": result.rows,
        inputs.photo_name: result.photo_rows,
        "sensitivity": {name: step.tolist() for name, step in result.importance.items()},
    }
    (folder / "metrics.json").write_text(text_of(found))
    np.savez(folder / SEARCH, **jax.tree.map(np.asarray, learned.search.kept))


def present(result: Result) -> None:
    inputs, learned = result.inputs, result.learned
    if LEVELS in learned.search.kept:
        console.print(f"Learned levels: {levels_in_words(learned.grid)}", soft_wrap=True)
    if (polished := result.polished) is not None:
        console.print(
            f"Polished in {polished.curve.size} steps, {polished.seconds:.0f} s: energy score on "
            f"the images kept out {polished.kept_out[0]:.5f} before, {polished.kept_out.min():.5f} "
            "after.",
            soft_wrap=True,
        )
    console.print(metric_table(result.rows, result.title))
    if result.rows["tuned_constant"]["W2^2"] < (1 - SAME) * result.rows["learned"]["W2^2"]:
        console.print(
            "In the model the tuned constant is better: limits on amplification and roughness, "
            "which keep a schedule usable, hold what is learned, not it (`sp.Prices`).",
            soft_wrap=True,
        )
    title = f"{inputs.photo_name}, restored with {result.denoiser}: PSNR in dB"
    exact = is_exact(inputs.degradation)
    table = Table(title=title, caption=result.prediction)
    table.add_column("schedule")
    for column in result.photo_rows["learned"]:
        table.add_column(column.rpartition(", ")[2], justify="right")
    for name, row in result.photo_rows.items():
        table.add_row(figures.LABELS[name], *(f"{value:.2f}" for value in row.values()))
    console.print(table)
    # Of levels where these are learned: weights for rounded ones begin from the best alone.
    losses = learned.search.final_losses
    agreed = ""
    if len(losses) > 1:
        near = np.sum(losses <= 1.01 * losses[0])
        agreed = (
            f"; {near} of the {len(losses)} schedules that were refined end within 1 % of the best"
        )
    measured, predicted, *_ = result.photo_rows["learned"].values()
    if result.as_predicted and not measured >= predicted - FAR_OFF:
        worse = f"{predicted - measured:.0f} dB" if np.isfinite(measured) else "infinitely"
        console.print(
            f"The photograph is {worse} worse than predicted: "
            f"{result.denoiser} is too far from the model for this schedule. Do not use it; try "
            "another sampler."
        )
    on = modes_in_words(inputs)
    if exact:
        error = _binning_error(float(learned.result.losses[0]), result.rows["learned"]["W2^2"])
        on += f" (loss off by {error})"
    console.print(
        f"Learned on {on}{agreed}{_how_it_ended(learned.result)}.\n"
        f"Model: Gaussian, stationary, no clipping, no network error. Excess kurtosis of the "
        f"whitened images: {inputs.kurtosis:.1f} (0 for the model).",
        soft_wrap=True,
    )


def _check_eta(options: Design, sampler: Sampler) -> None:
    if options.eta is not None and "eta" not in sampler.constraint:
        raise InputError(f"eta = {options.eta}: {sampler.name} has no eta")
    if options.eta is not None and not 0 <= options.eta <= 1:
        raise InputError(f"eta = {options.eta}: must be between 0 and 1")


def _binning_error(binned: float, exact: float) -> str:
    error = abs(binned / exact - 1)
    return f"{error:.1e}" + (": more than 0.1 %, raise --bins" if error > 1e-3 else "")


def _how_it_ended(result: LearnResult) -> str:
    if result.interrupted:
        return "; interrupted, this is the best so far (--resume goes on)"
    return "" if result.converged else "; not converged"
