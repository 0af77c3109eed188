"""Denoising diffusion null-space models (DDNM, DDNM+)."""

import jax.numpy as jnp
from jax import Array

from .base import Denoise, Measurement, Sampler, Step, check_nonnegative, constant, factory
from .steps import ddnm_step, noise_estimate, projection, pseudo_inverse, svd_step


@factory
def ddnm(*, noiseless: bool = False, threshold: float = 0.03) -> Sampler:
    """The measured part of x_hat is replaced by the measurement, the null space keeps the prior's.

    DDNM+, for noisy measurements, scales that replacement so that x_s has the noise of level s:

        x_hat' = x_hat + V Lambda V^T H^+ (y - H x_hat)
        x_s    = alpha_s x_hat' + V D_1 V^T eps + V D_2 V^T eps_hat

        sigma_s > alpha_s sigma_y / h   lambda = 1,  d_1^2 = sigma_s^2 - (alpha_s sigma_y / h)^2
        else, h > 0                     lambda = h sigma_s sqrt(1 - eta^2) / (alpha_s sigma_y),
                                        d_1 = eta sigma_s
        h = 0                           d_1 = eta sigma_s,  d_2 = sqrt(1 - eta^2) sigma_s

    which is `ddrm`'s step with eta_b = 1. DDNM (noiseless = True) ignores sigma_y:

        x_hat' = x_hat + H^+ (y - H x_hat)
        x_s    = alpha_s x_hat' + sigma_s (sqrt(1 - eta^2) eps_hat + eta eps)

    Wang, Yu, Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR
    2023 (arXiv 2212.00490). Official code wyhuai/DDNM (functions/svd_ddnm.py, svd_operators.py):
    100 steps, eta 0.85, sigma_y given in [0, 1] and doubled, singular values up to 0.03 zeroed in
    H^+ (by axis for blurs; here of H, and in DDNM only). Three codings of DDNM+ exist; this is the
    one by singular values. There D_2 acts on eps_hat in the wrong basis (without V^T) and small
    singular values get neither data nor the full noise; here both are as the paper means them. Time
    travel, off by default there, is left out.

    Weights: eta in [0, 1], default 0.85, of the type of `ddnm_step`.
    """
    check_nonnegative("threshold", threshold)

    def plus(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        eta = step.guidance["eta"]
        return svd_step(denoise, measurement, step, eta, jnp.ones_like(eta))

    def without_noise(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        P, inverse = (of(measurement.response, threshold) for of in (projection, pseudo_inverse))
        x_hat = denoise(step.x_t, step.t)
        eps_hat = noise_estimate(step.x_t, x_hat, step.t)
        # H^+ H = P to the last digit: nothing is left of x_hat where y replaces it.
        x_hat = (1 - P) * x_hat + inverse * step.y
        return ddnm_step(step, x_hat, eps_hat, step.guidance["eta"])

    return Sampler(
        name="ddnm",
        update=without_noise if noiseless else plus,
        defaults=lambda problem, levels, factor: {
            "eta": constant(jnp.minimum(0.85 * factor, 1.0), levels)
        },
        constraint={"eta": "unit"},
        for_network=(),
        reference="Wang et al., Denoising Diffusion Null-Space Model, 2023, arXiv 2212.00490",
        summary=(
            "x_hat' = x_hat + H^+ (y - H x_hat), then ddnm_step(eta)"
            if noiseless
            else "x_hat' = x_hat + V Lambda V^T H^+ (y - H x_hat), noise to fit"
        ),
    )
