"""What a denoiser has to return: real images like those given, finite ones for finite ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .algebra import is_real
from .errors import InputError
from .images import PixelRange
from .noise import NoiseLevel, noisy_variance


def as_returned(x_hat: Any, x_t: Array, name: str = "denoiser") -> Array:
    """What a denoiser returned for images x_t; InputError unless it is a real array like them.

    Only type and shape are looked at, so it may be traced.
    """
    needed = f"real images of shape {x_t.shape} are needed"
    if not isinstance(x_hat, jax.Array | np.ndarray):
        raise InputError(f"{name}: returns {type(x_hat).__name__}; {needed}")
    if x_hat.shape != x_t.shape:
        raise InputError(f"{name}: returns the shape {x_hat.shape} for {x_t.shape}")
    if not is_real(x_hat.dtype):
        raise InputError(f"{name}: returns {x_hat.dtype}; {needed}")
    return jnp.asarray(x_hat)


class _Same:
    """A denoiser that cannot be hashed, as a constant: equal to itself alone."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.denoiser is other.denoiser

    def __hash__(self) -> int:
        return id(self.denoiser)


def as_argument(denoiser: Any) -> tuple[Any, Any]:
    """A function, a constant of compiled programs, or a pytree, whose arrays are arguments: the
    other is None. `called` makes one of the two. A `functools.partial` of arrays is a pytree, like
    `jax.tree_util.Partial`: other weights are no other program."""
    if isinstance(denoiser, partial) and not isinstance(denoiser, jax.tree_util.Partial):
        bound = denoiser.args, denoiser.keywords
        leaves = jax.tree.leaves(bound)
        if leaves and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
            denoiser = jax.tree_util.Partial(denoiser.func, *bound[0], **bound[1])
    if not jax.tree_util.all_leaves([denoiser]):
        return None, denoiser
    try:
        hash(denoiser)
    except TypeError:
        return _Same(denoiser), None
    return denoiser, None


def called(function: Any, pytree: Any) -> Any:
    if function is None:
        return pytree
    return function.denoiser if isinstance(function, _Same) else function


def check_finite(
    denoiser: Callable[[Array, NoiseLevel], Array],
    shape: tuple[int, ...],
    levels: NoiseLevel,
    y: Array,
) -> None:
    """InputError, with the level, if a denoiser returns NaN or infinite pixels for a noisy image.

    The image has that shape, mean and variance of the measurement y, and the noise of its level;
    one at each of the levels [S], by one program.
    """
    function, arrays = as_argument(denoiser)
    finite = np.asarray(_finite_at(function, shape, arrays, levels, y))
    if not finite.all():
        first = int(np.argmin(finite))
        raise InputError(
            f"denoiser: returns NaN or infinite pixels for a finite image at the level "
            f"{level_in_words(jax.tree.map(lambda leaf: leaf[first], levels))}"
        )


def check_one_level(t: NoiseLevel) -> None:
    """InputError for levels [N], which would be taken along the images' last axis."""
    shape = np.broadcast_shapes(*map(np.shape, t))
    if shape and shape[-1] != 1:
        raise InputError(
            f"levels of shape {shape}: one for all images is needed; jax.vmap takes one each"
        )


def check_of_size(x_t: Array, t: NoiseLevel, size: tuple[int, ...]) -> None:
    """InputError unless these are images [..., *size] of a prior, all of one noise level."""
    if x_t.shape[max(x_t.ndim - len(size), 0) :] != size:
        raise InputError(f"x_t of shape {x_t.shape}: the prior is of {size}")
    check_one_level(t)


def as_images(x_t: Array, t: NoiseLevel, planes: int, name: str, divisor: int = 1) -> Array:
    """Images [..., planes, H, W], or [..., H, W] of one plane, as [N, planes, H, W]; InputError
    unless they are that, of sides that are divisible, all of one noise level."""
    check_one_level(t)
    size = x_t.shape[-2:]
    fits = x_t.ndim >= 2 and (planes == 1 or x_t.shape[-3:-2] == (planes,))
    if not fits or 0 in x_t.shape or any(side % divisor for side in size):
        wanted = "[..., H, W]" if planes == 1 else f"[..., {planes}, H, W]"
        also = "" if divisor == 1 else f", H and W divisible by {divisor}"
        raise InputError(f"x_t of shape {x_t.shape}: {name} takes {wanted}{also}")
    return x_t.reshape(-1, planes, *size)


def level_in_words(t: NoiseLevel) -> str:
    return f"alpha = {float(t.alpha):.4g}, sigma = {float(t.sigma):.4g}"


def check_denoiser(denoiser: Any) -> None:
    """InputError for what cannot be called."""
    if not callable(denoiser):
        raise InputError(
            f"denoiser: {type(denoiser).__name__} was given, a function (x_t, level) -> x_hat is "
            "needed"
        )


def check_made_for(denoiser: Any, pixel_range: PixelRange) -> None:
    """InputError for what is no denoiser, and for a network that says that its images have another
    pixel range.

    Those of this package say so (`pixel_range`), also inside of `GaussianAbove` and
    `WithCovariance`; of functions nothing is known.
    """
    check_denoiser(denoiser)
    while not hasattr(denoiser, "pixel_range") and hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    own = getattr(denoiser, "pixel_range", None)
    if own is not None and tuple(map(float, own)) != tuple(map(float, pixel_range)):
        (low, high), (has_low, has_high) = pixel_range, own
        raise InputError(
            f"denoiser: is for pixels from {has_low:g} to {has_high:g}, the images have {low:g} to "
            f"{high:g}; allowed is one for their range"
        )


@jax.jit
def all_finite(x: Array) -> Array:
    """[], by one program."""
    return jnp.all(jnp.isfinite(x))


@partial(jax.jit, static_argnums=(0, 1))
def _finite_at(function: Any, shape: tuple[int, ...], arrays: Any, levels: NoiseLevel, y: Array):
    """Whether the denoiser's image is finite, at each level: [S]."""
    denoiser = called(function, arrays)
    eps = jax.random.normal(jax.random.key(0), shape, y.dtype)
    mean, variance = jnp.mean(y), jnp.var(y)

    def one(t: NoiseLevel) -> Array:
        x_t = t.alpha * mean + jnp.sqrt(noisy_variance(variance, t)) * eps
        return all_finite(denoiser(x_t, t))

    return jax.lax.map(one, levels)
