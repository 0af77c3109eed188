"""Schedules on disk: JSON that says all that is needed to use the numbers somewhere else.

Version 2 names the axes of each weight, {"axes": ["step", "band"], "weights": [[...], ...]}; this
package knows weights by step and by step and band, and refuses other axes (those of planes are to
be called "plane"). Version 1, which is read too, had a plain list by step in its place.

A file may come from anybody: whatever it holds, it is read in bounded time and memory, and what is
wrong with it is one line that names the field. Limits beside those of `plain_json`: LARGEST_STEPS,
LARGEST_SHAPE, LARGEST_PLANES, and sizes from SMALLEST to LARGEST for sigma_y and pixel values.
"""

import json
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import InputError, encodable, shown
from .files import whole_file
from .noise import NoiseLevel
from .plain_json import brief, check_size, plain, read_json
from .samplers.base import check_guidance
from .schedule import AXES, FORMAT, FORMAT_VERSION, Schedule
from .schedule_checks import (
    check_bands,
    check_degradation,
    check_grid,
    check_sampler,
    check_sizes,
    check_timesteps,
)

KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def save_schedule(
    path: str | os.PathLike[str], schedule: Schedule, *, overwrite: bool = False
) -> None:
    """Write a schedule as JSON, whole or not at all.

    Raises InputError if `load_schedule` would not take it back, if the file exists and `overwrite`
    is not set, or if the system refuses to write.

    >>> sp.save_schedule("a schedule.json", schedule)
    """
    stored = plain(schedule.as_json())
    parsed = _parse(stored)
    _check_schedule(parsed)
    sampler = parsed.sampler()
    stored["sampler"] |= {"update": sampler.summary, "reference": sampler.reference}
    text = json.dumps(stored, indent=1, allow_nan=False) + "\n"  # ASCII: other letters as \u00fc
    check_size(text.encode("ascii"))
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule. InputError names the file and the field that is missing or wrong.

    >>> sp.save_schedule("schedule.json", schedule)
    >>> sp.load_schedule("schedule.json") == schedule
    True
    """
    try:
        schedule = _parse(read_json(path))
        _check_schedule(schedule)
    except InputError as error:
        message = str(error)
        message = message if len(message) < 400 else message[:400] + "..."
        raise InputError(encodable(f"schedule {shown(path)}: {message}")) from error
    return schedule


# ---------------------------------------------------------------------------------------- reading


def _parse(stored: Any) -> Schedule:
    """The schedule of a JSON file's plain values. InputError for a wrong type."""
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise InputError(f"format: must be {FORMAT!r}")
    found = _get(stored, "format_version", int)
    if not 1 <= found <= FORMAT_VERSION:
        newer = "; a newer spectralpost wrote it" if found > FORMAT_VERSION else ""
        raise InputError(
            f"format_version = {found}: this version reads 1 to {FORMAT_VERSION}{newer}"
        )
    guidance = {}
    for name in _get(stored, "guidance", dict):
        if not name.isidentifier():
            raise InputError(f"guidance: {name[:40]!r} is not the name of a weight")
        guidance[name] = _weights(stored, f"guidance.{name}", found)
    bands = None if found == 1 else _get(stored, "bands", (dict, type(None)))
    timesteps = _get(stored, "levels.timestep", (list, type(None)))
    if timesteps is not None and any(type(step) is not int for step in timesteps):
        raise InputError("levels.timestep: must be whole numbers")
    shape = _get(stored, "problem.shape", list)
    if not 1 <= len(shape) <= 3 or any(type(n) is not int or n < 1 for n in shape):
        raise InputError(f"problem.shape = {brief(shape)}: must be 1 to 3 whole numbers >= 1")
    pixel_range = _get(stored, "problem.pixel_range", list)
    if len(pixel_range) != 2:
        raise InputError("problem.pixel_range: must be two numbers")
    low, high = _numbers("problem.pixel_range", pixel_range)
    loss = _get(stored, "objective.value", (int, float, type(None)))
    baselines = _get(stored, "objective.baselines", dict)
    options = dict(_get(stored, "sampler.options", dict))
    if stored["sampler"].get("name") == "diffpir":
        options.pop("official_units", None)  # it had this once, for another default alone
    for name, value in baselines.items():
        if type(value) not in (int, float):
            raise InputError(f"objective.baselines.{brief(name)} = {brief(value)}: not a number")
    return Schedule(
        sampler_name=_get(stored, "sampler.name", str),
        sampler_options=options,
        levels=NoiseLevel(_array(stored, "levels.alpha"), _array(stored, "levels.sigma")),
        timesteps=None if timesteps is None else tuple(timesteps),
        grid=_get(stored, "levels.grid", str),
        guidance=guidance,
        band_knots=None if bands is None else _array(stored, "bands.knots"),
        degradation_name=_get(stored, "problem.degradation", str),
        degradation_options=_get(stored, "problem.degradation_options", dict),
        shape=tuple(shape),
        channels=_get(stored, "problem.channels", int),
        sigma_y=float(_get(stored, "problem.sigma_y", (int, float))),
        pixel_range=(low, high),
        prior_source=_get(stored, "prior.source", str),
        prior_hash=_get(stored, "prior.hash", str),
        objective=_get(stored, "objective.name", str),
        loss=None if loss is None else float(loss),
        baselines={name: float(value) for name, value in baselines.items()},
        provenance=_get(stored, "provenance", dict),
    )


def _weights(stored: dict, path: str, format_version: int) -> Array:
    """[S], or by band [S, bands]."""
    if format_version == 1:
        return _array(stored, path)
    axes = _get(stored, f"{path}.axes", list)
    if axes not in AXES.values():
        known = " or ".join(map(json.dumps, AXES.values()))
        raise InputError(f"{path}.axes = {brief(axes)}: this version reads {known}")
    return _array(stored, f"{path}.weights", len(axes))


def _array(stored: dict, path: str, axes: int = 1) -> Array:
    values = _get(stored, path, list)
    if axes == 1:
        numbers: Any = _numbers(path, values)
    else:
        if not values or any(type(row) is not list or len(row) != len(values[0]) for row in values):
            raise InputError(f"{path}: must be lists of one length, one per step")
        numbers = [_numbers(path, row) for row in values]
    with np.errstate(over="ignore"):
        array = jnp.asarray(np.asarray(numbers, float))
    if not np.all(np.isfinite(array)):
        raise InputError(f"{path}: too large for {array.dtype}, enable jax_enable_x64")
    return array


def _numbers(path: str, values: list) -> list[float]:
    for value in values:
        if type(value) not in (int, float):
            raise InputError(f"{path}: {brief(value)} is not a finite number")
    return [float(value) for value in values]


def _get(stored: dict, path: str, kind: type | tuple[type, ...]) -> Any:
    value: Any = stored
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise InputError(f"{path}: is missing")
        value = value[part]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise InputError(
            f"{path} = {brief(value)}: must be {' or '.join(KINDS[one] for one in kinds)}"
        )
    return value


def _check_schedule(schedule: Schedule) -> None:
    """InputError, naming the field, unless all parts of a schedule fit together."""
    levels, guidance, knots = schedule.levels, schedule.guidance, schedule.band_knots
    check_grid(levels)
    sampler = check_sampler(schedule.sampler_name, schedule.sampler_options)
    check_bands(guidance, knots)
    check_guidance(sampler, levels, guidance, None if knots is None else knots.size)
    if schedule.timesteps is not None:
        check_timesteps(schedule.timesteps, levels, schedule.grid)
    check_sizes(schedule.shape, schedule.channels, schedule.sigma_y, schedule.pixel_range)
    check_degradation(schedule.degradation_name, schedule.degradation_options, schedule.shape)
