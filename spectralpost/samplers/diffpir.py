"""Denoising diffusion models for plug-and-play image restoration (DiffPIR)."""

from typing import Any, Literal

from jax import Array

from ..algebra import safe_divide, safe_sqrt
from ..noise import NoiseLevel
from .base import Denoise, Measurement, Sampler, Step, check_choice, constant, factory
from .steps import ddnm_step, extrapolated, noise_estimate, remembering


def rho_of(lambda_: Any, sigma_y: float | Array, t: NoiseLevel) -> Array:
    """rho = lambda_ sigma_y^2 alpha_t^2 / sigma_t^2 of argmin ||y - H x||^2 + rho ||x - x_hat||^2.

    The same whatever the pixel range is: both terms scale alike.
    """
    return lambda_ * (sigma_y * t.alpha / t.sigma) ** 2


PROGRAMS = {"deblurring": (7 / 4, 0.3), "inpainting": (1 / 4, 1.0)}  # lambda_, zeta
CAVEAT = (
    "DiffPIR's published default is that of its deblurring program; task=inpainting has that of "
    "inpainting."
)


@factory
def diffpir(
    *, task: Literal["deblurring", "inpainting"] = "deblurring", multistep: int | bool = False
) -> Sampler:
    """A proximal data step on x_hat, then a step that replaces part of the noise.

        rho    = lambda sigma_y^2 alpha_t^2 / sigma_t^2
        x_hat' = argmin_x ||y - H x||^2 + rho ||x - x_hat||^2
               = x_hat + H^T (H H^T + rho)^-1 (y - H x_hat)
        eps'   = (x_t - alpha_t x_hat') / sigma_t
        x_s    = alpha_s x_hat' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) eps)

    Zhu et al., "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPRW 2023 (arXiv
    2305.08995). The official code (yuanzhi-zhu/DiffPIR) has a program for each task: deblurring
    runs with lambda 7 and zeta 0.3, inpainting with 1 and 1, super-resolution with lambda 2 to 12,
    one after the other, and zeta 0.25. (Deblurring's are configured as 1 and 0.1, which the program
    multiplies.) Its sigma_y is in units of [0, 1] and its noise levels in those of [-1, 1], so that
    a lambda there is 1/4 of one in the formula above. The official code starts from noised y and
    skips the data step at its last index; this starts from pure noise. Its clipping of x_hat is not
    modelled.

    task: whose numbers are the default, "deblurring" (lambda_ 7 / 4, zeta 0.3) or "inpainting"
    (1 / 4, 1).
    multistep: how many earlier estimates are remembered (True: one). x_hat' is extrapolated
    (`steps.extrapolated`) after the data step.

    Weights: lambda_ >= 0; zeta in [0, 1]; with multistep extrapolation, extrapolation_2, ... >= 0.
    """
    check_choice("task", task, tuple(PROGRAMS))
    lambda_, zeta = PROGRAMS[task]

    def update(denoise: Denoise, measurement: Measurement, step: Step, *before: Array) -> Any:
        t, _, x_t, y, _, guidance = step
        h = measurement.response
        x_hat = denoise(x_t, t)
        rho = rho_of(guidance["lambda_"], measurement.sigma_y, t)
        # Guarded for rho = 0 (a rectified flow starts at alpha = 0) where h = 0 too.
        x_hat = x_hat + safe_divide(h, h**2 + rho) * (y - h * x_hat)
        base = extrapolated(step, x_hat, before)
        x_s = ddnm_step(step, base, noise_estimate(x_t, base, t), safe_sqrt(guidance["zeta"]))
        return (x_s, x_hat, *before[:-1]) if before else x_s

    sampler = Sampler(
        name="diffpir",
        update=update,
        defaults=lambda problem, levels, factor: {
            "lambda_": constant(lambda_ * factor, levels),
            "zeta": constant(zeta, levels),
        },
        constraint={"lambda_": "nonnegative", "zeta": "unit"},
        reference="Zhu et al., DiffPIR, 2023, arXiv 2305.08995",
        caveat="" if task == "inpainting" else CAVEAT,
        summary="x_hat' = prox of ||y - H x||^2 at x_hat, rho = lambda_ sigma_y^2 alpha^2/sigma^2",
    )
    return remembering(sampler, multistep)
