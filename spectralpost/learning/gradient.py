"""Loss and gradient of a schedule on very many modes, in memory that does not grow with them.

Modes go through the trajectory in chunks. In a chunk the gradient takes two passes, because the
chain of steps is affine:

    d total / d weight_t = (steps after t) o (d step_t / d weight_t) o (steps before t)

Back through the steps, only the state gain of the steps after t is kept: one number per mode and
step, where reverse-mode differentiation would keep the whole state. Forward again, the steps before
t are at hand when they are needed. What a step contributes is summed over modes after the last one,
by a matrix product: a sum inside of the loop would cost more than the step.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from ..affine import Transfer, compose, identity_transfer
from ..algebra import matmul
from ..chunks import share_of, split_problem
from ..errors import InputError, check_whole
from ..metrics import predicted_energy_score, wasserstein2
from ..noise import NoiseLevel, step_pairs
from ..objectives import Objective
from ..problem import Problem, num_pixels
from ..samplers.base import Guidance, Sampler, check_guidance
from ..transfer import checked, in_chunks, start_transfer, step_transfer
from .guidance import names_of

CHUNK = 4096  # modes: the arrays of a step stay in a core's cache


def chunk_size() -> int:
    """Modes that a device takes at a time: an accelerator wants more than it has lanes."""
    return CHUNK if jax.default_backend() == "cpu" else 64 * CHUNK


def loss_and_gradient(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: Sequence[str],
    objective: Objective = wasserstein2,
    *,
    chunk: int | None = None,
) -> tuple[Array, Guidance]:
    """The objective of a schedule, and its derivatives by the weights named in `free`, [S] each.

    levels [S + 1], guidance leaves [S]; computed in the widest floating dtype of problem, levels
    and guidance. The objective has to be an average over modes, as all metrics of this package are
    but `predicted_energy_score`, which is refused; nobody can tell of your own.
    Modes are shared out over all local devices: one per GPU, or as many CPU devices as
    `jax.config.update("jax_num_cpu_devices", n)` asked for at the start. chunk: how many modes one
    device takes at a time (default: 4096 on a CPU, 262,144 on others); memory grows with it.

    chunk counts the numbers of a gain: a block of k modes has k^2, and one block at least is taken.

    Raises InputError as `sampler_transfer`, and for samplers that divide by norms or remember, and
    `exact`, which knows the whole problem: `jax.grad` of `sampler_transfer` is for these.

    >>> loss, gradient = sp.loss_and_gradient(sampler, problem, levels, guidance, ("zeta",))
    >>> round(float(loss), 4), gradient["zeta"].shape
    (0.2056, (3,))
    """
    problem, levels, guidance = checked(sampler, problem, levels, guidance)
    check_guidance(sampler, levels, guidance)  # [S] alone, not by mode
    free = names_of(free)
    for name in free:
        if name not in guidance:
            raise InputError(f"free = {name!r}: {sampler.name} has {', '.join(guidance)}")
    if objective is predicted_energy_score:
        raise InputError(
            "objective = predicted_energy_score: no average over modes, which is needed; jax.grad "
            "goes through sampler_transfer"
        )
    chunk = check_whole("chunk", chunk_size() if chunk is None else chunk)
    if sampler.memory or not in_chunks(sampler, problem):
        raise InputError(
            f"sampler = {sampler.name}: loss_and_gradient needs one without norms and memory that "
            "knows no whole problem; jax.grad goes through sampler_transfer for all others"
        )
    devices = jax.local_device_count()
    return _by_chunks(sampler, problem, levels, guidance, free, objective, chunk, devices)


@partial(jax.jit, static_argnames=("sampler", "free", "objective", "chunk", "num_devices"))
def _by_chunks(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...],
    objective: Objective,
    chunk: int,
    num_devices: int,
) -> tuple[Array, Guidance]:
    """`loss_and_gradient`, with num_devices at most."""
    rows, *modes = problem.spectrum.shape
    chunk = max(chunk // math.prod(modes) ** 2, 1)  # blocks
    if rows < num_devices * chunk:
        num_devices = 1
    num_chunks = -(-rows // (num_devices * chunk))
    chunks = split_problem(problem, num_devices * num_chunks)
    pixels = num_pixels(problem)

    def of_chunks(chunks: Problem, levels: NoiseLevel, guidance: Guidance, pixels: Array):
        def add(total: tuple[Array, Guidance], chunk: Problem):
            of = lambda chunk: _of_chunk(sampler, chunk, levels, guidance, free, objective)  # noqa: E731
            return jax.tree.map(jnp.add, total, share_of(of, pixels, chunk)), None

        nothing = jnp.zeros_like(pixels), {name: jnp.zeros_like(guidance[name]) for name in free}
        return jax.lax.scan(add, nothing, chunks)[0]

    if num_devices == 1:
        return of_chunks(chunks, levels, guidance, pixels)

    def on_device(*arguments):
        return jax.lax.psum(of_chunks(*arguments), "modes")

    mesh = jax.make_mesh((num_devices,), ("modes",), axis_types=(AxisType.Auto,))
    everywhere = PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec("modes"), everywhere, everywhere, everywhere),
        out_specs=everywhere,
        check_vma=False,  # the sum starts from zeros, which are the same on all devices
    )(chunks, levels, guidance, pixels)


@partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5))
def chunked_loss(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...],
    objective: Objective,
) -> Array:
    """The loss of `loss_and_gradient`, for `jax.grad` by the weights named in `free`, no others."""
    return loss_and_gradient(sampler, problem, levels, guidance, free, objective)[0]


def _forward(sampler, problem, levels, guidance, free, objective):
    loss, gradient = loss_and_gradient(sampler, problem, levels, guidance, free, objective)
    return loss, {name: gradient.get(name, 0 * weights) for name, weights in guidance.items()}


def _backward(sampler, free, objective, gradient, cotangent):
    return None, None, jax.tree.map(lambda leaf: cotangent * leaf, gradient)


chunked_loss.defvjp(_forward, _backward)


def _of_chunk(
    sampler: Sampler,
    problem: Problem,
    levels: NoiseLevel,
    guidance: Guidance,
    free: tuple[str, ...],
    objective: Objective,
) -> tuple[Array, Guidance]:
    """The objective on some modes and its derivatives."""
    t, s = step_pairs(levels)
    nothing = identity_transfer(problem)
    # The steps of equivariant samplers have no offset, so theirs is not computed.
    parts = 3 if sampler.equivariant else 4

    def transfer(*fields: Array) -> Transfer:
        return Transfer(*fields, *nothing[len(fields) :])

    def backward(later: tuple[Array, ...], inputs: tuple[NoiseLevel, NoiseLevel, Guidance]):
        one = step_transfer(sampler, problem, *inputs)
        return compose(one, transfer(*later))[:parts], later[0]

    total, gains_after = jax.lax.scan(backward, nothing[:parts], (t, s, guidance), reverse=True)
    start = start_transfer(sampler, problem, jax.tree.map(lambda leaf: leaf[0], levels))
    loss, by_total = jax.value_and_grad(
        lambda total: objective(problem, compose(start, transfer(*total)))
    )(total)

    def forward(before: tuple[Array, ...], inputs):
        t, s, guidance_t, gain_after = inputs
        weights = {name: guidance_t[name] for name in free}

        def step(weights: Guidance) -> Transfer:
            return step_transfer(sampler, problem, t, s, guidance_t | weights)

        def whole(one: Transfer) -> tuple[Array, ...]:
            # What comes after adds to the total, but what it adds does not depend on this step.
            return compose(compose(transfer(*before), one), transfer(gain_after))[:parts]

        contributions = {}
        for name in free:
            direction = {other: jnp.full_like(w, other == name) for other, w in weights.items()}
            one, slope = jax.jvp(step, (weights,), (direction,))
            moved = jax.jvp(whole, (one,), (slope,))[1]
            products = [by * by_step for by, by_step in zip(by_total, moved, strict=True)]
            # Of a block the sum over its numbers.
            contributions[name] = sum(one.sum(axis=range(1, one.ndim)) for one in products)
        return compose(transfer(*before), step(weights))[:parts], contributions

    _, contributions = jax.lax.scan(forward, nothing[:parts], (t, s, guidance, gains_after))
    ones = jnp.ones_like(problem.weight)
    return loss, {name: matmul(by_mode, ones) for name, by_mode in contributions.items()}
