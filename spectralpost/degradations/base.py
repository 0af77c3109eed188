"""What a linear degradation y = H x_0 + sigma_y n is: its singular values.

H = U diag(response) V^T with real orthogonal U, V and response >= 0. *Mode coordinates* are V^T x
for signals and U^T y for measurements; in them a degradation is a multiplication,

    U^T y = response * (V^T x_0) + sigma_y n.

A circular convolution shares its modes with a stationary prior: they are independent, [F]. Where H
mixes some of the prior's eigenvectors with each other (decimation: all frequencies that become the
same one) modes are blocks of k, [B, k], and `eigenvectors` says which and how.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import as_floating
from ..errors import InputError


class Orthogonal(NamedTuple):
    """A change of coordinates on the last axes of an array, pixels <-> modes, that keeps lengths.

    Where there are fewer measurements than pixels, the modes without any are 0.
    """

    to_modes: Callable[[Array], Array]  # [..., *shape] -> [..., F] | [..., B, k]
    from_modes: Callable[[Array], Array]  # [..., F] | [..., B, k] -> [..., *shape]


class Eigenvectors(NamedTuple):
    """Those of a stationary prior in the blocks of a degradation's modes: its covariance there is
    basis diag(spectrum[frequency]) basis^T, or with the `reflection` of basis in its place."""

    frequency: np.ndarray  # [B, k], places in the flattened FFT grid, of all planes one by one
    basis: np.ndarray  # [B, k, k] | [B, k]


@dataclass(frozen=True, eq=False)
class Degradation:
    """H by its singular value decomposition. Made by the functions of `DEGRADATIONS`.

    Its functions map the last axes of an array: pixels are [..., *shape], measurements
    [..., *measured], modes [..., F] or [..., B, k]; leading axes are independent planes. Where
    planes are taken together pixels are [..., planes, *shape]. They follow the floating dtype of
    what they are given; integers become JAX's default float. They raise InputError for another
    size.

    Equal, and of equal hash, are degradations that a function made of one name, shape and options:
    a jitted function that takes one as a static argument is not compiled again for its like. One
    that was put together or changed by hand equals nothing but itself, as its functions cannot be
    compared.
    """

    name: str
    options: dict[str, Any]  # what `name` was called with, for schedule files
    shape: tuple[int, ...]  # of a plane
    response: np.ndarray  # singular values >= 0, [F] | [B, k], in double precision
    signals: Orthogonal = field(repr=False)  # V
    measurements: Orthogonal = field(repr=False)  # U
    measured: tuple[int, ...] = ()  # the shape of y; () stands for `shape`
    # Of blocks, made when a problem asks for them; raises InputError where they are too large.
    make_eigenvectors: Callable[[], Eigenvectors] | None = field(default=None, repr=False)
    planes: int | None = None  # of an image, taken together; None: each alone
    # Not an argument, so that `dataclasses.replace` drops it: see `made`.
    is_made: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.measured:
            object.__setattr__(self, "measured", self.shape)

    @property
    def pixels(self) -> tuple[int, ...]:
        """The shape of x."""
        return self.shape if self.planes is None else (self.planes, *self.shape)

    @property
    def sums_planes(self) -> bool:
        """Whether y is one plane of an image of several."""
        return self.planes is not None and len(self.measured) == len(self.shape)

    @cached_property
    def eigenvectors(self) -> Eigenvectors | None:
        """Of a stationary prior in blocks of modes; None where each mode is one itself."""
        return None if self.make_eigenvectors is None else self.make_eigenvectors()

    def to_modes(self, x: ArrayLike) -> Array:
        """V^T x."""
        return self.signals.to_modes(_sized("image", x, self.pixels))

    def from_modes(self, modes: ArrayLike) -> Array:
        """V modes."""
        return self.signals.from_modes(_sized("modes", modes, self.response.shape))

    def to_measurement_modes(self, y: ArrayLike) -> Array:
        """U^T y."""
        return self.measurements.to_modes(_sized("measurement", y, self.measured))

    def from_measurement_modes(self, modes: ArrayLike) -> Array:
        """U modes."""
        return self.measurements.from_modes(_sized("modes", modes, self.response.shape))

    def apply(self, x: ArrayLike) -> Array:
        """H x."""
        return self.from_measurement_modes(scale(self.response, self.to_modes(x)))

    def adjoint(self, y: ArrayLike) -> Array:
        """H^T y."""
        return self.from_modes(scale(self.response, self.to_measurement_modes(y)))

    @cached_property
    def digest(self) -> str:
        """Of name, shape and options: a kernel in the options may be large, so it is read once."""
        parts = [self.name, self.shape, self.options]
        text = json.dumps(parts, sort_keys=True, default=lambda value: np.asarray(value).tolist())
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Degradation):
            return NotImplemented
        return self is other or (self.is_made and other.is_made and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest) if self.is_made else id(self)


def made(*fields: Any, **others: Any) -> Degradation:
    """`Degradation(...)` of which name, shape and options say all. Its arrays are its own and
    read-only, so that this stays true."""
    degradation = Degradation(*fields, **others)
    own = {name: _own(value) for name, value in degradation.options.items()}
    fixed = {"response": _own(degradation.response), "options": own, "is_made": True}
    for name, value in fixed.items():
        object.__setattr__(degradation, name, value)
    return degradation


def _own(value: Any) -> Any:
    value = copy.deepcopy(value)
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


@jax.jit
def scale(factor: Array | np.ndarray, x: Array) -> Array:
    return jnp.broadcast_to(factor.astype(x.dtype), x.shape) * x


def numbers(name: str, value: ArrayLike) -> np.ndarray:
    """An array in double precision; InputError unless all are finite numbers, and one is not 0."""
    try:
        array = np.asarray(value).astype(float, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: must be an array of numbers ({error})") from error
    if not np.all(np.isfinite(array)) or not np.any(array):
        raise InputError(f"{name}: all values must be finite, and one at least not 0")
    return array


def mask_array(mask: ArrayLike, shape: tuple[int, ...], of_planes: bool = False) -> np.ndarray:
    """A mask of a plane in double precision; InputError unless it is [*shape], of 0 and 1.

    of_planes  or one of each plane, [C, *shape]
    """
    try:
        known = np.asarray(mask)
        if known.dtype.kind == "c":
            raise TypeError("its numbers are complex")
        known = known.astype(float)
    except (TypeError, ValueError) as error:
        raise InputError(f"mask: an array of 0 and 1 is needed ({error})") from error
    if known.shape != shape and not (of_planes and known.shape[1:] == shape and len(known)):
        others = ", or one such mask for each plane" if of_planes else ""
        raise InputError(f"mask of shape {known.shape}: {shape} is needed{others}")
    if not np.all((known == 0) | (known == 1)):
        raise InputError("mask: all values must be 0 (unknown) or 1 (known)")
    return known


def _sized(name: str, value: ArrayLike, last: tuple[int, ...]) -> Array:
    """Floating-point numbers whose last axes have these sizes, or InputError."""
    array = as_floating(name, value)
    if array.ndim < len(last) or array.shape[array.ndim - len(last) :] != last:
        raise InputError(f"{name} of shape {array.shape}: the last axes have to be {last}")
    return array
