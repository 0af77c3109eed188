"""Pseudo-inverse guided diffusion models (PiGDM)."""

from typing import Any

from jax import Array

from ..noise import NoiseLevel
from .base import (
    Denoise,
    Measurement,
    Sampler,
    Step,
    check_nonnegative,
    constant,
    factory,
    pure_noise,
)
from .steps import (
    ddim_step,
    denoise_with_vjp,
    extrapolated,
    noise_estimate,
    pseudo_inverse,
    remembering,
)


@factory
def pigdm(
    *,
    noiseless: bool = False,
    start_from_y: bool = False,
    threshold: float = 0.03,
    multistep: int | bool = False,
) -> Sampler:
    """DDIM(eta) plus the likelihood score of x_0 | x_t ~ N(x_hat, r_t^2 I).

        r_t^2 = sigma_t^2 / (sigma_t^2 + alpha_t^2)
        g     = r_t^2 J^T H^T (r_t^2 H H^T + sigma_y^2 I)^-1 (y - H x_hat),   J = d x_hat / d x_t
        g     = J^T H^+ (y - H x_hat)                                         noiseless = True
        x_s   = DDIM(x_hat, eps_hat) + weight alpha_s alpha_t g

    Song, Vahdat, Mardani, Kautz, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR
    2023. No official repository; the same group's NVlabs/RED-diff (algos/pgdm.py, its default
    `awd=True`) has the factor alpha_s alpha_t, weight 1, DDIM eta 0 in its configuration and 1 in
    its scripts. That code leaves out sigma_y (`noiseless`), with singular values up to 0.03 counted
    as zero for blurs (`threshold`, by axis there, of H here), and starts from x_T = alpha_T H^+ y +
    sigma_T eps (`start_from_y`).

    multistep: how many earlier estimates are remembered (True: one). DDIM from
    `steps.extrapolated` estimates, with the default weights DPM-Solver++(2M); the gradient stays
    that of x_hat itself.

    Weights: weight >= 0, default 1; eta in [0, 1], default 0; with multistep extrapolation,
    extrapolation_2, ... >= 0.
    """
    check_nonnegative("threshold", threshold)

    def update(denoise: Denoise, measurement: Measurement, step: Step, *before: Array) -> Any:
        t, s, x_t, y, _, guidance = step
        h, sigma_y = measurement.response, measurement.sigma_y
        x_hat, vjp = denoise_with_vjp(denoise, x_t, t)
        r = y - h * x_hat
        if noiseless:
            g = vjp(pseudo_inverse(h, threshold) * r)
        else:
            r2 = t.sigma**2 / (t.sigma**2 + t.alpha**2)
            g = vjp(r2 * h * r / (r2 * h**2 + sigma_y**2))
        base = extrapolated(step, x_hat, before)
        x_s = ddim_step(step, base, noise_estimate(x_t, base, t), guidance["eta"])
        x_s = x_s + guidance["weight"] * s.alpha * t.alpha * g
        return (x_s, x_hat, *before[:-1]) if before else x_s

    def informed(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
        inverse = pseudo_inverse(measurement.response, threshold)
        return level.alpha * inverse * y + level.sigma * eps

    sampler = Sampler(
        name="pigdm",
        update=update,
        defaults=lambda problem, levels, factor: {
            "weight": constant(factor, levels),
            "eta": constant(0.0, levels),
        },
        constraint={"weight": "nonnegative", "eta": "unit"},
        for_network=("eta", "levels"),
        reference="Song et al., Pseudoinverse-Guided Diffusion Models, 2023, ICLR",
        summary=(
            "x_s = DDIM(eta) + weight alpha_s alpha_t J^T H^+ r"
            if noiseless
            else "x_s = DDIM(eta) + weight alpha_s alpha_t J^T H^T (H H^T + sigma_y^2/r_t^2)^-1 r"
        ),
        caveat="PiGDM's published default has eta 0, as its code is configured; its scripts run "
        "with 1, which is better from 50 steps on.",
        start=informed if start_from_y else pure_noise,
    )
    return remembering(sampler, multistep)
