"""Super-resolution in closed form: is a photograph restored as predicted, and what do blocks cost?

x4, bicubic, a colour photograph of 128x128 from 32x32, sigma_y 0.05, 20 steps, the Gaussian
denoiser of other photographs. Of each sampler the published default, the tuned constant and the
learned schedule:

    W2^2        per pixel, on average over images of the prior, on all blocks
    sample      PSNR in dB of one restored image, measured and predicted for this photograph
    mean of 8   of the mean of eight

and of the problem: blocks, and how far W2^2 of the learned schedule on the merged problem that it
was learned on is from that on all blocks; seconds of `learn`, compilation included.

    python experiments/super_resolution.py --out DIR   four minutes on two cores
    python experiments/super_resolution.py --quick     16x16, x2, 6 steps, checked
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp
from spectralpost.figures import Format, Panel, restored_figure, save_with_caption
from spectralpost.images import built_in_photographs, enlarged, tiles
from spectralpost.metrics import image_mse

SCHEDULES = ("heuristic", "tuned_constant", "learned")
WORDS = {"heuristic": "published", "tuned_constant": "tuned", "learned": "learned"}


@dataclass
class Options:
    """Super-resolution in closed form."""

    quick: bool = False
    """Small, and checked."""
    samplers: tuple[str, ...] = ("dps", "pigdm", "ddrm", "diffpir")
    size: int = 128
    """Of the photograph, in pixels."""
    factor: int = 4
    steps: int = 20
    sigma_y: float = 0.05
    bins: int = 1000
    """As of `spectralpost design`."""
    starts: int = 16
    samples: int = 8
    """Of which one is shown and all are averaged."""
    out: Path | None = None
    """Folder of the figure and its numbers."""
    format: Format = "png"
    """Of the figure."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    search = sp.Search(starts=options.starts)
    if options.quick:
        search = sp.Search(starts=2, optimizer="adam")  # of which half is compiled
        output = options.out, options.format
        options = Options(True, ("diffpir",), 16, 2, 6, 0.05, 128, 2, 2, *output)
    photographs = built_in_photographs("rgb", (-1.0, 1.0)).values()
    cut = [tiles(one, options.size) for one in photographs if len(one) == 3]
    x_0, prior = cut[0][len(cut[0]) // 2], sp.from_images(np.concatenate(cut[1:]), colour=True)
    degradation = sp.downsample(prior.shape, options.factor)
    problem = sp.image_problem(prior, degradation, options.sigma_y)
    unique, _ = sp.unique_modes(problem)
    small, _ = sp.bin_modes(unique, options.bins)
    print(f"blocks: {in_words(problem)}; unique {in_words(unique)}; merged {in_words(small)}")
    y = sp.measure(degradation, x_0, options.sigma_y, jax.random.key(0))
    along = prior.along_axes(x_0)
    modes = degradation.to_modes(along - prior.mean).reshape(problem.spectrum.shape)
    levels = sp.vp_linear(options.steps)
    large = enlarged(np.asarray(y), prior.shape)
    print(f"measurement, enlarged by cubic interpolation: {psnr(large, x_0):.2f} dB")
    print(f"{'':<20}{'W2^2':>10}{'sample':>9}{'predicted':>11}", end="")
    print(f"{f'mean of {options.samples}':>11}{'predicted':>11}")
    rows = [[Panel("photograph", x_0), Panel("measurement", np.asarray(y))]]
    gaps, numbers = [], {}
    for name in options.samplers:
        sampler = sp.SAMPLERS[name]()
        begin = time.perf_counter()
        learned = sp.learn(sampler, small, levels, search=search)
        seconds = time.perf_counter() - begin
        schedules = learned.baseline_guidance | {"learned": learned.guidance}
        row = []
        for label in SCHEDULES:
            guidance = schedules[label]
            transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
            loss = float(sp.wasserstein2(problem, transfer))
            x = sp.restore(
                sampler,
                sp.GaussianDenoiser.of(prior),
                degradation,
                y,
                levels,
                guidance,
                jax.random.key(1),
                sigma_y=options.sigma_y,
                num_samples=options.samples,
            )
            images = {1: np.asarray(x[0]), options.samples: np.asarray(x.mean(axis=0))}
            print(f"{name:<10}{WORDS[label]:<10}{loss:>10.5f}", end="")
            numbers[f"{name}, {WORDS[label]}"] = shown = {"W2^2": loss}
            for num, image in images.items():
                expected = float(sp.psnr(image_mse(problem, transfer, modes, num)))
                gaps.append(psnr(image, x_0) - expected)
                what = f"PSNR of {'a sample' if num == 1 else f'the mean of {num}'}"
                shown |= {what: psnr(image, x_0), f"{what}, predicted": expected}
                print(f"{psnr(image, x_0):>{9 if num == 1 else 11}.2f}{expected:>11.2f}", end="")
            print(flush=True)
            row.append(
                Panel(f"{name}, {WORDS[label]}", images[1], f"{psnr(images[1], x_0):.1f} dB")
            )
            if label == "learned":
                mean = images[options.samples]
                words = f"{psnr(mean, x_0):.1f} dB"
                row.append(Panel(f"{name}, learned, mean of {options.samples}", mean, words))
                gap = learned.loss / loss - 1
                print(f"{'':<10}learned in {seconds:.0f} s; W2^2 as merged off by {gap:+.1e}")
        rows.append(row)
        if options.quick and not learned.loss < learned.baselines["heuristic"]:
            sys.exit("super_resolution: the learned schedule is not better than the published one")
    if options.quick and max(map(abs, gaps)) > 1:
        sys.exit(f"super_resolution: {max(map(abs, gaps)):.1f} dB from what is predicted")
    if options.out is not None:
        save(rows, numbers, options)


def save(rows: list[list[Panel]], numbers: dict, options: Options) -> None:
    assert options.out is not None
    options.out.mkdir(parents=True, exist_ok=True)
    title = f"x{options.factor}, {options.steps} steps, the Gaussian denoiser"
    save_with_caption(
        restored_figure(rows, title),
        options.out,
        "super_resolution",
        title="A photograph, super-resolved",
        caption=f"A photograph of {options.size}x{options.size} pixels from one that bicubic "
        f"decimation has made {options.factor} times smaller, sigma_y {options.sigma_y:g} in [-1, "
        f"1], {options.steps} steps of the linear VP grid and the Gaussian denoiser of other "
        "photographs: one sample by the published default, the tuned constant and the learned "
        f"schedule of each sampler, and the mean of {options.samples} samples by the last. "
        "Numbers: W2^2 per pixel, on average over images of the prior; PSNR in dB, as measured and "
        "as predicted for this photograph.",
        numbers=numbers,
        format=options.format,
        overwrite=True,
    )


def in_words(problem: sp.Problem) -> str:
    blocks, modes = problem.spectrum.shape
    return f"{blocks} of {modes} modes"


def psnr(image: np.ndarray, x_0: np.ndarray) -> float:
    return float(sp.psnr(jnp.mean((jnp.asarray(image) - x_0) ** 2)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
