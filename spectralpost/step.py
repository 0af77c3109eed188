"""What a sampler is, and the arithmetic that published steps share.

A sampler is its published update, written once, in mode coordinates. Transfer functions are its
derivative (`transfer`), real images run it (`restore`), schedules are learned through it (`learn`).
An update may use array arithmetic that treats every mode alike, `denoise` and its derivatives
(`jax.vjp`), `measurement.norm` and `measurement.solve`; nothing else may couple modes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from .algebra import float_dtype, safe_sqrt
from .errors import InputError
from .noise import NoiseLevel, num_steps_of
from .problem import Measurement, Problem

# (x_t, t) -> E[x_0 | x_t], all in mode coordinates
Denoise = Callable[[Array, NoiseLevel], Array]
# The weights of all steps, name -> [S]; those of one step are scalars.
Guidance = dict[str, Array]
Start = Callable[[Measurement, NoiseLevel, Array, Array], Array]
Update = Callable[
    [Denoise, Measurement, NoiseLevel, NoiseLevel, Array, Array, Array, Guidance], Array
]


class Heuristic(Protocol):
    def __call__(
        self, problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0
    ) -> Guidance: ...


def pure_noise(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
    """x_T = sigma_T eps, the start of most published samplers."""
    del measurement, y
    return level.sigma * eps


# Compared and hashed by identity: a sampler is a static argument of jitted functions, so factories
# return the same object for the same options (functools.cache).
@dataclass(frozen=True, eq=False)
class Sampler:
    """A published posterior sampler.

    name        how `SAMPLERS` calls it
    update      (denoise, measurement, t, s, x_t, y, eps, guidance_t) -> x_s, with fresh noise eps
    heuristic   (problem, levels, factor=1) -> guidance, leaves [S]: the published defaults as a
                schedule, with the constant that people tune multiplied by `factor`
    constraint  weight name -> "nonnegative" or "unit" (between 0 and 1)
    reference   title, year, arXiv number
    summary     the update in one line
    start       (measurement, level, y, eps) -> x_T, affine in (y, eps)
    state       "x_t", the noisy signal; or "x_0", an estimate of the clean one to which the update
                itself adds the noise that the denoiser is to remove (RED-diff)
    equivariant whether a step commutes with a shift of the prior mean: x_t by alpha_t mean, y by H
                mean, x_s by alpha_s mean. False for a few official codes that compare the state of
                one level with the measurement at another
    """

    name: str
    update: Update
    heuristic: Heuristic
    constraint: dict[str, str]
    reference: str
    summary: str
    start: Start = field(default=pure_noise)
    state: Literal["x_t", "x_0"] = "x_t"
    equivariant: bool = True

    def centre(self, level: NoiseLevel) -> Array:
        """The multiple of the prior mean that the state is an estimate of."""
        return level.alpha if self.state == "x_t" else jnp.ones_like(level.alpha)


def noise_estimate(x_t: Array, x_hat: Array, t: NoiseLevel) -> Array:
    """The noise that goes with an estimate of the signal: (x_t - alpha_t x_hat) / sigma_t."""
    return (x_t - t.alpha * x_hat) / t.sigma


def ddim_step(
    t: NoiseLevel,
    s: NoiseLevel,
    x_hat: Array,
    eps_hat: Array,
    eps: Array,
    eta: Array,
    *,
    draw: bool = True,
) -> Array:
    """x_s = alpha_s x_hat + sigma_s sqrt(1 - eta^2 tau^2) eps_hat + eta sigma_s tau eps.

    tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2. eta = 0 is deterministic; eta = 1 is DDPM's
    ancestral step with its smaller ("fixed small") variance. draw=False leaves out the fresh noise,
    whose standard deviation is `ddim_std`. Song, Meng, Ermon, "Denoising
    Diffusion Implicit Models", 2020 (arXiv 2010.02502).
    """
    kept = safe_sqrt(1 - eta**2 * fresh_share(t, s))
    x_s = s.alpha * x_hat + s.sigma * kept * eps_hat
    return x_s + ddim_std(t, s, eta) * eps if draw else x_s


def ddim_std(t: NoiseLevel, s: NoiseLevel, eta: Array) -> Array:
    """Standard deviation eta sigma_s tau of the fresh noise of `ddim_step`."""
    return eta * s.sigma * safe_sqrt(fresh_share(t, s))


def fresh_share(t: NoiseLevel, s: NoiseLevel) -> Array:
    """tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2: the share of the noise of level s that
    DDPM draws afresh."""
    return 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2


def ddnm_step(s: NoiseLevel, x_hat: Array, eps_hat: Array, eps: Array, eta: Array) -> Array:
    """x_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2) eps_hat + eta eps).

    The step of DDNM, DDRM and DDS, and with eta = sqrt(zeta) of DiffPIR. Its eta is not DDIM's:
    0.85 replaces 0.85^2 of the variance at every step, however small the step.
    """
    return s.alpha * x_hat + s.sigma * (safe_sqrt(1 - eta**2) * eps_hat + eta * eps)


def misfit_descent(
    denoise: Denoise,
    measurement: Measurement,
    t: NoiseLevel,
    x_t: Array,
    y: Array,
    guidance_t: Guidance,
    *,
    normalised: bool,
) -> tuple[Array, Array]:
    """x_hat, and the guidance of DPS and MCG; both of the shape of x_t.

        -zeta grad_{x_t} (r . r) = 2 zeta J^T H^T r            normalised = False
        -scale grad_{x_t} ||r||  = scale J^T H^T r / ||r||     normalised = True

    with r = y - H x_hat, J = d x_hat / d x_t. See `samplers.dps` for its source.
    """
    x_hat, vjp = jax.vjp(lambda x: denoise(x, t), x_t)
    r = y - measurement.response * x_hat
    (descent,) = vjp(measurement.response * r)
    weight = guidance_t["scale"] / measurement.norm(r) if normalised else 2 * guidance_t["zeta"]
    return x_hat, weight * descent


def check_scale(scale: float) -> None:
    """InputError unless a sampler's option `scale` is a number >= 0."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale >= 0:
        raise InputError(f"scale = {scale!r}: must be a number >= 0")


def svd_step(
    denoise: Denoise,
    measurement: Measurement,
    t: NoiseLevel,
    s: NoiseLevel,
    x_t: Array,
    y: Array,
    eps: Array,
    eta: Array,
    eta_b: Array,
) -> Array:
    """The step of DDRM, and with eta_b = 1 of DDNM+: by singular values, see `samplers.ddrm`."""
    h, sigma_y = measurement.response, measurement.sigma_y
    x_hat = denoise(x_t, t)
    ybar, spread, informed = better_than(measurement, s, y, eta_b)
    from_y = s.alpha * ((1 - eta_b) * x_hat + eta_b * ybar) + spread * eps
    misfit = jnp.where(h > 0, (y - h * x_hat) / sigma_y, noise_estimate(x_t, x_hat, t))
    return jnp.where(informed, from_y, ddnm_step(s, x_hat, misfit, eps, eta))


def better_than(
    measurement: Measurement, level: NoiseLevel, y: Array, eta_b: Array
) -> tuple[Array, Array, Array]:
    """y / h; what noise it lacks at that level; and where it is less noisy than the level."""
    h, sigma_y = measurement.response, measurement.sigma_y
    informed = h * level.sigma > level.alpha * sigma_y
    h = jnp.where(informed, h, 1)  # keeps values and gradients of the other cases finite
    spread = safe_sqrt(level.sigma**2 - (eta_b * level.alpha * sigma_y / h) ** 2)
    return y / h, spread, informed


def heun_step(denoise: Denoise, t: NoiseLevel, s: NoiseLevel, x_t: Array) -> Array:
    """One step of Heun's method on the probability flow, two calls of `denoise`.

        d(x/alpha) / d(sigma/alpha) = eps_hat(x) = (x - alpha denoise(x)) / sigma

    Its Euler step is DDIM(0). Where Heun's slope does not exist, at alpha_t = 0 or sigma_s = 0, the
    Euler step is taken. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
    Models", 2022 (arXiv 2206.00364).
    """
    x_hat = denoise(x_t, t)
    eps_t = noise_estimate(x_t, x_hat, t)
    euler = s.alpha * x_hat + s.sigma * eps_t
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


def constant(value: float | Array, levels: NoiseLevel) -> Array:
    """The same weight at every step, [S]."""
    return jnp.full(num_steps_of(levels), value, float_dtype(levels))
