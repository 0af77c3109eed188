"""Sweeps: how many cells a second, and how good is what they learn?

DPS, 20 steps, 256 rows, images of 64x64; a dataset is written. Seconds are of the process's CPU,
divided by two for two idle cores, since they hardly depend on what else runs; wall seconds beside
them. After one batch of warm-up, compilation is not counted.

    evaluated  published default alone (`tune: false`) of a million cells, cells a second; and how
               much memory grows between the first and the last eighth of the sweep
    tuned      the constant as well
    learned    4 and 8 starts of at most 100 iterations; how far a cell is above the optimum that
               `learn` polishes its own schedule to (400 iterations from it), and above the best of
               `learn` with 16 explored starts
    workers    cells a second of two processes against one, of which the first batch of each, which
               compiles, is not counted
    report     `sweep-report` of these: seconds and memory of its process

    python benchmarks/sweep_throughput.py             ten minutes and 1 GB of disk on two cores
    python benchmarks/sweep_throughput.py --quick     few cells
"""

import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import jax
import numpy as np

import spectralpost as sp
from spectralpost.sweeps.batch import run_batch
from spectralpost.sweeps.case import case_of
from spectralpost.sweeps.grid import Grid, grid_of
from spectralpost.sweeps.running import run_sweep


def grid(learn: bool, tune: bool, starts: int = 4, factors: int = 1, quick: bool = False) -> Grid:
    few = 2 if quick else 4
    axes = {
        "sampler": "dps",
        "steps": 5 if quick else 20,
        "sigma_y": np.geomspace(0.01, 0.3, 2 * few).tolist(),
        "prior": {"name": "power_law", "exponent": np.linspace(1.5, 2.5, few).tolist()},
        "degradation": {"name": "gaussian_blur", "std": np.linspace(0.8, 2, few).tolist()},
        "factor": np.geomspace(0.1, 10, factors).tolist() if factors > 1 else 1.0,
    }
    return grid_of({"size": 64, "learn": learn, "tune": tune, "starts": starts, "axes": axes})


def timed(label: str, one: Grid, size: int, folder: Path) -> None:
    run_batch(list(islice(one.cells(), size)), one.settings)
    peaks: list[int] = []
    cpu, wall = time.process_time(), time.perf_counter()
    run_sweep(
        one,
        folder,
        batch_size=size,
        tell=lambda _: peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    grown = (peaks[-1] - peaks[len(peaks) // 8]) / 1024
    print(
        f"{label:<20}{one.num_cells:>8} cells {2 * one.num_cells / cpu:>10.1f} /s by CPU"
        f" {one.num_cells / wall:>10.1f} /s wall   memory +{grown:.0f} MB",
        flush=True,
    )


def quality(one: Grid, num: int) -> None:
    """How far learned cells are above what a longer search finds, for some of them."""
    cells = [*one.cells()]
    some = [cells[i] for i in np.linspace(0, len(cells) - 1, num).astype(int)]
    above = []
    (columns,) = run_batch(some, one.settings)
    for cell, found, zeta, eta in zip(
        some, *(columns[f] for f in ("learned_w2", "weight_zeta", "weight_eta")), strict=True
    ):
        case = case_of(cell, one.settings)
        polished = sp.learn(
            case.sampler,
            case.problem,
            case.levels,
            {"zeta": zeta, "eta": eta},
            search=sp.Search(1, 400, explore=False),
        )
        best = sp.learn(case.sampler, case.problem, case.levels, search=sp.Search(16))
        above.append((found / polished.loss - 1, found / min(best.loss, polished.loss) - 1))
    own, best = 100 * np.asarray(above).T
    print(
        f"  above its own polished optimum: median {np.median(own):.2f} %, most {own.max():.2f} %, "
        f"{np.sum(own <= 1)} of {num} within 1 %; "
        f"above the best known: median {np.median(best):.2f} %, most {best.max():.2f} %",
        flush=True,
    )


def workers(one: Grid, size: int) -> None:
    """Cells a second by the clock, of one process and of two."""
    rates = []
    for num in (1, 2):
        told: list[tuple[float, int]] = []
        with tempfile.TemporaryDirectory() as folder:
            run_sweep(
                one,
                Path(folder),
                workers=num,
                batch_size=size,
                tell=lambda progress, told=told: told.append((time.perf_counter(), progress.done)),
            )
        (begun, before), (ended, after) = told[num], told[-1]
        rates.append((after - before) / (ended - begun))
    print(
        f"workers             {rates[0]:>10.1f} /s by one, {rates[1]:.1f} by two: "
        f"{50 * rates[1] / rates[0]:.0f} % of twice as many",
        flush=True,
    )


def report(folder: Path) -> None:
    """Seconds and peak memory of a report."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "spectralpost", "sweep-report", str(folder)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - begun
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"report              {seconds:>8.1f} s, {megabytes:.0f} MB", flush=True)


def main(quick: bool) -> None:
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        one = grid(False, False, factors=4 if quick else 8192, quick=quick)
        timed("evaluated", one, 512, out / "evaluated")
        report(out / "evaluated")
        timed("tuned", grid(False, True, quick=quick), 32, out / "tuned")
        for starts in (2,) if quick else (4, 8):
            one = grid(True, True, starts, quick=quick)
            timed(f"learned, {starts} starts", one, 32, out / f"learned-{starts}")
            quality(one, 2 if quick else 32)
    workers(
        grid(True, True, 2 if quick else 4, factors=1 if quick else 4, quick=quick),
        2 if quick else 16,
    )


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
