"""FFDNet, a convolutional network conditional on the noise level, with weights of a file.

Every second pixel of every plane becomes a channel, the noise level one more; then convolutions of
3x3 with zeros around, ReLU between them, and back: the estimate itself, not its residual.

Source: Zhang, Zuo, Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image
Denoising", 2018 (arXiv 1710.04026). Files are those of its authors' PyTorch code (github.com/
cszn/KAIR): 12 layers of 96 channels for colour, 15 of 64 for grey images.
"""

import os

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..algebra import as_floating, floating
from ..denoiser_checks import as_images
from ..errors import InputError, shown
from ..images import PIXEL_RANGE, PixelRange
from ..noise import NoiseLevel
from ..prior import Prior
from ..state_dict import read_state_dict
from .gaussian import GaussianAbove
from .unet import convolve

# Largest sigma / alpha for pixels in [-1, 1]. The authors train to 0.59 (75 of 255 grey levels);
# their colour network is better than the Gaussian denoiser of photographs up to here.
LIMIT = 1.5


@flax.struct.dataclass
class FFDNetDenoiser:
    """(x_t, t) -> x_hat for images [..., planes, H, W], or [..., H, W] if it has one plane.

    A pytree: weights are leaves. Pixels are in `pixel_range`, levels are numbers with alpha > 0.
    Computes in single precision, whatever x_t has, and returns the dtype of x_t. Has no forward
    mode. Raises InputError for images of another shape. `load_ffdnet` reads it, and puts the
    Gaussian denoiser where it has not been trained.
    """

    layers: tuple[tuple[Array, Array], ...]  # kernels [3, 3, I, O] and biases [O]
    planes: int = flax.struct.field(pytree_node=False)
    pixel_range: PixelRange = flax.struct.field(pytree_node=False, default=PIXEL_RANGE)

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        given = as_floating("x_t", x_t)
        images = as_images(given, t, self.planes, "FFDNet").astype(np.float32)
        (t,) = floating(t, dtype=np.dtype(np.float32))
        low, high = self.pixel_range
        x_hat = self.in_unit_range(
            (images / t.alpha - low) / (high - low), t.sigma / t.alpha / (high - low)
        )
        return (low + (high - low) * x_hat).reshape(given.shape).astype(given.dtype)

    def in_unit_range(self, x: Array, sigma: Array) -> Array:
        """The estimate of images [N, planes, H, W] in [0, 1], from x = x_0 + sigma eps."""
        (height, width), planes = x.shape[-2:], self.planes
        x = jnp.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), "edge")
        n, _, rows, columns = x.shape
        x = x.reshape(n, planes, rows // 2, 2, columns // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        x = x.reshape(n, rows // 2, columns // 2, 4 * planes)
        x = jnp.concatenate([x, jnp.broadcast_to(sigma, (*x.shape[:3], 1))], axis=-1)
        for i, (kernel, bias) in enumerate(self.layers):
            x = convolve(jax.nn.relu(x) if i else x, kernel)
            x = x + jnp.broadcast_to(bias, x.shape)
        x = x.reshape(n, rows // 2, columns // 2, planes, 2, 2).transpose(0, 3, 1, 4, 2, 5)
        return x.reshape(n, planes, rows, columns)[..., :height, :width]


def load_ffdnet(path: str | os.PathLike[str], prior: Prior) -> GaussianAbove[FFDNetDenoiser]:
    """Read weights, a state_dict as the authors publish them; InputError if that fails.

    prior  its Gaussian denoiser takes over where sigma / alpha > 1.5 in [-1, 1] (`LIMIT`, scaled to
           the prior's pixel range); images have its size and pixel range. `.denoiser` is the
           network alone, for images of any size

    An example: docs/denoisers.md#ffdnet.
    """
    weights = read_state_dict(path)
    count = len(weights) // 2
    names = [f"model.{2 * i}.{kind}" for i in range(count) for kind in ("weight", "bias")]
    if count < 2 or set(names) != set(weights):
        raise InputError(f"weights {shown(path)}: not those of an FFDNet (other names)")
    layers = [
        (weights[name], weights[bias]) for name, bias in zip(names[::2], names[1::2], strict=True)
    ]
    planes, width = layers[-1][1].size // 4, layers[0][1].size
    widths = [4 * planes + 1, *[width] * (count - 1), 4 * planes]
    for i, (kernel, bias) in enumerate(layers):
        wanted = (widths[i + 1], widths[i], 3, 3)
        if planes not in (1, 3) or kernel.shape != wanted or bias.shape != wanted[:1]:
            raise InputError(
                f"weights {shown(path)}: not those of an FFDNet (layer {i}: {kernel.shape})"
            )
        if not (np.all(np.isfinite(kernel)) and np.all(np.isfinite(bias))):
            raise InputError(f"weights {shown(path)}: NaN or infinite numbers")
    low, high = prior.pixel_range
    denoiser = FFDNetDenoiser(
        layers=tuple(
            (jnp.asarray(kernel.transpose(2, 3, 1, 0), np.float32), jnp.asarray(bias, np.float32))
            for kernel, bias in layers
        ),
        planes=planes,
        pixel_range=(low, high),
    )
    return GaussianAbove.of(denoiser, prior, LIMIT * (high - low) / 2)
