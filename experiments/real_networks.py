"""Schedules on a trained network: do those learned in closed form restore better?

The shipped U-Net in place of the Gaussian denoiser, on images that neither it nor the prior has
seen. Each cell (sampler, number of steps, sigma_y) restores the same measurements, with the same
noise, by the published default, by the constant tuned on the model, and by learned schedules:

    bare       `learn` as it is: the model's optimum, limits that only double precision needs
    limits     amplification and roughness as in `for_network`
    + levels   noise levels learned as well
    + J        on the calibrated problem as well: the network's Jacobian, not the model's
    + scales   over images of other scales of the spectrum as well, those of `for_network`
    network    `for_network`: all of these, and eta for samplers that gain by it
    network, within 2     with this limit on amplification
    network, weak 2       so many times as much in weak modes
    network, scales 5 0.2 over these scales
    mixture    `for_network` on a scale mixture in place of the calibrated problem and of scales:
               three spectra, as probable as whitened images' kurtosis has them, each with its own
               Jacobian; "mixture, scales 5 0.2" over these scales as well
    polished   network, polished on training images by gradient steps through the network
    real       no learning: the tuned constant times the best of 13 factors, tried on the network
               with the same training images

Scored by the energy score, E ||x - x_0|| - E ||x - x'|| / 2 of two samples x, x' a measurement,
root mean square per pixel: proper, so its expectation is least for the true posterior.

    python experiments/real_networks.py --data cifar10.npz --out DIR
    python experiments/real_networks.py --quick     one small cell on built-in photographs, checked

With --scores others beside it, of the same samples: CRPS, the continuous ranked probability score
of each pixel, PSNR of the mean, SSIM of a sample, by how many dB the power spectrum of samples
is off that of the true images (root mean square over rings of frequency), and calibration: the
samples' variance over the squared error of their mean, of so many that they add none; 1 is best.

The data are 8-bit images [N, H, W, 3] in the arrays `train`, for prior and calibration, and `test`.
Every score is kept in DIR/cells.json once it is known: a run that is stopped goes on from there,
and one that asks for more computes what is missing; scores of cells that were computed before
there were such take a restoration by the schedule that is kept. The table of all samplers:

    python experiments/real_networks.py --data cifar10.npz --out DIR \\
        --tasks gaussian motion --steps 10 20 50 \\
        --samplers dps pigdm mpgd diffpir dds reddiff dmps ilvr daps ddrm ddnm

and of what each part of `for_network` buys:

    python experiments/real_networks.py --data cifar10.npz --out DIR --steps 10 20 \\
        --schedules bare limits "limits + levels" "limits + levels + J" \\
        "limits + levels + J + scales" network
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import jax
import numpy as np
import tyro

from on_networks.schedules import (
    BASELINES,
    LABELS,
    MIXTURE,
    Case,
    changed,
    in_single,
    sampler_of,
    scale_mixture,
    schedule_of,
)
from on_networks.scores import SCORES, of_samples
from on_networks.shown import correlation, other_scores, save, show, table
from spectralpost import (
    Degradation,
    InputError,
    Prior,
    Problem,
    Search,
    bin_modes,
    calibrate,
    downsample,
    evaluate,
    from_images,
    gaussian_blur,
    identity,
    inpaint,
    learning_problem,
    measure,
    mosaic,
    motion_blur,
    predicted_energy_score,
    restore,
    unique_modes,
    vp_linear,
)
from spectralpost.commands.inputs import denoiser_of
from spectralpost.figures import Format
from spectralpost.files import whole_file
from spectralpost.images import built_in_photographs, tiles
from spectralpost.prior import excess_kurtosis
from spectralpost.restoration import PixelDenoiser

BINS = 200
ON_IMAGES = 32  # to polish and to tune on, of those that are kept out of the prior
BLOCK_BINS = 400  # of super-resolution
TASKS = {
    "denoise": identity,
    "gaussian": lambda shape: gaussian_blur(shape, 1.5),
    "motion": lambda shape: motion_blur(shape, 9.0, 30.0),
    "x2": lambda shape: downsample(shape, 2),
    "x4": lambda shape: downsample(shape, 4),
    "inpaint": lambda shape: inpaint(shape, keep=0.3),
    "mosaic": mosaic,
}


@dataclass
class Options:
    data: Path | None = None
    """File .npz with the arrays `train` and `test` of 8-bit images [N, H, W, 3]."""
    out: Path | None = None
    """Folder of the results; cells that it holds are not computed again (default:
    runs/real_networks; with --quick none)."""
    quick: bool = False
    """One small cell on built-in photographs."""
    format: Format = "png"
    """Of the figure."""
    denoiser: str = "unet"
    """The network: unet, unet:FILE of `spectralpost train`, ffdnet:FILE, module:function."""
    samplers: tuple[str, ...] = ("dps", "pigdm", "mpgd", "diffpir")
    """Names; with options as diffpir:task=inpainting."""
    steps: tuple[int, ...] = (10, 20, 50)
    sigma_y: tuple[float, ...] = (0.05, 0.2)
    tasks: tuple[str, ...] = ("gaussian",)
    """denoise: no blur; gaussian: blur of std 1.5 pixels; motion: blur along a line of 9 pixels;
    x2, x4: super-resolution, bicubic; inpaint: 3 of 10 pixels are known, at random; mosaic:
    Bayer's."""
    schedules: tuple[str, ...] = ("network",)
    """What to hold against them: those above, 3 %, 30 %. The last is drawn."""
    images: int = 64
    """Test images restored, twice each."""
    size: int | None = None
    """Cut all images into tiles of this side, of which a random choice is taken."""
    split: str = "test"
    """Which images: `train` to choose prices and limits, never `test`."""
    scores: bool = False
    """Print other scores than the energy score, too, and how far they agree with it."""


def main(options: Options) -> None:
    if options.quick:
        return quick(options)
    if options.data is None:
        raise InputError("data: name a file .npz with the arrays train and test")
    bases = [changed(one)[0] for one in options.schedules]
    for names, known in ((options.tasks, TASKS), (bases, LABELS)):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{unknown[0]!r}: allowed are {', '.join(known)}")
    for name in options.samplers:
        sampler_of(name)
    cells = measured(options.data, options)
    table(cells, options.schedules)
    correlation(cells)
    if options.scores:
        other_scores(cells, options.schedules[-1])
    save(cells, options.schedules[-1], folder_of(options), options.format)


def folder_of(options: Options) -> Path:
    return options.out or Path("runs/real_networks")


def measured(data: Path, options: Options) -> dict[str, dict]:
    """Scores by cell and schedule, those that are kept and what is missing."""
    with np.load(data) as stored:
        train, test = unit(stored["train"]), unit(stored[options.split])
    if options.size is not None:
        train, test = cut(train, options.size), cut(test, options.size)
    test = test[: options.images]
    # What is restored, polished and tuned on from the training images is kept out of the prior, and
    # what is polished and tuned on (a quarter at most) out of what is restored.
    first = options.images if options.split == "train" else 0
    clean = train[first : first + min(ON_IMAGES, len(train) // 4)]
    kept_out = max(options.images, first + len(clean))
    network, priors = network_and_priors(options.denoiser, train[kept_out:])
    mixture = None
    if any(changed(one)[0] == MIXTURE for one in options.schedules):
        mixture = scale_mixture(excess_kurtosis(priors[0], train[kept_out:]))
        pairs = zip(*mixture, strict=True)
        print("scale mixture:", ", ".join(f"{scale:.3g} ({p:.3g})" for scale, p in pairs))
    path = folder_of(options) / "cells.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    cells: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    labels = (*BASELINES, *options.schedules)
    wanted = {*(SCORES if options.scores else ("energy",))}
    width, found = max(8, *map(len, options.samplers)), {}
    for task, name, steps, sigma_y in product(
        options.tasks, options.samplers, options.steps, options.sigma_y
    ):
        key = f"{name}, {steps}, {sigma_y}, {task}, {options.split}, {options.images}"
        if options.size is not None:
            key += f", {options.size}"
        if options.denoiser != "unet":
            key += f", {options.denoiser}"
        cell = cells.setdefault(key, {})
        if missing := [one for one in labels if not wanted <= {*cell.get(one, {})}]:
            case = case_of(name, steps, TASKS[task](test.shape[2:]), sigma_y, network, priors)
            # It sees what is added to the cell: a schedule may go on from another.
            case = replace(case, clean=clean, mixture=mixture, kept=cell)
            for label, scores in of_cell(case, test, missing):
                cell[label] = scores
                print(f"  {key}, {label}: {scores['learn_s']:.0f} s", file=sys.stderr, flush=True)
                with whole_file(path, overwrite=True) as temporary:
                    temporary.write_text(json.dumps(cells, indent=1))
        cell = found[f"{name:<{width}} {task:<8} {steps:<3} {sigma_y:<5g}"] = {
            label: cell[label] for label in labels
        }
        show(key, cell)
    return found


def quick(options: Options) -> None:
    """Levels learned for a network beat the tuned constant, and that the published one."""
    photographs = built_in_photographs("rgb", (-1.0, 1.0)).values()
    images = np.concatenate([tiles(one, 32)[::4] for one in photographs if len(one) == 3])
    images = np.random.default_rng(0).permutation(images.astype(np.float32))
    network, priors = network_and_priors(options.denoiser, images[8:88])
    case = case_of("diffpir", 5, gaussian_blur((32, 32), 1.5), 0.05, network, priors)
    case = replace(case, search=Search(starts=2, optimizer="adam"))  # of which a third is compiled
    cell = dict(of_cell(case, images[:8], (*BASELINES, "bare", "network")))
    show("diffpir, 5 steps", cell)
    named = "diffpir gaussian 5 0.05"
    other_scores({named: cell}, "network")
    energy = {label: np.mean(scores["energy"]) for label, scores in cell.items()}
    in_order = energy["network"] < energy["tuned"] < energy["published"]
    if options.denoiser == "unet" and not in_order:
        sys.exit("real_networks: learned levels, tuned constant, published default: not in order")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        save({named: cell}, "network", options.out, options.format)


def unit(images: np.ndarray) -> np.ndarray:
    """8 bits [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return np.moveaxis(images, -1, 1).astype(np.float32) / 127.5 - 1


def cut(images: np.ndarray, size: int) -> np.ndarray:
    pieces = np.concatenate([tiles(one, size) for one in images])
    return np.random.default_rng(0).permutation(pieces)


def network_and_priors(name: str, images: np.ndarray) -> tuple[PixelDenoiser, tuple[Prior, Prior]]:
    """The network, told the covariance of images (for freehunch), and their prior, plain and
    calibrated."""
    prior = from_images(images, colour=True)
    network = denoiser_of(name, prior, images.shape[1:])
    some = images[:: max(len(images) // 256, 1)][:256]
    return network, (prior, calibrate(prior, network, some))


def case_of(
    name: str,
    steps: int,
    degradation: Degradation,
    sigma_y: float,
    network: PixelDenoiser,
    priors: tuple[Prior, Prior],
) -> Case:
    plain, calibrated = (small(learning_problem(one, degradation, sigma_y)) for one in priors)
    return Case(sampler_of(name), vp_linear(steps), degradation, plain, calibrated, network)


def small(problem: Problem) -> Problem:
    bins = BINS if problem.basis is None else BLOCK_BINS
    return bin_modes(unique_modes(problem)[0], bins)[0]


def of_cell(case: Case, x_0: np.ndarray, labels: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Pairs of a schedule's label and its scores: of every image, and what the model predicts."""
    y = measure(case.degradation, x_0, case.sigma_y, jax.random.key(1))
    for label in labels:
        # CPU seconds: whatever else runs on the machine.
        start = time.process_time()
        at, guidance = schedule_of(label, case)
        learned = time.process_time()
        samples = restore(
            case.sampler,
            case.network,
            case.degradation,
            y,
            in_single(at),
            guidance,
            jax.random.key(2),
            sigma_y=case.sigma_y,
            num_samples=2,
        )
        scores = of_samples(np.asarray(samples), x_0)
        if label in case.kept:
            yield label, case.kept[label] | scores
            continue
        scores["restore_s"], scores["learn_s"] = time.process_time() - learned, learned - start
        for model, problem in (("model", case.plain), ("calibrated", case.calibrated)):
            scores[f"W2 {model}"] = float(evaluate(case.sampler, problem, at, guidance))
        energy = evaluate(case.sampler, case.calibrated, at, guidance, predicted_energy_score)
        scores["predicted"] = float(energy)
        noise = np.asarray(at.sigma / at.alpha).tolist()
        scores["schedule"] = {name: np.asarray(one).tolist() for name, one in guidance.items()}
        scores["schedule"]["sigma / alpha"] = noise
        yield label, scores


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"real_networks: {error}")
