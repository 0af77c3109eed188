"""Manifold constrained gradient (MCG)."""

from functools import cache, partial
from typing import Literal

from jax import Array

from ..errors import InputError
from ..noise import NoiseLevel
from ..problem import Measurement, Problem
from ..step import (
    Denoise,
    Guidance,
    Sampler,
    check_scale,
    constant,
    ddim_step,
    misfit_descent,
    noise_estimate,
    projection,
    pseudo_inverse,
)
from ..transfer import zeta_of_scale


@cache
def mcg(
    *,
    scale: float = 1.0,
    normalised: bool = False,
    level: Literal["t", "s"] = "t",
    threshold: float = 0.03,
) -> Sampler:
    """DDIM(eta) and DPS's gradient in the null space of H; the measured part is overwritten by y.

        x'_s = DDIM(x_hat, eps_hat),  r = y - H x_hat,  P = H^+ H
        x_s  = (I - P)(x'_s - zeta grad_{x_t} (r . r)) + alpha H^+ y + sigma P eps'

    with the (alpha, sigma) of level t as in the official code, which so leaves the noise of its
    last level in the measured part, or of level s (`level="s"`), as consistency asks. normalised:
    `scale grad ||r||` in place of `zeta grad (r . r)`, as in that code.

    Where prior and degradation share a basis, a gradient does not reach the null space and zeta has
    no effect; for an invertible blur P = I and the output is H^+ y, noise and all.

    Chung, Sim, Ryu, Ye, "Improving Diffusion Models for Inverse Problems using Manifold
    Constraints", NeurIPS 2022 (arXiv 2206.00941), for inpainting; the general form is ours after
    the paper's. Official code HJ-harry/MCG_diffusion: 1000 DDPM steps, scale 1 for inpainting;
    clipping and learned variance are not modelled.

    Weights: zeta (or scale) >= 0; eta in [0, 1], default 1. The default zeta is the official scale,
    converted by the mean-field norm at each step.
    """
    check_scale(scale)
    if level not in ("t", "s"):
        raise InputError(f"level = {level!r}: allowed are t, s")
    weight_name = "scale" if normalised else "zeta"

    def heuristic(problem: Problem, levels: NoiseLevel, factor: float | Array = 1.0) -> Guidance:
        eta = constant(1.0, levels)
        official = {"scale": constant(scale * factor, levels), "eta": eta}
        if normalised:
            return official
        literal = mcg(normalised=True, level=level, threshold=threshold)
        return {"zeta": zeta_of_scale(literal, problem, levels, official), "eta": eta}

    return Sampler(
        name="mcg",
        update=partial(_update, normalised, level == "t", threshold),
        heuristic=heuristic,
        constraint={weight_name: "nonnegative", "eta": "unit"},
        reference="Chung et al., Manifold Constraints, 2022, arXiv 2206.00941",
        summary="x_s = (I - H^+ H)(DDIM(eta) - zeta grad ||r||^2) + H^+ y, noised to the level",
        equivariant=level == "s",
    )


def _update(
    normalised: bool,
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
    h = measurement.response
    P, inverse = projection(h, threshold), pseudo_inverse(h, threshold)
    x_hat, descent = misfit_descent(
        denoise, measurement, t, x_t, y, guidance_t, normalised=normalised
    )
    x_s = ddim_step(t, s, x_hat, noise_estimate(x_t, x_hat, t), eps, guidance_t["eta"])
    level = t if noised_to_t else s
    # A mode is in one of the two parts, so one noise serves both.
    return (1 - P) * (x_s + descent) + level.alpha * inverse * y + level.sigma * P * eps
