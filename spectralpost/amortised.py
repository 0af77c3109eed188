"""Schedules without a search: a network that maps a problem and a grid to the weights of all steps.

`train` fits it to the closed-form loss itself, over many random problems and several grids, so it
needs no schedules to imitate. What it sees are averages over modes, so it takes problems of any
size; its layers are convolutions along steps, so it takes grids of any length.
"""

import json
import math
import os
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .degradations import Degradation, gaussian_blur, identity, motion_blur, uniform_blur
from .errors import InputError
from .files import whole_file
from .learning import default_free
from .learning.guidance import constrain, from_weight
from .learning.loss import overshoot
from .merging import bin_modes, pad_modes, stack_problems, unique_modes
from .metrics import wasserstein2
from .noise import NoiseLevel, log_snr, num_steps_of, step_pairs
from .prior import power_law
from .problem import Problem, image_problem, measurement_cov, num_pixels
from .samplers import SAMPLERS
from .samplers.exact import exact
from .step import Guidance, Sampler
from .transfer import step_transfer, trajectory

MAX_AMPLIFICATION = 3.0  # as in `learn`
ROWS = 64  # modes of a random problem
DILATIONS = (1, 2, 4)  # of the convolutions: a step sees seven neighbours to each side


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "centre", "spread"),
    meta_fields=("sampler", "free", "width"),
)
@dataclass(frozen=True)
class Designer:
    """A trained network. A pytree: arrays are leaves, the rest is static."""

    sampler: str  # name of the sampler
    free: tuple[str, ...]  # the weights it designs
    width: int  # of its layers
    params: dict[str, Any]  # of the network
    centre: Array  # of the features in training, [K]
    spread: Array  # their standard deviation, [K]


class Network(nn.Module):
    """Features of all steps [S, K] -> what is added to the unconstrained weights, [S, num]."""

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


@partial(jax.jit, static_argnames="sampler")
def design_schedule(
    designer: Designer, sampler: Sampler, problem: Problem, levels: NoiseLevel
) -> Guidance:
    """A near-optimal schedule, name -> [S], for any number of steps and modes.

    levels [S + 1]. Weights that are not learned are those of the published default. Differentiable
    in problem and levels; `vmap` it over problems of equal shape. Raises InputError for a designer
    of another sampler and for problems in blocks.
    """
    check_designer(designer, sampler)
    features, base = _inputs(sampler, designer.free, problem, levels)
    u = _apply(designer, features, base)
    weights = constrain(sampler.constraint, dict(zip(designer.free, u.T, strict=True)))
    return sampler.heuristic(problem, levels) | weights


def check_designer(designer: Designer, sampler: Sampler) -> None:
    """InputError unless the designer was trained for this sampler."""
    if designer.sampler != sampler.name or not set(designer.free) <= set(sampler.constraint):
        raise InputError(
            f"designer of {designer.sampler} ({', '.join(designer.free)}): {sampler.name} has the "
            f"weights {', '.join(sampler.constraint)}"
        )


# ------------------------------------------------------------------------------------------- input


def features_of(problem: Problem, levels: NoiseLevel) -> Array:
    """What the network sees of each step, [S, K]: logarithms of averages over modes.

    Averages, so merging, repeating or reordering modes changes nothing, nor do modes of weight 0.
    """
    if problem.basis is not None:
        raise InputError("problem in blocks: a designer needs independent modes")
    t, s = step_pairs(levels)
    spectrum, h2, noise = problem.spectrum, problem.response**2, problem.sigma_y**2
    pixels = problem.weight / num_pixels(problem)
    variance = jnp.sum(pixels * spectrum)

    def of_step(t: NoiseLevel, s: NoiseLevel) -> Array:
        x_var = t.alpha**2 * spectrum + t.sigma**2
        v = t.sigma**2 * spectrum / x_var  # posterior variance of the denoiser
        informed = h2 * v / (h2 * v + noise)  # of it, what y tells
        left = noise * v / (h2 * v + noise)
        gain2 = h2 * (t.alpha * spectrum / x_var) ** 2  # of the guidance of DPS
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
            [(shares @ modes.T).ravel(), jnp.stack([*worst, *sums, strong, t.alpha, s.alpha])]
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


def _inputs(
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


def _apply(designer: Designer, features: Array, base: Array) -> Array:
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


# ---------------------------------------------------------------------------------------- training


def train(
    sampler: Sampler,
    problems: Problem,
    grids: list[NoiseLevel],
    free: tuple[str, ...] | None = None,
    *,
    width: int = 48,
    iterations: int = 4000,
    batch: int = 16,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> tuple[Designer, np.ndarray]:
    """Fit a designer to random problems, and the training loss of every iteration, [iterations].

    problems   stacked along a leading axis [N] (`random_problems`)
    grids      levels of different lengths; each iteration takes one of them
    free       the weights to design (default: those that `learn` learns)
    iterations 0 gives a network that has learned nothing: the matched weights (`matched`)

    The loss is the mean over problems of log(W2^2 + penalty), so that every problem counts the
    same; the penalty is that of `learn` for amplification beyond 3. Adam with clipped gradients, in
    the problems' dtype: float32 does. Deterministic for a given seed.
    """
    free = tuple(sorted(default_free(sampler) if free is None else free))
    dtype = problems.spectrum.dtype
    grids = [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), levels) for levels in grids]
    num = problems.spectrum.shape[0]

    # They do not depend on the network: computed once.
    @jax.jit
    def prepare(problems: Problem, levels: NoiseLevel) -> tuple[Array, Array]:
        return jax.lax.map(lambda one: _inputs(sampler, free, one, levels), problems, batch_size=32)

    inputs = [prepare(problems, levels) for levels in grids]
    flat = np.concatenate([np.asarray(f, float).reshape(-1, f.shape[-1]) for f, _ in inputs])
    centre, spread = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1e-3)
    network = Network(len(free), width)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = network.init(jax.random.key(seed), inputs[0][0][0])["params"]
    designer = Designer(
        sampler.name,
        free,
        width,
        jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params),
        jnp.asarray(centre, dtype),
        jnp.asarray(spread, dtype),
    )
    schedule = optax.cosine_decay_schedule(learning_rate, max(iterations, 1))
    transform = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)), iterations
    )

    def loss_of(params, chosen: Problem, levels: NoiseLevel, features: Array, base: Array) -> Array:
        now = Designer(sampler.name, free, width, params, designer.centre, designer.spread)

        def one(problem: Problem, features: Array, base: Array) -> Array:
            u = dict(zip(free, _apply(now, features, base).T, strict=True))
            weights = sampler.heuristic(problem, levels) | constrain(sampler.constraint, u)
            return penalised_loss(sampler, problem, levels, weights)

        return jnp.mean(jnp.log(jax.vmap(one)(chosen, features, base)))

    @jax.jit
    def update(params, state, key: Array, levels: NoiseLevel, features: Array, base: Array):
        rows = jax.random.choice(key, num, (min(batch, num),), replace=False)
        chosen = jax.tree.map(lambda leaf: leaf[rows], problems)
        loss, slope = jax.value_and_grad(loss_of)(
            params, chosen, levels, features[rows], base[rows]
        )
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            step, state = transform.update(slope, state, params)
            return optax.apply_updates(params, step), state, loss

    params, history = designer.params, []
    state = transform.init(params)
    order = np.random.default_rng(seed).integers(len(grids), size=iterations)
    for i, which in enumerate(order):
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state, loss = update(params, state, key, grids[which], *inputs[which])
        history.append(loss)
    trained = Designer(sampler.name, free, width, params, designer.centre, designer.spread)
    return trained, np.asarray(history, float)


def penalised_loss(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Array:
    """W2^2 of a schedule plus the price of amplification beyond 3, as in `learn`."""
    run = trajectory(sampler, problem, levels, guidance)
    limit = jnp.log(jnp.full_like(run.amplification[0], MAX_AMPLIFICATION))
    excess = overshoot(problem, limit, jnp.log(run.amplification))
    return wasserstein2(problem, run.total) + jnp.sum(excess**2)


def random_problems(
    seed: int,
    num: int,
    *,
    size: int = 64,
    rows: int = ROWS,
    sigma_y: tuple[float, float] = (0.01, 0.5),
) -> Problem:
    """Random problems in at most `rows` modes, stacked: leaves [num, rows], sigma_y [num].

    Power-law priors of exponent 1 to 3 and pixel std 0.2 to 0.7; no blur, or one by a Gaussian, a
    box or motion; sigma_y log-uniform in the given range. Filled up by modes of weight 0.
    """
    if size < 32:
        raise InputError(f"size = {size}: must be >= 32, so that all blurs fit")
    random, problems = np.random.default_rng(seed), []
    for _ in range(num):
        exponent, std = random.uniform(1, 3), random.uniform(0.2, 0.7)
        prior = power_law((size, size), exponent, std=std)
        noise = float(np.exp(random.uniform(*np.log(sigma_y))))
        problem = image_problem(prior, _random_blur(random, (size, size)), noise)
        problem = bin_modes(unique_modes(problem)[0], rows)[0]
        problems.append(pad_modes(problem, rows))
    return stack_problems(problems)


def _random_blur(random: np.random.Generator, shape: tuple[int, int]) -> Degradation:
    kind = random.choice(["identity", "gaussian", "uniform", "motion"], p=[0.1, 0.3, 0.3, 0.3])
    if kind == "identity":
        return identity(shape)
    if kind == "gaussian":
        return gaussian_blur(shape, float(random.uniform(0.5, 4)))
    if kind == "uniform":
        return uniform_blur(shape, int(random.choice([3, 5, 7, 9, 11])))
    return motion_blur(shape, float(random.uniform(3, 20)), float(random.uniform(0, 180)))


# ------------------------------------------------------------------------------------------- files


def save_designer(path: str | os.PathLike[str], designer: Designer) -> None:
    """Write a designer as .npz: plain arrays in single precision, no pickle.

    Raises InputError if the file exists.
    """
    about = {"sampler": designer.sampler, "free": designer.free, "width": designer.width}
    arrays: dict[str, Any] = {
        "/".join(key.key for key in keys): np.asarray(leaf, np.float32)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(designer.params)
    }
    arrays["about"] = np.asarray(json.dumps(about))
    arrays["centre"] = np.asarray(designer.centre, np.float32)
    arrays["spread"] = np.asarray(designer.spread, np.float32)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def shipped_designer(sampler: Sampler) -> Designer:
    """The designer that comes with this package; InputError if there is none for this sampler.

    Trained by `experiments/amortised.py`, for the sampler's default options and W2^2.
    """
    path = Path(__file__).parent / "designers" / f"{sampler.name}.npz"
    # Factories return the same object for the same options.
    if not path.exists() or sampler is not SAMPLERS[sampler.name]():
        raise InputError(f"sampler {sampler.name}: no designer is shipped for it and its options")
    return load_designer(path, sampler)


def load_designer(path: str | os.PathLike[str], sampler: Sampler | None = None) -> Designer:
    """Read what `save_designer` wrote; InputError if that fails or it is for another sampler."""
    path = Path(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop("about")))
        centre, spread = (jnp.asarray(arrays.pop(name)) for name in ("centre", "spread"))
        params: dict[str, Any] = {}
        for name, leaf in arrays.items():
            layer, _, part = name.partition("/")
            params.setdefault(layer, {})[part] = jnp.asarray(leaf)
        free = tuple(str(name) for name in about["free"])
        sampler_name, width = str(about["sampler"]), int(about["width"])
        designer = Designer(sampler_name, free, width, params, centre, spread)
        network = Network(len(free), designer.width)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            wanted = jax.eval_shape(network.init, jax.random.key(0), centre[None])["params"]
        shapes = jax.tree.map(lambda leaf: leaf.shape, params)
        if shapes != jax.tree.map(lambda leaf: leaf.shape, dict(wanted)):
            raise ValueError("arrays of wrong names or shapes")
        if centre.shape != spread.shape or not np.all(np.asarray(spread) > 0):
            raise ValueError("spread must be > 0, and as long as centre")
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(designer)):
            raise ValueError("has NaN or infinite values")
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"designer {str(path)!r}: cannot be read ({error})") from error
    if sampler is not None:
        check_designer(designer, sampler)
    return designer
