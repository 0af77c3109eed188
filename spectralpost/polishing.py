"""Polish a schedule on the network itself: gradient steps through whole restorations.

Closed forms find a schedule from the prior's spectrum alone. What is left is what only the network
can tell. The energy score of two samples x, x' of one measurement,

    E ||x - x_0|| - E ||x - x'|| / 2     (norms: root mean square per pixel),

needs no true posterior, is differentiable, and is proper: its expectation is least for the true
posterior. Source: Gneiting, Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation",
2007.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from .algebra import as_floating, floating
from .degradations import Degradation
from .denoiser_checks import as_argument, called, check_made_for
from .errors import InputError, check_whole
from .images import PIXEL_RANGE, PixelRange, check_pixel_range, check_pixels
from .learning.guidance import constrain, names_of, unconstrain
from .learning.preparing import check_free, default_free
from .noise import NoiseLevel, check_levels
from .restoration import PixelDenoiser, measure, noise_strength, restore
from .samplers.base import Guidance, Sampler, check_guidance, check_kinds

KEPT_OUT = 4  # one image in so many tells when to stop


class Polished(NamedTuple):
    """What `polish` returns."""

    guidance: Guidance  # of the step with the best score on images kept out; the given one at worst
    curve: np.ndarray  # energy score of each step's batch, [steps taken]
    kept_out: np.ndarray  # that of the images kept out, before the first step and after each
    seconds: float


def polish(
    sampler: Sampler,
    denoiser: PixelDenoiser,
    images: ArrayLike,
    degradation: Degradation,
    sigma_y: float,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...] | None = None,
    *,
    steps: int = 40,
    batch: int = 8,
    learning_rate: float = 0.05,
    patience: int = 10,
    seed: int = 0,
    pixel_range: PixelRange = PIXEL_RANGE,
    progress: Callable[[int, float], None] | None = None,
) -> Polished:
    """Adam on a schedule's weights, through the whole restoration with a network.

    denoiser  as for `restore`, differentiable in reverse mode (twice, where the sampler asks for
              its derivative)
    images    [N, H, W] or [N, C, H, W], clean, in `pixel_range`, which is the denoiser's; N >= 8. A
              quarter of them, chosen at random, is kept out and tells which step was best
    levels    [S + 1], which stay; guidance name -> [S], to begin from (`learn`)
    free      as for `learn`
    patience  steps without a better score after which polishing ends
    progress  called with the number of steps and the score on the images kept out

    One step restores `batch` images twice and goes back through it, recomputing each sampling step
    in turn: several times the work of `restore`, and memory for one step of it. Raises InputError
    for too few images, NaN, pixels or a network of another range, wrong names or numbers, and what
    `restore` refuses.

    An example: docs/networks.md#polishing.
    """
    started = time.perf_counter()
    x_0 = as_floating("images", images)
    steps, batch = check_whole("steps", steps), check_whole("batch", batch)
    patience = check_whole("patience", patience)
    if not 0 < learning_rate < np.inf:
        raise InputError(f"learning_rate = {learning_rate}: must be > 0 and finite")
    if x_0.ndim != len(degradation.shape) + 1 and x_0.ndim != len(degradation.shape) + 2:
        raise InputError(f"images of shape {x_0.shape}: [N, H, W] or [N, C, H, W] is needed")
    if x_0.shape[0] < 2 * KEPT_OUT:
        raise InputError(f"images: {x_0.shape[0]}; {2 * KEPT_OUT} at least are needed")
    if x_0.ndim == len(degradation.shape) + 1:
        x_0 = x_0[:, None]
    check_pixel_range(pixel_range)
    check_pixels("images", x_0, pixel_range)
    check_made_for(denoiser, pixel_range)
    levels = check_levels(levels, x_0.dtype)
    (guidance,) = floating(guidance, dtype=x_0.dtype)
    check_kinds(sampler, guidance)
    check_guidance(sampler, levels, guidance)
    free = default_free(sampler) if free is None else names_of(free)
    check_free(sampler, free)
    noise_strength(sigma_y, x_0.dtype)  # before what cannot look at it
    seed = check_whole("seed", seed, 0)

    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    order = rng.permutation(len(x_0))
    kept_out, others = np.split(order, [len(x_0) // KEPT_OUT])

    # The same noise every time, so that energies differ by the schedule alone.
    function, arrays = as_argument(denoiser)
    numbers = levels, guidance, jnp.asarray(sigma_y, x_0.dtype)
    run = partial(_energy, sampler, degradation, function)
    judged = partial(run, arrays, *numbers, x_0[kept_out], jax.random.fold_in(key, 0))
    rate = jnp.asarray(learning_rate, x_0.dtype)
    step = partial(_step, sampler, degradation, function, arrays, *numbers, rate)
    u = unconstrain(sampler.constraint, {name: guidance[name] for name in free})
    state = optax.adam(learning_rate).init(u)
    best, best_u, since = float(judged(u)), u, 0
    if not np.isfinite(best):
        raise InputError("guidance: restores to NaN or infinite pixels with this denoiser")
    curve, energies = [], [best]
    for i in range(1, steps + 1):
        chosen = rng.choice(others, min(batch, len(others)), replace=False)
        loss, u, state = step(x_0[chosen], jax.random.fold_in(key, i), u, state)
        curve.append(float(loss))
        energies.append(float(judged(u)))
        if progress is not None:
            progress(i, energies[-1])
        if energies[-1] < best:
            best, best_u, since = energies[-1], u, 0
        else:
            since += 1
        if since == patience or not np.isfinite(energies[-1]):
            break
    # Weights that no step was better with stay as they were given, to the last digit.
    changed = {} if best == energies[0] else constrain(sampler.constraint, best_u)
    seconds = time.perf_counter() - started
    return Polished(guidance | changed, np.asarray(curve), np.asarray(energies), seconds)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _energy(
    sampler: Sampler,
    degradation: Degradation,
    function: Any,
    arrays: Any,  # of the denoiser, or it is a function: see `as_argument`
    levels: NoiseLevel,
    guidance: Guidance,
    sigma_y: Array,
    x_0: Array,
    key: Array,
    u: Guidance,
) -> Array:
    """Mean energy score of two samples of each image, weights u being unconstrained."""
    measure_key, key = jax.random.split(key)
    y = measure(degradation, x_0, sigma_y, measure_key)
    weights = guidance | constrain(sampler.constraint, u)
    run = sampler, called(function, arrays), degradation, y, levels, weights, key
    return jnp.mean(energy_score(restore(*run, sigma_y=sigma_y, num_samples=2), x_0))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    sampler: Sampler,
    degradation: Degradation,
    function: Any,
    arrays: Any,
    levels: NoiseLevel,
    guidance: Guidance,
    sigma_y: Array,
    learning_rate: Array,
    x_0: Array,
    key: Array,
    u: Guidance,
    state: optax.OptState,
) -> tuple[Array, Guidance, optax.OptState]:
    """One of Adam's: the score before it, and weights and state after."""
    energy = partial(_energy, sampler, degradation, function, arrays)
    energy = partial(energy, levels, guidance, sigma_y, x_0, key)
    loss, gradient = jax.value_and_grad(energy)(u)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes Python numbers and counts
        updates, state = optax.adam(learning_rate).update(gradient, state)
        return loss, cast(Guidance, optax.apply_updates(u, updates)), state


def energy_score(samples: Array, x_0: Array) -> Array:
    """Of two samples [2, N, C, H, W] of each image x_0 [N, C, H, W]: [N], in pixel units.

        (|x - x_0| + |x' - x_0|) / 2 - |x - x'| / 2,    |.| the root mean square over pixels

    Proper: its expectation is least for samples of the true posterior (Gneiting, Raftery, 2007).
    Raises InputError for other shapes.

    >>> two = sp.draw(prior, 6).reshape(2, 1, 3, 8, 8)  # samples of one image of three planes
    >>> sp.energy_score(jax.numpy.asarray(two), jax.numpy.asarray(x_0[None, :3])).shape
    (1,)
    """
    samples, x_0 = floating(samples, x_0)
    if samples.shape != (2, *x_0.shape):
        raise InputError(f"samples of shape {samples.shape}: {(2, *x_0.shape)} is needed")
    tiny = jnp.finfo(x_0.dtype).tiny  # equal samples have no gradient; NaN stays NaN

    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.maximum(jnp.mean(x**2, axis=(-3, -2, -1)), tiny))

    return rms(samples - x_0[None]).mean(axis=0) - rms(samples[0] - samples[1]) / 2
