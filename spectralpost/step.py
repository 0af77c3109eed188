"""What a sampler is, and the arithmetic that published steps share.

A sampler is its published update, written once, in mode coordinates. Transfer functions are its
derivative (`transfer`), real images run it (`restore`), schedules are learned through it (`learn`).
An update may use array arithmetic that treats every mode alike, `denoise` and its derivatives
(`jax.vjp`), and `measurement.norm`; nothing else may couple modes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import jax.numpy as jnp
from jax import Array

from .noise import NoiseLevel, safe_sqrt
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
    start       (measurement, level, y, eps) -> x_T, affine in (y, eps)
    reference   title, year, arXiv number
    summary     the update in one line
    """

    name: str
    update: Update
    heuristic: Heuristic
    constraint: dict[str, str]
    reference: str
    summary: str
    start: Start = field(default=pure_noise)


def noise_estimate(x_t: Array, x_hat: Array, t: NoiseLevel) -> Array:
    """The noise that goes with an estimate of the signal: (x_t - alpha_t x_hat) / sigma_t."""
    return (x_t - t.alpha * x_hat) / t.sigma


def ddim_step(
    t: NoiseLevel, s: NoiseLevel, x_hat: Array, eps_hat: Array, eps: Array, eta: Array
) -> Array:
    """x_s = alpha_s x_hat + sigma_s sqrt(1 - eta^2 tau^2) eps_hat + eta sigma_s tau eps.

    tau^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2. eta = 0 is deterministic; eta = 1 is DDPM's
    ancestral step with its smaller ("fixed small") variance. Song, Meng, Ermon, "Denoising
    Diffusion Implicit Models", 2020 (arXiv 2010.02502).
    """
    tau2 = 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
    eta_tau = eta * safe_sqrt(tau2)
    return s.alpha * x_hat + s.sigma * safe_sqrt(1 - eta_tau**2) * eps_hat + s.sigma * eta_tau * eps


def constant(value: float | Array, levels: NoiseLevel) -> Array:
    """The same weight at every step, [S]."""
    return jnp.full(levels.alpha.shape[0] - 1, value, levels.alpha.dtype)
