"""What the gallery holds: <sampler>.json in this folder, one line a schedule.

A file has time steps of the 1000 of `vp_linear` and rounded weights; levels, problem and prior
follow from these, the name and the tables here.
"""

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..degradations import DEGRADATIONS, Degradation, make_degradation
from ..errors import InputError, check_whole, is_number, shown
from ..files import whole_file
from ..learning import Prices
from ..noise import TRAIN_STEPS, NoiseLevel, at_timesteps, vp_linear
from ..plain_json import plain, read_json
from ..prior import Prior, power_law
from ..problem_checks import check_sigma_y
from ..samplers import SAMPLERS
from ..schedule import Schedule
from ..signatures import options_of

FOLDER = Path(__file__).parent
FORMAT, VERSION = "spectralpost gallery", 1
GRID = "vp_linear"


class Task(NamedTuple):
    """A degradation of the gallery."""

    degradation: str  # in DEGRADATIONS
    options: dict[str, Any]
    size: str | None = None  # the option that says how wide its blur is
    programs: Mapping[str, dict[str, Any]] = MappingProxyType({})  # sampler -> options


OF_INPAINTING = {"diffpir": {"task": "inpainting"}, "dps": {"scale": 0.5}}
TASKS: dict[str, Task] = {
    "gaussian_blur1": Task("gaussian_blur", {"std": 1.0}, "std"),
    "gaussian_blur2": Task("gaussian_blur", {"std": 2.0}, "std"),
    "gaussian_blur3": Task("gaussian_blur", {"std": 3.0}, "std"),
    "motion_blur": Task("motion_blur", {"length": 15.0}, "length"),
    "uniform_blur": Task("uniform_blur", {"size": 9}, "size"),
    "x2": Task("downsample", {"factor": 2}),
    "x4": Task("downsample", {"factor": 4}),
    "denoise": Task("identity", {}),
    "inpaint": Task("inpaint", {"keep": 0.5}, programs=OF_INPAINTING),
}
SIZES = ("std", "length", "size", "factor", "keep")  # options by whose logarithms problems differ

STD, EXPONENT = 0.5, 2.0  # the std is close to that of scikit-image's photographs


class Entry(NamedTuple):
    """A schedule of the gallery, and how good it is on the problem that it was made for."""

    name: str  # such as dps-gaussian_blur2-s0.05-20
    sampler: str
    task: str  # in TASKS
    sigma_y: float  # for pixels in [-1, 1]
    steps: int
    size: int  # side of the prior's images
    timesteps: tuple[int, ...]  # [S], of 1000
    guidance: dict[str, tuple[float, ...]]  # name -> [S]
    # W2^2 and energy score of "learned", "tuned", "published", by closed form; None: not finite.
    w2: dict[str, float | None]
    energy: dict[str, float | None]
    # Of sigma_y, and of the blur's size where there is one: see `judged.holds_between`.
    holds: dict[str, tuple[float, float]]
    within: Prices  # that it was learned with, `for_network`'s of then
    # Entries of fewer steps from which its search began; None: from random starts.
    began_from: tuple[str, ...] | None = None
    # On the shipped network, where that was done: "images", their number; "energy", the score of
    # each of the three; "of_tuned", % more than the tuned constant's, and its standard error.
    measured: dict[str, Any] | None = None


def entry_name(sampler: str, task: str, sigma_y: float, steps: int) -> str:
    return f"{sampler}-{task}-s{sigma_y:g}-{steps}"


@cache
def gallery_prior(size: int = 64) -> Prior:
    """The prior of all entries: colour images of that side in [-1, 1], power law |f|^-2, std 0.5,
    the variance shared by three axes of colour as in photographs.

    >>> sp.gallery_prior(8).spectrum.shape
    (3, 8, 8)
    """
    return power_law((size, size), EXPONENT, std=STD, colour=True)


def gallery_entries(folder: str | os.PathLike[str] = FOLDER) -> tuple[Entry, ...]:
    """All entries, by sampler, task, sigma_y and steps; InputError for a file *.json of the folder
    that holds none.

    >>> {entry.sigma_y for entry in sp.gallery_entries()} <= {0.0023, 0.01, 0.05, 0.1, 0.2}
    True
    """
    found: list[Entry] = []
    for path in sorted(Path(folder).glob("*.json")):
        found += _read(path)
    tasks = list(TASKS)
    return tuple(sorted(found, key=lambda e: (e.sampler, tasks.index(e.task), e.sigma_y, e.steps)))


def entry_of(name: str, folder: str | os.PathLike[str] = FOLDER) -> Entry:
    """The entry of that name, or InputError."""
    sampler = name.partition("-")[0]
    path = Path(folder) / f"{sampler}.json"  # of a sampler's name, not of any path
    known = _read(path) if sampler in SAMPLERS and path.exists() else []
    for entry in known:
        if entry.name == name:
            return entry
    like = difflib.get_close_matches(name, [one.name for one in gallery_entries(folder)], 3, 0.0)
    raise InputError(f"name = {name!r}: not in the gallery; it has, such as {', '.join(like)}")


def gallery_schedule(entry: Entry | str) -> Schedule:
    """An entry, or the one of that name, as `load_schedule` gives it.

    >>> sp.gallery_schedule("dps-gaussian_blur2-s0.05-20").levels.sigma.shape
    (21,)
    """
    entry = entry_of(entry) if isinstance(entry, str) else entry
    prior, task = gallery_prior(entry.size), TASKS[entry.task]
    names = {"heuristic": "published", "tuned_constant": "tuned"}
    return Schedule(
        sampler_name=entry.sampler,
        levels=levels_at(entry.timesteps),
        timesteps=entry.timesteps,
        grid=GRID,
        guidance={name: jnp.asarray(weights) for name, weights in entry.guidance.items()},
        degradation_name=task.degradation,
        degradation_options=make_degradation(task.degradation, prior.shape, **task.options).options,
        shape=prior.shape,
        channels=len(prior.spectrum),
        sigma_y=entry.sigma_y,
        pixel_range=prior.pixel_range,
        prior_source=prior.source,
        prior_hash=prior.hash,
        objective="wasserstein2",
        loss=entry.w2["learned"],
        baselines={
            name: value for name, of in names.items() if (value := entry.w2[of]) is not None
        },
        provenance={"gallery": entry.name, "limits": "network"},
    )


def levels_at(timesteps: Iterable[int]) -> NoiseLevel:
    """The levels of these time steps of 1000, and the clean end, [S + 1]."""
    return at_timesteps(timesteps, vp_linear(TRAIN_STEPS))


def gallery_nearest(
    sampler: str,
    degradation: str,
    options: Mapping[str, Any],
    sigma_y: float,
    steps: int,
    folder: str | os.PathLike[str] = FOLDER,
) -> Entry:
    """The entry of a sampler whose problem is nearest to this one.

    By the sum of the squares of the logarithms of what the numbers differ by: sigma_y, steps, and
    size of the blur, factor or share of known pixels (SIZES; of a mask that is given as well). Of
    the other options words have to be the same, and no kernel given; angles, seeds and planes do
    not matter, as the prior is alike in all directions.
    Raises InputError where the gallery has nothing of the kind.

    >>> sp.gallery_nearest("dps", "gaussian_blur", {"std": 1.9}, 0.06, 20).name
    'dps-gaussian_blur2-s0.05-20'
    """
    steps = check_whole("steps", steps)
    every = gallery_entries(folder)
    of_sampler = [entry for entry in every if entry.sampler == sampler]
    if not of_sampler:
        have = ", ".join(dict.fromkeys(entry.sampler for entry in every))
        raise InputError(f"sampler = {sampler!r}: the gallery has {have}")
    side = of_sampler[0].size
    made = degradation_near(side, degradation, options)
    wanted = _complete(degradation, made.options)
    if degradation == "inpaint":
        known = np.mean(np.asarray(made.response) > 0)
        wanted |= {
            "keep": float(known),
            "mask": "random" if np.ndim(wanted["mask"]) else wanted["mask"],
        }
    words = {name: value for name, value in wanted.items() if name not in SIZES}
    alike = [one for one in of_sampler if _alike(TASKS[one.task], degradation, words)]
    if not alike:
        have = ", ".join(dict.fromkeys(entry.task for entry in of_sampler))
        simple = {name: one for name, one in options.items() if np.ndim(one) == 0}  # no kernels
        given = "".join(f", {name} = {value}" for name, value in simple.items())
        raise InputError(
            f"degradation = {degradation!r}{given}: the gallery has of {sampler} {have}"
        )

    if not is_number(sigma_y):
        raise InputError(f"sigma_y = {sigma_y}: must be a number > 0")
    check_sigma_y(sigma_y)

    def distance(entry: Entry) -> float:
        own = _complete(degradation, TASKS[entry.task].options)
        pairs = [(sigma_y, entry.sigma_y), (steps, entry.steps)]
        pairs += [(wanted[name], own[name]) for name in SIZES if own.get(name) is not None]
        return sum(math.log(one / other) ** 2 for one, other in pairs if one is not None)

    return min(alike, key=distance)


def degradation_near(side: int, name: str, options: Mapping[str, Any]) -> Degradation:
    """Of images of that side, or of the next smaller that a factor divides."""
    factor = options.get("factor")
    if isinstance(factor, int) and 1 < factor <= side:
        side -= side % factor
    return make_degradation(name, (side, side), **options)


def _alike(task: Task, degradation: str, words: Mapping[str, Any]) -> bool:
    own = _complete(degradation, task.options) if task.degradation == degradation else None
    return own is not None and all(
        own.get(name) == value
        for name, value in words.items()
        if isinstance(value, str | tuple | list)
    )


def _complete(degradation: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their defaults."""
    parameters = options_of(DEGRADATIONS[degradation], ("shape",))
    return {name: one.default for name, one in parameters.items()} | dict(options)


# ------------------------------------------------------------------------------------------ files


def write_entries(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write entries of one size as a file of the gallery, whole or not at all."""
    entries = list(entries)
    head = {"format": FORMAT, "version": VERSION, "size": entries[0].size}
    lines = [f"{json.dumps(one.name)}: {as_json(one)}" for one in entries]
    text = json.dumps(head)[:-1] + ', "entries": {\n' + ",\n".join(lines) + "\n}}\n"
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def as_json(entry: Entry) -> str:
    """One line; name and size are said elsewhere."""
    fields = {name: value for name, value in entry._asdict().items() if value is not None}
    del fields["name"], fields["size"]
    fields["within"] = entry.within._asdict()
    return json.dumps(plain(fields), separators=(",", ":"), allow_nan=False)


def from_json(name: str, size: int, stored: Mapping[str, Any]) -> Entry:
    """What `as_json` wrote."""
    fields = dict(stored)
    fields["timesteps"] = tuple(fields["timesteps"])
    for field in ("guidance", "holds"):
        fields[field] = {key: tuple(value) for key, value in fields[field].items()}
    if "began_from" in fields:
        fields["began_from"] = tuple(fields["began_from"])
    within = Prices(**fields["within"])
    fields["within"] = within._replace(scales=tuple(within.scales))
    return Entry(name=name, size=size, **fields)


def _read(path: Path) -> list[Entry]:
    stored = read_json(path)
    try:
        if (stored["format"], stored["version"]) != (FORMAT, VERSION):
            raise ValueError("another format")
        return [from_json(name, stored["size"], one) for name, one in stored["entries"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"gallery: {shown(path)} is none of its files ({error})") from error
