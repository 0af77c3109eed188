"""Diffusion model based posterior sampling (DMPS)."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from .base import Denoise, Measurement, Sampler, Step, check_choice, constant, factory
from .steps import ddim_step, fresh_share, noise_estimate


@factory
def dmps(*, variant: Literal["code", "paper"] = "code") -> Sampler:
    """DDIM(eta) plus the likelihood score of a signal without a prior, around x_t / alpha_t.

        x'_s = DDIM(x_hat, eps_hat)
        x_s  = x'_s + scale sigma_t^2 tau^2 alpha_s / alpha_t^2
                      H^T (sigma_y^2 I + (sigma_t / alpha_t)^2 H H^T)^-1 (y - H u / alpha_t)

    u = x'_s in the official code (mengxiangming/dmps), which so holds a signal of level s to a
    measurement at level t; u = x_t in the paper (`variant="paper"`). For VP noise the factor in
    front is the official ((1 - a) / sqrt(a)) / alpha_t with a = (alpha_t / alpha_s)^2. Needs no
    derivative of the denoiser. At alpha_t = 0, where a rectified flow starts, the factor is
    infinite: that step is left unguided.

    Meng, Kabashima, "Diffusion Model Based Posterior Sampling for Noisy Linear Inverse Problems",
    2022 (arXiv 2211.12343). Official: 1000 DDPM steps, scale 1.75 for every task, pixels in
    [-1, 1]; its learned variance and its clipping of x_hat are not modelled.

    Weights: scale >= 0, default 1.75; eta in [0, 1], default 1, the ancestral DDPM step.
    """
    check_choice("variant", variant, ("code", "paper"))

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, s, x_t, y, _, guidance = step
        h, sigma_y = measurement.response, measurement.sigma_y
        x_hat = denoise(x_t, t)
        x_s = ddim_step(step, x_hat, noise_estimate(x_t, x_hat, t), guidance["eta"])
        u = x_s if variant == "code" else x_t
        # The formula above with alpha_t^2 multiplied into the inverse.
        alpha_t = jnp.where(t.alpha > 0, t.alpha, 1)
        factor = jnp.where(t.alpha > 0, t.sigma**2 * fresh_share(t, s) * s.alpha / alpha_t, 0)
        pull = h * (t.alpha * y - h * u) / (alpha_t**2 * sigma_y**2 + t.sigma**2 * h**2)
        return x_s + guidance["scale"] * factor * pull

    return Sampler(
        name="dmps",
        update=update,
        defaults=lambda problem, levels, factor: {
            "scale": constant(1.75 * factor, levels),
            "eta": constant(1.0, levels),
        },
        constraint={"scale": "nonnegative", "eta": "unit"},
        reference="Meng and Kabashima, DMPS, 2022, arXiv 2211.12343",
        summary="x_s = DDIM(eta) + scale b_t H^T (sigma_y^2 + sigma^2/alpha^2 H H^T)^-1 r(x_s)",
        equivariant=variant == "paper",
    )
