"""Cameras: one number a pixel of a colour image, by a pattern that repeats every one or two pixels.

y = sum_c pattern_c x_c: a Bayer mosaic, or a grey image of a colour one. A pattern of period two
mixes the four frequencies q + j shape / 2, j = 0, 1 along each axis, of all planes,

    y_(q,l) = sum_(c,j) M_(l-j),c x_(q,j),c,      M_.,c = DFT(pattern_c) / 2^axes, real,

with x in Hartley coordinates: the same matrix for all q, so its singular value decomposition is
that of all blocks. Unlike other degradations this one takes the planes of an image together.
"""

from itertools import product

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import matmul
from ..errors import InputError, check_shape, times
from .base import Degradation, Eigenvectors, Orthogonal, made, numbers
from .circular import RESPONSE_FLOOR, hartley
from .downsample import aliased, unaliased

# ITU-R BT.601, as Pillow and MATLAB make colour images grey.
GREY = (0.299, 0.587, 0.114)
BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")


def mosaic(shape: tuple[int, ...], pattern: str | ArrayLike = "RGGB") -> Degradation:
    """One number a pixel of a colour image: demosaicing, colouring. shape: of a plane, (H, W).

    pattern  "RGGB", "BGGR", "GRBG" or "GBRG": which plane is seen, of the first two rows (Bayer).
             "grey": 0.299 R + 0.587 G + 0.114 B. Or the planes' shares, an array [p, p, C], that
             repeats every p = 1 or 2 pixels

    Images are [..., C, H, W] and y is [..., H, W].
    Raises InputError for a shape that is not of two axes or not a multiple of p, and a pattern of
    another period, NaN, or zeros only.

    >>> bayer = sp.mosaic((8, 8))
    >>> bayer.apply(x_0[:3]).shape  # an image of three planes
    (8, 8)
    """
    shape = check_shape(shape)
    if len(shape) != 2:
        raise InputError(f"shape = {shape}: a mosaic is for two dimensions")
    if not isinstance(pattern, str):
        shares = numbers("pattern", pattern)
        stored = shares.tolist()
    elif pattern == "grey":
        shares, stored = np.array(GREY).reshape(1, 1, 3), pattern
    elif pattern in BAYER:
        shares, stored = np.eye(3)[["RGB".index(letter) for letter in pattern]], pattern
        shares = shares.reshape(2, 2, 3)
    else:
        allowed = ", ".join((*BAYER, "grey"))
        raise InputError(
            f"pattern = {pattern!r}: allowed are {allowed}, or an array [p, p, planes]"
        )
    p = len(shares) if shares.ndim else 0
    if shares.ndim != 3 or shares.shape[1] != p or p not in (1, 2):
        raise InputError(f"pattern of shape {shares.shape}: [1, 1, planes] or [2, 2, planes]")
    if any(n % p for n in shape):
        raise InputError(f"pattern of {p}x{p} pixels: does not divide the size {times(shape)}")
    planes, of_a_block = shares.shape[2], p**2
    k = planes * of_a_block

    M = np.fft.fft2(shares, axes=(0, 1)).real / of_a_block
    places = list(product(range(p), repeat=2))
    H = np.array(
        [[M[(l0 - j0) % p, (l1 - j1) % p] for j0, j1 in places] for l0, l1 in places]
    )  # [l, j, c]
    U, found, Vt = np.linalg.svd(H.transpose(0, 2, 1).reshape(of_a_block, k))
    rank = len(found)
    response = np.zeros((int(np.prod(shape)) // of_a_block, k))
    response[:, :rank] = np.where(found < RESPONSE_FLOOR * found[0], 0, found)
    order, axes = _lowest_first(shape, p), (-2, -1)

    def blocks(x: Array) -> Array:
        """Hartley coordinates [..., B, p^2] of planes [..., H, W]."""
        found = aliased(hartley(x, axes), p, 2)
        return jnp.take_along_axis(found, jnp.broadcast_to(order, found.shape), axis=-1)

    def plane(found: Array) -> Array:
        # `order` is its own inverse.
        found = jnp.take_along_axis(found, jnp.broadcast_to(order, found.shape), axis=-1)
        return hartley(unaliased(found, p, shape), axes)

    def to_modes(x: Array) -> Array:
        found = jnp.moveaxis(blocks(x), -3, -2)  # [..., B, C, p^2]
        return matmul(found.reshape(*found.shape[:-2], k), Vt.T.astype(x.dtype))

    def from_modes(modes: Array) -> Array:
        found = matmul(modes, Vt.astype(modes.dtype))
        return plane(jnp.moveaxis(found.reshape(*modes.shape[:-1], planes, of_a_block), -2, -3))

    def to_measured(y: Array) -> Array:
        found = matmul(blocks(y), U[:, :rank].astype(y.dtype))
        return jnp.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, k - rank)])

    def from_measured(modes: Array) -> Array:
        return plane(matmul(modes[..., :rank], U[:, :rank].T.astype(modes.dtype)))

    def eigenvectors() -> Eigenvectors:
        n = int(np.prod(shape))
        one = np.take_along_axis(aliased(np.arange(n).reshape(shape), p, 2), order, axis=-1)
        every = one[:, None, :] + n * np.arange(planes)[:, None]
        return Eigenvectors(every.reshape(-1, k), np.broadcast_to(Vt, (len(one), k, k)))

    return made(
        "mosaic",
        {"pattern": stored},
        shape,
        response,
        signals=Orthogonal(to_modes, from_modes),
        measurements=Orthogonal(to_measured, from_measured),
        make_eigenvectors=eigenvectors,
        planes=planes,
    )


def _lowest_first(shape: tuple[int, ...], p: int) -> np.ndarray:
    """[B, p^2]: j of each block so that its lowest frequency stands first. Both sides of H take it,
    which H, a circulant, does not notice; blocks q and -q become the same."""
    number = np.arange(p**2)
    if p == 1:
        return np.zeros((int(np.prod(shape)), 1), int)
    low = [4 * np.arange(n // 2) > n for n in shape]  # where q + n / 2 is nearer to 0
    flips = 2 * low[0][:, None] + low[1][None, :]
    return number[None] ^ flips.reshape(-1, 1)
