"""Schedules on a trained network: do those learned in closed form restore better?

The shipped U-Net in place of the Gaussian denoiser, on images that neither it nor the prior has
seen. Each cell (sampler, number of steps, sigma_y) restores the same measurements, with the same
noise, by the published default, by the constant tuned on the model, and by learned schedules:

    bare       `learn` as it is: the model's optimum, limits that only double precision needs
    network    `NETWORK` prices: amplification within 1.5, neighbouring steps alike
    + J        on the calibrated problem as well: Jacobian and gain of the network, not the model's
    + levels   noise levels learned as well
    + scales   on the average over images of 5 times and 1/5 of the spectrum as well

Scored by the energy score, E ||x - x_0|| - E ||x - x'|| / 2 of two samples x, x' a measurement,
root mean square per pixel: proper, so its expectation is least for the true posterior.

    python experiments/real_networks.py --data cifar10.npz --out DIR

The data are 8-bit images [N, H, W, 3] in the arrays `train`, for prior and calibration, and `test`.
Every cell is kept in DIR/cells.json once it is done: a run that is stopped goes on from there.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from spectralpost import (
    SAMPLERS,
    Freedom,
    InputError,
    Prices,
    Problem,
    Search,
    Several,
    UNetDenoiser,
    bin_modes,
    calibrate,
    colour_problem,
    evaluate,
    from_colour_images,
    gaussian_blur,
    learn,
    load_unet,
    measure,
    restore,
    unique_modes,
    vp_linear,
)

NETWORK = Prices(max_amplification=1.5, smoothness=0.1)
BINS = 200
PLAIN = ("published", "tuned", "bare", "network", "network + J")
RICH = ("network + levels", "network + J + levels", "network + J + levels + scales")


@dataclass
class Options:
    data: Path
    """File .npz with the arrays `train` and `test` of 8-bit images [N, H, W, 3]."""
    out: Path
    """Folder of the results; cells that it holds are not computed again."""
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
    network = load_unet(options.network)
    unit = lambda images: np.moveaxis(images, -1, 1).astype(np.float32) / 127.5 - 1  # noqa: E731
    with np.load(options.data) as stored:
        train, test = unit(stored["train"]), unit(stored[options.split][: options.images])
    # What is restored from the training images is kept out of the prior.
    train = train[options.images :]
    prior = from_colour_images(train)
    calibrated = calibrate(prior, network, train[:: len(train) // 256][:256])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cells.json"
    cells = json.loads(path.read_text()) if path.exists() else {}
    for name, steps, sigma_y in product(options.samplers, options.steps, options.sigma_y):
        key = f"{name}, {steps}, {sigma_y}, {options.blur}, {options.split}, {options.images}"
        if key not in cells:
            degradation = gaussian_blur(test.shape[2:], options.blur)
            problems = [
                small(colour_problem(one, degradation, sigma_y)) for one in (prior, calibrated)
            ]
            cells[key] = of_cell(name, steps, degradation, problems, network, test)
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(cells, indent=1))
            temporary.replace(path)
        show(key, cells[key])


def small(problem: Problem) -> Problem:
    return bin_modes(unique_modes(problem)[0], BINS)[0]


def scaled(problem: Problem, factor: float) -> Problem:
    return problem._replace(spectrum=factor * problem.spectrum)


def of_cell(name, steps, degradation, problems, network: UNetDenoiser, x_0) -> dict:
    """Scores of every image by schedule, and what the model predicts."""
    sampler, levels = SAMPLERS[name](), vp_linear(steps)
    plain, calibrated = problems
    search = Search(starts=16)

    def learned(problem, prices=NETWORK, scales=False, free_levels=False):
        start, several, several_problems = time.perf_counter(), Several(), problem
        if scales:
            reference = learn(sampler, problem, levels, search=Search(starts=2, max_iterations=1))
            r = reference.baselines["tuned_constant"]
            several = Several(references=(r, 15 * r, r))
            several_problems = [problem, scaled(problem, 5.0), scaled(problem, 0.2)]
        result = learn(
            sampler,
            several_problems,
            levels,
            freedom=Freedom(levels=free_levels),
            prices=prices,
            several=several,
            search=search,
        )
        seconds = time.perf_counter() - start
        print(f"  learned in {seconds:.0f} s: {result.loss:.6f}", file=sys.stderr, flush=True)
        return result, seconds

    found = {
        "bare": learned(plain, Prices()),
        "network": learned(plain),
        "network + J": learned(calibrated),
        "network + levels": learned(plain, free_levels=True),
        "network + J + levels": learned(calibrated, free_levels=True),
        "network + J + levels + scales": learned(calibrated, free_levels=True, scales=True),
    }
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
    energy = rms(samples - x_0).mean(axis=0) - rms(samples[0] - samples[1]) / 2
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


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"real_networks: {error}")
