"""Images that are crops of a larger scene, whose blur therefore is not circular.

What a crop was blurred with from outside is missing in it, and a circular blur puts the opposite
edge there instead: a sampler that believes it is led astray everywhere. On a larger periodic canvas
some scene exists whose circular blur agrees with the crop, once the margin between opposite edges
is as wide as the kernel reaches. What the measurement is on that margin is not known, but under the
prior y is a stationary Gaussian field too, of variance h^2 spectrum + sigma_y^2 in each mode, so
the law of the margin given the crop is known: `extended` takes its mean, or draws from it. As

    p(x | crop) = integral of p(x | crop, margin) p(margin | crop),

a sampler of the posterior on the canvas, given a margin that was drawn, is one given the crop. With
the mean, errors are smaller, and samples differ less near the borders than the posterior does.
`experiments/borders.py` compares both with other ways to fill the margin.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import Array
from jax.typing import ArrayLike

from .algebra import as_floating, is_concrete
from .degradations import Degradation, make_degradation
from .errors import InputError, check_whole
from .noise import NoiseLevel
from .prior import Prior
from .problem_checks import check_sigma_y
from .restoration import PixelDenoiser, restore
from .samplers.base import Guidance, Sampler

# Of the kernel's absolute values, what may lie outside of its extent along an axis.
OUTSIDE = 1e-3
# Of the residual, in the norm of the preconditioner: the margin is off by a tenth of sigma_y then.
TOLERANCE, ITERATIONS = 1e-4, 500


def extent(degradation: Degradation) -> tuple[int, ...]:
    """How far the kernel reaches along each axis, in pixels: odd numbers, 1 for the identity.

    Of the smallest window around the origin that holds all but `OUTSIDE` of its absolute values.
    """
    origin = np.zeros(degradation.shape)
    origin[(0,) * origin.ndim] = 1
    kernel = np.abs(np.asarray(degradation.apply(origin), float))
    reach = []
    for axis, n in enumerate(kernel.shape):
        along = kernel.sum(axis=tuple(other for other in range(kernel.ndim) if other != axis))
        distance = np.abs(np.rint(np.fft.fftfreq(n) * n)).astype(int)
        inside = np.cumsum(np.bincount(distance, along))
        reach.append(2 * int(np.argmax(inside >= (1 - OUTSIDE) * inside[-1])) + 1)
    return tuple(reach)


def on_canvas(degradation: Degradation, margin: int | None = None) -> Degradation:
    """The same blur on the canvas that crops of the degradation's size are extended to.

    margin  pixels between opposite edges, >= 0 (default: along each axis the kernel's `extent` - 1,
            with which the canvas holds all that the crop was blurred from)

    Sizes are raised to the next product of 4 and powers of 2, 3 and 5, as networks and fast Fourier
    transforms like them. Raises InputError for another margin, and for what is no blur.

    >>> sp.on_canvas(blur).shape
    (16, 16)
    """
    _check_blur(degradation)
    if margin is None:
        margins = tuple(reach - 1 for reach in extent(degradation))
    else:
        margins = (check_whole("margin", margin, 0),) * len(degradation.shape)
    shape = tuple(
        _even_length(n + more) for n, more in zip(degradation.shape, margins, strict=True)
    )
    return make_degradation(degradation.name, shape, **degradation.options)


def takes_crops(degradation: Degradation) -> bool:
    """Whether it is a blur: others keep no part of what is around a crop, nor do Fourier samples,
    which are of a whole image."""
    return degradation.response.ndim == 1 and degradation.name != "mri"


def _check_blur(degradation: Degradation) -> None:
    if not takes_crops(degradation):
        raise InputError(f"degradation {degradation.name!r}: crops are extended for blurs alone")


def extended(
    y: ArrayLike,
    prior: Prior,
    degradation: Degradation,
    key: Array | None,
    *,
    sigma_y: float,
) -> Array:
    """A measured crop [..., h, w] in the middle of a canvas [..., H, W], whose margin is filled in.

    prior, degradation  of the canvas: `resized(prior, shape)` and `on_canvas(degradation)`
    key                 the margin is drawn from its law given the crop, for each plane on its own
                        (of colour each axis), noise of the measurement included; None: it is the
                        mean of that law
    sigma_y             in units of the pixel range

    Conditional simulation: y' + K (y - y') of a field y' drawn from the model is a draw from the
    law, if K y is the conditional mean (Hoffman and Ribak 1991, "Constrained realizations of
    Gaussian fields"). K by conjugate gradients on the precision of the margin, in double precision.
    Returns the floating dtype of y. Raises InputError for a crop that does not fit, NaN, sigma_y <=
    0, sizes of prior and degradation that differ; not for use inside of `jit`.

    >>> canvas = sp.on_canvas(blur)
    >>> wide = sp.resized(prior, canvas.shape)
    >>> sp.extended(y, wide, canvas, None, sigma_y=0.1).shape
    (4, 16, 16)
    """
    y = as_floating("measurement", y)
    shape, axes = degradation.shape, tuple(range(-len(degradation.shape), 0))
    if not is_concrete(y):
        raise InputError("measurement: borders cannot be extended while JAX traces it")
    if not np.all(np.isfinite(np.asarray(y))):
        raise InputError("measurement: NaN or infinite pixels")
    _check_blur(degradation)
    if prior.shape != shape:
        raise InputError(f"prior of size {prior.shape}, degradation of size {shape}")
    check_sigma_y(sigma_y)
    planes = None if prior.axes is None else len(prior.axes)
    if planes is not None and y.shape[-3:-2] != (planes,):
        raise InputError(f"measurement of shape {y.shape}: the prior is of {planes} planes")
    inside = _inside(y.shape[y.ndim - len(shape) :], shape)
    variance = degradation.response.reshape(shape) ** 2 * prior.spectrum + sigma_y**2
    mean = np.asarray(degradation.apply(prior.mean), float)
    half = slice(shape[-1] // 2 + 1)
    crop = np.asarray(prior.along_axes(y), float)

    def filtered(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        modes = scipy.fft.rfftn(x, axes=axes, workers=-1) * gain[..., half]
        return np.asarray(scipy.fft.irfftn(modes, s=shape, axes=axes, workers=-1))

    unknown = np.ones(shape)
    unknown[inside] = 0
    field = np.zeros((*y.shape[: y.ndim - len(shape)], *shape))
    drawn = np.zeros_like(field)
    if key is not None:
        white = np.asarray(jax.random.normal(key, field.shape), float)
        drawn = filtered(white, np.sqrt(variance))
    field[..., *inside] = crop - mean[..., *inside] - drawn[..., *inside]
    margin = _conjugate_gradients(
        lambda x: unknown * filtered(x, 1 / variance),
        lambda x: unknown * filtered(x, variance),
        -unknown * filtered(field, 1 / variance),
        axes,
    )
    canvas = prior.along_planes(mean + drawn + margin)
    canvas[..., *inside] = np.asarray(y)
    return jnp.asarray(canvas, y.dtype)


def cropped(x: Array, shape: tuple[int, ...]) -> Array:
    """The middle of a canvas [..., H, W], where `extended` puts the crop of size `shape`.

    >>> sp.cropped(x_0, (6, 6)).shape
    (4, 6, 6)
    """
    return x[..., *_inside(shape, x.shape[x.ndim - len(shape) :])]


def restore_crop(
    sampler: Sampler,
    denoiser: PixelDenoiser,
    degradation: Degradation,
    y: ArrayLike,
    levels: NoiseLevel,
    guidance: Guidance,
    key: Array,
    *,
    prior: Prior,
    sigma_y: float,
    num_samples: int | None = None,
    drawn: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """`restore` for an image that is smaller than its degradation, the crop of a larger scene.

    denoiser, degradation, guidance, prior  of the canvas, for example `on_canvas(blur)` and
                                            `resized(prior, degradation.shape)`
    y             one measured crop [h, w] or [C, h, w], or a batch [N, C, h, w]
    num_samples   None: one image, of the shape of y. n: [n, *y.shape], with independent noise
    drawn         margins are drawn from their law, one for each sample, and samples restored one by
                  one (`progress` counts these); else they are its mean

    All else as for `restore`, but not for use inside of `jit`. Samplers that divide by a norm take
    that of the whole canvas: their steps are shorter by the root of the ratio of areas.

    >>> canvas, key = sp.on_canvas(blur), jax.random.key(1)
    >>> wide = sp.resized(prior, canvas.shape)
    >>> run = sampler, sp.GaussianDenoiser.of(wide), canvas, y, levels, guidance, key
    >>> sp.restore_crop(*run, prior=wide, sigma_y=0.1).shape
    (4, 8, 8)
    """
    y = as_floating("measurement", y)
    size = y.shape[y.ndim - len(degradation.shape) :]
    extend = partial(extended, prior=prior, degradation=degradation, sigma_y=sigma_y)

    def on_it(canvas: Array, key: Array, num_samples: int | None = None, progress=None) -> Array:
        x = restore(
            sampler,
            denoiser,
            degradation,
            canvas,
            levels,
            guidance,
            key,
            sigma_y=sigma_y,
            num_samples=num_samples,
            batch_size=batch_size,
            progress=progress,
        )
        return cropped(x, size)

    if not drawn:
        return on_it(extend(y, key=None), key, num_samples, progress)
    fill_key, key = jax.random.split(key)
    if num_samples is None:
        return on_it(extend(y, key=fill_key), key, None, progress)
    num_samples = check_whole("samples", num_samples)
    canvases = extend(jnp.stack([y] * num_samples), key=fill_key)
    samples = []
    for canvas, one in zip(canvases, jax.random.split(key, num_samples), strict=True):
        samples.append(jax.block_until_ready(on_it(canvas, one)))
        if progress is not None:
            progress(len(samples), num_samples)
    return jnp.stack(samples)


def _inside(size: tuple[int, ...], canvas: tuple[int, ...]) -> tuple[slice, ...]:
    """Where a crop lies on the canvas: in the middle, so that a network sees margin all around."""
    if len(size) != len(canvas) or any(n > N for n, N in zip(size, canvas, strict=True)):
        raise InputError(f"crop of size {size}: larger than the canvas {canvas}")
    return tuple(slice((N - n) // 2, (N - n) // 2 + n) for n, N in zip(size, canvas, strict=True))


def _even_length(n: int) -> int:
    """The smallest product of 4 and powers of 2, 3 and 5 that is >= n."""
    quarters = -(-n // 4)
    while not _is_smooth(quarters):
        quarters += 1
    return 4 * quarters


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def _conjugate_gradients(operator, preconditioner, b: np.ndarray, axes) -> np.ndarray:
    """operator^-1 b, plane by plane: both arguments are functions of [..., H, W]."""
    dot = lambda one, two: np.sum(one * two, axis=axes, keepdims=True)  # noqa: E731
    ratio = lambda a, b: np.divide(a, b, out=np.zeros_like(a), where=b > 0)  # noqa: E731
    x, r = np.zeros_like(b), b.copy()
    z = preconditioner(r)
    p, rz = z, dot(r, z)
    enough = TOLERANCE**2 * rz
    for _ in range(ITERATIONS):
        if np.all(rz <= enough):
            break
        q = operator(p)
        step = ratio(rz, dot(p, q))
        x += step * p
        r -= step * q
        z = preconditioner(r)
        before, rz = rz, dot(r, z)
        p = z + ratio(rz, before) * p
    return x
