"""A PyTorch network as a function of JAX: compiled programs call it back, PyTorch differentiates.

Where JAX batches by `vmap`, PyTorch is called once, for all images. The first call imports it.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from .errors import InputError, reason_of


class Network(NamedTuple):
    """A PyTorch network, and what it takes beside images [N, C, H, W] for each of them."""

    call: Callable[..., Any]
    condition: Literal["sigma", "timestep", "fractional timestep"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def call_network(network: Network, x: Array, condition: Array) -> Array:
    """The network's output for images [N, C, H, W] and a condition [] that they share: as x."""
    _try(network, x.shape[1:])
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    output = partial(_output, network)
    return jax.pure_callback(output, result, x, condition, vmap_method="expand_dims")


def _forward(network: Network, x: Array, condition: Array) -> tuple[Array, tuple[Array, Array]]:
    return call_network(network, x, condition), (x, condition)


def _backward(
    network: Network, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    _try(network, saved[0].shape[1:], derivative=True)
    result = tuple(jax.ShapeDtypeStruct(one.shape, one.dtype) for one in saved)
    pulled = partial(_pulled, network)
    return jax.pure_callback(pulled, result, *saved, cotangent, vmap_method="expand_dims")


call_network.defvjp(_forward, _backward)


def _output(network: Network, x: Any, condition: Any) -> np.ndarray:
    """Called back, with axes of `jax.vmap` (1 where an array has none) in front: [..., N, C, H, W]
    and [...]. They become one batch."""
    import torch  # pyright: ignore[reportMissingImports]

    (x, condition), shape = _same_lead(x, condition)
    with torch.no_grad():
        output = _run(network, *_tensors(network, shape, condition, x))
    return _numbers(output, x).reshape(shape)


def _pulled(
    network: Network, x: Any, condition: Any, cotangent: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Likewise the cotangents of x and of the condition, given that of the output."""
    import torch  # pyright: ignore[reportMissingImports]

    (x, condition, cotangent), shape = _same_lead(x, condition, cotangent)
    conditions, images, cotangents = _tensors(network, shape, condition, x, cotangent)
    with torch.enable_grad():
        inputs = [one.requires_grad_() for one in (images, conditions) if one.is_floating_point()]
        output = _run(network, conditions, images)
        cotangents = cotangents.to(output.dtype)
        by_x, *by_condition = torch.autograd.grad(output, inputs, cotangents, allow_unused=True)
    # What the output does not depend on has None. Images of the axis N share their condition.
    unused = np.zeros(shape[:-3], x.dtype)
    by_condition = [_numbers(one, x) for one in by_condition if one is not None] or [unused]
    by_x = np.zeros(shape, x.dtype) if by_x is None else _numbers(by_x, x).reshape(shape)
    return by_x, by_condition[0].reshape(shape[:-3]).sum(axis=-1)


def _same_lead(x: Any, condition: Any, *others: Any) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Arrays of JAX as NumPy's, the condition with an axis for N, and the shape of all together."""
    arrays = [np.asarray(x), np.asarray(condition)[..., None], *map(np.asarray, others)]
    leads = (one.shape if i == 1 else one.shape[:-3] for i, one in enumerate(arrays))
    return arrays, np.broadcast_shapes(*leads) + arrays[0].shape[-3:]


def _tensors(
    network: Network, shape: tuple[int, ...], condition: np.ndarray, *images: np.ndarray
) -> list[Any]:
    """Conditions [batch] and images [batch, C, H, W] as the network takes them: copies."""
    import torch  # pyright: ignore[reportMissingImports]

    weights: Any = getattr(network.call, "parameters", tuple)()
    weight = next((one for one in weights if one.is_floating_point()), torch.zeros(()))
    kinds = {"sigma": weight.dtype, "timestep": torch.int64, "fractional timestep": torch.float32}
    conditions = np.broadcast_to(condition, shape[:-3]).reshape(-1)
    return [
        torch.tensor(conditions, dtype=kinds[network.condition], device=weight.device),
        *(
            torch.tensor(
                np.broadcast_to(one, shape).reshape(-1, *shape[-3:]),
                dtype=weight.dtype,
                device=weight.device,
            )
            for one in images
        ),
    ]


def _run(network: Network, conditions: Any, images: Any) -> Any:
    output = network.call(images, conditions)
    output = getattr(output, "sample", output)
    output = output[0] if isinstance(output, tuple | list) else output
    if network.condition != "sigma" and output.shape[1] == 2 * images.shape[1]:
        output = output[:, : images.shape[1]]
    if output.is_complex():
        raise InputError(f"PyTorch network: returns {output.dtype}; real images are needed")
    if output.shape != images.shape:
        raise InputError(
            f"PyTorch network: returns {tuple(output.shape)} for images {tuple(images.shape)}"
        )
    return output


def _numbers(tensor: Any, like: np.ndarray) -> np.ndarray:
    return tensor.detach().double().cpu().numpy().astype(like.dtype)


@lru_cache(maxsize=64)
def _try(network: Network, shape: tuple[int, ...], derivative: bool = False) -> None:
    """Two images of noise, so that what is wrong is said in one line and before any work."""
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    condition = np.ones((), np.float32)
    try:
        parts = (
            _pulled(network, x, condition, x) if derivative else (_output(network, x, condition),)
        )
    except InputError:
        raise
    except Exception as error:  # whatever a network raises
        what = "has no derivative" if derivative else "fails"
        raise InputError(
            f"PyTorch network: {what} for images {(2, *shape)} ({reason_of(error)})"
        ) from error
    if not all(np.all(np.isfinite(part)) for part in parts):
        what = "derivative" if derivative else "output"
        raise InputError(f"PyTorch network: NaN or infinite {what} for images {(2, *shape)}")
