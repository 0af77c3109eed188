"""Grids of noise levels by name, and the time steps at which a network knows them."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .errors import InputError, check_whole
from .noise import (
    TRAIN_STEPS,
    NoiseLevel,
    at_timesteps,
    nearest_timesteps,
    num_steps_of,
    rectified_flow,
    ve_karras,
    vp_cosine,
    vp_linear,
    vp_timesteps,
)
from .signatures import as_words, changed_options, checked_options, options_of

GRIDS: dict[str, Callable[..., NoiseLevel]] = {
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    "ve_karras": ve_karras,
    "rectified_flow": rectified_flow,
}


class NoiseGrid(NamedTuple):
    """The noise levels of a run, and where a network finds them: what `noise_grid` returns."""

    levels: NoiseLevel  # leaves [S + 1]
    timesteps: tuple[int, ...] | None  # of the network's training, [S]; None where it has none
    name: str  # in GRIDS
    options: dict[str, Any]
    label: str  # for people: the name, and the options that are not the defaults


def noise_grid(name: str, num_steps: int, /, **options: Any) -> NoiseGrid:
    """The grid that is called so: "vp_linear", "vp_cosine", "ve_karras" or "rectified_flow".

    options  those of the function of this name; as `checked_options` takes them from files
    Raises InputError for an unknown name or option, and as that function does.

    >>> sp.noise_grid("vp_linear", 3, spacing="trailing").timesteps
    (999, 666, 332)
    """
    checked = checked_options("grid", GRIDS, name, options, own=("num_steps",))
    levels, timesteps = GRIDS[name](num_steps, **checked), None
    if "spacing" in options_of(GRIDS[name]):
        chosen = {key: checked[key] for key in ("spacing", "train_steps") if key in checked}
        timesteps = tuple(vp_timesteps(num_steps, **chosen).tolist())
    label = ", ".join([name, *as_words(changed_options(GRIDS[name], checked))])
    return NoiseGrid(levels, timesteps, name, checked, label)


def timestep_grid(
    timesteps: Sequence[int], name: str = "vp_linear", /, **options: Any
) -> NoiseGrid:
    """The grid that visits these time steps of a network's training, and then the clean end.

    name, options  of the grid that it was trained on, as `noise_grid` takes them, but `spacing`
    Learn weights on its levels (`Freedom(levels=False)`), and give it to `Schedule.of`. Raises
    InputError for a grid without time steps, and unless these are whole numbers of it, descending.

    >>> sp.timestep_grid((900, 500, 100)).timesteps
    (900, 500, 100)
    """
    checked = checked_options("grid", GRIDS, name, options, own=("num_steps", "spacing"))
    if "spacing" not in options_of(GRIDS[name]):
        raise InputError(f"grid = {name!r}: has no time steps; allowed are vp_linear, vp_cosine")
    trained = training_levels(name, **checked)
    chosen = checked_timesteps(timesteps)
    if chosen[0] >= num_steps_of(trained):
        raise InputError(
            f"timesteps: {chosen[0]} is the largest; of {num_steps_of(trained)} the last is "
            f"{num_steps_of(trained) - 1}"
        )
    changed = as_words(changed_options(GRIDS[name], checked))
    label = ", ".join([name, *changed, "own time steps"])
    return NoiseGrid(at_timesteps(chosen, trained), chosen, name, checked, label)


def checked_timesteps(timesteps: Iterable[Any]) -> tuple[int, ...]:
    """As whole numbers; InputError unless they are some, >= 0 and descending."""
    chosen = tuple(check_whole("timesteps", one, 0) for one in timesteps)
    if not chosen or any(b >= a for a, b in pairwise(chosen)):
        raise InputError(f"timesteps: {len(chosen)} were given; they must descend, noisiest first")
    return chosen


def rounded(grid: NoiseGrid, learned: NoiseLevel) -> NoiseGrid:
    """The grid with learned levels, [S + 1]: the nearest that the network knows, if it has time
    steps."""
    grid = grid._replace(levels=learned, label=f"{grid.label}, learned")
    if grid.timesteps is None:
        return grid
    trained = training_levels(grid.name, **grid.options)
    timesteps = nearest_timesteps(learned, trained)
    return grid._replace(
        levels=at_timesteps(timesteps, trained), timesteps=tuple(timesteps.tolist())
    )


def training_levels(name: str, /, **options: Any) -> NoiseLevel:
    """All levels on which a network of a grid with time steps was trained, noisiest first."""
    train_steps = options.get("train_steps", TRAIN_STEPS)
    return noise_grid(name, train_steps, **options | {"spacing": "uniform"}).levels
