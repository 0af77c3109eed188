"""What the numbers of a prior have to be: variances of a real stationary field."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .algebra import is_concrete, is_real
from .degradations.circular import mirrored
from .errors import InputError
from .images import PixelRange, check_pixel_range

# Of the largest value: what single precision may do to a spectrum. Its transforms of prime sizes
# are the least exact, 3e-6 for 2039; a spectrum in another order than FFT's is farther off.
UNEVEN = 1e-5


def checked_prior(
    spectrum: Any, mean: Any, pixel_range: PixelRange, axes: Any
) -> tuple[Any, Any, Any]:
    """Spectrum, mean and axes as arrays, NumPy's unless JAX traces them.

    Raises InputError unless they are a prior's (see `Prior`); of what is traced only shapes are
    looked at.
    """
    spectrum, mean = _array("spectrum", spectrum), _array("mean", mean)
    needed, allowed = ("[H, W] or [n]", (1, 2)) if axes is None else ("[C, H, W]", (3,))
    if spectrum.ndim not in allowed or spectrum.size == 0:
        colour = "; of several planes with axes" if axes is None and spectrum.ndim == 3 else ""
        raise InputError(f"spectrum of shape {spectrum.shape}; {needed} is needed{colour}")
    if mean.shape != spectrum.shape:
        raise InputError(f"mean of shape {mean.shape}, spectrum {spectrum.shape}")
    check_pixel_range(pixel_range)
    if axes is not None:
        axes = _array("axes", axes)
        if axes.shape != 2 * spectrum.shape[:1] or not _orthonormal(axes):
            raise InputError(f"axes of shape {axes.shape}; an orthonormal [C, C] is needed")
    if is_concrete(spectrum):
        _check_variances(spectrum, spectrum.shape if axes is None else spectrum.shape[1:])
    return spectrum, mean, axes


def _array(name: str, values: Any) -> Any:
    try:
        array = np.asarray(values) if is_concrete(values) else jnp.asarray(values)
    except ValueError as error:  # lists of unequal length
        raise InputError(f"{name}: must be an array of numbers ({error})") from error
    if not is_real(array.dtype) or (
        isinstance(array, np.ndarray) and not np.all(np.isfinite(array))
    ):
        raise InputError(f"{name} must be finite numbers")
    return array


def _orthonormal(axes: np.ndarray | jax.Array) -> bool:
    return not is_concrete(axes) or np.allclose(axes.T @ axes, np.eye(len(axes)), atol=1e-6)


def _check_variances(spectrum: np.ndarray, shape: tuple[int, ...]) -> None:
    if spectrum.min() < 0:
        raise InputError(f"spectrum from {spectrum.min():g} to {spectrum.max():g}: must be >= 0")
    uneven = max(np.abs(x - mirrored(x)).max() for x in spectrum.reshape(-1, *shape))
    if uneven > UNEVEN * spectrum.max():
        raise InputError(
            f"spectrum: differs by {uneven:g} at f and -f, where a real field has the same "
            "variance (FFT order: frequency 0 first)"
        )
