"""Denoising diffusion restoration models (DDRM)."""

import jax.numpy as jnp
from jax import Array

from ..noise import NoiseLevel
from .base import Denoise, Measurement, Sampler, Step, constant, factory
from .steps import better_than, svd_step


@factory
def ddrm() -> Sampler:
    """Each singular vector is denoised as far as its measurement is better than the current noise.

    With ybar = y / h, whose noise has the standard deviation alpha_s sigma_y / h at level s:

        sigma_s > alpha_s sigma_y / h   x_s = alpha_s ((1 - eta_b) x_hat + eta_b ybar)
                                              + sqrt(sigma_s^2 - (eta_b alpha_s sigma_y / h)^2) eps
        else, h > 0                     x_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2)
                                              (y - h x_hat) / sigma_y + eta eps)
        h = 0                           x_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2) eps_hat
                                              + eta eps)

    The start is as informed: x_T = alpha_T ybar + sqrt(sigma_T^2 - (alpha_T sigma_y / h)^2) eps in
    the first case at level T, sigma_T eps else.

    Kawar, Elad, Ermon, Song, "Denoising Diffusion Restoration Models", NeurIPS 2022 (arXiv
    2201.11793). Official code bahjat-kawar/ddrm (functions/denoising.py), 20 steps, sigma_y given
    in [0, 1] and doubled. There a start is divided by sigma_T / alpha_T instead of multiplied by
    alpha_T, equal to 1e-4 for its grid; and singular values that are stored as zeros (blurs,
    thresholded at 0.03) take the second case, where (y - h x_hat) / sigma_y is noise frozen for the
    whole run. Here exact zeros take the third; a small h takes the second, as there.

    Weights: eta_b in [0, 1], default 1; eta in [0, 1], default 0.85, of the type of `ddnm_step`.
    """

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        return svd_step(denoise, measurement, step, step.guidance["eta"], step.guidance["eta_b"])

    def start(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
        ybar, spread, informed = better_than(measurement, level, y, jnp.ones_like(level.alpha))
        return jnp.where(informed, level.alpha * ybar + spread * eps, level.sigma * eps)

    return Sampler(
        name="ddrm",
        update=update,
        defaults=lambda problem, levels, factor: {
            "eta_b": constant(jnp.minimum(factor, 1.0), levels),
            "eta": constant(0.85, levels),
        },
        constraint={"eta_b": "unit", "eta": "unit"},
        for_network=(),
        reference="Kawar et al., Denoising Diffusion Restoration Models, 2022, arXiv 2201.11793",
        summary="x_s from y/h where it is less noisy than level s, else pulled by (y - h x_hat)",
        start=start,
    )
