"""PyTorch networks as denoisers, in compiled and batched programs, differentiated by PyTorch.

Scales and levels are converted in JAX; what PyTorch computes is the network alone, once for all
images that are denoised together (`torch_call`). Networks are used as they are: nothing of them is
changed, they stay on their device, and weights that are changed later are used from then on.
"""

from collections.abc import Callable, Hashable
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import as_floating, floating
from ..denoiser_checks import as_images
from ..errors import InputError, check_whole
from ..images import PIXEL_RANGE, PixelRange, check_pixel_range
from ..noise import NoiseLevel, log_snr
from ..torch_call import Network, call_network


@flax.struct.dataclass
class TorchDenoiser:
    """(x_t, t) -> x_hat for images [..., planes, H, W], or [..., H, W] if it has one plane.

    Build it with `torch_denoiser` or `torch_eps_denoiser`. Levels are numbers, and may differ
    within a batch by `jax.vmap`. The network computes in its own dtype and on its own device; x_hat
    has the dtype of x_t. Derivatives are those of PyTorch, reverse mode only, for which the network
    is evaluated once more. Raises InputError for images of another shape and, when the first such
    image is seen, for a network that fails on them, returns another shape or NaN, or (once that is
    asked for) has no derivative.
    """

    log_snrs: Array | None  # [T] of the time steps, of an epsilon network
    network: Network = flax.struct.field(pytree_node=False)
    planes: int = flax.struct.field(pytree_node=False)
    pixel_range: PixelRange = flax.struct.field(pytree_node=False)
    model_range: PixelRange = flax.struct.field(pytree_node=False)

    def __call__(self, x_t: Array, t: NoiseLevel) -> Array:
        given = as_floating("x_t", x_t)
        images = as_images(given, t, self.planes, "the network")
        (low, high), (model_low, model_high) = self.pixel_range, self.model_range
        scale = (model_high - model_low) / (high - low)
        shift = model_low - scale * low
        t, log_snrs = floating(t, self.log_snrs, dtype=given.dtype)
        x_hat = _denoised(
            self.network,
            log_snrs,
            scale * images + shift * t.alpha,
            NoiseLevel(t.alpha, scale * t.sigma),
        )
        return ((x_hat - shift) / scale).reshape(given.shape)


def torch_denoiser(
    denoiser: Callable[..., Any],
    *,
    planes: int = 3,
    pixel_range: PixelRange = PIXEL_RANGE,
    model_range: PixelRange = (0.0, 1.0),
) -> TorchDenoiser:
    """A denoiser as deepinv has them: `denoiser(x, sigma)`, x = x_0 + sigma eps, gives x_0.

    denoiser     of images [N, planes, H, W] with one sigma for each, [N], in units of `model_range`
    pixel_range  of the images that the result is given
    model_range  of the images that the network was trained on

    It is asked for x_t / alpha at sigma / alpha, whatever that is: where it was not trained for all
    levels of a sampler, give it to `GaussianAbove.of`. Raises InputError for a network in training
    mode, where dropout and norms depend on chance and on the batch.

    An example: docs/denoisers.md#pytorch.
    """
    network = Network(_checked(denoiser), "sigma")
    return _torch_denoiser(None, network, planes, pixel_range, model_range)


def torch_eps_denoiser(
    model: Callable[..., Any],
    alphas_cumprod: ArrayLike,
    *,
    planes: int = 3,
    pixel_range: PixelRange = PIXEL_RANGE,
    fractional: bool = False,
) -> TorchDenoiser:
    """A network of guided-diffusion or diffusers: `model(x_t, timesteps)` predicts the noise eps.

    model           of images [N, planes, H, W] in [-1, 1] at time steps [N], 0 to T - 1. Returns
                    eps, alone, first of a tuple, or as `.sample`; of 2 planes channels (a learned
                    variance) the first half
    alphas_cumprod  alpha_t^2 of the variance preserving levels it was trained at, [T], falling
    pixel_range     of the images that the result is given
    fractional      also ask for time steps between whole ones, in float32, interpolated in log SNR;
                    otherwise for the nearest whole one

    Levels of any scale are divided by sqrt(alpha^2 + sigma^2). A level noisier than the last is
    taken for the last, x_hat included; for one cleaner than the first the network is asked for the
    first. Raises InputError for a network in training mode and for alphas_cumprod that are none.

    An example: docs/denoisers.md#networks-that-predict-noise.
    """
    try:
        known = np.asarray(alphas_cumprod, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"alphas_cumprod: numbers are needed ({error})") from error
    falling = known.ndim == 1 and known.size > 1 and np.all(np.diff(known) < 0)
    if not (falling and known[0] < 1 and known[-1] > 0):
        raise InputError(
            f"alphas_cumprod of shape {known.shape}: [T] falling numbers between 0 and 1 are needed"
        )
    log_snrs = jnp.asarray(np.log(known) - np.log1p(-known))
    network = Network(_checked(model), "fractional timestep" if fractional else "timestep")
    return _torch_denoiser(log_snrs, network, planes, pixel_range, (-1.0, 1.0))


def _checked(network: Any) -> Callable[..., Any]:
    if not callable(network) or not isinstance(network, Hashable):
        kind = type(network).__name__
        raise InputError(f"PyTorch network: {kind} is not a function, or not a hashable one")
    modules = network.modules() if hasattr(network, "modules") else [network]
    if any(getattr(module, "training", False) for module in modules):
        raise InputError("PyTorch network: is in training mode; call its eval() first")
    return network


def _torch_denoiser(
    log_snrs: Array | None,
    network: Network,
    planes: int,
    pixel_range: PixelRange,
    model_range: PixelRange,
) -> TorchDenoiser:
    ranges = []
    for low, high in (pixel_range, model_range):
        check_pixel_range((low, high))
        ranges.append((float(low), float(high)))
    return TorchDenoiser(log_snrs, network, check_whole("planes", planes), *ranges)


def _denoised(network: Network, log_snrs: Array | None, x_t: Array, t: NoiseLevel) -> Array:
    """x_hat of images [N, C, H, W], both in the network's pixel range."""
    if log_snrs is None:
        return call_network(network, x_t / t.alpha, t.sigma / t.alpha)
    wanted = jnp.clip(log_snr(t), log_snrs[-1], log_snrs[0])
    timestep = jnp.interp(-wanted, -log_snrs, jnp.arange(len(log_snrs), dtype=x_t.dtype))
    if network.condition == "timestep":
        timestep = jnp.round(timestep)
    size = jnp.sqrt(t.alpha**2 + t.sigma**2)
    last = NoiseLevel(*(jnp.sqrt(jax.nn.sigmoid(one)) for one in (log_snrs[-1], -log_snrs[-1])))
    noisier = t.alpha < size * last.alpha
    alpha = jnp.where(noisier, last.alpha, t.alpha / size)
    sigma = jnp.where(noisier, last.sigma, t.sigma / size)
    eps = cast(Array, call_network(network, x_t / size, timestep))
    return (x_t / size - sigma * eps) / alpha
