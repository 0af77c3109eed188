"""Tweedie moment projected diffusions (TMPD), and MMPS."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import denoiser_gain
from .base import Denoise, Guidance, Measurement, Sampler, Step, check_choice, constant, factory
from .steps import denoise_with_vjp, euler_step, heun_step


@factory
def tmpd(
    *,
    row_sum: tuple[float, float] | None = None,
    solver: Literal["ddim", "heun"] = "ddim",
) -> Sampler:
    """x_hat becomes E[x_0 | x_t, y] with Tweedie's covariance Cov(x_0 | x_t) = (sigma^2/alpha) J.

        x_hat' = x_hat + weight J^T H^T (H J H^T + (alpha_t / sigma_t^2) sigma_y^2 I)^-1 r
        x_s    = DDIM(x_hat', eps recomputed from x_hat'),   r = y - H x_hat,  J = d x_hat / d x_t

    Exact under a Gaussian prior: weight 1 is the conditional mean of `exact`. In closed forms the
    system is solved exactly, on images by conjugate gradients, which is MMPS (Rozet et al., 2024,
    arXiv 2405.13712). At alpha_t = 0, where J vanishes, the step is left unguided.

    row_sum   the variant that the official code uses for images: H J H^T by its row sums, H J H^T 1
              elementwise. On a stationary problem that is one number, the value at the constant
              component, h_0^2 J_0: give (h_0, prior variance of that component). It damps all other
              frequencies, whose variance is smaller. Holds for circular blurs only. (That code sums
              with H 1 in place of 1: the same for blurs that keep the mean, h_0 = 1)
    solver    "heun": Heun's method on the probability flow of x_hat', two calls a step; no eta

    Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz, "Tweedie Moment Projected Diffusions for
    Inverse Problems", 2023 (arXiv 2310.06721). Official code bb515/tmpdjax, several steps to
    choose from (1000 of DDPM, Euler-Maruyama), no weight (1).

    Weights: weight >= 0, default 1; eta in [0, 1], default 1, the ancestral DDPM step.
    """
    check_choice("solver", solver, ("ddim", "heun"))
    if row_sum is not None and not (
        isinstance(row_sum, tuple)
        and len(row_sum) == 2
        and all(isinstance(value, int | float) and value >= 0 for value in row_sum)
    ):
        raise InputError(f"row_sum = {row_sum!r}: must be two numbers >= 0, (h_0, prior variance)")
    heun = solver == "heun"

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        h, weights = measurement.response, step.guidance

        def guided(x: Array, level: NoiseLevel) -> Array:
            alpha, sigma = level
            x_hat, vjp = denoise_with_vjp(denoise, x, level)
            r = step.y - h * x_hat
            # Without signal in x (alpha = 0) J is 0: any positive number keeps the system regular.
            noise = jnp.where(alpha > 0, alpha * (measurement.sigma_y / sigma) ** 2, 1)
            if row_sum is None:
                v = measurement.solve(lambda v: h * vjp(h * v) + noise * v, r)
            else:
                h_0, variance = row_sum
                v = r / (h_0**2 * denoiser_gain(jnp.asarray(variance, h.dtype), level) + noise)
            return x_hat + weights["weight"] * vjp(h * v)

        return heun_step(guided, step) if heun else euler_step(guided, step, weights["eta"])

    def defaults(problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        weights = {"weight": constant(factor, levels), "eta": constant(1.0, levels)}
        return {"weight": weights["weight"]} if heun else weights

    return Sampler(
        name="tmpd",
        update=update,
        defaults=defaults,
        constraint={"weight": "nonnegative"} if heun else {"weight": "nonnegative", "eta": "unit"},
        reference="Boys et al., Tweedie Moment Projected Diffusions, 2023, arXiv 2310.06721",
        summary="x_hat' = x_hat + weight J^T H^T (H J H^T + alpha/sigma^2 sigma_y^2)^-1 r",
    )
