"""What a linear degradation y = H x_0 + sigma_y n is: its singular values.

H = U diag(response) V^T with real orthogonal U, V and response >= 0. *Mode coordinates* are V^T x
for signals and U^T y for measurements; in them a degradation is a multiplication,

    U^T y = response * (V^T x_0) + sigma_y n.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True, eq=False)
class Degradation:
    """H by its singular value decomposition, as functions that map the last axes of an array.

    Pixels are [..., *shape], modes [..., F]. Leading axes are independent planes.
    """

    name: str
    options: dict[str, Any]  # what `name` was called with, for schedule files
    shape: tuple[int, ...]
    response: Array  # singular values >= 0, [F]
    to_modes: Callable[[Array], Array] = field(repr=False)  # V^T x
    from_modes: Callable[[Array], Array] = field(repr=False)  # V x
    to_measurement_modes: Callable[[Array], Array] = field(repr=False)  # U^T y
    from_measurement_modes: Callable[[Array], Array] = field(repr=False)  # U y

    def apply(self, x: Array) -> Array:
        """H x."""
        return self.from_measurement_modes(scale(self.response, self.to_modes(x)))

    def adjoint(self, y: Array) -> Array:
        """H^T y."""
        return self.from_modes(scale(self.response, self.to_measurement_modes(y)))


def scale(factor: Array, x: Array) -> Array:
    return jnp.broadcast_to(factor.astype(x.dtype), x.shape) * x
