"""What the commands of the command line do."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import figures, images, metrics, noise, schedule_file
from .cli import Design, Evaluate, Restore, Samplers, to_yaml
from .degradation import Degradation, make_degradation
from .denoiser import GaussianDenoiser
from .errors import InputError
from .files import check_free, fresh_folder, whole_folder
from .learning import LearnResult, learn
from .noise import NoiseLevel
from .prior import Prior, excess_kurtosis, from_images, load_prior, resized, save_prior
from .problem import Problem, bin_modes, image_problem, make_problem, unique_modes
from .restoration import measure, restore
from .samplers import SAMPLERS, make_sampler
from .samplers.exact import exact
from .schedule_file import Schedule, load_schedule, save_schedule
from .step import Guidance, Sampler
from .transfer import Transfer, sampler_transfer

BUILT_IN_SIZE = 128
MAX_ITERATIONS = 200

LABELS = {
    "heuristic": "published default",
    "tuned_constant": "tuned constant",
    "learned": "learned",
    "exact": "exact reference",
}

console = Console()


def run(options: Design | Evaluate | Restore | Samplers) -> None:
    """Run the command that the options belong to."""
    # A thousand steps multiply small numbers: double precision costs little here.
    jax.config.update("jax_enable_x64", True)
    commands = {Design: design, Evaluate: evaluate, Restore: restore_image, Samplers: list_samplers}
    commands[type(options)](options)


# ----------------------------------------------------------------------------------------- design


def design(options: Design) -> None:
    """Learn a schedule, show why it is good, restore a photograph with it."""
    out = options.out or fresh_folder("runs", "design")
    check_free(out)
    if options.sampler == "exact":
        raise InputError("sampler = 'exact': is the reference of every run, with nothing to learn")
    sampler = make_sampler(options.sampler)
    levels, timesteps, grid = _levels(options)
    prior, photo, photo_name, kurtosis = _prior_and_photo(options)
    degradation = _degradation(options, options.degradation, prior.shape)
    problem = image_problem(prior, degradation, options.sigma_y, channels=len(photo))

    guidance = sampler.heuristic(problem, levels)
    if options.eta is not None:
        if "eta" not in guidance:
            raise InputError(f"eta = {options.eta}: {sampler.name} has no eta")
        if not 0 <= options.eta <= 1:
            raise InputError(f"eta = {options.eta}: must be between 0 and 1")
        guidance["eta"] = jnp.full_like(guidance["eta"], options.eta)
    small = _merged(problem, options.bins)
    result = _learn_with_progress(
        sampler, small, levels, guidance, options.learn, options.starts, options.seed
    )

    schedules = result.baseline_guidance | {"learned": result.guidance}
    transfers = {
        name: _transfer(sampler, problem, levels, schedules[name], name) for name in LABELS
    }
    scores = {name: _scores(problem, transfer, prior) for name, transfer in transfers.items()}
    title = (
        f"{sampler.name}, {options.steps} steps ({grid}), {options.degradation}, "
        f"sigma_y = {options.sigma_y:g} in [{prior.pixel_range[0]:g}, {prior.pixel_range[1]:g}]"
    )
    console.print(_score_table(scores, title))

    panels, photo_scores = _restore_photo(
        sampler, prior, degradation, problem, levels, schedules, transfers, photo, options
    )
    _print_notes(small, problem, scores, result, kurtosis, photo_name, photo_scores)

    schedule = Schedule(
        sampler_name=options.sampler,
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
        provenance=schedule_file.provenance(options.seed),
    )
    report = figures.report_figure(
        problem,
        prior.shape,
        levels,
        result,
        {LABELS[name]: transfer for name, transfer in transfers.items()},
        title,
    )
    restored = figures.restored_figure([panels], f"{photo_name}: {title}", prior.pixel_range)
    with whole_folder(out) as folder:
        save_schedule(folder / "schedule.json", schedule)
        save_prior(folder / "prior.npz", prior)
        figures.save_figure(report, folder / "report.png")
        figures.save_figure(restored, folder / "restored.png")
        (folder / "scores.json").write_text(
            json.dumps({"average image": scores, photo_name: photo_scores}, indent=1) + "\n"
        )
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: schedule.json, report.png, restored.png", soft_wrap=True)


def _prior_and_photo(options: Design) -> tuple[Prior, np.ndarray, str, float]:
    """The prior, a photograph [C, H, W] kept out of it, its name, and the set's kurtosis."""
    pixel_range = options.pixel_range
    images.check_pixel_range(pixel_range)
    size = options.size
    if size is not None and size < 2:
        raise InputError(f"size = {size}: must be >= 2")
    if options.images is None:
        found = images.built_in_photographs(options.channels, pixel_range)
        source, size = "photographs of scikit-image", size or BUILT_IN_SIZE
    else:
        found = images.load_folder(options.images, options.channels, pixel_range)
        source = f"{len(found)} images of {options.images.name}"
    if options.photo is not None:
        photo_name = options.photo.name
        photo = images.load_image(options.photo, options.channels, pixel_range)
    else:
        photo_name = next(iter(found))
        photo = found[photo_name]
        if len(found) > 1:  # with a single image, the prior has to come from the photograph itself
            del found[photo_name]
    if size is None:
        planes = images.all_planes(found.values())
        size_yx = planes.shape[1:]
    else:
        tiles = [tile for image in found.values() for tile in images.tiles(image, size)]
        if not tiles:
            raise InputError(f"size = {size}: no image is that large")
        planes = images.all_planes(tiles)
        size_yx = (size, size)
        source += f", tiles of {size}x{size}"
    prior = from_images(planes, window=options.window, pixel_range=pixel_range, source=source)
    if any(have < want for have, want in zip(photo.shape[1:], size_yx, strict=True)):
        raise InputError(
            f"photo {photo_name!r} of size {photo.shape[1]}x{photo.shape[2]}: "
            f"smaller than the prior's {size_yx[0]}x{size_yx[1]}"
        )
    top, left = ((have - want) // 2 for have, want in zip(photo.shape[1:], size_yx, strict=True))
    photo = photo[:, top : top + size_yx[0], left : left + size_yx[1]]
    return prior, photo, photo_name, excess_kurtosis(prior, planes)


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
        figures.Panel("measurement", np.asarray(y), f"measured {_psnr(y, x_0, prior):.1f} dB"),
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
        modes = degradation.to_modes(x_0) - mean
        predicted = jnp.mean(
            jnp.stack([metrics.image_mse(problem, transfers[name], plane) for plane in modes])
        )
        average = metrics.mse(problem, transfers[name])
        scores[name] = {
            "PSNR measured": _psnr(restored, x_0, prior),
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
    near = np.mean(result.start_losses <= 1.01 * result.loss)
    exact_loss = scores["learned"]["W2^2"]
    console.print(
        f"Learned on {small.spectrum.size} of {problem.spectrum.size} modes (loss off by "
        f"{abs(result.loss / exact_loss - 1):.1e}); {near:.0%} of the starts end within 1 % of the "
        f"best{'' if result.converged else '; not converged'}.\n"
        f"Model: Gaussian, stationary, no clipping, no network error. Excess kurtosis of the "
        f"whitened images: {kurtosis:.1f} (0 for the model)."
    )


# --------------------------------------------------------------------------- evaluate and restore


def evaluate(options: Evaluate) -> None:
    """Score a schedule on another problem, beside the defaults and a schedule learned for it."""
    out = options.out or fresh_folder("runs", "evaluate")
    check_free(out)
    schedule = load_schedule(options.schedule)
    prior = _stored_prior(options.schedule, options.prior, schedule)
    if options.degradation is None:
        degradation = schedule.degradation(prior.shape)
    else:
        degradation = _degradation(options, options.degradation, prior.shape)
    sigma_y = schedule.sigma_y if options.sigma_y is None else options.sigma_y
    problem = image_problem(prior, degradation, sigma_y, channels=schedule.channels)
    sampler, levels = schedule.sampler(), schedule.levels
    heuristic = sampler.heuristic(problem, levels)
    if "eta" in heuristic:
        heuristic["eta"] = schedule.guidance["eta"]
    rows = {"published default": heuristic, "this schedule": schedule.guidance}
    if options.relearn:
        small = _merged(problem, Design.bins)
        result = _learn_with_progress(
            sampler, small, levels, heuristic, None, Design.starts, options.seed
        )
        rows["tuned constant"] = result.baseline_guidance["tuned_constant"]
        rows["learned for this problem"] = result.guidance
    transfers = {
        name: sampler_transfer(sampler, problem, levels, guidance)
        for name, guidance in rows.items()
    }
    eta = schedule.guidance.get("eta", jnp.zeros_like(levels.alpha[1:]))
    transfers["exact reference"] = sampler_transfer(exact(problem), problem, levels, {"eta": eta})
    scores = {name: _scores(problem, transfer, prior) for name, transfer in transfers.items()}
    title = f"{options.schedule.name} on {degradation.name}, sigma_y = {sigma_y:g}"
    console.print(_score_table(scores, title))
    with whole_folder(out) as folder:
        (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: scores.json", soft_wrap=True)


def restore_image(options: Restore) -> None:
    """Restore an image; with simulate, degrade it first."""
    out = options.out or fresh_folder("runs", "restore")
    check_free(out)
    if options.samples < 1:
        raise InputError(f"samples = {options.samples}: must be >= 1")
    schedule = load_schedule(options.schedule)
    prior = _stored_prior(options.schedule, options.prior, schedule)
    channels = "luminance" if schedule.channels == 1 else "rgb"
    image = jnp.asarray(images.load_image(options.image, channels, prior.pixel_range))
    prior = resized(prior, image.shape[1:])
    degradation = schedule.degradation(prior.shape)
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    panels, y = [], image
    if options.simulate:
        y = measure(degradation, image, schedule.sigma_y, noise_key)
        panels.append(figures.Panel("photograph", np.asarray(image)))
    caption = f"{_psnr(y, image, prior):.1f} dB" if options.simulate else ""
    panels.append(figures.Panel("measurement", np.asarray(y), caption))
    restored = restore(
        schedule.sampler(),
        GaussianDenoiser.of(prior),
        degradation,
        y,
        schedule.levels,
        schedule.guidance,
        sampler_key,
        sigma_y=schedule.sigma_y,
        num_samples=options.samples,
    )
    for i, sample in enumerate(restored):
        caption = f"{_psnr(sample, image, prior):.1f} dB" if options.simulate else ""
        panels.append(figures.Panel(f"restored, sample {i + 1}", np.asarray(sample), caption))
        if options.simulate:
            console.print(f"sample {i + 1}: PSNR {_psnr(sample, image, prior):.2f} dB")
    steps = noise.num_steps_of(schedule.levels)
    title = f"{options.image.name}: {schedule.sampler_name}, {steps} steps"
    figure = figures.restored_figure([panels], title, prior.pixel_range)
    with whole_folder(out) as folder:
        for i, sample in enumerate(restored):
            images.save_image(
                folder / f"restored-{i + 1}.png", np.asarray(sample), prior.pixel_range
            )
        figures.save_figure(figure, folder / "overview.png")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: restored-1.png, overview.png", soft_wrap=True)


def list_samplers(options: Samplers) -> None:
    """Print the table of samplers."""
    del options
    table = Table("name", "update", "weights", "reference")
    some_problem = make_problem([1.0], [1.0], 1.0)
    for name, factory in SAMPLERS.items():
        sampler = factory(some_problem) if name == "exact" else factory()
        weights = ", ".join(
            f"{weight} {'in [0, 1]' if kind == 'unit' else '>= 0'}"
            for weight, kind in sampler.constraint.items()
        )
        table.add_row(name, sampler.summary, weights, sampler.reference)
    console.print(table)


# ------------------------------------------------------------------------------------ shared parts


def _levels(options: Design) -> tuple[NoiseLevel, tuple[int, ...] | None, str]:
    """The grid, its time steps if it has any, and its name for people."""
    name = options.grid.replace("-", "_")
    if not name.startswith("vp"):
        return getattr(noise, name)(options.steps), None, options.grid
    levels = getattr(noise, name)(options.steps, options.spacing)
    timesteps = noise.vp_timesteps(options.steps, options.spacing)
    return levels, tuple(timesteps.tolist()), f"{options.grid}, {options.spacing}"


def _degradation(options: Design | Evaluate, name: str, shape: tuple[int, ...]) -> Degradation:
    choices: dict[str, dict[str, Any]] = {
        "identity": {},
        "gaussian-blur": {"std": options.blur_std},
        "uniform-blur": {"size": options.blur_size},
        "motion-blur": {"length": options.motion_length, "angle": options.motion_angle},
    }
    if name == "kernel":
        return make_degradation("from_kernel", shape, kernel=_load_kernel(options.kernel))
    return make_degradation(name.replace("-", "_"), shape, **choices[name])


def _load_kernel(path: Path | None) -> np.ndarray:
    if path is None:
        raise InputError("degradation = kernel: needs --kernel FILE")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(float)
        return np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise InputError(f"kernel {str(path)!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"kernel {str(path)!r}: not rows of numbers, nor a .npy file") from error


def _stored_prior(schedule_path: Path, prior_path: Path | None, schedule: Schedule) -> Prior:
    """The prior of a schedule; InputError if the file beside it is another one."""
    prior = load_prior(prior_path or schedule_path.with_name("prior.npz"))
    if prior_path is None and prior.hash != schedule.prior_hash:
        raise InputError(
            f"prior {str(schedule_path.with_name('prior.npz'))!r}: hash {prior.hash}, the schedule "
            f"was made for {schedule.prior_hash}; name the prior with --prior"
        )
    if prior.pixel_range != schedule.pixel_range:
        raise InputError(
            f"prior: pixel range {prior.pixel_range}, the schedule's is {schedule.pixel_range}"
        )
    return prior


def _merged(problem: Problem, bins: int) -> Problem:
    return bin_modes(unique_modes(problem)[0], bins)[0]


def _learn_with_progress(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...] | None,
    num_starts: int,
    seed: int,
) -> LearnResult:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling and looking for the best constant", total=MAX_ITERATIONS)

        def progress(iteration: int, loss: float) -> None:
            bar.update(task, completed=iteration, description=f"learning: W2^2 = {loss:.6f}")

        return learn(
            sampler,
            problem,
            levels,
            guidance,
            free,
            num_starts=num_starts,
            max_iterations=MAX_ITERATIONS,
            seed=seed,
            progress=progress,
        )


def _transfer(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance, name: str
) -> Transfer:
    if name == "exact":
        sampler = exact(problem)
    return sampler_transfer(sampler, problem, levels, guidance)


def _scores(problem: Problem, transfer: Transfer, prior: Prior) -> dict[str, float]:
    return {
        "W2^2": float(metrics.wasserstein2(problem, transfer)),
        "PSNR": float(metrics.psnr(metrics.mse(problem, transfer), prior.pixel_range)),
        "perception": float(metrics.perception(problem, transfer)),
    }


def _score_table(scores: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(
        title=title,
        caption="per pixel, averaged over measurements; W2^2: distance to "
        "the true posterior; perception: W2^2 from outputs to images",
    )
    table.add_column("schedule")
    for column in ("W2^2", "predicted PSNR (dB)", "perception"):
        table.add_column(column, justify="right")
    for name, row in scores.items():
        table.add_row(
            LABELS.get(name, name),
            f"{row['W2^2']:.6f}",
            f"{row['PSNR']:.2f}",
            f"{row['perception']:.6f}",
        )
    return table


def _psnr(image: Array, reference: Array, prior: Prior) -> float:
    return float(metrics.psnr(jnp.mean((image - reference) ** 2), prior.pixel_range))
