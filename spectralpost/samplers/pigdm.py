"""Pseudo-inverse guided diffusion models (PiGDM)."""

from jax import Array

from ..noise import NoiseLevel
from .base import Denoise, Measurement, Sampler, Step, constant, factory, pure_noise
from .steps import ddim_step, denoise_with_vjp, noise_estimate, pseudo_inverse


@factory
def pigdm(
    *, noiseless: bool = False, start_from_y: bool = False, threshold: float = 0.03
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

    Weights: weight >= 0, default 1; eta in [0, 1], default 0.
    """

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, s, x_t, y, _, guidance = step
        h, sigma_y = measurement.response, measurement.sigma_y
        x_hat, vjp = denoise_with_vjp(denoise, x_t, t)
        r = y - h * x_hat
        if noiseless:
            g = vjp(pseudo_inverse(h, threshold) * r)
        else:
            r2 = t.sigma**2 / (t.sigma**2 + t.alpha**2)
            g = vjp(r2 * h * r / (r2 * h**2 + sigma_y**2))
        x_s = ddim_step(step, x_hat, noise_estimate(x_t, x_hat, t), guidance["eta"])
        return x_s + guidance["weight"] * s.alpha * t.alpha * g

    def informed(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
        inverse = pseudo_inverse(measurement.response, threshold)
        return level.alpha * inverse * y + level.sigma * eps

    return Sampler(
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
        start=informed if start_from_y else pure_noise,
    )
