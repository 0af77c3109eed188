"""Schedules on a trained network: do those learned in closed form restore better?

The shipped U-Net in place of the Gaussian denoiser, on images that neither it nor the prior has
seen. Each cell (sampler, number of steps, sigma_y) restores the same measurements, with the same
noise, by the published default, by the constant tuned on the model, and by learned schedules:

    bare       `learn` as it is: the model's optimum, limits that only double precision needs
    limits     amplification and roughness as in `for_network`
    + levels   noise levels learned as well
    + J        on the calibrated problem as well: the network's Jacobian, not the model's
    + scales   over images of 5 times and 1/5 of the spectrum as well
    network    `for_network`: all of these, and for PiGDM and MPGD their eta as well

Scored by the energy score, E ||x - x_0|| - E ||x - x'|| / 2 of two samples x, x' a measurement,
root mean square per pixel: proper, so its expectation is least for the true posterior.

    python experiments/real_networks.py --data cifar10.npz --out DIR
    python experiments/real_networks.py --quick     one small cell on built-in photographs, checked

The data are 8-bit images [N, H, W, 3] in the arrays `train`, for prior and calibration, and `test`.
Every cell is kept in DIR/cells.json once it is done: a run that is stopped goes on from there.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy.stats import spearmanr

from spectralpost import (
    SAMPLERS,
    Degradation,
    Freedom,
    InputError,
    LearnResult,
    Prices,
    Prior,
    Problem,
    Search,
    UNetDenoiser,
    bin_modes,
    calibrate,
    energy_score,
    evaluate,
    for_network,
    from_images,
    gaussian_blur,
    image_problem,
    learn,
    load_unet,
    measure,
    restore,
    unique_modes,
    vp_linear,
)
from spectralpost.denoiser_use import differentiates_denoiser
from spectralpost.images import built_in_photographs, tiles

BINS = 200
LEARNED = (
    "bare",
    "limits",
    "limits + levels",
    "limits + levels + J",
    "limits + levels + J + scales",
    "network",
)


@dataclass
class Options:
    data: Path | None = None
    """File .npz with the arrays `train` and `test` of 8-bit images [N, H, W, 3]."""
    out: Path = Path("runs/real_networks")
    """Folder of the results; cells that it holds are not computed again."""
    quick: bool = False
    """One small cell on built-in photographs, kept nowhere."""
    network: Path | None = None
    """A network file of `spectralpost train` (default: the shipped one)."""
    samplers: tuple[str, ...] = ("dps", "pigdm", "mpgd", "diffpir")
    steps: tuple[int, ...] = (10, 20, 50)
    sigma_y: tuple[float, ...] = (0.05, 0.2)
    blur: float = 1.5
    """Standard deviation of the Gaussian blur, in pixels."""
    images: int = 64
    """Test images restored, twice each."""
    split: str = "test"
    """Which images: `train` to choose prices and limits, never `test`."""


def main(options: Options) -> None:
    if options.quick:
        return quick()
    if options.data is None:
        raise InputError("data: name a file .npz with the arrays train and test")
    network = load_unet(options.network)
    with np.load(options.data) as stored:
        train, test = unit(stored["train"]), unit(stored[options.split][: options.images])
    # What is restored from the training images is kept out of the prior.
    priors = priors_of(network, train[options.images :])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cells.json"
    cells = json.loads(path.read_text()) if path.exists() else {}
    shown = {}
    for name, steps, sigma_y in product(options.samplers, options.steps, options.sigma_y):
        key = f"{name}, {steps}, {sigma_y}, {options.blur}, {options.split}, {options.images}"
        if key not in cells:
            degradation = gaussian_blur(test.shape[2:], options.blur)
            problems = [small(image_problem(one, degradation, sigma_y)) for one in priors]
            cells[key] = of_cell(name, steps, degradation, problems, network, test)
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(cells, indent=1))
            temporary.replace(path)
        show(key, cells[key])
        shown[f"{name:<8} {steps:<3} {sigma_y:<5g}"] = cells[key]
    table(shown)
    correlation(shown)


def quick() -> None:
    """Levels learned for a network beat the tuned constant, and that the published one."""
    photographs = built_in_photographs("rgb", (-1.0, 1.0)).values()
    images = np.concatenate([tiles(one, 32)[::4] for one in photographs if len(one) == 3])
    images = np.random.default_rng(0).permutation(images.astype(np.float32))
    network, test = load_unet(), images[:8]
    degradation = gaussian_blur((32, 32), 1.5)
    priors = priors_of(network, images[8:])
    problems = [small(image_problem(one, degradation, 0.05)) for one in priors]
    labels = ("bare", "network")
    cell = of_cell("diffpir", 5, degradation, problems, network, test, labels, starts=2)
    show("diffpir, 5 steps", cell)
    energy = {label: np.mean(scores["energy"]) for label, scores in cell.items()}
    if not energy["network"] < energy["tuned"] < energy["published"]:
        sys.exit("real_networks: learned levels, tuned constant, published default: not in order")


def unit(images: np.ndarray) -> np.ndarray:
    """8 bits [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return np.moveaxis(images, -1, 1).astype(np.float32) / 127.5 - 1


def priors_of(network: UNetDenoiser, images: np.ndarray) -> tuple[Prior, Prior]:
    """The prior of images, plain and calibrated."""
    prior = from_images(images, colour=True)
    return prior, calibrate(prior, network, images[:: max(len(images) // 256, 1)][:256])


def small(problem: Problem) -> Problem:
    return bin_modes(unique_modes(problem)[0], BINS)[0]


def of_cell(
    name: str,
    steps: int,
    degradation: Degradation,
    problems: list[Problem],
    network: UNetDenoiser,
    x_0: np.ndarray,
    labels: tuple[str, ...] = LEARNED,
    starts: int = 16,
) -> dict:
    """Scores of every image by schedule, and what the model predicts.

    problems  of the prior as it is, and calibrated
    """
    sampler, levels = SAMPLERS[name](), vp_linear(steps)
    plain, calibrated = problems
    search = Search(starts=starts)

    def learned(label: str) -> tuple[LearnResult, float]:
        start, words = time.perf_counter(), label.split(" + ")
        options: Any = for_network(sampler)
        if "network" not in words:
            prices = options["prices"]
            if "scales" not in words:
                prices = Prices() if "bare" in words else prices._replace(scales=())
            options = {"prices": prices, "freedom": Freedom(levels="levels" in words)}
        problem = calibrated if {"J", "network"} & {*words} else plain
        result = learn(sampler, problem, levels, **options, search=search)
        seconds = time.perf_counter() - start
        print(f"  {name}, {steps}, {label}: {seconds:.0f} s", file=sys.stderr, flush=True)
        return result, seconds

    found = {label: learned(label) for label in labels}
    first = found["bare"][0]
    schedules = {
        "published": (levels, first.baseline_guidance["heuristic"]),
        "tuned": (levels, first.baseline_guidance["tuned_constant"]),
    } | {name: (result.levels, result.guidance) for name, (result, _) in found.items()}
    y = measure(degradation, x_0, plain.sigma_y, jax.random.key(1))
    cell = {}
    for label, (at, guidance) in schedules.items():
        start = time.perf_counter()
        samples = restore(
            sampler,
            network,
            degradation,
            y,
            jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), at),
            guidance,
            jax.random.key(2),
            sigma_y=plain.sigma_y,
            num_samples=2,
        )
        scores = of_samples(np.asarray(samples), x_0)
        scores["restore_s"] = time.perf_counter() - start
        scores["learn_s"] = found[label][1] if label in found else 0.0
        for model, problem in (("model", plain), ("calibrated", calibrated)):
            scores[f"W2 {model}"] = float(evaluate(sampler, problem, at, guidance))
        cell[label] = scores
    return cell


def of_samples(samples: np.ndarray, x_0: np.ndarray) -> dict:
    """Samples [2, N, C, H, W] of images [N, C, H, W], in [-1, 1]."""
    rms = lambda x: np.sqrt(np.mean(x.astype(float) ** 2, axis=(-3, -2, -1)))  # noqa: E731
    samples = np.nan_to_num(samples, nan=1e3, posinf=1e3, neginf=-1e3).clip(-1e3, 1e3)
    energy = np.asarray(energy_score(jnp.asarray(samples), jnp.asarray(x_0)))
    db = lambda error: float(np.mean(-20 * np.log10(error / 2)))  # noqa: E731
    error = rms(samples[0] - x_0)
    return {
        "energy": energy.tolist(),
        "psnr": db(error),
        "psnr_mean": db(rms(samples.mean(axis=0) - x_0)),
        "worst": float(error.max() / np.median(error)),
    }


def show(key: str, cell: dict) -> None:
    print(key)
    tuned = np.asarray(cell["tuned"]["energy"])
    for label, scores in cell.items():
        energy = np.asarray(scores["energy"])
        gap = energy - tuned
        error = gap.std(ddof=1) / np.sqrt(gap.size)
        print(
            f"  {label:<32} {energy.mean():.4f}  {100 * gap.mean() / tuned.mean():+6.1f} % "
            f"({100 * error / tuned.mean():.1f})  {scores['psnr']:5.1f} dB  "
            f"{scores['psnr_mean']:5.1f} dB  worst {scores['worst']:4.1f}  "
            f"W2 {scores['W2 model']:.5f} {scores['W2 calibrated']:.5f}  "
            f"{scores['learn_s']:.0f} s {scores['restore_s']:.0f} s"
        )
    sys.stdout.flush()


def table(cells: dict[str, dict]) -> None:
    """Energy score of the tuned constant, and what others have more of it in % (standard error)."""
    labels = ("published", *LEARNED)
    heads = ("published", "bare", "limits", "+l.", "+l.+J", "+l.+J+s.", "network")
    print("\nsampler  S   s_y    tuned" + "".join(f"{head:>15}" for head in heads))
    for name, cell in cells.items():
        tuned = np.asarray(cell["tuned"]["energy"])
        print(f"{name} {tuned.mean():.4f}", end="")
        for label in labels:
            gap = 100 * (np.asarray(cell[label]["energy"]) - tuned) / tuned.mean()
            error = gap.std(ddof=1) / np.sqrt(gap.size)
            print(f"{f'{gap.mean():+.1f} ({error:.1f})':>15}", end="")
        print()


def correlation(cells: dict[str, dict]) -> None:
    """Rank correlation of the predicted W2 with the energy score: of all, and within cells."""
    print("\nrank correlation of predicted W2 with energy score, of the model and calibrated")
    by_jacobian = ("all", "with Jacobian", "without")
    for title in by_jacobian:
        some = [
            cell
            for name, cell in cells.items()
            if title == "all"
            or differentiates_denoiser(SAMPLERS[name.split()[0]]()) == (title == by_jacobian[1])
        ]
        if not some:
            continue
        print(f"{title:<16}", end="")
        for model in ("W2 model", "W2 calibrated"):
            pairs = [[(np.mean(s["energy"]), s[model]) for s in cell.values()] for cell in some]
            over_all = spearmanr(*zip(*chain(*pairs), strict=True)).statistic
            within = np.mean([spearmanr(*zip(*one, strict=True)).statistic for one in pairs])
            print(f"{over_all:8.2f} (within cells {within:.2f})", end="")
        print()


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"real_networks: {error}")
