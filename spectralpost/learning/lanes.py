"""Many searches side by side, from many starts: compiled once, run some iterations at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..kept_jit import kept_jit
from . import levenberg_marquardt
from .levenberg_marquardt import Descent, finite
from .loss import Loss

Optimizer = Literal["auto", "lm", "lbfgs", "adam"]
FEW = 16  # losses at a time


class Method(NamedTuple):
    """How a search goes down (static)."""

    optimizer: Optimizer  # "lm", "lbfgs" or "adam"
    learning_rate: float


class Lane(NamedTuple):
    """An optax search from one start; `Descent` is its counterpart of least squares."""

    current: Array  # [P]
    state: optax.OptState
    vector: Array  # the best so far, [P]
    loss: Array  # its loss


Lanes = Descent | Lane  # leaves with a leading axis


@partial(kept_jit, static_argnames="method")
def begin(method: Method, vectors: Array) -> Lanes:
    """Lanes at their starts, vectors [lanes, P]."""

    def lane(vector: Array) -> Lanes:
        if method.optimizer == "lm":
            return levenberg_marquardt.begin(vector)
        state = _transformation(method).init(vector)
        return Lane(vector, state, vector, jnp.full((), jnp.inf, vector.dtype))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # optax starts with weakly typed numbers and goes on with strong ones: compiled twice.
        return jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), jax.vmap(lane)(vectors)
        )


@partial(kept_jit, static_argnames=("method", "iterations"), donate_argnames="lanes")
def advance(loss: Loss, lanes: Lanes, method: Method, iterations: int) -> tuple[Lanes, Array]:
    """Some iterations of every lane; also the best losses so far, [iterations, lanes]."""

    def iterate(lane: Lanes) -> Lanes:
        if isinstance(lane, Descent):
            return levenberg_marquardt.iterate(lane, loss, loss.linearised)
        return _optax_iteration(loss, lane, method)

    def body(lanes: Lanes, _) -> tuple[Lanes, Array]:
        lanes = jax.vmap(iterate)(lanes)
        return lanes, lanes.loss

    # optax is not written for strict promotion, which callers may have switched on.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.lax.scan(body, lanes, length=iterations)


@partial(kept_jit, static_argnames=("method", "iterations"), donate_argnames="lanes")
def advance_each(
    losses: Loss, lanes: Lanes, method: Method, iterations: int
) -> tuple[Lanes, Array]:
    """`advance` of many losses side by side, [N, ...], each with lanes of its own, [N, lanes, ...];
    also the best losses, [N, iterations, lanes]."""
    return jax.vmap(partial(advance, method=method, iterations=iterations))(losses, lanes)


@kept_jit
def losses_of(loss: Loss, vectors: Array) -> Array:
    """The losses of many vectors [num, P]; an unstable sampler's is infinite."""
    return finite(jax.lax.map(loss, vectors, batch_size=FEW))


@kept_jit
def losses_of_each(losses: Loss, vectors: Array) -> Array:
    """`losses_of` of many losses, leaves [N, ...], each of its own vectors [N, num, P]."""
    return jax.vmap(losses_of)(losses, vectors)


def best_of_each(vectors: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of n candidates each the one of least loss: of [N, n, P] and [N, n], [N, P] and [N]."""
    rows, at = np.arange(len(losses)), losses.argmin(axis=1)
    return vectors[rows, at], losses[rows, at]


def next_power_of_two(num: int) -> int:
    """The least that is num or more: programs of few shapes."""
    return 1 << (num - 1).bit_length()


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one, on the host: leaves [N, ...]."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def unstacked(tree: Any) -> list[Any]:
    """What `stacked` has put together."""
    tree = jax.tree.map(np.asarray, tree)
    num = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(num)]


def taken(tree: Any, rows: np.ndarray) -> Any:
    """These rows of all leaves, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def spread(tree: Any) -> Any:
    """Leaves [N, ...] spread over the devices of this process, if N is a multiple of these."""
    devices = jax.local_devices()
    rows = len(jax.tree.leaves(tree)[0])
    if len(devices) == 1 or rows % len(devices):
        return tree
    along = NamedSharding(Mesh(np.asarray(devices), ("rows",)), PartitionSpec("rows"))
    return jax.device_put(tree, along)


def _optax_iteration(loss: Loss, lane: Lane, method: Method) -> Lane:
    if method.optimizer == "lbfgs":
        # With double precision switched on, optax tries double vectors whatever it began with.
        in_dtype = lambda vector: loss(vector.astype(lane.current.dtype))  # noqa: E731
        value_and_grad = optax.value_and_grad_from_state(in_dtype)
        value, grad = value_and_grad(lane.current, state=lane.state)
        more = {"value": value, "grad": grad, "value_fn": in_dtype}
    else:
        value, grad = jax.value_and_grad(loss)(lane.current)
        more = {}
    better = value < lane.loss  # False for NaN
    updates, state = _transformation(method).update(grad, lane.state, lane.current, **more)
    return Lane(
        jnp.asarray(optax.apply_updates(lane.current, updates)),
        state,
        jnp.where(better, lane.current, lane.vector),
        jnp.where(better, value, lane.loss),
    )


def _transformation(method: Method) -> optax.GradientTransformationExtraArgs:
    if method.optimizer == "lbfgs":
        return optax.lbfgs()
    return optax.with_extra_args_support(optax.adam(method.learning_rate))
