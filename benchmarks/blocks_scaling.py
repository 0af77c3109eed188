"""What do blocks cost: against factor and size of the image, and beside dense matrices?

Super-resolution (bicubic), DPS, 20 steps, averaged W2^2 and its gradient by all weights, double
precision, milliseconds after a warm-up, the median of the turns; contestants take turns:

    dense    the same of whole matrices, in PyTorch: one block of all pixels
    blocks   all blocks of aliased frequencies, factor^2 modes each
    unique   equal blocks once
    merged   as `spectralpost design` learns: `bin_modes` to 1000
    off      how far W2^2 is on the merged ones, in percent

Then CPU seconds (user and system) and peak memory, each of a process of its own, compilation
included, which is the most of small ones: cold with an empty folder of compiled programs, warm with
what that run kept.

    learn x4   `learn` (default search), on the merged problem
    unmerged   the transfer and W2^2 of DiffPIR on all blocks
    one block  W2^2, its gradient and `learn` of DiffPIR on a dense block of all pixels (`inpaint`)

    python benchmarks/blocks_scaling.py             all of it
    python benchmarks/blocks_scaling.py --quick     small sizes, one turn, checked
    python benchmarks/blocks_scaling.py --parts learn unmerged
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

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
    parts: tuple[Literal["gradients", "learn", "unmerged", "dense"], ...] = (
        "gradients",
        "learn",
        "unmerged",
        "dense",
    )
    limit: int = 600
    """CPU seconds that a process of its own may take."""
    cell: tuple[str, str, int, int] | None = None
    """Of the script's own: what to do, sampler, size, factor; prints JSON."""


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.cell is not None:
        print(json.dumps(cost(*options.cell, options.steps)))
        return
    if options.quick:
        options.turns, options.steps = 1, 4
    if "gradients" in options.parts:
        table_of_gradients(options)
    sizes = (16,) if options.quick else (64, 128, 256)
    if "learn" in options.parts:
        print(f"\n{'learn x4':<20}{'CPU s, cold':>13}{'MB':>7}{'CPU s, warm':>13}{'MB':>7}")
        for sampler in ("dps", "diffpir"):
            for size in sizes:
                with tempfile.TemporaryDirectory() as folder:
                    cells = [in_own(options, folder, "learn", sampler, size, 4) for _ in range(2)]
                line(f"{sampler} {size}x{size}", cells, (13, 7))
    if "unmerged" in options.parts:
        print(f"\n{'unmerged':<20}{'transfer, CPU s':>17}{'MB':>7}{'W2^2, CPU s':>13}{'MB':>7}")
        for factor in (2,) if options.quick else (4, 8, 16):
            size = sizes[-1]
            whats = ("transfer", "evaluate")
            cells = [in_own(options, "", what, "diffpir", size, factor) for what in whats]
            line(f"{size}x{size} x{factor}", cells, (17, 7, 13, 7))
    if "dense" in options.parts:
        heads = f"{'W2^2, CPU s':>13}{'MB':>7}{'gradient':>10}{'MB':>7}{'learn':>8}{'MB':>7}"
        print(f"\n{'one block':<20}{heads}")
        for size in (4,) if options.quick else (8, 16, 24, 32):
            whats = ("evaluate", "gradient", "learn")
            cells = [in_own(options, "", what, "diffpir", size, 0) for what in whats]
            line(f"{size}x{size}", cells, (13, 7, 10, 7, 8, 7))


def line(name: str, cells: list[dict], widths: tuple[int, ...]) -> None:
    numbers = [number for cell in cells for number in (cell["seconds"], cell["peak"])]
    widths = widths * (len(numbers) // len(widths))
    shown = [f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True)]
    print(f"{name:<20}{''.join(shown)}", flush=True)


def in_own(options: Options, folder: str, *cell: object) -> dict:
    """`cost` in a process of its own, or that it takes longer than the limit."""
    command = [sys.executable, __file__, "--steps", str(options.steps), "--cell", *map(str, cell)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (options.limit, options.limit))  # noqa: E731
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": folder},
        preexec_fn=limit,
    )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"seconds": f"> {options.limit}", "peak": "-"}
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def table_of_gradients(options: Options) -> None:
    cases = [(8, 2), (12, 2), (16, 2), (16, 4), (24, 4)]
    cases += [(64, 2), (64, 4), (64, 8), (128, 4), (256, 4), (256, 16)]
    print(f"{'size':<6}{'x':>4}{'blocks':>8}{'unique':>8}{'merged':>10}", end="")
    print(
        "".join(f"{name + ', ms':>12}" for name in ("dense", "blocks", "unique", "merged")), end=""
    )
    print(f"{'off, %':>8}{'dense / unique':>16}")
    for size, factor in cases[:2] if options.quick else cases:
        gradients(size, factor, options)


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


def cost(what: str, name: str, size: int, factor: int, steps: int) -> dict[str, str]:
    """CPU seconds and peak memory of this process."""
    sp.keep_compiled_programs()
    sampler, levels = sp.SAMPLERS[name](), sp.vp_linear(steps)
    if factor:
        problem = problem_of(size, factor)
    else:
        shape = (size, size)
        problem = sp.image_problem(sp.power_law(shape), sp.inpaint(shape), 0.05)
    if what == "learn":
        small = sp.bin_modes(sp.unique_modes(problem)[0], 1000)[0] if factor else problem
        sp.learn(sampler, small, levels)
    else:
        guidance = sampler.heuristic(problem, levels)
        if what == "transfer":
            jax.block_until_ready(sp.sampler_transfer(sampler, problem, levels, guidance))
        elif what == "evaluate":
            float(sp.evaluate(sampler, problem, levels, guidance))
        else:
            free = sp.default_free(sampler)
            jax.block_until_ready(sp.loss_and_gradient(sampler, problem, levels, guidance, free))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": f"{used.ru_utime + used.ru_stime:.1f}",
        "peak": f"{used.ru_maxrss / 1024:.0f}",
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
