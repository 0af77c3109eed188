"""Diffusion posterior sampling (DPS)."""

from typing import Any

from jax import Array

from .base import Denoise, Measurement, Sampler, Step, check_nonnegative, constant, factory
from .steps import (
    ddim_step,
    extrapolated,
    misfit_descent,
    noise_estimate,
    norm_conversion,
    remembering,
)


@factory
def dps(
    *,
    scale: float = 0.3,
    normalised: bool = False,
    multistep: int | bool = False,
    momentum: bool = False,
) -> Sampler:
    """DDIM(eta), then a step down the gradient of the data misfit.

        r   = y - H x_hat(x_t)
        x_s = DDIM(x_hat, eps_hat) - zeta grad_{x_t} (r . r)           normalised = False
        x_s = DDIM(x_hat, eps_hat) - scale grad_{x_t} ||r||            normalised = True

    Chung, Kim, McCann, Klasky, Ye, "Diffusion Posterior Sampling for General Noisy Inverse
    Problems", ICLR 2023 (arXiv 2209.14687). The official code (DPS2022/diffusion-posterior-
    sampling) takes the second form: the norm, not its square, of the whole tensor, batch included;
    scale 0.3 for deblurring and super-resolution, 0.5 for inpainting, pixels in [-1, 1], 1000 DDPM
    steps. The two agree for zeta = scale / (2 ||r||). The norm grows with the number of pixels, so
    the strength of the published default depends on the image size and on the number of planes.

    The second form is not affine; its closed form uses the mean-field norm (`transfer`). It holds
    where the norm concentrates, and fails at the edge of instability.

    Not modelled: the official clipping of x_hat to [-1, 1], the network's learned variance (DDPM's
    "fixed small" variance here), and the last of the official steps, t = 0, adding no noise is met
    by ending the grid at sigma = 0.

    multistep: how many earlier estimates are remembered (True: one). DDIM from
    `steps.extrapolated` estimates, with eta = 0 and the default weights DPM-Solver++(2M); the
    gradient stays that of x_hat itself.

    momentum: the guidance, g = -zeta grad (r . r) or -scale grad ||r||, is averaged over the steps,

        m <- momentum m + (1 - momentum) g,   x_s = DDIM(x_hat, eps_hat) + m

    with m = 0 before the first. For a strength that is the same at all steps this is the first
    moment of Adam guidance: Belardi, Lovelace, Weinberger, Gomes, "Adaptive Moments are
    Surprisingly Effective for Plug-and-Play Diffusion Sampling", ICLR 2026 (arXiv 2603.16797). Its
    division by 1 - beta_1^i in step i = 1, 2, ... is momentum = (beta_1 - beta_1^i) /
    (1 - beta_1^i). The second moment, by which Adam divides each pixel, is not linear.

    Weights: zeta (or scale) >= 0; eta in [0, 1], default 1, the ancestral DDPM step; with
    multistep extrapolation, extrapolation_2, ... >= 0; with momentum `momentum` in [0, 1], default
    0, plain DPS. The default zeta is the official scale, converted by the mean-field norm at each
    step.
    """
    check_nonnegative("scale", scale)

    def update(denoise: Denoise, measurement: Measurement, step: Step, *before: Array) -> Any:
        x_hat, descent = misfit_descent(denoise, measurement, step, normalised=normalised)
        estimates, directions = before[:multistep], before[multistep:]
        for last in directions:
            descent = descent + step.guidance["momentum"] * (last - descent)
        base = extrapolated(step, x_hat, estimates)
        eps_hat = noise_estimate(step.x_t, base, step.t)
        x_s = ddim_step(step, base, eps_hat, step.guidance["eta"]) + descent
        after = (x_hat, *estimates)[:multistep] + (descent,) * momentum
        return (x_s, *after) if after else x_s

    constraint = {"scale" if normalised else "zeta": "nonnegative", "eta": "unit"}
    sampler = Sampler(
        name="dps",
        update=update,
        defaults=lambda problem, levels, factor: (
            {"scale": constant(scale * factor, levels), "eta": constant(1.0, levels)}
            | ({"momentum": constant(0.0, levels)} if momentum else {})
        ),
        constraint=constraint | ({"momentum": "unit"} if momentum else {}),
        reference="Chung et al., Diffusion Posterior Sampling, 2022, arXiv 2209.14687",
        summary=(
            "x_s = DDIM(eta) - scale grad ||y - H x_hat||"
            if normalised
            else "x_s = DDIM(eta) - zeta grad ||y - H x_hat||^2"
        ),
        memory=int(momentum),
        directions=int(momentum),
        literal=None
        if normalised
        else dps(scale=scale, normalised=True, multistep=multistep, momentum=momentum),
        **norm_conversion("zeta", "scale", lambda norm, levels: 2 * norm),
    )
    return remembering(sampler, multistep)
