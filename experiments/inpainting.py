"""Inpainting: do schedules that are learned on a small model of the mask carry over?

Of 64x64 pixels, sigma_y 0.05, 20 steps, the Gaussian denoiser, so that nothing but the model of the
mask can be wrong (`spectralpost.inpainting`). Masks: a random half, 3 of 10, 1 of 10 pixels known;
hidden are a square of half the size, thick strokes of a brush, lines of text. Small holes are
modelled by repeated tiles of the mask, the square and the strokes by the lowest frequencies where
they are known and where not; "tiles" below is either. Of each sampler the published default, the
constant tuned on tiles, the learned schedule, and the best of nine multiples of the tuned constant
as tried on the whole images themselves:

    W2^2       on the tiles
    predicted  energy score, on the tiles
    drawn      energy score of two samples an image, of images drawn from the prior: what it costs
               that tiles are not the mask (percent: against the published default)
    photos     the same of photographs that the prior has not seen
    dB         PSNR of a sample and of the mean of 8: as the tiles predict it of the prior's images,
               of those drawn, of photographs; and as all blocks of the tiles predict it of these
               very photographs ("for them"; not of a mask with large holes)

and at the end, of each mask and sampler, how well that carries over. DPS is learned on windows of a
random mask as well, one dense block each, instead of tiles that repeat: their cost is the cube of
their pixels (576 of 24x24), and they lack the lowest frequencies of an image.

    python experiments/inpainting.py                 all of it
    python experiments/inpainting.py --windows 24    a window of 24x24 too: hours
    python experiments/inpainting.py --quick         16x16, two masks, checked
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

import spectralpost as sp
from spectralpost.degradations.circular import hartley
from spectralpost.degradations.downsample import aliased
from spectralpost.figures import Format, Panel, restored_figure, save_with_caption
from spectralpost.gallery import TASKS
from spectralpost.images import built_in_photographs, tiles
from spectralpost.inpainting import TILE
from spectralpost.metrics import image_mse, mode_error
from spectralpost.problem import per_pixel
from spectralpost.samplers.base import Guidance


def strokes(shape: tuple[int, int]) -> np.ndarray:
    """All but six strokes of a brush, a tenth of the image wide, whose direction wanders."""
    canvas = Image.new("L", shape[::-1])
    pen, random, width = ImageDraw.Draw(canvas), np.random.default_rng(0), max(shape[1] // 10, 1)
    for _ in range(6):
        at, angle = random.uniform(0, 1, 2) * shape[::-1], random.uniform(0, 2 * np.pi)
        for _ in range(4):
            angle += random.normal(0, 0.7)
            to = at + shape[1] / 5 * np.array([np.cos(angle), np.sin(angle)])
            pen.line([*at, *to], fill=255, width=width)
            pen.ellipse([*(to - width / 2), *(to + width / 2)], fill=255)
            at = to
    return (np.asarray(canvas) < 128).astype(int)


def text(shape: tuple[int, int]) -> np.ndarray:
    """All but lines of letters, six letters' heights an image, whatever its size."""
    canvas, size = Image.new("L", shape[::-1]), max(shape[0] // 6, 6)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
    for line in range(shape[0] // size):
        words = "schedules in closed form "[line:] * 4
        pen.text((0, 1.3 * size * line), words, fill=255, font=font)
    return (np.asarray(canvas) < 128).astype(int)


MASKS: dict[str, dict | Callable[[tuple[int, int]], np.ndarray]] = {
    "half": {"keep": 0.5},
    "3 of 10": {"keep": 0.3},
    "1 of 10": {"keep": 0.1},
    "box": {"mask": "box"},
    "strokes": strokes,
    "text": text,
}
PROGRAMS = TASKS["inpaint"].programs  # samplers whose published default is another there
CAPTION = (
    "One sample each of the first of the photographs that the prior has not seen, for each mask: "
    "the published default, the constant tuned on a small model of the mask, and the "
    "schedule learned on it. Pixels in [-1, 1], sigma_y 0.05, the Gaussian denoiser. Numbers: "
    "W2^2 per pixel on the model; energy score as predicted there, of whole images drawn from the "
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
    samples: int = 8
    """Of each image."""
    on_images: bool = True
    """Whether a constant is tuned on the images themselves, for comparison."""
    windows: tuple[int, ...] = (6, 8)
    """Pixels along an axis of the windows that DPS is learned on besides."""
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
    psnr: tuple[float, float]  # of a sample, and of the mean of all
    first: np.ndarray  # a sample of the first image, [H, W]


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    search = sp.Search()
    if options.quick:
        options = replace(options, samplers=("dps",), masks=("half", "strokes"), windows=())
        options = replace(options, size=16, images=8, steps=6, samples=2)
        search = sp.Search(starts=2, optimizer="adam")  # of which half is compiled
    photographs = [one.mean(axis=0, keepdims=True) for one in built_in_photographs("rgb").values()]
    cut = np.concatenate([tiles(one, options.size)[:, 0] for one in photographs])
    order = np.random.default_rng(0).permutation(len(cut))
    kept_out, rest = cut[order[: options.images]], cut[order[options.images :]]
    prior, levels = sp.from_images(rest), sp.vp_linear(options.steps)
    print(f"{'':<35}{'energy score':>33}{'dB, a sample':>36}{f'dB, mean of {options.samples}':>29}")
    print(f"{'mask':<9}{'sampler':<9}{'schedule':<16}{'W2^2':>9}{'predicted':>11}", end="")
    print(f"{'drawn':>10}{'':>9}{'photos':>10}{'':>9}", end="")
    print(2 * f"{'predicted':>11}{'drawn':>7}{'photos':>8}{'for them':>10}")
    rows, numbers, carried = [], {}, []
    for mask in options.masks:
        chosen = MASKS[mask]
        given = {"mask": chosen(prior.shape)} if callable(chosen) else chosen
        degradation = sp.inpaint(prior.shape, **given)
        problem = sp.learning_problem(prior, degradation, options.sigma_y)
        kinds = {"drawn": sp.draw(prior, len(kept_out), seed=1), "photos": kept_out}
        known = {
            name: measured(degradation, x_0[:, None], options.sigma_y)
            for name, x_0 in kinds.items()
        }
        whole = of_images(prior, degradation, kept_out, options.sigma_y)
        panels = [Panel(mask, kept_out[0][None]), Panel("measurement", known["photos"].y[0])]
        for name in options.samplers:
            sampler = sp.SAMPLERS[name](**PROGRAMS.get(name, {}))
            begin = time.process_time()
            learned = sp.learn(sampler, problem, levels, search=search)
            seconds = time.process_time() - begin
            schedules = learned.baseline_guidance | {"learned": learned.guidance}
            del schedules["exact"]
            if name == "dps" and mask == options.masks[0]:
                for size in options.windows:
                    schedules[f"window {size}"] = on_windows(
                        sampler, prior, degradation, levels, size, options
                    )
            scores = {
                label: {
                    kind: scored(sampler, prior, degradation, one, levels, guidance, options)
                    for kind, one in known.items()
                }
                for label, guidance in schedules.items()
            }
            if options.on_images and not options.quick:
                schedules["whole"], scores["whole"] = tuned_on_images(
                    sampler, prior, degradation, known, levels, schedules, learned.free, options
                )
            for label, guidance in schedules.items():
                words = WORDS.get(label, label)
                transfer = sp.sampler_transfer(sampler, problem, levels, guidance)
                loss = float(sp.wasserstein2(problem, transfer))
                expected = float(sp.predicted_energy_score(problem, transfer))
                print(f"{mask:<9}{name:<9}{words:<16}{loss:>9.3g}{expected:>11.4g}", end="")
                for kind in known:
                    here, first = scores[label][kind], scores["heuristic"][kind]
                    ratio = here.energy / first.energy
                    against = f"{100 * (ratio - 1):+.1f} %" if ratio < 10 else f"x {ratio:.0e}"
                    print(f"{here.energy:>10.4g}{against:>9}", end="")
                numbers.setdefault(mask, {}).setdefault(name, {})[words] = shown = {
                    "W2^2, model": loss,
                    "energy score, predicted": expected,
                    "drawn": scores[label]["drawn"].energy,
                    "photographs": scores[label]["photos"].energy,
                }
                error = mode_error(problem, transfer)
                of_them = whole and sp.sampler_transfer(sampler, whole[0], levels, guidance)
                for i, num in enumerate((1, options.samples)):
                    mse = per_pixel(problem, error.ideal_var + error.bias2 + error.var / num)
                    of = {"predicted": float(sp.psnr(mse))}
                    of |= {kind: scores[label][kind].psnr[i] for kind in known}
                    print(
                        f"{of['predicted']:>11.2f}{of['drawn']:>7.2f}{of['photos']:>8.2f}", end=""
                    )
                    if whole and of_them:
                        each = [image_mse(whole[0], of_them, x_0, num) for x_0 in whole[1]]
                        of["for them"] = float(sp.psnr(jnp.mean(jnp.stack(each))))
                    print(f"{of['for them']:>10.2f}" if "for them" in of else f"{'-':>10}", end="")
                    dB = "dB" if num == 1 else f"dB, mean of {num}"
                    shown |= {dB if kind == "photos" else f"{dB}, {kind}": of[kind] for kind in of}
                print(flush=True)
                if label in WORDS and label != "whole":
                    panels.append(Panel(f"{name}, {words}", scores[label]["photos"].first))
            print(f"{'':<18}learned in {seconds:.0f} CPU s on {problem.spectrum.shape} modes")
            carried.append((mask, degradation.response.mean(), name, numbers[mask][name]))
            if options.quick and not (
                scores["learned"]["drawn"].energy < scores["heuristic"]["drawn"].energy
            ):
                sys.exit("inpainting: the learned schedule is not better than the published one")
        rows.append(panels)
    print(f"\n{'mask':<9}{'known':>6}  {'sampler':<9}{'drawn / predicted':>18}", end="")
    print(f"{'learned / tuned':>17}{'/ tuned on images':>19}")
    for mask, share, name, found in carried:
        drawn = {label: one["drawn"] for label, one in found.items()}
        gap = drawn["learned"] / found["learned"]["energy score, predicted"]
        print(f"{mask:<9}{share:>6.2f}  {name:<9}{100 * (gap - 1):>+16.1f} %", end="")
        for other, width in (("tuned", 15), ("tuned on images", 17)):
            if other in drawn:
                print(f"{100 * (drawn['learned'] / drawn[other] - 1):>+{width}.1f} %", end="")
        print()
    out = options.out or (None if options.quick else Path("runs/inpainting"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        title = f"Inpainting, {options.steps} steps, the Gaussian denoiser: one sample"
        save_with_caption(
            restored_figure(rows, title),
            out,
            "inpainting",
            title="Inpainting by schedules that were learned on a small model",
            caption=CAPTION,
            numbers=numbers,
            format=options.format,
        )


def of_images(
    prior: sp.Prior, degradation: sp.Degradation, images: np.ndarray, sigma_y: float
) -> tuple[sp.Problem, np.ndarray] | None:
    """All blocks of the tiles, and images [N, H, W] in their coordinates, [N, B, k]; None for a
    mask with large holes, whose blocks are not of an image's frequencies."""
    problem = sp.inpainting_problem(prior, degradation, sigma_y, num_blocks=images[0].size)
    if problem.spectrum.shape[1] != TILE**2:
        return None
    by_frequency = hartley(images - prior.mean, (1, 2))
    modes = aliased(by_frequency, TILE, 2) @ np.asarray(problem.basis)[0].T
    return problem, np.tile(modes, (1, len(problem.spectrum) // modes.shape[1], 1))


def on_windows(
    sampler: sp.Sampler,
    prior: sp.Prior,
    degradation: sp.Degradation,
    levels: sp.NoiseLevel,
    size: int,
    options: Options,
) -> Guidance:
    """Learned on windows of the mask, each one dense block of size x size modes: four at random
    places, or of more than 8x8 pixels one."""
    random, mask = np.random.default_rng(0), degradation.response.reshape(degradation.shape)
    small, num = sp.resized(prior, (size, size)), 4 if size <= 8 else 1
    corners = random.integers(0, options.size - size, (num, 2), endpoint=True)
    cut = [mask[i : i + size, j : j + size] for i, j in corners]
    blocks = [sp.image_problem(small, sp.inpaint(small.shape, one), options.sigma_y) for one in cut]
    together = lambda *rows: None if rows[0] is None else jnp.concatenate(rows)  # noqa: E731
    windows = jax.tree.map(together, *(one._replace(sigma_y=None) for one in blocks))
    windows = windows._replace(sigma_y=blocks[0].sigma_y)
    begin = time.process_time()
    search = sp.Search(starts=2, max_iterations=60, optimizer="lbfgs")
    found = sp.learn(sampler, windows, levels, search=search)
    print(f"{'':<18}{num} windows of {size}x{size}: W2^2 there {found.loss:.5f}, tuned", end="")
    print(f" {found.baselines['tuned_constant']:.5f}; {time.process_time() - begin:.0f} CPU s")
    return found.guidance


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
        num_samples=options.samples,
    )
    psnr = [float(sp.psnr(jnp.mean((one - images.x_0) ** 2))) for one in (x[0], x.mean(axis=0))]
    energy = sp.energy_score(x[:2], images.x_0)
    return Score(float(jnp.mean(energy)), (psnr[0], psnr[1]), np.asarray(x[0, 0]))


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
    tried, two = [], replace(options, samples=2)
    for factor in FACTORS:
        tuned = schedules["tuned_constant"]
        unit = {name for name in free if sampler.constraint[name] == "unit"}
        guidance = {
            name: weights * (factor if name in free and name not in unit else 1)
            for name, weights in tuned.items()
        }
        one = scored(sampler, prior, degradation, known["drawn"], levels, guidance, two)
        tried.append((one.energy if np.isfinite(one.energy) else np.inf, factor, guidance))
    _, _, guidance = min(tried, key=lambda one: one[:2])
    found = {
        kind: scored(sampler, prior, degradation, one, levels, guidance, options)
        for kind, one in known.items()
    }
    return guidance, found


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
