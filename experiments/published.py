"""Which default is the published one? What official code runs besides, and what that is worth.

A learned schedule is held against the published default of its sampler. Official codes have more
than one: a configuration that scripts override, a value for each task, a variant for images. Here
each of these that this package can express stands beside the default of the package, in W2^2 per
pixel, with the constant tuned for the problem (all weights that the published default has and
learning changes, one number each). 64x64 images, power law of exponent 2, sigma_y 0.05 in [-1, 1],
uniform steps of the linear VP grid; Gaussian blur of std 2, motion blur of 15 pixels, x4 bicubic,
or a random half of the pixels.

    python experiments/published.py            all: 10 minutes of CPU time
    python experiments/published.py --quick    32x32, 5 steps, checked
    python experiments/published.py --data cifar10.npz    energy scores of the shipped U-Net instead

                                                                    20 steps             100 steps
                                                          published    tuned    published    tuned
    dps      blur       deblurring, super-resolution        0.18489  0.02012      0.08685  0.00438
    dps      inpainting deblurring, super-resolution        0.24585  0.00586      0.14897  0.00095
    dps      inpainting inpainting                          0.21147               0.10283
    pigdm    blur       configuration, eta 0                0.00491  0.00382      0.03532  0.00037
    pigdm    blur       scripts, eta 1                      0.00674               0.01349
    diffpir  blur       program for deblurring              0.00839  0.00499      0.00068  0.00064
    diffpir  blur       as configured                       0.12584               0.04239
    diffpir  x4         program for deblurring              0.00469  0.00369      0.00081  0.00037
    diffpir  x4         super-resolution, lambda 7          0.00449               0.00070
    diffpir  inpainting program for deblurring              0.01660  0.01028      0.00589  0.00302
    diffpir  inpainting program for inpainting              0.01097               0.00539
    mpgd     blur       super-resolution, by steps          0.02580  0.01175      0.00194  0.00140
    mpgd     blur       command line, scale 10              0.01375               0.00500
    tmpd     blur       in full                             0.00661  0.00639      0.00071  0.00069
    tmpd     blur       code for images, row sums           0.04005               0.02801
    ilvr     blur       command line, range_t 0             0.02014  0.01821      0.21956  0.01259
    ilvr     blur       README, range_t 20 of 100           0.05197               0.03629
    reddiff  blur       configuration, lr 0.1               0.03946  0.02170      0.02637  0.01016
    reddiff  blur       script for deblurring, lr 0.5       0.07673               0.08494
    reddiff  x4         configuration, lambda_ 0.25         0.03311  0.00100      0.01054  0.00050
    reddiff  x4         means over m and n                  0.08260               0.07632
    daps     motion     Gaussian blur, lr 1e-4              0.01790  0.00282      0.01490  0.00212
    daps     motion     motion blur, lr 5e-5                0.00510               0.00365
    daps     motion     paper, no factor 2                  0.00431               0.00305

With `--data` (an hour beside other work): the shipped U-Net, 64 images of CIFAR-10, Gaussian blur
of std 1.5, motion blur of 9 pixels, x4, 3 of 10 pixels; energy score of the tuned constant, and %
more of the published one, with standard errors. RED-diff's constant diverges in 100 steps.

                                                                   20 steps                100 steps
                                                      tuned       published    tuned       published
dps      blur       deblurring, super-resolution    0.08812  +131.3 % (6.5)  0.06853   +93.0 % (4.7)
dps      inpainting deblurring, super-resolution    0.09558  +152.1 % (7.8)  0.07579   +99.7 % (5.5)
dps      inpainting inpainting                               +124.5 % (6.9)            +68.3 % (4.4)
pigdm    blur       configuration, eta 0            0.07118    -4.8 % (0.5)  0.06759   +40.5 % (2.2)
pigdm    blur       scripts, eta 1                             -2.8 % (1.1)            +11.0 % (1.6)
diffpir  blur       program for deblurring          0.06683    +8.0 % (0.6)  0.06407    +0.0 % (0.0)
diffpir  blur       as configured                            +342.3 % (4.3)           +120.3 % (2.9)
diffpir  x4         program for deblurring          0.11009    +1.8 % (1.5)  0.10914    +0.5 % (0.5)
diffpir  x4         super-resolution, lambda 7                 +1.7 % (1.5)             +0.3 % (0.4)
diffpir  inpainting program for deblurring          0.11704   +22.5 % (3.3)  0.08916    +9.9 % (2.4)
diffpir  inpainting program for inpainting                     +0.0 % (0.0)             +0.6 % (0.2)
mpgd     blur       super-resolution, by steps      0.07567    +0.8 % (1.1)  0.06763    +0.1 % (0.0)
mpgd     blur       command line, scale 10                     +0.0 % (0.6)             +8.3 % (6.9)
ilvr     blur       command line, range_t 0         0.08644    -0.7 % (0.1)  0.07873  +184.1 % (2.6)
ilvr     blur       README, range_t 20 of 100                 +58.3 % (2.1)            +23.4 % (1.7)
reddiff  blur       configuration, lr 0.1           0.09322    -6.5 % (0.8) 21.08566  -99.6 % (11.2)
reddiff  blur       script for deblurring, lr 0.5           +132.8 % (16.1)           -87.5 % (10.3)
reddiff  x4         configuration, lambda_ 0.25     0.11505   +25.3 % (1.3)  0.11359    +5.4 % (1.0)
reddiff  x4         means over m and n                        +41.6 % (1.5)            +37.6 % (1.3)
daps     motion     Gaussian blur, lr 1e-4          0.07738   +39.5 % (1.4)  0.06773   +21.1 % (1.2)
daps     motion     motion blur, lr 5e-5                       +7.9 % (0.8)             +1.5 % (0.5)
daps     motion     paper, no factor 2                         +4.6 % (0.8)             -0.5 % (0.5)
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import spectralpost as sp
from on_networks.scores import energies, percent_more
from spectralpost.learning import prepare
from spectralpost.samplers.base import Guidance

SIGMA_Y = 0.05
SIDE = 64
# Of a blur that keeps the mean, and the prior variance of the mean.
ROW_SUM = 1.0, float(np.max(sp.power_law((SIDE, SIDE)).spectrum))
BINS = 400  # on which constants are tuned: of blocks, and of all problems of the network
NUM_IMAGES = 64
TASKS = {
    "blur": lambda shape: sp.gaussian_blur(shape, 2.0),
    "motion": lambda shape: sp.motion_blur(shape, 15.0, 45.0),
    "x4": lambda shape: sp.downsample(shape, 4),
    "inpainting": sp.inpaint,
}

NETWORK_TASKS = {  # of 32x32 pixels
    "blur": lambda shape: sp.gaussian_blur(shape, 1.5),
    "motion": lambda shape: sp.motion_blur(shape, 9.0, 30.0),
    "x4": TASKS["x4"],
    "inpainting": lambda shape: sp.inpaint(shape, keep=0.3),
}


class Case(NamedTuple):
    """What one code runs for one task."""

    sampler: str
    task: str
    source: str  # which file says so
    options: Mapping[str, Any] = MappingProxyType({})  # of the sampler
    change: Callable[[Guidance], Guidance] = lambda guidance: guidance  # of its default


def scaled(name: str, factor: float) -> Callable[[Guidance], Guidance]:
    return lambda guidance: guidance | {name: factor * guidance[name]}


def constant(**values: float) -> Callable[[Guidance], Guidance]:
    return lambda guidance: (
        guidance | {name: jnp.full_like(guidance[name], value) for name, value in values.items()}
    )


def all_but_last(share: float) -> Callable[[Guidance], Guidance]:
    """No guidance in the last share of the steps and one more."""

    def change(guidance: Guidance) -> Guidance:
        steps = len(guidance["weight"])
        kept = steps - 1 - round(share * steps)
        return guidance | {"weight": guidance["weight"].at[kept:].set(0)}

    return change


# The first of a sampler and task is the default of this package.
CASES = (
    Case("dps", "blur", "deblurring, super-resolution"),
    Case("dps", "inpainting", "deblurring, super-resolution"),
    Case("dps", "inpainting", "inpainting", {"scale": 0.5}),
    Case("pigdm", "blur", "configuration, eta 0"),
    Case("pigdm", "blur", "scripts, eta 1", change=constant(eta=1.0)),
    Case("diffpir", "blur", "program for deblurring"),
    Case("diffpir", "blur", "as configured", change=constant(lambda_=1 / 4, zeta=0.1)),
    Case("diffpir", "x4", "program for deblurring"),
    Case("diffpir", "x4", "super-resolution, lambda 7", change=constant(zeta=0.25)),
    Case("diffpir", "inpainting", "program for deblurring"),
    Case("diffpir", "inpainting", "program for inpainting", {"task": "inpainting"}),
    Case("mpgd", "blur", "super-resolution, by steps"),
    Case("mpgd", "blur", "command line, scale 10", {"scale": 10.0}),
    Case("tmpd", "blur", "in full"),
    Case("tmpd", "blur", "code for images, row sums", {"row_sum": ROW_SUM}),
    Case("ilvr", "blur", "command line, range_t 0"),
    Case("ilvr", "blur", "README, range_t 20 of 100", change=all_but_last(0.2)),
    Case("reddiff", "blur", "configuration, lr 0.1"),
    Case("reddiff", "blur", "script for deblurring, lr 0.5", {"lr": 0.5}),
    Case("reddiff", "x4", "configuration, lambda_ 0.25"),
    Case("reddiff", "x4", "means over m and n", change=scaled("lambda_", 1 / 16)),
    Case("daps", "motion", "Gaussian blur, lr 1e-4"),
    Case("daps", "motion", "motion blur, lr 5e-5", change=scaled("lr", 0.5)),
    Case("daps", "motion", "paper, no factor 2", {"variant": "paper"}),
)


@dataclass
class Options:
    """Which default is the published one?"""

    quick: bool = False
    """Small, and checked."""
    samplers: tuple[str, ...] = tuple(dict.fromkeys(case.sampler for case in CASES))
    steps: tuple[int, ...] = (20, 100)
    data: Path | None = None
    """Arrays train and test of 8-bit images [N, H, W, 3]: energy scores of the shipped U-Net on the
    first 64 of the test images, relative to the constant that is tuned on the model, for the tasks
    of real_networks.py."""


def main(options: Options) -> None:
    known = {case.sampler for case in CASES}
    for name in options.samplers:
        if name not in known:
            raise sp.InputError(f"samplers: {name!r}: allowed are {', '.join(sorted(known))}")
    if options.quick:
        return check()
    sp.keep_compiled_programs()
    if options.data is not None:
        return on_network(options)
    print(f"{'':<50}" + "".join(f"{f'{steps} steps':>22}" for steps in options.steps))
    print(f"{'':<50}" + f"{'published':>13}{'tuned':>9}" * len(options.steps))
    for case in CASES:
        if case.sampler not in options.samplers:
            continue
        print(in_words(case), end="")
        for steps in options.steps:
            w2, tuned = scores(case, SIDE, steps, tune=is_default(case))
            print(f"{w2:>13.5f}{'' if tuned is None else f'{tuned:.5f}':>9}", end="", flush=True)
        print()


def in_words(case: Case) -> str:
    return f"{case.sampler:<9}{case.task:<11}{case.source:<30}"


def is_default(case: Case) -> bool:
    return next(one for one in CASES if one[:2] == case[:2]) is case


@cache
def problem_of(task: str, side: int) -> sp.Problem:
    prior = sp.power_law((side, side))
    problem = sp.learning_problem(prior, TASKS[task]((side, side)), SIGMA_Y)
    return sp.unique_modes(problem)[0]


def scores(case: Case, side: int, steps: int, tune: bool) -> tuple[float, float | None]:
    """W2^2 per pixel of what is published, and of the tuned constant."""
    problem, levels = problem_of(case.task, side), sp.vp_linear(steps)
    sampler = sp.SAMPLERS[case.sampler](**case.options)
    published = case.change(sampler.heuristic(problem, levels))
    w2 = float(sp.evaluate(sampler, problem, levels, published))
    if not tune:
        return w2, None
    tuned = constant_of(sampler, problem, levels)
    return w2, float(sp.evaluate(sampler, problem, levels, tuned))


def constant_of(sampler: sp.Sampler, problem: sp.Problem, levels: sp.NoiseLevel) -> Guidance:
    """The tuned constant."""
    small = problem if problem.basis is None else sp.bin_modes(problem, BINS)[0]
    return prepare(sampler, [small], levels).constant


def on_network(options: Options) -> None:
    """Energy scores of the shipped U-Net: of the tuned constant, and how much more the published
    one has, in % of that, with the standard error of the paired differences."""
    assert options.data is not None
    with np.load(options.data) as stored:
        train, x_0 = (
            np.moveaxis(stored[name], -1, 1).astype(np.float32) / 127.5 - 1
            for name in ("train", "test")
        )
    x_0, network = x_0[:NUM_IMAGES], sp.load_unet()
    prior = sp.from_images(train, colour=True)
    print(f"{'':<50}" + "".join(f"{f'{steps} steps':>25}" for steps in options.steps))
    print(f"{'':<50}" + f"{'tuned':>9}{'published':>16}" * len(options.steps))

    def energies_of(case: Case, steps: int, tuned: bool = False) -> np.ndarray:
        degradation = NETWORK_TASKS[case.task](prior.shape)
        problem, levels = sp.learning_problem(prior, degradation, SIGMA_Y), sp.vp_linear(steps)
        problem = sp.bin_modes(sp.unique_modes(problem)[0], BINS)[0]
        sampler = sp.SAMPLERS[case.sampler](**case.options)
        if tuned:
            guidance = constant_of(sampler, problem, levels)
        else:
            guidance = case.change(sampler.heuristic(problem, levels))
        y = sp.measure(degradation, x_0, SIGMA_Y, jax.random.key(1))
        single = jax.tree.map(lambda leaf: leaf.astype(np.float32), levels)
        key, given = jax.random.key(2), (network, degradation, y, single, guidance)
        samples = sp.restore(sampler, *given, key, sigma_y=SIGMA_Y, num_samples=2)
        return energies(np.asarray(samples), x_0)

    constants: dict[int, np.ndarray] = {}  # steps -> scores, of the last default
    for case in CASES:
        # The row sums of TMPD's are those of the other prior.
        if case.sampler not in options.samplers or case.sampler == "tmpd":
            continue
        print(in_words(case), end="")
        for steps in options.steps:
            if is_default(case):
                constants[steps] = energies_of(case, steps, tuned=True)
            tuned = constants[steps]
            gap, error = percent_more(energies_of(case, steps), tuned)
            words = f"{gap:+.1f} % ({error:.1f})"
            score = f"{tuned.mean():.5f}" if is_default(case) else ""
            print(f"{score:>9}{words:>16}", end="", flush=True)
        print()


def check() -> None:
    """DiffPIR's programs run with better numbers than its configuration, each for its task."""
    found = {
        (case.task, case.source): scores(case, 32, 5, tune=False)[0]
        for case in CASES
        if case.sampler == "diffpir" and case.task != "x4"
    }
    for what, w2 in found.items():
        print(f"diffpir, 5 steps, {', '.join(what)}: {w2:.6f}")
    blur = found["blur", "as configured"] / found["blur", "program for deblurring"]
    holes = "inpainting", "program for inpainting"
    if not (blur > 1.5 and found[holes] < found["inpainting", "program for deblurring"]):
        sys.exit("published: the programs are no better than the configuration")


if __name__ == "__main__":
    try:
        jax.config.update("jax_enable_x64", True)
        main(tyro.cli(Options, description=__doc__.split("\n")[0]))
    except sp.InputError as error:
        sys.exit(f"published: {error}")
