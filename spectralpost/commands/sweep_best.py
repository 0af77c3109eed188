"""`spectralpost sweep-best`: the best cells of a sweep as schedule files."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..noise import NoiseLevel
from ..noise_grid import noise_grid
from ..prior import Prior
from ..prior_file import save_prior
from ..schedule import Schedule, provenance
from ..schedule_file import save_schedule
from ..sweep_options import SweepBest
from ..sweeps.batch import METRICS, SCHEDULES
from ..sweeps.case import prior_of
from ..sweeps.dataset import manifest_of
from ..sweeps.finding import cells_of
from ..sweeps.reading import Cells, axes_in, grids_of, metrics_in, read_cells, selected, take
from ..sweeps.summary import (
    best_of_each,
    check_metric,
    higher_is_better,
    in_words,
    metric_of,
    schedules_of,
    varying,
)
from .console import Say, console, quiet

MOST_FILES = 10_000
LONGEST = 120  # characters of a file's name


class Chosen(NamedTuple):
    """A schedule, its file's name, and its line of the index."""

    file: str
    schedule: Schedule
    prior: Prior
    line: dict[str, Any]  # axes and metrics


class Result(NamedTuple):
    """The best cells, one for each combination of the axes in `by`."""

    chosen: tuple[Chosen, ...]
    metric: str
    notes: tuple[str, ...]


def compute(options: SweepBest, say: Say = quiet) -> Result:
    """Find the best cells, and their schedules."""
    kinds = manifest_of(options.sweep)["columns"]
    kind = check_metric(options.metric, kinds)
    axes = axes_in(kinds)
    for axis in options.by:
        if axis not in axes:
            raise InputError(f"by = {axis!r}: no such axis; allowed are {', '.join(axes)}")
    if len(set(options.by)) < len(options.by):
        raise InputError(f"by = {' '.join(options.by)}: name each one once")
    grids = grids_of(options.sweep)
    columns = {*schedules_of(kind).values(), *schedules_of("w2").values()}
    every, chosen = read_cells(options.sweep, list(columns), options.where, say)
    if not chosen.any():
        what = f"where = {' '.join(options.where)}: none" if options.where else "none"
        raise InputError(f"sweep: {what} of {every.num} cells is so")
    cells = selected(every, chosen)
    good = selected(cells, cells.good)
    if not good.num:
        raise InputError(f"sweep: all {cells.num} cells failed, one of them: {_an_error(cells)}")
    metric = metric_of(options.metric, kinds, good)
    which, missing = _best(cells, options.by, metric)
    _check_stored(cells, which, metric)
    say(f"looking for {len(which)} cells in the grid")
    names = options.by or tuple(axis for axis in axes if axis in varying(cells)) or ("sampler",)
    found = _schedules(cells, which, names, grids)
    note = f"{missing} combinations have no cell that ended well with a finite {metric}"
    return Result(found, metric, (note,) if missing else ())


def write(result: Result, folder: Path) -> None:
    """Schedules, the priors that they were learned for, and index.csv."""
    columns = list(dict.fromkeys(name for one in result.chosen for name in one.line))
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "prior_file", *columns])
        for one in result.chosen:
            save_schedule(folder / one.file, one.schedule)
            prior = folder / f"prior-{one.prior.hash[:8]}.npz"
            if not prior.exists():
                save_prior(prior, one.prior)
            lines.writerow([one.file, prior.name, *(_cell(one.line.get(name)) for name in columns)])


def present(result: Result) -> None:
    for one in result.chosen[:20]:
        console.print(f"{one.line[result.metric]:.6g}  {one.file}", soft_wrap=True)
    if len(result.chosen) > 20:
        console.print(f"and {len(result.chosen) - 20} more, see index.csv")


def _cell(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _an_error(cells: Cells) -> str:
    return next(str(text) for text in cells.error.values if text is not None)


def _best(cells: Cells, by: tuple[str, ...], metric: str) -> tuple[np.ndarray, int]:
    """The numbers of the best cells, and how many combinations have none that is finite."""
    codes = np.zeros(cells.num, np.int64)
    for axis in by:
        column = cells.axes[axis]
        codes = np.unique(codes * len(column.values) + column.codes, return_inverse=True)[1]
    num = int(codes.max()) + 1
    if num > MOST_FILES:
        raise InputError(f"by = {' '.join(by)}: {num} combinations; at most {MOST_FILES} files")
    values = np.where(cells.good, cells.numbers[metric], np.nan)
    which = best_of_each(codes, values, higher_is_better(metric))
    if not len(which):
        raise InputError(f"sweep: no cell that ended well has a finite {metric}")
    return which, num - len(which)


def _check_stored(cells: Cells, which: np.ndarray, metric: str) -> None:
    """Of a cell its best schedule is stored: InputError if the metric is of another one."""
    of = metric.split("_")[0]
    for label in ("learned", "tuned", "published"):
        known = ~np.isnan(cells.numbers[f"{label}_w2"][which])
        if label == of and known.all():
            return
        if known.any():
            allowed = ", ".join(f"{label}_{one}" for one in METRICS)
            raise InputError(
                f"metric = {metric!r}: what is stored of a cell is its {label} schedule; allowed "
                f"are {allowed}"
            )


def _schedules(
    cells: Cells, which: np.ndarray, names: tuple[str, ...], grids: list[Any]
) -> tuple[Chosen, ...]:
    kinds = cells.kinds
    columns = [name for name in kinds if name not in ("seconds", "error")]
    rows = take(cells, which, columns).to_pylist()
    known = cells_of(grids, rows)
    made, files = [], set()
    for row in rows:
        cell, settings = known[row["cell"]]
        file = _file_name({name: row[name] for name in names}, files)
        prior = prior_of(cell, settings)
        if row.get("prior_hash") not in (None, prior.hash):
            raise InputError(
                f"sweep: the prior {in_words(cell['prior'])} is not the one that its cells were "
                "computed for: what it is made from has changed"
            )
        line = {name: row[name] for name in (*axes_in(kinds), *metrics_in(kinds))}
        made.append(Chosen(file, _schedule(cell, settings.size, row, prior), prior, line))
    return tuple(made)


def _schedule(cell: Mapping[str, Any], size: int, row: Mapping[str, Any], prior: Prior) -> Schedule:
    options = {
        axis: {name: value for name, value in cell[axis].items() if name != "name"}
        for axis in ("sampler", "degradation", "grid")
    }
    weights = {
        name.removeprefix("weight_"): jnp.asarray(value)
        for name, value in row.items()
        if name.startswith("weight_") and value is not None
    }
    label = next(one for one in ("learned", "tuned", "published") if row[f"{one}_w2"] is not None)
    names = {"published": "heuristic", "tuned": "tuned_constant", "exact": "exact"}
    metric = {"wasserstein2": "w2"}.get(cell["objective"], cell["objective"])
    found = {one: row[f"{one}_{metric}"] for one in SCHEDULES}
    grid = noise_grid(cell["grid"]["name"], cell["steps"], **options["grid"])
    learned = label == "learned" and cell["learn_levels"]
    return Schedule(
        sampler_name=cell["sampler"]["name"],
        sampler_options=options["sampler"],
        levels=NoiseLevel(jnp.asarray(row["alpha"]), jnp.asarray(row["sigma"])),
        grid=f"{grid.label}, levels learned" if learned else grid.label,
        guidance=weights,
        timesteps=None if learned else grid.timesteps,
        degradation_name=cell["degradation"]["name"],
        degradation_options=options["degradation"],
        shape=(size, size),
        sigma_y=cell["sigma_y"],
        pixel_range=prior.pixel_range,
        prior_source=prior.source,
        prior_hash=prior.hash,
        objective=cell["objective"],
        loss=found[label],
        baselines={
            name: found[one]
            for one, name in names.items()
            if found[one] is not None and np.isfinite(found[one]) and one != label
        },
        provenance=provenance(row["seed"])
        | {"spectralpost": row["spectralpost"], "jax": row["jax"], "cell": row["cell"]},
    )


def _file_name(axes: dict[str, Any], taken: set[str]) -> str:
    """Such as dps_steps=20_degradation.std=2.json; with a number if another has the name."""
    words = []
    for name, value in axes.items():
        if value is not None:
            text = re.sub(r"[^\w.+-]+", "-", in_words(value))
            words.append(text if name == "sampler" else f"{name}={text}")
    stem = "_".join(words)[:LONGEST] or "best"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return f"{name}.json"
