"""The network of a designer: from what it sees of a problem and a grid to the weights of all steps.

What it sees are averages over modes, so it takes problems of any size; its layers are convolutions
along steps, so it takes grids of any length.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import floating, matmul
from ..errors import InputError
from ..learning.guidance import constrain, from_weight
from ..noise import NoiseLevel, log_snr, num_steps_of, step_pairs
from ..prior import denoiser_gain, denoiser_variance
from ..problem import Problem, measurement_cov, num_pixels
from ..samplers.base import Guidance, Sampler
from ..samplers.exact import exact
from ..transfer import step_transfer

FEATURES = 46  # of a step, see `features_of`
DILATIONS = (1, 2, 4)  # of the convolutions: a step sees seven neighbours to each side


@flax.struct.dataclass
class Designer:
    """A trained network. A pytree: arrays are leaves, the rest is static."""

    sampler: str = flax.struct.field(pytree_node=False)  # its name
    free: tuple[str, ...] = flax.struct.field(pytree_node=False)  # the weights it designs
    width: int = flax.struct.field(pytree_node=False)  # of its layers
    options: str = flax.struct.field(pytree_node=False)  # of the sampler, see `options_in_words`
    params: dict[str, Any]  # of the network
    centre: Array  # of its inputs in training, [K]
    spread: Array  # their standard deviation, [K]


class Network(nn.Module):
    """Inputs of all steps [S, K] -> what is added to the unconstrained weights, [S, num]."""

    num: int
    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        x = nn.Dense(self.width)(features)
        for dilation in DILATIONS:
            y = nn.Conv(self.width, (3,), kernel_dilation=dilation)(nn.gelu(x))
            x = x + nn.Dense(self.width)(nn.gelu(y))
        # Training starts from the matched weights.
        return nn.Dense(self.num, kernel_init=nn.initializers.zeros)(nn.gelu(x))


def initial_params(key: Array, free: tuple[str, ...], width: int) -> dict[str, Any]:
    """What training starts from, in single precision: a network that adds nothing yet."""
    inputs = jnp.zeros((1, FEATURES + len(free)), jnp.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return dict(Network(len(free), width).init(key, inputs))["params"]


@partial(jax.jit, static_argnames="sampler")
def design_schedule(
    designer: Designer, sampler: Sampler, problem: Problem, levels: NoiseLevel
) -> Guidance:
    """A schedule without a search, name -> [S], for any number of steps and modes.

    Near the optimum for problems like those that the designer was trained on. Those shipped saw the
    noise levels of `vp_linear` in 8 to 50 steps and `random_problems`; elsewhere it may be worse
    than the published default, so compare: `evaluate` takes milliseconds.

    levels [S + 1]. Weights that are not learned are those of the published default. Differentiable
    in problem and levels; `vmap` it over problems of equal shape. Raises InputError for a designer
    of another sampler, or of other options of it, and for problems in blocks.

    >>> designer = sp.shipped_designer("dps")
    >>> sp.design_schedule(designer, sampler, problem, levels)["zeta"].shape
    (3,)
    """
    check_designer(designer, sampler)
    problem, levels = floating(problem, levels)
    features, base = inputs_of(sampler, designer.free, problem, levels)
    u = apply_network(designer, features, base)
    weights = constrain(sampler.constraint, dict(zip(designer.free, u.T, strict=True)))
    return sampler.heuristic(problem, levels) | weights


def check_designer(designer: Designer, sampler: Sampler) -> None:
    """InputError unless the designer was trained for this sampler."""
    if designer.sampler != sampler.name or not set(designer.free) <= set(sampler.constraint):
        raise InputError(
            f"designer of {designer.sampler} ({', '.join(designer.free)}): {sampler.name} has the "
            f"weights {', '.join(sampler.constraint)}"
        )
    if designer.options != options_in_words(sampler):
        raise InputError(
            f"designer of {designer.sampler}({designer.options}): the sampler has the options "
            f"{options_in_words(sampler)}"
        )


def options_in_words(sampler: Sampler) -> str:
    """All options of a sampler: a designer is for one choice of them."""
    return ", ".join(f"{name}={value!r}" for name, value in sampler.options)


# ------------------------------------------------------------------------------------------- input


def features_of(problem: Problem, levels: NoiseLevel) -> Array:
    """What the network sees of each step, [S, FEATURES]: logarithms of averages over modes.

    Averages, so merging, repeating or reordering modes changes nothing, nor do modes of weight 0.
    """
    if problem.basis is not None:
        raise InputError("problem in blocks: a designer needs independent modes")
    t, s = step_pairs(levels)
    spectrum, h2, noise = problem.spectrum, problem.response**2, problem.sigma_y**2
    pixels = problem.weight / num_pixels(problem)
    variance = jnp.sum(pixels * spectrum)

    def of_step(t: NoiseLevel, s: NoiseLevel) -> Array:
        v = denoiser_variance(spectrum, t)
        informed = h2 * v / (h2 * v + noise)  # of it, what y tells
        left = noise * v / (h2 * v + noise)
        gain2 = h2 * denoiser_gain(spectrum, t) ** 2  # of the guidance of DPS
        shares = jnp.stack([pixels, pixels * spectrum, pixels * v, pixels * informed * v])
        shares = shares / jnp.sum(shares, axis=1, keepdims=True)
        ratios = [h2 * v / (h2 * v + k * noise) for k in (0.1, 1.0, 10.0)]
        relative = [spectrum / variance, v / variance, h2 * v / variance]
        modes = jnp.stack([*ratios, *relative, h2, gain2])
        present = problem.weight > 0
        worst = [jnp.max(jnp.where(present, x, 0)) for x in (h2 * v / noise, gain2)]
        sums = [jnp.sum(pixels * x) / variance for x in (v, left)]
        strong = jnp.sqrt(jnp.sum(pixels * gain2**2))
        averages = jnp.concatenate(
            [matmul(shares, modes.T).ravel(), jnp.stack([*worst, *sums, strong, t.alpha, s.alpha])]
        )
        snr = [jnp.clip(log_snr(level), -15, 15) for level in (t, s)]
        scalars = jnp.stack([*snr, snr[1] - snr[0], jnp.log(noise / variance), jnp.log(variance)])
        return jnp.concatenate([jnp.log(averages + 1e-8), scalars])

    num = num_steps_of(levels)
    position = (jnp.arange(num, dtype=levels.alpha.dtype) + 0.5) / num
    grid = jnp.stack([position, jnp.full_like(position, math.log(num))], axis=1)
    return jnp.concatenate([jax.vmap(of_step)(t, s), grid], axis=1)


def matched(sampler: Sampler, name: str, problem: Problem, levels: NoiseLevel) -> Array:
    """Unconstrained weights [S] that make each step take from y what exact conditioning takes.

    The least-squares fit of a step's data gains to those of `exact`, by Gauss and Newton, from one;
    the other weights as published. Greedy, so the network corrects it.
    """
    t, s = step_pairs(levels)
    others = sampler.heuristic(problem, levels)
    cost = problem.weight * measurement_cov(problem)
    reference = exact(problem)

    def of_step(t: NoiseLevel, s: NoiseLevel, others: Guidance) -> Array:
        def gain(weight: Array) -> Array:
            one = step_transfer(sampler, problem, t, s, others | {name: weight})
            return one.data_gain / s.alpha

        eta = jnp.zeros_like(t.alpha)
        wanted = step_transfer(reference, problem, t, s, {"eta": eta}).data_gain / s.alpha
        one = jnp.ones_like(t.alpha)
        tiny = jnp.finfo(one.dtype).tiny ** 0.5
        # Exact at once where gains are proportional to the weight, which may be far from one.
        b_slope = jax.jvp(gain, (one,), (one,))[1]
        linear = jnp.sum(cost * b_slope * wanted) / (jnp.sum(cost * b_slope**2) + tiny)
        start = jnp.log(jnp.where(linear > 0, jnp.clip(linear, 1e-8, 1e8), one))

        def improve(u: Array, _) -> tuple[Array, None]:
            b, slope = jax.jvp(lambda u: gain(jnp.exp(u)), (u,), (one,))
            move = jnp.sum(cost * slope * (wanted - b)) / (jnp.sum(cost * slope**2) + tiny)
            return u + jnp.clip(move, -1.5, 1.5), None

        u, _ = jax.lax.scan(improve, start, length=6)
        return jnp.clip(u, math.log(1e-8), math.log(1e8))

    return jax.vmap(of_step)(t, s, others)


def inputs_of(
    sampler: Sampler, free: tuple[str, ...], problem: Problem, levels: NoiseLevel
) -> tuple[Array, Array]:
    """Features [S, K] and the unconstrained weights that the network starts from, [S, len(free)].

    The matched weights, or the published default of those in [0, 1].
    """
    features = features_of(problem, levels)
    default = sampler.heuristic(problem, levels)
    columns = []
    for name in free:
        kind = sampler.constraint[name]
        if kind == "unit":
            columns.append(jnp.clip(from_weight(kind, default[name]), -4, 4))
        else:
            columns.append(matched(sampler, name, problem, levels))
    base = jnp.stack(columns, axis=1)
    return jnp.concatenate([features, base], axis=1), base


def apply_network(designer: Designer, features: Array, base: Array) -> Array:
    """Unconstrained weights, [S, len(free)]."""
    dtype = features.dtype
    params, centre, spread = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype),
        (designer.params, designer.centre, designer.spread),
    )
    # Far outside of what was trained, features are held at the edge rather than extrapolated.
    scaled = jnp.clip((features - centre[None]) / spread[None], -4, 4)
    network = Network(len(designer.free), designer.width)
    # flax is not written for strict promotion, which callers may have switched on.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return base + jnp.asarray(network.apply({"params": params}, scaled))
