"""Grids of noise levels by name, and the time steps at which a network knows them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .noise import (
    TRAIN_STEPS,
    NoiseLevel,
    at_timesteps,
    nearest_timesteps,
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
