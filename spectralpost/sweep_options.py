"""The options of the commands of sweeps: see `options`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    import tyro
else:
    tyro = lazy_loader.load("tyro")  # only annotations name it: loaded once somebody reads them


@dataclass
class Sweep:
    """Evaluate or learn schedules for thousands of problems, into a table."""

    grid: "tyro.conf.Positional[Path]"
    """YAML file that says what to go through: see docs/sweeps.md."""
    out: Path
    """Folder of the results. One that holds the same grid is gone on with."""
    extend: bool = False
    """Add the cells of this grid to a folder of another one."""
    dry_run: bool = False
    """Only say how many cells, batches and compiled programs there are."""
    workers: int = 0
    """Processes of this machine that work side by side; 0: this one alone."""
    scheduler: str | None = None
    """Address of a running dask cluster, such as tcp://host:8786."""
    scheduler_file: Path | None = None
    """File of a running dask cluster, as `dask scheduler --scheduler-file` writes it."""
    batch: int | None = None
    """Cells of a batch (default: 32 that are learned, 512 that are not)."""


@dataclass
class SweepReport:
    """What a sweep has found: its best cells, what depends on what, figures. Also while it runs.

    spectralpost sweep-report runs/blurs --where sampler=dps "sigma_y<=0.1" --x degradation.std
    """

    sweep: "tyro.conf.Positional[Path]"
    """Folder of a sweep."""
    where: tuple[str, ...] = ()
    """Cells to look at, such as sampler=dps "sigma_y<=0.1" degradation.std=2: all conditions hold.
    Operators are = != < <= > >=; nothing after = stands for cells without a value."""
    metric: str | None = None
    """What to compare cells by (default: learned_w2; tuned_w2, published_w2 where none is
    learned): of published, tuned, learned, exact one of _w2, _mse, _psnr, _perception."""
    best: int = 10
    """How many of the best cells to list."""
    ratio: str | None = None
    """Draw a ratio in place of the metric, such as learned/tuned."""
    x: str | None = None
    """Axis to the right (default: the axis with the most values)."""
    y: str | None = None
    """Axis upwards of the heat map (default: the next one)."""
    color: str | None = None
    """Axis whose values are lines of different colour (default: lines of all schedules)."""
    facet: str | None = None
    """Axis whose values are panels beside each other."""
    out: Path | None = None
    """New folder for the figures (default: report in the sweep's own, with a number if it is
    there)."""


@dataclass
class SweepBest:
    """Write the schedules of a sweep's best cells as schedule files.

    spectralpost sweep-best runs/blurs --where sampler=dps --by sigma_y degradation.std --out best
    """

    sweep: "tyro.conf.Positional[Path]"
    """Folder of a sweep."""
    where: tuple[str, ...] = ()
    """Cells to choose from: see `spectralpost sweep-report --help`."""
    by: tuple[str, ...] = ()
    """Axes: the best cell for each combination of their values (default: the best of all)."""
    metric: str | None = None
    """What is best (default: W2 of the schedules that the sweep holds)."""
    out: Path | None = None
    """New folder for the files (default: a fresh one under runs/)."""
