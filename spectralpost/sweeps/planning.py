"""What a sweep will take: its batches, and time and memory by measuring two of them."""

import sys
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .batch import batch_key, run_batch
from .grid import Grid
from .running import EVALUATED, LEARNED

COUNTED = 1_000_000  # cells
MEASURED = 64  # cells of a batch at most; more take no longer each


class Plan(NamedTuple):
    """Of a grid, whatever of it is done already."""

    batches: int
    size: int  # cells of a batch
    samplers: tuple[str, ...]
    steps: tuple[int, ...]
    programs: int  # kinds of batches, each compiled once in a process
    seconds: float  # of one process, compiling included
    compiling: float  # seconds
    memory: int  # bytes, the most of one process; 0 where the system does not tell
    tried: int  # cells of the batches that were measured
    failed: int  # of these
    error: str  # of the last of these


def planned(grid: Grid, size: int | None = None) -> Plan:
    """The plan of a grid. Runs a batch of the fewest and one of the most steps that do not fail,
    twice each. Raises InputError if all fail."""
    size = size or (LEARNED if grid.settings.learn else EVALUATED)
    counts, examples = _kinds(grid, min(size, MEASURED))
    steps = {key: cells[0]["steps"] for key, cells in examples.items()}
    compiling, running, errors, tried = {}, {}, {}, []

    def works(key: Any) -> bool:
        """Whether a batch can be computed; measures it."""
        if key not in running:
            failed = len(errors)
            first, second = (_seconds(grid, examples[key], errors) for _ in range(2))
            tried.append(len(examples[key]))
            if len(errors) - failed == len(examples[key]):
                return False
            compiling[key], running[key] = first - second, second / len(examples[key])
        return True

    ascending = sorted(steps, key=lambda key: steps[key])
    few = next(filter(works, ascending), None)
    if few is None:
        raise InputError(f"grid: no batch can be computed: {next(reversed(errors.values()))}")
    many = next(filter(works, reversed(ascending)), few)
    ratio = steps[many] / steps[few]
    power = np.log(running[many] / running[few]) / np.log(ratio) if ratio > 1 else 0
    cells = sum(
        count * running[few] * (steps[key] / steps[few]) ** power for key, count in counts.items()
    )
    compiled = float(np.mean(list(compiling.values()))) * len(counts)
    return Plan(
        batches=sum(-(-count // size) for count in counts.values()),
        size=size,
        samplers=tuple(sorted({cells[0]["sampler"]["name"] for cells in examples.values()})),
        steps=tuple(sorted(set(steps.values()))),
        programs=len(counts),
        seconds=float(cells) + compiled,
        compiling=compiled,
        memory=_peak(),
        tried=sum(tried),
        failed=len(errors),
        error=next(reversed(errors.values()), ""),
    )


def _kinds(grid: Grid, few: int) -> tuple[dict[Any, int], dict[Any, list[Mapping[str, Any]]]]:
    """By `batch_key` how many cells there are, and some of them, `few` at most.

    A grid of more than COUNTED cells is counted by so many, spread over a product or the first that
    are drawn.
    """
    part, examples = min(grid.num_cells, COUNTED), {}
    counts: dict[Any, int] = {}
    if grid.design == "product":
        places = (grid.num_cells * i // part for i in range(part))
        cells = (grid.cell(place) for place in places)
    else:
        cells = islice(grid.cells(), part)
    for cell in cells:
        key = batch_key(cell)
        counts[key] = counts.get(key, 0) + 1
        some = examples.setdefault(key, [])
        if len(some) < few:
            some.append(cell)
    return {key: count * grid.num_cells // part for key, count in counts.items()}, examples


def _seconds(grid: Grid, cells: list[Mapping[str, Any]], errors: dict[str, str]) -> float:
    """Of a batch; the errors of its cells are added."""
    begun = time.perf_counter()
    parts = run_batch(cells, grid.settings)
    seconds = time.perf_counter() - begun
    for part in parts:
        errors |= {
            name: error
            for name, error in zip(part["cell"], part.get("error", ()), strict=False)
            if error
        }
    return seconds


def _peak() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
