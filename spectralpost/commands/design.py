"""`spectralpost design`: from photographs to a guidance schedule."""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from .. import figures, metrics
from ..cli import Design, to_yaml
from ..degradations import Degradation
from ..denoisers.gaussian import GaussianDenoiser
from ..errors import InputError
from ..files import check_free, fresh_folder, whole_folder
from ..learning import LearnResult, sensitivity
from ..noise import NoiseLevel
from ..prior import Prior, save_prior
from ..problem import Problem, image_problem
from ..restoration import measure, restore
from ..samplers import make_sampler
from ..samplers.base import Guidance, Sampler
from ..schedule_file import Schedule, provenance, save_schedule
from ..transfer import Transfer
from .console import (
    LABELS,
    console,
    image_psnr,
    learn_with_progress,
    score_table,
    scores_of,
    transfer_of,
)
from .setting import (
    degradation_of,
    levels_of,
    merged,
    nearest_levels,
    parsed_options,
    prior_and_photo,
    title_of,
)

SEARCH = "search.npz"  # what --resume goes on from


def design(options: Design) -> None:
    """Learn a schedule, show why it is good, restore a photograph with it."""
    out = options.out or fresh_folder("runs", "design")
    check_free(out)
    if options.sampler == "exact":
        raise InputError("sampler = 'exact': is the reference of every run, with nothing to learn")
    sampler_options = parsed_options(options.sampler_options)
    sampler = make_sampler(options.sampler, **sampler_options)
    levels, timesteps, grid = levels_of(options, options.steps)
    prior, photo, photo_name, kurtosis = prior_and_photo(options, options.photo)
    degradation = degradation_of(options, options.degradation, prior.shape)
    problem = image_problem(prior, degradation, options.sigma_y, channels=len(photo))

    if options.eta is not None and "eta" not in sampler.constraint:
        raise InputError(f"eta = {options.eta}: {sampler.name} has no eta")
    if options.eta is not None and not 0 <= options.eta <= 1:
        raise InputError(f"eta = {options.eta}: must be between 0 and 1")
    resume = None if options.resume is None else load_search(options.resume / SEARCH)
    small = merged(problem, options.bins)

    def learned_on(levels: NoiseLevel, resume: Guidance | None, learn_levels: bool = False):
        guidance = jax.jit(sampler.heuristic)(problem, levels)
        if options.eta is not None:
            guidance["eta"] = jnp.full_like(guidance["eta"], options.eta)
        arguments = guidance, options.free, options.starts, options.seed, resume, learn_levels
        return learn_with_progress(sampler, small, levels, *arguments)

    if options.learn_levels:
        search = learned_on(levels, resume, learn_levels=True)
        levels, timesteps, grid = nearest_levels(options, search.levels)
        console.print(f"Learned levels: {_levels_in_words(levels, timesteps)}", soft_wrap=True)
        result = learned_on(levels, None)
    else:
        search = result = learned_on(levels, resume)

    schedules = result.baseline_guidance | {"learned": result.guidance}
    transfers = {
        name: transfer_of("score" if name == "exact" else sampler, problem, levels, schedules[name])
        for name in LABELS
    }
    scores = {name: scores_of(problem, transfer, prior) for name, transfer in transfers.items()}
    title = f"{sampler.name}, {title_of(options, options.steps, grid)}"
    console.print(score_table(scores, title))

    importance = sensitivity(sampler, small, levels, result.guidance, result.free)
    panels, photo_scores = _restore_photo(
        sampler, prior, degradation, problem, levels, schedules, transfers, photo, options
    )
    _print_notes(small, problem, scores, result, kurtosis, photo_name, photo_scores)

    schedule = Schedule(
        sampler_name=options.sampler,
        sampler_options=sampler_options,
        levels=levels,
        timesteps=timesteps,
        grid=grid,
        guidance=result.guidance,
        degradation_name=degradation.name,
        degradation_options=degradation.options,
        shape=prior.shape,
        channels=len(photo),
        sigma_y=options.sigma_y,
        pixel_range=prior.pixel_range,
        prior_source=prior.source,
        prior_hash=prior.hash,
        objective="wasserstein2",
        loss=scores["learned"]["W2^2"],
        baselines={name: scores[name]["W2^2"] for name in LABELS if name != "learned"},
        provenance=provenance(options.seed),
    )
    report = figures.report_figure(
        problem,
        prior.shape,
        levels,
        result,
        {LABELS[name]: transfer for name, transfer in transfers.items()},
        title,
        sensitivity=importance,
    )
    restored = figures.restored_figure([panels], f"{photo_name}: {title}", prior.pixel_range)
    with whole_folder(out) as folder:
        save_schedule(folder / "schedule.json", schedule)
        save_prior(folder / "prior.npz", prior)
        figures.save_figure(report, folder / "report.png")
        figures.save_figure(restored, folder / "restored.png")
        (folder / "scores.json").write_text(
            json.dumps(
                {
                    "average image": scores,
                    photo_name: photo_scores,
                    "sensitivity": {name: step.tolist() for name, step in importance.items()},
                },
                indent=1,
            )
            + "\n"
        )
        (folder / "config.yaml").write_text(to_yaml(options))
        np.savez(folder / SEARCH, **jax.tree.map(np.asarray, search.kept))
    console.print(f"results in {out}: schedule.json, report.png, restored.png", soft_wrap=True)


def _binning_error(binned: float, exact: float) -> str:
    error = abs(binned / exact - 1)
    return f"{error:.1e}" + (": more than 0.1 %, raise --bins" if error > 1e-3 else "")


def _how_it_ended(result: LearnResult) -> str:
    if result.interrupted:
        return "; interrupted, this is the best so far (--resume goes on)"
    return "" if result.converged else "; not converged"


def _levels_in_words(levels: NoiseLevel, timesteps: tuple[int, ...] | None) -> str:
    if timesteps is not None:
        return "time steps " + " ".join(map(str, timesteps))
    return "sigma " + " ".join(f"{sigma:.3g}" for sigma in np.asarray(levels.sigma))


def load_search(path: Path) -> Guidance:
    """What an earlier search found, for `learn(resume=)`."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: jnp.asarray(stored[name]) for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"resume {str(path)!r}: cannot be read ({error})") from error


def _restore_photo(
    sampler: Sampler,
    prior: Prior,
    degradation: Degradation,
    problem: Problem,
    levels: NoiseLevel,
    schedules: dict[str, Guidance],
    transfers: dict[str, Transfer],
    photo: np.ndarray,
    options: Design,
) -> tuple[list[figures.Panel], dict[str, dict[str, float]]]:
    """The panels of the photograph, and PSNR measured and predicted for each schedule."""
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    x_0 = jnp.asarray(photo)
    y = measure(degradation, x_0, options.sigma_y, noise_key)
    panels = [
        figures.Panel("photograph", photo),
        figures.Panel("measurement", np.asarray(y), f"measured {image_psnr(y, x_0, prior):.1f} dB"),
    ]
    scores = {}
    for name in ("heuristic", "learned"):
        restored = restore(
            sampler,
            GaussianDenoiser.of(prior),
            degradation,
            y,
            levels,
            schedules[name],
            sampler_key,
            sigma_y=options.sigma_y,
        )
        mean = degradation.to_modes(jnp.asarray(prior.mean))
        modes = degradation.to_modes(x_0) - mean[None]
        predicted = jnp.mean(
            jnp.stack([metrics.image_mse(problem, transfers[name], plane) for plane in modes])
        )
        average = metrics.mse(problem, transfers[name])
        scores[name] = {
            "PSNR measured": image_psnr(restored, x_0, prior),
            "PSNR predicted, this image": float(metrics.psnr(predicted, prior.pixel_range)),
            "PSNR predicted, average image": float(metrics.psnr(average, prior.pixel_range)),
        }
        measured, this, average = scores[name].values()
        caption = (
            f"measured {measured:.1f} dB\npredicted {this:.1f} dB (this image)\n"
            f"predicted {average:.1f} dB (average image)"
        )
        panels.append(figures.Panel(f"restored, {LABELS[name]}", np.asarray(restored), caption))
    return panels, scores


def _print_notes(
    small: Problem,
    problem: Problem,
    scores: dict[str, dict[str, float]],
    result: LearnResult,
    kurtosis: float,
    photo_name: str,
    photo_scores: dict[str, dict[str, float]],
) -> None:
    table = Table(title=f"{photo_name}, restored with the Gaussian denoiser: PSNR in dB")
    table.add_column("schedule")
    for column in ("measured", "predicted, this image", "predicted, average image"):
        table.add_column(column, justify="right")
    for name, row in photo_scores.items():
        table.add_row(LABELS[name], *(f"{value:.2f}" for value in row.values()))
    console.print(table)
    near = np.sum(result.final_losses <= 1.01 * result.final_losses[0])
    exact_loss = scores["learned"]["W2^2"]
    console.print(
        f"Learned on {small.spectrum.size} of {problem.spectrum.size} modes (loss off by "
        f"{_binning_error(result.loss, exact_loss)}); {near} of the {len(result.final_losses)} "
        f"schedules that were refined end within 1 % of the best"
        f"{_how_it_ended(result)}.\n"
        f"Model: Gaussian, stationary, no clipping, no network error. Excess kurtosis of the "
        f"whitened images: {kurtosis:.1f} (0 for the model).",
        soft_wrap=True,
    )
