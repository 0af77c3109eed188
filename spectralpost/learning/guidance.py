"""How a guidance schedule is parameterised for an optimiser.

Optimisers work on unconstrained numbers u, samplers on constrained weights:

    "nonnegative"   weight = exp(u)
    "unit"          weight = 1 / (1 + exp(-u))
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ..algebra import floating, is_concrete, matmul, namespace
from ..errors import InputError
from ..noise import NoiseLevel, log_snr, step_pairs
from ..problem import Problem
from ..samplers.base import Guidance

T = TypeVar("T")

# Published defaults may sit on a boundary (0, or 1 for "unit"), where u would be infinite.
BOUNDARY = 1e-4  # for "nonnegative" relative to the schedule's smallest weight that is not 0


def names_of(free: Sequence[str]) -> tuple[str, ...]:
    """Several names of weights, or one alone."""
    return (free,) if isinstance(free, str) else tuple(free)


def to_weight(constraint: str, u: Array) -> Array:
    """The constrained weight of unconstrained u."""
    if constraint == "nonnegative":
        return jnp.exp(u)
    return jax.nn.sigmoid(bounded(constraint, u))


def bounded(constraint: str, u: Array) -> Array:
    """Unconstrained numbers as far as they count: beyond, a rounded weight in [0, 1] would no
    longer tell its u (`per_mode`)."""
    return u if constraint == "nonnegative" else jnp.clip(u, -12, 12)


def from_weight(constraint: str, weight: Array) -> Array:
    """The inverse of `to_weight`, kept `BOUNDARY` away from where u is infinite."""
    xp = namespace(weight)
    if constraint == "nonnegative":
        # All others stay: early weights may be a million times those that matter.
        smallest = xp.min(xp.where(weight > 0, weight, xp.inf))
        lowest = BOUNDARY * xp.where(smallest < xp.inf, smallest, 1)
        return xp.log(xp.where(weight > 0, weight, lowest))
    weight = xp.clip(weight, BOUNDARY, 1 - BOUNDARY)
    return xp.log(weight) - xp.log1p(-weight)


def constrain(constraint: dict[str, str], u: Guidance) -> Guidance:
    """The weights of a pytree of unconstrained numbers."""
    return {name: to_weight(constraint[name], values) for name, values in u.items()}


def unconstrain(constraint: dict[str, str], weights: Guidance) -> Guidance:
    """The unconstrained numbers of a pytree of weights."""
    return {name: from_weight(constraint[name], values) for name, values in weights.items()}


def constant_grid(num_weights: int, num_points: int = 128) -> np.ndarray:
    """Points that cover the cube [-1, 1]^num_weights: [num_points, num_weights].

    One weight: evenly spaced. Several: Hammersley's set, whose other coordinates are the digits of
    0, 1, 2, ... in bases 2, 3, 5, ..., mirrored at the point.
    """
    if num_weights == 1:
        return np.linspace(-1, 1, num_points)[:, None]
    numbers = np.arange(num_points)
    columns = [(numbers + 0.5) / num_points]
    primes = [n for n in range(2, 100) if all(n % m for m in range(2, n))]
    for base in primes[: num_weights - 1]:
        digits = [numbers // base**k % base / base ** (k + 1) for k in range(8)]
        columns.append(np.sum(digits, axis=0))
    return 2 * np.stack(columns, axis=1) - 1


def log_snr_position(levels: NoiseLevel) -> Array:
    """Where each step begins, in log-SNR from 0 (the first) to 1 (the last): [S]."""
    t, _ = step_pairs(levels)
    xp = namespace(t.alpha)
    position = xp.clip(log_snr(t), -30, 30)  # pure noise and clean signal are infinitely far
    return (position - position[0]) / xp.maximum(position[-1] - position[0], 1e-6)


def interpolation(levels: NoiseLevel, knots: int | None) -> np.ndarray:
    """[S, P]: unconstrained numbers of all steps from P numbers, u = interpolation @ params.

    knots None: P = S, one number a step. Else P = knots, u linear in log-SNR between knots, which
    lie at quantiles of the steps; 1 is a constant. More knots than steps count as None.
    """
    position = log_snr_position(on_host(levels))
    steps = position.size
    if knots is None or knots >= steps:
        return np.eye(steps)
    if knots == 1:
        return np.ones((steps, 1))
    at = np.quantile(position, np.linspace(0, 1, knots))
    return np.stack([np.interp(position, at, one) for one in np.eye(knots)], axis=1)


def roughness(u: Array, levels: NoiseLevel) -> Array:
    """Numbers [S - 1] whose squares add up to how rough unconstrained numbers u [S] are.

    The mean over steps of du^2, a step counting less the wider it is in log-SNR: 0 for a constant,
    d^2 for a zigzag by d on levels evenly spaced in log-SNR.
    """
    count = max(u.shape[0] - 1, 1)
    width = count * jnp.diff(log_snr_position(levels))
    return jnp.diff(u) / jnp.sqrt(count * jnp.maximum(width, 0.1))


def smooth_curves(random: np.random.Generator, levels: NoiseLevel, num: int) -> np.ndarray:
    """Random curves, smooth in log-SNR, to be added to unconstrained numbers: [num, S].

    A curve is a sum of four cosines of standard deviations 2, 1, 2/3, 1/2.
    """
    order = np.arange(4)
    waves = np.cos(np.pi * order[:, None] * log_snr_position(on_host(levels))[None, :])
    return (2 / (1 + order) * random.normal(size=(num, 4))) @ waves


def on_host(tree: T) -> T:
    """All arrays as NumPy's."""
    return jax.tree.map(np.asarray, tree)


# ------------------------------------------------------------------------------ weights by band


def band_position(problem: Problem) -> Array:
    """How well each mode is measured, [F]: the log of its signal-to-noise ratio h^2 spectrum /
    sigma_y^2."""
    tiny = jnp.finfo(problem.spectrum.dtype).tiny
    power = problem.response**2 * problem.spectrum / problem.sigma_y**2
    return jnp.log(jnp.maximum(power, tiny))


def band_knots(problem: Problem, bands: int) -> Array:
    """Where a weight by band has its values, [bands], evenly spaced in `band_position`: from modes
    of which the measurement says nothing (1/100 of its noise) to those best measured."""
    best = jnp.maximum(jnp.max(band_position(problem)), 0)
    return jnp.linspace(jnp.log(jnp.asarray(0.01, best.dtype)), best, bands)


def band_membership(problem: Problem, knots: Array) -> Array:
    """[F, bands], rows add up to 1: unconstrained numbers of modes are membership @ those of bands.

    Linear in `band_position` between evenly spaced knots, constant beyond them.
    """
    bands = knots.shape[0]
    width = (knots[-1] - knots[0]) / max(bands - 1, 1)
    place = (band_position(problem) - knots[0]) / (width if bands > 1 else 1)
    place = jnp.clip(place, 0, bands - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(bands, dtype=place.dtype)[None]), 0)


def per_mode(
    constraint: dict[str, str], guidance: Guidance, problem: Problem, knots: Array
) -> Guidance:
    """The same schedule with leaves [S, bands] spread over the modes of a problem, [S, F].

    What a sampler takes for independent modes. Leaves [S] stay as they are. Raises InputError for
    blocks, and for other numbers of knots than of bands.

    >>> by_band = guidance | {"zeta": jax.numpy.ones((3, 2))}  # two bands
    >>> knots = jax.numpy.asarray([-1.0, 1.0])
    >>> sp.per_mode(sampler.constraint, by_band, problem, knots)["zeta"].shape  # [S, F]
    (3, 15)
    """
    problem, guidance, knots = floating(problem, guidance, knots)
    if problem.basis is not None:
        raise InputError("guidance: weights by band are for independent modes, not blocks")
    membership = band_membership(problem, knots)

    def spread(name: str, weights: Array) -> Array:
        if weights.ndim == 1:
            return weights
        if weights.shape[-1] != len(knots):
            raise InputError(
                f"guidance {name!r} of shape {weights.shape}: {len(knots)} bands have knots"
            )
        tiny = jnp.finfo(weights.dtype).tiny
        u = jnp.log(jnp.maximum(weights, tiny))
        if constraint[name] == "unit":
            u = u - jnp.log(jnp.maximum(1 - weights, tiny))
        return to_weight(constraint[name], matmul(u, membership.T))

    return {name: spread(name, weights) for name, weights in guidance.items()}


# ------------------------------------------------------------------------- weights by frequency


def low_pass(
    guidance: Guidance,
    frequency: ArrayLike,
    cutoffs: ArrayLike,
    weights: tuple[str, ...] | None = None,
) -> Guidance:
    """The same schedule, whose step i guides only frequencies below cutoffs[i]: a low pass P_i on
    the residual y - H x_hat.

        weight[i, f] = weight[i] where frequency[f] < cutoffs[i], else 0

    guidance    leaves [S]
    frequency   of the modes, in cycles per pixel, [F] or as a grid: `mode_frequency(prior, blur)`;
                for a problem of colour repeated for each of its axes
    cutoffs     [S], in cycles per pixel; no frequency is above 0.71
    weights     those to cut, which become [S, F]; the others stay. Default: the only one but eta
                and extrapolation. For weights that are 0 where nothing pulls toward y: not for
                DiffPIR's lambda_, whose 0 is the strongest pull

    For degradations whose modes are frequencies (circular, mri), not blocks, on problems that hold
    all modes, or merged so that all modes of a row have one frequency (`unique_modes` of an
    isotropic prior and blur). `bin_modes` mixes frequencies. Files hold the schedule, not what is
    cut of it.

    A zeta of DPS so cut is FGPS: Thaker, Goyal, Vidal, "Frequency-Guided Posterior Sampling for
    Diffusion-Based Image Restoration", ICCV 2025 (arXiv 2411.15295). The official code
    (darshanthaker/FGPS) steps down the gradient of ||P_i (y - H x_hat)||, not squared, which is a
    factor of zeta[i]; `dps(normalised=True)` divides by the norm of all frequencies instead. It
    opens, from p = 0 at the noisiest of 1000 time steps to p = 1 at the last,

        linear        cutoff = start + (end - start) p
        exponential   cutoff = end - (end - start) exp(-5 p)

    with start = 10 and end = 75 cycles per image of 256 pixels (0.039 and 0.293 here) in all its
    tasks; exponential for blurred faces, linear for blurred ImageNet.

    Raises InputError for a weight that is not there, not [S], or not told, for cutoffs that are not
    [S] or NaN, and for a frequency that is negative, infinite or NaN.

    >>> frequency = sp.mode_frequency(prior, blur)
    >>> sp.low_pass(guidance, frequency, [0.2, 0.4, 0.8])["zeta"].shape  # [S, F]
    (3, 64)
    """
    (guidance,) = floating(guidance)
    f, highest = floating(frequency, cutoffs)
    f = jnp.ravel(f)
    if weights is None:
        weights = tuple(
            name for name in guidance if name != "eta" and not name.startswith("extrapolation")
        )
        if len(weights) != 1:
            raise InputError(
                f"weights: guidance has {', '.join(guidance)}; name those that pull toward y"
            )
    for name in weights:
        if name not in guidance:
            raise InputError(f"weights = {name!r}: guidance has {', '.join(guidance)}")
        shape = guidance[name].shape
        if len(shape) != 1:
            raise InputError(f"guidance {name!r} of shape {shape}: one weight per step is needed")
        if highest.shape != shape:
            raise InputError(f"cutoffs of shape {highest.shape}: {shape}, one per step, is needed")
    if is_concrete(highest) and np.any(np.isnan(highest)):
        raise InputError("cutoffs: NaN; numbers in cycles per pixel are needed")
    if is_concrete(f) and not np.all((f >= 0) & (f < np.inf)):
        raise InputError("frequency: all values must be finite and >= 0, in cycles per pixel")
    passes = f[None] < highest[:, None]
    return guidance | {name: jnp.where(passes, guidance[name][:, None], 0) for name in weights}
