"""What a target is, what it may ask of a schedule, and how numbers become text."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, times
from ..noise import TRAIN_STEPS, NoiseLevel, at_timesteps, num_steps_of, step_pairs, vp_linear
from ..samplers import make_sampler
from ..samplers.steps import fresh_share
from ..schedule import Schedule

Weights = Mapping[str, NDArray[np.float64]]  # name -> [S]

LONGEST_LINE = 99
NETWORK_RANGE = (-1.0, 1.0)  # the pixels of the networks that the targets run


class Export(NamedTuple):
    """A file for somebody else's code, and the lines of that code which use it."""

    content: bytes
    suffix: str  # of the file's name
    usage: tuple[str, ...]  # {file} and {module} stand for the file's name, with and without suffix

    def lines(self, path: str | Path) -> list[str]:
        """The lines that use the file, if it is written to `path`."""
        path = Path(path)
        return [
            line.replace("{file}", path.name).replace("{module}", path.stem) for line in self.usage
        ]


class Target(NamedTuple):
    """One code base."""

    about: str  # what is written, in a line
    # (schedule, its weights) -> Export; InputError for what the code cannot do
    make: Callable[[Schedule, Weights], Export]
    # Samplers whose weights it takes as their official code does: of the form that divides by a
    # norm. `make` is given those weights.
    by_norm: tuple[str, ...] = ()


# ------------------------------------------------------------------------- what a target asks for


def check_sampler(target: str, schedule: Schedule, allowed: Mapping[str, tuple[str, ...]]) -> None:
    """InputError unless the schedule is of a sampler that the target has, without variants that it
    lacks, and has one weight a step.

    allowed  name of a sampler -> the options which the target can do, or which only change defaults
    """
    name = schedule.sampler_name
    if name not in allowed:
        raise InputError(f"target = {target!r}: has no {name!r}; it takes {', '.join(allowed)}")
    plain = dict(make_sampler(name).options)
    for option, value in schedule.sampler().options:
        if value != plain[option] and option not in allowed[name]:
            raise InputError(f"target = {target!r}: cannot do {name} with {option}={value}")
    check_steps_alone(target, schedule)


def check_steps_alone(target: str, schedule: Schedule) -> None:
    """InputError for weights by band."""
    if schedule.band_knots is not None:
        raise InputError(
            f"target = {target!r}: takes one weight a step, not weights by band; npz holds those"
        )


def check_clean_end(target: str, schedule: Schedule) -> None:
    """InputError unless the last level has no noise."""
    last = float(schedule.levels.sigma[-1])
    if last != 0:
        raise InputError(f"target = {target!r}: ends without noise, the schedule at sigma {last:g}")


def check_range(target: str, schedule: Schedule) -> None:
    """InputError unless pixels and sigma_y are in the units of networks."""
    low, high = schedule.pixel_range
    if (low, high) != NETWORK_RANGE:
        raise InputError(
            f"target = {target!r}: its pixels are in [-1, 1], the schedule's in [{low:g}, {high:g}]"
        )


def check_vp(target: str, schedule: Schedule) -> None:
    """InputError unless all levels preserve the variance."""
    total = np.asarray(schedule.levels.alpha, float) ** 2 + np.asarray(schedule.levels.sigma) ** 2
    i = int(np.abs(total - 1).argmax())
    if abs(total[i] - 1) > 1e-5:
        raise InputError(
            f"target = {target!r}: takes levels with alpha^2 + sigma^2 = 1; level {i} has "
            f"{total[i]:g}"
        )


def check_time_steps(target: str, schedule: Schedule) -> tuple[int, ...]:
    """The time steps of the linear grid of 1000 that the target's networks were trained on.

    InputError unless all levels are of them.
    """
    steps = schedule.timesteps
    if steps is None:
        raise InputError(
            f"target = {target!r}: indexes by time step, which the schedule's levels are not"
        )
    trained = vp_linear(TRAIN_STEPS)
    if max(steps) >= TRAIN_STEPS or not np.allclose(
        np.asarray(at_timesteps(steps, trained).alpha, float)[:-1] ** 2,
        np.asarray(schedule.levels.alpha, float)[:-1] ** 2,
        rtol=0,
        atol=1e-6,
    ):
        raise InputError(
            f"target = {target!r}: knows 1000 time steps of linear beta, 1e-4 to 0.02; the "
            "schedule's levels are others"
        )
    return steps


# ------------------------------------------------------------------------------------------- text


def levels_of(schedule: Schedule) -> dict[str, NDArray[np.float64]]:
    """ALPHA and SIGMA, [S + 1] each."""
    return {
        "ALPHA": np.asarray(schedule.levels.alpha, float),
        "SIGMA": np.asarray(schedule.levels.sigma, float),
    }


def steps_of(schedule: Schedule) -> tuple[NoiseLevel, NoiseLevel]:
    """The levels t and s of all steps, in double precision on the host, [S] each."""
    return step_pairs(jax.tree.map(lambda leaf: np.asarray(leaf, float), schedule.levels))


def fresh_shares(schedule: Schedule) -> NDArray[np.float64]:
    """[S] `fresh_share` of each step."""
    return np.asarray(fresh_share(*steps_of(schedule)))


def assignment(name: str, values: Any) -> str:
    """`name = [...]` in lines of at most LONGEST_LINE columns; numbers are read back exactly."""
    if np.ndim(values) == 0:
        return f"{name} = {np.asarray(values).item()!r}"
    written = ", ".join(repr(value) for value in np.asarray(values).tolist())
    short = f"{name} = [{written}]"
    if len(short) <= LONGEST_LINE:
        return short
    lines = textwrap.wrap(f"{written},", LONGEST_LINE - 4)
    return "\n".join([f"{name} = [", *(f"    {line}" for line in lines), "]"])


def module(schedule: Schedule, title: str, parts: Sequence[str], **numbers: object) -> bytes:
    """A Python file: what it is, its numbers, its parts. The schedule's own words are only in
    comments, in ASCII, so that no file can bring code along."""
    options = json.dumps(schedule.degradation_options)
    options = options if len(options) <= LONGEST_LINE else "..."
    low, high = schedule.pixel_range
    steps = num_steps_of(schedule.levels)
    about = [
        f"{schedule.sampler_name}, {steps} steps, {schedule.degradation_name} {options}",
        f"sigma_y = {schedule.sigma_y:g} for pixels in [{low:g}, {high:g}], images of "
        f"{times(schedule.shape)} and {schedule.channels} planes",
    ]
    if schedule.loss is not None:
        objective = schedule.objective or "objective"
        about.append(f"{json.dumps(objective)[1:-1][:60]} = {schedule.loss:.6g}")
    lines = [f'"""{title}\n\nA schedule of spectralpost. Step i goes from level i to level i + 1.']
    lines += ['"""', "", *[f"# {line}" for line in about]]
    lines += [assignment(name, values) for name, values in numbers.items()]
    texts = ["\n".join(lines), *(part.strip("\n") for part in parts)]
    return ("\n\n\n".join(texts) + "\n").encode("ascii")
