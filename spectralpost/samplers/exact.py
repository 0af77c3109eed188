"""The exact conditional mean through DDIM: the reference that a guided sampler approximates."""

from jax import Array

from ..blocks import apply_gain
from ..noise import NoiseLevel
from ..problem import Measurement, Problem, condition, denoiser_cov
from ..step import Denoise, Guidance, Sampler, constant, ddim_step, noise_estimate


def exact(problem: Problem) -> Sampler:
    """E[x_0 | x_t, y] in place of the denoiser, then DDIM(eta). Closes over the problem.

        x_hat' = x_hat + C_t H^T (H C_t H^T + sigma_y^2)^-1 (y - H x_hat),  C_t = Cov(x_0 | x_t)
        x_s    = DDIM(x_hat', eps recomputed from x_hat')

    No published sampler: it knows the prior covariance, and the only error left is that of taking
    finitely many steps. Equal to DDIM with the exact conditional score.

    Weights: eta, stochasticity, in [0, 1] (default 0).
    """

    def update(
        denoise: Denoise,
        measurement: Measurement,
        t: NoiseLevel,
        s: NoiseLevel,
        x_t: Array,
        y: Array,
        eps: Array,
        guidance_t: Guidance,
    ) -> Array:
        x_hat = denoise(x_t, t)
        gain = condition(problem, denoiser_cov(problem, t)).gain
        x_hat = x_hat + apply_gain(gain, y - measurement.response * x_hat)
        return ddim_step(t, s, x_hat, noise_estimate(x_t, x_hat, t), eps, guidance_t["eta"])

    return Sampler(
        name="exact",
        update=update,
        heuristic=lambda problem, levels, factor=1.0: {"eta": constant(0.0, levels)},
        constraint={"eta": "unit"},
        reference="Gaussian conditioning",
        summary="DDIM(eta) with E[x_0 | x_t, y]",
    )
