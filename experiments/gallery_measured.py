"""The gallery on the shipped network: what its schedules are worth there, put into its files.

Tiles of scikit-image's colour photographs, which the network has not seen, are restored twice by
the schedule, by the model's tuned constant and by the published default, these two on uniform time
steps. Scored by the energy score, which is proper; paired standard errors. Nothing is learned or
tuned here, nor was anything on these images: they are judges only.

    python experiments/gallery_measured.py --samplers dps diffpir --sigma-y 0.05 --steps 10 20
    python experiments/gallery_measured.py --table --samplers dps    what the files say, by task
    python experiments/gallery_measured.py --quick      one tiny schedule, checked

An entry is written into its file (`measured`) once it is known; those that have it already are left
alone, so a run that is stopped goes on from there.
"""

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.typing import ArrayLike

from on_networks.scores import energies, percent_more
from spectralpost import (
    SAMPLERS,
    Degradation,
    GaussianDenoiser,
    InputError,
    NoiseLevel,
    Sampler,
    gallery_entries,
    gallery_prior,
    gallery_schedule,
    keep_compiled_programs,
    load_unet,
    measure,
    restore,
    vp_linear,
)
from spectralpost.degradations import make_degradation
from spectralpost.gallery import (
    FOLDER,
    TASKS,
    Entry,
    entry_name,
    entry_of,
    problem_on,
    published_of,
    scores_of,
    tuned_of,
    write_entries,
)
from spectralpost.images import built_in_photographs, tiles
from spectralpost.learning import HOLDS
from spectralpost.problem_checks import ROUNDING
from spectralpost.restoration import PixelDenoiser
from spectralpost.samplers.base import Guidance

BINS = 256  # of the problem that constants are tuned on, as in `gallery.py`


@dataclass
class Options:
    into: Path = FOLDER
    """Folder of the gallery's files (default: the package's)."""
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    tasks: tuple[str, ...] = tuple(TASKS)
    sigma_y: tuple[float, ...] = (ROUNDING, 0.01, 0.05, 0.1, 0.2)
    """For pixels in [-1, 1]."""
    steps: tuple[int, ...] = (10, 20, 50, 100)
    images: int = 48
    """Tiles restored, twice each."""
    table: bool = False
    """Only print what was measured."""
    quick: bool = False
    """One tiny schedule in a folder of its own, checked."""


def main(options: Options) -> None:
    for field, known in (("samplers", SAMPLERS), ("tasks", TASKS)):
        for name in getattr(options, field):
            if name not in known:
                raise InputError(f"{field}: {name!r}: allowed are {', '.join(known)}")
    if options.images < 2:
        raise InputError(f"images = {options.images}: a standard error needs 2 at least")
    if options.table:
        return table(options)
    keep_compiled_programs()
    if options.quick:
        return quick()
    measure_all(options, load_unet())


def measure_all(options: Options, network: PixelDenoiser) -> None:
    """All entries that are asked for and have no measurement yet."""
    files: dict[str, list[Entry]] = defaultdict(list)
    for entry in gallery_entries(options.into):
        files[entry.sampler].append(entry)
    todo = [
        (entries, i)
        for entries in files.values()
        for i, entry in enumerate(entries)
        if entry.measured is None
        and entry.sampler in options.samplers
        and entry.task in options.tasks
        and entry.sigma_y in options.sigma_y
        and entry.steps in options.steps
    ]
    print(f"{len(todo)} schedules to measure", flush=True)
    for entries, i in todo:
        began = time.perf_counter()
        entry = entries[i] = entries[i]._replace(
            measured=measured(entries[i], network, photographs(entries[i].size, options.images))
        )
        write_entries(options.into / f"{entry.sampler}.json", entries)
        assert entry.measured is not None
        gap, error = entry.measured["of_tuned"]
        found = "  ".join(f"{name} {one:.4f}" for name, one in entry.measured["energy"].items())
        print(
            f"{entry.name:<32} {found}  {gap:+6.1f} % ({error:.1f})  "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )


def table(options: Options) -> None:
    """% more than the tuned constant's energy score (standard error), by task."""
    found = {
        (entry.sampler, entry.steps, entry.sigma_y, entry.task): entry.measured["of_tuned"]
        for entry in gallery_entries(options.into)
        if entry.measured is not None
    }
    print(f"{'sampler':<8}{'steps':>5}{'s_y':>6}", *(f"{task:>14}" for task in options.tasks))
    for name, steps in product(options.samplers, options.steps):
        every = []
        for sigma_y in options.sigma_y:
            cells = [found.get((name, steps, sigma_y, task)) for task in options.tasks]
            every += [one[0] for one in cells if one is not None]
            if any(cells):
                texts = ("" if one is None else f"{one[0]:.1f} ({one[1]:.1f})" for one in cells)
                print(f"{name:<8}{steps:>5}{sigma_y:>6g}", *(f"{text:>14}" for text in texts))
        if every:
            print(f"mean of {len(every)}: {np.mean(every):.1f}, {min(every):g} to {max(every):g}")


def photographs(size: int, num: int) -> np.ndarray:
    """A random choice of tiles in [-1, 1]: [num, 3, size, size]."""
    colour = [one for one in built_in_photographs("rgb", (-1.0, 1.0)).values() if len(one) == 3]
    every = np.concatenate([tiles(one, size) for one in colour]).astype(np.float32)
    return np.random.default_rng(0).permutation(every)[:num]


def measured(entry: Entry, network: PixelDenoiser, x_0: np.ndarray) -> dict[str, Any]:
    """Of images x_0 [N, 3, H, W] in [-1, 1]: mean energy scores, root mean square per pixel; how
    much more the schedule's is than the tuned constant's, in % of that, and its standard error."""
    schedule, task = gallery_schedule(entry), TASKS[entry.task]
    sampler, levels = SAMPLERS[entry.sampler](), vp_linear(entry.steps)
    degradation = make_degradation(task.degradation, x_0.shape[2:], **task.options)
    problem = problem_on(degradation, entry.sigma_y, BINS)
    constant = tuned_of(sampler, problem, levels)
    whole = problem_on(degradation, entry.sigma_y)
    found, stored = scores_of(sampler, whole, levels, constant).w2, entry.w2["tuned"]
    if found is None or (stored is not None and found > HOLDS * stored):
        constant = tuned_of(sampler, whole, levels)  # as `gallery.py` has it then
    published = published_of(entry.sampler, entry.task, problem, levels)
    y = measure(degradation, x_0, entry.sigma_y, jax.random.key(1))
    energy = {}
    for label, at, guidance in (
        ("learned", schedule.levels, schedule.guidance),
        ("tuned", levels, constant),
        ("published", levels, published),
    ):
        given = sampler, network, degradation, y, at, guidance
        energy[label] = restored_energies(*given, entry.sigma_y, x_0)
    more, error = percent_more(energy["learned"], energy["tuned"])
    return {
        "images": len(x_0),
        "energy": {label: float(f"{one.mean():.4g}") for label, one in energy.items()},
        "of_tuned": [round(more, 1), round(error, 1)],
    }


def restored_energies(
    sampler: Sampler,
    network: PixelDenoiser,
    degradation: Degradation,
    y: ArrayLike,
    levels: NoiseLevel,
    guidance: Guidance,
    sigma_y: float,
    x_0: np.ndarray,
) -> np.ndarray:
    """Energy scores [N] of two restorations of each image x_0 [N, 3, H, W] in [-1, 1]."""
    at, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), (levels, guidance))
    given = sampler, network, degradation, y, at, weights, jax.random.key(2)
    return energies(np.asarray(restore(*given, sigma_y=sigma_y, num_samples=2)), x_0)


def quick() -> None:
    """What is measured is in the file, once, and says what is known of DiffPIR."""
    entry = entry_of(entry_name("diffpir", "denoise", 0.2, 10))
    with tempfile.TemporaryDirectory() as folder:
        write_entries(Path(folder) / "diffpir.json", [entry._replace(size=16, measured=None)])
        options = Options(Path(folder), images=8)
        for _ in range(2):
            measure_all(options, GaussianDenoiser.of(gallery_prior(16)))
        (found,) = gallery_entries(folder)
        energy = found.measured["energy"] if found.measured else {}
        if not max(energy["learned"], energy["tuned"]) < 0.8 * energy["published"]:
            sys.exit(f"gallery_measured: {energy}: the published default is no worse")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"gallery_measured: {error}")
