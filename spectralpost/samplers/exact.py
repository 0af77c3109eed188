"""The exact references: what sampling would be if the prior's covariance were known."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from ..algebra import apply_gain, identity_gain, root
from ..noise import NoiseLevel
from ..problem import Problem, condition, denoiser_cov
from .base import Denoise, Measurement, Sampler, Step, check_choice, constant, factory
from .steps import ddim_step, fresh_share, heun_step, noise_estimate

Kind = Literal["score", "flow", "kernel"]
KINDS: tuple[Kind, ...] = ("score", "flow", "kernel")


@factory
def exact(problem: Problem, kind: Kind = "score") -> Sampler:
    """E[x_0 | x_t, y] in place of the denoiser. Closes over the problem, and so equals only
    itself: one made anew, of the same problem or not, compiles anew.

        x_hat' = x_hat + C_t H^T (H C_t H^T + sigma_y^2)^-1 (y - H x_hat),  C_t = Cov(x_0 | x_t)

    No published sampler: it knows the prior covariance. Three references, told apart by what is
    left of the error of taking finitely many steps:

    "score"   x_s = DDIM(x_hat', eps recomputed from x_hat'), the exact conditional score in DDIM
              (eta = 0, which is Euler's method on the probability flow) or DDPM (eta = 1). DDPM's
              noise lacks the part a^2 Cov(x_0 | x_t, y) that is not known to be there
    "flow"    Heun's method on the probability flow of the posterior: second order, two calls
    "kernel"  draws from p(x_s | x_t, y) itself, whose mean is DDPM's and whose covariance is
              sigma_s^2 tau^2 + a^2 Cov(x_0 | x_t, y) with a the share of x_0 in that mean: no
              discretisation error however large the step. What is left is the start, N(0,
              sigma_T^2) instead of the law of x_T given y

    Weights: eta in [0, 1], default 0, stochasticity, for "score" only; the others have none.
    """
    check_choice("kind", kind, KINDS)

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, s, x_t, y, eps, guidance = step

        def conditional(x: Array, level: NoiseLevel) -> Array:
            x_hat = denoise(x, level)
            gain = condition(problem, denoiser_cov(problem, level)).gain
            return x_hat + apply_gain(gain, y - measurement.response * x_hat)

        if kind == "flow":
            return heun_step(conditional, step)
        x_hat = conditional(x_t, t)
        eps_hat = noise_estimate(x_t, x_hat, t)
        if kind == "score":
            return ddim_step(step, x_hat, eps_hat, guidance["eta"])
        one = identity_gain(problem.spectrum)
        cov = condition(problem, denoiser_cov(problem, t)).cov
        tau2 = fresh_share(t, s)
        a = s.alpha * tau2
        spread = apply_gain(root(s.sigma**2 * tau2 * one + a**2 * cov), eps)
        return ddim_step(step, x_hat, eps_hat, jnp.ones_like(tau2), draw=False) + spread

    return Sampler(
        name="exact",
        update=update,
        defaults=lambda problem, levels, factor: (
            {"eta": constant(0.0, levels)} if kind == "score" else {}
        ),
        constraint={"eta": "unit"} if kind == "score" else {},
        reference="Gaussian conditioning",
        summary={
            "score": "DDIM(eta) with E[x_0 | x_t, y]",
            "flow": "Heun's method on the probability flow with E[x_0 | x_t, y]",
            "kernel": "x_s ~ p(x_s | x_t, y)",
        }[kind],
    )
