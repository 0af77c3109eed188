"""Inpainting: do schedules that are learned on small repeated tiles carry over to whole images?

Of 64x64 pixels, sigma_y 0.05, 20 steps, the Gaussian denoiser, so that nothing but the model of the
mask can be wrong (`spectralpost.inpainting`). Masks: a random half, 3 of 10, 1 of 10 pixels, and
all but a square of half the size. Of each sampler the published default, the constant tuned on
tiles, the learned schedule, and the best of nine multiples of the tuned constant as tried on the
whole images themselves:

    W2^2       on the tiles
    predicted  energy score, on the tiles
    drawn      energy score of two samples an image, of images drawn from the prior: what it costs
               that tiles are not the mask (percent: against the published default)
    photos     the same of photographs that the prior has not seen
    dB         PSNR of a sample of these

    python experiments/inpainting.py             all of it
    python experiments/inpainting.py --quick     16x16, one mask, checked
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp
from spectralpost.figures import Format, Panel, restored_figure, save_with_caption
from spectralpost.images import built_in_photographs, tiles
from spectralpost.samplers.base import Guidance

MASKS = {
    "half": {"keep": 0.5},
    "3 of 10": {"keep": 0.3},
    "1 of 10": {"keep": 0.1},
    "box": {"mask": "box"},
}
CAPTION = (
    "One sample each of the first of the photographs that the prior has not seen, for each mask: "
    "the published default, the constant tuned on small repeated tiles of the mask, and the "
    "schedule learned on them. Pixels in [-1, 1], sigma_y 0.05, the Gaussian denoiser. Numbers: "
    "W2^2 per pixel on the tiles; energy score as predicted there, of whole images drawn from the "
    "prior and of photographs; PSNR of a sample of these. What was tuned on images is the tuned "
    "constant times the best of nine factors, tried on the whole images themselves."
)
FACTORS = 2.0 ** np.arange(-2, 2.5, 0.5)
WORDS = {
    "heuristic": "published",
    "tuned_constant": "tuned",
    "learned": "learned",
    "whole": "tuned on images",
}


@dataclass
class Options:
    """Inpainting by schedules of small tiles."""

    quick: bool = False
    """Small, and checked."""
    samplers: tuple[str, ...] = ("dps", "pigdm", "ddrm", "diffpir")
    masks: tuple[str, ...] = tuple(MASKS)
    size: int = 64
    """Of the images, in pixels."""
    images: int = 32
    """Of each kind."""
    steps: int = 20
    sigma_y: float = 0.05
    out: Path | None = None
    """Folder of the figure (default: runs/inpainting; with --quick none)."""
    format: Format = "png"
    """Of the figure."""


class Images(NamedTuple):
    """What is restored, and its measurements."""

    x_0: jax.Array  # [N, 1, H, W]
    y: jax.Array


class Score(NamedTuple):
    energy: float
    psnr: float  # of a sample
    first: np.ndarray  # a sample of the first image, [H, W]


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    search = sp.Search()
    if options.quick:
        options = replace(options, samplers=("dps",), masks=("half",), size=16, images=8, steps=6)
        search = sp.Search(starts=2, optimizer="adam")  # of which half is compiled
    photographs = [one.mean(axis=0, keepdims=True) for one in built_in_photographs("rgb").values()]
    cut = np.concatenate([tiles(one, options.size)[:, 0] for one in photographs])
    order = np.random.default_rng(0).permutation(len(cut))
    kept_out, rest = cut[order[: options.images]], cut[order[options.images :]]
    prior, levels = sp.from_images(rest), sp.vp_linear(options.steps)
    print(f"{'mask':<9}{'sampler':<9}{'schedule':<16}{'W2^2':>9}{'predicted':>11}", end="")
    print(f"{'drawn':>9}{'':>9}{'photos':>9}{'':>9}{'dB':>7}")
    rows, numbers = [], {}
    for mask in options.masks:
        degradation = sp.inpaint(prior.shape, **MASKS[mask])
        problem = sp.learning_problem(prior, degradation, options.sigma_y)
        kinds = {"drawn": sp.draw(prior, len(kept_out), seed=1), "photos": kept_out}
        known = {
            name: measured(degradation, x_0[:, None], options.sigma_y)
            for name, x_0 in kinds.items()
        }
        panels = [Panel(mask, kept_out[0][None]), Panel("measurement", known["photos"].y[0])]
        for name in options.samplers:
            sampler = sp.SAMPLERS[name]()
            begin = time.perf_counter()
            learned = sp.learn(sampler, problem, levels, search=search)
            seconds = time.perf_counter() - begin
            schedules = learned.baseline_guidance | {"learned": learned.guidance}
            del schedules["exact"]
            scores = {
                label: {
                    kind: scored(sampler, prior, degradation, one, levels, guidance, options)
                    for kind, one in known.items()
                }
                for label, guidance in schedules.items()
            }
            if not options.quick:
                schedules["whole"], scores["whole"] = tuned_on_images(
                    sampler, prior, degradation, known, levels, schedules, learned.free, options
                )
            for label, guidance in schedules.items():
                transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
                loss = float(sp.wasserstein2(problem, transfer))
                expected = float(sp.predicted_energy_score(problem, transfer))
                print(f"{mask:<9}{name:<9}{WORDS[label]:<16}{loss:>9.5f}{expected:>11.4f}", end="")
                for kind in known:
                    here, first = scores[label][kind], scores["heuristic"][kind]
                    against = f"{100 * (here.energy / first.energy - 1):+.1f} %"
                    print(f"{here.energy:>9.4f}{against:>9}", end="")
                photo = scores[label]["photos"]
                numbers.setdefault(mask, {}).setdefault(name, {})[WORDS[label]] = {
                    "W2^2, tiles": loss,
                    "energy score, predicted": expected,
                    "drawn": scores[label]["drawn"].energy,
                    "photographs": photo.energy,
                    "dB": photo.psnr,
                }
                print(f"{photo.psnr:>7.1f}", flush=True)
                if label != "whole":
                    panels.append(Panel(f"{name}, {WORDS[label]}", photo.first))
            print(f"{'':<18}learned in {seconds:.0f} s on {problem.spectrum.shape} modes")
            if options.quick and not (
                scores["learned"]["drawn"].energy < scores["heuristic"]["drawn"].energy
            ):
                sys.exit("inpainting: the learned schedule is not better than the published one")
        rows.append(panels)
    out = options.out or (None if options.quick else Path("runs/inpainting"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        title = f"Inpainting, {options.steps} steps, the Gaussian denoiser: one sample"
        save_with_caption(
            restored_figure(rows, title),
            out,
            "inpainting",
            title="Inpainting by schedules that were learned on small tiles",
            caption=CAPTION,
            numbers=numbers,
            format=options.format,
        )


def measured(degradation: sp.Degradation, x_0: np.ndarray, sigma_y: float) -> Images:
    x = jnp.asarray(x_0, jnp.float32)
    return Images(x, sp.measure(degradation, x, sigma_y, jax.random.key(1)))


def scored(
    sampler: sp.Sampler,
    prior: sp.Prior,
    degradation: sp.Degradation,
    images: Images,
    levels: sp.NoiseLevel,
    guidance: Guidance,
    options: Options,
) -> Score:
    denoiser = sp.GaussianDenoiser.of(prior)
    x = sp.restore(
        sampler,
        denoiser,
        degradation,
        images.y,
        levels,
        guidance,
        jax.random.key(2),
        sigma_y=options.sigma_y,
        num_samples=2,
    )
    psnr = sp.psnr(jnp.mean((x[0] - images.x_0) ** 2))
    energy = sp.energy_score(x, images.x_0)
    return Score(float(jnp.mean(energy)), float(psnr), np.asarray(x[0, 0]))


def tuned_on_images(
    sampler: sp.Sampler,
    prior: sp.Prior,
    degradation: sp.Degradation,
    known: dict[str, Images],
    levels: sp.NoiseLevel,
    schedules: dict[str, Guidance],
    free: tuple[str, ...],
    options: Options,
) -> tuple[Guidance, dict[str, Score]]:
    """The tuned constant times the factor that is best on the drawn images themselves."""
    tried = []
    for factor in FACTORS:
        tuned = schedules["tuned_constant"]
        unit = {name for name in free if sampler.constraint[name] == "unit"}
        guidance = {
            name: weights * (factor if name in free and name not in unit else 1)
            for name, weights in tuned.items()
        }
        one = scored(sampler, prior, degradation, known["drawn"], levels, guidance, options)
        tried.append((one.energy if np.isfinite(one.energy) else np.inf, factor, guidance))
    _, _, guidance = min(tried, key=lambda one: one[:2])
    found = {
        kind: scored(sampler, prior, degradation, one, levels, guidance, options)
        for kind, one in known.items()
    }
    return guidance, found


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
