"""What `learn` minimises: metrics, their sums, and what is known of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import jax.numpy as jnp
from jax import Array

from .affine import Transfer
from .errors import InputError, as_plain, is_number
from .metrics import (
    kl,
    mse,
    mse_residuals,
    perception,
    perception_residuals,
    wasserstein2,
    wasserstein2_residuals,
)
from .problem import Problem

# A number per pixel, of a problem and a whole sampler's transfer.
Objective = Callable[[Problem, Transfer], Array]


def check_objective(objective: Objective) -> None:
    """InputError for what is no function, such as the name of one."""
    if not callable(objective):
        raise InputError(f"objective = {objective!r}: a function is needed, such as sp.mse")


# Metrics that are sums of squares, which Levenberg-Marquardt minimises.
RESIDUALS: dict[Callable[..., Array], Callable[[Problem, Transfer], Array]] = {
    wasserstein2: wasserstein2_residuals,
    mse: mse_residuals,
    perception: perception_residuals,
}


def residuals_of(objective: Objective) -> Callable[[Problem, Transfer], Array] | None:
    """The square roots of an objective that is a sum of squares, or None."""
    return RESIDUALS.get(objective) or getattr(objective, "residuals", None)


@dataclass(frozen=True)
class WeightedSum:
    """An objective for `learn`: the sum of `weights` times `wasserstein2`, `mse`, `perception`.

    `WeightedSum(mse=1.0, perception=0.5)` buys realistic images for half of their price in error;
    equal weights make equal objectives, so nothing is compiled twice.
    """

    wasserstein2: float = 0.0
    mse: float = 0.0
    perception: float = 0.0

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, as_plain(getattr(self, one.name)))
        values = [weight for _, weight in self.terms()]
        if not all(is_number(one) and 0 <= one < float("inf") for one in values) or not any(values):
            raise InputError(f"objective = {self}: weights must be >= 0, and one of them > 0")

    def terms(self) -> list[tuple[Callable[..., Array], float]]:
        """The metrics and their weights."""
        return [(metric, getattr(self, metric.__name__)) for metric in RESIDUALS]

    def __call__(self, problem: Problem, transfer: Transfer) -> Array:
        used = [weight * metric(problem, transfer) for metric, weight in self.terms() if weight]
        return jnp.sum(jnp.stack(used))

    def residuals(self, problem: Problem, transfer: Transfer) -> Array:
        """The square roots, as in RESIDUALS."""
        return jnp.concatenate(
            [
                weight**0.5 * RESIDUALS[metric](problem, transfer)
                for metric, weight in self.terms()
                if weight
            ]
        )


def is_average(objective: Objective) -> bool:
    """Whether an objective is known to be an average over modes."""
    return objective in (*RESIDUALS, kl) or isinstance(objective, WeightedSum)
