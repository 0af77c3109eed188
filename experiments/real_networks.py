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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from spectralpost import (
    Degradation,
    Freedom,
    InputError,
    NoiseLevel,
    Prices,
    Prior,
    Problem,
    Sampler,
    Search,
    Several,
    bin_modes,
    calibrate,
    default_free,
    downsample,
    energy_score,
    evaluate,
    for_network,
    from_images,
    gaussian_blur,
    identity,
    inpaint,
    learn,
    learning_problem,
    measure,
    mosaic,
    motion_blur,
    plateau,
    polish,
    predicted_energy_score,
    restore,
    unique_modes,
    vp_linear,
)
from spectralpost.commands.inputs import denoiser_of
from spectralpost.denoiser_use import differentiates_denoiser
from spectralpost.figures import (
    COLOURS,
    Format,
    new_figure,
    outside_legend,
    save_with_caption,
)
from spectralpost.images import built_in_photographs, tiles
from spectralpost.prior import excess_kurtosis, frequency
from spectralpost.restoration import PixelDenoiser
from spectralpost.samplers import make_sampler
from spectralpost.samplers.base import Guidance
from spectralpost.signatures import parsed_words

BINS = 200
ON_IMAGES = 32  # to polish and to tune on, of those that are kept out of the prior
SEARCH = Search()
FACTORS = 2.0 ** np.arange(-3, 3.5, 0.5)
DIVERGED = 3.0  # times the median error: such a sample counts as one that has diverged
FARTHEST = 60.0  # per cent that the figure shows
BLOCK_BINS = 400  # of super-resolution
RINGS = 12  # of frequency
TASKS = {
    "denoise": identity,
    "gaussian": lambda shape: gaussian_blur(shape, 1.5),
    "motion": lambda shape: motion_blur(shape, 9.0, 30.0),
    "x2": lambda shape: downsample(shape, 2),
    "x4": lambda shape: downsample(shape, 4),
    "inpaint": lambda shape: inpaint(shape, keep=0.3),
    "mosaic": mosaic,
}
WORDS = {
    "denoise": "denoising",
    "gaussian": "Gaussian blur",
    "motion": "motion blur",
    "x2": "x2 bicubic",
    "x4": "x4 bicubic",
    "inpaint": "3 of 10 pixels",
    "mosaic": "Bayer mosaic",
}
CAPTION = (
    "Energy score of images that the shipped U-Net has restored and that neither it nor the prior "
    "has seen, relative to the constant tuned on the model: of the published default (which may be "
    "far outside, then it is named) and of the learned schedule; less is better. Each mark is a "
    "task, number of steps and noise level. The energy score of two samples a measurement is "
    "proper: its expectation is least for the true posterior. Pixels in [-1, 1]."
)
BASELINES = ("published", "tuned")
LEARNED = (
    "bare",
    "limits",
    "limits + levels",
    "limits + levels + J",
    "limits + levels + J + scales",
    "network",
)
POLISHED, REAL, MIXTURE = "polished", "real", "mixture"
WEAKEST = {"3 %": 0.03, "30 %": 0.3}
# What `of_samples` returns, as numbers of which more is better.
SCORES: dict[str, Callable[[float], float]] = {
    "energy": lambda score: -score,
    "crps": lambda score: -score,
    "psnr_mean": lambda decibels: decibels,
    "ssim": lambda similarity: similarity,
    "spectrum": lambda decibels: -decibels,
    "calibration": lambda ratio: -abs(np.log(max(ratio, 1e-3))),
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
    schedules = [changed(one)[0] for one in options.schedules]
    for names, known in (
        (options.tasks, TASKS),
        (schedules, (*LEARNED, POLISHED, REAL, MIXTURE, *WEAKEST)),
    ):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{unknown[0]!r}: allowed are {', '.join(known)}")
    for name in options.samplers:
        sampler_of(name)
    with np.load(options.data) as stored:
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
    if MIXTURE in schedules:
        mixture = scale_mixture(excess_kurtosis(priors[0], train[kept_out:]))
        pairs = zip(*mixture, strict=True)
        print("scale mixture:", ", ".join(f"{scale:.3g} ({p:.3g})" for scale, p in pairs))
    folder = options.out or Path("runs/real_networks")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cells.json"
    cells: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    shown = {}
    for task, name, steps, sigma_y in product(
        options.tasks, options.samplers, options.steps, options.sigma_y
    ):
        key = f"{name}, {steps}, {sigma_y}, {task}, {options.split}, {options.images}"
        if options.size is not None:
            key += f", {options.size}"
        if options.denoiser != "unet":
            key += f", {options.denoiser}"
        cell, wanted = cells.setdefault(key, {}), SCORES if options.scores else ("energy",)
        labels = (*BASELINES, *options.schedules)
        if missing := [one for one in labels if not {*wanted} <= {*cell.get(one, {})}]:
            degradation = TASKS[task](test.shape[2:])
            problems = [small(learning_problem(one, degradation, sigma_y)) for one in priors]
            given = degradation, problems, network, test, missing, clean
            found = of_cell(name, steps, *given, kept=cell, mixture=mixture)
            for label, scores in found:
                cell[label] = scores
                temporary = path.with_suffix(".new")
                temporary.write_text(json.dumps(cells, indent=1))
                temporary.replace(path)
        cell = {label: cell[label] for label in labels}
        show(key, cell)
        width = max(8, *map(len, options.samplers))
        shown[f"{name:<{width}} {task:<8} {steps:<3} {sigma_y:<5g}"] = cell
    table(shown, options.schedules)
    correlation(shown)
    if options.scores:
        other_scores(shown, options.schedules[-1])
    save(shown, options.schedules[-1], folder, options.format)


def quick(options: Options) -> None:
    """Levels learned for a network beat the tuned constant, and that the published one."""
    photographs = built_in_photographs("rgb", (-1.0, 1.0)).values()
    images = np.concatenate([tiles(one, 32)[::4] for one in photographs if len(one) == 3])
    images = np.random.default_rng(0).permutation(images.astype(np.float32))
    network, priors = network_and_priors(options.denoiser, images[8:88])
    test, degradation = images[:8], gaussian_blur((32, 32), 1.5)
    problems = [small(learning_problem(one, degradation, 0.05)) for one in priors]
    labels = (*BASELINES, "bare", "network")
    search = Search(starts=2, optimizer="adam")  # of which a third is compiled
    cell = dict(of_cell("diffpir", 5, degradation, problems, network, test, labels, search=search))
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


def save(cells: dict[str, dict], label: str, folder: Path, format: Format) -> None:
    """The figure, in place of one of earlier cells."""
    numbers = {
        " ".join(name.split()): {
            what: {
                "energy score": float(np.mean(cell[what]["energy"])),
                "of the tuned constant's (%)": gap_of(cell, what)[0],
                "standard error (%)": gap_of(cell, what)[1],
                "PSNR of a sample (dB)": cell[what]["psnr"],
            }
            for what in cell
        }
        for name, cell in cells.items()
    }
    for name in (f"real_networks.{format}", "real_networks.json"):
        (folder / name).unlink(missing_ok=True)
    save_with_caption(
        figure(cells, label),
        folder,
        "real_networks",
        title="Learned schedules on a trained network",
        caption=CAPTION,
        numbers=numbers,
        format=format,
    )


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


def scale_mixture(kurtosis: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the spectrum, 1 on average, and their probabilities: three numbers for a lognormal
    (Gauss and Hermite's) whose second moment, 1 + kurtosis / 3, gives whitened images, locally
    Gaussian of varying scale, that excess kurtosis; three numbers have less of it."""
    z, weights = hermegauss(3)
    scales, probability = np.exp(np.sqrt(np.log1p(kurtosis / 3)) * z), weights / weights.sum()
    return scales / (scales @ probability), probability


def small(problem: Problem) -> Problem:
    bins = BINS if problem.basis is None else BLOCK_BINS
    return bin_modes(unique_modes(problem)[0], bins)[0]


def sampler_of(word: str) -> Sampler:
    """dps, or with options dps:multistep=2,scale=0.5."""
    name, _, options = word.partition(":")
    words = tuple(filter(None, options.split(",")))
    return make_sampler(name, **parsed_words("samplers", words))


def of_cell(
    name: str,
    steps: int,
    degradation: Degradation,
    problems: list[Problem],
    network: PixelDenoiser,
    x_0: np.ndarray,
    labels: Sequence[str],
    clean: np.ndarray | None = None,
    search: Search = SEARCH,
    kept: Mapping[str, dict] = {},
    mixture: tuple[np.ndarray, np.ndarray] | None = None,
) -> Iterator[tuple[str, dict]]:
    """Pairs of a schedule's label and its scores: of every image, and what the model predicts.

    problems  of the prior as it is, and calibrated
    clean     images to polish and to tune on
    kept      scores, whose schedules are not looked for again
    mixture   see `scale_mixture`
    """
    sampler, levels = sampler_of(name), vp_linear(steps)
    plain, calibrated = problems
    y = measure(degradation, x_0, plain.sigma_y, jax.random.key(1))

    @cache
    def baselines() -> dict[str, Guidance]:
        # Both come before the search, of which Adam's is the soonest compiled.
        few = Search(starts=1, max_iterations=1, optimizer="adam")
        return learn(sampler, plain, levels, search=few).baseline_guidance

    def schedule(label: str) -> tuple[NoiseLevel, Guidance]:
        if label in kept:
            return of_kept(kept[label]["schedule"])
        if label in BASELINES:
            return levels, baselines()["heuristic" if label == "published" else "tuned_constant"]
        sigma_y = float(plain.sigma_y)
        if label == REAL:
            assert clean is not None
            constant = baselines()["tuned_constant"]
            given = sampler, network, degradation, sigma_y, in_single(levels), constant, clean
            return levels, tuned_on_images(*given)
        if label in WEAKEST:
            constant = baselines()["tuned_constant"]
            weights = [name for name, kind in sampler.constraint.items() if kind == "nonnegative"]
            if not weights:
                return levels, constant
            low, high = plateau(sampler, plain, levels, constant, WEAKEST[label])
            factor = high if "lambda_" in constant else low  # of which more is less
            return levels, constant | {name: factor * constant[name] for name in weights}
        options: Any = for_network(sampler, levels)
        if label == POLISHED:
            assert clean is not None
            at, guidance = schedule("network")  # which may be kept: then seconds are polish's own
            given = sampler, network, clean, degradation, sigma_y, at, guidance, options["free"]
            return at, polish(*given).guidance
        label, changes = changed(label)
        if label == MIXTURE:
            assert mixture is not None
            scales, probability = mixture
            options["prices"] = options["prices"]._replace(**{"scales": ()} | changes)
            options["several"] = Several(references=1 / probability)  # the mean of their losses
            every = [plain._replace(spectrum=scale * plain.spectrum) for scale in scales]
            result = learn(sampler, every, levels, **options, search=search)
            return in_single(result.levels), result.guidance
        words, prices = {*label.split(" + ")}, options["prices"]._replace(**changes)
        if "network" not in words:
            if "scales" not in words:
                prices = Prices() if "bare" in words else prices._replace(scales=())
            options = {"freedom": Freedom(levels="levels" in words)}
        options["prices"] = prices
        problem = calibrated if {"J", "network"} & words else plain
        result = learn(sampler, problem, levels, **options, search=search)
        return in_single(result.levels), result.guidance

    for label in labels:
        # CPU seconds: whatever else runs on the machine.
        start = time.process_time()
        at, guidance = schedule(label)
        learned = time.process_time()
        samples = restore(
            sampler,
            network,
            degradation,
            y,
            in_single(at),
            guidance,
            jax.random.key(2),
            sigma_y=plain.sigma_y,
            num_samples=2,
        )
        scores = of_samples(np.asarray(samples), x_0)
        if label in kept:
            yield label, kept[label] | scores
            continue
        scores["restore_s"], scores["learn_s"] = time.process_time() - learned, learned - start
        for model, problem in (("model", plain), ("calibrated", calibrated)):
            scores[f"W2 {model}"] = float(evaluate(sampler, problem, at, guidance))
        energy = evaluate(sampler, calibrated, at, guidance, predicted_energy_score)
        scores["predicted"] = float(energy)
        noise = np.asarray(at.sigma / at.alpha).tolist()
        scores["schedule"] = {name: np.asarray(one).tolist() for name, one in guidance.items()}
        scores["schedule"]["sigma / alpha"] = noise
        print(f"  {name}, {steps}, {label}: {scores['learn_s']:.0f} s", file=sys.stderr, flush=True)
        yield label, scores


def changed(label: str) -> tuple[str, dict[str, Any]]:
    """Of "network, within 2, scales 5 0.2": "network", and what differs in its prices."""
    label, *texts = label.split(", ")
    changes: dict[str, Any] = {}
    for text in texts:
        word, *numbers = text.split()
        try:
            values = tuple(map(float, numbers))
        except ValueError:
            values = ()
        if word == "within" and len(values) == 1:
            changes["max_amplification"] = values[0]
        elif word == "weak" and len(values) == 1:
            changes["weak_modes"] = values[0]
        elif word == "scales" and values:
            changes["scales"] = values
        else:
            raise InputError(f"{text!r}: allowed are 'within 2', 'weak 2' and 'scales 5 0.2'")
    return label, changes


def of_kept(schedule: dict[str, list]) -> tuple[NoiseLevel, Guidance]:
    """Of a cell: its noise levels, all of which are variance preserving, and its weights."""
    arrays = {name: np.asarray(one, np.float32) for name, one in schedule.items()}
    noise = arrays.pop("sigma / alpha").astype(float)
    alpha = 1 / np.sqrt(1 + noise**2)
    return in_single(NoiseLevel(alpha, noise * alpha)), arrays


def tuned_on_images(
    sampler: Sampler,
    network: PixelDenoiser,
    degradation: Degradation,
    sigma_y: float,
    levels: NoiseLevel,
    constant: Guidance,
    clean: np.ndarray,
) -> Guidance:
    """The constant times the factor that restores these images best: what people do."""
    y = measure(degradation, clean, sigma_y, jax.random.key(3))

    def scaled(factor: float) -> Guidance:
        # A number between 0 and 1 goes with its distance from 1.
        kinds = sampler.constraint.items()
        change = {
            name: constant[name] * factor
            if kind == "nonnegative"
            else 1 - np.clip((1 - constant[name]) * factor, 0, 1)
            for name, kind in kinds
            if name in default_free(sampler)
        }
        return constant | change

    def score(factor: float) -> float:
        given = sampler, network, degradation, y, levels, scaled(factor), jax.random.key(4)
        x = restore(*given, sigma_y=sigma_y, num_samples=2)
        return float(np.mean(energies(np.asarray(x), clean)))

    return scaled(min(FACTORS, key=score))


def in_single(levels: NoiseLevel) -> NoiseLevel:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), levels)


def energies(samples: np.ndarray, x_0: np.ndarray) -> np.ndarray:
    """Energy scores [N] of samples [2, N, C, H, W] of images [N, C, H, W], in [-1, 1]."""
    return np.asarray(energy_score(jnp.asarray(finite(samples)), jnp.asarray(x_0)))


def finite(samples: np.ndarray) -> np.ndarray:
    return np.nan_to_num(samples, nan=1e3, posinf=1e3, neginf=-1e3).clip(-1e3, 1e3)


def of_samples(samples: np.ndarray, x_0: np.ndarray) -> dict:
    """Samples [2, N, C, H, W] of images [N, C, H, W], in [-1, 1]."""
    each = (-3, -2, -1)
    rms = lambda x: np.sqrt(np.mean(x.astype(float) ** 2, axis=each))  # noqa: E731
    size = lambda x: np.mean(np.abs(x), axis=each)  # noqa: E731
    db = lambda error: float(np.mean(-20 * np.log10(error / 2)))  # noqa: E731
    energy, samples = energies(samples, x_0), finite(samples)
    errors = rms(samples - x_0)  # [2, N]
    relative = errors / np.median(errors)
    crps = size(samples - x_0).mean(axis=0) - size(samples[0] - samples[1]) / 2
    pairs = zip(samples[0], x_0, strict=True)
    ssim = [structural_similarity(*pair, channel_axis=0, data_range=2) for pair in pairs]
    ratio = 10 * np.log10(ring_power(samples) / ring_power(x_0))
    mean, variance = samples.mean(axis=0), float(np.mean((samples[0] - samples[1]) ** 2) / 2)
    # Two samples add half of their variance to the error of their mean.
    error = max(float(np.mean((mean - x_0) ** 2)) - variance / 2, np.finfo(float).tiny)
    return {
        "energy": energy.tolist(),
        "crps": crps.tolist(),
        "ssim": [float(one) for one in ssim],
        "spectrum": float(np.sqrt(np.mean(ratio**2))),
        "psnr": db(errors[0]),
        "psnr_mean": db(rms(mean - x_0)),
        "calibration": variance / error,
        "worst": float(relative.max()),
        "beyond": int((relative > DIVERGED).sum()),
    }


def ring_power(images: np.ndarray) -> np.ndarray:
    """Mean power of images [..., H, W] in `RINGS` of radial frequency, of equal width."""
    power = np.abs(np.fft.fft2(images)) ** 2
    f = frequency(images.shape[-2:]).ravel()
    ring = np.minimum(RINGS * f / f.max(), RINGS - 1).astype(int)
    mean = power.reshape(-1, f.size).mean(axis=0)
    return np.bincount(ring, mean) / np.bincount(ring)


def show(key: str, cell: dict) -> None:
    print(key)
    for label, scores in cell.items():
        gap, error = gap_of(cell, label)
        # Cells of before it was counted have none; theirs is the worst of the first samples.
        beyond = f" ({scores['beyond']} beyond {DIVERGED:g})" if scores.get("beyond") else ""
        print(
            f"  {label:<32} {np.mean(scores['energy']):.4f}  {gap:+6.1f} % ({error:.1f})  "
            f"{scores['psnr']:5.1f} dB  "
            f"{scores['psnr_mean']:5.1f} dB  worst {scores['worst']:4.1f}{beyond}  "
            f"W2 {scores['W2 model']:.5f} {scores['W2 calibrated']:.5f}  "
            f"predicted {scores['predicted']:.4f}  "
            f"{scores['learn_s']:.0f} s {scores['restore_s']:.0f} s"
        )
    sys.stdout.flush()


def gap_of(cell: dict, label: str) -> tuple[float, float]:
    """How much more energy score than the tuned constant, in % of it, and its standard error."""
    tuned = np.asarray(cell["tuned"]["energy"])
    gap = 100 * (np.asarray(cell[label]["energy"]) - tuned) / tuned.mean()
    return gap.mean(), gap.std(ddof=1) / np.sqrt(gap.size)


def table(cells: dict[str, dict], schedules: Sequence[str]) -> None:
    """Energy score of the tuned constant, and what others have more of it in % (standard error).

    Behind the last one: its worst sample, as a multiple of the median error, and how many dB a
    sample has more than the constant's; below, its mean by number of steps.
    """
    short = {"limits + levels": "+l.", "limits + levels + J": "+l.+J", LEARNED[4]: "+l.+J+s."}
    heads = ["published", *(short.get(name, name) for name in schedules)]
    widths = [max(14, len(head)) for head in heads]
    print(f"\n{titles(cells)}tuned", *map(str.rjust, heads, widths), end="")
    print("  worst    dB")
    for name, cell in cells.items():
        print(f"{name}{np.mean(cell['tuned']['energy']):8.4f}", end="")
        for label, width in zip(("published", *schedules), widths, strict=True):
            gap, error = gap_of(cell, label)
            print("", f"{gap:+.1f} ({error:.1f})".rjust(width), end="")
        last = cell[schedules[-1]]
        print(f"{last['worst']:7.1f} {last['psnr'] - cell['tuned']['psnr']:+5.1f}")
    for steps in dict.fromkeys(name.split()[2] for name in cells):
        some = [
            gap_of(cell, schedules[-1]) for name, cell in cells.items() if steps == name.split()[2]
        ]
        print(
            f"{schedules[-1]}, {steps} steps, mean of {len(some)}: {np.mean(some, axis=0)[0]:+.1f}"
        )


def titles(cells: dict[str, dict]) -> str:
    """Above the names of cells."""
    rest = " task     S   s_y  "
    return "sampler".ljust(len(next(iter(cells))) - len(rest)) + rest


def figure(cells: dict[str, dict], label: str) -> Figure:
    """Energy score of a schedule and of the published default, relative to the tuned constant: a
    row for each sampler, in it a mark for each cell and a line through their mean."""
    samplers = list(dict.fromkeys(name.split()[0] for name in cells))
    figure = new_figure((8, 1.9 + 0.42 * len(samplers)))
    axes = figure.subplots()
    for name, words, colour, marker, offset in (
        ("published", "published default", COLOURS["published default"], "x", 0.17),
        (label, f"learned, {label}", COLOURS["learned"], "o", -0.17),
    ):
        for row, sampler in enumerate(samplers):
            gaps = np.array(
                [gap_of(cell, name)[0] for key, cell in cells.items() if key.split()[0] == sampler]
            )
            height = -row + offset
            inside = gaps[gaps <= FARTHEST]
            axes.plot(inside, np.full(inside.size, height), marker, color=colour, alpha=0.6, ms=5)
            if gaps.mean() <= FARTHEST:
                axes.vlines(gaps.mean(), height - 0.14, height + 0.14, color=colour, lw=2)
            if beyond := gaps.size - inside.size:
                axes.annotate(
                    f"\N{RIGHTWARDS ARROW} {beyond} of {gaps.size}, up to {gaps.max():+.0f} %",
                    (FARTHEST, height),
                    color=colour,
                    va="center",
                    fontsize=8,
                )
        axes.plot([], [], marker, color=colour, label=words)
    axes.axvline(0, color=COLOURS["tuned constant"], label="tuned constant")
    for row in range(len(samplers) - 1):
        axes.axhline(-row - 0.5, color="0.9", linewidth=0.8)
    axes.set_yticks(-np.arange(len(samplers)), samplers)
    axes.set(xlim=(min(axes.get_xlim()[0], -10), FARTHEST + 30), ylim=(0.5 - len(samplers), 0.5))
    axes.set_xlabel(
        "energy score on the network, relative to the tuned constant (%); further left is better"
    )
    axes.set_title(cells_in_words(cells), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    outside_legend(figure, "upper center")
    return figure


def cells_in_words(cells: dict[str, dict]) -> str:
    """What the marks of a row are."""
    _, tasks, steps, sigmas = (
        tuple(dict.fromkeys(one)) for one in zip(*map(str.split, cells), strict=True)
    )
    return (
        f"a mark for each of {' and '.join(WORDS[task] for task in tasks)}, "
        f"{' and '.join(steps)} steps, $\\sigma_y$ = {' and '.join(sigmas)}; lines: means"
    )


def correlation(cells: dict[str, dict]) -> None:
    """Rank correlation of what is predicted with the energy score: of all, and within cells."""
    titles = ("W2 model", "W2 calibrated", "predicted")
    print("\nrank correlation with the energy score, over all and (mean of those within cells), of")
    print(f"{'':<16}   W2, model       W2, calibrated  energy score, calibrated")
    by_jacobian = ("all", "with Jacobian", "without")
    for title in by_jacobian:
        some = [
            cell
            for name, cell in cells.items()
            if title == "all"
            or differentiates_denoiser(sampler_of(name.split()[0])) == (title == by_jacobian[1])
        ]
        if not some:
            continue
        print(f"{title:<16}", end="")
        for model in titles:
            pairs = [[(np.mean(s["energy"]), s[model]) for s in cell.values()] for cell in some]
            over_all = spearmanr(*zip(*chain(*pairs), strict=True)).statistic
            within = np.mean([spearmanr(*zip(*one, strict=True)).statistic for one in pairs])
            print(f"{f'{over_all:.2f} ({within:.2f})':>15}", end="")
        print()


def other_scores(cells: dict[str, dict], label: str) -> None:
    """What other scores say of a schedule and the tuned constant, and whether that is the same.

    Below: in how many cells the schedule is better, the rank correlation of these gains with that
    in energy score, and how many pairs of a cell's schedules are in the same order as by it.
    """

    def of(cell: dict, name: str) -> np.ndarray:  # more is better
        return np.array([better(np.mean(cell[name][one])) for one, better in SCORES.items()])

    head = titles(cells)

    def row(title: str, texts: Iterable[str]) -> None:
        print(title.ljust(len(head)), *(f"{text:>16}" for text in texts))

    print(f"\n{label} less the tuned constant; a star: worse")
    row(head, ("energy %", "CRPS %", "PSNR of mean dB", "SSIM", "spectrum dB", "calibration"))
    gains, orders = [], []
    for name, cell in cells.items():
        tuned = of(cell, "tuned")
        gain = (of(cell, label) - tuned) * (100 / -tuned[0], 100 / -tuned[1], 1, 1, 1, 1)
        # As changes of the scores, whatever is better.
        changes = zip(gain, (-1, -1, 1, 1, -1), (1, 1, 2, 3, 2), strict=False)
        texts = [f"{way * one:+.{digits}f}" for one, way, digits in changes]
        texts.append(" to ".join(f"{cell[one]['calibration']:.2f}" for one in ("tuned", label)))
        stars = [" *" if one < 0 else "  " for one in gain]
        row(name, map(str.__add__, texts, stars))
        gains.append(gain)
        schedules = np.array([of(cell, one) for one in cell])
        orders += [np.sign(one - other) for one, other in combinations(schedules, 2)]
    row(f"better, of {len(cells)}", map(str, (np.array(gains) > 0).sum(axis=0)))
    if len(cells) > 2:
        ranks = (spearmanr(np.array(gains)[:, 0], one).statistic for one in np.array(gains).T)
        row("rank correlation", (f"{one:.2f}" for one in ranks))
    same = np.array(orders) == np.array(orders)[:, :1]
    row("pairs in its order", (f"{100 * one:.0f} %" for one in same.mean(axis=0)))


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"real_networks: {error}")
