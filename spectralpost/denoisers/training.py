"""Training of the U-Net on images: batches of patches, Adam, moving average, checkpoints.

Loss and noise levels are those of EDM (Karras et al., 2022, section 5): F is fitted with equal
weight at every level, and levels are log-normal, here with a tenth of them spread evenly over all
that a sampler may ask for.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ..algebra import namespace
from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import from_images
from .checkpoints import Checkpoints
from .gaussian import GaussianDenoiser
from .unet import DATA_STD, UNetDenoiser, initial_denoiser

LOG_SIGMA = (-1.2, 1.3)  # mean and standard deviation of log sigma of most samples
EVENLY = (0.1, np.log(2e-3), np.log(200.0))  # share of the others, and between what they lie
WARM_UP = 500  # steps until the learning rate is reached
DECAY = 0.999  # of the moving average of the weights, at most
EVERY, TELL = 500, 20  # steps between two checkpoints, and between two lines of progress
VALIDATION = 0.05  # share of the images that is kept out
FEWEST, SMALLEST = 20, 16  # images of a set, and their side
VALIDATED, MODELLED = 256, 2048  # patches of a set: to validate on, and for the Gaussian model
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # sigma of the validation curve, alpha = 1


class Recipe(NamedTuple):
    """How a network is trained: two of the same recipe and images are the same."""

    steps: int = 20_000
    batch: int = 64  # patches of 32x32 pixels a step; fewer if they are larger
    patch: int = 32  # side, in pixels; smaller images are taken whole
    learning_rate: float = 1e-3
    width: int = 48
    blocks: int = 4
    seed: int = 0

    def check(self) -> None:
        for name in ("steps", "batch", "width", "blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be >= 1")
        if self.patch < SMALLEST or self.patch % 4:
            raise InputError(f"patch = {self.patch}: must be >= {SMALLEST} and divisible by 4")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate = {self.learning_rate}: must be > 0 and < 1")


class Progress(NamedTuple):
    """How far training is."""

    step: int
    steps: int
    loss: float  # of the last steps, 1 where nothing has been learned


class Trained(NamedTuple):
    """What `train` returns."""

    denoiser: UNetDenoiser  # moving average of the weights
    psnr: dict[str, list[float]]  # on images kept out, dB at each of LEVELS: "network", "gaussian"
    losses: list[tuple[int, float]]  # step, average since the one before


class State(NamedTuple):
    """All that changes in training."""

    params: Any
    average: Any
    optimizer: optax.OptState
    step: Array


def train(
    sets: Sequence[np.ndarray],
    recipe: Recipe,
    checkpoints: str | os.PathLike[str],
    tell: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a network on sets of images, each [N, H, W, planes] of 8 bits.

    A step takes a batch of random patches from one set, sets in proportion to their pixels. Runs
    that find a checkpoint of the same recipe and images in `checkpoints` go on from there; a
    KeyboardInterrupt passes, and loses the steps since the last one. Raises InputError for images
    that are too small or too few, and for checkpoints of another recipe.
    """
    recipe.check()
    _check_sets(sets, recipe)
    about = {"format": 1, "images": _digest(sets), **recipe._asdict()}
    folder = Checkpoints(checkpoints, about)
    kept_out, sets = zip(*(_split(images, recipe.seed) for images in sets), strict=True)
    first = initial_denoiser(sets[0].shape[-1], recipe.width, recipe.blocks, recipe.seed)
    optimizer = _optimizer(recipe)
    average = jax.tree.map(jnp.copy, first.params)  # states give their memory to the next
    state = State(first.params, average, optimizer.init(first.params), jnp.zeros((), np.int32))
    state, losses = folder.latest(state)
    pixels = np.asarray([images[..., 0].size for images in sets], float)
    network, running = replace(first, params=None), []
    for step in range(int(state.step), recipe.steps):
        # Every step has random numbers of its own, so that one that goes on does as if it had
        # not been interrupted.
        random = np.random.default_rng((recipe.seed, step))
        images = sets[random.choice(len(sets), p=pixels / pixels.sum())]
        batch = _patches(random, images, recipe.patch, _batch(images, recipe))
        key = jax.random.fold_in(jax.random.key(recipe.seed), step)
        state, loss = _step(state, batch, key, recipe=recipe, network=network)
        running.append(loss)
        if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
            losses.append((step + 1, float(np.mean(running))))
            if not np.isfinite(losses[-1][1]):
                raise InputError(
                    f"learning_rate = {recipe.learning_rate}: the network diverged before step "
                    f"{step + 1}; take less, or a larger batch"
                )
            running = []
            folder.save(step + 1, state, losses)
        if tell is not None and (step + 1) % TELL == 0:
            tell(Progress(step + 1, recipe.steps, float(np.mean(running or [losses[-1][1]]))))
    folder.close()
    trained = replace(first, params=state.average)
    return Trained(trained, validate(trained, sets, kept_out, recipe.patch), losses)


def validate(
    denoiser: UNetDenoiser,
    sets: Sequence[np.ndarray],
    kept_out: Sequence[np.ndarray],
    patch: int,
) -> dict[str, list[float]]:
    """PSNR in dB at LEVELS: of the network, and of the Gaussian denoiser of training patches,
    colours decorrelated.

    sets and kept_out are pairs of sets [N, H, W, planes] of 8 bits. All pixels of VALIDATED random
    patches of each set kept out count alike; sets whose patches are of one size share a model.
    """
    random = np.random.default_rng(0)
    groups = {}
    for images, held in zip(sets, kept_out, strict=True):
        side = _side(held, patch)
        model = [_centre(_patches(random, images, patch, MODELLED))]
        truth = [_centre(_patches(random, held, patch, VALIDATED))]
        before = groups.get(side, ([], []))
        groups[side] = (before[0] + model, before[1] + truth)
    network = partial(jax.jit(UNetDenoiser.in_unit_range), denoiser)
    errors = {name: np.zeros(len(LEVELS)) for name in ("network", "gaussian")}
    count = 0
    for model, truth in groups.values():
        x_0 = jnp.asarray(np.concatenate(truth))
        prior = from_images(np.concatenate(model), colour=True)
        gaussian = jax.jit(GaussianDenoiser.of(prior).__call__)
        count += x_0.size
        for i, sigma in enumerate(LEVELS):
            level = NoiseLevel(jnp.float32(1.0), jnp.float32(sigma))
            noise = jax.random.normal(jax.random.key(i), x_0.shape, x_0.dtype)
            x_t = x_0 + np.float32(sigma) * noise
            for name, one in (("network", network), ("gaussian", gaussian)):
                parts = [one(part, level) for part in jnp.array_split(x_t, -(-len(x_t) // 64))]
                errors[name][i] += float(jnp.sum((jnp.concatenate(parts) - x_0) ** 2))
    return {name: (10 * np.log10(4 * count / error)).tolist() for name, error in errors.items()}


# --------------------------------------------------------------------------------------- one step


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Adam; the rate rises for WARM_UP steps and falls over the last fifth."""
    last = max(recipe.steps // 5, 1)
    warm_up = min(WARM_UP, recipe.steps)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, recipe.learning_rate, warm_up),
            optax.constant_schedule(recipe.learning_rate),
            optax.linear_schedule(recipe.learning_rate, 0.01 * recipe.learning_rate, last),
        ],
        [warm_up, max(recipe.steps - last, warm_up)],
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@partial(jax.jit, static_argnames=("recipe", "network"), donate_argnames="state")
def _step(
    state: State, batch: np.ndarray, key: Array, *, recipe: Recipe, network: UNetDenoiser
) -> tuple[State, Array]:
    x_0 = _centre(batch)
    level_key, which_key, even_key, noise_key = jax.random.split(key, 4)
    shape = x_0.shape[:1]
    mean, std = LOG_SIGMA
    share, low, high = EVENLY
    often = mean + std * jax.random.normal(level_key, shape, x_0.dtype)
    evenly = jax.random.uniform(even_key, shape, x_0.dtype, low, high)
    sigma = jnp.exp(jnp.where(jax.random.bernoulli(which_key, share, shape), evenly, often))
    eps = jax.random.normal(noise_key, x_0.shape, x_0.dtype)
    x_t = x_0 + sigma[:, None, None, None] * eps
    d2 = DATA_STD**2
    weight = (sigma**2 + d2) / (sigma**2 * d2)

    def loss_of(params: Any) -> Array:
        x_hat = replace(network, params=params).in_unit_range(x_t, NoiseLevel(1 + 0 * sigma, sigma))
        return jnp.mean(weight * jnp.mean((x_hat - x_0) ** 2, axis=(1, 2, 3)))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        updates, optimizer = _optimizer(recipe).update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # The first steps are soon forgotten.
        decay = jnp.minimum(DECAY, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
    average = jax.tree.map(lambda leaf: leaf.astype(np.float32), average)
    return State(params, average, optimizer, state.step + 1), loss


def _centre(images: np.ndarray | Array) -> Any:
    """8 bits [N, H, W, planes] -> [N, planes, H, W] in [-1, 1]."""
    return namespace(images).moveaxis(images, -1, 1).astype(np.float32) / np.float32(
        127.5
    ) - np.float32(1)


# --------------------------------------------------------------------------------------- its data


def _check_sets(sets: Sequence[np.ndarray], recipe: Recipe) -> None:
    if not sets:
        raise InputError("data: one set of images at least is needed")
    for images in sets:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
            raise InputError(
                f"data of shape {images.shape}, {images.dtype}: 8 bits [N, H, W, planes] with one "
                "or three planes are needed"
            )
        if images.size and np.all(images == images[0, 0, 0]):
            raise InputError(f"data of shape {images.shape}: all pixels are alike")
        if images.shape[-1] != sets[0].shape[-1]:
            raise InputError("data: sets with one and with three planes")
        if len(images) < FEWEST or _side(images, recipe.patch) < SMALLEST:
            raise InputError(
                f"data of shape {images.shape}: {FEWEST} images of {SMALLEST} pixels a side at "
                "least are needed"
            )


def _side(images: np.ndarray, patch: int) -> int:
    return min(patch, *(side // 4 * 4 for side in images.shape[1:3]))


def _digest(sets: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()[:16]


def _batch(images: np.ndarray, recipe: Recipe) -> int:
    """Patches a step, so that every step has as many pixels."""
    return max(round(recipe.batch * 32**2 / _side(images, recipe.patch) ** 2), 1)


def _split(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kept out for validation, and the others."""
    order = np.random.default_rng(seed).permutation(len(images))
    num = round(len(images) * VALIDATION)
    return images[order[:num]], images[order[num:]]


def _patches(random: np.random.Generator, images: np.ndarray, patch: int, num: int) -> np.ndarray:
    """Random patches of random images, mirrored at random: [num, side, side, planes]."""
    side = _side(images, patch)
    which = random.integers(len(images), size=num)
    tops = random.integers(images.shape[1] - side + 1, size=num)
    lefts = random.integers(images.shape[2] - side + 1, size=num)
    mirrored = 1 - 2 * random.integers(2, size=num)
    rows = zip(which, tops, lefts, mirrored, strict=True)
    return np.stack([images[i, a : a + side, b : b + side][:, ::way] for i, a, b, way in rows])
