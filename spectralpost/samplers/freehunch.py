"""Free Hunch: the conditional score with a data covariance."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..noise import NoiseLevel
from .base import (
    Denoise,
    Guidance,
    Measurement,
    Sampler,
    Step,
    check_choice,
    check_nonnegative,
    constant,
    factory,
)
from .steps import data_cov, denoise_with_vjp, euler_step, heun_step


@factory
def freehunch(
    *,
    jacobian: float = 1.0,
    solver: Literal["ddim", "heun"] = "ddim",
) -> Sampler:
    """x_hat becomes E[x_0 | x_t, y] with the covariance of x_0 | x_t that the data's would give.

        C_t    = (C^-1 + (alpha_t / sigma_t)^2 I)^-1,   C the covariance of the data
        v      = (H C_t H^T + sigma_y^2 I)^-1 (y - H x_hat)
        x_hat' = x_hat + weight (sigma_t^2 / alpha_t) J^T H^T v,   J = d x_hat / d x_t
        x_hat' = x_hat + weight C_t H^T v               where sigma_t / alpha_t > `jacobian`
        x_s    = DDIM(x_hat', eps recomputed from x_hat')

    One derivative of the denoiser a step, however v is found: `tmpd` has (sigma_t^2 / alpha_t) J in
    place of C_t. Under a Gaussian prior with the gain's own Jacobian both are C_t, and weight 1 is
    `exact`. A sampler is given no prior: the denoiser is asked for C (`steps.data_cov`).

    jacobian  up to which sigma_t / alpha_t, in units of pixels, the denoiser is differentiated: 0
              in no step, 1e6 in all (but at alpha_t = 0). At high noise errors of a network's J
              break some images: docs/real_networks.md
    solver    "heun": Heun's method on the probability flow of x_hat', two calls a step; no eta

    Rissanen, Heinonen, Solin, "Free Hunch: Denoiser Covariance Estimation for Diffusion Models
    Without Extra Costs", ICLR 2025 (arXiv 2410.11149). Official code AaltoML/free-hunch: C diagonal
    in a DCT, here that of the prior; C_t by "time updates", which have the closed form above. Its
    low-rank "space updates" from differences of the denoiser are left out: they are not affine, and
    find nothing new under a Gaussian prior. It multiplies by C_t in steps where J would change
    x_hat by a standard deviation above 0.2 over all pixels, which depends on the state: here by a
    fixed rule, chosen on training images with the shipped network. Heun's method on the grid of
    EDM, or Euler's, which is DDIM with eta 0.

    Weights: weight >= 0, default 1; eta in [0, 1], default 0.
    """
    check_nonnegative("jacobian", jacobian)  # a sigma / alpha
    check_choice("solver", solver, ("ddim", "heun"))
    heun = solver == "heun"

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        h, sigma_y, weights = measurement.response, measurement.sigma_y, step.guidance

        def guided(x: Array, level: NoiseLevel) -> Array:
            alpha, sigma = level
            if jacobian > 0:
                x_hat, vjp = denoise_with_vjp(denoise, x, level)
            else:
                x_hat, vjp = denoise(x, level), None
            r = step.y - h * x_hat
            v = measurement.solve(lambda v: h * data_cov(denoise, h * v, level) + sigma_y**2 * v, r)
            pull = data_cov(denoise, h * v, level)
            if vjp is not None:
                # Without signal in x (alpha = 0) J says nothing.
                by_denoiser = sigma**2 / jnp.where(alpha > 0, alpha, 1) * vjp(h * v)
                pull = jnp.where((alpha > 0) & (sigma <= jacobian * alpha), by_denoiser, pull)
            return x_hat + weights["weight"] * pull

        return heun_step(guided, step) if heun else euler_step(guided, step, weights["eta"])

    def defaults(problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        weight = {"weight": constant(factor, levels)}
        return weight if heun else weight | {"eta": constant(0.0, levels)}

    return Sampler(
        name="freehunch",
        update=update,
        defaults=defaults,
        constraint={"weight": "nonnegative"} if heun else {"weight": "nonnegative", "eta": "unit"},
        reference="Rissanen, Heinonen, Solin, Free Hunch, 2025, ICLR, arXiv 2410.11149",
        summary="x_hat' = x_hat + weight sigma^2/alpha J^T H^T (H C_t H^T + sigma_y^2)^-1 r",
    )
