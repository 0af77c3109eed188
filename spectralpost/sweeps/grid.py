"""What a sweep goes through: a YAML file as cells, one after the other, never all in memory.

A cell is a value for each of AXES. Choices of an axis multiply (`design: product`); or cells are
listed (`list`), or drawn (`random`, `sobol`), where axes may also be ranges.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..degradations import DEGRADATIONS
from ..errors import InputError, shown
from ..metrics import mse, perception, wasserstein2
from ..noise import GRIDS
from ..prior import matern, power_law
from ..samplers import SAMPLERS, make_sampler
from ..samplers.base import Sampler
from ..signatures import checked_options

PRIORS: dict[str, Callable[..., Any]] = {"power_law": power_law, "matern": matern}
OBJECTIVES = {"wasserstein2": wasserstein2, "mse": mse, "perception": perception}
# Axes whose values are a name with options; each with its table and the parameters that a sweep
# gives itself. In this order cells that one compiled program computes follow each other.
TABLES: dict[str, tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]] = {
    "sampler": (SAMPLERS, ()),
    "degradation": (DEGRADATIONS, ("shape",)),
    "prior": (PRIORS, ("shape", "pixel_range")),
    "grid": (GRIDS, ("num_steps",)),
}
DEFAULTS: dict[str, Any] = {
    "sampler": None,
    "steps": 20,
    "objective": "wasserstein2",
    "free": None,
    "learn_levels": False,
    "degradation": {"name": "gaussian_blur"},
    "prior": {"name": "power_law"},
    "grid": {"name": "vp_linear"},
    "sigma_y": 0.05,
    "factor": 1.0,
    "max_amplification": 3.0,
    "smoothness": 1e-4,
}
AXES = tuple(DEFAULTS)
DESIGNS = ("product", "list", "random", "sobol")
MOST = 10**9  # cells


class Settings(NamedTuple):
    """What all cells of a sweep have in common."""

    size: int = 64  # pixels along each axis
    learn: bool = False  # else published default and, if asked for, tuned constant alone
    tune: bool = True  # the best constant
    bins: int = 256  # as of `bin_modes`
    starts: int = 4  # of the search
    max_iterations: int = 100  # of each
    seed: int = 0  # of the search, and of a design that is drawn


class Range(NamedTuple):
    """Numbers from low to high, of an axis that is drawn."""

    low: float
    high: float
    log: bool
    whole: bool

    def at(self, u: float) -> float | int:
        """The number at u in [0, 1]."""
        high = self.high + self.whole
        value = self.low * (high / self.low) ** u if self.log else self.low + (high - self.low) * u
        return min(math.floor(value), int(self.high)) if self.whole else value


class Grid(NamedTuple):
    """The cells of a sweep. Build it with `grid_of`."""

    settings: Settings
    design: str
    choices: dict[str, tuple[Any, ...]]  # axis -> values; or of a list the cells, under ""
    num_cells: int
    given: dict[str, Any]  # the YAML file

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All that cells are of."""
        if self.design == "list":
            entries = [cell["sampler"] for cell in self.choices[""]]
        else:
            entries = list(self.choices["sampler"])
        return tuple(dict.fromkeys(sampler_of(entry) for entry in entries))

    @property
    def hash(self) -> str:
        """Of the file's contents: equal for the same sweep."""
        return hashlib.sha256(_text(self.given).encode()).hexdigest()[:16]

    def cells(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Axis -> value of each cell, from the one of that number on."""
        if self.design == "list":
            yield from self.choices[""][start:]
        elif self.design == "product":
            sizes = [len(values) for values in self.choices.values()]
            for index in range(start, self.num_cells):
                place = np.unravel_index(index, sizes)
                items = zip(self.choices.items(), place, strict=True)
                yield {axis: values[at] for (axis, values), at in items}
        else:
            yield from self._drawn(start)

    def _drawn(self, start: int) -> Iterator[dict[str, Any]]:
        dims = max(sum(map(_numbers_needed, self.choices.values())), 1)
        for index, u in enumerate(self._points(dims)):
            if index < start:
                continue
            numbers = iter(u.tolist())
            yield {axis: _chosen(values, numbers) for axis, values in self.choices.items()}

    def _points(self, dims: int) -> Iterator[np.ndarray]:
        seed = self.settings.seed
        if self.design == "random":
            generator = np.random.default_rng(seed)
            for _ in range(self.num_cells):
                yield generator.random(dims)
            return
        from scipy.stats import qmc

        sequence = qmc.Sobol(dims, rng=np.random.default_rng(seed))
        left = self.num_cells
        while left:  # by powers of two, of which the sequence is made
            some = min(left, 1024)
            yield from sequence.random(1 << (some - 1).bit_length())[:some]
            left -= some


def load_grid(path: Path) -> Grid:
    """The grid in a YAML file. Raises InputError, with the place, for whatever is wrong with it."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"grid {shown(path)}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"grid {shown(path)}: is no YAML ({reason})") from error
    return grid_of(given)


def grid_of(given: Any) -> Grid:
    """The grid of a YAML file's contents, checked whole: no cell of it is of a wrong kind.

    Raises InputError, with the place, for an unknown key, a wrong type, an empty axis, a name or an
    option that is not in its table.
    """
    given = _mapping("grid", given)
    own = {"axes", "cells", "design", "num"}
    known = (*own, *Settings._fields)
    for key in given:
        if key not in known:
            raise InputError(f"grid: unknown key {key!r}; allowed are {', '.join(sorted(known))}")
    settings = _settings({key: given[key] for key in given if key not in own})
    design = given.get("design", "list" if "cells" in given else "product")
    if design not in DESIGNS:
        raise InputError(f"design = {design!r}: allowed are {', '.join(DESIGNS)}")
    wanted, other = ("cells", "axes") if design == "list" else ("axes", "cells")
    if wanted not in given or other in given:
        raise InputError(f"grid: a {design} design has {wanted}, and no {other}")
    drawn = design in ("random", "sobol")
    if drawn != ("num" in given):
        raise InputError(f"num: how many cells to draw, of random and sobol designs ({design})")
    if design == "list":
        cells = given["cells"]
        if not isinstance(cells, list) or not cells:
            raise InputError("cells: a list of one cell at least is needed")
        listed = tuple(_listed(f"cells[{i}]", cell) for i, cell in enumerate(cells))
        return Grid(settings, design, {"": listed}, len(listed), given)
    axes = _mapping("axes", given["axes"])
    for axis in axes:
        if axis not in AXES:
            raise InputError(f"axes: unknown axis {axis!r}; allowed are {', '.join(AXES)}")
    if "sampler" not in axes:
        raise InputError("axes: needs the axis 'sampler'")
    choices = {
        axis: _choices(f"axes.{axis}", axis, axes.get(axis, DEFAULTS[axis]), drawn) for axis in AXES
    }
    if drawn:
        num = _whole("num", given["num"])
    else:
        num = math.prod(len(values) for values in choices.values())
    if num > MOST:
        raise InputError(f"grid: {num} cells; at most {MOST} are possible")
    return Grid(settings, design, choices, num, given)


def cell_hash(cell: Mapping[str, Any], settings: Settings) -> str:
    """Of all that its result depends on."""
    return hashlib.sha256(_text([cell, settings._asdict()]).encode()).hexdigest()[:32]


def sampler_of(entry: Mapping[str, Any]) -> Sampler:
    """The sampler of a cell's `sampler`."""
    return _sampler(_text(entry))


@lru_cache(maxsize=256)
def _sampler(entry: str) -> Sampler:
    options = json.loads(entry)
    return make_sampler(options.pop("name"), **options)


def columns_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell by columns: sampler, sampler.lambda_, degradation.std, sigma_y, ..."""
    found: dict[str, Any] = {}
    for axis, value in cell.items():
        if axis in TABLES:
            found[axis] = value["name"]
            found |= {
                f"{axis}.{name}": option if isinstance(option, _PLAIN) else _text(option)
                for name, option in value.items()
                if name != "name"
            }
        else:
            found[axis] = " ".join(value) if isinstance(value, list) else value
    return found


_PLAIN = (bool, int, float, str)


def _settings(given: dict[str, Any]) -> Settings:
    for key, value in given.items():
        default = Settings._field_defaults[key]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise InputError(f"{key} = {value!r}: must be true or false")
        else:
            _whole(key, value, 0 if key == "seed" else 1)
    return Settings(**given)


def _listed(place: str, given: Any) -> dict[str, Any]:
    given = _mapping(place, given)
    for axis in given:
        if axis not in AXES:
            raise InputError(f"{place}: unknown axis {axis!r}; allowed are {', '.join(AXES)}")
    if "sampler" not in given:
        raise InputError(f"{place}: needs a sampler")
    cell = {}
    for axis in AXES:
        values = _choices(f"{place}.{axis}", axis, given.get(axis, DEFAULTS[axis]), drawn=False)
        if len(values) != 1:
            raise InputError(f"{place}.{axis}: one value is needed, {len(values)} are given")
        cell[axis] = values[0]
    return cell


def _choices(place: str, axis: str, given: Any, drawn: bool) -> tuple[Any, ...]:
    """The values of an axis: plain ones, mappings with a name, or a Range."""
    several = given if isinstance(given, list) else [given]
    if axis == "free" and several and not isinstance(several[0], list):
        several = [given]  # one list of weights, or the default
    if not several:
        raise InputError(f"{place}: is empty")
    if axis in TABLES:
        expanded = [
            one
            for i, entry in enumerate(several)
            for one in _named(f"{place}[{i}]" if len(several) > 1 else place, axis, entry, drawn)
        ]
        return tuple(expanded)
    return tuple(_plain(place, axis, value, drawn) for value in several)


def _named(place: str, axis: str, given: Any, drawn: bool) -> list[dict[str, Any]]:
    """A name with options, of which lists multiply."""
    table, own = TABLES[axis]
    entry = {"name": given} if isinstance(given, str) else _mapping(place, given)
    name = entry.get("name")
    if not isinstance(name, str) or name not in table or name == "exact":
        allowed = ", ".join(one for one in table if one != "exact")
        raise InputError(f"{place}: name = {name!r}: allowed are {allowed}")
    lists: dict[str, list[Any]] = {}
    for option, value in entry.items():
        if option == "name":
            continue
        values = value if isinstance(value, list) else [value]
        if not values:
            raise InputError(f"{place}.{option}: is empty")
        lists[option] = [
            _range(f"{place}.{option}", one, drawn) if isinstance(one, dict) else one
            for one in values
        ]
    found = []
    for values in product(*lists.values()):
        options = dict(zip(lists, values, strict=True))
        # A range is checked by its ends.
        if axis == "sampler" and any(isinstance(one, Range) for one in values):
            raise InputError(f"{place}: options of a sampler are no ranges; the axis factor may be")
        for end in (0.0, 1.0):
            ends = {
                option: one.at(end) if isinstance(one, Range) else one
                for option, one in options.items()
            }
            try:
                checked = checked_options(axis, table, name, ends, own=own)
                if axis == "sampler":
                    make_sampler(name, **checked)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        fitted = {
            option: one if isinstance(one, Range) else checked[option]
            for option, one in options.items()
        }
        found.append({"name": name} | fitted)
    return found


def _plain(place: str, axis: str, value: Any, drawn: bool) -> Any:
    if isinstance(value, dict):
        value = _range(place, value, drawn)
        for end in (0.0, 1.0):
            _plain(place, axis, value.at(end), drawn)
        return value
    if axis == "objective":
        if value not in OBJECTIVES:
            raise InputError(f"{place} = {value!r}: allowed are {', '.join(OBJECTIVES)}")
    elif axis == "learn_levels":
        if not isinstance(value, bool):
            raise InputError(f"{place} = {value!r}: must be true or false")
    elif axis == "free":
        if value is not None and not (value and all(isinstance(one, str) for one in value)):
            raise InputError(f"{place} = {value!r}: a list of weights is needed")
    elif axis == "steps":
        return _whole(place, value)
    else:
        number = _number(place, value)
        least = {"smoothness": 0.0, "max_amplification": 1.0}.get(axis)
        if not (number >= least if least is not None else number > 0):
            words = f">= {least:g}" if least is not None else "> 0"
            raise InputError(f"{place} = {value!r}: must be {words}")
        return number
    return value


def _range(place: str, given: dict[Any, Any], drawn: bool) -> Range:
    if not drawn:
        raise InputError(f"{place}: a range needs a design that is drawn, random or sobol")
    for key in given:
        if key not in ("from", "to", "scale"):
            raise InputError(f"{place}: unknown key {key!r}; a range has from, to, scale")
    if not {"from", "to"} <= set(given):
        raise InputError(f"{place}: a range has from and to")
    low, high = (_number(f"{place}.{end}", given[end]) for end in ("from", "to"))
    scale = given.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise InputError(f"{place}.scale = {scale!r}: allowed are linear, log")
    if not low < high or (scale == "log" and low <= 0):
        raise InputError(f"{place}: from {low:g} to {high:g} is no range")
    whole = all(isinstance(given[end], int) for end in ("from", "to"))
    return Range(low, high, scale == "log", whole)


def _numbers_needed(values: tuple[Any, ...]) -> int:
    """Random numbers that a choice takes: one for the choice, and the most ranges of any."""
    ranges = [
        sum(
            isinstance(one, Range)
            for one in (value.values() if isinstance(value, dict) else [value])
        )
        for value in values
    ]
    return (len(values) > 1) + max(ranges)


def _chosen(values: tuple[Any, ...], numbers: Iterator[float]) -> Any:
    needed = _numbers_needed(values)
    own = [next(numbers) for _ in range(needed)]
    value = values[int(own.pop(0) * len(values)) if len(values) > 1 else 0]
    if isinstance(value, Range):
        return value.at(own.pop(0))
    if isinstance(value, dict):
        return {
            key: one.at(own.pop(0)) if isinstance(one, Range) else one for key, one in value.items()
        }
    return value


def _mapping(place: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"{place}: names with values are needed")
    return given


def _number(place: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML: 1e-3 is a text
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place} = {value!r}: must be a finite number")
    return number


def _whole(place: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{place} = {value!r}: must be a whole number >= {least}")
    return value


def _text(value: Any) -> str:
    """JSON, the same for equal values."""
    return json.dumps(value, sort_keys=True, default=lambda one: np.asarray(one).tolist())
