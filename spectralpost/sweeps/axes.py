"""The axes of a sweep: what a cell has a value of, and what may be given for it.

A value is plain, or a name with options that is a sampler, degradation, prior or noise grid.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain, product
from typing import Any, NamedTuple, get_args

import numpy as np

from ..degradations import DEGRADATIONS
from ..errors import InputError
from ..metrics import mse, perception, wasserstein2
from ..noise_grid import GRIDS
from ..samplers import SAMPLERS, make_sampler
from ..samplers.base import Sampler
from ..signatures import checked_options, options_of
from .priors import PRIORS

OBJECTIVES = {"wasserstein2": wasserstein2, "mse": mse, "perception": perception}
# Axes whose values are a name with options; each with its table and the parameters that a sweep
# gives itself. In this order cells that one compiled program computes follow each other.
TABLES: dict[str, tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]] = {
    "sampler": (SAMPLERS, ()),
    "degradation": (DEGRADATIONS, ("shape",)),
    "prior": (PRIORS, ("shape", "pixel_range", "colour")),
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
PLAIN = (bool, int, float, str)  # what a column holds
KEPT = frozenset((*PLAIN, type(None)))  # types whose texts are kept: many cells have the same value


def _plainly(value: Any) -> Any:
    """What JSON does not know, arrays and NumPy's numbers, as what it does."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufU":
        raise InputError(f"{value}: a number, a text or a list of these is needed")
    return array.tolist()


ENCODER = json.JSONEncoder(sort_keys=True, default=_plainly)


class Named(dict[str, Any]):
    """A name with options. Nothing changes it, so that its text, of which a sweep asks for every
    cell, is made once."""

    @cached_property
    def text(self) -> str:
        return ENCODER.encode(self)


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


def choices_of(place: str, axis: str, given: Any, drawn: bool) -> tuple[Any, ...]:
    """The values of an axis: plain ones, mappings with a name, or a Range."""
    several = given if isinstance(given, list) else [given]
    if axis == "free" and several and all(isinstance(one, str) for one in several):
        several = [given]  # one list of weights
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


def _named(place: str, axis: str, given: Any, drawn: bool) -> list[Named]:
    """A name with options, of which lists multiply."""
    table, own = TABLES[axis]
    entry = {"name": given} if isinstance(given, str) else mapping(place, given)
    name = entry.get("name")
    if not isinstance(name, str) or name not in table or name == "exact":
        allowed = ", ".join(one for one in table if one != "exact")
        raise InputError(f"{place}: name = {name!r}: allowed are {allowed}")
    parameters = options_of(table[name], own).items()
    arrays = {option for option, one in parameters if np.ndarray in get_args(one.annotation)}
    lists: dict[str, list[Any]] = {}
    for option, value in entry.items():
        if option == "name":
            continue
        values = value if isinstance(value, list) else [value]
        if not values:
            raise InputError(f"{place}.{option}: is empty")
        if option in arrays and any(_is_row(one) for one in values):
            raise InputError(
                f"{place}.{option}: a list is several values; one array, a list of rows, stands in "
                "a list of its own"
            )
        lists[option] = [
            _range(f"{place}.{option}", one, drawn) if isinstance(one, dict) else one
            for one in values
        ]
    found = []
    for values in product(*lists.values()):
        options = dict(zip(lists, values, strict=True))
        if axis == "sampler" and any(isinstance(one, Range) for one in values):
            raise InputError(f"{place}: options of a sampler are no ranges; the axis factor may be")
        for end in (0.0, 1.0):  # a range is checked by its ends
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
            # Checked as its upper end: whole where the option takes whole numbers.
            option: one._replace(whole=isinstance(checked[option], int))
            if isinstance(one, Range)
            else checked[option]
            for option, one in options.items()
        }
        found.append(Named(name=name, **fitted))
    return found


def _is_row(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(one, list) for one in value)


def _plain(place: str, axis: str, value: Any, drawn: bool) -> Any:
    if isinstance(value, dict):
        value = _range(place, value, drawn)
        value = value._replace(whole=value.whole and axis == "steps")
        for end in (0.0, 1.0):
            _plain(place, axis, value.at(end), drawn)
        return value
    if axis == "objective":
        if not isinstance(value, str) or value not in OBJECTIVES:
            raise InputError(f"{place} = {value!r}: allowed are {', '.join(OBJECTIVES)}")
    elif axis == "learn_levels":
        if not isinstance(value, bool):
            raise InputError(f"{place} = {value!r}: must be true or false")
    elif axis == "free":
        if value is not None and not (value and all(isinstance(one, str) for one in value)):
            raise InputError(f"{place} = {value!r}: a list of weights is needed")
    elif axis == "steps":
        return whole_number(place, value)
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


def numbers_needed(values: tuple[Any, ...]) -> int:
    """Random numbers that a choice takes: one for the choice, and the most ranges of any."""
    ranges = [
        sum(
            isinstance(one, Range)
            for one in (value.values() if isinstance(value, dict) else [value])
        )
        for value in values
    ]
    return (len(values) > 1) + max(ranges)


def chosen(values: tuple[Any, ...], numbers: Iterator[float]) -> Any:
    needed = numbers_needed(values)
    own = [next(numbers) for _ in range(needed)]
    value = values[int(own.pop(0) * len(values)) if len(values) > 1 else 0]
    if isinstance(value, Range):
        return value.at(own.pop(0))
    if isinstance(value, dict):
        drawn = [one.at(own.pop(0)) if isinstance(one, Range) else one for one in value.values()]
        return Named(zip(value, drawn, strict=True)) if needed > (len(values) > 1) else value
    return value


def sampler_of(entry: Mapping[str, Any]) -> Sampler:
    """The sampler of a cell's `sampler`."""
    return _sampler(as_text(entry))


@lru_cache(maxsize=256)
def _sampler(entry: str) -> Sampler:
    options = json.loads(entry)
    return make_sampler(options.pop("name"), **options)


def columns_of(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Cells by columns: sampler, sampler.multistep, degradation.std, sigma_y, ... None where a cell
    has no such option."""
    found: dict[str, list[Any]] = {}
    for axis in cells[0] if cells else ():
        values = [cell[axis] for cell in cells]
        if axis not in TABLES:
            found[axis] = [" ".join(one) if isinstance(one, list) else one for one in values]
            continue
        once = {id(value): value for value in values}  # many cells share one
        once = {key: _columns_of_one(axis, value) for key, value in once.items()}
        columns = [once[id(value)] for value in values]
        for name in dict.fromkeys(chain(*once.values())):
            found[name] = [own.get(name) for own in columns]
    return found


def _columns_of_one(axis: str, value: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        f"{axis}.{name}": option if isinstance(option, PLAIN) else as_text(option)
        for name, option in value.items()
        if name != "name"
    }
    return {axis: value["name"]} | options


def mapping(place: str, given: Any) -> dict[str, Any]:
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


def whole_number(place: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{place} = {value!r}: must be a whole number >= {least}")
    return value


def as_text(value: Any) -> str:
    """JSON, the same for equal values."""
    kind = type(value)
    if kind is Named:
        return value.text
    return _text_of_plain(value) if kind in KEPT else ENCODER.encode(value)


@lru_cache(maxsize=4096, typed=True)
def _text_of_plain(value: Any) -> str:
    return ENCODER.encode(value)
