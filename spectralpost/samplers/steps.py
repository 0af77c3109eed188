"""Arithmetic that published steps share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jax import Array

from ..algebra import safe_divide, safe_sqrt
from ..errors import InputError
from ..noise import NoiseLevel, step_pairs
from .base import Conversion, Denoise, Guidance, Measurement, Sampler, Step, constant

# Of estimates: what a step costs grows with their cube, and files may ask for any number.
MOST_REMEMBERED = 4


def noise_estimate(x_t: Array, x_hat: Array, t: NoiseLevel) -> Array:
    """The noise that goes with an estimate of the signal: (x_t - alpha_t x_hat) / sigma_t."""
    return (x_t - t.alpha * x_hat) / t.sigma


def ddim_step(step: Step, x_hat: Array, eps_hat: Array, eta: Array, *, draw: bool = True) -> Array:
    """x_s = alpha_s x_hat + sigma_s sqrt(1 - eta^2 tau^2) eps_hat + eta sigma_s tau eps.

    tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2. eta = 0 is deterministic; eta = 1 is DDPM's
    ancestral step with its smaller ("fixed small") variance. draw=False leaves out the fresh noise,
    whose standard deviation is `ddim_std`. Song, Meng, Ermon, "Denoising
    Diffusion Implicit Models", 2020 (arXiv 2010.02502).
    """
    t, s = step.t, step.s
    kept = safe_sqrt(1 - eta**2 * fresh_share(t, s))
    x_s = s.alpha * x_hat + s.sigma * kept * eps_hat
    return x_s + ddim_std(t, s, eta) * step.eps if draw else x_s


def ddim_std(t: NoiseLevel, s: NoiseLevel, eta: Array) -> Array:
    """Standard deviation eta sigma_s tau of the fresh noise of `ddim_step`."""
    return eta * s.sigma * safe_sqrt(fresh_share(t, s))


def fresh_share(t: NoiseLevel, s: NoiseLevel) -> Array:
    """tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2: the share of the noise of level s that
    DDPM draws afresh."""
    return 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2


def ddnm_step(step: Step, x_hat: Array, eps_hat: Array, eta: Array) -> Array:
    """x_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2) eps_hat + eta eps).

    The step of DDNM, DDRM and DDS, and with eta = sqrt(zeta) of DiffPIR. Its eta is not DDIM's:
    0.85 replaces 0.85^2 of the variance at every step, however small the step.
    """
    s = step.s
    return s.alpha * x_hat + s.sigma * (safe_sqrt(1 - eta**2) * eps_hat + eta * step.eps)


def denoise_with_vjp(
    denoise: Denoise, x_t: Array, t: NoiseLevel
) -> tuple[Array, Callable[[Array], Array]]:
    """x_hat, and v -> J^T v with J = d x_hat / d x_t.

    A denoiser that knows its own derivative says it by a method `vjp`, as the model's does, whose
    gain and Jacobian may differ (see `calibration`); others are differentiated.
    """
    if hasattr(denoise, "vjp"):
        return denoise.vjp(x_t, t)
    x_hat, pull = jax.vjp(lambda x: denoise(x, t), x_t)
    return x_hat, lambda v: pull(v)[0]


def data_cov(denoise: Denoise, v: Array, t: NoiseLevel) -> Array:
    """C_t v, with C_t = Cov(x_0 | x_t) of Gaussian data: (C^-1 + (alpha_t / sigma_t)^2)^-1.

    C is the covariance of all images, which a network does not know by itself: a denoiser that does
    says it by a method `cov`, as the model's. InputError for others.
    """
    knows: Any = denoise
    if not hasattr(knows, "cov"):
        raise InputError(
            "denoiser: this sampler asks for the covariance of images, which it does not know; "
            "allowed are WithCovariance.of(denoiser, prior) and denoisers with a method cov"
        )
    return knows.cov(v, t)


def misfit_descent(
    denoise: Denoise, measurement: Measurement, step: Step, *, normalised: bool
) -> tuple[Array, Array]:
    """x_hat, and the guidance of DPS and MCG; both of the shape of x_t.

        -zeta grad_{x_t} (r . r) = 2 zeta J^T H^T r            normalised = False
        -scale grad_{x_t} ||r||  = scale J^T H^T r / ||r||     normalised = True

    with r = y - H x_hat, J = d x_hat / d x_t. See `samplers.dps` for its source.
    """
    x_hat, vjp = denoise_with_vjp(denoise, step.x_t, step.t)
    r = step.y - measurement.response * x_hat
    descent = vjp(measurement.response * r)
    weights = step.guidance
    weight = weights["scale"] / measurement.norm(r) if normalised else 2 * weights["zeta"]
    return x_hat, weight * descent


class Conversions(TypedDict):
    """Both conversions of a Sampler with a literal form."""

    to_literal: Conversion
    from_literal: Conversion


def norm_conversion(
    weight: str, literal_weight: str, divisor: Callable[[Array, NoiseLevel], Array]
) -> Conversions:
    """`to_literal` and `from_literal` of a Sampler, for weight = literal_weight / divisor.

    divisor (norm [S], levels) -> [S]: what the literal form divides its weight by
    """

    def by(weights: Array, norms: Array, levels: NoiseLevel) -> Array:
        steps = divisor(norms[:, 0], levels)
        return jnp.expand_dims(steps, tuple(range(1, jnp.ndim(weights))))  # [S], or [S, 1] by mode

    def to_literal(guidance: Guidance, norms: Array, levels: NoiseLevel) -> Guidance:
        others = {name: w for name, w in guidance.items() if name != weight}
        return {literal_weight: guidance[weight] * by(guidance[weight], norms, levels), **others}

    def from_literal(guidance: Guidance, norms: Array, levels: NoiseLevel) -> Guidance:
        others = {name: w for name, w in guidance.items() if name != literal_weight}
        literal = guidance[literal_weight]
        return {weight: literal / by(literal, norms, levels), **others}

    return {"to_literal": to_literal, "from_literal": from_literal}


def svd_step(
    denoise: Denoise, measurement: Measurement, step: Step, eta: Array, eta_b: Array
) -> Array:
    """The step of DDRM, and with eta_b = 1 of DDNM+: by singular values, see `samplers.ddrm`."""
    t, s, x_t, y, eps, _ = step
    h, sigma_y = measurement.response, measurement.sigma_y
    x_hat = denoise(x_t, t)
    ybar, spread, informed = better_than(measurement, s, y, eta_b)
    from_y = s.alpha * ((1 - eta_b) * x_hat + eta_b * ybar) + spread * eps
    misfit = jnp.where(h > 0, (y - h * x_hat) / sigma_y, noise_estimate(x_t, x_hat, t))
    return jnp.where(informed, from_y, ddnm_step(step, x_hat, misfit, eta))


def better_than(
    measurement: Measurement, level: NoiseLevel, y: Array, eta_b: Array
) -> tuple[Array, Array, Array]:
    """y / h; what noise it lacks at that level; and where it is less noisy than the level."""
    h, sigma_y = measurement.response, measurement.sigma_y
    informed = h * level.sigma > level.alpha * sigma_y
    h = jnp.where(informed, h, 1)  # keeps values and gradients of the other cases finite
    spread = safe_sqrt(level.sigma**2 - (eta_b * level.alpha * sigma_y / h) ** 2)
    return y / h, spread, informed


def euler_step(denoise: Denoise, step: Step, eta: Array) -> Array:
    """DDIM from an estimate x_hat, with the noise that x_t has on top of it."""
    x_hat = denoise(step.x_t, step.t)
    return ddim_step(step, x_hat, noise_estimate(step.x_t, x_hat, step.t), eta)


def heun_step(denoise: Denoise, step: Step) -> Array:
    """One step of Heun's method on the probability flow, two calls of `denoise`.

        d(x/alpha) / d(sigma/alpha) = eps_hat(x) = (x - alpha denoise(x)) / sigma

    Its Euler step is DDIM(0). Where Heun's slope does not exist, at alpha_t = 0 or sigma_s = 0, the
    Euler step is taken. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
    Models", 2022 (arXiv 2206.00364).
    """
    t, s, x_t = step.t, step.s, step.x_t
    x_hat = denoise(x_t, t)
    eps_t = noise_estimate(x_t, x_hat, t)
    euler = ddim_step(step, x_hat, eps_t, jnp.zeros_like(t.sigma), draw=False)
    exists = (t.alpha > 0) & (s.sigma > 0)
    end = NoiseLevel(s.alpha, jnp.where(exists, s.sigma, 1))
    eps_s = noise_estimate(euler, denoise(euler, end), end)
    width = s.sigma - s.alpha * t.sigma / jnp.where(exists, t.alpha, 1)
    return euler + jnp.where(exists, width / 2, 0) * (eps_s - eps_t)


def pseudo_inverse(h: Array, threshold: float) -> Array:
    """1 / h, and 0 for singular values h that are not above the threshold."""
    kept = h > threshold
    return jnp.where(kept, 1 / jnp.where(kept, h, 1), 0)


def projection(h: Array, threshold: float) -> Array:
    """H^+ H in mode coordinates: 1 for the modes that `pseudo_inverse` keeps, else 0."""
    return (h > threshold).astype(h.dtype)


def extrapolated(step: Step, x_hat: Array, before: tuple[Array, ...]) -> Array:
    """The estimate that DDIM starts from, given those of the m steps before, the newest first.

    From the oldest on, each estimate is extrapolated to the next newer one:

        x' = x_m,   then   x' <- x' + w_k (x_{k-1} - x')   for k = m, ..., 1

    with x_k that of k steps ago, x_0 = x_hat, w_1 the weight `extrapolation`, w_2 `extrapolation_2`
    and so on. w_k = 1 forgets all that is older than x_{k-1}: w_2 = 1 is the same with m = 1, and
    w_1 = 1 is DDIM. It is a linear combination whose weights add up to 1, so that estimates that
    agree stay as they are, the prior mean for one, and a step commutes with a shift of it. They may
    be negative though w_k >= 0: alternating as in Adams' methods where all w_k > 1, of all earlier
    estimates where w_1 > 1 > w_2. (Out of reach: less than 0 of x_hat, less than 0 of x_1 beside
    less than 1 of x_hat, and so on.)

    A learned combination of all earlier estimates is "learnable linear extrapolation": Zhang et
    al., "Improving Diffusion-Based Inverse Algorithms under Few-Step Constraint via Learnable
    Linear Extrapolation", NeurIPS 2025 (arXiv 2503.10103).
    """
    base, *newer = reversed((x_hat, *before))
    for name, estimate in zip(reversed(extrapolations(len(before))), newer, strict=True):
        base = base + step.guidance[name] * (estimate - base)
    return base


def extrapolations(m: int) -> list[str]:
    """Names of the weights of `extrapolated`, of the newest estimate first."""
    return ["extrapolation", *(f"extrapolation_{k}" for k in range(2, m + 1))][:m]


def remembering(sampler: Sampler, m: int) -> Sampler:
    """The sampler whose update takes the estimates of the m steps before and returns those of the
    last m, before what it remembers besides: with weights for `extrapolated`, by default
    `second_order` and 1 for older ones.

    InputError unless m is a whole number from 0 (the sampler as it is) to MOST_REMEMBERED.
    """
    if not (isinstance(m, int) and 0 <= m <= MOST_REMEMBERED):
        raise InputError(
            f"multistep = {m!r}: must be true, false or how many estimates are remembered, up to "
            f"{MOST_REMEMBERED}"
        )
    if not m:
        return sampler
    first, *older = extrapolations(m)
    return replace(
        sampler,
        memory=sampler.memory + int(m),
        constraint=sampler.constraint | dict.fromkeys((first, *older), "nonnegative"),
        defaults=lambda problem, levels, factor: (
            sampler.defaults(problem, levels, factor)
            | {first: second_order(levels)}
            | dict.fromkeys(older, constant(1.0, levels))
        ),
    )


def second_order(levels: NoiseLevel) -> Array:
    """The weights of `extrapolated` that make DDIM(0) DPM-Solver++(2M): [S].

    1 + h_t / (2 h_before), h the gap of log(alpha / sigma) that a step spans; 1, which is DDIM, in
    the first step and where a gap is infinite. Lu et al., "DPM-Solver++: Fast Solver for Guided
    Sampling of Diffusion Probabilistic Models", 2022 (arXiv 2211.01095), algorithm 2.
    """
    t, s = step_pairs(levels)
    known = (t.alpha > 0) & (s.sigma > 0)
    ratio = jnp.where(known, s.alpha * t.sigma, 2) / jnp.where(known, t.alpha * s.sigma, 1)
    h = jnp.where(known, jnp.log(ratio), 0)
    weights = 1 + safe_divide(h[1:], 2 * h[:-1])
    return jnp.concatenate([jnp.ones_like(h[:1]), weights])
