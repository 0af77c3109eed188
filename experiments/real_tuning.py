"""Real tuning: where the closed forms put the weight, and where a search on a network put it.

A test without circularity: nothing here was fitted to the network, nor to its images. Belardi et
al. published the trials of Bayesian searches for `guidance_strength` s, by LPIPS on 32 images, on a
256x256 network of cats. The same samplers under a Gaussian prior with the spectrum of ImageNet, in
closed form, have a loss as a function of s as well. Compared are both curves and their best s.

    python experiments/real_tuning.py --data FILE.csv.gz --statistics FILE.npz --out DIR
    python experiments/real_tuning.py --quick     a small synthetic case that checks itself

The searched samplers, in terms of the package's (x_hat before guidance is clipped there, not here):

    dps      zeta_t = s alpha_s / (2 alpha_t ||r||^2)
    mpgd     normalised, scale_t = s alpha_s, eta = 1
    reddiff  normalised, from mu = 0, lr = s sqrt(pixels), lambda_t = 0.25 ||r|| alpha_t / sigma_t

with mean-field norms. Their RED-diff is Adam of searched momenta, here steps of root mean square s.
Gaussian blurs of std 3, 6, 9, 12 (61x61, reflected borders) and bicubic super-resolution x4 to x16
are diagonal in the discrete cosine transform, as is the prior, but for aliasing, which is left out.
sigma_y is 0 there and 0.01 here (--sigma-y). Inpainting mixes all frequencies and is left out, and
so is PiGDM, whose "pseudo-inverse" there is the identity (LPIPS 0.25 to 0.43).

Past its plateau a loss that divides by ||r||^2 is jagged, and single good values of s lie between
diverging ones. So what counts as the loss of s is the worst within 12 % of s. Rules: the minimum,
or the smallest s whose loss is within 1, 3, 10, 30 % of it, of W2^2 or of the mean squared error;
"+ J" with the denoiser's Jacobian calibrated by the ADM network's error, known by level only.

Geometric mean of predicted s / best s x/ its spread, and the median price in LPIPS, over 14
searches of DPS, 4 of MPGD, 8 of RED-diff (one more of DPS, 12 DDPM steps, ended at the end of its
range). The best s is the median of the best 5 % of trials; "published", the median over steps, is
made for 1000 steps (DPS) or one task (MPGD); "one s for all" is the best that needs no model.

                                   dps                mpgd             reddiff             dps + J
    W2, minimum      1.63 x/ 1.56 +5 %   0.57 x/ 1.46 +3 %  0.62 x/ 1.47 +10 %  2.67 x/ 1.52 +19 %
    W2, 1 %          1.63 x/ 1.56 +5 %   0.56 x/ 1.47 +4 %  0.52 x/ 1.45 +12 %  2.67 x/ 1.52 +19 %
    W2, 3 %          1.55 x/ 1.53 +3 %   0.51 x/ 1.53 +5 %  0.43 x/ 1.47 +14 %  2.60 x/ 1.51 +16 %
    W2, 10 %         1.41 x/ 1.45 +2 %   0.45 x/ 1.50 +8 %  0.28 x/ 1.60 +27 %  2.36 x/ 1.36 +15 %
    W2, 30 %         1.15 x/ 1.29 +1 %  0.39 x/ 1.64 +14 %  0.09 x/ 3.25 +95 %  2.17 x/ 1.40 +11 %
    MSE, minimum     1.63 x/ 1.56 +5 %   0.57 x/ 1.46 +3 %  0.31 x/ 1.68 +27 %  2.69 x/ 1.53 +19 %
    MSE, 1 %         1.49 x/ 1.52 +3 %   0.45 x/ 1.49 +8 %  0.27 x/ 1.68 +30 %  2.58 x/ 1.48 +16 %
    MSE, 3 %         1.17 x/ 1.38 +2 %  0.40 x/ 1.49 +11 %  0.22 x/ 1.80 +38 %  2.25 x/ 1.33 +13 %
    MSE, 10 %        1.01 x/ 1.39 +1 %  0.31 x/ 1.53 +24 %  0.12 x/ 3.02 +56 %   1.92 x/ 1.36 +8 %
    MSE, 30 %        0.75 x/ 1.39 +2 %  0.23 x/ 1.65 +59 % 0.06 x/ 3.36 +113 %   1.39 x/ 1.41 +2 %
    published       0.09 x/ 2.24 +76 %  0.20 x/ 2.62 +64 %   1.22 x/ 1.44 +3 %  0.09 x/ 2.24 +76 %
    one s for all    1.00 x/ 2.02        1.00 x/ 2.62        1.00 x/ 1.44        1.00 x/ 2.02

With sigma_y 0.003
and 0.03 "W2, 30 %" of DPS is 1.30 x/ 1.82 and 1.73 x/ 1.53, "MSE, 10 %" 0.96 x/ 1.38 and 1.21 x/
1.37. One by one: docs/real_networks.md. A minute or two.

Source: Belardi, Lovelace, Weinberger, Gomes, "Adaptive Moments are Surprisingly Effective for
Plug-and-Play Diffusion Sampling", ICLR 2026 (arXiv 2603.16797), christianbelardi/adam-guidance, MIT
licence; as a table with the columns sampler_family, task, method, steps, lpips, guidance_strength.
Statistics (dct_variance [3, N, N], sigmas, mse): Rissanen, Heinonen, Solin, "Free Hunch", ICLR 2025
(arXiv 2410.11149), AaltoML/free-hunch, MIT licence.
"""

import csv
import gzip
import sys
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.ndimage import gaussian_filter

import spectralpost as sp
from spectralpost.calibration import LEVELS, Calibration
from spectralpost.figures import (
    BLUE,
    GREEN,
    VERMILION,
    WIDE,
    Format,
    new_figure,
    save_with_caption,
)
from spectralpost.files import results_folder

STRENGTHS = np.geomspace(1e-3, 1e5, 161)  # 20 a decade: neighbours differ by 12 %
WITHIN = {"minimum": 0.0, "1 %": 0.01, "3 %": 0.03, "10 %": 0.1, "30 %": 0.3}
LOSSES = ("W2", "MSE")
BINS = 400
KNOWN = {"gaussian_deblur": 3, "super_resolution": 4}  # without a number in the task's name
MADE_UP = "Not measured: made of the model's own errors, on 16x16 pixels, to check the rules. "
CAPTION = (
    "Trials of published searches for guidance_strength s by LPIPS on a 256x256 network of cats "
    "(grey; orange: their lower quartile, and the range of the best 5 %), and the closed forms for "
    "the same samplers under a Gaussian prior with ImageNet's spectrum: W2 to the posterior "
    "(green) and root mean squared error (blue), with the s that they recommend. Gaussian "
    "blur and bicubic super-resolution. Numbers of each search: the best s, "
    "and the s that each rule predicts."
)
# What --quick must find, to 2 %: s of the minimum of W2, within 10 % of it, and of the least MSE.
QUICK = {
    "dps": (39.81, 39.81, 39.81),
    "mpgd": (7.943, 7.943, 7.079),
    "reddiff": (0.1778, 0.1413, 0.1),
}


@dataclass
class Options:
    """Closed forms against tuning histories of a network."""

    data: Path | None = None
    """The trials: a CSV file, gzipped."""
    statistics: Path | None = None
    """Spectrum and network error: a file .npz."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/; with --quick none)."""
    format: Format = "png"
    """Of the figure."""
    sigma_y: float = 0.01
    """Measurement noise of the model; the searches had none."""
    quick: bool = False
    """A small synthetic case that checks itself; needs no files."""


class Cell(NamedTuple):
    """One search: what was searched, and its trials."""

    method: str
    kind: str  # "blur" (of std `size`) or "sr" (by `size`)
    size: int
    steps: int
    eta: float
    trials: np.ndarray  # [N, 2]: s, LPIPS

    @property
    def name(self) -> str:
        task = f"blur {self.size}" if self.kind == "blur" else f"sr x{self.size}"
        return f"{self.method:<8}{task:<8}{'DDPM' if self.eta else 'DDIM'} {self.steps:<3}"

    @property
    def varied(self) -> bool:
        """Whether it is of a series over the number of steps."""
        return self.eta == 0 or self.steps != 100


# ------------------------------------------------------------------------------- their samplers


def searched(sampler: sp.Sampler, weights, **changes) -> sp.Sampler:
    """The sampler with `strength` as its weight: (step, ||r||, s) -> its own weights."""

    def update(denoise, measurement: sp.Measurement, step: sp.Step) -> jax.Array:
        estimate = step.x_t if sampler.state == "x_0" else denoise(step.x_t, step.t)
        norm = measurement.norm(step.y - measurement.response * estimate)
        own = weights(step, norm, step.guidance["strength"])
        if "eta" in sampler.constraint:
            own["eta"] = step.guidance["eta"]
        return sampler.update(denoise, measurement, step._replace(guidance=own))

    constraint = {"strength": "nonnegative", "eta": "unit"}
    changes |= {"literal": None, "to_literal": None, "from_literal": None}
    return replace(sampler, update=update, constraint=constraint, **changes)


SEARCHED = {
    "dps": searched(
        sp.SAMPLERS["dps"](),
        lambda step, norm, s: {"zeta": s * step.s.alpha / (2 * step.t.alpha * norm**2)},
    ),
    "mpgd": searched(
        sp.SAMPLERS["mpgd"](normalised=True), lambda step, norm, s: {"scale": s * step.s.alpha}
    ),
    "reddiff": searched(
        sp.SAMPLERS["reddiff"](normalised=True),
        # s times sqrt(pixels) is given, see `losses`.
        lambda step, norm, s: {"lr": s, "lambda_": 0.25 * norm * step.t.alpha / step.t.sigma},
        start=lambda measurement, level, y, eps: 0 * y + 0 * eps,
    ),
}


# ------------------------------------------------------------------------------------- the model


def response(kind: str, size: int, n: int) -> np.ndarray:
    """Gain of each cosine of an n x n image, [n, n], as an orthonormal map to the measurement."""
    f = np.arange(n) / (2 * n)  # cycles per pixel
    if kind == "blur":
        impulse = np.zeros(61)
        impulse[30] = 1
        kernel, at = gaussian_filter(impulse, size), np.arange(-30, 31)
        gain = np.abs(np.cos(2 * np.pi * np.outer(f, at)) @ kernel)
    else:
        at = np.arange(-2 * size, 2 * size) + (0.5 if size % 2 == 0 else 0)
        x = np.abs(at / size)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        kernel = np.where(x <= 1, near, far)
        gain = np.abs(np.cos(2 * np.pi * np.outer(f, at)) @ kernel) / kernel.sum()
        # Beyond the new Nyquist frequency nothing is measured; below, one sample of `size` is kept.
        gain = np.where(2 * size * f < 1, gain / np.sqrt(size), 0)
    return np.outer(gain, gain)


def problem_of(
    spectrum: np.ndarray, kind: str, size: int, sigma_y: float, ratio: np.ndarray | None = None
) -> sp.Problem:
    """Spectrum [n, n] of cosines, three planes; ratio at LEVELS, of all frequencies alike."""
    # A mode that is not measured counts as noise in ||r||: shared out over all modes, the noise of
    # the few pixels of a small image has the right norm.
    noise = sigma_y if kind == "blur" else sigma_y / size
    gain = response(kind, size, len(spectrum))
    weight = np.full(spectrum.size, 3.0)
    problem = sp.make_problem(spectrum.ravel(), gain.ravel(), noise, weight=weight)
    problem = sp.bin_modes(problem, BINS)[0]
    if ratio is None:
        return problem
    of_modes = jnp.tile(jnp.asarray(ratio), (problem.spectrum.size, 1))
    return problem._replace(calibration=Calibration(of_modes, jnp.ones(())))


def error_ratio(statistics: dict) -> np.ndarray:
    """The network's squared error over the Gaussian model's, at LEVELS, at most 1."""
    spectrum = statistics["spectrum"][..., None]
    expected = (spectrum * LEVELS**2 / (spectrum + LEVELS**2)).mean(axis=(0, 1))
    order = np.argsort(statistics["sigmas"])
    sigmas, errors = statistics["sigmas"][order][1:], statistics["mse"][order][1:]  # without 0
    return np.minimum(np.interp(np.log(LEVELS), np.log(sigmas), errors) / expected, 1)


def both(problem: sp.Problem, transfer) -> jax.Array:
    return jnp.stack([sp.wasserstein2(problem, transfer), sp.mse(problem, transfer)])


def losses(method: str, problem: sp.Problem, levels: sp.NoiseLevel, eta: float) -> dict:
    """W2^2 and mean squared error per pixel at STRENGTHS, infinite where a sampler diverges."""
    ones = jnp.ones_like(levels.alpha[1:])
    unit = jnp.sqrt(problem.weight.sum()) if method == "reddiff" else 1.0

    def one(s: jax.Array) -> jax.Array:
        guidance = {"strength": ones * s * unit, "eta": ones * eta}
        return sp.evaluate(SEARCHED[method], problem, levels, guidance, both)

    values = np.asarray(jax.lax.map(one, jnp.asarray(STRENGTHS), batch_size=16)).T
    return dict(zip(LOSSES, np.where(np.isfinite(values), values, np.inf), strict=True))


def published(method: str, problem: sp.Problem, levels: sp.NoiseLevel) -> float:
    """The published default as an s: DPS's and MPGD's are not constant, so the median of steps."""
    if method == "reddiff":
        return 0.1
    t, s = levels.alpha[:-1], levels.alpha[1:]
    sampler = sp.SAMPLERS[method](normalised=True)
    default = sampler.defaults(problem, levels, 1.0)
    if method == "mpgd":
        return float(jnp.median(default["scale"] / s))
    norms = sp.mean_field_norms(sampler, problem, levels, default)[:, 0]
    return float(jnp.median(default["scale"] * norms * t / s))


def rules(values: np.ndarray) -> dict[str, float]:
    """The s of every rule, of losses at STRENGTHS."""
    # The worst of neighbours, so that an s counts as good only if those beside it are.
    edge = np.concatenate([values[:1], values, values[-1:]])
    worst = np.max([edge[:-2], edge[1:-1], edge[2:]], axis=0)
    enough = {name: worst <= (1 + more) * worst.min() for name, more in WITHIN.items()}
    return {name: float(STRENGTHS[good.argmax()]) for name, good in enough.items()}


# --------------------------------------------------------------------------------- the histories


def histories(rows: list[dict]) -> list[Cell]:
    """The searches that the model can express."""
    found: dict[tuple, list] = {}
    for row in rows:
        task, _, number = row["task"].rpartition("_")
        if not number.isdigit():
            task, number = row["task"], KNOWN.get(row["task"], 0)
        if task in KNOWN and row["method"] in SEARCHED:
            kind = "blur" if task == "gaussian_deblur" else "sr"
            eta = 0.0 if row["sampler_family"] == "ddim" else 1.0
            key = (row["method"], kind, int(number), int(row["steps"]), eta)
            trial = float(row["guidance_strength"]), float(row["lpips"])
            found.setdefault(key, []).append(trial)
    cells = [Cell(*key, np.asarray(trials)) for key, trials in found.items()]
    return sorted(cells, key=lambda c: (c.method, -c.eta, c.kind, c.varied, c.size, -c.steps))


def best_of(trials: np.ndarray) -> dict:
    """Median, least and largest s of the best 5 % of trials, and whether the search found no
    optimum: the largest s that it tried is among them."""
    best = trials[np.argsort(trials[:, 1])[: max(round(len(trials) / 20), 3)], 0]
    low, high = float(best.min()), float(best.max())
    at_end = high == trials[:, 0].max()
    return {"best": float(np.median(best)), "low": low, "high": high, "at_end": bool(at_end)}


def response_curve(trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower quartile of LPIPS in bins of a quarter of a decade: their mean log10 s, and it."""
    at = np.log10(trials[:, 0])
    bins = np.floor(4 * at)
    kept = [bins == b for b in np.unique(bins)]
    return (
        np.array([at[one].mean() for one in kept]),
        np.array([np.quantile(trials[one, 1], 0.25) for one in kept]),
    )


def price(cell: Cell, s: float) -> float:
    """How much more LPIPS the searched network has at s than at its best, in %."""
    at, lpips = response_curve(cell.trials)
    return 100 * float(np.interp(np.log10(s), at, lpips) / lpips.min() - 1)


# ---------------------------------------------------------------------------------------- results


def outcome(cell: Cell, spectrum: np.ndarray, sigma_y: float, ratio: np.ndarray) -> dict:
    """What the model says of a search, and what was found."""
    levels = sp.vp_linear(cell.steps, "leading")
    model = problem_of(spectrum, cell.kind, cell.size, sigma_y)
    curves = losses(cell.method, model, levels, cell.eta)
    if cell.method == "dps":  # the others do not use the Jacobian
        calibrated = problem_of(spectrum, cell.kind, cell.size, sigma_y, ratio)
        with_j = losses(cell.method, calibrated, levels, cell.eta)
        curves |= {f"{name} + J": values for name, values in with_j.items()}
    predicted = {
        f"{name}, {rule}": s for name, values in curves.items() for rule, s in rules(values).items()
    }
    predicted["published"] = published(cell.method, model, levels)
    return {
        "real": best_of(cell.trials),
        "predicted": predicted,
        "prices": {rule: price(cell, s) for rule, s in predicted.items()},
        "curves": {name: values.tolist() for name, values in curves.items()},
    }


def table(found: dict[str, dict]) -> str:
    """Best s of the searches (+: the largest that it tried), and each rule's s over it."""
    shown = {
        "published": "published",
        "W2, minimum": "W2 min",
        "W2, 3 %": "3 %",
        "W2, 10 %": "10 %",
        "W2, 30 %": "30 %",
        "MSE, 10 %": "MSE 10 %",
        "MSE + J, 10 %": "+ J",
    }
    heads = "".join(f"{head:>{len(head) + 3}}" for head in shown.values())
    lines = [f"{'':<24}best s (range of best 5 %){heads}"]
    for name, one in found.items():
        best, low, high, at_end = one["real"].values()
        line = f"{name:<24}{best:>7.3g}{'+' if at_end else ' '}{f'({low:.3g} to {high:.3g})':>18}"
        for rule, head in shown.items():
            s = one["predicted"].get(rule)
            line += f"{'' if s is None else f'{s / best:.2f}':>{len(head) + 3}}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def summary(found: dict[str, dict]) -> str:
    """Of every rule: geometric mean of its factors x/ their spread, and the median price in LPIPS.

    Searches that ended at the end of their range have no optimum and do not count.
    """
    groups: dict[str, list[dict]] = {}
    for name, one in found.items():
        if not one["real"]["at_end"]:
            groups.setdefault(name.split()[0], []).append(one)
    columns = [(method, "") for method in groups] + [("dps", " + J")] * ("dps" in groups)
    lines = [f"{'':<14}" + "".join(f"{method + j:>20}" for method, j in columns)]
    spread = lambda values: f"x/ {np.exp(np.log(values).std()):.2f}"  # noqa: E731
    for loss, rule in [*product(LOSSES, WITHIN), ("published", "")]:
        line = f"{f'{loss}, {rule}' if rule else loss:<14}"
        for method, j in columns:
            key = f"{loss}{j}, {rule}" if rule else loss
            off = [one["predicted"][key] / one["real"]["best"] for one in groups[method]]
            more = np.median([one["prices"][key] for one in groups[method]])
            mean = np.exp(np.mean(np.log(off)))
            line += f"{f'{mean:.2f} {spread(off)} {more:+.0f} %':>20}"
        lines.append(line)
    alike = [spread([one["real"]["best"] for one in groups[method]]) for method, _ in columns]
    line = "".join(f"{f'1.00 {one}     ':>20}" for one in alike)
    lines.append(f"{'one s for all':<14}{line}".rstrip())
    return "\n".join(lines)


def figure_of(cells: list[Cell], found: dict[str, dict]) -> Figure:
    """One facet a search, rows by kind of search: measured and predicted."""
    kinds = groupby(cells, lambda cell: (cell.method, cell.eta, cell.varied))
    rows = [row[i : i + 4] for row in (list(kind) for _, kind in kinds) for i in (0, 4) if row[i:]]
    figure = new_figure((WIDE, 2.5 * len(rows) + 0.9))
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_axis_off()
        for axes, cell in zip(axes_row, row, strict=False):
            handles = facet(axes, cell, found[cell.name])
        axes_row[0].set_ylabel("network: LPIPS", fontsize=9)
        handles[-1].axes.set_ylabel("model: error, pixels in [-1, 1]", fontsize=9)
    figure.supxlabel("guidance_strength s", fontsize=11)
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def facet(axes: Axes, cell: Cell, one: dict) -> list:
    """LPIPS on the left axis, W2 and root mean squared error on the right one: its legend."""
    best, low, high, _ = one["real"].values()
    at, lpips = response_curve(cell.trials)
    twin = axes.twinx()
    handles = [axes.axvspan(low, high, color=VERMILION, alpha=0.25, label="network: best 5 %")]
    handles += axes.plot(*cell.trials.T, ".", color="0.6", markersize=3, label="network: trials")
    handles += axes.plot(10**at, lpips, color=VERMILION, label="network: lower quartile")
    middle = min(best, 100)
    axes.set(xscale="log", xlim=(middle / 300, middle * 300), ylim=(lpips.min() - 0.04, 0.78))
    axes.set_title(" ".join(cell.name.split()) + " steps", fontsize=9)
    twin.set(yscale="log", ylim=(np.sqrt(np.min(one["curves"]["W2"])) / 1.3, 2))
    for name, style, colour, label, marked in (
        ("W2", "--", GREEN, "W2 to the posterior", {"minimum": "o", "30 %": "v"}),
        ("MSE", "-", BLUE, "root mean squared error", {"10 %": "s"}),
    ):
        values = np.sqrt(one["curves"][name])
        handles += twin.plot(STRENGTHS, values, style, color=colour, label=f"model: {label}")
        for rule, marker in marked.items():
            s = one["predicted"][f"{name}, {rule}"]
            y = np.interp(s, STRENGTHS, values)
            label = f"least {name}" if rule == "minimum" else f"within {rule} of least {name}"
            options = {"color": colour, "markeredgecolor": "k", "linestyle": "", "zorder": 5}
            handles += twin.plot(s, y, marker, **options, label=f"model: {label}")
    twin.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    twin.yaxis.set_major_formatter("{x:g}")
    twin.yaxis.set_minor_formatter("")
    for one_of_both in (axes, twin):
        one_of_both.tick_params(labelsize=8)
    return handles


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        return quick(options)
    if options.data is None or options.statistics is None:
        raise sp.InputError("data, statistics: name both files (or --quick)")
    with gzip.open(options.data, "rt", newline="") as file:
        cells = histories(list(csv.DictReader(file)))
    with np.load(options.statistics) as stored:
        statistics = {name: stored[name].astype(float) for name in ("sigmas", "mse")}
        statistics["spectrum"] = stored["dct_variance"].astype(float).mean(axis=0)
    ratio = error_ratio(statistics)
    print("network error / model's at sigma 2^-7 to 2^4:", " ".join(f"{r:.2f}" for r in ratio))
    with results_folder(options.out, "real_tuning") as out:
        found = {}
        for cell in cells:
            found[cell.name] = outcome(cell, statistics["spectrum"], options.sigma_y, ratio)
            print(cell.name, file=sys.stderr, flush=True)
        print(table(found), summary(found), sep="\n\n")
        save(cells, found, out.folder, options.format)
    print(f"results in {out.path}: real_tuning.{options.format}, real_tuning.json")


def save(
    cells: list[Cell],
    found: dict[str, dict],
    folder: Path,
    format: Format,
    made: str = "",
) -> None:
    """The figure, with all that was found."""
    save_with_caption(
        figure_of(cells, found),
        folder,
        "real_tuning",
        title="Where closed forms put a weight, and where a search on a network put it",
        caption=made + CAPTION,
        numbers=found,
        format=format,
    )


def quick(options: Options) -> None:
    """Histories made of the model's own errors: the rules must find what made them."""
    f = np.maximum(np.hypot(*np.meshgrid(np.arange(16), np.arange(16))), 1)
    spectrum, levels, wrong = 25 / f**2, sp.vp_linear(10, "leading"), {}
    cells, found = [], {}
    for method, expected in QUICK.items():
        errors = losses(method, problem_of(spectrum, "blur", 1, 0.05), levels, 1.0)["MSE"]
        row = {"sampler_family": "ddpm", "task": "gaussian_deblur_1", "method": method, "steps": 10}
        made = [
            row | {"guidance_strength": s, "lpips": np.sqrt(error)}
            for s, error in zip(STRENGTHS, errors, strict=True)
            if np.isfinite(error)
        ]
        (cell,) = histories(made)
        one = found[cell.name] = outcome(cell, spectrum, 0.05, np.full(LEVELS.size, 0.5))
        cells.append(cell)
        print(table({cell.name: one}), summary({cell.name: one}), sep="\n")
        predicted = one["predicted"]
        got = [predicted[rule] for rule in ("W2, minimum", "W2, 10 %", "MSE, 10 %")]
        if not np.allclose(got, expected, rtol=0.02):
            wrong[method] = got
        if not one["real"]["low"] <= predicted["MSE, minimum"] <= one["real"]["high"]:
            wrong["best trials"] = one["real"]
    # The searched weight, converted by mean-field norms, in the package's own sampler.
    problem, ones = problem_of(spectrum, "blur", 1, 0.05), jnp.ones(10)
    guidance = {"strength": 10 * ones, "eta": ones}
    norms = sp.mean_field_norms(SEARCHED["dps"], problem, levels, guidance)[:, 0]
    zeta = 5 * levels.alpha[1:] / (levels.alpha[:-1] * norms**2)
    own = sp.evaluate(sp.SAMPLERS["dps"](), problem, levels, {"zeta": zeta, "eta": ones})
    if not np.isclose(own, sp.evaluate(SEARCHED["dps"], problem, levels, guidance)):
        wrong["conversion"] = float(own)
    if wrong:
        sys.exit(f"real_tuning: not as expected: {wrong}")
    if options.out is not None:
        with results_folder(options.out, "real_tuning") as out:
            save(cells, found, out.folder, options.format, MADE_UP)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__.splitlines()[0]))
    except (sp.InputError, OSError) as error:
        sys.exit(f"real_tuning: {error}")
