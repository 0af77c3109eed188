"""The gallery of ready schedules: learn them all, and write the files of the package.

Each cell (sampler, task, sigma_y, number of steps) is learned as `spectralpost design` does it for
a network: `learn` with `for_network`, levels rounded to time steps, weights learned again on these;
in closed form, for the natural-image prior of `gallery_prior`. Where there are schedules of fewer
steps, a search begins from the nearest of these and of as many (`starts_from`), else from random
curves. Then its weights are rounded to so many digits that W2 stays (LOST), all is evaluated on all
modes of 64x64 images, and the range is found in which it holds (`holds_between`). What is learned
on bins and does not hold on all modes is learned on all (but of blocks: x4, inpainting).

    python experiments/gallery.py --out DIR     all; a run that is stopped goes on from where it was
    python experiments/gallery.py --out DIR --samplers dps --steps 10 20 --sigma-y 0.05
    python experiments/gallery.py --better      the package's made again, in another DIR, from the
                                                nearest of its schedules: the better one stays
    python experiments/gallery.py --neighbours  of the package's files: what a schedule costs at the
                                                sigma_y of the next one
    python experiments/gallery.py --quick       four tiny cells, checked

Every cell is a file of DIR/cells once it is known; those that the package has already are not
learned again (--anew: they are). At the end all finished cells, those of other runs in DIR too, are
added to the package, one file a sampler. Parts may run side by side in one DIR.
Compiling takes most of the time, once for each sampler, number of steps and kind of problem; the
rest is seconds a cell: docs/gallery.md.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from spectralpost import (
    SAMPLERS,
    Degradation,
    InputError,
    Learned,
    Problem,
    Search,
    evaluate,
    for_network,
    gallery_entries,
    gallery_schedule,
    keep_compiled_programs,
    learn_on_grid,
    noise_grid,
    vp_linear,
)
from spectralpost.degradations import make_degradation
from spectralpost.files import whole_file
from spectralpost.gallery import (
    FOLDER,
    GRID,
    TASKS,
    Entry,
    as_json,
    entry_name,
    from_json,
    gain_of,
    holds_between,
    levels_at,
    problem_on,
    published_of,
    scores_of,
    write_entries,
)
from spectralpost.learning import HOLDS, constant_that_holds, is_dense
from spectralpost.merging import pad_modes
from spectralpost.merging_blocks import representative_blocks
from spectralpost.problem_checks import ROUNDING
from spectralpost.samplers.base import Guidance

READY = ("dps", "pigdm", "diffpir", "mpgd", "ddrm", "dds", "reddiff", "dmps", "ilvr", "daps")
# Schedules from which a search begins, those of fewer steps as they are and per unit of time; and
# for inpainting, where an iteration takes long, once there is another sigma_y of as many steps.
# Before that it takes four: from one alone DPS and DDS ended in poor minima.
FROM, FROM_OF_BLOCKS = 4, 2
# Blocks of inpainting, which stand for all: while learning (32 end no lower), and where ranges are
# looked for.
LEARNED, JUDGED = 16, 8
LOST = 1e-4  # of W2, relative, by rounding weights
GAIN = 0.01  # of W2, relative, for which a schedule gives way to another; what was measured goes
FACTORS = 1.1 ** np.arange(-7, 8)  # of sigma_y and of the blur's size: nearly 2 either way


@dataclass
class Options:
    out: Path = Path("runs/gallery")
    """Folder of the cells; those that it holds are not computed again."""
    into: Path = FOLDER
    """Folder of the gallery's files (default: the package's)."""
    samplers: tuple[str, ...] = READY
    tasks: tuple[str, ...] = tuple(TASKS)
    sigma_y: tuple[float, ...] = (ROUNDING, 0.01, 0.05, 0.1, 0.2)
    """For pixels in [-1, 1]. 0 is no problem of the model: its measurement has a density. The first
    stands for data without noise, of which there is nothing to denoise."""
    steps: tuple[int, ...] = (10, 20, 50, 100)
    size: int = 64
    """Side of the images."""
    bins: int = 256
    """Frequencies are merged into this many bins while learning."""
    starts: int = 16
    """Searches side by side."""
    seed: int = 0
    anew: bool = False
    """Learn those too that the gallery has already."""
    better: bool = False
    """Learn those again that the gallery has, from the nearest of its others; the one with less W2
    stays."""
    neighbours: bool = False
    """Only judge the files that there are."""
    quick: bool = False
    """Tiny cells in a folder of their own, checked."""


def main(options: Options) -> None:
    for field, known in (("samplers", SAMPLERS), ("tasks", TASKS)):
        for name in getattr(options, field):
            if name not in known:
                raise InputError(f"{field}: {name!r}: allowed are {', '.join(known)}")
    jax.config.update("jax_enable_x64", True)
    keep_compiled_programs()
    if options.quick:
        return quick()
    if options.neighbours:
        return judge_neighbours(options)
    build(options)


def build(options: Options) -> None:
    """All cells that are missing, then the files."""
    cells = options.out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    check_settings(options)
    # Those of one compiled program one after the other, and of fewer steps first.
    every = [
        (name, task, sigma_y, steps)
        for name, steps, task, sigma_y in product(
            options.samplers, options.steps, options.tasks, options.sigma_y
        )
        if (task, sigma_y) != ("denoise", ROUNDING)
    ]
    if options.better:
        chosen = {entry.name for entry in gallery_entries(options.into)}
    else:
        known = set() if options.anew else {entry.name for entry in gallery_entries(options.into)}
        chosen = {entry_name(*what) for what in every} - known
    todo = [
        what
        for what in every
        if (label := entry_name(*what)) in chosen and not (cells / f"{label}.json").exists()
    ]
    print(f"{len(todo)} cells to compute", flush=True)
    began = time.perf_counter()
    for i, (name, task, sigma_y, steps) in enumerate(todo):
        start = time.perf_counter()
        begin = beginnings(name, task, sigma_y, steps, options)
        entry = computed(name, task, sigma_y, steps, begin, options)
        with whole_file(cells / f"{entry.name}.json", overwrite=True) as temporary:
            temporary.write_text(as_json(entry) + "\n")
        now = time.perf_counter()
        left = (now - began) / (i + 1) * (len(todo) - i - 1)
        print(
            f"{i + 1} of {len(todo)}  {entry.name:<32} {now - start:6.1f} s  W2 {told(entry)}  "
            f"{left / 60:.0f} min left",
            flush=True,
        )
    if options.better:
        compare(options)
    gather(options)


def check_settings(options: Options) -> None:
    """Cells of one folder are made alike."""
    settings = {name: getattr(options, name) for name in ("size", "bins", "starts", "seed")}
    path = options.out / "settings.json"
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        raise InputError(f"out = {str(options.out)!r}: its cells are of {before}, not {settings}")
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(settings) + "\n")


def finished(options: Options) -> dict[str, Entry]:
    """The cells of DIR by name."""
    return {
        path.stem: from_json(path.stem, options.size, json.loads(path.read_text()))
        for path in sorted((options.out / "cells").glob("*.json"))
    }


def known_entries(options: Options) -> dict[str, Entry]:
    """Those of the gallery and those of DIR by name, of two the one that stays."""
    entries = {} if options.anew else {one.name: one for one in gallery_entries(options.into)}
    for new in finished(options).values():
        old = entries.get(new.name)
        if old is None or not options.better or new.w2["learned"] < (1 - GAIN) * old.w2["learned"]:
            entries[new.name] = new
    return entries


def beginnings(name: str, task: str, sigma_y: float, steps: int, options: Options) -> list[Entry]:
    """The nearest schedules, for `starts_from`; none where those of fewer steps are missing."""
    others = [
        one
        for one in known_entries(options).values()
        if (one.sampler, one.task) == (name, task)
        and one.steps <= steps
        and (one.steps, one.sigma_y) != (steps, sigma_y)
    ]
    if not (options.better or any(one.steps < steps for one in others)):
        return []
    distance = lambda one: np.hypot(np.log(one.sigma_y / sigma_y), np.log(one.steps / steps))  # noqa: E731
    few = task == "inpaint" and any(one.steps == steps for one in others)
    return sorted(others, key=distance)[: FROM_OF_BLOCKS if few else FROM]


def compare(options: Options) -> None:
    """How much more W2 schedules have that were made again."""
    made = finished(options)
    changes = {
        old.name: 100 * (made[old.name].w2["learned"] / old.w2["learned"] - 1)
        for old in gallery_entries(options.into)
        if old.name in made
    }
    print("made again from the nearest: W2^2, % more than before")
    for name, change in sorted(changes.items(), key=lambda one: one[1]):
        if abs(change) >= 1:
            print(f"{name:<32}{change:>9.1f}")
    for sampler, steps in product(options.samplers, options.steps):
        several = [
            change
            for name, change in changes.items()
            if (made[name].sampler, made[name].steps) == (sampler, steps)
        ]
        if several:
            least, median, most = np.quantile(several, [0, 0.5, 1])
            print(
                f"{sampler:<9}{steps:>4} steps: {len(several)}, median {median:.2f}, "
                f"from {least:.2f} to {most:.2f}"
            )


def gather(options: Options) -> None:
    """Add all finished cells to the gallery, one file a sampler; of the same schedules as before,
    what was measured stays."""
    before = {one.name: one for one in gallery_entries(options.into)}
    for old in before.values():
        if old.size != options.size:
            raise InputError(f"into = {str(options.into)!r}: its images are of {old.size} pixels")
    entries: dict[str, list[Entry]] = {}
    for name, entry in (before | known_entries(options)).items():
        old = before.get(name)
        if old is not None:  # of the same schedule, whatever it was learned from and within
            history = {"began_from": entry.began_from, "within": entry.within}
            if old._replace(measured=None, **history) == entry:
                entry = old._replace(within=entry.within)
        entries.setdefault(entry.sampler, []).append(entry)
    for sampler, of_sampler in entries.items():
        of_sampler.sort(key=lambda one: (list(TASKS).index(one.task), one.sigma_y, one.steps))
        write_entries(options.into / f"{sampler}.json", of_sampler)
        print(f"{options.into / sampler}.json: {len(of_sampler)} schedules", flush=True)


def told(entry: Entry) -> str:
    numbers = {name: "-" if one is None else f"{one:.6f}" for name, one in entry.w2.items()}
    return f"{numbers['learned']} tuned {numbers['tuned']} published {numbers['published']}"


def computed(
    name: str, task: str, sigma_y: float, steps: int, begin: Sequence[Entry], options: Options
) -> Entry:
    """A cell, whose search begins from these entries, or from random curves."""
    sampler, levels = SAMPLERS[name](), vp_linear(steps)
    whole = problem_on(degradation_of(task, options.size), sigma_y)
    merged = problem_on(degradation_of(task, options.size), sigma_y, options.bins)
    learned = searched(sampler, few_blocks(merged, LEARNED), begin, steps, options)
    if not is_dense(whole) and not holds_on(sampler, whole, learned):
        # A mode that merging has hidden among others may be beyond the edge of what is stable.
        learned = searched(sampler, whole, begin, steps, options)
    grid = learned.grid
    guidance = rounded(sampler, whole, grid.timesteps, learned.result.guidance)
    # On uniform steps: the first search's.
    constant = learned.search.baseline_guidance["tuned_constant"]
    tuned = scores_of(sampler, whole, levels, constant)
    loss = np.inf if tuned.w2 is None else tuned.w2
    constant = constant_that_holds(sampler, whole, levels, learned.search, loss)
    scores = {
        "learned": scores_of(sampler, whole, levels_at(grid.timesteps), as_arrays(guidance)),
        "tuned": scores_of(sampler, whole, levels, constant),
        "published": scores_of(sampler, whole, levels, published_of(name, task, whole, levels)),
    }
    digits = lambda value: None if value is None else float(f"{value:.6g}")  # noqa: E731
    return Entry(
        name=entry_name(name, task, sigma_y, steps),
        sampler=name,
        task=task,
        sigma_y=sigma_y,
        steps=steps,
        size=options.size,
        timesteps=grid.timesteps,
        guidance=guidance,
        w2={label: digits(one.w2) for label, one in scores.items()},
        energy={label: digits(one.energy) for label, one in scores.items()},
        holds=ranges(sampler, task, sigma_y, levels, grid.timesteps, guidance, options),
        within=for_network(sampler, levels)["prices"],
        began_from=tuple(one.name for one in begin) or None,
    )


def searched(
    sampler: Any, problem: Problem, begin: Sequence[Entry], steps: int, options: Options
) -> Learned:
    """The schedule of a cell, as `design` learns it for a network, and what `learn` says of it."""
    return learn_on_grid(
        sampler,
        problem,
        noise_grid(GRID, steps),
        network=True,
        schedules=[gallery_schedule(one) for one in begin],
        search=Search(options.starts, seed=options.seed),
    )


def holds_on(sampler: Any, problem: Problem, learned: Learned) -> bool:
    """Whether W2 on all modes is at most 5 % above that on the merged ones."""
    grid, result = learned.grid, learned.result
    return float(evaluate(sampler, problem, grid.levels, result.guidance)) <= HOLDS * result.loss


def degradation_of(task: str, side: int, **other: Any) -> Degradation:
    return make_degradation(TASKS[task].degradation, (side, side), **TASKS[task].options | other)


def as_arrays(guidance: dict[str, tuple[float, ...]]) -> Guidance:
    return {name: np.asarray(weights) for name, weights in guidance.items()}


def rounded(
    sampler: Any, problem: Problem, timesteps: Sequence[int], guidance: Guidance
) -> dict[str, tuple[float, ...]]:
    """The weights with as few digits as leave W2 what it is."""
    levels = levels_at(timesteps)
    exact = float(evaluate(sampler, problem, levels, guidance))
    for digits in range(4, 18):
        short = {
            name: tuple(float(f"{one:.{digits}g}") for one in np.asarray(weights))
            for name, weights in guidance.items()
        }
        found = float(evaluate(sampler, problem, levels, as_arrays(short)))
        if abs(found / exact - 1) < LOST / 2:
            return short
    raise InputError(f"{sampler.name}: W2 = {exact:g} is not that of its rounded weights")


def ranges(
    sampler: Any,
    task: str,
    sigma_y: float,
    levels: Any,
    timesteps: Sequence[int],
    guidance: dict[str, tuple[float, ...]],
    options: Options,
) -> dict[str, tuple[float, float]]:
    """Where the schedule holds, of sigma_y and of the blur's size."""
    options_of_task, size = TASKS[task].options, TASKS[task].size
    values = {"sigma_y": [float(f"{one:.4g}") for one in sigma_y * FACTORS]}
    if size == "size":  # odd numbers of pixels within a factor of 2
        largest = min(2 * options_of_task[size], options.size)
        values[size] = [n for n in range(1, largest + 1, 2) if 2 * n >= options_of_task[size]]
    elif size is not None:
        values[size] = [float(f"{one:.4g}") for one in options_of_task[size] * FACTORS]

    def gain_at(axis: str, value: float) -> float:
        noise = value if axis == "sigma_y" else sigma_y
        changed = {} if axis == "sigma_y" else {axis: value}
        problem = problem_on(degradation_of(task, options.size, **changed), noise, options.bins)
        few = few_blocks(problem, JUDGED)
        return gain_of(sampler, few, levels_at(timesteps), as_arrays(guidance), levels)

    def holds(axis: str) -> tuple[float, float]:
        several = values[axis]
        value = sigma_y if axis == "sigma_y" else options_of_task[axis]
        own = int(np.argmin(np.abs(np.asarray(several) - value)))  # they are rounded
        return holds_between(several, lambda i: gain_at(axis, several[i]), own)

    return {axis: holds(axis) for axis in values}


def few_blocks(problem: Problem, num: int) -> Problem:
    """Large blocks, those of inpainting, by so many of them that stand for all."""
    if not is_dense(problem):
        return problem
    return pad_modes(representative_blocks(problem, num), num)


def judge_neighbours(options: Options) -> None:
    """W2 of a schedule at the sigma_y of the next one, relative to that one's (true), and as
    `holds_between` sees it: relative to the tuned constants of both problems."""
    several: dict[tuple[str, str, int], list[Entry]] = {}
    for entry in gallery_entries(options.into):
        if entry.sampler in options.samplers and entry.task in options.tasks:
            several.setdefault((entry.sampler, entry.task, entry.steps), []).append(entry)
    print(f"{'sampler':<9}{'task':<15}{'steps':>5}{'made for':>10}{'used at':>9}   true  holds")
    for (sampler, task, steps), entries in several.items():
        pairs = [*pairwise(entries), *((b, a) for a, b in pairwise(entries))]
        for own, other in pairs:
            schedule = gallery_schedule(own)
            problem = problem_on(degradation_of(task, own.size), other.sigma_y)
            used = float(evaluate(SAMPLERS[sampler](), problem, schedule.levels, schedule.guidance))
            true = used / other.w2["learned"]
            seen = used / other.w2["tuned"] / (own.w2["learned"] / own.w2["tuned"])
            print(
                f"{sampler:<9}{task:<15}{steps:>5}{own.sigma_y:>10g}{other.sigma_y:>9g}"
                f"{true:>7.2f}{seen:>7.2f}",
                flush=True,
            )


def quick() -> None:
    """Cells are kept, those of more steps begin from those of fewer, and what is read back is what
    was learned."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "into"
        into.mkdir()
        tiny = Options(
            Path(folder) / "out", into, ("dps",), ("gaussian_blur1",), (0.05, 0.1), (3, 4), 8, 64, 2
        )
        build(tiny)
        first, *_ = entries = list(gallery_entries(into))
        write_entries(into / "dps.json", [first._replace(measured={"images": 0}), *entries[1:]])
        files = sorted((tiny.out / "cells").iterdir())
        files[0].unlink()
        kept = files[1].stat().st_mtime_ns
        build(replace(tiny, anew=True))
        judge_neighbours(tiny)
        entries = gallery_entries(into)
        if len(entries) != 4 or files[1].stat().st_mtime_ns != kept:
            sys.exit("gallery: cells that are finished are not kept")
        if entries[0].measured != {"images": 0}:
            sys.exit("gallery: what was measured of a schedule is lost")
        if [len(entry.began_from or ()) for entry in entries] != [0, 2, 0, 3]:
            sys.exit("gallery: not begun from the nearest schedules")
        one = "dps", "gaussian_blur1", 0.05, 3, ()
        merged, every = (computed(*one, replace(tiny, bins=bins)) for bins in (2, 64))
        if merged.guidance != every.guidance:
            sys.exit("gallery: what does not hold on all modes is not learned on these")
        # One that is half as good gives way, to one that begins from the others; one that is twice
        # as good as what is found stays.
        w2 = np.array([entry.w2["learned"] for entry in entries])
        stored = w2 * [1, 2, 1, 0.5]
        changed = [
            one._replace(w2=one.w2 | {"learned": value})
            for one, value in zip(entries, stored, strict=True)
        ]
        write_entries(into / "dps.json", changed)
        files[1].unlink()
        build(replace(tiny, better=True))
        better = [entry.w2["learned"] for entry in gallery_entries(into)]
        if not np.allclose(better, w2 * [1, 1, 1, 0.5], rtol=0.02, atol=0):
            sys.exit(f"gallery: W2 {better} of {stored} and {w2}: the better one does not stay")
        for entry in entries:
            schedule = gallery_schedule(entry)
            problem = problem_on(schedule.degradation(), schedule.sigma_y)
            found = scores_of(schedule.sampler(), problem, schedule.levels, schedule.guidance)
            if not np.isclose(found.w2, entry.w2["learned"], rtol=1e-5, atol=0):
                sys.exit(f"gallery: {entry.name}: W2 {found.w2}, stored {entry.w2['learned']}")
            if not entry.w2["learned"] < entry.w2["tuned"] < entry.w2["published"]:
                sys.exit(f"gallery: {entry.name}: W2 {told(entry)}: not in order")
            if not all(low < entry.sigma_y < high for low, high in [entry.holds["sigma_y"]]):
                sys.exit(f"gallery: {entry.name} holds nowhere else")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"gallery: {error}")
