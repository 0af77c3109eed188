"""Regularization by denoising diffusion (RED-diff)."""

import jax.numpy as jnp
from jax import Array

from ..noise import NoiseLevel
from ..problem import Problem, num_pixels
from .base import (
    Denoise,
    Guidance,
    Measurement,
    Sampler,
    Step,
    check_nonnegative,
    constant,
    factory,
)
from .steps import norm_conversion, pseudo_inverse


@factory
def reddiff(*, lr: float = 0.1, normalised: bool = False, threshold: float = 0.03) -> Sampler:
    """Not a sampler of x_t: stochastic gradient descent on the mean mu of the posterior.

        g  = H^T (H mu - y) + lambda (mu - x_hat(alpha_t mu + sigma_t eps))
        mu = mu - lr g                                            normalised = False
        mu = mu - lr g / ||g||                                    normalised = True

    from mu = H^+ y, once for every level t. The second term of g is the official noise prediction
    error, eps_hat - eps, in its default "linear" weighting by sigma_t / alpha_t. sigma_y does not
    enter.

    Mardani, Song, Kautz, Vahdat, "A Variational Perspective on Solving Inverse Problems with
    Diffusion Models", ICLR 2024 (arXiv 2305.04391). Official code NVlabs/RED-diff
    (algos/reddiff.py): 50 to 1000 steps, lambda 0.25 (1 with noise), pixels in [-1, 1], means over
    pixels instead of sums (so its lambda is ours times pixels / measurements), mu before its last
    update as the result, and Adam with rate 0.1, which is not affine and has a state of three
    signals. Plain gradient descent is modelled instead. Its default rate gives steps of root mean
    square `lr`, lr_t = lr / rms(g), converted by the mean-field norm. As a model of Adam that is
    right in order of magnitude only: for 100 steps of 16 pixels the mean output is off by 8 % and
    the variance by 8 %, single frequencies by a factor of ten and more; fewer steps are worse
    (tests/test_closures.py).

    Weights: lr >= 0; lambda_ >= 0, default 0.25.
    """
    check_nonnegative("lr", lr)
    check_nonnegative("threshold", threshold)

    def update(denoise: Denoise, measurement: Measurement, step: Step) -> Array:
        t, _, mu, y, eps, guidance = step
        h, rate = measurement.response, guidance["lr"]
        x_hat = denoise(t.alpha * mu + t.sigma * eps, t)
        g = h * (h * mu - y) + guidance["lambda_"] * (mu - x_hat)
        if normalised:
            rate = rate / measurement.norm(g)
        return mu - rate * g

    def start(measurement: Measurement, level: NoiseLevel, y: Array, eps: Array) -> Array:
        del level
        return pseudo_inverse(measurement.response, threshold) * y + 0 * eps

    def defaults(problem: Problem, levels: NoiseLevel, factor: float | Array) -> Guidance:
        size = lr * jnp.sqrt(num_pixels(problem))  # ||lr g / rms(g)||
        return {"lr": constant(size, levels), "lambda_": constant(0.25 * factor, levels)}

    return Sampler(
        name="reddiff",
        update=update,
        defaults=defaults,
        constraint={"lr": "nonnegative", "lambda_": "nonnegative"},
        reference="Mardani et al., RED-diff, 2024, arXiv 2305.04391",
        summary="mu = mu - lr (H^T (H mu - y) + lambda_ (mu - x_hat(alpha mu + sigma eps)))",
        start=start,
        state="x_0",
        literal=None if normalised else reddiff(lr=lr, normalised=True, threshold=threshold),
        **norm_conversion("lr", "lr", lambda norm, levels: norm),
        caveat="RED-diff's published default is Adam's; plain gradient descent, shown and "
        "simulated here, is right in order of magnitude only.",
    )
