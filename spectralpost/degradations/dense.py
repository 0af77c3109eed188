"""Degradations that mix all frequencies: one block of all modes.

Inpainting keeps pixels, of which none is an eigenvector of a stationary prior; of a given matrix
nothing is known. `restore` runs inpainting at any size, since its modes are the pixels themselves.
Closed forms need matrices of n x n for n pixels: up to `LARGEST`. Masks of larger images are
modelled by small ones (`spectralpost.inpainting`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import matmul
from ..errors import LARGEST_PLANES, InputError, check_shape, check_whole, is_number, times
from .base import Degradation, Eigenvectors, Orthogonal, made, mask_array, numbers
from .circular import RESPONSE_FLOOR, hartley_matrix

LARGEST = 1024  # pixels, 32x32: matrices of 8 MB
MASKS, KEEP = ("random", "box"), 0.5
TOLERANCE = 1e-4  # of the largest number: what single precision may do to a sum of many


def inpaint(
    shape: tuple[int, ...],
    mask: str | ArrayLike = "random",
    keep: float = KEEP,
    size: int | None = None,
    seed: int = 0,
    planes: int | None = None,
) -> Degradation:
    """Some pixels are known: y = mask x + noise where the mask is 1.

    mask    "random": a share `keep` of all pixels, chosen by `seed`. "box": all but a square (of
            `size` pixels along each axis, default half the image) in the middle. Or an array
            [*shape] of 0 (unknown) and 1; or [C, *shape], a mask of its own for each plane
    planes  "random": draw masks of their own for so many planes; None: all planes have one mask

    y has the shape of x; what it holds where the mask is 0, any finite numbers, is not looked at.
    Where planes have masks of their own, images are [..., C, *shape].
    Raises InputError for a mask of another shape or with other values, or that knows no pixel.

    >>> known = sp.inpaint((8, 8), keep=0.5).apply(x_0) != 0
    >>> [int(mask.sum()) for mask in known]
    [32, 32, 32, 32]
    """
    shape = check_shape(shape)
    n, options = int(np.prod(shape)), {}
    kind = mask if isinstance(mask, str) else "an array"
    for name, value, default, of in (
        ("keep", keep, KEEP, "random"),
        ("seed", seed, 0, "random"),
        ("planes", planes, None, "random"),
        ("size", size, None, "box"),
    ):
        if value != default and kind in (*MASKS, "an array") and kind != of:
            raise InputError(f"{name} = {value}: is of mask = {of!r} alone")
    if not isinstance(mask, str):
        known = mask_array(mask, shape, of_planes=True)
        planes = None if known.shape == shape else len(known)
        options = {"mask": known.astype(int).tolist()}
    elif mask == "random":
        if not (is_number(keep) and 0 < keep <= 1):
            raise InputError(f"keep = {keep}: must be > 0 and <= 1")
        seed = check_whole("seed", seed, 0)
        if planes is not None:
            planes = check_whole("planes", planes, maximum=LARGEST_PLANES)
        known = np.zeros((planes or 1, n))
        random = np.random.default_rng(seed)
        for plane in known:
            plane[random.permutation(n)[: max(round(keep * n), 1)]] = 1
        options = {"mask": mask, "keep": float(keep), "seed": seed}
        options |= {} if planes is None else {"planes": planes}
    elif mask == "box":
        sides = [max(m // 2, 1) if size is None else check_whole("size", size) for m in shape]
        pairs = list(zip(shape, sides, strict=True))
        if any(side > m for m, side in pairs):
            raise InputError(f"size = {size}: larger than the {times(shape)} image")
        known = np.ones(shape)
        known[tuple(slice((m - side) // 2, (m + side) // 2) for m, side in pairs)] = 0
        options = {"mask": mask} if size is None else {"mask": mask, "size": size}
    else:
        raise InputError(f"mask = {mask!r}: allowed are {', '.join(MASKS)}, or an array")
    known = known.reshape(1, -1)
    if not known.any():
        raise InputError("mask: knows no pixel")
    pixels = shape if planes is None else (planes, *shape)

    def flat(x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(pixels)], 1, known.size)

    def image(modes: Array) -> Array:
        return modes.reshape(*modes.shape[:-2], *pixels)

    def seen(modes: Array) -> Array:
        return jnp.broadcast_to(known.astype(modes.dtype), modes.shape) * modes

    return made(
        "inpaint",
        options,
        shape,
        known,
        signals=Orthogonal(flat, image),
        measurements=Orthogonal(lambda y: seen(flat(y)), lambda modes: image(seen(modes))),
        measured=pixels,
        make_eigenvectors=lambda: _one_block("inpaint", shape, planes),
        planes=planes,
    )


class Asked(NamedTuple):
    """A linear function, and what it makes of an image of noise."""

    ask: Callable[[np.ndarray], np.ndarray]  # [*shape] -> [*measured], in double precision
    x: np.ndarray
    y: np.ndarray

    def same(self, one: ArrayLike, two: ArrayLike) -> bool:
        """Whether two answers are the same, to what single precision may do to one."""
        gap = np.max(np.abs(np.asarray(one) - np.asarray(two)), initial=0)
        return bool(gap <= TOLERANCE * np.max(np.abs(self.y), initial=0))


def asked(function: Callable[[np.ndarray], ArrayLike], shape: tuple[int, ...]) -> Asked:
    """A function of images [*shape], tried on noise.

    Each answer is checked. InputError unless it is linear, and gives finite numbers of one shape.
    """
    measured: list[tuple[int, ...]] = []

    def ask(x: np.ndarray) -> np.ndarray:
        answer = function(x)
        try:
            y = np.asarray(answer).astype(float, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise InputError(f"degradation: gives no array of real numbers ({error})") from error
        if not y.size or not np.all(np.isfinite(y)):
            raise InputError("degradation: has NaN or infinite values, or none at all")
        measured.append(y.shape)
        if y.shape != measured[0]:
            raise InputError(
                f"degradation: gives {measured[0]} for one image and {y.shape} for another; one "
                "shape is needed"
            )
        return y

    x, other = np.random.default_rng(0).normal(size=(2, *shape))
    found = Asked(ask, x, ask(x))
    if not found.same(ask(2 * x + other), 2 * found.y + ask(other)):
        raise InputError("degradation: is not linear")
    return found


def from_matrix(
    shape: tuple[int, ...],
    matrix: ArrayLike | Callable[[np.ndarray], ArrayLike],
    measured: tuple[int, ...] | None = None,
) -> Degradation:
    """Any linear degradation of images of at most 1024 pixels, plane by plane.

    matrix    [m, n] for n pixels in the order of `ravel`. Or a linear function of an image
              [*shape], which is asked for each pixel alone
    measured  the shape of y, of m numbers; default (m,), or the shape that the function gives

    Raises InputError for another number of columns, NaN, zeros only, or too many pixels, and for a
    function that is not linear or whose shape varies.

    >>> every_second = jax.numpy.eye(64)[::2]
    >>> sp.from_matrix((8, 8), every_second).apply(x_0).shape
    (4, 32)
    """
    shape = check_shape(shape)
    n = int(np.prod(shape))
    if n > LARGEST:
        raise InputError(
            f"shape = {times(shape)}: a matrix is for at most {LARGEST} pixels; allowed of larger "
            "images are blurs, decimations and masks (from_function finds which a function is; "
            "inpainting_problem models masks), mosaic and mri"
        )
    if callable(matrix):
        function = asked(matrix, shape)
        measured = (function.y.shape or (1,)) if measured is None else measured
        columns = [function.ask(unit).ravel() for unit in np.eye(n).reshape(n, *shape)]
        matrix = np.stack(columns, axis=1)
    H = numbers("matrix", matrix)
    if H.ndim != 2 or H.shape[1] != n:
        raise InputError(f"matrix of shape {H.shape}: (m, {n}) is needed for {times(shape)} pixels")
    options: dict = {"matrix": H.tolist()}
    measured = check_shape((len(H),) if measured is None else measured)
    if int(np.prod(measured)) != len(H):
        raise InputError(f"measured = {measured}: the matrix gives {len(H)} numbers")
    if measured != (len(H),):
        options["measured"] = list(measured)
    U, found, Vt = np.linalg.svd(H)
    m, rank = len(H), len(found)
    response = np.zeros((1, n))
    response[0, :rank] = np.where(found < RESPONSE_FLOOR * found[0], 0, found)

    def to_modes(x: Array) -> Array:
        return matmul(x.reshape(*x.shape[: x.ndim - len(shape)], 1, n), Vt.T.astype(x.dtype))

    def from_modes(modes: Array) -> Array:
        found = matmul(modes, Vt.astype(modes.dtype))
        return found.reshape(*modes.shape[:-2], *shape)

    def to_measured(y: Array) -> Array:
        rows = y.reshape(*y.shape[: y.ndim - len(measured)], 1, m)
        first = matmul(rows, U[:, :rank].astype(y.dtype))
        return jnp.pad(first, [(0, 0)] * (first.ndim - 1) + [(0, n - rank)])

    def from_measured(modes: Array) -> Array:
        y = matmul(modes[..., :rank], U[:, :rank].T.astype(modes.dtype))
        return y.reshape(*modes.shape[:-2], *measured)

    return made(
        "from_matrix",
        options,
        shape,
        response,
        signals=Orthogonal(to_modes, from_modes),
        measurements=Orthogonal(to_measured, from_measured),
        measured=measured,
        make_eigenvectors=lambda: _one_block("from_matrix", shape, None, Vt),
    )


def _one_block(
    name: str, shape: tuple[int, ...], planes: int | None, Vt: np.ndarray | None = None
) -> Eigenvectors:
    """The Hartley functions of each plane, in mode coordinates V^T x (default: pixels)."""
    pixels = shape if planes is None else (planes, *shape)
    n = int(np.prod(pixels))
    if n > LARGEST:
        raise InputError(
            f"{name}: one block of {times(pixels)} pixels, at most {LARGEST} are possible; "
            "inpainting_problem models masks of larger images"
        )
    vectors = np.kron(np.eye(planes or 1), hartley_matrix(shape))
    return Eigenvectors(np.arange(n)[None], (vectors if Vt is None else Vt @ vectors)[None])
