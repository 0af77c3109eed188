"""Manifold preserving guided diffusion (MPGD), without its projection."""

from jax import Array

from ..noise import NoiseLevel, num_steps_of, step_pairs
from ..problem import Problem
from .base import Denoise, Guidance, Measurement, Sampler, Step, check_scale, constant, factory
from .steps import ddim_step, noise_estimate, norm_conversion


@factory
def mpgd(*, scale: float | None = None, normalised: bool = False) -> Sampler:
    """A gradient step on x_hat itself, without differentiating the denoiser; then DDIM(eta).

        r      = y - H x_hat
        x_hat' = x_hat + scale H^T r                           normalised = False
        x_hat' = x_hat + (scale / alpha_s) H^T r / ||r||       normalised = True
        x_s    = DDIM(x_hat', eps_hat of the unguided x_hat)

    He et al., "Manifold Preserving Guided Diffusion", ICLR 2024 (arXiv 2311.16424). Official code
    KellyYutongHe/mpgd_pytorch (linear_inv, `mpgd_wo_proj`) takes the second form: the norm of the
    whole tensor; scale 17.5, 7.5, 4 for 20, 50, 100 steps of super-resolution, pixels in [-1, 1];
    `scale=None` stands for 17.5 (20 / S)^0.917, within 1 % of these. Its variants with an
    autoencoder are left out, its clipping of x_hat is not modelled.

    The second form is not affine; its closed form uses the mean-field norm (`transfer`).

    Weights: scale >= 0; eta in [0, 1], default 0.5. The default scale of the first form is the
    official one, converted by the mean-field norm at each step.
    """
    if scale is not None:
        check_scale(scale)

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        h, weight = measurement.response, step.guidance["scale"]
        x_hat = denoise(step.x_t, step.t)
        eps_hat = noise_estimate(step.x_t, x_hat, step.t)
        r = step.y - h * x_hat
        if normalised:
            weight = weight / (step.s.alpha * measurement.norm(r))
        return ddim_step(step, x_hat + weight * h * r, eps_hat, step.guidance["eta"])

    def defaults(problem: Problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        value = 17.5 * (20 / num_steps_of(levels)) ** 0.917 if scale is None else scale
        return {"scale": constant(value * factor, levels), "eta": constant(0.5, levels)}

    return Sampler(
        name="mpgd",
        update=update,
        defaults=defaults,
        constraint={"scale": "nonnegative", "eta": "unit"},
        for_network=("eta", "levels"),
        reference="He et al., Manifold Preserving Guided Diffusion, 2024, arXiv 2311.16424",
        summary=(
            "x_hat' = x_hat + (scale / alpha_s) H^T r / ||r||, eps_hat kept"
            if normalised
            else "x_hat' = x_hat + scale H^T r, eps_hat kept"
        ),
        literal=None if normalised else mpgd(scale=scale, normalised=True),
        **norm_conversion("scale", "scale", lambda R, levels: step_pairs(levels)[1].alpha * R),
    )
