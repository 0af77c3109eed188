"""More freedom: what is each kind of freedom worth to a schedule?

A sampler's published constant is one number. It can be tuned, follow a curve of three knots, differ
from step to step, from one band of frequencies to the next (`bands`), come with a learned share of
fresh noise (eta; DiffPIR's zeta), or with learned noise levels (`Freedom(levels=True)`), which a
network may need rounded to the time steps it was trained on. Each is learned in turn and held
against the exact conditional score in the same steps, on the given grid and on the learned one.

    python experiments/more_freedom.py --out DIR     writes more_freedom.png and .json
    python experiments/more_freedom.py --quick       a small version, checked against QUICK below

64x64 pixels, power-law prior of exponent 2, Gaussian blur of std 2, sigma_y 0.05 in [-1, 1];
uniform steps of the linear VP grid. W2^2 per pixel to the true posterior, all modes:

                                    dps 10 diffpir 10   pigdm 10     dps 20 diffpir 20   pigdm 20
    published default             0.214466   0.023286   0.012737   0.184885   0.008392   0.004912
    tuned constant                0.033460   0.013665   0.012412   0.020122   0.005049   0.003825
    weights, 3 knots              0.028806   0.012210   0.011984   0.016060   0.004235   0.003586
    weights, every step           0.027486   0.012186   0.011636   0.013010   0.004207   0.003523
    weights in 2 bands            0.015089   0.011732   0.011411   0.006219   0.003898   0.003481
    weights in 4 bands            0.014126   0.011669   0.010763   0.005830   0.003889   0.003115
    weights + fresh noise         0.020800   0.011419   0.011666   0.006379   0.003352   0.003462
    weights + levels              0.004069   0.001399   0.001328   0.001696   0.000558   0.000486
    the same, rounded levels      0.003927   0.001399   0.001320   0.001439   0.000559   0.000485
    all, 4 bands                  0.001033   0.000858   0.000903   0.000360   0.000216   0.000247
    exact score                   0.012061   0.012061   0.012061   0.003546   0.003546   0.003546
    exact score, learned levels   0.002059   0.001181   0.001065   0.000518   0.000422   0.000288

Where the steps are placed is worth most: learned levels gain a factor of 7 to 9 on the weights of
every step, for every sampler, and rounding them to a network's time steps costs nothing once the
weights are learned again. They go through the first half of the time steps in one or two.
The exact score gains as much from such levels. Weights by band and fresh noise help DPS,
whose one weight has to serve all frequencies, by factors of 1.3 to 2.2, the others by 1.26 at most.
Three knots are nearly as good as a weight every step, except for DPS.

A low pass on the residual that opens (FGPS, `low_pass`) is a weight by frequency too, but gains
nothing here: what it cuts, the blur and the denoiser's derivative all but cut. Learned bands do the
opposite: 2 in 10 steps give what is hardly measured 5 to 10^4 times the weight of the rest. DPS's
tuned constant, tuned again in FGPS's window (0.039 to 0.293 cycles per pixel) and in the best of a
grid of windows, the one that cuts least:

                                        dps 10     dps 20
    tuned constant                    0.033460   0.020122
    tuned constant, FGPS's window     0.033460   0.020122
    tuned constant, best window       0.033460   0.020122

MSE of 256 restored images, drawn from the prior, against the closed form (all rows of one number of
steps restore the same images):

                                      measured     (s.e.)  predicted     z
    dps 10     weights, every step    0.112537 (0.000220)  0.112285  +1.1
    dps 10     all, 4 bands           0.127943 (0.000196)  0.127785  +0.8
    diffpir 10 weights, every step    0.098784 (0.000172)  0.098522  +1.5
    diffpir 10 all, 4 bands           0.128964 (0.000197)  0.128799  +0.8
    pigdm 10   weights, every step    0.099545 (0.000157)  0.099370  +1.1
    pigdm 10   all, 4 bands           0.128779 (0.000199)  0.128628  +0.8
    dps 20     weights, every step    0.119682 (0.000219)  0.119467  +1.0
    dps 20     all, 4 bands           0.135053 (0.000208)  0.134890  +0.8
    diffpir 20 weights, every step    0.114070 (0.000198)  0.114120  -0.3
    diffpir 20 all, 4 bands           0.135804 (0.000204)  0.135630  +0.9
    pigdm 20   weights, every step    0.117244 (0.000184)  0.117069  +1.0
    pigdm 20   all, 4 bands           0.135521 (0.000209)  0.135370  +0.7
"""

import sys
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from spectralpost import (
    SAMPLERS,
    Degradation,
    Freedom,
    GaussianDenoiser,
    InputError,
    LearnResult,
    NoiseLevel,
    Prior,
    Problem,
    Sampler,
    Search,
    bin_modes,
    draw,
    evaluate,
    evaluate_exact,
    gaussian_blur,
    image_problem,
    learn,
    low_pass,
    measure,
    mode_frequency,
    mse,
    nearest_timesteps,
    per_mode,
    power_law,
    restore,
    sampler_transfer,
    unique_modes,
    vp_linear,
)
from spectralpost.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Format,
    new_figure,
    save_with_caption,
)
from spectralpost.files import results_folder

SIGMA_Y = 0.05
WEIGHT = {"dps": "zeta", "diffpir": "lambda_", "pigdm": "weight"}
FRESH = {"dps": "eta", "diffpir": "zeta", "pigdm": "eta"}  # the share of fresh noise

# name -> whether the share of fresh noise is free besides the weight, and what else is
FREEDOMS: dict[str, tuple[bool, Freedom]] = {
    "weights, 3 knots": (False, Freedom(knots=3)),
    "weights, every step": (False, Freedom()),
    "weights in 2 bands": (False, Freedom(bands=2)),
    "weights in 4 bands": (False, Freedom(bands=4)),
    "weights + fresh noise": (True, Freedom()),
    "weights + levels": (False, Freedom(levels=True)),
    "all, 4 bands": (True, Freedom(levels=True, bands=4)),
}
PLAIN, LEVELS, ALL = "weights, every step", "weights + levels", "all, 4 bands"
ROUNDED = "the same, rounded levels"
EXACT = "exact score"
EXACT_LEARNED = "exact score, learned levels"
ROWS = ["published default", "tuned constant", *FREEDOMS, EXACT, EXACT_LEARNED]
ROWS.insert(ROWS.index(LEVELS) + 1, ROUNDED)

# Start, end (cycles per pixel) and rate of an opening low pass, see `windows`; the official ones of
# FGPS for blurred faces, and what is tried. Rate 0 is linear. Nothing is above 0.71.
FGPS_WINDOW = (10 / 256, 75 / 256, 5)
WINDOWS = list(product((0.02, 10 / 256, 0.08), (0.16, 75 / 256, 0.75), (0, 5)))

CAPTION = (
    "W2^2 per pixel to the true posterior, above, of a sampler whose weights are free to be more "
    "and more: the published default, the tuned constant, three knots, every step, bands of "
    "frequency, with learned fresh noise, with learned noise levels (also rounded to a network's "
    "time steps), and all at once; last the exact conditional score on the given and on the "
    "learned levels. Below: where the learned levels put the steps, 999 being noise. 64x64 pixels, "
    "power law of exponent 2, Gaussian blur of std 2 pixels, sigma_y 0.05 in [-1, 1]."
)

# What --quick must print, to 3 %. What more is learned may end in another minimum.
QUICK = {
    "published default": 0.21020,
    "tuned constant": 0.05794,
    PLAIN: 0.05141,
    EXACT: 0.02854,
}
QUICK_ALL = 0.006  # 0.0029 to 0.0039 as measured


@dataclass
class Options:
    """What each kind of freedom of a schedule is worth, in W2^2."""

    quick: bool = False
    """A small version (DPS, 32x32, 6 steps) that checks its numbers."""
    samplers: tuple[str, ...] = ("dps", "diffpir", "pigdm")
    """Of dps, diffpir, pigdm."""
    steps: tuple[int, ...] = (10, 20)
    """Numbers of steps."""
    seed: int = 0
    """Of the search and of the restored images."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/; with --quick none)."""
    format: Format = "png"
    """Of the figure."""


@dataclass
class Case:
    """One problem, of which `small` is learned on, and all modes count."""

    prior: Prior
    blur: Degradation
    whole: Problem
    small: Problem

    @classmethod
    def of(cls, size: int, bins: int) -> "Case":
        prior, blur = power_law((size, size), exponent=2.0), gaussian_blur((size, size), 2.0)
        whole = image_problem(prior, blur, SIGMA_Y)
        return cls(prior, blur, whole, bin_modes(unique_modes(whole)[0], bins)[0])


def of_all_modes(sampler: Sampler, problem: Problem, result: LearnResult) -> dict[str, jax.Array]:
    """The learned weights, spread over all modes where they are by band."""
    if result.band_knots is None:
        return result.guidance
    return per_mode(sampler.constraint, result.guidance, problem, result.band_knots)


def on_training_steps(levels: NoiseLevel) -> tuple[NoiseLevel, np.ndarray]:
    """The grid rounded to the time steps of a network trained on 1000, and these time steps."""
    train = vp_linear(1000)
    timesteps = nearest_timesteps(levels, train)
    rows = np.append(999 - timesteps, 1000)  # the noisiest, 999, is row 0; the clean end row 1000
    return jax.tree.map(lambda leaf: leaf[rows], train), timesteps


def pixel_check(
    case: Case, sampler: Sampler, result: LearnResult, num: int, seed: int
) -> dict[str, float]:
    """MSE of `num` images drawn from the prior, measured and restored, beside the closed form."""
    guidance = of_all_modes(sampler, case.whole, result)
    expected = mse(case.whole, sampler_transfer(sampler, case.whole, result.levels, guidance))
    x_0 = jnp.asarray(draw(case.prior, num, seed))[:, None]
    noise_key, key = jax.random.split(jax.random.key(seed))
    y = measure(case.blur, x_0, SIGMA_Y, noise_key)
    denoiser, levels = GaussianDenoiser.of(case.prior), result.levels
    out = restore(sampler, denoiser, case.blur, y, levels, guidance, key, sigma_y=SIGMA_Y)
    errors = np.asarray(jnp.mean((out - x_0) ** 2, axis=(1, 2, 3)))
    error, deviation = float(errors.mean()), float(errors.std(ddof=1) / num**0.5)
    return {
        "closed form": float(expected),
        "measured": error,
        "standard error": deviation,
        "z": (error - float(expected)) / deviation,
    }


def windows(
    case: Case, sampler: Sampler, levels: NoiseLevel, constant: dict[str, jax.Array]
) -> dict[str, float]:
    """DPS's tuned constant, tuned again behind an opening low pass (`low_pass`): the least loss."""
    problem, index = unique_modes(case.whole)
    frequency = np.zeros(problem.spectrum.size)
    frequency[index] = mode_frequency(case.prior, case.blur)  # one a row: blur and prior are round
    factors = np.geomspace(0.1, 10, 61)
    p = np.linspace(0, 1, len(constant["zeta"]))

    def cutoffs(start: float, end: float, rate: float) -> np.ndarray:
        return start + (end - start) * (1 - np.exp(-rate * p) if rate else p)

    def loss(window: jax.Array, factor: jax.Array) -> jax.Array:
        guidance = constant | {"zeta": factor * constant["zeta"]}
        return evaluate(sampler, problem, levels, low_pass(guidance, frequency, window))

    tried = [FGPS_WINDOW, *WINDOWS]
    pairs = list(product([cutoffs(*window) for window in tried], factors))
    inputs = [np.stack(one) for one in zip(*pairs, strict=True)]
    losses = jax.lax.map(lambda one: loss(*one), inputs, batch_size=16)
    least = np.nanmin(np.reshape(losses, (len(tried), -1)), axis=1)
    best = int(least.argmin())
    start, end, rate = tried[best]
    what = f"best window, {start:.3f} to {end:.3f}, {'exponential' if rate else 'linear'}"
    return {"FGPS's window": float(least[0]), what: float(least[best])}


def freedoms(case: Case, name: str, steps: int, names: tuple[str, ...], options: Options) -> dict:
    """All numbers of one sampler with `steps` steps; `names` of FREEDOMS."""
    sampler, grid = SAMPLERS[name](), vp_linear(steps)
    losses, pixels, low = {}, {}, {}

    def learned(levels: NoiseLevel, what: str) -> LearnResult:
        fresh, freedom = FREEDOMS[what]
        free = (WEIGHT[name], FRESH[name]) if fresh else (WEIGHT[name],)
        starts, iterations = (4, 60) if options.quick else (16, 200)
        search = Search(starts, iterations, seed=options.seed)
        return learn(sampler, case.small, levels, free=free, freedom=freedom, search=search)

    def whole(levels: NoiseLevel, guidance: dict[str, jax.Array]) -> float:
        return float(evaluate(sampler, case.whole, levels, guidance))

    def exact(levels: NoiseLevel) -> float:
        return float(evaluate_exact(case.whole, levels, jnp.zeros_like(levels.alpha[1:])))

    timesteps: list[int] = []  # nearest to the first levels learned
    for what in names:
        result = learned(grid, what)
        if not losses:
            given, constant, _ = result.baseline_guidance.values()
            losses["published default"] = whole(grid, given)
            losses["tuned constant"] = whole(grid, constant)
            if name == "dps":
                low = windows(case, sampler, grid, constant)
        losses[what] = whole(result.levels, of_all_modes(sampler, case.whole, result))
        if what in (PLAIN, ALL):
            num = 64 if options.quick else 256
            pixels[what] = pixel_check(case, sampler, result, num, options.seed)
        if FREEDOMS[what][1].levels and not timesteps:
            levels, nearest = on_training_steps(result.levels)
            timesteps = nearest.tolist()
            losses[EXACT], losses[EXACT_LEARNED] = exact(grid), exact(result.levels)
            if what == LEVELS:
                losses[ROUNDED] = whole(levels, learned(levels, PLAIN).guidance)
        print(f"{name}, {steps} steps: {what} {losses[what]:.6f}", file=sys.stderr, flush=True)
    return {
        "losses": losses,
        "pixels": pixels,
        "windows": low,
        "uniform": on_training_steps(grid)[1].tolist(),
        "learned": timesteps,
    }


def run(options: Options) -> dict:
    """ "sampler, S" -> numbers."""
    if options.quick:
        case = Case.of(32, 60)
        return {"dps, 6": freedoms(case, "dps", 6, (PLAIN, ALL), options)}
    unknown = set(options.samplers) - set(WEIGHT)
    if unknown:
        raise InputError(f"samplers = {', '.join(sorted(unknown))}: known are {', '.join(WEIGHT)}")
    case = Case.of(64, 200)
    return {
        f"{name}, {steps}": freedoms(case, name, steps, tuple(FREEDOMS), options)
        for steps in options.steps
        for name in options.samplers
    }


def table(results: dict) -> str:
    """The losses, one column for each sampler and number of steps; below it the pixel check."""
    runs = list(results.values())
    lines = [f"{'':<27}" + "".join(f"{run:>13}" for run in results)]
    for name in ROWS:
        if all(name in run["losses"] for run in runs):
            lines.append(f"{name:<27}" + "".join(f"{run['losses'][name]:>13.6f}" for run in runs))
    lines += ["", "MSE of restored images, measured (standard error) against the closed form:"]
    for name, run in results.items():
        for what, check in run["pixels"].items():
            expected, measured, error, z = check.values()
            lines.append(
                f"{name:<13}{what:<21}{measured:.6f} ({error:.6f}){expected:>11.6f}   z = {z:+.1f}"
            )
    lines += ["", "Tuned constant behind a low pass that opens:"]
    for name, run in results.items():
        lines += [f"{name:<13}{what:<44}{loss:.6f}" for what, loss in run["windows"].items()]
    return "\n".join(lines)


def numbers_of(results: dict) -> dict:
    """W2^2 by kind of freedom, and the check on pixels."""
    known = [name for name in ROWS if all(name in run["losses"] for run in results.values())]
    losses = {name: {key: run["losses"][name] for key, run in results.items()} for name in known}
    return {"W2^2": losses, "MSE of restored images": {k: r["pixels"] for k, r in results.items()}}


def figure(results: dict) -> Figure:
    """Losses, sampler by sampler, and the learned noise levels under them."""
    samplers = list(dict.fromkeys(key.split(", ")[0] for key in results))
    all_steps = list(dict.fromkeys(int(key.split(", ")[1]) for key in results))
    colours = dict(zip(all_steps, (ORANGE, BLUE, GREEN, PURPLE), strict=False))
    rows = list(numbers_of(results)["W2^2"])
    drawn = new_figure((max(1.5 + 4.3 * len(samplers), 8), 9.2))  # its title needs 8
    panels = drawn.subplots(2, len(samplers), squeeze=False, height_ratios=(3, 2), sharey="row")
    apart = 0.6 / len(all_steps)
    low = min(min(run["losses"].values()) for run in results.values()) / 2
    high = max(max(run["losses"].values()) for run in results.values())
    for dots, grids, name in zip(*panels, samplers, strict=True):
        for i, steps in enumerate(all_steps):
            run = results[f"{name}, {steps}"]
            values = np.array([run["losses"][row] for row in rows])
            place = np.arange(len(rows)) + (i - (len(all_steps) - 1) / 2) * apart
            dots.plot(values, place, "os^D"[i], color=colours[steps], label=f"{steps} steps")
            for value, at in zip(values, place, strict=True):
                dots.annotate(
                    f"{value:.2g}",
                    (value, at),
                    (6, 0),
                    textcoords="offset points",
                    fontsize=7,
                    va="center",
                )
            share = np.arange(steps) / max(steps - 1, 1)
            if i == 0:
                grids.plot([0, 1], [999, 0], "k--", linewidth=1, label="uniform")
            label = f"learned, {steps} steps"
            grids.plot(share, run["learned"], "o-", color=colours[steps], markersize=4, label=label)
        dots.set_xscale("log")
        dots.set_yticks(range(len(rows)), rows)
        dots.grid(axis="y", linewidth=0.4)
        dots.set_xlim(left=low, right=4 * high)
        dots.set_xlabel("W2$^2$ per pixel to the true posterior")
        dots.set_title(name)
        grids.set_xlabel("steps done (share of all)")
    panels[0, 0].invert_yaxis()  # shared by the row
    panels[1, 0].set_ylabel("noise level, as time step of 1000 (999: noise)")
    for grids in panels[1]:
        grids.legend(fontsize="small", title=LEVELS, title_fontsize="small")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    drawn.suptitle("What each kind of freedom is worth: blur of std 2, sigma_y = 0.05, 64x64")
    return drawn


def check_quick(results: dict) -> list[str]:
    """What is not as it should be in the small version."""
    (run,) = results.values()
    losses, wrong = run["losses"], []
    for name, value in QUICK.items():
        if not abs(losses[name] / value - 1) < 0.03:
            wrong.append(f"{name}: {losses[name]:.6f} instead of {value}")
    for more, less in pairwise(["tuned constant", PLAIN, ALL]):
        if not losses[less] < 0.95 * losses[more]:
            wrong.append(f"{less} hardly better than {more}")
    for what, loss in run["windows"].items():
        if not abs(loss / losses["tuned constant"] - 1) < 0.01:
            wrong.append(f"{what}: {loss:.6f}, where a low pass changes nothing")
    if not losses[ALL] < QUICK_ALL:
        wrong.append(f"{ALL}: {losses[ALL]:.6f}, more than {QUICK_ALL}")
    if not losses[EXACT_LEARNED] < 0.5 * losses[EXACT]:
        wrong.append("the exact score gains nothing on the learned levels")
    if run["learned"] == run["uniform"]:
        wrong.append("the learned levels are the given ones")
    for name, check in run["pixels"].items():
        if not abs(check["z"]) < 5:
            wrong.append(f"MSE of images restored with {name}: z = {check['z']:.1f}")
    return wrong


def main() -> None:
    options = tyro.cli(Options, description=__doc__.splitlines()[0])
    jax.config.update("jax_enable_x64", True)
    # Compiling takes most of the time; numbers change by rounding only.
    jax.config.update("jax_disable_most_optimizations", options.quick)
    try:
        if options.quick and options.out is None:
            results = run(options)
            print(table(results))
            wrong = check_quick(results)
            sys.exit(f"not as expected: {'; '.join(wrong)}" if wrong else 0)
        with results_folder(options.out, "more_freedom") as out:
            results = run(options)
            print(table(results))
            if options.quick and (wrong := check_quick(results)):
                sys.exit(f"not as expected: {'; '.join(wrong)}")
            save_with_caption(
                figure(results),
                out.folder,
                "more_freedom",
                title="What each kind of freedom is worth",
                caption=CAPTION,
                numbers=numbers_of(results),
                format=options.format,
            )
        print(f"results in {out.path}: more_freedom.{options.format}, more_freedom.json")
    except InputError as error:
        sys.exit(f"more_freedom: {error}")


if __name__ == "__main__":
    main()
