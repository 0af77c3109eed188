"""Training of a designer, by the closed-form loss itself, on random problems and several grids.

It needs no schedules to imitate.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ..degradations import Degradation, gaussian_blur, identity, motion_blur, uniform_blur
from ..errors import InputError
from ..learning import default_free
from ..learning.guidance import constrain
from ..learning.loss import Prices, overshoot
from ..merging import bin_modes, pad_modes, stack_problems, unique_modes
from ..metrics import wasserstein2
from ..noise import NoiseLevel
from ..prior import power_law
from ..problem import Problem, image_problem
from ..samplers.base import Guidance, Sampler
from ..transfer import trajectory
from .network import Designer, apply_network, initial_params, inputs_of, options_in_words

ROWS = 64  # modes of a random problem


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
    the problems' dtype: float32 does. Deterministic for a given seed
    and number of threads.
    """
    free = tuple(sorted(default_free(sampler) if free is None else free))
    dtype = problems.spectrum.dtype
    grids = [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), levels) for levels in grids]
    num = problems.spectrum.shape[0]

    # They do not depend on the network: computed once.
    @jax.jit
    def prepare(problems: Problem, levels: NoiseLevel) -> tuple[Array, Array]:
        return jax.lax.map(
            lambda one: inputs_of(sampler, free, one, levels), problems, batch_size=32
        )

    inputs = [prepare(problems, levels) for levels in grids]
    flat = np.concatenate([np.asarray(f, float).reshape(-1, f.shape[-1]) for f, _ in inputs])
    centre, spread = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1e-3)
    params = initial_params(jax.random.key(seed), free, width)
    params, centre, spread = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), (params, centre, spread)
    )
    designer = Designer(
        sampler.name, free, width, options_in_words(sampler), params, centre, spread
    )
    schedule = optax.cosine_decay_schedule(learning_rate, max(iterations, 1))
    transform = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)), iterations
    )

    def loss_of(params, chosen: Problem, levels: NoiseLevel, features: Array, base: Array) -> Array:
        now = replace(designer, params=params)

        def one(problem: Problem, features: Array, base: Array) -> Array:
            u = dict(zip(free, apply_network(now, features, base).T, strict=True))
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

    history = []
    state = transform.init(params)
    order = np.random.default_rng(seed).integers(len(grids), size=iterations)
    for i, which in enumerate(order):
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state, loss = update(params, state, key, grids[which], *inputs[which])
        history.append(loss)
    return replace(designer, params=params), np.asarray(history, float)


def penalised_loss(
    sampler: Sampler, problem: Problem, levels: NoiseLevel, guidance: Guidance
) -> Array:
    """W2^2 of a schedule plus the price of amplification beyond 3, as in `learn`."""
    run = trajectory(sampler, problem, levels, guidance)
    limit = jnp.log(jnp.full_like(run.amplification[0], Prices().max_amplification))
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
