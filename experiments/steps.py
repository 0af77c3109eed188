"""How does the error fall with the number of steps, and what does a learned schedule gain?

Averaged W2^2 per pixel against the number of steps of the uniform linear VP grid, for eight
problems (sigma_y 0.05, pixels in [-1, 1]) and each sampler:

    published   the published default
    tuned       the best constant for that very problem and number of steps
    learned     one weight a step, up to --learn-steps
    levels      noise levels and weights, likewise
    exact       the exact posterior score in DDIM(0): nothing but finite steps

1-D Gaussian processes on 256 points (Matern of length 8 and smoothness 1; power law of exponent 2),
`sp.gallery_prior` at 32x32 (a power law with three axes of colour: what CIFAR-10 looks like to the
model), and tiles of scikit-image's photographs, as `spectralpost design` takes them, 64x64: blurred
by a Gaussian of std 2 pixels; the images also a quarter as wide, and with a random half of their
pixels known.

    python experiments/steps.py --out DIR    about 2 hours of CPU time; DIR/steps.cells is kept
    python experiments/steps.py --out DIR --learn-steps 20 --samplers pigdm mpgd
    python experiments/steps.py --quick      one problem, checked

W2^2 per pixel, times 10^4:

                          20 steps                          200 steps                   1000 steps
                      publ.  tuned learn. levels  exact  tuned learn. levels  exact  publ.  tuned
dps      1-D Matern    2100     26     21    1.5     13    7.1    1.9   0.52   0.37     13    3.9
         1-D power      800     16     15   0.76     10    3.7    1.5   0.27   0.36     11    1.8
         CIFAR-like    1800    260    170     44     29     33     30     14   0.42    130     15
         - x4          2000     69     62     11     30    4.6    2.5   0.59   0.44    4.1    2.1
         - inpainting  2200     55     39    8.8     19     13      -      -   0.40     26     12
         photographs    820     44     33    4.2     16    5.4    2.6   0.86   0.38     16    3.1
         - x4          1400     31     26    2.6     17    4.1    1.9   0.40   0.38    2.7    1.6
         - inpainting  1200     73     27    4.2     16    8.2    2.4    1.4   0.38     14     11
diffpir  1-D Matern      22     12     11   0.61     13    1.1   0.64  0.033   0.37    1.2   0.28
         1-D power       19     10    9.0   0.28     10   0.95   0.52  0.014   0.36   0.61   0.24
         CIFAR-like      80     45     30    7.1     29    3.1    2.7   0.51   0.42    7.3   0.73
         - x4            42     32     31    8.4     30    2.4    2.2   0.68   0.44    4.4   0.63
         - inpainting   130    110    110     30     19     18      -      -   0.40     54    5.4
         photographs     28     18     15    1.0     16    1.3   0.82  0.053   0.38    1.4   0.29
         - x4            19     17     16    1.4     17    1.1   0.92  0.075   0.38    2.2   0.26
         - inpainting    72     72     68    8.1     16     11    8.6   0.41   0.38     16    3.9

Schedules for inpainting of CIFAR-like images are learned up to 20 steps, its blocks being costly.

Tuned dps gains little from many steps: at 1000 it is 40 to 470 times as far off as the exact score.
Its learned weights gain more: in 200 steps they have 0.27 to 0.92 of the constant's W2^2, diffpir's
0.54 to 0.90. Learned levels are worth more than learned weights: what 10 steps with both reach,
tuned diffpir needs 50 to 500 steps for, tuned dps 50 (x4 of CIFAR-like images) to over 1000
(inpainting). In 200 steps they bring diffpir to 0.04 to 1.6 of the exact score's W2^2 on uniform
steps, dps to 0.7 to 3.7, but for the blur of CIFAR-like images (34). The tuned constant of dps is
worse in 10 steps than in 5 on photographs; a finer scan of constants (blur) finds no better one. Of
inpainting it is no better in 1000 steps than in 100.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

import spectralpost as sp
from spectralpost.figures import (
    COLOURS,
    LINES,
    SKY,
    Format,
    new_figure,
    outside_legend,
    save_with_caption,
)
from spectralpost.files import kept_json
from spectralpost.gallery import TASKS
from spectralpost.images import all_planes, built_in_photographs, tiles
from spectralpost.learning import prepare

SIGMA_Y, BINS = 0.05, 64
COLUMNS = 4  # of the figure
STYLES = {
    "published": (COLOURS["published default"], LINES["published default"]),
    "tuned": (COLOURS["tuned constant"], LINES["tuned constant"]),
    "learned": (COLOURS["learned"], LINES["learned"]),
    "levels": (SKY, (0, (5, 1, 1, 1, 1, 1))),
    "exact": (COLOURS["exact reference"], LINES["exact reference"]),
}
PUBLISHED, TUNED, LEARNED, LEVELS, EXACT = STYLES
LABELS = {LEVELS: "learned, with levels", EXACT: "exact score"}

ABOUT = {  # words of the labels of `problems`
    "1-D Matern": "1-D Matern: 256 points, length 8, smoothness 1",
    "1-D power law": "1-D power law: 256 points, exponent 2",
    "blur": "blur: Gaussian, std 2 pixels",
    "x4": "x4: bicubic",
    "inpainting": "inpainting: a random half of the pixels is known",
    "CIFAR-like": "CIFAR-like: a power law on 32x32 with three axes of colour",
    "photographs": "photographs: those of scikit-image, 64x64",
}

# Steps up to which schedules are learned where that is costly: 24 blocks of 16 modes.
LEARN_UP_TO = {"CIFAR-like, inpainting": 20}
PROGRAMS = TASKS["inpaint"].programs  # samplers whose published default is another there

# W2^2 of --quick: dps, 1-D Matern, 5 steps. To 1 %: a search may end as near to its optimum.
QUICK = {
    PUBLISHED: 0.212528,
    TUNED: 0.008236,
    LEARNED: 0.006817,
    LEVELS: 0.001104,
    EXACT: 0.003927,
}


@dataclass
class Options:
    """W2 against the number of steps."""

    quick: bool = False
    """Small, and checked."""
    samplers: tuple[str, ...] = ("dps", "diffpir")
    steps: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 500, 1000)
    learn_steps: int = 200
    """Up to so many steps schedules are learned."""
    starts: int = 8
    """Searches side by side."""
    seed: int = 0
    out: Path | None = None
    """Folder of the figure, its numbers and finished cells."""
    format: Format = "png"


def problems() -> dict[str, sp.Problem]:
    """In few modes each, as many as possible of one shape: a program serves all of these."""
    photographs = built_in_photographs()
    grey = sp.from_images(
        all_planes(one for image in photographs.values() for one in tiles(image, 64))
    )
    line, colour, small, shape = (256,), sp.gallery_prior(32), (32, 32), (64, 64)
    found = {
        "1-D Matern, blur": (sp.matern(line), sp.gaussian_blur(line, 2.0)),
        "CIFAR-like, blur": (colour, sp.gaussian_blur(small, 2.0)),
        "CIFAR-like, x4": (colour, sp.downsample(small, 4)),
        "CIFAR-like, inpainting": (colour, sp.inpaint(small)),
        "1-D power law, blur": (sp.power_law(line), sp.gaussian_blur(line, 2.0)),
        "photographs, blur": (grey, sp.gaussian_blur(shape, 2.0)),
        "photographs, x4": (grey, sp.downsample(shape, 4)),
        "photographs, inpainting": (grey, sp.inpaint(shape)),
    }
    return {name: sp.bin_modes(modes_of(*one), BINS)[0] for name, one in found.items()}


def modes_of(prior: sp.Prior, degradation: sp.Degradation) -> sp.Problem:
    if degradation.name != "inpaint":
        return sp.unique_modes(sp.image_problem(prior, degradation, SIGMA_Y))[0]
    # Few blocks, since blocks of 16 modes are costly.
    mask = sp.inpainting_problem(prior, degradation, SIGMA_Y, num_blocks=2)
    return sp.unique_modes(mask)[0]


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    for name in options.samplers:
        if name not in (known := [one for one in sp.SAMPLERS if one != "exact"]):
            sys.exit(f"steps: samplers: {name!r}: allowed are {', '.join(known)}")
    if options.quick:
        return check(replace(options, starts=4, steps=(5,)))
    sp.keep_compiled_programs()
    cells = None if options.out is None else options.out / "steps.cells"
    if cells is not None:
        cells.mkdir(parents=True, exist_ok=True)
    results = {}
    print(f"{'':<34}{'steps':>6}" + "".join(f"{label:>12}" for label in STYLES))
    every = problems()
    for name in options.samplers:
        for label, problem in every.items():
            for steps in options.steps:
                learns = steps <= min(options.learn_steps, LEARN_UP_TO.get(label, steps))
                one = kept(name, label, problem, steps, learns, cells, options)
                results.setdefault(name, {}).setdefault(label, {})[steps] = one
                print(f"{name:<10}{label:<24}{steps:>6}", end="")
                told = ("-" if one[which] is None else f"{one[which]:.3g}" for which in STYLES)
                print("".join(f"{value:>12}" for value in told), flush=True)
    if options.out is not None:
        save(results, options)


def kept(
    name: str,
    label: str,
    problem: sp.Problem,
    steps: int,
    learns: bool,
    cells: Path | None,
    options: Options,
) -> dict[str, float | None]:
    """`compared`, from the folder of finished cells if it is there."""
    search = f"{options.starts} starts, {options.seed}" if learns else "none"
    path = None if cells is None else cells / f"{name}, {label}, {steps}, {search}.json"
    return kept_json(path, partial(compared, name, label, problem, steps, learns, options))


def compared(
    name: str, label: str, problem: sp.Problem, steps: int, learns: bool, options: Options
) -> dict[str, float | None]:
    """W2^2 of each in STYLES; None of what is not learned, and of what is not finite."""
    program = PROGRAMS.get(name, {}) if label.endswith("inpainting") else {}
    sampler, levels = sp.SAMPLERS[name](**program), sp.vp_linear(steps)
    found = dict.fromkeys(STYLES)
    if learns:
        search = sp.Search(starts=options.starts, seed=options.seed, explore=False)
        learned = sp.learn(sampler, problem, levels, search=search)
        published, tuned = (
            learned.baseline_guidance[one] for one in ("heuristic", "tuned_constant")
        )
        # From the learned weights: more freedom should not end higher.
        more = sp.learn(
            sampler,
            problem,
            levels,
            learned.guidance,
            freedom=sp.Freedom(levels=True),
            search=search,
        )
        found |= {LEARNED: learned.loss, LEVELS: more.loss}
    else:
        prepared = prepare(sampler, [problem], levels)
        published, tuned = prepared.heuristic, prepared.constant
    for which, guidance in ((PUBLISHED, published), (TUNED, tuned)):
        found[which] = float(sp.evaluate(sampler, problem, levels, guidance))
    found[EXACT] = float(sp.evaluate_exact(problem, levels, jnp.zeros(steps)))
    return {
        which: value if value is not None and np.isfinite(value) else None
        for which, value in found.items()
    }


def figure_of(results: dict, options: Options) -> Figure:
    """A block of panels for each sampler, the same problem at the same place and scale in each."""
    labels = list(next(iter(results.values())))
    columns = min(len(labels), COLUMNS)
    rows = -(-len(labels) // columns)
    drawn = new_figure((max(2.6 * columns, 8), 1 + 2.6 * rows * len(results)))  # the legend needs 8
    panels = drawn.subplots(rows * len(results), columns, squeeze=False, sharex=True)
    blocks = np.split(panels, len(results))
    for (name, of), block in zip(results.items(), blocks, strict=True):
        for label, axes, first in zip(labels, block.flat, blocks[0].flat, strict=False):
            if axes is not first:
                axes.sharey(first)
            for which, (colour, line) in STYLES.items():
                values = [of[label][steps][which] for steps in options.steps]
                at = [i for i, value in enumerate(values) if value is not None]
                axes.loglog(
                    [options.steps[i] for i in at],
                    [values[i] for i in at],
                    linestyle=line,
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=LABELS.get(which, which),
                )
            axes.set_title(label, fontsize="medium")
        for axes in block.flat[len(labels) :]:
            axes.remove()
        for row in block:
            row[0].set_ylabel(f"{name}: W2$^2$ per pixel")
    for axes in panels[-1]:
        axes.set_xlabel("steps")
    outside_legend(drawn)
    return drawn


def save(results: dict, options: Options) -> None:
    shown = {label for of in results.values() for label in of}
    about = "; ".join(text for key, text in ABOUT.items() if any(key in label for label in shown))
    up_to = "".join(f", {key} to {most}" for key, most in LEARN_UP_TO.items() if key in shown)
    save_with_caption(
        figure_of(results, options),
        options.out or Path(),
        "steps",
        title="The error against the number of steps",
        caption="Averaged squared 2-Wasserstein distance to the posterior, per pixel (pixels in "
        "[-1, 1]), against the number of steps of the uniform linear VP grid: published default, "
        "tuned constant, learned weights, learned weights and noise levels (up to "
        f"{options.learn_steps} steps{up_to}), and the exact "
        f"posterior score in DDIM. sigma_y {SIGMA_Y}. {about}.",
        numbers=results,
        format=options.format,
        overwrite=True,
    )


def check(options: Options) -> None:
    prior, wrong = sp.matern((64,)), []
    problem = sp.image_problem(prior, sp.gaussian_blur((64,), 2.0), SIGMA_Y)
    found = compared("dps", "1-D Matern", sp.unique_modes(problem)[0], 5, True, options)
    for which, expected in QUICK.items():
        print(f"dps, 1-D Matern, 5 steps, {which}: {found[which]:.6f}")
        if not abs(found[which] / expected - 1) < 0.01:
            wrong.append(f"{which}: {found[which]:.6f}, not {expected}")
    if wrong:
        sys.exit(f"steps: {'; '.join(wrong)}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        save({"dps": {"1-D Matern, blur": {5: found}}}, options)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.split("\n")[0]))
    except sp.InputError as error:
        sys.exit(f"steps: {error}")
