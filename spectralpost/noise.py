"""Noise levels: how much signal and how much noise is left at each step.

Everywhere in this package a noisy signal at level t is

    x_t = alpha_t x_0 + sigma_t eps,        eps ~ N(0, I),

and a step goes from t to the less noisy s. Nothing else is assumed about (alpha, sigma):

    variance preserving (VP)   alpha^2 + sigma^2 = 1
    variance exploding (VE)    alpha = 1
    rectified flow             alpha = 1 - sigma

A *grid* of S steps is a `NoiseLevel` whose leaves have shape [S + 1]: noisiest first, the clean
end (alpha = 1, sigma = 0) last.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .algebra import float_dtype, floating, is_concrete, namespace
from .errors import LARGEST_STEPS, InputError, check_kind, check_whole, is_number

Spacing = Literal["uniform", "leading", "trailing", "quadratic"]
Curve = Literal["vp", "ve", "flow"]

TRAIN_STEPS = 1000  # the grid on which the published VP networks were trained


class NoiseLevel(NamedTuple):
    """A noise level (scalars), or a grid of levels (leaves of shape [S + 1])."""

    alpha: Array
    sigma: Array


def log_snr(level: NoiseLevel) -> Array:
    """log(alpha^2 / sigma^2): -inf at pure noise, +inf at the clean end."""
    xp = namespace(level.alpha)
    with np.errstate(divide="ignore"):  # NumPy warns of what is meant here, JAX does not
        return 2 * (xp.log(level.alpha) - xp.log(level.sigma))


def step_pairs(levels: NoiseLevel) -> tuple[NoiseLevel, NoiseLevel]:
    """The levels (t, s) of the S steps of a grid, each with leaves of shape [S]."""
    return jax.tree.map(lambda leaf: leaf[:-1], levels), jax.tree.map(lambda leaf: leaf[1:], levels)


def num_steps_of(levels: NoiseLevel) -> int:
    """The number of steps S of a grid of S + 1 levels."""
    return len(levels.alpha) - 1


# ------------------------------------------------------------------------------------------ grids


def vp_linear(
    num_steps: int,
    spacing: Spacing = "uniform",
    *,
    train_steps: int = TRAIN_STEPS,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
) -> NoiseLevel:
    """Sub-grid of the linear-beta VP grid of DDPM, then the clean end.

    alpha_t^2 = prod_{i <= t} (1 - beta_i), beta linear from `beta_start` to `beta_end` over
    `train_steps` steps; the S time steps are those of `vp_timesteps`.

    Source: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239).
    Raises InputError for a step count outside 1..train_steps or an unknown spacing.

    >>> levels = sp.vp_linear(3)
    >>> levels.alpha.shape, float(levels.sigma[-1])
    ((4,), 0.0)
    """
    _check_between(0, 1, beta_start=beta_start, beta_end=beta_end)
    betas = np.linspace(
        beta_start, beta_end, check_whole("train_steps", train_steps, maximum=LARGEST_STEPS)
    )
    return _vp_grid(np.cumprod(1 - betas), vp_timesteps(num_steps, spacing, train_steps))


def vp_cosine(
    num_steps: int,
    spacing: Spacing = "uniform",
    *,
    train_steps: int = TRAIN_STEPS,
    offset: float = 0.008,
    max_beta: float = 0.999,
) -> NoiseLevel:
    """Sub-grid of the cosine VP grid, then the clean end.

    Source: Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021 (arXiv
    2102.09672): beta_t = min(1 - f(t + 1)/f(t), max_beta), f(t) = cos^2((t/T + offset)/(1 + offset)
    pi/2).

    >>> sp.vp_cosine(3).sigma.shape
    (4,)
    """
    if not (is_number(offset) and 0 <= offset < np.inf):
        raise InputError(f"offset = {offset}: must be >= 0 and finite")
    _check_between(0, 1, max_beta=max_beta)
    train_steps = check_whole("train_steps", train_steps, maximum=LARGEST_STEPS)
    f = np.cos((np.arange(train_steps + 1) / train_steps + offset) / (1 + offset) * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return _vp_grid(np.cumprod(1 - betas), vp_timesteps(num_steps, spacing, train_steps))


def vp_timesteps(
    num_steps: int, spacing: Spacing = "uniform", train_steps: int = TRAIN_STEPS
) -> np.ndarray:
    """The S integer time steps of a VP sub-grid, descending.

    uniform    linspace(train_steps - 1, 0, S), rounded: both ends are visited
    leading    multiples of train_steps // S, from 0: those of DDRM, DDNM, PiGDM and many others
    trailing   round(arange(train_steps, 0, -train_steps / S)) - 1: the last step is a full one
    quadratic  dense near t = 0, DiffPIR's `quad`: T - 1 - int(sqrt(linspace(0, T^2, S)))
    """
    num_steps = check_whole("steps", num_steps, maximum=LARGEST_STEPS)
    if num_steps > check_whole("train_steps", train_steps, maximum=LARGEST_STEPS):
        raise InputError(f"steps = {num_steps}: this grid has only {train_steps} time steps")
    if spacing == "uniform":
        timesteps = np.rint(np.linspace(train_steps - 1, 0, num_steps))
    elif spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (train_steps // num_steps)
    elif spacing == "trailing":
        timesteps = np.rint(train_steps * np.arange(num_steps, 0, -1) / num_steps) - 1
    elif spacing == "quadratic":
        timesteps = train_steps - 1 - np.floor(np.sqrt(np.linspace(0, train_steps**2, num_steps)))
        # The square-root grid ends one past the last time step: DiffPIR moves it back.
        timesteps = np.maximum(timesteps, 0)
    else:
        allowed = ", ".join(get_args(Spacing))
        raise InputError(f"spacing = {spacing!r}: allowed are {allowed}")
    if np.any(np.diff(timesteps) >= 0):
        raise InputError(f"steps = {num_steps}: {spacing} spacing would visit a time step twice")
    return timesteps.astype(int)


def ve_karras(
    num_steps: int, *, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0
) -> NoiseLevel:
    """VE levels evenly spaced in sigma^(1/rho), then the clean end.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    2022 (arXiv 2206.00364). sigma is in units of the pixel range.

    >>> [round(float(sigma), 3) for sigma in sp.ve_karras(3).sigma]
    [80.0, 2.515, 0.002, 0.0]
    """
    num_steps = check_whole("steps", num_steps, maximum=LARGEST_STEPS)
    _check_between(0, np.inf, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    if not sigma_min < sigma_max:
        raise InputError(f"sigma_min = {sigma_min}: must be below sigma_max = {sigma_max}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # refused below
        ends = np.float64(sigma_max) ** (1 / rho), np.float64(sigma_min) ** (1 / rho)
        sigma = np.append(np.linspace(*ends, num_steps) ** rho, 0.0)
    if not (np.all(np.isfinite(sigma)) and np.all(np.diff(sigma) < 0)):
        raise InputError(f"rho = {rho}: double precision does not hold these levels")
    return NoiseLevel(jnp.asarray(np.ones(num_steps + 1)), jnp.asarray(sigma))


def rectified_flow(num_steps: int, *, shift: float = 1.0) -> NoiseLevel:
    """Straight-line levels alpha = 1 - sigma, sigma from 1 to 0.

    `shift` > 1 spends more steps at high noise: sigma = shift u / (1 + (shift - 1) u), u uniform
    (Esser et al., "Scaling Rectified Flow Transformers", 2024, arXiv 2403.03206).

    >>> [round(float(sigma), 3) for sigma in sp.rectified_flow(3).sigma]
    [1.0, 0.667, 0.333, 0.0]
    """
    num_steps = check_whole("steps", num_steps, maximum=LARGEST_STEPS)
    _check_between(0, np.inf, shift=shift)
    u = np.linspace(1, 0, num_steps + 1)
    sigma = shift * u / (1 + (shift - 1) * u)
    return NoiseLevel(jnp.asarray(1 - sigma), jnp.asarray(sigma))


def _check_between(low: float, high: float, **options: float) -> None:
    """InputError unless all options are numbers strictly between the two."""
    for name, value in options.items():
        if not (is_number(value) and low < value < high):
            words = f"must be > {low:g} and " + ("finite" if np.isinf(high) else f"< {high:g}")
            raise InputError(f"{name} = {value}: {words}")


def curve_of(levels: NoiseLevel) -> Curve:
    """The family of a grid: variance preserving, variance exploding or rectified flow.

    Raises InputError for a grid of none of these.
    """
    alpha, sigma = (np.asarray(leaf, dtype=float) for leaf in levels)
    ones: dict[Curve, np.ndarray] = {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}
    for curve, one in ones.items():
        if np.all(np.abs(one - 1) < 1e-5):
            return curve
    raise InputError(
        "levels: one of alpha^2 + sigma^2, alpha, alpha + sigma has to be 1 at all levels"
    )


def on_curve(curve: Curve, log_ratio: Array) -> NoiseLevel:
    """The levels of a family at log(sigma / alpha)."""
    if curve == "vp":
        return NoiseLevel(
            jnp.sqrt(jax.nn.sigmoid(-2 * log_ratio)), jnp.sqrt(jax.nn.sigmoid(2 * log_ratio))
        )
    if curve == "ve":
        return NoiseLevel(jnp.ones_like(log_ratio), jnp.exp(log_ratio))
    return NoiseLevel(jax.nn.sigmoid(-log_ratio), jax.nn.sigmoid(log_ratio))


def moved_positions(levels: NoiseLevel, log_factors: Array) -> Array:
    """log(sigma / alpha) of the S noisy levels, their gaps multiplied by exp(log_factors), [S - 1].

    The first level stays. Pure noise, which is infinitely far, counts as 15.
    """
    noisy = -log_snr(jax.tree.map(lambda leaf: leaf[:-1], levels)) / 2
    noisy = jnp.clip(noisy, -15, 15)
    gaps = -jnp.diff(noisy) * jnp.exp(log_factors)
    return jnp.concatenate([noisy[:1], noisy[0] - jnp.cumsum(gaps)])


def respaced(curve: Curve, levels: NoiseLevel, log_factors: Array) -> NoiseLevel:
    """The grid with its levels moved to `moved_positions`, along its curve.

    Noise decreases whatever the factors are. The first level stays, and so does the clean end.
    """
    moved = on_curve(curve, moved_positions(levels, log_factors)[1:])
    return jax.tree.map(
        lambda leaf, new: jnp.concatenate([leaf[:1], new, leaf[-1:]]), levels, moved
    )


def noisy_variance(variance: float | Array, level: NoiseLevel) -> Array:
    """Variance of x_t where x_0 has `variance`: alpha^2 variance + sigma^2."""
    return level.alpha**2 * variance + level.sigma**2


def at_timesteps(timesteps: Iterable[int], train_levels: NoiseLevel) -> NoiseLevel:
    """The levels of some time steps of a training grid, and its clean end, [S + 1].

    train_levels   as in `nearest_timesteps`
    """
    last = num_steps_of(train_levels)
    rows = np.append(last - 1 - np.asarray(list(timesteps)), last)
    return NoiseLevel(*(jnp.asarray(np.asarray(part)[rows]) for part in train_levels))


def nearest_timesteps(levels: NoiseLevel, train_levels: NoiseLevel) -> np.ndarray:
    """The time steps of a training grid nearest in log-SNR to S noisy levels: [S], descending.

    train_levels   of all training steps, noisiest first, the clean end last: vp_linear(1000)
    No time step is taken twice: where two levels are nearest to the same one, the noisier moves on.
    Raises InputError if there are more levels than time steps.

    >>> sp.nearest_timesteps(sp.vp_linear(3), sp.vp_linear(1000)).tolist()
    [999, 500, 0]
    """
    wanted, have = (
        np.asarray(log_snr(step_pairs(check_levels(grid))[0]), float)
        for grid in (levels, train_levels)
    )
    if wanted.size > have.size:
        raise InputError(f"steps = {wanted.size}: the training grid has only {have.size}")
    timesteps = have.size - 1 - np.abs(have[None, :] - wanted[:, None]).argmin(axis=1)
    for i in range(wanted.size - 2, -1, -1):  # from the clean end: at least one more each
        timesteps[i] = max(timesteps[i], timesteps[i + 1] + 1)
    for i in range(wanted.size):  # and none beyond the noisiest
        timesteps[i] = min(timesteps[i], have.size - 1 - i)
    return timesteps


def check_levels(levels: NoiseLevel, dtype: np.dtype | None = None) -> NoiseLevel:
    """The same grid in a floating dtype (by default that of its arrays, see `float_dtype`).

    Raises InputError if it is not one: [S + 1] finite levels, noise decreasing. Of levels that JAX
    traces only the shape is known and checked.

    >>> sp.check_levels(sp.NoiseLevel([0.6, 1.0], [0.8, 0.0])).alpha.shape
    (2,)
    """
    check_kind("levels", levels, NoiseLevel, "of a NoiseGrid, its `levels`")
    wanted = float_dtype(levels) if dtype is None else dtype
    checked = NoiseLevel(*floating(*levels, dtype=wanted))
    shapes = [leaf.shape for leaf in checked]
    if len(shapes[0]) != 1 or shapes[0] != shapes[1] or shapes[0][0] < 2:
        raise InputError(
            f"levels: alpha {shapes[0]} and sigma {shapes[1]} must both be [S + 1], S >= 1"
        )
    # As they came: what a traced function converts is traced too.
    if not is_concrete(levels):
        return checked
    alpha, sigma = (np.asarray(leaf, dtype=float) for leaf in levels)
    if not (np.all(np.isfinite(alpha)) and np.all(np.isfinite(sigma))):
        raise InputError("levels: alpha and sigma must be finite")
    if np.any(alpha < 0) or np.any(alpha[1:] == 0) or np.any(sigma < 0) or np.any(sigma[:-1] == 0):
        raise InputError(
            "levels: alpha must be > 0 (0 only at the first level), sigma > 0 (0 only at the last)"
        )
    if np.any(alpha[:-1] * sigma[1:] >= alpha[1:] * sigma[:-1]):
        raise InputError("levels: sigma / alpha must decrease from each level to the next")
    return checked


def _vp_grid(alpha_bar: np.ndarray, timesteps: np.ndarray) -> NoiseLevel:
    alpha_bar = np.append(alpha_bar[timesteps], 1.0)
    return NoiseLevel(jnp.asarray(np.sqrt(alpha_bar)), jnp.asarray(np.sqrt(1 - alpha_bar)))
