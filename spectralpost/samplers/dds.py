"""Decomposed diffusion sampling (DDS)."""

from jax import Array

from ..algebra import safe_divide
from .base import Denoise, Measurement, Sampler, Step, check_count, constant, factory
from .steps import ddnm_step, noise_estimate


@factory
def dds(*, cg_steps: int | None = None) -> Sampler:
    """A proximal data step on x_hat, solved by conjugate gradients; then the step of DDNM.

        x_hat' = argmin_x gamma ||y - H x||^2 + ||x - x_hat||^2
               = (I + gamma H^T H)^-1 (x_hat + gamma H^T y)
        x_s    = alpha_s x_hat' + sigma_s (sqrt(1 - eta^2) eps_hat + eta eps)

    with eps_hat of the unguided x_hat. Chung, Lee, Ye, "Decomposed Diffusion Sampler for
    Accelerating Large-Scale Inverse Problems", ICLR 2024 (arXiv 2303.05754). Official code
    HJ-harry/DDS (solver_2d.py): gamma 1, eta 0.85, 50 steps, and five iterations of conjugate
    gradients from x_hat in place of the solution (`cg_steps=5`; None solves exactly). sigma_y does
    not enter; the step to t = 0 adds no noise and is followed by another call of the network.

    After n iterations the result is a polynomial of degree n in H^T H, whose coefficients are
    ratios of norms. With those the step is not affine; its closed form uses mean-field norms
    (`transfer`), which takes seconds to compile. It holds for the official gamma; if gamma
    is so large that few low frequencies dominate the norms, these do not concentrate.

    Weights: gamma >= 0, default 1; eta in [0, 1], default 0.85, of the type of `ddnm_step`.
    """
    if cg_steps is not None:
        check_count("cg_steps", cg_steps)

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        h, gamma = measurement.response, step.guidance["gamma"]
        x_hat = denoise(step.x_t, step.t)
        eps_hat = noise_estimate(step.x_t, x_hat, step.t)
        residual = gamma * h * (step.y - h * x_hat)  # of (I + gamma H^T H) x = x_hat + gamma H^T y
        if cg_steps is None:
            x_hat = x_hat + residual / (1 + gamma * h**2)
        else:
            x_hat = x_hat + _conjugate_gradients(measurement, gamma, residual, cg_steps)
        return ddnm_step(step, x_hat, eps_hat, step.guidance["eta"])

    return Sampler(
        name="dds",
        update=update,
        defaults=lambda problem, levels, factor: {
            "gamma": constant(factor, levels),
            "eta": constant(0.85, levels),
        },
        constraint={"gamma": "nonnegative", "eta": "unit"},
        for_network=("eta", "levels"),
        reference="Chung et al., Decomposed Diffusion Sampler, 2024, arXiv 2303.05754",
        summary="x_hat' = (I + gamma H^T H)^-1 (x_hat + gamma H^T y), eps_hat kept",
    )


def _conjugate_gradients(
    measurement: Measurement, gamma: Array, residual: Array, steps: int
) -> Array:
    """`steps` iterations for (I + gamma H^T H) x = residual from x = 0.

    All inner products are squared norms, p . A p = ||p||^2 + gamma ||H p||^2, so that
    `measurement.norm` gives their mean-field values in closed forms.
    """
    h, norm = measurement.response, measurement.norm
    x, r = 0 * residual, residual
    p, rr = r, norm(r) ** 2
    for i in range(steps):
        # At the solution, which may come early, r = p = 0: stay there.
        step = safe_divide(rr, norm(p) ** 2 + gamma * norm(h * p) ** 2)
        x = x + step * p
        if i + 1 < steps:
            r = r - step * (p + gamma * h**2 * p)
            before, rr = rr, norm(r) ** 2
            p = r + safe_divide(rr, before) * p
    return x
