"""What a sweep goes through: a YAML file as cells, one after the other, never all in memory.

A cell is a value for each of AXES. Choices of an axis multiply (`design: product`); or cells are
listed (`list`), or drawn (`random`, `sobol`), where axes may also be ranges.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config_file import read_yaml
from ..errors import InputError, shown
from ..samplers.base import Sampler
from .axes import (
    AXES,
    DEFAULTS,
    as_text,
    choices_of,
    chosen,
    mapping,
    numbers_needed,
    sampler_of,
    whole_number,
)
from .priors import check_prior

DESIGNS = ("product", "list", "random", "sobol")
MOST = 10**9  # cells
SORTED = sorted(AXES)


class Settings(NamedTuple):
    """What all cells of a sweep have in common."""

    size: int = 64  # pixels along each axis
    learn: bool = False  # else published default and, if asked for, tuned constant alone
    tune: bool = True  # the best constant
    bins: int = 256  # as of `bin_modes`
    starts: int = 4  # of the search
    max_iterations: int = 100  # of each
    seed: int = 0  # of the search, and of a design that is drawn


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

    def cells(self) -> Iterator[dict[str, Any]]:
        """Axis -> value of each cell."""
        if self.design == "list":
            yield from self.choices[""]
        elif self.design == "product":
            for values in product(*self.choices.values()):
                yield dict(zip(self.choices, values, strict=True))
        else:
            yield from self._drawn()

    def cell(self, place: int) -> dict[str, Any]:
        """The cell of a number, of a product."""
        found = {}
        for axis, values in reversed(self.choices.items()):
            place, i = divmod(place, len(values))
            found[axis] = values[i]
        return found

    def _drawn(self) -> Iterator[dict[str, Any]]:
        dims = max(sum(map(numbers_needed, self.choices.values())), 1)
        for u in self._points(dims):
            numbers = iter(u.tolist())
            yield {axis: chosen(values, numbers) for axis, values in self.choices.items()}

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
    """The grid in a YAML file. Raises InputError, with the place, for whatever is wrong with it,
    and for a folder or file of a prior that is not there."""
    try:
        given = read_yaml(path)
    except OSError as error:
        raise InputError(f"grid {shown(path)}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"grid {shown(path)}: is no YAML ({error})") from error
    grid = grid_of(given)
    priors = [cell["prior"] for cell in grid.choices.get("", ())] or grid.choices["prior"]
    for prior in priors:
        try:
            check_prior(prior)
        except InputError as error:
            raise InputError(f"grid {shown(path)}: prior: {error}") from None
    return grid


def grid_of(given: Any) -> Grid:
    """The grid of a YAML file's contents, checked whole: no cell of it is of a wrong kind.

    Raises InputError, with the place, for an unknown key, a wrong type, an empty axis, a name or an
    option that is not in its table.
    """
    given = mapping("grid", given)
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
        raise InputError(
            "num: is missing, how many cells are to be drawn"
            if drawn
            else f"num: is of random and sobol designs, not of design = {design!r}"
        )
    if design == "list":
        cells = given["cells"]
        if not isinstance(cells, list) or not cells:
            raise InputError("cells: a list of one cell at least is needed")
        listed = tuple(_listed(f"cells[{i}]", cell) for i, cell in enumerate(cells))
        return _checked(Grid(settings, design, {"": listed}, len(listed), given))
    axes = mapping("axes", given["axes"])
    for axis in axes:
        if axis not in AXES:
            raise InputError(f"axes: unknown axis {axis!r}; allowed are {', '.join(AXES)}")
    if "sampler" not in axes:
        raise InputError("axes: needs the axis 'sampler'")
    choices = {}
    for axis in AXES:
        values = choices_of(f"axes.{axis}", axis, axes.get(axis, DEFAULTS[axis]), drawn)
        choices[axis] = tuple({as_text(value): value for value in values}.values())  # each once
    if drawn:
        num = whole_number("num", given["num"])
    else:
        num = math.prod(len(values) for values in choices.values())
    if num > MOST:
        raise InputError(f"grid: {num} cells; at most {MOST} are possible")
    return _checked(Grid(settings, design, choices, num, given))


def _checked(grid: Grid) -> Grid:
    """InputError for a weight to learn that none of its samplers has."""
    listed = grid.choices[""] if grid.design == "list" else ()
    free = [cell["free"] for cell in listed] if listed else grid.choices["free"]
    known = {name for sampler in grid.samplers for name in sampler.constraint}
    for name in (name for names in free for name in names or ()):
        if name not in known:
            raise InputError(
                f"free: unknown weight {name!r}; allowed are {', '.join(sorted(known))}"
            )
    return grid


def cell_hash(cell: Mapping[str, Any], settings: Settings) -> str:
    """Of all that its result depends on: of the JSON of [cell, settings], put together of parts
    that many cells share."""
    axes = ", ".join([f'"{axis}": {as_text(cell[axis])}' for axis in SORTED])
    text = f"[{{{axes}}}, {_settings_text(settings)}]"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=16)
def _settings_text(settings: Settings) -> str:
    return as_text(settings._asdict())


def _settings(given: dict[str, Any]) -> Settings:
    for key, value in given.items():
        default = Settings._field_defaults[key]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise InputError(f"{key} = {value!r}: must be true or false")
        else:
            whole_number(key, value, 0 if key == "seed" else 1)
            if key == "seed" and value >= 2**32:
                raise InputError(f"seed = {value}: must be below 2^32")
    return Settings(**given)


def _listed(place: str, given: Any) -> dict[str, Any]:
    given = mapping(place, given)
    for axis in given:
        if axis not in AXES:
            raise InputError(f"{place}: unknown axis {axis!r}; allowed are {', '.join(AXES)}")
    if "sampler" not in given:
        raise InputError(f"{place}: needs a sampler")
    cell = {}
    for axis in AXES:
        values = choices_of(f"{place}.{axis}", axis, given.get(axis, DEFAULTS[axis]), drawn=False)
        if len(values) != 1:
            raise InputError(f"{place}.{axis}: one value is needed, {len(values)} are given")
        cell[axis] = values[0]
    return cell
