"""What a schedule file may hold: each check is about some of its fields and names them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from .degradations import DEGRADATIONS, make_degradation
from .errors import LARGEST_PLANES, LARGEST_STEPS, InputError
from .images import PixelRange, check_pixel_range
from .noise import NoiseLevel, at_timesteps, check_levels, num_steps_of
from .noise_grid import training_levels
from .plain_json import brief
from .samplers import SAMPLERS, make_sampler
from .samplers.base import Guidance, Sampler
from .signatures import options_of, parsed_words

LARGEST_SHAPE = 2**27  # pixels of a plane
SMALLEST, LARGEST = 1e-15, 1e15  # sigma_y and pixel values: single precision has their squares

# Degradations are tried on grids of at most so many pixels, the next if one is too small for a
# kernel, or not divided by a factor as the image is; the last are most images themselves, where
# building one takes seconds.
TRIAL_PIXELS = (2**16, 2**22, 2**24)


def check_grid(levels: NoiseLevel) -> None:
    """InputError unless `check_levels` passes and there are at most LARGEST_STEPS steps."""
    check_levels(levels)
    if num_steps_of(levels) > LARGEST_STEPS:
        raise InputError(
            f"levels: {num_steps_of(levels)} steps, at most {LARGEST_STEPS} are allowed"
        )


def check_sampler(name: str, options: dict[str, Any]) -> Sampler:
    """The sampler of a name with options, or InputError if there is none."""
    return _made("sampler.options", SAMPLERS, name, options, make_sampler)


def check_bands(guidance: Guidance, band_knots: Array | None) -> None:
    """InputError unless weights by band have knots, and these are evenly spaced."""
    if band_knots is None:
        for name, weights in guidance.items():
            if weights.ndim > 1:
                raise InputError(
                    f"guidance.{name}: by band, but bands.knots are missing; weights by mode, as "
                    "of per_mode and low_pass, are in no file: save what they are made of"
                )
        return
    knots = np.asarray(band_knots, float)
    widths = np.diff(knots)
    # Rounding of evenly spaced numbers, in single precision if they come from there.
    rounding = 8 * np.finfo(np.float32).eps * np.abs(knots).max(initial=0)
    if not (knots.size and np.all(widths > 0) and (widths.size == 0 or np.ptp(widths) <= rounding)):
        raise InputError("bands.knots: must be one number or more, evenly spaced, increasing")


def check_timesteps(timesteps: tuple[int, ...], levels: NoiseLevel, grid: str) -> None:
    """InputError unless time steps descend and, on a grid that is known, have the levels' alpha."""
    steps = num_steps_of(levels)
    if len(timesteps) != steps:
        raise InputError(
            f"levels.timestep: {len(timesteps)} values, {steps} are needed, one per step"
        )
    trained = _trained_on(grid)
    largest = LARGEST_STEPS if trained is None else num_steps_of(trained)
    for i, step in enumerate(timesteps):
        if not 0 <= step < largest or (i > 0 and step >= timesteps[i - 1]):
            raise InputError(
                f"levels.timestep[{i}] = {step}: must descend, from below {largest} to 0 at least"
            )
    if trained is None:
        return
    known = at_timesteps(timesteps, trained)
    for field_name in ("alpha", "sigma"):
        wanted = np.asarray(getattr(known, field_name), float)[:-1] ** 2
        found = np.asarray(getattr(levels, field_name), float)[:-1] ** 2
        wrong = np.flatnonzero(~(np.abs(found - wanted) <= 1e-6))
        if wrong.size:
            i = wrong[0]
            raise InputError(
                f"levels.timestep[{i}] = {timesteps[i]}: {field_name}^2 is {wanted[i]:.6g} there "
                f"on the grid {grid}, that of levels.{field_name} is {found[i]:.6g}"
            )


def _trained_on(grid: str) -> NoiseLevel | None:
    """The levels of all time steps of a network, by the label of a grid: its name, then what of
    its options was changed. None for a label that says nothing of that kind."""
    name, *rest = (word.strip() for word in grid.split(","))
    words = tuple(word for word in rest if "=" in word)
    try:
        options = parsed_words("levels.grid", words)
        steps = options.get("train_steps", 1)
        if isinstance(steps, int | float) and steps > LARGEST_STEPS:  # no network has so many
            return None
        return training_levels(name.replace("-", "_"), **options)
    except (InputError, RecursionError):  # the user's own words, or a grid without time steps
        return None


def check_sizes(
    shape: tuple[int, ...], channels: int, sigma_y: float, pixel_range: PixelRange
) -> None:
    """InputError unless the problem's numbers are within the limits of this file."""
    if math.prod(shape) > LARGEST_SHAPE:
        raise InputError(
            f"problem.shape = {brief(list(shape))}: at most {LARGEST_SHAPE} pixels are allowed"
        )
    if not 1 <= channels <= LARGEST_PLANES:
        raise InputError(f"problem.channels = {channels}: must be >= 1, at most {LARGEST_PLANES}")
    if not SMALLEST <= sigma_y <= LARGEST:
        raise InputError(
            f"problem.sigma_y = {sigma_y}: must be a number > 0, from {SMALLEST} to {LARGEST}"
        )
    try:
        check_pixel_range(pixel_range)
    except InputError as error:
        raise InputError(f"problem.pixel_range: {error}") from error
    low, high = pixel_range
    if not (max(-low, high) <= LARGEST and high - low >= SMALLEST):
        raise InputError(
            f"problem.pixel_range = [{low}, {high}]: values up to {LARGEST}, {SMALLEST} apart at "
            "least, are allowed"
        )


def check_degradation(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """InputError unless there is a degradation of that name with these options.

    It is built on a smaller grid than a large image's, see TRIAL_PIXELS: of images of more than
    16 million pixels, masks of their own and some kernels and factors are refused.
    """
    for pixels in TRIAL_PIXELS:
        small = _smaller(shape, pixels)
        try:
            with np.errstate(all="ignore"):
                degradation = _made(
                    "problem.degradation_options",
                    DEGRADATIONS,
                    name,
                    options,
                    lambda name, small=small, **options: make_degradation(name, small, **options),
                )
            break
        except InputError:
            if small == shape or pixels == TRIAL_PIXELS[-1]:
                raise
    if not np.all(np.isfinite(degradation.response)):
        raise InputError(f"problem.degradation_options = {brief(options)}: too large numbers")


def _smaller(shape: tuple[int, ...], pixels: int) -> tuple[int, ...]:
    """The shape if it has at most so many pixels, else one of about as many. Sides lose multiples
    of 240, so that what divides a side mostly still does."""
    if math.prod(shape) <= pixels:
        return shape
    cap = min(2048, round(pixels ** (1 / len(shape))))
    return tuple(
        n if n <= cap else (max(cap - n % 240, 0) // 240 * 240 + n % 240) or 240 for n in shape
    )


def _made(
    field: str,
    table: dict[str, Callable[..., Any]],
    name: str,
    options: dict[str, Any],
    make: Callable[..., Any],
) -> Any:
    """make(name, **options). InputError that names the field, whatever is wrong with them."""
    known = options_of(table[name]) if name in table else {}
    for option, value in options.items():
        whole = option in known and known[option].annotation is int
        if whole and isinstance(value, int | float) and not abs(value) <= LARGEST_STEPS:
            raise InputError(
                f"{field}.{option} = {brief(value)}: must be a whole number, up to {LARGEST_STEPS} "
                "in size"
            )
    try:
        return make(name, **options)
    # A factory checks what it knows; types and sizes that no caller in Python uses may still
    # surprise it.
    except (TypeError, ValueError, ArithmeticError, LookupError, MemoryError) as error:
        message = str(error) if isinstance(error, InputError) else f"{brief(options)}: {error}"
        raise InputError(f"{field}: {message}") from error
