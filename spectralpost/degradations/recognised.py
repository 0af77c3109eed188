"""Degradations given as functions, those of deepinv among them: what they are is found by asking.

A mask is what it does to ones; a circular convolution, decimated or not, what it does to single
pixels. Both are then tried on noise. So conventions (where a kernel has its centre, whether it is
flipped, which pixel is kept) need not be known.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from ..errors import InputError, check_shape, times
from .base import Degradation
from .circular import from_kernel, identity
from .dense import LARGEST, TOLERANCE, asked, from_matrix, inpaint
from .downsample import downsample
from .mosaic import mosaic

NOTHING = 1e-7  # of a kernel's largest number


def from_function(
    function: Callable[[np.ndarray], ArrayLike], shape: tuple[int, ...]
) -> Degradation:
    """The degradation that a linear function of images [*shape] is, plane by plane.

    It may be a mask (`inpaint`), a circular convolution (`from_kernel`) or one of which every
    factor-th pixel is kept (`downsample`), at any size; any other (`from_matrix`) for at most 1024
    pixels. Asked in double precision; the answer may be in single, so that what differs by less
    than 0.01 % of its largest values is taken for the simpler one; a mask has to be 0 and 1.
    Raises InputError if it is not linear, has NaN, or is none of these.

    >>> sp.from_function(lambda x: x[::2, ::2], (8, 8)).name
    'downsample'
    """
    if not callable(function):
        raise InputError(
            f"function: {type(function).__name__} was given, a function is needed; from_matrix "
            "takes matrices"
        )
    shape = check_shape(shape)
    ask, x, y = found = asked(function, shape)
    same = found.same
    if y.shape == shape:
        mask = ask(np.ones(shape))
        if same(mask * x, y) and np.all((mask == 0) | (mask == 1)):
            return identity(shape) if mask.all() else inpaint(shape, mask)
    factors = {n / m for n, m in zip(shape, y.shape, strict=False)}
    if y.ndim == len(shape) and len(factors) == 1 and (ratio := factors.pop()) % 1 == 0:
        factor = int(ratio)
        kernel = _kernel(ask, shape, factor)
        if np.any(kernel):  # else single pixels are lost that others of a convolution are not
            blur = from_kernel(kernel, shape) if factor == 1 else downsample(shape, factor, kernel)
            if same(blur.apply(x), y):
                return blur
    if x.size <= LARGEST:
        return from_matrix(shape, function)
    raise InputError(
        f"degradation of {times(shape)} pixels: neither a mask nor a circular convolution, with or "
        f"without decimation; others are for at most {LARGEST} (allowed at any size are mosaic and "
        "mri, by name; restore_crop is for blurs that are not circular)"
    )


def from_deepinv(physics: Any, shape: tuple[int, ...]) -> Degradation:
    """The degradation of a linear `deepinv.physics`, as `from_function`.

    shape  [H, W], or [C, H, W] for physics of C planes

    These have to treat planes alike; or be masks of each plane (`inpaint`: deepinv's `Inpainting`
    and `Demosaicing`) or a sum of planes that repeats every one or two pixels (`mosaic`: its
    `Decolorize`, whose y is [B, 1, H, W] there and [B, H, W] here).
    Noise is left out. deepinv's images are in [0, 1]: for a pixel range of [-1, 1] its sigma counts
    twice. A kernel's `padding` must be "circular"; of crops of larger scenes see `restore_crop`,
    of denoisers `torch_denoiser`. Raises InputError for other physics; deepinv's `MRI` is one of
    complex images.

    An example: docs/exports.md#denoisers-and-physics-of-deepinv.
    """
    import torch  # pyright: ignore[reportMissingImports]

    planes, plane = (shape[0] if len(shape) == 3 else 1), tuple(shape[-2:])

    def of_image(x: np.ndarray) -> np.ndarray:
        images = torch.as_tensor(x, dtype=torch.float32).expand(1, planes, *plane)
        try:
            with torch.no_grad():
                return physics.A(images)[0].double().cpu().numpy()
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"degradation: {type(physics).__name__} takes no real images of shape "
                f"{(planes, *plane)} ({words})"
            ) from error

    x = np.random.default_rng(0).normal(size=(planes, *plane))
    y = of_image(x)
    if planes == 1 and y.ndim == 1:  # numbers, no image
        return from_function(of_image, plane)
    alone = lambda x: of_image(x)[0]  # noqa: E731
    if y.shape[0] == planes and all(
        np.max(np.abs(found - alone(one))) <= TOLERANCE * np.max(np.abs(y))
        for one, found in zip(x, y, strict=True)
    ):
        return from_function(alone, plane)
    ask, x, y = found = asked(of_image, (planes, *plane))
    if y.shape == x.shape:
        mask = ask(np.ones_like(x))
        if found.same(mask * x, y) and np.all((mask == 0) | (mask == 1)):
            return inpaint(plane, mask)
    elif y.shape == (1, *plane):
        ones = np.eye(planes)[:, :, None, None] * np.ones(plane)  # of each plane alone
        shares = np.stack([ask(one)[0] for one in ones], axis=-1)
        for p in (1, 2):
            pattern = shares[:p, :p]
            repeats = all(n % p == 0 for n in plane)
            if repeats and found.same(mosaic(plane, pattern).apply(x), y[0]):
                return mosaic(plane, pattern)
    raise InputError(
        f"degradation: {type(physics).__name__} does not treat all planes alike; allowed then are "
        "masks of each plane and sums of planes that repeat every one or two pixels (Fourier "
        "samples of real images: mri)"
    )


def to_deepinv(degradation: Degradation) -> Any:
    """A `deepinv.physics.LinearPhysics` of tensors [B, C, *shape], by JAX; without noise.

    Measurements are tensors [B, C, *measured]; of `mosaic`, which sums planes, [B, 1, H, W].
    deepinv's solvers may ask for its adjoint; neither is differentiable by torch. A denoiser, which
    is, comes from `as_torch_denoiser`.

    An example: docs/exports.md#denoisers-and-physics-of-deepinv.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from deepinv.physics import LinearPhysics  # pyright: ignore[reportMissingImports]

    def through(function: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
        def call(x: Any, **_: Any) -> Any:
            return torch.as_tensor(np.array(function(x.detach().cpu().numpy()))).to(x)

        return call

    apply, adjoint = degradation.apply, degradation.adjoint
    if degradation.sums_planes:
        apply = lambda x: degradation.apply(x)[:, None]  # noqa: E731
        adjoint = lambda y: degradation.adjoint(y[:, 0])  # noqa: E731
    return LinearPhysics(A=through(apply), A_adjoint=through(adjoint))


def _kernel(
    ask: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], factor: int
) -> np.ndarray:
    """The kernel w of y_i = sum_j w_(factor i - j) x_j, its centre at size // 2.

    A pixel r alone gives w at factor i - r, so those of one square of factor x factor give all.
    """
    whole = np.zeros(shape)
    for r in product(range(factor), repeat=len(shape)):
        pixel = np.zeros(shape)
        pixel[r] = 1
        places = [(np.arange(0, n, factor) - at) % n for n, at in zip(shape, r, strict=True)]
        whole[np.ix_(*places)] = ask(pixel)
    centred = np.roll(whole, [n // 2 for n in shape], axis=range(len(shape)))
    # As small as it can be: it is written to schedule files.
    used = np.nonzero(np.abs(centred) > NOTHING * np.max(np.abs(centred)))
    cut = []
    for n, along in zip(shape, used, strict=True):
        reach = int(np.max(np.abs(along - n // 2), initial=0))
        low = max(n // 2 - reach, 0)
        cut.append(slice(low, min(n // 2 + reach + 1, n)))
    return centred[tuple(cut)]
