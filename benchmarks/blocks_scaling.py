"""What do blocks cost: against factor and size of the image, and beside dense matrices?

Super-resolution (bicubic), DPS, 20 steps, averaged W2^2 and its gradient by all weights, double
precision, milliseconds after a warm-up, the median of the turns; contestants take turns:

    dense    the same of whole matrices, in PyTorch: one block of all pixels
    blocks   all blocks of aliased frequencies, factor^2 modes each
    unique   equal blocks once
    merged   as `spectralpost design` learns: `bin_modes` to 1000
    off      how far W2^2 is on the merged ones, in percent

then seconds and peak memory of `learn` (default search) for x4 at each size, in a process of its
own, from the prior on: grey, DiffPIR, compilation included.

    python benchmarks/blocks_scaling.py             all of it
    python benchmarks/blocks_scaling.py --quick     small sizes, one turn, checked
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import jax
import numpy as np
import tyro

import spectralpost as sp

try:
    import torch
except ImportError:
    torch = None

CONTESTANTS = ("dense", "blocks", "unique", "merged")
DENSE = 24  # pixels along each axis: larger matrices take minutes
ALL_BLOCKS = 1_100_000  # numbers of a gain [B, k, k]: more is only merged


@dataclass
class Options:
    """What do blocks cost?"""

    quick: bool = False
    """Small sizes, one turn."""
    turns: int = 5
    steps: int = 20
    learn: int | None = None
    """Of the script's own: learn at this size, print JSON."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.learn is not None:
        print(json.dumps(learned(options.learn, options.steps)))
        return
    if options.quick:
        options.turns, options.steps = 1, 4
    cases = [(8, 2), (12, 2), (16, 2), (16, 4), (24, 4)]
    cases += [(64, 2), (64, 4), (64, 8), (128, 4), (256, 4), (256, 16)]
    print(f"{'size':<6}{'x':>4}{'blocks':>8}{'unique':>8}{'merged':>10}", end="")
    print(
        "".join(f"{name + ', ms':>12}" for name in ("dense", "blocks", "unique", "merged")), end=""
    )
    print(f"{'off, %':>8}{'dense / unique':>16}")
    for size, factor in cases[:2] if options.quick else cases:
        gradients(size, factor, options)
    print(f"\n{'learn, x4':<12}{'seconds':>9}{'peak, MB':>10}{'blocks':>10}")
    for size in (16,) if options.quick else (64, 128, 256):
        command = [sys.executable, __file__, "--learn", str(size), "--steps", str(options.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(f"{size:<12}{found['seconds']:>9.1f}{found['peak']:>10.0f}{found['blocks']:>10}")


def gradients(size: int, factor: int, options: Options) -> None:
    """One line: seconds of a value and gradient."""
    sampler, levels = sp.SAMPLERS["dps"](), sp.vp_linear(options.steps)
    problem = problem_of(size, factor)
    unique = sp.unique_modes(problem)[0]
    merged = sp.bin_modes(unique, 1000)[0]
    guidance = sampler.heuristic(unique, levels)
    works: dict[str, Callable[[], float]] = {}
    if torch is not None and size <= DENSE:
        works["dense"] = dense(size, factor, levels, guidance)
    for name, one in {"blocks": problem, "unique": unique, "merged": merged}.items():
        if one.spectrum.size * one.spectrum.shape[1] <= ALL_BLOCKS:
            works[name] = in_blocks(sampler, one, levels, guidance)
    values = {name: work() for name, work in works.items()}  # warm-up
    for name in ("dense", "unique"):
        if (
            name in values
            and "blocks" in values
            and not np.isclose(values[name], values["blocks"], rtol=1e-6)
        ):
            sys.exit(f"blocks_scaling: {name} {values[name]}, blocks {values['blocks']}")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.turns):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    print(f"{size:<6}{factor:>4}{len(problem.spectrum):>8}{len(unique.spectrum):>8}", end="")
    print(f"{f'{len(merged.spectrum)} of {merged.spectrum.shape[1]}':>10}", end="")
    for name in CONTESTANTS:
        print(f"{1000 * median(seconds[name]) if name in works else np.nan:>12.2f}", end="")
    off = 100 * (values["merged"] / values["unique"] - 1) if "unique" in values else np.nan
    ratio = np.nan
    if "dense" in works and "unique" in works:
        pairs = zip(seconds["dense"], seconds["unique"], strict=True)
        ratio = median(one / other for one, other in pairs)
    print(f"{off:>8.2f}{ratio:>16.0f}", flush=True)


def problem_of(size: int, factor: int) -> sp.Problem:
    shape = (size, size)
    return sp.image_problem(sp.power_law(shape), sp.downsample(shape, factor), 0.05)


def in_blocks(sampler, problem: sp.Problem, levels: sp.NoiseLevel, guidance) -> Callable:
    @jax.jit
    @jax.value_and_grad
    def run(zeta: jax.Array, problem: sp.Problem) -> jax.Array:
        weights = guidance | {"zeta": zeta}
        return sp.wasserstein2(problem, sp.sampler_transfer(sampler, problem, levels, weights))

    return lambda: float(jax.block_until_ready(run(guidance["zeta"], problem))[0])


def dense(size: int, factor: int, levels: sp.NoiseLevel, guidance) -> Callable:
    """DPS by matrices of all pixels, as one would write it in PyTorch."""
    shape, n, sigma_y = (size, size), size**2, 0.05
    prior, degradation = sp.power_law(shape), sp.downsample(shape, factor)
    units = np.eye(n).reshape(n, *shape)
    number = lambda x: torch.as_tensor(np.array(x), dtype=torch.float64)  # noqa: E731
    H = number(degradation.apply(units)).reshape(n, -1).T.contiguous()
    spectra = np.fft.fft2(units) * prior.spectrum
    C = number(np.fft.ifft2(spectra).real).reshape(n, n)
    eye = torch.eye(n, dtype=torch.float64)
    cov_y = H @ C @ H.T + sigma_y**2 * torch.eye(len(H), dtype=torch.float64)
    ideal = torch.linalg.solve(cov_y, H @ C).T
    rest = eye - ideal @ H
    target = rest @ C @ rest.T + sigma_y**2 * ideal @ ideal.T
    values, vectors = torch.linalg.eigh(target)
    std = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cov_y_root = torch.linalg.cholesky(cov_y)
    alphas, sigmas = (np.asarray(leaf).tolist() for leaf in levels)
    etas, mean = np.asarray(guidance["eta"]).tolist(), number(prior.mean.ravel())
    given = number(guidance["zeta"])

    def loss(zeta):
        state, data, noise = sigmas[0] * eye, torch.zeros(n, len(H), dtype=eye.dtype), 0 * eye
        offset = -alphas[0] * mean
        for i, eta in enumerate(etas):
            a, s, b, r = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
            D = torch.linalg.solve(a**2 * C + s**2 * eye, a * C)  # symmetric: its own Jacobian
            tau2 = 1 - (a * r / (b * s)) ** 2
            kept = r * (1 - eta**2 * tau2) ** 0.5
            pull = 2 * zeta[i] * D @ H.T
            step = b * D + kept / s * (eye - a * D) - pull @ H @ D
            state, data, offset = step @ state, step @ data + pull, step @ offset
            noise = step @ noise @ step.T + (eta * r) ** 2 * tau2 * eye
        bias = (data - ideal) @ cov_y_root
        cov = state @ state.T + noise
        overlap = torch.linalg.eigvalsh(std @ cov @ std).clamp(min=0)
        root = torch.sqrt(overlap + 1e-30).sum()
        total = (bias**2).sum() + (offset**2).sum()
        return (total + torch.trace(cov) + torch.trace(target) - 2 * root) / n

    def run() -> float:
        zeta = given.clone().requires_grad_()
        value = loss(zeta)
        value.backward()
        return float(value.detach())

    return run


def learned(size: int, steps: int) -> dict[str, float | str]:
    begin = time.perf_counter()
    problem = sp.bin_modes(sp.unique_modes(problem_of(size, 4))[0], 1000)[0]
    sp.learn(sp.SAMPLERS["diffpir"](), problem, sp.vp_linear(steps))
    blocks, modes = problem.spectrum.shape
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": time.perf_counter() - begin,
        "peak": peak,
        "blocks": f"{blocks} of {modes}",
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
