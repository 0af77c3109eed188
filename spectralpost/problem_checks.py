"""Whether arrays are those of a problem."""

import numpy as np
from jax import Array

from .algebra import is_concrete
from .errors import InputError

# What rounding to 8 bits adds to pixels in [-1, 1]: 2 / 255 / sqrt(12).
ROUNDING = 0.0023


def orthonormal(basis: np.ndarray) -> bool:
    """Whether the columns of each block [B, k, k] are, or unit vectors of reflections [B, k], as
    far as rounding lets them."""
    k = basis.shape[-1]
    if basis.ndim == 2:
        gap = np.abs(np.sum(basis**2, axis=1) - 1)
    else:
        gap = np.abs(basis.mT @ basis - np.eye(k, dtype=basis.dtype))
    return bool(gap.max() <= 100 * k * np.finfo(basis.dtype).eps)


def check_array(
    name: str,
    value: Array,
    shape: tuple[int, ...],
    *,
    minimum: float | None = None,
    above: float | None = None,
) -> None:
    if value.shape != shape:
        raise InputError(f"{name} of shape {value.shape}: {shape} is needed")
    if not is_concrete(value):
        return
    numbers = np.asarray(value)
    if not np.all(np.isfinite(numbers)):
        words = "has NaN or infinite values" if shape else f"is {numbers:g}, must be finite"
        raise InputError(f"{name}: {words}")
    if minimum is not None and numbers.min() < minimum:
        raise InputError(f"{name} = {numbers.min():g}: must be >= {minimum:g}")
    if above is not None and numbers.min() <= above:
        raise InputError(f"{name} = {numbers.min():g}: must be > {above:g}")


def check_sigma_y(value: Array | float, *, zero_allowed: bool = False) -> None:
    """InputError unless sigma_y, a number, is one that a measurement can have."""
    if not is_concrete(value):
        return
    number = float(value)  # JAX takes the smallest numbers for 0
    if 0 < number < np.inf or (zero_allowed and number == 0):
        return
    words = f"must be {'>= 0' if zero_allowed else '> 0'} and finite"
    if number == 0:
        words += "; data without noise still have the rounding of 8 bits, "
        words += f"{ROUNDING:g} in [-1, 1], {ROUNDING / 2:.2g} in [0, 1]"
    raise InputError(f"sigma_y = {number:g}: {words}")


def check_has_square(name: str, value: Array) -> None:
    """InputError for a number whose square is lost in its dtype, or nearly."""
    least = 1e4 * np.sqrt(np.finfo(value.dtype).tiny)
    if is_concrete(value) and value < least:
        raise InputError(f"{name} = {value:g}: must be >= {least:.0e} in {value.dtype}")
