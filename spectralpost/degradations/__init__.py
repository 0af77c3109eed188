"""Degradations, one kind a file. A new one is a function and a line in this table."""

import copyreg
from collections.abc import Callable
from typing import Any

from ..signatures import checked_options
from .base import Degradation
from .circular import from_kernel, gaussian_blur, identity, motion_blur, uniform_blur
from .dense import from_matrix, inpaint
from .downsample import downsample
from .fourier import mri
from .mosaic import mosaic
from .recognised import from_deepinv, from_function, to_deepinv

DEGRADATIONS: dict[str, Callable[..., Degradation]] = {
    "identity": identity,
    "gaussian_blur": gaussian_blur,
    "uniform_blur": uniform_blur,
    "motion_blur": motion_blur,
    "from_kernel": from_kernel,
    "downsample": downsample,
    "inpaint": inpaint,
    "mosaic": mosaic,
    "mri": mri,
    "from_matrix": from_matrix,
}


def make_degradation(name: str, shape: tuple[int, ...], /, **options: Any) -> Degradation:
    """DEGRADATIONS[name](shape, **options), for options from a file: see `checked_options`."""
    checked = checked_options("degradation", DEGRADATIONS, name, options, own=("shape",))
    return DEGRADATIONS[name](shape=shape, **checked)


def _made_again(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> Degradation:
    return make_degradation(name, shape, **options)


def _recipe(degradation: Degradation) -> Any:
    if not degradation.is_made:
        return object.__reduce_ex__(degradation, 2)
    return _made_again, (degradation.name, degradation.shape, degradation.options)


# Pickled and copied as what it was made from. Here and not in its class, which knows no table.
copyreg.pickle(Degradation, _recipe)
