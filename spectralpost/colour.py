"""Priors of colour images: planes rotated into uncorrelated axes, a spectrum for each.

The planes of photographs are far from independent: nearly all of their variance is common to all
three. Rotated by Q, the eigenvectors of their covariance, they are uncorrelated, and each rotated
plane has a stationary prior of its own. A degradation that treats planes alike commutes with Q, and
noise stays white, so a mode is (axis, frequency): still independent scalars, one weight schedule
for all. Samplers run on planes as they are; only the model's numbers are of axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .degradations import Degradation
from .errors import InputError
from .images import PIXEL_RANGE, PixelRange, check_pixel_range
from .prior import Prior, from_images, resized
from .problem import Problem, image_problem


@dataclass(frozen=True, eq=False)
class ColourPrior:
    """A stationary Gaussian prior of images [C, H, W]."""

    axes: np.ndarray  # [C, C], orthonormal: column a holds the planes' shares of axis a
    planes: tuple[Prior, ...]  # of each axis, the least variance first

    @property
    def pixel_range(self) -> PixelRange:
        """Of the planes of an image. Those of an axis can go beyond."""
        return self.planes[0].pixel_range

    def rotated(self, images: Array) -> Array:
        """Images [..., C, H, W] along the axes."""
        return jnp.einsum("...chw,ca->...ahw", images, self.axes.astype(images.dtype))

    def resized(self, shape: tuple[int, ...]) -> "ColourPrior":
        """`prior.resized` of every axis."""
        return replace(self, planes=tuple(resized(plane, shape) for plane in self.planes))


def from_colour_images(
    images: ArrayLike, *, pixel_range: PixelRange = PIXEL_RANGE, source: str = "images"
) -> ColourPrior:
    """Axes, means and power spectra of images [N, C, H, W] (see `prior.from_images`).

    Axes are the eigenvectors of the covariance of a pixel's planes. Raises InputError for another
    shape, NaN, or pixels outside of `pixel_range`.
    """
    check_pixel_range(pixel_range)
    low, high = map(float, pixel_range)
    planes = np.asarray(images)
    if planes.ndim != 4 or 0 in planes.shape:
        raise InputError(f"images of shape {planes.shape}: [N, planes, H, W] with N >= 1 is needed")
    if not (planes.min() >= low and planes.max() <= high):
        raise InputError(f"images: pixels outside of {low:g} to {high:g}, or NaN")
    pixels = np.moveaxis(planes, 1, 0).reshape(planes.shape[1], -1)
    axes = np.linalg.eigh(np.atleast_2d(np.cov(pixels)))[1]
    rotated = np.einsum("nchw,ca->anhw", planes, axes.astype(planes.dtype))
    reach = float(np.abs(rotated).max())
    wide = (-reach - 1, reach + 1)
    priors = [from_images(axis, pixel_range=wide, source=source) for axis in rotated]
    return ColourPrior(axes, tuple(replace(one, pixel_range=(low, high)) for one in priors))


def colour_problem(prior: ColourPrior, degradation: Degradation, sigma_y: ArrayLike) -> Problem:
    """The problem of restoring colour images: the modes of all axes, [C F].

    For a degradation that treats planes alike. Errors as `image_problem`.
    """
    return joined([image_problem(plane, degradation, sigma_y) for plane in prior.planes])


def joined(problems: Sequence[Problem]) -> Problem:
    """The modes of several problems of one sigma_y as those of one."""

    def join(*leaves: Array) -> Array:
        return jnp.concatenate(leaves) if leaves[0].ndim else leaves[0]

    return jax.tree.map(join, *problems)
