"""Sampling Gaussian data: W2 of six numerical schemes, against published numbers.

Pierret and Galerne, "Diffusion models for Gaussian distributions: Exact solutions and Wasserstein
errors", ICML 2025 (arXiv 2405.14250), give W2 between CIFAR-10's Gaussian and what schemes for
diffusion models make of it, by a recursion for each scheme. Here these schemes are samplers of this
package; all else is its denoiser, its composition of steps, its metric. Their setting, from their
repository (emilePi on GitHub, code/Gaussian_diffusion_W2.ipynb):

    dx = -beta_t x dt + sqrt(2 beta_t) dw, beta linear from 0.05 to 10 on [0, 1]; NFE - 1 equal
    steps from t = 1 to t = epsilon, of RK4 NFE // 4 - 1 (of Heun's, two calls a step, NFE - 1
    as well: that is what the notebook runs); the start is N(0, I), or the law p_T of x_1; W2 of all
    3072 numbers of an image, neither squared nor per pixel; eigenvalues of CIFAR-10's covariance in
    its code/cifar10.npy

    python experiments/exact_errors.py --eigenvalues cifar10.npy --out DIR    1 minute
    python experiments/exact_errors.py --out DIR    without that file: other data, no comparison
    python experiments/exact_errors.py --quick      checked

The full run compares all 176 finite numbers of their table: they agree to the two decimals that are
printed. `--quick` finds the limits of many steps, their equations (7) and (8), at the order of each
scheme: 1 of EM, EI, DDPM and Euler, 2 of Heun, 4 of RK4.

Their second paper, "Exact Evaluation of the Accuracy of Diffusion Models for Inverse Problems with
Gaussian Data Distributions" (arXiv 2507.07008), does this for deblurring: its abstract states what
`sp.wasserstein2` computes, the exact W2 between a sampler's output and the posterior. Its numbers
are not checked: neither its tables nor its code could be read.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

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
    new_figure,
    outside_legend,
    save_with_caption,
)
from spectralpost.metrics import output_cov
from spectralpost.samplers.base import Denoise

BETA = 0.05, 10.0
NFE, TRUNCATIONS = (50, 250, 500, 1000), (0.0, 1e-5, 1e-4, 1e-3)
DRAWN = np.rint(np.geomspace(20, 1000, 15)).astype(int)  # numbers of steps of the lines

# What code/Gaussian_diffusion_W2.ipynb shows at commit 8d02029: NFE 50, 250, 500, 1000, each from
# p_T and from N(0, I), one line an epsilon. Infinite for Heun and RK4 at epsilon = 0.
PUBLISHED = {
    "EM": """4.78 4.78 0.65 0.66 0.32 0.32 0.16 0.16
             4.77 4.77 0.66 0.66 0.32 0.32 0.16 0.16
             4.76 4.76 0.66 0.66 0.32 0.32 0.17 0.17
             4.68 4.68 0.70 0.70 0.40 0.40 0.27 0.27""",
    "EI": """2.81 2.81 0.57 0.57 0.30 0.30 0.16 0.16
             2.81 2.81 0.57 0.57 0.30 0.30 0.16 0.16
             2.82 2.82 0.58 0.58 0.31 0.31 0.17 0.17
             2.91 2.91 0.67 0.67 0.41 0.41 0.29 0.29""",
    "DDPM": """6.82 6.82 0.97 0.97 0.47 0.47 0.23 0.23
               6.82 6.82 0.97 0.97 0.47 0.47 0.24 0.23
               6.81 6.81 0.98 0.98 0.47 0.47 0.24 0.24
               6.74 6.74 1.00 1.00 0.53 0.53 0.32 0.32""",
    "Euler": """1.72 1.78 0.38 0.44 0.20 0.26 0.10 0.17
                1.72 1.78 0.38 0.44 0.20 0.26 0.10 0.17
                1.72 1.78 0.38 0.44 0.20 0.26 0.11 0.17
                1.73 1.79 0.42 0.48 0.27 0.32 0.21 0.25""",
    "Heun": """inf inf inf inf inf inf inf inf
               23.42 23.42 2.86 2.87 1.05 1.06 0.37 0.38
               4.68 4.68 0.43 0.44 0.12 0.14 0.03 0.08
               0.58 0.59 0.13 0.15 0.16 0.18 0.17 0.19""",
    "RK4": """inf inf inf inf inf inf inf inf
              67.32 67.32 5.49 5.49 2.11 2.11 0.77 0.77
              14.35 14.35 0.93 0.93 0.29 0.29 0.07 0.10
              2.60 2.60 0.09 0.12 0.15 0.17 0.17 0.19""",
}
STYLES = {  # colour, marker of what is published, line
    "EM": (BLUE, "o", "-"),
    "EI": (SKY, "s", "--"),
    "DDPM": (GREEN, "^", "-."),
    "Euler": (ORANGE, "v", ":"),
    "Heun": (VERMILION, "D", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    "RK4": (PURPLE, "X", (0, (3, 1))),
}


@dataclass
class Options:
    """W2 of numerical schemes for Gaussian data, against published numbers."""

    quick: bool = False
    """Small, and checked."""
    eigenvalues: Path | None = None
    """Their cifar10.npy; without it a model of such images is drawn, and nothing compared."""
    out: Path | None = None
    """Folder of the figure and its numbers."""
    format: Format = "png"


def slope(denoise: Denoise, x: jax.Array, t: sp.NoiseLevel, noise: float) -> jax.Array:
    """x + (1 + noise) score(x), whose product with beta_t is the drift back in time: of the flow
    with noise = 0, of the stochastic equation with 1."""
    return x + (1 + noise) * (t.alpha * denoise(x, t) - x) / t.sigma**2


# (denoise, step) -> x_s. Weights h, h_mid, h_end: beta dt at the begin, middle and end of the step.


def euler_maruyama(denoise: Denoise, step: sp.Step) -> jax.Array:
    h = step.guidance["h"]
    return step.x_t + h * slope(denoise, step.x_t, step.t, 1) + jnp.sqrt(2 * h) * step.eps


def exponential(denoise: Denoise, step: sp.Step) -> jax.Array:
    growth = step.s.alpha / step.t.alpha
    drift = (growth - 1) * slope(denoise, step.x_t, step.t, 1)
    return step.x_t + drift + jnp.sqrt(growth**2 - 1) * step.eps


def ddpm(denoise: Denoise, step: sp.Step) -> jax.Array:
    beta = 2 * step.guidance["h"]
    score = slope(denoise, step.x_t, step.t, 0) - step.x_t
    return (step.x_t + beta * score) / jnp.sqrt(1 - beta) + jnp.sqrt(beta) * step.eps


def euler(denoise: Denoise, step: sp.Step) -> jax.Array:
    return step.x_t + step.guidance["h"] * slope(denoise, step.x_t, step.t, 0)


def heun(denoise: Denoise, step: sp.Step) -> jax.Array:
    first = step.guidance["h"] * slope(denoise, step.x_t, step.t, 0)
    second = step.guidance["h_end"] * slope(denoise, step.x_t + first, step.s, 0)
    return step.x_t + (first + second) / 2


def runge_kutta(denoise: Denoise, step: sp.Step) -> jax.Array:
    alpha = step.guidance["alpha_mid"]
    middle, x = sp.NoiseLevel(alpha, jnp.sqrt(1 - alpha**2)), step.x_t
    a = step.guidance["h"] * slope(denoise, x, step.t, 0)
    b = step.guidance["h_mid"] * slope(denoise, x + a / 2, middle, 0)
    c = step.guidance["h_mid"] * slope(denoise, x + b / 2, middle, 0)
    d = step.guidance["h_end"] * slope(denoise, x + c, step.s, 0)
    return x + (a + 2 * b + 2 * c + d) / 6


SCHEMES: dict[str, Callable[[Denoise, sp.Step], jax.Array]] = {
    "EM": euler_maruyama,
    "EI": exponential,
    "DDPM": ddpm,
    "Euler": euler,
    "Heun": heun,
    "RK4": runge_kutta,
}
SAMPLERS = {
    name: sp.Sampler(
        name=name,
        update=lambda denoise, _, step, scheme=scheme: scheme(denoise, step),
        defaults=lambda problem, levels, factor: {},
        constraint=dict.fromkeys(("h", "h_mid", "h_end", "alpha_mid"), "nonnegative"),
        reference="Pierret, Galerne, 2025, arXiv 2405.14250",
        summary=scheme.__name__,
        start=lambda measurement, level, y, eps: eps,
    )
    for name, scheme in SCHEMES.items()
}


def beta(t: np.ndarray) -> np.ndarray:
    return BETA[0] + (BETA[1] - BETA[0]) * t


def alpha_at(t: np.ndarray) -> np.ndarray:
    return np.exp(-BETA[0] * t - (BETA[1] - BETA[0]) * t**2 / 2)


def noisy(variance: np.ndarray, t: float) -> np.ndarray:
    """Variances of x_t."""
    share = alpha_at(np.asarray(t)) ** 2
    return share * variance + 1 - share


def levels_of(name: str, nfe: int) -> int:
    """How many levels their table takes."""
    return nfe // 4 if name == "RK4" else nfe


def made(name: str, variance: np.ndarray, num: int, epsilon: float, from_p_t: bool = False):
    """Problem and transfer of a scheme on num levels."""
    t = np.linspace(1, epsilon, num)
    alpha, middle, dt = alpha_at(t), (t[:-1] + t[1:]) / 2, t[:-1] - t[1:]
    levels = sp.NoiseLevel(jnp.asarray(alpha), jnp.asarray(np.sqrt(-np.expm1(2 * np.log(alpha)))))
    weights = {"h": dt * beta(t[:-1]), "h_mid": dt * beta(middle), "h_end": dt * beta(t[1:])}
    weights = jax.tree.map(jnp.asarray, weights | {"alpha_mid": alpha_at(middle)})
    problem = sp.make_problem(variance, 0 * variance, 1.0)
    transfer = transfer_of(SAMPLERS[name], problem, levels, weights)
    if from_p_t:  # the start is one factor of the gain
        transfer = transfer._replace(state_gain=np.sqrt(noisy(variance, 1)) * transfer.state_gain)
    return problem, transfer


transfer_of = jax.jit(sp.sampler_transfer, static_argnums=0)


def w2(name: str, variance: np.ndarray, num: int, epsilon: float, from_p_t: bool = False) -> float:
    """W2 between the data and what a scheme makes on num levels."""
    problem, transfer = made(name, variance, num, epsilon, from_p_t)
    return float(jnp.sqrt(variance.size * sp.wasserstein2(problem, transfer)))


def limit(variance: np.ndarray, epsilon: float, stochastic: bool) -> np.ndarray:
    """Variances that infinitely many steps make of N(0, I): their equation (7), or (8)."""
    now, first = noisy(variance, epsilon), noisy(variance, 1)
    if not stochastic:
        return now / first
    share = (alpha_at(np.ones(())) / alpha_at(np.asarray(epsilon))) ** 2
    return now + share * now**2 / first * (1 / first - 1)


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        check()
        if options.out is None:
            return
        options = replace(options, eigenvalues=None)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.eigenvalues is None:
        # Their data are no part of this package: the model of such images, and no comparison.
        return save(sp.gallery_prior(32).spectrum.ravel(), None, options)
    try:
        variance = np.maximum(np.load(options.eigenvalues).astype(float), 0)
    except (OSError, ValueError) as error:
        sys.exit(f"exact_errors: eigenvalues = {str(options.eigenvalues)!r}: {error}")
    print("W2 here (published), epsilon by NFE and start (p_T, N(0, I))")
    results, off = {}, 0.0
    for name, text in PUBLISHED.items():
        published = np.array([line.split() for line in text.splitlines()], float)
        ours = np.full(published.shape, np.inf)
        for i, epsilon in enumerate(TRUNCATIONS):
            for j in np.flatnonzero(np.isfinite(published[i])):
                ours[i, j] = w2(name, variance, levels_of(name, NFE[j // 2]), epsilon, j % 2 == 0)
            pairs = zip(ours[i], published[i], strict=True)
            print(f"{name:<6}{epsilon:<7g}" + " ".join(f"{a:6.2f} ({b:.2f})" for a, b in pairs))
        known = np.isfinite(published)
        off = max(off, np.max(np.abs(ours[known] - published[known])))
        results[name] = {"here": ours, "published": published}
    print(f"largest difference {off:.4f}")
    save(variance, results, options)
    if off > 0.005 + 1e-9:
        sys.exit("exact_errors: published are two decimals")


def save(variance: np.ndarray, results: dict | None, options: Options) -> None:
    """results: scheme -> W2 here and published, [epsilons, columns of their table]; None of other
    data than theirs."""
    if options.out is None:
        return
    numbers = {name: {} for name in SCHEMES}
    drawn = new_figure((WIDE, 4))
    panels = drawn.subplots(1, len(TRUNCATIONS), sharey=True)
    counts = DRAWN[:5:4] if options.quick else DRAWN  # each is compiled for each scheme
    for i, (epsilon, axes) in enumerate(zip(TRUNCATIONS, panels, strict=True)):
        for stochastic, style in ((True, "-"), (False, "--")):
            gap = np.sqrt(limit(variance, epsilon, stochastic)) - np.sqrt(variance)
            label = "limit, " + ("stochastic" if stochastic else "flow")
            axes.axhline(np.linalg.norm(gap), color="black", lw=0.8, ls=style, label=label)
        for name, (colour, marker, line) in STYLES.items():
            if epsilon == 0 and name in ("Heun", "RK4"):
                continue
            here = [w2(name, variance, levels_of(name, nfe), epsilon) for nfe in counts]
            axes.loglog(counts, here, color=colour, linestyle=line, label=name)
            numbers[name][f"epsilon {epsilon:g}"] = {
                int(nfe): value if np.isfinite(value) else None
                for nfe, value in zip(counts, here, strict=True)
            }
            if results is not None:
                axes.plot(NFE, results[name]["published"][i, 1::2], marker, color=colour)
        axes.set_title(f"epsilon = {epsilon:g}")
        axes.set_xlabel("function evaluations (NFE)")
    panels[0].set_ylabel("W$_2$")
    panels[0].set_ylim(1e-3, 100)
    if results is not None:
        panels[-1].plot([], [], "o", color="black", label="published")
        columns = [f"NFE {nfe}, {start}" for nfe in NFE for start in ("p_T", "N(0, I)")]
        for name, of in results.items():
            numbers[name] |= {
                f"table, epsilon {epsilon:g}, {key}": {
                    column: float(value) if np.isfinite(value) else None
                    for column, value in zip(columns, one[i], strict=True)
                }
                for key, one in of.items()
                for i, epsilon in enumerate(TRUNCATIONS)
            }
    data = "CIFAR-10's Gaussian" if results else "a Gaussian model of 32x32 colour images"
    against = (
        "(lines), as published by Pierret and Galerne, ICML 2025 (markers),"
        if results
        else "(lines)"
    )
    outside_legend(drawn)
    save_with_caption(
        drawn,
        options.out or Path(),
        "exact_errors",
        title="Numerical schemes for Gaussian data"
        + (", against published numbers" if results else ""),
        caption=f"2-Wasserstein distance between {data} (3072 dimensions) and what six schemes "
        "make of N(0, I) on equal steps from t = 1 to t = epsilon, against the number of function "
        "evaluations as published: that of levels, of RK4 four times as many (two calls of Heun's "
        f"method count as one). By this package {against} and the limits of many steps by their "
        "equations (black): stochastic for EM, EI and DDPM, else of the flow. At epsilon = 0 Heun "
        "and RK4 are infinite, DDPM is from 26 levels on, and the stochastic limit is 0, which a "
        "logarithmic axis does not have. Lines go on above 100.",
        numbers=numbers,
        format=options.format,
        overwrite=True,
    )


def check() -> None:
    """The order at which each scheme goes to its limit, by doubling the steps."""
    orders = {"EM": 1, "EI": 1, "DDPM": 1, "Euler": 1, "Heun": 2, "RK4": 4}
    variance, epsilon, wrong = np.geomspace(0.3, 3, 9), 0.01, []
    for name, order in orders.items():
        std = np.sqrt(limit(variance, epsilon, stochastic=name in ("EM", "EI", "DDPM")))
        # beta dt is at most 0.025: the next term of the expansion.
        error = [
            np.linalg.norm(np.sqrt(output_cov(made(name, variance, num, epsilon)[1])) - std)
            for num in (401, 801)
        ]
        found = np.log2(error[0] / error[1])
        print(f"{name:<6}off by {error[1]:.1e} in 800 steps, order {found:.3f}")
        if not abs(found - order) < 0.05:
            wrong.append(f"{name} is of order {found:.3f}, not {order}")
    if wrong:
        sys.exit(f"exact_errors: {'; '.join(wrong)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
