"""A denoiser of JAX as a module of PyTorch, differentiated by JAX: `pytorch.py` the other way."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..denoiser_checks import as_returned
from ..errors import InputError
from ..images import PIXEL_RANGE, PixelRange, check_pixel_range
from ..noise import NoiseLevel
from .gaussian import as_pytree


def as_torch_denoiser(
    denoiser: Callable[[Array, NoiseLevel], Array],
    *,
    pixel_range: PixelRange = PIXEL_RANGE,
    model_range: PixelRange = (0.0, 1.0),
) -> Any:
    """A `torch.nn.Module` that deepinv takes as a denoiser: `module(x, sigma)` is x_hat of
    x = x_0 + sigma n. The counterpart of `torch_denoiser`.

    denoiser     (x_t, level) -> x_hat of images [..., planes, H, W] in `pixel_range`
    pixel_range  of the images that the denoiser is for
    model_range  of x, and the unit of sigma

    x is [N, planes, H, W] on any device and of any floating dtype, which x_hat has too; sigma a
    number, or one for each image. The denoiser is asked at the level with alpha^2 + sigma^2 = 1 of
    the same log SNR, in single precision, or in x's where JAX computes in double. Derivatives by x
    and sigma are those of `jax.vjp`, of first order and reverse mode only. Weights are constants.
    Arrays pass through the host. Raises InputError for x or sigma of another
    shape, and a denoiser that returns no real images of the shape of those given.

    An example: docs/denoisers.md#the-other-way-in-deepinv.
    """
    if not callable(denoiser):
        raise InputError(f"denoiser: {type(denoiser).__name__} is not a function")
    (low, high), (model_low, model_high) = pixel_range, model_range
    for ends in (pixel_range, model_range):
        check_pixel_range(ends)
    scale = (high - low) / (model_high - model_low)
    kind, _ = _torch_classes()
    return kind(as_pytree(denoiser), scale, low - scale * model_low)


@jax.jit
def _denoised(denoiser: Any, scale: float, shift: float, x: Array, sigma: Array) -> Array:
    """x_hat of images x [N, planes, H, W], scale x + shift of which the denoiser is for, at the
    level sigma [], or [N]."""

    def one(x: Array, sigma: Array) -> Array:
        size = jnp.sqrt(1 + (scale * sigma) ** 2)
        level = NoiseLevel(1 / size, scale * sigma / size)
        x_t = (scale * x + shift) / size
        x_hat = as_returned(denoiser(x_t, level), x_t)
        return ((x_hat - shift) / scale).astype(x.dtype)

    return one(x, sigma) if sigma.ndim == 0 else jax.vmap(one)(x, sigma)


@jax.jit
def _pulled(
    denoiser: Any, scale: float, shift: float, x: Array, sigma: Array, cotangent: Array
) -> tuple[Array, Array]:
    """Cotangents of x and sigma, given that of x_hat."""
    _, back = jax.vjp(partial(_denoised, denoiser, scale, shift), x, sigma)
    return back(cotangent)


@lru_cache(maxsize=1)
def _torch_classes() -> tuple[Any, Any]:
    """The module, and the function that tells PyTorch its derivative; made where torch is used."""
    import torch  # pyright: ignore[reportMissingImports]

    class Denoised(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, denoise: Any, x: Any, sigma: Any) -> Any:
            ctx.denoise = denoise
            ctx.save_for_backward(x, sigma)
            return _tensor(_denoised(*denoise, _array(x), _array(sigma)), x)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, cotangent: Any) -> Any:
            x, sigma = ctx.saved_tensors
            by = _pulled(*ctx.denoise, *map(_array, (x, sigma, cotangent)))
            return None, *map(_tensor, by, (x, sigma))

    class JaxDenoiser(torch.nn.Module):
        def __init__(self, *denoise: Any):
            super().__init__()
            self.denoise = denoise

        def forward(self, x: Any, sigma: Any) -> Any:
            if x.ndim != 4 or 0 in x.shape or not x.is_floating_point():
                kind = f"{x.dtype} of shape {tuple(x.shape)}"
                raise InputError(f"x: {kind}: floating images [N, planes, H, W] are needed")
            each = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)
            if len(each) not in (1, len(x)):
                raise InputError(
                    f"sigma of shape {tuple(each.shape)}: one number, or one for each of {len(x)} "
                    "images"
                )
            return Denoised.apply(self.denoise, x, each if len(each) > 1 else each[0])

    def _array(tensor: Any) -> np.ndarray:
        double = tensor.dtype == torch.float64 and jax.config.read("jax_enable_x64")
        return tensor.detach().to("cpu", torch.float64 if double else torch.float32).numpy()

    def _tensor(array: Array, like: Any) -> Any:
        return torch.tensor(np.array(array), dtype=like.dtype, device=like.device)

    return JaxDenoiser, Denoised
