"""A small U-Net as denoiser, conditional on the noise level, for images of any size divisible by 4.

The network F is preconditioned as in EDM (Karras et al., "Elucidating the Design Space of
Diffusion-Based Generative Models", 2022, section 5), here for x_t = alpha x_0 + sigma eps, with
d the standard deviation of a pixel and v = alpha^2 d^2 + sigma^2 that of x_t:

    x_hat = (alpha d^2 / v) x_t + (sigma d / sqrt(v)) F(x_t / sqrt(v), log(sigma / alpha) / 4),

so that F has to be of unit size at every level, and alpha may be 0.
"""

import os
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.serialization import msgpack_restore, msgpack_serialize
from jax import Array

from ..algebra import as_floating, floating
from ..denoiser_checks import as_images
from ..errors import InputError, reason_of
from ..files import whole_file
from ..images import PIXEL_RANGE, PixelRange, check_pixel_range
from ..noise import NoiseLevel, noisy_variance

SHIPPED = Path(__file__).with_name("unet.msgpack")
LARGEST = 2**26  # bytes of a file
FREQUENCIES = 16  # of the level, as the network sees it
EMBEDDING = 128
DATA_STD = 0.5  # of a pixel in [-1, 1]
LOG_RANGE = 12.0  # of log(sigma / alpha) that the network is shown; both ends are clear cases


def _plain_convolution(x: Array, kernel: Array) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """Images [N, H, W, I] with a kernel [h, w, I, O] of odd sides, zeros around: [N, H, W, O].

    Its derivative by x is the convolution with the kernel turned round. JAX says that by permuted
    dimensions, for which XLA on CPUs has no fast program, least of all in a loop, where samplers
    have it. Has no forward mode.
    """
    return _plain_convolution(x, kernel)


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    turned = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    by_kernel = jax.vjp(partial(_plain_convolution, x), kernel)[1](cotangent)[0]
    return convolve(cotangent, turned), by_kernel


convolve.defvjp(_convolve_forward, _convolve_backward)


class Conv(nnx.Conv):
    """`nnx.Conv` without stride, by `convolve`."""

    def __call__(self, inputs: Array) -> Array:
        assert self.bias is not None
        return convolve(inputs, self.kernel[...]) + self.bias[...]


class Block(nnx.Module):
    """x + conv(silu(level-dependent affine map of conv(silu(x)))). Without any norm over the image,
    so that a patch is denoised alike whatever is around it."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.first = Conv(width, width, (3, 3), rngs=rngs)
        self.level = nnx.Linear(EMBEDDING, 2 * width, rngs=rngs)
        # A block begins as the identity.
        zeros = nnx.initializers.zeros_init()
        self.second = Conv(width, width, (3, 3), kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, level: Array) -> Array:
        scale, shift = jnp.split(self.level(level)[:, None, None, :], 2, axis=-1)
        return x + self.second(nnx.silu(self.first(nnx.silu(x)) * (1 + scale) + shift))


class UNet(nnx.Module):
    """F: images [N, H, W, planes] of unit size and levels [N] -> the same shape.

    Works on every second pixel with `width` channels per four pixels, and on every fourth with
    twice as many.
    """

    def __init__(self, planes: int, width: int, blocks: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Sequential(
            nnx.Linear(2 * FREQUENCIES, EMBEDDING, rngs=rngs),
            nnx.silu,
            nnx.Linear(EMBEDDING, EMBEDDING, rngs=rngs),
            nnx.silu,
        )
        blocks_of = lambda width: nnx.List([Block(width, rngs=rngs) for _ in range(blocks)])  # noqa: E731
        self.first = Conv(4 * planes, width, (3, 3), rngs=rngs)
        self.before = blocks_of(width)
        self.down = Conv(4 * width, 2 * width, (1, 1), rngs=rngs)
        self.inside = blocks_of(2 * width)
        self.up = Conv(2 * width, 4 * width, (1, 1), rngs=rngs)
        self.after = blocks_of(width)
        zeros = nnx.initializers.zeros_init()
        self.last = Conv(width, 4 * planes, (3, 3), kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, level: Array) -> Array:
        frequencies = jnp.geomspace(0.5, 16.0, FREQUENCIES, dtype=x.dtype)
        angles = level[:, None] * frequencies[None]
        level = self.embed(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1))
        x = self.first(_unshuffle(x))
        for block in self.before:
            x = block(x, level)
        y = self.down(_unshuffle(x))
        for block in self.inside:
            y = block(y, level)
        x = x + _shuffle(self.up(y))
        for block in self.after:
            x = block(x, level)
        return _shuffle(self.last(nnx.silu(x)))


@flax.struct.dataclass
class UNetDenoiser:
    """(x_t, t) -> x_hat for images [..., planes, H, W], or [..., H, W] if it has one plane.

    A pytree: weights are leaves. H and W have to be divisible by 4, pixels are in `pixel_range`.
    Computes in single precision, whatever x_t has, and returns the dtype of x_t. Raises InputError
    for images of another shape.
    """

    params: Any
    planes: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)
    blocks: int = flax.struct.field(pytree_node=False)
    pixel_range: PixelRange = flax.struct.field(pytree_node=False, default=PIXEL_RANGE)

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        given = as_floating("x_t", x_t)
        images = as_images(given, t, self.planes, "the network", divisor=4).astype(np.float32)
        low, high = self.pixel_range
        half, middle = (high - low) / 2, (high + low) / 2
        (t,) = floating(t, dtype=np.dtype(np.float32))
        unit = NoiseLevel(t.alpha, t.sigma / half)
        x_hat = self.in_unit_range((images - t.alpha * middle) / half, unit)
        return (half * x_hat + middle).reshape(given.shape).astype(given.dtype)

    def in_unit_range(self, x_t: Array, t: NoiseLevel) -> Array:
        """x_hat of images [N, planes, H, W] in [-1, 1]; levels of all images, or one each [N]."""
        levels = (jnp.broadcast_to(leaf, x_t.shape[:1]) for leaf in t)
        alpha, sigma = (leaf[:, None, None, None] for leaf in levels)
        v = noisy_variance(DATA_STD**2, NoiseLevel(alpha, sigma))
        log_ratio = jnp.log(sigma) - jnp.log(alpha)
        level = jnp.clip(log_ratio[:, 0, 0, 0], -LOG_RANGE, LOG_RANGE) / 4
        with jax.numpy_rank_promotion("allow"):  # flax adds biases
            network = _network(self.params, self.planes, self.width, self.blocks)
            f = network(jnp.moveaxis(x_t / jnp.sqrt(v), 1, -1), level)
        return alpha * DATA_STD**2 / v * x_t + sigma * DATA_STD / jnp.sqrt(v) * jnp.moveaxis(
            f, -1, 1
        )

    def in_range(self, pixel_range: PixelRange) -> "UNetDenoiser":
        """The same network for images in another pixel range."""
        check_pixel_range(pixel_range)
        low, high = map(float, pixel_range)
        return replace(self, pixel_range=(low, high))


def initial_denoiser(planes: int, width: int, blocks: int, seed: int) -> UNetDenoiser:
    """What training starts from: x_hat is that of independent pixels."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        network = UNet(planes, width, blocks, rngs=nnx.Rngs(seed))
    params = nnx.to_pure_dict(nnx.split(network)[1])
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    return UNetDenoiser(params=params, planes=planes, width=width, blocks=blocks)


def save_unet(path: str | os.PathLike[str], denoiser: UNetDenoiser) -> None:
    """Write a network as MessagePack, its weights in half precision; InputError if it exists.

    >>> sp.save_unet("mine.msgpack", sp.load_unet())
    >>> sp.load_unet("mine.msgpack").planes
    3
    """
    leaves = jax.tree_util.tree_leaves_with_path(denoiser.params)
    weights = {jax.tree_util.keystr(path): np.asarray(leaf, np.float16) for path, leaf in leaves}
    about = {name: getattr(denoiser, name) for name in ("planes", "width", "blocks")}
    content = {"format": 1, **about, "pixel_range": list(denoiser.pixel_range), "weights": weights}
    with whole_file(path) as temporary:
        temporary.write_bytes(msgpack_serialize(content))


def load_unet(path: str | os.PathLike[str] | None = None) -> UNetDenoiser:
    """Read what `save_unet` wrote; InputError if that fails. None: the network that comes with this
    package, for colour images in [-1, 1] (docs/network.md).

    >>> sp.load_unet().planes
    3
    """
    path = SHIPPED if path is None else path
    try:
        with open(path, "rb") as file:
            content = msgpack_restore(file.read(LARGEST))
        if content["format"] != 1:
            raise ValueError(f"format {content['format']}, this version reads 1")
        about = [int(content[name]) for name in ("planes", "width", "blocks")]
        if not 0 < about[2] <= len(content["weights"]):  # before a network of that size is made
            raise ValueError(f"{about[2]} blocks")
        params = nnx.to_pure_dict(_abstract(*about)[1])
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        weights = []
        for name, leaf in leaves:
            weight = np.asarray(content["weights"][jax.tree_util.keystr(name)], np.float32)
            if weight.shape != leaf.shape or not np.all(np.isfinite(weight)):
                raise ValueError(
                    f"{jax.tree_util.keystr(name)}: {leaf.shape} finite numbers are needed"
                )
            weights.append(jnp.asarray(weight))
        planes, width, blocks = about
        denoiser = UNetDenoiser(jax.tree.unflatten(structure, weights), planes, width, blocks)
        return denoiser.in_range(tuple(content["pixel_range"]))
    except Exception as error:  # flax and msgpack raise all kinds for bytes that are not theirs
        raise InputError(f"network {str(path)!r}: cannot be read ({reason_of(error)})") from error


@lru_cache(maxsize=16)
def _abstract(planes: int, width: int, blocks: int) -> tuple[nnx.GraphDef, nnx.State]:
    """What a network is but for its weights, of which only the shapes are here."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        network = nnx.eval_shape(lambda: UNet(planes, width, blocks, rngs=nnx.Rngs(0)))
    return nnx.split(network)


def _network(params: Any, planes: int, width: int, blocks: int) -> UNet:
    definition, state = _abstract(planes, width, blocks)
    state = jax.tree.map(lambda leaf: leaf, state)  # a copy, to be filled
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(definition, state)


def _unshuffle(x: Array) -> Array:
    """[N, H, W, C] -> [N, H / 2, W / 2, 4 C]."""
    n, h, w, c = x.shape
    return (
        x.reshape(n, h // 2, 2, w // 2, 2, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, h // 2, w // 2, 4 * c)
    )


def _shuffle(x: Array) -> Array:
    """The inverse of `_unshuffle`."""
    n, h, w, c = x.shape
    return (
        x.reshape(n, h, w, 2, 2, c // 4)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, 2 * h, 2 * w, c // 4)
    )
