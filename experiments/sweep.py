"""What do the best weights depend on, and where is a constant enough? Ten thousand problems.

Six samplers, four numbers of steps, ten noise levels, seven Gaussian blurs and six power laws:
10,080 problems of 64x64 pixels in one YAML file, each with its published, tuned and learned
schedule, as `spectralpost sweep` does it; then what `spectralpost sweep-report` prints and draws of
them, and

    strength   the mean of a schedule's weights, and the powers of sigma_y, blur (std), exponent of
               the prior and steps that it goes with (least squares in logarithms; R^2 is the share
               of its variance that they explain)
    centre     where along the steps half of a schedule's weight is spent: 0 at noise, 1 at the
               image
    suffices   the share of problems where learning gains less than 1 % of W2^2 over the tuned
               constant

    python experiments/sweep.py --out DIR      40 minutes of one core; goes on where it stopped
    python experiments/sweep.py --quick        16 problems, checked

What it printed, and what that teaches: docs/sweeps.md.
"""

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
import yaml

from spectralpost.cli import main as spectralpost

GRID: dict[str, Any] = {
    "size": 64,
    "learn": True,
    "bins": 128,
    "starts": 4,
    "axes": {
        "sampler": ["dps", "pigdm", "diffpir", "mpgd", "ddrm", "dds"],
        "steps": [5, 10, 20, 50],
        "sigma_y": [0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.16, 0.25, 0.4, 0.63],
        "degradation": {"name": "gaussian_blur", "std": [0.6, 0.8, 1.1, 1.5, 2.0, 2.7, 3.6]},
        "prior": {"name": "power_law", "exponent": [1.25, 1.5, 1.75, 2.0, 2.5, 3.0]},
    },
}
QUICK: dict[str, Any] = GRID | {
    "size": 16,
    "bins": 32,
    "starts": 2,
    "axes": {
        "sampler": ["dps", "diffpir"],
        "steps": 4,
        "sigma_y": [0.05, 0.2],
        "degradation": {"name": "gaussian_blur", "std": [1.0, 2.0]},
        "prior": {"name": "power_law", "exponent": [1.5, 2.5]},
    },
}
# Of the quick version: the median of learned / tuned W2^2 of each sampler, to 2 %.
EXPECTED = {"dps": 0.954, "diffpir": 0.941}
FACTORS = {
    "sigma_y": "sigma_y",
    "std": "degradation.std",
    "exponent": "prior.exponent",
    "steps": "steps",
}
FACET = ["--facet", "sampler"]
ENOUGH = 0.99  # learned / tuned


@dataclass
class Options:
    """Ten thousand learned schedules."""

    quick: bool = False
    """Few and small, and checked."""
    out: Path = Path("runs/sweep")
    """Folder of the sweep and its report; one that was begun goes on."""
    workers: int = 0
    """Processes; 0: this one."""


def weights_of(table: pa.Table) -> list[str]:
    """The weights of one sampler that are learned by default: all but eta."""
    names = [name for name in table.column_names if name.startswith("weight_")]
    return [name for name in names if name != "weight_eta" and not table[name].null_count]


def strengths(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean weight of each schedule, and where along the steps half of it is spent, [N] both."""
    mean, centre = [], []
    for weights in table[name].to_pylist():
        spent = np.cumsum(weights) / max(np.sum(weights), 1e-300)
        position = (np.arange(len(spent)) + 1) / len(spent)
        mean.append(np.mean(weights))
        centre.append(np.interp(0.5, spent, position))
    return np.asarray(mean), np.asarray(centre)


def powers(table: pa.Table, name: str) -> str:
    """A line: how strength and centre of a weight of one sampler go with the problem."""
    strength, centre = strengths(table, name)
    factors = {
        label: np.log(table[column].to_numpy())
        for label, column in FACTORS.items()
        if len(set(table[column].to_pylist())) > 1
    }
    columns = np.stack([np.ones(len(strength)), *factors.values()], axis=1)
    wanted = np.log(np.maximum(strength, 1e-12))
    found, *_ = np.linalg.lstsq(columns, wanted, rcond=None)
    left = wanted - columns @ found
    explained = 1 - left.var() / max(wanted.var(), 1e-300)
    words = " ".join(
        f"{label}^{power:+.2f}" for label, power in zip(factors, found[1:], strict=True)
    )
    quarter, three = np.quantile(centre, [0.25, 0.75])
    return f"{words}  R^2 {explained:.2f}  half spent at {quarter:.2f} to {three:.2f}"


def gains(table: pa.Table) -> tuple[float, float]:
    """The median of learned / tuned W2^2, and the share of cells where the constant suffices."""
    ratio = table["learned_w2"].to_numpy() / table["tuned_w2"].to_numpy()
    return float(np.median(ratio)), float(np.mean(ratio > ENOUGH))


def where(table: pa.Table, **values: Any) -> pa.Table:
    """The rows with these values of columns; __ stands for a dot."""
    keep = np.ones(len(table), bool)
    for name, value in values.items():
        keep &= np.asarray(table[name.replace("__", ".")].to_pylist()) == value
    return table.filter(pa.array(keep))


def told(table: pa.Table) -> str:
    """All tables of numbers, as text."""
    samplers = sorted(set(table["sampler"].to_pylist()))
    lines = ["strength of the learned weights"]
    for one in samplers:
        cells = where(table, sampler=one)
        for name in weights_of(cells):
            label = f"{one} {name.removeprefix('weight_')}"
            lines.append(f"  {label:<16}{powers(cells, name)}")
    for axis in ("steps", *(column for column in FACTORS.values() if column != "steps")):
        values = sorted(set(table[axis].to_pylist()))
        lines += ["", f"learned / tuned W2^2, median (a constant suffices in), by {axis}"]
        lines += [" " * 11 + "".join(f"{value:>14g}" for value in values)]
        for one in samplers:
            found = [gains(where(table, sampler=one, **{axis: value})) for value in values]
            words = [f"{ratio:.2f} ({100 * share:.0f} %)" for ratio, share in found]
            lines.append(f"  {one:<9}" + "".join(f"{word:>14}" for word in words))
    return "\n".join(lines)


def run(options: Options, folder: Path) -> pa.Table:
    """The finished sweep; its report is printed and drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    grid, sweep = folder / "grid.yaml", folder / "sweep"
    grid.write_text(yaml.safe_dump(QUICK if options.quick else GRID, sort_keys=False))
    workers = ["--workers", str(options.workers)] if options.workers else []
    spectralpost(["sweep", str(grid), "--out", str(sweep), *workers])
    views = {
        "gain": ["--ratio", "learned/tuned", "--x", "sigma_y", "--y", "degradation.std"],
        "steps": ["--x", "sigma_y" if options.quick else "steps"],
        "weights": ["--x", "sigma_y"],
    }
    for i, (name, flags) in enumerate(views.items()):
        out = folder / f"report-{name}"
        if out.exists():
            continue
        with contextlib.redirect_stdout(io.StringIO() if i else sys.stdout):  # the same tables
            spectralpost(["sweep-report", str(sweep), "--out", str(out), *flags, *FACET])
    table = pa.concat_tables(map(pq.read_table, sorted((sweep / "parts").glob("*.parquet"))))
    return table.filter(pa.array([error is None for error in table["error"].to_pylist()]))


def main() -> None:
    options = tyro.cli(Options, description=__doc__.splitlines()[0])
    if not options.quick:
        print(told(run(options, options.out)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table = run(options, Path(folder))
    print(told(table))
    off = []
    for sampler, expected in EXPECTED.items():
        found, _ = gains(where(table, sampler=sampler))
        if len(where(table, sampler=sampler)) != 8 or abs(found / expected - 1) > 0.02:
            off.append(f"{sampler}: learned / tuned {found:.4f}, expected {expected:.4f}")
    if off:
        print("\n".join(off), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
