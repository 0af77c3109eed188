"""Iterative latent variable refinement (ILVR)."""

from functools import cache, partial
from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..algebra import safe_sqrt
from ..errors import InputError
from ..noise import NoiseLevel
from ..problem import Measurement
from ..step import (
    Denoise,
    Guidance,
    Sampler,
    constant,
    ddim_std,
    ddim_step,
    noise_estimate,
    projection,
    pseudo_inverse,
)


@cache
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
    if low_pass not in ("response", "projection"):
        raise InputError(f"low_pass = {low_pass!r}: allowed are response, projection")
    if level not in ("t", "s"):
        raise InputError(f"level = {level!r}: allowed are t, s")

    def heuristic(problem, levels: NoiseLevel, factor: float | Array = 1.0) -> Guidance:
        weight = constant(jnp.minimum(factor, 1.0), levels)
        return {"weight": weight.at[-1].set(0), "eta": constant(1.0, levels)}

    return Sampler(
        name="ilvr",
        update=partial(_update, low_pass == "projection", level == "t", threshold),
        heuristic=heuristic,
        constraint={"weight": "unit", "eta": "unit"},
        reference="Choi et al., ILVR, 2021, arXiv 2108.02938",
        summary="x_s = DDIM(eta) + weight (Phi x_ref noised to the level - Phi DDIM(eta))",
        equivariant=level == "s",
    )


def _update(
    projected: bool,
    noised_to_t: bool,
    threshold: float,
    denoise: Denoise,
    measurement: Measurement,
    t: NoiseLevel,
    s: NoiseLevel,
    x_t: Array,
    y: Array,
    eps: Array,
    guidance_t: Guidance,
) -> Array:
    h, weight, eta = measurement.response, guidance_t["weight"], guidance_t["eta"]
    if projected:
        phi, reference = projection(h, threshold), pseudo_inverse(h, threshold) * y
    else:
        phi, reference = h, projection(h, 0.0) * y
    level = t if noised_to_t else s
    x_hat = denoise(x_t, t)
    x_s = ddim_step(t, s, x_hat, noise_estimate(x_t, x_hat, t), eps, eta, draw=False)
    # The step's noise and the reference's are independent: one of their joint variance.
    kept = 1 - weight * phi
    variance = (kept * ddim_std(t, s, eta)) ** 2 + (weight * level.sigma * phi) ** 2
    return kept * x_s + weight * level.alpha * reference + safe_sqrt(variance) * eps
