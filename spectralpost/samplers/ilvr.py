"""Iterative latent variable refinement (ILVR)."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..algebra import safe_sqrt
from ..noise import NoiseLevel
from .base import (
    Denoise,
    Guidance,
    Measurement,
    Sampler,
    Step,
    check_choice,
    check_nonnegative,
    constant,
    factory,
)
from .steps import ddim_std, ddim_step, noise_estimate, projection, pseudo_inverse


@factory
def ilvr(
    *,
    low_pass: Literal["response", "projection"] = "response",
    level: Literal["t", "s"] = "t",
    threshold: float = 0.03,
) -> Sampler:
    """DDIM(eta), then the low frequencies are replaced by those of the noised reference.

        x'_s = DDIM(x_hat, eps_hat)
        x_s  = x'_s + weight (Phi (alpha x_ref + sigma eps') - Phi x'_s)

    Phi is a low pass and Phi x_ref, the reference image seen through it, is what is measured:

        "response"    Phi = (H^T H)^(1/2), which has the singular values h; Phi x_ref = V U^T y
        "projection"  Phi = H^+ H, without singular values up to the threshold; Phi x_ref = H^+ y,
                      the hard projection of score-based generative modelling

    (alpha, sigma) are those of level t in the official code, those of level s (`level="s"`) in the
    paper. Neither knows sigma_y: the noise of y goes into the sample.

    Choi, Kim, Jeong, Gwon, Yoon, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic
    Models", ICCV 2021 (arXiv 2108.02938). Official code jychoi118/ilvr_adm, whose Phi is down- and
    upsampling: 100 respaced DDPM steps, all but the last `range_t` + 1 steps replaced (0 by
    default, 20 in its README). Learned variance and clipping are not modelled.

    Weights: weight in [0, 1], default 1 and 0 at the last step, as by default there; eta in [0, 1],
    default 1.
    """
    check_nonnegative("threshold", threshold)
    check_choice("low_pass", low_pass, ("response", "projection"))
    check_choice("level", level, ("t", "s"))

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, s, x_t, y, eps, guidance = step
        h, weight, eta = measurement.response, guidance["weight"], guidance["eta"]
        if low_pass == "projection":
            phi, reference = projection(h, threshold), pseudo_inverse(h, threshold) * y
        else:
            phi, reference = h, projection(h, 0.0) * y
        alpha, sigma = t if level == "t" else s
        x_hat = denoise(x_t, t)
        x_s = ddim_step(step, x_hat, noise_estimate(x_t, x_hat, t), eta, draw=False)
        # The step's noise and the reference's are independent: one of their joint variance.
        kept = 1 - weight * phi
        variance = (kept * ddim_std(t, s, eta)) ** 2 + (weight * sigma * phi) ** 2
        return kept * x_s + weight * alpha * reference + safe_sqrt(variance) * eps

    def defaults(problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        weight = constant(jnp.minimum(factor, 1.0), levels)
        return {"weight": weight.at[-1].set(0), "eta": constant(1.0, levels)}

    return Sampler(
        name="ilvr",
        update=update,
        defaults=defaults,
        constraint={"weight": "unit", "eta": "unit"},
        reference="Choi et al., ILVR, 2021, arXiv 2108.02938",
        summary="x_s = DDIM(eta) + weight (Phi x_ref noised to the level - Phi DDIM(eta))",
        equivariant=level == "s",
        caveat="ILVR's published default guides all steps but the last, as its command line does; "
        "its README leaves out the last fifth, which is better in 100 steps.",
    )
