"""The priors of a sweep: formulas, image folders, stored ones; of one plane."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, shown
from ..images import built_in_photographs, stream_folder, tiles
from ..prior import Prior, from_images, matern, power_law, resized
from ..prior_file import load_prior


def images(
    shape: tuple[int, int], folder: str | None = None, window: Literal["none", "hann"] = "none"
) -> Prior:
    """Of the tiles of a folder's images, in grey; by default of the built-in photographs.

    Raises InputError if there is no folder, or no image is as large as a tile.
    """
    (size, _) = shape
    found: Any = (
        built_in_photographs("luminance").items()
        if folder is None
        else stream_folder(folder, "luminance")
    )

    planes = (tiles(image, size)[:, 0] for _, image in found)
    first = next(filter(len, planes), None)
    if first is None:
        raise InputError(f"size = {size}: no image is that large")
    return from_images(chain([first], planes), window=window)


def file(shape: tuple[int, int], path: str) -> Prior:
    """A prior that another command stored, `prior.npz`, at this size.

    Raises InputError if it is none, or of several planes.
    """
    prior = load_prior(path)
    if prior.axes is not None:
        raise InputError(f"prior {shown(path)}: is of colour; one plane is needed")
    return resized(prior, shape)


PRIORS: dict[str, Callable[..., Prior]] = {
    "power_law": power_law,
    "matern": matern,
    "images": images,
    "file": file,
}


def check_prior(options: dict[str, Any]) -> None:
    """InputError if a prior names a folder or file that is not there."""
    for option, there in (("folder", Path.is_dir), ("path", Path.is_file)):
        if options.get(option) is not None and not there(Path(options[option])):
            raise InputError(f"{option} = {options[option]!r}: is not there")
