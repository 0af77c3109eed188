"""Run a sampler's update on images, with any denoiser.

The same update as in the closed forms, in mode coordinates: the denoiser, which works on pixels,
is wrapped in the degradation's change of coordinates. For a neural network the prior is then the
network's, and closed forms are what its Gaussian model predicts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .algebra import PRECISION, as_floating, floating, is_concrete
from .degradations import Degradation
from .denoiser_checks import (
    all_finite,
    as_argument,
    as_returned,
    called,
    check_denoiser,
    check_finite,
)
from .errors import InputError, check_kind, check_whole
from .kept_jit import kept_jit
from .noise import NoiseLevel, check_levels, step_pairs
from .problem_checks import check_sigma_y
from .samplers.base import Guidance, Measurement, Sampler, Step, check_guidance, check_kinds

# Of the relative residual; well below what sampling noise hides.
CG_TOLERANCE, CG_ITERATIONS = 1e-6, 200
DIVERGED = 1e3  # times as much residual as in the beginning

PixelDenoiser = Callable[[Array, NoiseLevel], Array]


def measure(degradation: Degradation, x_0: ArrayLike, sigma_y: ArrayLike, key: Array) -> Array:
    """y = H x_0 + sigma_y n for images [..., H, W]; sigma_y >= 0 in units of their pixel range.

    In the floating dtype of x_0; integers become JAX's default float.

    >>> sp.measure(blur, x_0, 0.1, jax.random.key(0)).shape
    (4, 8, 8)
    """
    check_kind("degradation", degradation, Degradation)
    y = degradation.apply(x_0)
    sigma_y = noise_strength(sigma_y, y.dtype, zero_allowed=True)
    noise = jax.random.normal(_typed(key), y.shape, y.dtype)
    if degradation.response.ndim > 1:  # some of y may not be measured, as unknown pixels
        noise = degradation.from_measurement_modes(degradation.to_measurement_modes(noise))
    return y + sigma_y * noise


def restore(
    sampler: Sampler,
    denoiser: PixelDenoiser,
    degradation: Degradation,
    y: ArrayLike,
    levels: NoiseLevel,
    guidance: Guidance,
    key: Array,
    *,
    sigma_y: ArrayLike,
    num_samples: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Draw restored images from the sampler.

    sampler      one of SAMPLERS, with the options that the schedule was learned for
    denoiser     (x_t, t) -> x_hat on images, differentiable where the sampler asks for its
                 derivative: `GaussianDenoiser.of(prior)` or a network. Levels are those of the
                 grid; DAPS also asks for others with alpha = 1, for x_t / alpha_t. Free Hunch asks
                 for the covariance of images as well: `WithCovariance.of(network, prior)`. A pytree
                 (flax's modules, `jax.tree_util.Partial`) may change between calls; a function, or
                 any other object that can be called, is a constant of the compiled program: what
                 changes inside of it is not seen
    y            one measurement [*measured] or [C, *measured] (of a blur: [H, W]), or a batch
                 [N, C, *measured], whose images do not influence each other. Planes of one image
                 share norms where a sampler uses them. Of a degradation that takes planes together
                 [*measured] or [N, *measured], for images [C, H, W]
    guidance     name -> [S], or for every mode [S, F] (`guidance.per_mode`); levels [S + 1]
    sigma_y      in units of the pixel range of y
    num_samples  None: one image each. n: a leading axis of n, with independent noise
    batch_size   how many images (samples counted) are restored at the same time, by one program:
                 memory is proportional to it. None: all. The images are the same to rounding
    progress     called after each batch with the number of images that are done, and of all

    Runs in the floating dtype of y, to which all else is converted; integers become JAX's default
    float. Compiled once per sampler, denoiser type, degradation and shape; may itself be part of a
    jitted or vmapped function of y, levels, guidance, key and sigma_y. Raises InputError for a
    measurement of the wrong size, NaN, sigma_y <= 0, guidance that does not fit, or a denoiser that
    returns no real images of the shape of those given, or NaN for finite ones; of values that JAX
    traces only the shapes are checked. Images of a schedule that diverges are returned, NaN or
    infinite as they may be.

    >>> denoiser = sp.GaussianDenoiser.of(prior)
    >>> key = jax.random.key(1)
    >>> run = sampler, denoiser, blur, y, levels, guidance, key
    >>> restored = sp.restore(*run, sigma_y=0.1, num_samples=2)
    >>> restored.shape  # two samples of each image
    (2, 4, 8, 8)
    """
    check_kinds(sampler, guidance)
    check_kind("degradation", degradation, Degradation)
    check_denoiser(denoiser)
    y = as_floating("measurement", y)
    levels = check_levels(levels, y.dtype)
    (guidance,) = floating(guidance, dtype=y.dtype)
    in_blocks = degradation.response.ndim > 1
    modes = None if in_blocks else degradation.response.size
    check_guidance(sampler, levels, guidance, modes, in_blocks)
    lead = y.ndim - len(degradation.measured)
    most, words = (2, "images, planes") if degradation.planes is None else (1, "images")
    if y.shape[lead:] != degradation.measured or not 0 <= lead <= most:
        raise InputError(
            f"measurement of shape {y.shape}: {degradation.measured}, with up to {most} axes "
            f"before ({words}), is needed"
        )
    if y.size == 0:
        raise InputError(f"measurement of shape {y.shape}: no pixels")
    if is_concrete(y) and not np.all(np.isfinite(np.asarray(y))):
        raise InputError("measurement: NaN or infinite pixels")
    sigma_y = noise_strength(sigma_y, y.dtype)
    if num_samples is not None:
        num_samples = check_whole("samples", num_samples)
    images = y if lead == most else y[None]
    keys = jax.random.split(_typed(key), (num_samples or 1, len(images)))
    function, arrays = as_argument(denoiser)
    run = partial(_restore, sampler, degradation, function, tolerance=CG_TOLERANCE)
    if batch_size is None:
        out = run(arrays, images, levels, guidance, sigma_y, keys)
    else:
        batch_size = check_whole("batch_size", batch_size)
        keys, parts = keys.ravel(), []
        for i in range(0, keys.size, batch_size):
            # The last batch is filled up with its last image: one shape, so one program.
            rows = np.minimum(np.arange(i, i + min(batch_size, keys.size)), keys.size - 1)
            few, its_keys = _rows_of(images, rows % images.shape[0]), _rows_of(keys, rows)
            part = run(arrays, few, levels, guidance, sigma_y, its_keys[None])[0]
            if progress is not None:
                jax.block_until_ready(part)
                progress(min(i + batch_size, keys.size), keys.size)
            parts.append(part[: keys.size - i])
        out = jnp.concatenate(parts)
    image = (*y.shape[:lead], *degradation.pixels)
    out = out.reshape(image if num_samples is None else (num_samples, *image))
    # A schedule may diverge, which its caller sees; whether a denoiser is broken is asked then.
    if is_concrete(out) and not all_finite(out):
        one = image[1:] if lead == most else image
        check_finite(denoiser, one, step_pairs(levels)[0], y)
    return out


def _typed(key: Array) -> Array:
    """One as `jax.random.key` makes it, of one of `jax.random.PRNGKey` as well."""
    if not hasattr(key, "dtype"):
        raise InputError(f"key = {key!r}: a key is needed, such as jax.random.key(0)")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim:
        raise InputError(f"key: {key.shape} keys were given, one is needed for all images")
    return key


@jax.jit
def _rows_of(array: Array, rows: Array) -> Array:
    """By one program in place of several small ones."""
    return array[rows]


def noise_strength(sigma_y: ArrayLike, dtype: np.dtype, *, zero_allowed: bool = False) -> Array:
    """sigma_y, a number, in the floating dtype of an image; InputError if it is none or wrong."""
    number = as_floating("sigma_y", sigma_y, dtype)
    if number.shape:
        raise InputError(f"sigma_y of shape {number.shape}: one number is needed")
    if is_concrete(number):
        given = float(np.asarray(sigma_y))
        check_sigma_y(given, zero_allowed=zero_allowed)
        if not number < np.inf or (given > 0 and not np.asarray(number) > 0):
            raise InputError(f"sigma_y = {given:g}: is {number:g} in {number.dtype}")
    return number


def _conjugate_gradients(operator: Callable[[Array], Array], r: Array, tolerance: float) -> Array:
    """operator^-1 r to a residual of tolerance |r|. For the model it is symmetric and positive.

    With a network's Jacobian inside it is neither, quite. There a direction along which it is not
    positive ends the iterations, and of all results that with the smallest residual is taken.
    """
    solve = partial(_truncated_conjugate_gradients, tolerance=tolerance)
    return jax.lax.custom_linear_solve(operator, r, solve, solve, symmetric=True)


class _Iteration(NamedTuple):
    v: Array
    residual: Array
    direction: Array
    square: Array  # of the residual
    best: tuple[Array, Array]  # v and the square of its residual
    count: Array | int
    going: Array


def _truncated_conjugate_gradients(
    operator: Callable[[Array], Array], r: Array, tolerance: float
) -> Array:
    square = jnp.vdot(r, r, precision=PRECISION)

    def iterate(now: _Iteration) -> _Iteration:
        turned = operator(now.direction)
        curvature = jnp.vdot(now.direction, turned, precision=PRECISION)
        length = now.square / jnp.where(curvature > 0, curvature, 1)
        v, residual = now.v + length * now.direction, now.residual - length * turned
        after = jnp.vdot(residual, residual, precision=PRECISION)
        going = (curvature > 0) & (after < DIVERGED**2 * square)
        better = going & (after < now.best[1])
        best = jax.tree.map(partial(jnp.where, better), (v, after), now.best)
        direction = residual + after / now.square * now.direction
        return _Iteration(v, residual, direction, after, best, now.count + 1, going)

    def needed(now: _Iteration) -> Array:
        return now.going & (now.best[1] > tolerance**2 * square) & (now.count < CG_ITERATIONS)

    nothing = jnp.zeros_like(r)
    first = _Iteration(nothing, r, r, square, (nothing, square), 0, square > 0)
    return jax.lax.while_loop(needed, iterate, first).best[0]


class _InModes(NamedTuple):
    """A denoiser of images, in the degradation's coordinates."""

    denoiser: PixelDenoiser
    degradation: Degradation

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        images = self.degradation.from_modes(x_t)
        x_hat = as_returned(self.denoiser(images, t), images)
        return self.degradation.to_modes(x_hat).astype(x_t.dtype)

    @property
    def cov(self) -> Callable[[Array, NoiseLevel], Array]:
        """For `samplers.steps.data_cov`; AttributeError where the denoiser has none."""
        denoiser: Any = self.denoiser
        of_images = denoiser.cov
        to, back = self.degradation.to_modes, self.degradation.from_modes
        return lambda v, t: to(of_images(back(v), t)).astype(v.dtype)


@partial(kept_jit, static_argnames=("sampler", "degradation", "function", "tolerance"))
def _restore(
    sampler: Sampler,
    degradation: Degradation,
    function: Any,
    pytree: PixelDenoiser | None,
    images: Array,
    levels: NoiseLevel,
    guidance: Guidance,
    sigma_y: Array,
    keys: Array,
    tolerance: float,
) -> Array:
    """images [N, ...], keys [samples, N] -> [samples, N, ...]."""
    denoise = _InModes(called(function, pytree), degradation)
    solve = partial(_conjugate_gradients, tolerance=tolerance)

    def one(image: Array, key: Array) -> Array:
        y = degradation.to_measurement_modes(image)
        response = jnp.broadcast_to(degradation.response.astype(y.dtype), y.shape)
        measurement = Measurement(response, sigma_y, jnp.linalg.norm, solve)
        start_key, key = jax.random.split(key)
        t, s = step_pairs(levels)
        first = jax.tree.map(lambda leaf: leaf[0], levels)
        x_T = sampler.start(measurement, first, y, jax.random.normal(start_key, y.shape, y.dtype))

        def step(carried: tuple[Array, ...], inputs) -> tuple[tuple[Array, ...], None]:
            x_t, *before = carried
            t, s, guidance_t, key = inputs
            guidance_t = jax.tree.map(
                lambda weight: jnp.broadcast_to(weight, y.shape) if weight.ndim else weight,
                guidance_t,
            )
            eps = jax.random.normal(key, y.shape, y.dtype)
            one = Step(t, s, x_t, y, eps, guidance_t)
            return sampler.step(denoise, measurement, one, *before), None

        step_keys = jax.random.split(key, t.alpha.shape[0])
        # For who differentiates all of it: steps are computed again, instead of kept.
        carried = (x_T, *[jnp.zeros_like(x_T)] * sampler.memory)
        (x_0, *_), _ = jax.lax.scan(jax.checkpoint(step), carried, (t, s, guidance, step_keys))
        return degradation.from_modes(x_0)

    return jax.vmap(lambda keys: jax.vmap(one)(images, keys))(keys)
