"""Which weights does learning recommend, and which of them matter?

Drawn are learned weights against the log-SNR of the step that uses them, along four axes of the
problem: the number of steps, sigma_y, the blur's standard deviation (pixels), the exponent of the
prior's power law. One row a weight. Black: the published default (dashed) and the tuned constant
(dotted; of dps that in front of the published form, which divides by a norm) of the nominal problem
(20 steps of the uniform linear VP grid, sigma_y 0.05, blur 2, exponent 2; 64x64 images, pixels in
[-1, 1]).

Bars (and a grey band, of the nominal problem) say what not to read into a curve: of each step the
range of its weight within which W2^2 rises by less than 1 %, all other weights as they are. Where
it spans a factor of ten, dots are pale and have no bar. One weight at a time: several that move
together can be flatter still, which is counted below.

That recommended weights differ in structure from heuristics, and change with the step size, is the
claim of Benita, Elad, Keshet, "Analyzing and Guiding Zero-Shot Posterior Sampling in Diffusion
Models" (arXiv 2602.07715).

    python experiments/recommended_weights.py --out DIR    3 minutes of CPU time
    python experiments/recommended_weights.py --quick      dps, 6 steps, 32x32, checked

W2^2 of published default, tuned constant and learned weights; how many weights matter, from which
log-SNR on, and the range and geometric mean of these; in how many directions of all weights
together W2^2 rises as much (`directions`):

    steps, sigma_y, blur, exponent       W2^2                zeta of dps, or lambda_ of diffpir
    dps      20, 0.05, 2, 2     0.1849  0.02012  0.01311     8 of 20   -1.1  0.23 to 6.1  1.0     8
             10, 0.05, 2, 2     0.2145  0.03346  0.02749     6 of 10   -3.1  0.07 to 2.7  0.49    6
             50, 0.05, 2, 2     0.1287  0.00946  0.00360    11 of 50   -0.3  0.24 to 17   1.1     9
            100, 0.05, 2, 2     0.0869  0.00438  0.00141    10 of 100   0.6  0.35 to 22   1.7     6
             20, 0.2, 2, 2      0.1526  0.00991  0.00805     8 of 20   -1.6  0.12 to 3.2  0.55    7
             20, 0.05, 2, 2.5   0.1665  0.01129  0.00762     9 of 20   -1.6  0.11 to 5.4  0.74    9
    diffpir  20, 0.05, 2, 2     0.0084  0.00499  0.00335     6 of 20   -0.6  1.8 to 6.8   3.3     3
             10, 0.05, 2, 2     0.0233  0.01347  0.01142     3 of 10   -0.8  3.9 to 6.6   4.7     2
             50, 0.05, 2, 2     0.0019  0.00146  0.00061    17 of 50   -0.9  0.7 to 9.8   3.1    11
            100, 0.05, 2, 2     0.0007  0.00064  0.00019    37 of 100  -1.4  0.6 to 16    3.2    32
             20, 0.02, 2, 2     0.0076  0.00455  0.00318     5 of 20   -0.1  2.1 to 5.6   3.3     2
             20, 0.05, 1, 2     0.0090  0.00361  0.00257     6 of 20   -0.6  2.8 to 13    5.6     5
             20, 0.05, 3, 2     0.0082  0.00552  0.00360     6 of 20   -0.6  1.2 to 4.7   2.5     2

What the early weights are, where log-SNR is below -2 (in two of the cases -2.2, in 10 steps of dps
-3.1), hardly matters, and that is where curves of different step counts differ most. Those that
matter are about as large in 20, 50 and 100 steps: they are weights of a step, not of time. dps goes
up and down among them: it turns at 56 of 71 places over all eleven cases (a random sequence at 50),
which no published default does, and up to 50 steps nearly each of them is a direction of its own.
lambda_ of diffpir falls as the image appears, at 100 steps like (sigma / alpha)^0.8, where the
default is constant; up to 20 steps about half of those that matter can move if others move with
them. zeta of diffpir, the share of noise that is replaced, matters at no step of up to 50 by
itself.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import spectralpost as sp
from spectralpost.figures import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    WIDE,
    Format,
    legend_above,
    new_figure,
    save_with_caption,
)
from spectralpost.learning import constrain, unconstrain
from spectralpost.noise import log_snr

STYLES = ((BLUE, "o"), (GREEN, "^"), (ORANGE, "s"), (VERMILION, "D"))  # from cold to warm
OUTERMOST = 0.01  # of the weights that matter, beyond each end of an axis
FLAT = 0.01  # what a change of a weight may cost, relative to W2^2
FAR = np.log(1e3)  # bands end here: a factor of 1000, of weights in [0, 1] of their odds
CHEAP = np.log(10)  # a band as wide: a weight that hardly matters

# W2^2 that --quick must learn, to FLAT: what is called no difference here.
QUICK = 0.050130

AXES = {
    "steps": "number of steps",
    "sigma_y": "sigma$_y$",
    "blur": "std of the blur (pixels)",
    "exponent": "exponent of the prior",
}


@dataclass
class Options:
    """The recommended weights, and which of them matter."""

    quick: bool = False
    """Small, and checked."""
    samplers: tuple[str, ...] = ("dps", "diffpir")
    steps: tuple[int, ...] = (10, 20, 50, 100)
    sigma_y: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    blur: tuple[float, ...] = (1.0, 2.0, 3.0)
    exponent: tuple[float, ...] = (1.5, 2.0, 2.5)
    size: int = 64
    """Side of the images, in pixels."""
    bins: int = 100
    """Modes are merged into this many bins."""
    starts: int = 24
    """Searches side by side."""
    seed: int = 0
    out: Path | None = None
    """Folder of the figure and its numbers."""
    format: Format = "png"


class Case(NamedTuple):
    """A problem and a number of steps."""

    steps: int = 20
    sigma_y: float = 0.05
    blur: float = 2.0
    exponent: float = 2.0


NOMINAL = Case()
SMALL = Case(steps=6)  # of --quick


class Learned(NamedTuple):
    """Of one sampler on one case."""

    log_snr: np.ndarray  # that each step begins from, [S]
    w2: dict[str, float]  # of the published default, the tuned constant and the learned weights
    published: dict[str, np.ndarray]  # name -> [S], and so on
    tuned: dict[str, np.ndarray]
    learned: dict[str, np.ndarray]
    bands: dict[str, np.ndarray]  # name -> [2, S], the least and the largest weight
    directions: int  # of all weights together, that matter


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        one = {axis: (getattr(SMALL, axis),) for axis in AXES}
        return check(replace(options, samplers=("dps",), size=32, bins=20, starts=4, **one))
    for name in options.samplers:
        if name not in (known := [one for one in sp.SAMPLERS if one != "exact"]):
            sys.exit(f"recommended_weights: samplers: {name!r}: allowed are {', '.join(known)}")
    for axis in AXES:
        if len(getattr(options, axis)) > len(STYLES):
            sys.exit(f"recommended_weights: {axis}: {len(STYLES)} values at most")
    sp.keep_compiled_programs()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    every = {NOMINAL: None} | {
        NOMINAL._replace(**{axis: value}): None for axis in AXES for value in getattr(options, axis)
    }
    print(f"{'':<9}{'steps, sigma_y, blur, exponent':<32}{'published':>10}{'tuned':>10}", end="")
    print(f"{'learned':>10}")
    results = {}
    for name in options.samplers:
        results[name] = {}
        for case in every:
            results[name][case] = one = learned(name, case, options)
            print(f"{name:<9}{', '.join(f'{value:g}' for value in case):<32}", end="")
            print("".join(f"{value:>10.6f}" for value in one.w2.values()), end="  ")
            print("; ".join(in_words(weight, one) for weight in one.learned), end="; ")
            print(f"{one.directions} directions", flush=True)
    if options.out is not None:
        save(results, options)


def problem_of(case: Case, options: Options) -> sp.Problem:
    shape = (options.size, options.size)
    prior, blur = sp.power_law(shape, case.exponent), sp.gaussian_blur(shape, case.blur)
    problem = sp.unique_modes(sp.image_problem(prior, blur, case.sigma_y))[0]
    return sp.bin_modes(problem, options.bins)[0]


def learned(name: str, case: Case, options: Options) -> Learned:
    sampler, levels = sp.SAMPLERS[name](), sp.vp_linear(case.steps)
    problem = problem_of(case, options)
    search = sp.Search(starts=options.starts, seed=options.seed)
    found = sp.learn(sampler, problem, levels, search=search)
    published, tuned, guidance = (
        {weight: np.asarray(one[weight]) for weight in found.free}
        for one in (
            *map(found.baseline_guidance.get, ("heuristic", "tuned_constant")),
            found.guidance,
        )
    )
    bands = {
        weight: band(sampler, problem, levels, found.guidance, weight) for weight in found.free
    }
    w2 = {
        "published": found.baselines["heuristic"],
        "tuned": found.baselines["tuned_constant"],
        "learned": found.loss,
    }
    num = directions(sampler, problem, levels, found.guidance, found.free)
    return Learned(np.asarray(log_snr(levels))[:-1], w2, published, tuned, guidance, bands, num)


def band(
    sampler: sp.Sampler,
    problem: sp.Problem,
    levels: sp.NoiseLevel,
    guidance: dict[str, jax.Array],
    name: str,
) -> np.ndarray:
    """[2, S]: the least and the largest weight of each step at which W2^2 has not yet risen by
    FLAT, FAR from the learned one at most. A scan outward, then bisection.

    In unconstrained numbers: the logarithm of the weight, or of its odds.
    """
    u = unconstrain(sampler.constraint, {name: guidance[name]})[name]
    most = (1 + FLAT) * sp.evaluate(sampler, problem, levels, guidance)
    step = jnp.arange(u.size)

    @jax.jit
    def dear(reach: jax.Array) -> jax.Array:  # [2, S] -> [2, S]
        def one(moved: jax.Array) -> jax.Array:
            weights = guidance | constrain(sampler.constraint, {name: moved})
            return sp.evaluate(sampler, problem, levels, weights)

        moved = jnp.tile(u, (2, u.size, 1)).at[:, step, step].add(side * reach)
        costs = jax.lax.map(one, moved.reshape(-1, u.size), batch_size=32)
        return ~(costs.reshape(2, -1) <= most)  # NaN is dear

    side = np.array([[-1.0], [1.0]])
    inside, outside = np.zeros((2, u.size)), np.full((2, u.size), np.inf)
    for reach in np.geomspace(0.01, FAR, 40):
        over = np.asarray(dear(np.full_like(inside, reach)))
        outside = np.where(over & np.isinf(outside), reach, outside)
        inside = np.where(np.isinf(outside), reach, inside)
    for _ in range(10):
        middle = np.where(np.isinf(outside), inside, (inside + outside) / 2)
        over = np.asarray(dear(middle))
        inside, outside = np.where(over, inside, middle), np.where(over, middle, outside)
    return np.asarray(constrain(sampler.constraint, {name: u + side * inside})[name])


def directions(
    sampler: sp.Sampler,
    problem: sp.Problem,
    levels: sp.NoiseLevel,
    guidance: dict[str, jax.Array],
    names: tuple[str, ...],
) -> int:
    """In how many orthogonal directions of all weights' logarithms together W2^2 rises by FLAT
    within CHEAP / 2 either way, as a weight that matters does: eigenvalues of the Hessian."""
    flat, shaped = ravel_pytree(
        unconstrain(sampler.constraint, {name: guidance[name] for name in names})
    )

    def loss(u: jax.Array) -> jax.Array:
        return sp.evaluate(
            sampler, problem, levels, guidance | constrain(sampler.constraint, shaped(u))
        )

    hessian, least = jax.jit(jax.hessian(loss))(flat), float(loss(flat))
    rise = np.linalg.eigvalsh(np.asarray(hessian)) / 2 * (CHEAP / 2) ** 2
    return int(np.count_nonzero(rise > FLAT * least))


def matters(one: Learned, weight: str) -> np.ndarray:
    """Which steps' weights matter, [S]: their bands span less than CHEAP."""
    low, high = one.bands[weight]
    return np.log(high / low) < CHEAP


def typical(one: Learned, weight: str) -> float:
    """Geometric mean of the weights that matter; NaN if there is none."""
    w = one.learned[weight][matters(one, weight)]
    return float(np.exp(np.mean(np.log(w)))) if w.size else np.nan


def in_words(weight: str, one: Learned) -> str:
    which = matters(one, weight)
    if not which.any():
        return f"{weight}: none of {which.size} matters"
    w, turns = one.learned[weight][which], np.diff(np.sign(np.diff(one.learned[weight][which])))
    zigzag = f", turns at {np.count_nonzero(turns)} of {turns.size}" if turns.size else ""
    return (
        f"{weight}: {w.size} of {which.size} matter, from log-SNR {one.log_snr[which][0]:.1f} on, "
        f"{w.min():.2g} to {w.max():.2g}, mean {typical(one, weight):.2g}{zigzag}"
    )


def centre_of(results: dict[str, dict[Case, Learned]]) -> Case:
    return next(iter(next(iter(results.values()))))  # NOMINAL, but for --quick


def figure_of(results: dict[str, dict[Case, Learned]], options: Options) -> Figure:
    centre = centre_of(results)
    rows = [(name, weight) for name, of in results.items() for weight in of[centre].learned]
    drawn = new_figure((WIDE, 1 + 3 * len(rows)))
    panels = drawn.subplots(len(rows), len(AXES), squeeze=False, sharex=True, sharey="row")
    for (name, weight), row in zip(rows, panels, strict=True):
        nominal, seen = results[name][centre], []
        for axes, axis in zip(row, AXES, strict=True):
            x = nominal.log_snr
            nominals = [
                axes.fill_between(x, *nominal.bands[weight], color="0.9", linewidth=0),
                *axes.plot(x, nominal.published[weight], "--", color="black", linewidth=1),
                *axes.plot(x, nominal.tuned[weight], ":", color="black", linewidth=1),
            ]
            for value, style in zip(getattr(options, axis), STYLES, strict=False):
                one = results[name][centre._replace(**{axis: value})]
                seen.append(draw_one(axes, one, weight, *style, f"{value:g}"))
        row[0].set_ylabel(f"{name}: {weight.rstrip('_')}")
        if sp.SAMPLERS[name]().constraint[weight] == "unit":
            row[0].set_ylim(-0.02, 1.02)
            continue
        shown = np.concatenate([*seen, nominal.published[weight], nominal.tuned[weight]])
        low, high = np.quantile(shown, (OUTERMOST, 1 - OUTERMOST))
        row[0].set_yscale("log")
        row[0].set_ylim(low / 4, high * 4)
    for axes, title in zip(panels[0], AXES.values(), strict=True):
        legend_above(axes, title, ncols=len(STYLES))
    for axes in panels[-1]:
        axes.set_xlabel("log-SNR, log(alpha$^2$ / sigma$^2$): noise on the left")
    constant = "tuned constant" + (" (dps: of the official form)" if "dps" in results else "")
    names = ("costs less than 1 %, nominal problem", "published default", constant)
    drawn.legend(nominals, names, loc="outside lower center", ncols=3)
    return drawn


def draw_one(
    axes: Axes, one: Learned, weight: str, colour: str, marker: str, label: str
) -> np.ndarray:
    """A curve: dots with a bar where a weight matters, pale where it hardly does. Returns those
    that matter."""
    x, w, (low, high) = one.log_snr, one.learned[weight], one.bands[weight]
    which = matters(one, weight)
    axes.plot(x, w, "-", color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(x[~which], w[~which], ".", color=colour, markersize=3, alpha=0.35)
    few = x.size < 50
    axes.vlines(
        x[which], low[which], high[which], color=colour, linewidth=1 if few else 0.4, alpha=0.7
    )
    axes.plot(x[which], w[which], marker, color=colour, markersize=4 if few else 2.5)
    axes.plot([], [], marker + "-", color=colour, markersize=4, label=label)
    return w[which]


def save(results: dict[str, dict[Case, Learned]], options: Options) -> None:
    plain = lambda one: jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), one._asdict())  # noqa: E731
    centre = centre_of(results)
    save_with_caption(
        figure_of(results, options),
        options.out or Path(),
        "recommended_weights",
        title="The recommended weights, and which of them matter",
        caption="Learned guidance weights against the log-SNR of the step that uses them, along "
        f"four axes around the nominal problem ({centre.steps} steps of the linear VP grid, "
        f"sigma_y {centre.sigma_y:g}, Gaussian blur of std {centre.blur:g} pixels, power law of "
        f"exponent {centre.exponent:g}, {options.size}x{options.size} images, pixels in [-1, 1]). "
        "log-SNR is log(alpha^2 / sigma^2), so sampling goes from left to right. "
        "Black: published default (dashed) and tuned constant (dotted) of the nominal "
        "problem; that of dps is the constant of its official form, divided by a norm that falls. "
        "Bars, and in grey the band of the nominal problem: the range of one step's "
        "weight within which the averaged W2^2 rises by less than 1 %, all other weights as they "
        "are. Where the largest weight of a range is more than ten times the least, dots are "
        "pale, without a bar: such a weight hardly matters. Lines only join dots. Axes of weights "
        "without bounds end where one in a hundred of those that matter is beyond; pale ones leave "
        "them by far.",
        numbers={
            name: {
                f"{case.steps} steps, sigma_y {case.sigma_y:g}, blur {case.blur:g}, exponent "
                f"{case.exponent:g}": plain(one)
                for case, one in of.items()
            }
            for name, of in results.items()
        },
        format=options.format,
        overwrite=True,
    )


def check(options: Options) -> None:
    one, wrong = learned("dps", SMALL, options), []
    print(f"dps in 6 steps: {one.w2['learned']:.6f}, {in_words('zeta', one)}")
    if not abs(one.w2["learned"] / QUICK - 1) < FLAT:
        wrong.append(f"W2^2 is {one.w2['learned']:.6f}, not {QUICK}")
    if not one.w2["learned"] < one.w2["tuned"] < one.w2["published"]:
        wrong.append("the tuned constant is not between the published default and the schedule")
    # Bisection leaves 2^-10 of 18 % of the way to an edge, so that the cost there is FLAT to 1 %.
    for side, edges in zip(("least", "largest"), one.bands["zeta"], strict=True):
        for i in np.flatnonzero(np.abs(np.log(edges / one.learned["zeta"])) < 0.99 * FAR):
            weights = {"zeta": one.learned["zeta"].copy(), "eta": np.ones(SMALL.steps)}
            weights["zeta"][i] = edges[i]
            levels = sp.vp_linear(SMALL.steps)
            loss = sp.evaluate(sp.SAMPLERS["dps"](), problem_of(SMALL, options), levels, weights)
            if not abs((loss / one.w2["learned"] - 1) / FLAT - 1) < 0.01:
                wrong.append(f"step {i}: the {side} weight has W2^2 {loss:.6f}")
    if wrong:
        sys.exit(f"recommended_weights: {'; '.join(wrong)}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        save({"dps": {SMALL: one}}, options)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.split("\n")[0]))
    except sp.InputError as error:
        sys.exit(f"recommended_weights: {error}")
