"""Decoupled annealing posterior sampling (DAPS)."""

from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..algebra import float_dtype, safe_sqrt
from ..noise import NoiseLevel, num_steps_of
from .base import (
    Denoise,
    Guidance,
    Measurement,
    Sampler,
    Step,
    check_choice,
    check_count,
    constant,
    factory,
)

RHO_MIN = 0.01  # where the inner ordinary differential equation ends


@factory
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
    lr from 1e-4 linearly to 2e-6, precision 1 / tau^2 with tau = 0.01 whatever sigma_y, pixels in
    [-1, 1]. The factor 2 is that code's; the paper, and the code from July 2024 to March 2025, have
    1 (`variant="paper"`). With h = 1 the Langevin steps of the first level of that code multiply by
    -1: the edge of stability.

    The denoiser is called at VE levels (alpha = 1) between those of the grid.

    Weights: lr >= 0, default 1e-4 (1 - 0.99 i / (S + 1)) at step i; precision >= 0, default 1e4.
    """
    check_choice("variant", variant, ("code", "paper"))
    check_count("ode_steps", ode_steps)
    check_count("langevin_steps", langevin_steps)
    strength = 2.0 if variant == "code" else 1.0

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, s, x_t, y, eps, guidance = step
        h, lr = measurement.response, guidance["lr"]
        alpha_t = jnp.maximum(t.alpha, 1e-8 * t.sigma)  # rho stays finite where alpha_t = 0
        rho = t.sigma / alpha_t
        x_hat = _flow(denoise, x_t / alpha_t, rho, ode_steps)

        trust = strength * guidance["precision"] * h
        drive = lr * (trust * y + x_hat / rho**2)
        m = 1 - lr * (trust * h + 1 / rho**2)
        power, total = _geometric(m, langevin_steps)
        _, squares = _geometric(m**2, langevin_steps)
        x = power * x_hat + total * drive
        spread = safe_sqrt(s.alpha**2 * 2 * lr * squares + s.sigma**2)
        return s.alpha * x + spread * eps

    def defaults(problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        i = jnp.arange(num_steps_of(levels), dtype=float_dtype(levels))
        lr = 1e-4 * factor * (1 - 0.99 * i / (num_steps_of(levels) + 1))
        return {"lr": lr, "precision": constant(1e4, levels)}

    return Sampler(
        name="daps",
        update=update,
        defaults=defaults,
        constraint={"lr": "nonnegative", "precision": "nonnegative"},
        reference="Zhang et al., Decoupled Annealing Posterior Sampling, 2025, arXiv 2407.01521",
        summary="x_s = alpha_s Langevin(probability flow(x_t), y) + sigma_s eps",
    )


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
