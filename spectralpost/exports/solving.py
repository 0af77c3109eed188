"""Whether conjugate gradients do what a schedule asks for."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..prior import denoiser_gain
from ..schedule import Schedule
from .base import Weights, module
from .loop import loop, memory_numbers, numbers_of, step_of

MODES = 4096  # of the degradation, at most, that are tried
STD = 0.25  # of a pixel, in widths of the pixel range
LEFT = 0.02  # of an output's error: what conjugate gradients may leave


def solver_notes(schedule: Schedule, weights: Weights) -> tuple[str, ...]:
    """A line of warning where conjugate gradients do not solve what the loop has to.

    Some systems are beyond them: those of a step that pulls very hard. How much that matters is
    tried, by the loop itself: in single precision, on the degradation's own singular values and an
    image of independent pixels, by conjugate gradients and by division.
    """
    step = step_of(schedule)
    if "solve" not in step.needs:
        return ()
    random = np.random.default_rng(0)
    every = np.asarray(schedule.degradation().response, np.float32).ravel()
    h = random.permutation(every)[:MODES]
    low, high = schedule.pixel_range
    std = np.float32(STD * (high - low))
    noise = lambda: random.normal(size=h.shape).astype(np.float32)  # noqa: E731
    x_0 = std * noise()
    y = h * x_0 + np.float32(schedule.sigma_y) * noise() * (h > 0)

    variance = jnp.full_like(schedule.levels.alpha, std**2)
    gains = np.asarray(denoiser_gain(variance, schedule.levels), np.float32)

    def denoise(x: np.ndarray, i: int) -> Any:
        gain = gains[i]
        return (gain * x, lambda v: gain * v) if step.gradient else gain * x

    names: dict[str, Any] = {}
    numbers = numbers_of(schedule, weights) | memory_numbers(weights)
    exec(module(schedule, "", loop(schedule, weights), **numbers), names)
    by_h = lambda x: h * x  # noqa: E731
    inverse = np.divide(1, h, out=np.zeros_like(h), where=h > 0)
    given: dict[str, Any] = {"A": by_h, "AT": by_h, "pinv": lambda y: inverse * y}
    given = {need: function for need, function in given.items() if need in step.needs}

    def exact(c: float, d: float, r: np.ndarray) -> np.ndarray:
        operator = np.asarray(c * h**2 + d, r.dtype)
        return np.divide(r, operator, out=np.zeros_like(r), where=operator > 0)

    outputs = []
    with np.errstate(all="ignore"):  # of a schedule that diverges
        for solve in (None, exact):
            random = np.random.default_rng(1)
            outputs.append(names["sample"](y, noise, denoise, solve=solve, **given))
        by_gradients, exactly = outputs
        error = np.sqrt(np.mean((exactly - x_0) ** 2))
        left = np.sqrt(np.mean((by_gradients - exactly) ** 2)) / error
    if not error <= high - low:  # no solver helps what diverges
        return ()
    if left <= LEFT:
        return ()
    return (
        f"# conjugate gradients change outputs by about {100 * left:.0f} % of their error here, as "
        "some steps pull so hard: solve exactly, or learn the schedule",
    )
