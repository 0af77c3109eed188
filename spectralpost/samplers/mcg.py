"""Manifold constrained gradient (MCG)."""

from typing import Literal

from jax import Array

from .base import (
    Denoise,
    Measurement,
    Sampler,
    Step,
    check_choice,
    check_nonnegative,
    constant,
    factory,
)
from .steps import (
    ddim_step,
    misfit_descent,
    noise_estimate,
    norm_conversion,
    projection,
    pseudo_inverse,
)


@factory
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

    Where prior and degradation share a basis and no h lies in (0, threshold], a gradient does not
    reach what is not measured and zeta has no effect; for an invertible blur P = I and the output
    is H^+ y, noise and all.

    Chung, Sim, Ryu, Ye, "Improving Diffusion Models for Inverse Problems using Manifold
    Constraints", NeurIPS 2022 (arXiv 2206.00941), for inpainting; the general form is ours after
    the paper's. Official code HJ-harry/MCG_diffusion: 1000 DDPM steps, scale 1 for inpainting;
    clipping and learned variance are not modelled.

    Weights: zeta (or scale) >= 0; eta in [0, 1], default 1. The default zeta is the official scale,
    converted by the mean-field norm at each step.
    """
    check_nonnegative("threshold", threshold)
    check_nonnegative("scale", scale)
    check_choice("level", level, ("t", "s"))

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        h = measurement.response
        P, inverse = projection(h, threshold), pseudo_inverse(h, threshold)
        x_hat, descent = misfit_descent(denoise, measurement, step, normalised=normalised)
        eps_hat = noise_estimate(step.x_t, x_hat, step.t)
        x_s = ddim_step(step, x_hat, eps_hat, step.guidance["eta"])
        alpha, sigma = step.t if level == "t" else step.s
        # A mode is in one of the two parts, so one noise serves both.
        return (1 - P) * (x_s + descent) + alpha * inverse * step.y + sigma * P * step.eps

    return Sampler(
        name="mcg",
        update=update,
        defaults=lambda problem, levels, factor: {
            "scale": constant(scale * factor, levels),
            "eta": constant(1.0, levels),
        },
        constraint={"scale" if normalised else "zeta": "nonnegative", "eta": "unit"},
        reference="Chung et al., Manifold Constraints, 2022, arXiv 2206.00941",
        summary="x_s = (I - H^+ H)(DDIM(eta) - zeta grad ||r||^2) + H^+ y, noised to the level",
        equivariant=level == "s",
        literal=None
        if normalised
        else mcg(scale=scale, normalised=True, level=level, threshold=threshold),
        **norm_conversion("zeta", "scale", lambda norm, levels: 2 * norm),
    )
