"""Pseudo-inverse guided diffusion models (PiGDM)."""

from functools import cache, partial

import jax
from jax import Array

from ..noise import NoiseLevel
from ..problem import Measurement
from ..step import (
    Denoise,
    Guidance,
    Sampler,
    constant,
    ddim_step,
    noise_estimate,
    pseudo_inverse,
    pure_noise,
)


@cache
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
    return Sampler(
        name="pigdm",
        update=partial(_update, noiseless, threshold),
        heuristic=lambda problem, levels, factor=1.0: {
            "weight": constant(factor, levels),
            "eta": constant(0.0, levels),
        },
        constraint={"weight": "nonnegative", "eta": "unit"},
        reference="Song et al., Pseudoinverse-Guided Diffusion Models, 2023, ICLR",
        summary=(
            "x_s = DDIM(eta) + weight alpha_s alpha_t J^T H^+ r"
            if noiseless
            else "x_s = DDIM(eta) + weight alpha_s alpha_t J^T H^T (H H^T + sigma_y^2/r_t^2)^-1 r"
        ),
        start=partial(_start, threshold) if start_from_y else pure_noise,
    )


def _start(
    threshold: float, measurement: Measurement, level: NoiseLevel, y: Array, eps: Array
) -> Array:
    return level.alpha * pseudo_inverse(measurement.response, threshold) * y + level.sigma * eps


def _update(
    noiseless: bool,
    threshold: float,
    denoise: Denoise,
    measurement: Measurement,
    t: NoiseLevel,
    s: NoiseLevel,
    x_t: Array,
    y: Array,
    eps: Array,
    guidance_t: Guidance,
) -> Array:
    h, sigma_y = measurement.response, measurement.sigma_y
    x_hat, vjp = jax.vjp(lambda x: denoise(x, t), x_t)
    r = y - h * x_hat
    if noiseless:
        (g,) = vjp(pseudo_inverse(h, threshold) * r)
    else:
        r2 = t.sigma**2 / (t.sigma**2 + t.alpha**2)
        (g,) = vjp(r2 * h * r / (r2 * h**2 + sigma_y**2))
    x_s = ddim_step(t, s, x_hat, noise_estimate(x_t, x_hat, t), eps, guidance_t["eta"])
    return x_s + guidance_t["weight"] * s.alpha * t.alpha * g
