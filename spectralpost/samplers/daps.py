"""Decoupled annealing posterior sampling (DAPS)."""

from functools import cache, partial
from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..algebra import float_dtype, safe_sqrt
from ..errors import InputError
from ..noise import NoiseLevel, num_steps_of
from ..problem import Measurement
from ..step import Denoise, Guidance, Sampler, constant

RHO_MIN = 0.01  # where the inner ordinary differential equation ends


@cache
def daps(
    *,
    variant: Literal["code", "paper"] = "code",
    ode_steps: int = 5,
    langevin_steps: int = 100,
) -> Sampler:
    """Denoise to the end, sample around that with the likelihood, and add the noise of level s.

        rho    = sigma_t / alpha_t
        x_hat  = Euler's method on the prior's probability flow from x_t / alpha_t at rho to 0.01,
                 on nodes evenly spaced in rho^(1/7)
        x      = x + lr (-2 precision H^T (H x - y) + (x_hat - x) / rho^2) + sqrt(2 lr) eps_i
                 `langevin_steps` times from x = x_hat
        x_s    = alpha_s x + sigma_s eps

    Affine in all, so the Langevin steps and their noises are composed in closed form, mode by mode;
    on images too.

    Zhang, Chu, Berner, Meng, Anandkumar, Song, "Improving Diffusion Inverse Problem Solving with
    Decoupled Noise Annealing", CVPR 2025 (arXiv 2407.01521). Official code zhangbingliang2019/DAPS:
    200 levels (VE, `ve_karras(200, sigma_max=100, sigma_min=0.106)`), 5 calls of the network each,
    lr from 1e-4 linearly to 1.5e-6, precision 1 / tau^2 with tau = 0.01 whatever sigma_y, pixels in
    [-1, 1]. The factor 2 is that code's; the paper, and the code from July 2024 to March 2025, have
    1 (`variant="paper"`). With h = 1 the Langevin steps of the first level of that code multiply by
    -1: the edge of stability.

    The denoiser is called at VE levels (alpha = 1) between those of the grid.

    Weights: lr >= 0, default 1e-4 (1 - 0.99 i / (S + 1)) at step i; precision >= 0, default 1e4.
    """
    if variant not in ("code", "paper"):
        raise InputError(f"variant = {variant!r}: allowed are code, paper")
    for name, value in {"ode_steps": ode_steps, "langevin_steps": langevin_steps}.items():
        if not (isinstance(value, int) and value >= 1):
            raise InputError(f"{name} = {value!r}: must be a whole number >= 1")

    def heuristic(problem, levels: NoiseLevel, factor: float | Array = 1.0) -> Guidance:
        i = jnp.arange(num_steps_of(levels), dtype=float_dtype(levels))
        lr = 1e-4 * factor * (1 - 0.99 * i / (num_steps_of(levels) + 1))
        return {"lr": lr, "precision": constant(1e4, levels)}

    return Sampler(
        name="daps",
        update=partial(_update, 2.0 if variant == "code" else 1.0, ode_steps, langevin_steps),
        heuristic=heuristic,
        constraint={"lr": "nonnegative", "precision": "nonnegative"},
        reference="Zhang et al., Decoupled Annealing Posterior Sampling, 2025, arXiv 2407.01521",
        summary="x_s = alpha_s Langevin(probability flow(x_t), y) + sigma_s eps",
    )


def _update(
    strength: float,
    ode_steps: int,
    langevin_steps: int,
    denoise: Denoise,
    measurement: Measurement,
    t: NoiseLevel,
    s: NoiseLevel,
    x_t: Array,
    y: Array,
    eps: Array,
    guidance_t: Guidance,
) -> Array:
    h, lr = measurement.response, guidance_t["lr"]
    alpha_t = jnp.maximum(t.alpha, 1e-8 * t.sigma)  # rho stays finite where alpha_t = 0
    rho = t.sigma / alpha_t
    x_hat = _flow(denoise, x_t / alpha_t, rho, ode_steps)

    trust = strength * guidance_t["precision"] * h
    drive = lr * (trust * y + x_hat / rho**2)
    m = 1 - lr * (trust * h + 1 / rho**2)
    power, total = _geometric(m, langevin_steps)
    _, squares = _geometric(m**2, langevin_steps)
    x = power * x_hat + total * drive
    spread = safe_sqrt(s.alpha**2 * 2 * lr * squares + s.sigma**2)
    return s.alpha * x + spread * eps


def _flow(denoise: Denoise, x: Array, rho: Array, steps: int) -> Array:
    """Euler's method on dx/drho = (x - x_hat(x, rho)) / rho from rho to RHO_MIN."""
    ends = rho ** (1 / 7), jnp.minimum(rho, RHO_MIN) ** (1 / 7)
    nodes = [(ends[0] + (ends[1] - ends[0]) * (j / steps)) ** 7 for j in range(steps + 1)]
    for here, there in pairwise(nodes):
        x_hat = denoise(x, NoiseLevel(jnp.ones_like(rho), here))
        x = x_hat + (there / here) * (x - x_hat)
    return x


def _geometric(m: Array, num: int) -> tuple[Array, Array]:
    """m^num and 1 + m + ... + m^(num - 1), by doubling: exact at m = 1, where (1 - m^n) / (1 - m)
    is not."""
    if num == 0:
        return jnp.ones_like(m), jnp.zeros_like(m)
    power, total = _geometric(m, num // 2)
    power, total = power * power, total * (1 + power)
    return (power * m, total * m + 1) if num % 2 else (power, total)
