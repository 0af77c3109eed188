"""Noise schedules learned for unconditional sampling of Gaussian data, by W2 and by KL.

Nothing is measured (a response of 0), so the posterior is the prior, and `learn(free=())` moves the
noise levels alone; the first level stays that of the linear grid. Against the linear and the cosine
grid of DDPM and that of EDM, for DDIM and DDPM; EDM's Heun steps with as many calls of the
denoiser. Data: a Matern process on 256 points, and 32x32 images with a power law of exponent 2, std
0.5. W2^2 and KL per pixel. It is the problem of Benita, Elad, Keshet, "Spectral Analysis of
Diffusion Models with Application to Schedule Design" (arXiv 2502.00180).

What of theirs can be checked: that the sampler of Gaussian data is a closed-form transfer function,
and that the best schedule depends on the spectrum (their abstract). Both are checked here, against
a form of the transfer that is derived by hand. With u = sigma / alpha, a mode of variance v of
x / alpha has the variance v + u^2, and a DDIM step from u to s multiplies it by (v + u s) / (v +
u^2). In angles theta = arctan(u / sqrt(v)) that is the exact flow's factor times cos(theta_u -
theta_s), so

    standard deviation of the output = sqrt(v) sin(theta_T) prod_i cos(theta_i - theta_i+1).

For one variance the best schedule therefore has equal angles, by any metric, since log cos is
concave; v = 1 is the cosine schedule. Data of many variances have to compromise between the angles
of all. Not checked: their figures and tables, whose numbers are not in what could be read (abstract
and introduction), and experiments on networks.

    python experiments/noise_schedules.py --out DIR    3 minutes of CPU time
    python experiments/noise_schedules.py --quick      10 steps and white data, checked

W2^2 (first) and KL (second) per pixel:

    data     steps    linear    cosine       EDM  EDM, Heun   learned by: W2        KL
    1-D         10   0.01036   0.00671   0.01454    0.248            0.00487   0.01683
    Matern,     20   0.00306   0.00178   0.00377    0.00714          0.00131   0.00474
    DDIM       100   0.00017   0.00008   0.00016    0.00001          0.00006   0.00021
    images,     10   0.01695   0.00931   0.01574    0.441            0.00581   0.01309
    DDIM        20   0.00461   0.00231   0.00411    0.00900          0.00156   0.00368
               100   0.00020   0.00009   0.00017    0.00001          0.00007   0.00016
    images,     10   0.0277    0.0148    0.0358                      0.0116    0.0302
    DDPM        20   0.0104    0.0049    0.0129                      0.0037    0.0103
               100   0.00090   0.00032   0.00072                     0.00020   0.00059

    1-D         10   0.489     0.351     0.125      2.65             0.230     0.0315
    Matern,     20   0.269     0.156     0.0319     0.143            0.0554    0.0083
    DDIM       100   0.0323    0.0118    0.00134    0.00009          0.0023    0.00035
    images,     10   0.215     0.0674    0.0934     2.95             0.0330    0.0184
    DDIM        20   0.0571    0.0162    0.0233     0.0632           0.0086    0.0048
               100   0.0024    0.00066   0.00094    0.00005          0.00036   0.00020
    images,     10   0.289     0.117     0.211                       0.0705    0.0362
    DDPM        20   0.108     0.0435    0.0730                      0.0218    0.0112
               100   0.0107    0.0035    0.0040                      0.0011    0.00058

By W2 the cosine grid is the best of those made by hand, and what is learned is near it, with 0.54
to 0.79 of its W2^2 at 5 to 100 steps. KL counts all frequencies alike, however small, and so spends
its steps where log-SNR is higher, at the cost of W2. By W2, Heun's steps are better than any
schedule of first order from 50 calls on, and worse up to 20.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

import spectralpost as sp
from spectralpost.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDE,
    Format,
    frequency_axis,
    new_figure,
    outside_legend,
    save_with_caption,
)
from spectralpost.metrics import output_cov
from spectralpost.noise import log_snr
from spectralpost.prior import frequency
from spectralpost.samplers.base import constant
from spectralpost.samplers.steps import ddim_step, heun_step, noise_estimate

GRIDS = {"linear": sp.vp_linear, "cosine": sp.vp_cosine, "EDM": sp.ve_karras}
OBJECTIVES = {"learned by W2": sp.wasserstein2, "learned by KL": sp.kl}
HEUN = "EDM, Heun"
STYLES = {  # colours, lines, markers
    "linear": (VERMILION, "--", "X"),
    "cosine": (ORANGE, "-.", "v"),
    "EDM": (PURPLE, (0, (5, 1, 1, 1, 1, 1)), "D"),
    HEUN: (SKY, (0, (1, 1)), "s"),
    "learned by W2": (BLUE, "-", "o"),
    "learned by KL": (GREEN, (0, (5, 1)), "^"),
}
DEEPEST = -12  # log-SNR, below which the cosine grid alone begins
BARE = sp.Prices(max_amplification=np.inf, smoothness=0.0)  # nothing can go wrong on the way
BINS = 64


def ddim(denoise: sp.samplers.base.Denoise, _: sp.Measurement, step: sp.Step) -> jax.Array:
    x_hat = denoise(step.x_t, step.t)
    eps_hat = noise_estimate(step.x_t, x_hat, step.t)
    return ddim_step(step, x_hat, eps_hat, step.guidance["eta"])


DDIM = sp.Sampler(
    name="ddim",
    update=ddim,
    defaults=lambda problem, levels, factor: {"eta": constant(0.0, levels)},
    constraint={"eta": "unit"},
    reference="Song, Meng, Ermon, 2020, arXiv 2010.02502",
    summary="DDIM(eta)",
)
HEUNS = replace(DDIM, name="heun", update=lambda denoise, _, step: heun_step(denoise, step))


@dataclass
class Options:
    """Noise levels learned for sampling Gaussian data."""

    quick: bool = False
    """Small, and checked."""
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    shown: int = 20
    """Steps of the schedules and transfers that are drawn."""
    starts: int = 4
    """Searches side by side."""
    seed: int = 0
    out: Path | None = None
    """Folder of the figure and its numbers."""
    format: Format = "png"


class Row(NamedTuple):
    """Data and a sampler."""

    title: str
    prior: sp.Prior
    eta: float


class Found(NamedTuple):
    levels: sp.NoiseLevel
    w2: float
    kl: float
    transfer: sp.Transfer  # of all modes


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        return check(replace(options, starts=2, steps=(10,), shown=10))
    if options.shown not in options.steps:
        sys.exit(f"noise_schedules: shown = {options.shown}: must be one of the steps")
    sp.keep_compiled_programs()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    images = sp.power_law((32, 32))
    rows = (
        Row("1-D Matern, DDIM", sp.matern((256,)), 0.0),
        Row("images, DDIM", images, 0.0),
        Row("images, DDPM", images, 1.0),
    )
    print(f"{'':<18}{'steps':>6}  W2^2 and KL of" + "".join(f"{name:>21}" for name in STYLES))
    results = {}
    for row in rows:
        results[row.title] = {}
        for steps in options.steps:
            results[row.title][steps] = found = compared(row, steps, options)
            print(f"{row.title:<18}{steps:>6}{'':<16}", end="")
            for name in STYLES:
                one = found.get(name)
                print(f"{'-':>21}" if one is None else f"{one.w2:>12.3g}{one.kl:>9.3g}", end="")
            print(flush=True)
    if options.out is not None:
        save(rows, results, options)


def unconditional(prior: sp.Prior, bins: int | None = None) -> sp.Problem:
    """The prior's modes, none of which is measured."""
    problem = sp.image_problem(prior, sp.identity(prior.shape), 1.0)
    problem = problem._replace(response=0 * problem.response)
    return problem if bins is None else sp.bin_modes(sp.unique_modes(problem)[0], bins)[0]


def compared(row: Row, steps: int, options: Options) -> dict[str, Found]:
    whole, found = unconditional(row.prior), {}
    for name, grid in GRIDS.items():
        found[name] = judged(DDIM, whole, grid(steps), row.eta)
    if row.eta == 0:
        # The last of the steps is Euler's: one call.
        found[HEUN] = judged(HEUNS, whole, sp.ve_karras((steps + 1) // 2), row.eta)
    levels = sp.vp_linear(steps)
    # Searches by KL take longest to compile, of which --quick has none.
    objectives = dict([*OBJECTIVES.items()][:1]) if options.quick else OBJECTIVES
    for name, objective in objectives.items():
        # KL, which is searched by L-BFGS, begins where W2 ended.
        levels = learned(unconditional(row.prior, BINS), levels, row.eta, objective, options).levels
        found[name] = judged(DDIM, whole, levels, row.eta)
    return found


def learned(
    problem: sp.Problem,
    levels: sp.NoiseLevel,
    eta: float,
    objective: sp.objectives.Objective,
    options: Options,
) -> sp.LearnResult:
    return sp.learn(
        DDIM,
        problem,
        levels,
        {"eta": constant(eta, levels)},
        free=(),
        objective=objective,
        freedom=sp.Freedom(levels=True),
        prices=BARE,
        search=sp.Search(options.starts, tolerance=1e-6, seed=options.seed, explore=False),
    )


def judged(sampler: sp.Sampler, problem: sp.Problem, levels: sp.NoiseLevel, eta: float) -> Found:
    transfer = sp.sampler_transfer(sampler, problem, levels, {"eta": constant(eta, levels)})
    w2, kl = (float(metric(problem, transfer)) for metric in (sp.wasserstein2, sp.kl))
    return Found(levels, w2, kl, transfer)


def std_by_angles(variance: np.ndarray, levels: sp.NoiseLevel) -> np.ndarray:
    """Standard deviation of the output of DDIM by the product of cosines above, [F]."""
    ratio = np.asarray(levels.sigma / levels.alpha)
    angle = np.arctan(ratio[:, None] / np.sqrt(variance))
    return np.sqrt(variance) * np.sin(angle[0]) * np.prod(np.cos(np.diff(angle, axis=0)), axis=0)


def figure_of(rows: tuple[Row, ...], results: dict, options: Options) -> Figure:
    drawn = new_figure((WIDE, 0.8 + 2.9 * len(rows)))
    panels = drawn.subplots(len(rows), 4, squeeze=False)
    titles = ("W2$^2$ per pixel", "KL per pixel (nats)")
    for row, axes in zip(rows, panels, strict=True):
        of, f = results[row.title], frequency(row.prior.shape).ravel()
        for name, (colour, line, marker) in STYLES.items():
            if name not in of[options.shown]:
                continue
            style = {"color": colour, "linestyle": line, "label": name}
            for panel, metric in zip(axes, ("w2", "kl"), strict=False):
                values = [getattr(of[steps][name], metric) for steps in options.steps]
                panel.loglog(options.steps, values, marker=marker, markersize=4, **style)
            one = of[options.shown][name]
            snr = np.asarray(log_snr(one.levels))[:-1]
            axes[2].plot(np.arange(snr.size) / snr.size, snr, **style)
            std = np.sqrt(np.asarray(output_cov(one.transfer)) / row.prior.spectrum.ravel())
            at, rank = np.unique(f, return_inverse=True)
            mean = np.bincount(rank, std) / np.bincount(rank)
            axes[3].plot(at[1:], mean[1:], **style)
        axes[0].set_ylabel(row.title)
        axes[2].set_ylim(DEEPEST, 14)
        axes[3].axhline(1, color="black", linewidth=0.8)
        frequency_axis(axes[3], f, (0.005, 0.02, 0.1, 0.5))
        for panel, title in zip(axes, titles, strict=False):
            panel.set_title(title)
            panel.set_xticks(options.steps, [str(steps) for steps in options.steps])
            panel.minorticks_off()
        axes[2].set_title(f"log-SNR of {options.shown} steps")
        axes[3].set_title(f"std of samples / of data, {options.shown} steps")
    for panel, label in zip(
        panels[-1], ("steps", "steps", "step / steps", "cycles per pixel"), strict=True
    ):
        panel.set_xlabel(label)
    outside_legend(drawn)
    return drawn


def save(rows: tuple[Row, ...], results: dict, options: Options) -> None:
    numbers = {
        title: {
            str(steps): {
                name: {"w2": one.w2, "kl": one.kl, "log_snr": log_snr(one.levels)[:-1].tolist()}
                for name, one in found.items()
            }
            for steps, found in of.items()
        }
        for title, of in results.items()
    }
    save_with_caption(
        figure_of(rows, results, options),
        options.out or Path(),
        "noise_schedules",
        title="Noise schedules learned for Gaussian data",
        caption="Unconditional sampling of Gaussian data: squared 2-Wasserstein distance and "
        "Kullback-Leibler divergence between samples and data, per pixel, against the number of "
        f"steps; the schedules of {options.shown} steps; and the standard deviation of each "
        "frequency's samples over that of the data (black: 1). log-SNR is log(alpha^2 / sigma^2) "
        f"of the levels that the denoiser is called at, from {DEEPEST} on; the cosine grid begins "
        "below. Linear, cosine and EDM grids with DDIM or DDPM, EDM's Heun steps with as many "
        "calls of the denoiser (two of a step, so half as many levels), and noise levels learned "
        "by either metric. Data: a Matern process on 256 points (length 8, smoothness 1) and "
        "32x32 images of a power law with exponent 2; standard deviation of a pixel 0.5.",
        numbers=numbers,
        format=options.format,
        overwrite=True,
    )


def check(options: Options) -> None:
    wrong, levels = [], sp.vp_linear(10)
    prior = sp.power_law((16, 16))
    std = np.sqrt(output_cov(judged(DDIM, unconditional(prior), levels, 0.0).transfer))
    off = np.max(np.abs(std / std_by_angles(prior.spectrum.ravel(), levels) - 1))
    print(f"transfer function: {off:.1e} from the product of cosines")
    # Ten steps of a few roundings each, and arctan near pi / 2, whose cosine loses 1 / ratio.
    if not off < 1e3 * np.finfo(float).eps * float(levels.sigma[0] / levels.alpha[0]):
        wrong.append(f"the transfer function is off by {off:.1e}")
    # Of as many modes as the problem that is drawn, so that both are one program.
    white = unconditional(prior, BINS)
    white = white._replace(spectrum=jnp.ones_like(white.spectrum))
    first = float(jnp.arctan2(levels.sigma[0], levels.alpha[0]))
    best = np.sin(first) * np.cos(first / 10) ** 10
    least = (1 - best) ** 2
    loss = learned(white, levels, 0.0, sp.wasserstein2, options).loss
    print(f"white data, learned: {loss:.8f}, equal angles {least:.8f}")
    # A search ends where 20 iterations gain less than its tolerance, 1e-6.
    if not -1e-9 < loss / least - 1 < 1e-5:
        wrong.append(f"white data: {loss:.8f}, not {least:.8f}")
    if wrong:
        sys.exit(f"noise_schedules: {'; '.join(wrong)}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        row = Row("images, DDIM", prior, 0.0)
        save((row,), {row.title: {10: compared(row, 10, options)}}, options)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.split("\n")[0]))
    except sp.InputError as error:
        sys.exit(f"noise_schedules: {error}")
