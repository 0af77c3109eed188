"""Schedules on disk: JSON that says all that is needed to use the numbers somewhere else."""

import json
import math
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .degradations import Degradation, make_degradation
from .errors import InputError
from .files import whole_file
from .images import PIXEL_RANGE, PixelRange, check_pixel_range
from .noise import NoiseLevel, check_levels
from .samplers import make_sampler
from .samplers.base import Guidance, Sampler
from .transfer import check_guidance, check_weights

FORMAT = "spectralpost schedule"
FORMAT_VERSION = 1

CONVENTION = (
    "x_t = alpha_t x_0 + sigma_t eps; step i goes from level i to level i + 1 with guidance[i]; "
    "weights multiply the terms of sampler.update in squared-residual form, for pixels in "
    "problem.pixel_range"
)


@dataclass(frozen=True)
class Schedule:
    """A guidance schedule with the problem that it was made for.

    Step i goes from level i to level i + 1. `timesteps` [S] index the network's training grid at
    the levels where it is called, None where the grid has none (VE, rectified flow).
    """

    sampler_name: str
    levels: NoiseLevel  # leaves [S + 1]
    guidance: Guidance  # name -> [S]
    degradation_name: str
    shape: tuple[int, ...]  # height, width of a plane
    sigma_y: float  # in units of pixel_range
    channels: int = 1
    pixel_range: PixelRange = PIXEL_RANGE
    sampler_options: dict[str, Any] = field(default_factory=dict)
    degradation_options: dict[str, Any] = field(default_factory=dict)
    timesteps: tuple[int, ...] | None = None
    grid: str = ""  # how the levels were made, in words
    prior_source: str = ""
    prior_hash: str = ""
    objective: str = ""
    loss: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def sampler(self) -> Sampler:
        """The sampler with the options that the schedule was made for."""
        return make_sampler(self.sampler_name, **self.sampler_options)

    def degradation(self, shape: tuple[int, ...] | None = None) -> Degradation:
        """The degradation, on images of another size if `shape` is given."""
        return make_degradation(
            self.degradation_name, shape or self.shape, **self.degradation_options
        )


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Who made a schedule: package versions, seed and date."""
    return {
        "spectralpost": version("spectralpost"),
        "jax": jax.__version__,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save_schedule(
    path: str | os.PathLike[str], schedule: Schedule, *, overwrite: bool = False
) -> None:
    """Write a schedule as JSON, whole or not at all.

    Raises InputError if the schedule is not consistent, or if the file exists and `overwrite` is
    not set.
    """
    _check_schedule(schedule)
    sampler = schedule.sampler()
    stored = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "convention": CONVENTION,
        "sampler": {
            "name": schedule.sampler_name,
            "options": schedule.sampler_options,
            "update": sampler.summary,
            "reference": sampler.reference,
        },
        "levels": {
            "grid": schedule.grid,
            "timestep": None if schedule.timesteps is None else list(schedule.timesteps),
            "alpha": np.asarray(schedule.levels.alpha).tolist(),
            "sigma": np.asarray(schedule.levels.sigma).tolist(),
        },
        "guidance": {name: np.asarray(w).tolist() for name, w in schedule.guidance.items()},
        "problem": {
            "degradation": schedule.degradation_name,
            "degradation_options": schedule.degradation_options,
            "shape": list(schedule.shape),
            "channels": schedule.channels,
            "sigma_y": float(schedule.sigma_y),
            "pixel_range": list(schedule.pixel_range),
        },
        "prior": {"source": schedule.prior_source, "hash": schedule.prior_hash},
        "objective": {
            "name": schedule.objective,
            "value": schedule.loss,
            "baselines": schedule.baselines,
        },
        "provenance": schedule.provenance,
    }
    # NumPy's numbers and arrays become plain ones.
    text = (
        json.dumps(stored, indent=1, allow_nan=False, default=lambda value: value.tolist()) + "\n"
    )
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text)


def load_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule. InputError names the file and the field that is missing or wrong."""
    try:
        stored = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"schedule {str(path)!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"schedule {str(path)!r}: not a JSON file ({error})") from error
    try:
        return _parse(stored)
    except InputError as error:
        raise InputError(f"schedule {str(path)!r}: {error}") from error


# ------------------------------------------------------------------------------------- validation


def _parse(stored: Any) -> Schedule:
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise InputError(f"format: must be {FORMAT!r}")
    found = _get(stored, "format_version", int)
    if found != FORMAT_VERSION:
        newer = "; a newer spectralpost wrote it" if found > FORMAT_VERSION else ""
        raise InputError(f"format_version = {found}: this version reads {FORMAT_VERSION}{newer}")
    levels = NoiseLevel(
        jnp.asarray(_numbers(stored, "levels.alpha")), jnp.asarray(_numbers(stored, "levels.sigma"))
    )
    guidance = {
        str(name): jnp.asarray(_numbers(stored, f"guidance.{name}"))
        for name in _get(stored, "guidance", dict)
    }
    low_high = _numbers(stored, "problem.pixel_range")
    if len(low_high) != 2:
        raise InputError("problem.pixel_range: must be two numbers")
    timesteps = _get(stored, "levels.timestep", (list, type(None)))
    if timesteps is not None and any(type(step) is not int for step in timesteps):
        raise InputError("levels.timestep: must be whole numbers")
    shape = _get(stored, "problem.shape", list)
    if not shape or any(type(n) is not int or n < 1 for n in shape):
        raise InputError(f"problem.shape = {shape}: must be whole numbers >= 1")
    loss = _get(stored, "objective.value", (int, float, type(None)))
    schedule = Schedule(
        sampler_name=_get(stored, "sampler.name", str),
        sampler_options=_get(stored, "sampler.options", dict),
        levels=levels,
        timesteps=None if timesteps is None else tuple(timesteps),
        grid=_get(stored, "levels.grid", str),
        guidance=guidance,
        degradation_name=_get(stored, "problem.degradation", str),
        degradation_options=_get(stored, "problem.degradation_options", dict),
        shape=tuple(shape),
        channels=_get(stored, "problem.channels", int),
        sigma_y=_get(stored, "problem.sigma_y", (int, float)),
        pixel_range=(low_high[0], low_high[1]),
        prior_source=_get(stored, "prior.source", str),
        prior_hash=_get(stored, "prior.hash", str),
        objective=_get(stored, "objective.name", str),
        loss=loss,
        baselines=_get(stored, "objective.baselines", dict),
        provenance=_get(stored, "provenance", dict),
    )
    _check_schedule(schedule)
    return schedule


def _check_schedule(schedule: Schedule) -> None:
    """InputError, naming the field, unless all parts of a schedule fit together."""
    with _field("levels"):
        check_levels(schedule.levels)
    with _field("sampler"):
        sampler = schedule.sampler()
    with _field("guidance"):
        check_guidance(sampler, schedule.levels, schedule.guidance)
    check_weights(sampler, schedule.guidance)
    if schedule.timesteps is not None and len(schedule.timesteps) != schedule.levels.alpha.size - 1:
        raise InputError(
            f"levels.timestep: {len(schedule.timesteps)} values, "
            f"{schedule.levels.alpha.size - 1} are needed, one per step"
        )
    with _field("problem"):
        schedule.degradation()
        check_pixel_range(schedule.pixel_range)
    if not (_is_finite(schedule.sigma_y) and schedule.sigma_y > 0):
        raise InputError(f"problem.sigma_y = {schedule.sigma_y}: must be a finite number > 0")
    losses = {"value": schedule.loss} if schedule.loss is not None else {}
    losses |= {f"baselines.{name}": loss for name, loss in schedule.baselines.items()}
    for name, loss in losses.items():
        if not _is_finite(loss):
            raise InputError(f"objective.{name} = {loss}: must be a finite number")
    if schedule.channels < 1:
        raise InputError(f"problem.channels = {schedule.channels}: must be >= 1")


class _field:
    """Prefixes the message of an InputError with the field that it is about."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InputError):
            message = str(error).removeprefix(f"{self.name}: ")
            raise InputError(f"{self.name}: {message}") from error


def _get(stored: dict, path: str, kind: type | tuple[type, ...]) -> Any:
    value: Any = stored
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise InputError(f"{path}: is missing")
        value = value[part]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise InputError(f"{path} = {json.dumps(value)[:40]}: must be {names}")
    return value


def _numbers(stored: dict, path: str) -> list[float]:
    values = _get(stored, path, list)
    for value in values:
        if type(value) not in (int, float) or not _is_finite(value):
            raise InputError(f"{path}: {json.dumps(value)[:40]} is not a finite number")
    return [float(value) for value in values]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # an integer beyond all floats; no number at all
        return False
