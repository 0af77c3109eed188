"""The averaged W2^2 of DPS and DiffPIR by hand: what the benchmarks give the peers.

Real coefficients of every frequency, no denoiser and no derivative of one, in NumPy and PyTorch.
Checked against spectralpost by `learn_vs_peers.py` and `gradient_engine.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import torch

import spectralpost as sp

FREE = {"dps": ("zeta",), "diffpir": ("lambda_", "zeta")}
UNIT = {("diffpir", "zeta")}  # weights in [0, 1]: logits; of the others logarithms are learned
BOUNDARY = 1e-4  # how far a start stays away from weights whose logarithm or logit is infinite


class Modes(NamedTuple):
    """Independent modes, NumPy: [F], and the noise of the measurement."""

    spectrum: np.ndarray
    response: np.ndarray
    share: np.ndarray  # of all pixels
    sigma_y: float


class Tables(NamedTuple):
    """What does not depend on the free weights: arrays [S, F], [F] or [S, 1]."""

    steps: dict[str, np.ndarray]  # of each step
    fresh: np.ndarray | None  # variance of the fresh noise, [S, 1]; for DiffPIR times zeta
    start: float  # standard deviation of x_T
    ideal_gain: np.ndarray
    ideal_std: np.ndarray
    bias_share: np.ndarray  # share of a mode times the variance of y
    share: np.ndarray


def tables(name: str, modes: Modes, levels: sp.NoiseLevel, eta: np.ndarray, xp=np) -> Tables:
    """In NumPy; or with xp = torch, of tensors.

    With A = alpha_t spectrum / (alpha_t^2 spectrum + sigma_t^2), the gain of the denoiser:

    DPS       x_s = (keep - zeta pull) x_t + zeta push y + noise
              keep = alpha_s A + sigma_s sqrt(1 - eta^2 tau^2) (1 - alpha_t A) / sigma_t
              pull = 2 A^2 h^2, push = 2 A h
    DiffPIR   x_s = (m + p rho A / (h^2 + rho)) x_t + p h / (h^2 + rho) y + noise
              m = sigma_s / sigma_t sqrt(1 - zeta), p = alpha_s - alpha_t m
              rho = lambda_ (sigma_y alpha_t / sigma_t)^2
    """
    alpha, sigma = (xp.asarray(leaf)[:, None] for leaf in levels)
    alpha_t, sigma_t, alpha_s, sigma_s = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
    spectrum, h, sigma_y = modes.spectrum, modes.response, modes.sigma_y
    gain = alpha_t * spectrum / (alpha_t**2 * spectrum + sigma_t**2)
    if name == "dps":
        tau2 = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
        kept = sigma_s * xp.sqrt(1 - eta[:, None] ** 2 * tau2) / sigma_t
        steps = {
            "keep": alpha_s * gain + kept * (1 - alpha_t * gain),
            "pull": 2 * (gain * h) ** 2,
            "push": 2 * gain * h,
        }
        fresh = (eta[:, None] * sigma_s) ** 2 * tau2 if eta.any() else None
    else:
        rho = (sigma_y * alpha_t / sigma_t) ** 2
        steps = {
            "gain": gain,
            "rho": rho,
            "ratio": sigma_s / sigma_t,
            "alpha_t": alpha_t,
            "alpha_s": alpha_s,
        }
        steps |= {key: xp.broadcast_to(h**p, gain.shape) for key, p in (("h", 1), ("h2", 2))}
        fresh = sigma_s**2
    cov_y = h**2 * spectrum + sigma_y**2
    return Tables(
        steps,
        fresh,
        float(sigma[0, 0]),
        spectrum * h / cov_y,
        xp.sqrt(spectrum / cov_y) * sigma_y,
        modes.share * cov_y,
        modes.share,
    )


def numpy_loss(name: str, table: Tables, u: np.ndarray) -> float:
    """The averaged W2^2 of unconstrained weights u [P]."""
    weights = weights_of(name, u, np.exp, lambda u: 1 / (1 + np.exp(-u)))
    data = np.zeros_like(table.share)
    std, var = np.full_like(data, table.start), np.full_like(data, table.start**2)
    for t in range(len(weights["zeta"])):
        at = {key: values[t] for key, values in table.steps.items()}
        zeta = weights["zeta"][t]
        if name == "dps":
            state, push = at["keep"] - zeta * at["pull"], zeta * at["push"]
        else:
            kept = at["ratio"] * np.sqrt(1 - zeta)
            rho = weights["lambda_"][t] * at["rho"]
            part = (at["alpha_s"] - at["alpha_t"] * kept) / (at["h2"] + rho)
            push = part * at["h"]
            part *= at["gain"]
            part *= rho
            part += kept
            state = part
        data *= state
        data += push
        if table.fresh is None:
            std *= state
        else:
            var *= state * state
            var += table.fresh[t] * (zeta if name == "diffpir" else 1)
    std = np.abs(std) if table.fresh is None else np.sqrt(var)
    bias, spread = data - table.ideal_gain, std - table.ideal_std
    return float(table.bias_share @ (bias * bias) + table.share @ (spread * spread))


def as_torch(table: Tables, dtype: "torch.dtype" = torch.float64) -> Tables:
    def convert(value):
        return torch.tensor(value, dtype=dtype) if isinstance(value, np.ndarray) else value

    steps = {key: convert(np.array(values)) for key, values in table.steps.items()}
    return Tables(steps, *(convert(value) for value in table[1:]))


def torch_loss(name: str, table: Tables, u: "torch.Tensor") -> "torch.Tensor":
    """As `numpy_loss`. Small problems compute the coefficients of all steps at once, large ones
    step by step, which keeps them in the cache: in either case the faster way."""
    weights = weights_of(name, u, torch.exp, torch.sigmoid)
    coefficients = dps_coefficients if name == "dps" else diffpir_coefficients
    columns = {key: values[:, None] for key, values in weights.items()}
    num = len(weights["zeta"])
    if num * len(table.share) <= 30_000:
        rows = zip(*(one.unbind() for one in coefficients(table.steps, **columns)), strict=True)
    else:
        columns = {key: values.unbind() for key, values in columns.items()}
        rows = (
            coefficients(
                {key: values[t] for key, values in table.steps.items()},
                **{key: values[t] for key, values in columns.items()},
            )
            for t in range(num)
        )
    data = torch.zeros_like(table.share)
    fresh = table.fresh
    if fresh is not None and name == "diffpir":
        fresh = fresh * weights["zeta"][:, None]
    std, var = torch.full_like(data, table.start), torch.full_like(data, table.start**2)
    noises = [None] * num if fresh is None else fresh.unbind()
    for (state, push), noise in zip(rows, noises, strict=True):
        data = torch.addcmul(push, state, data)
        if noise is None:
            std = std * state
        else:
            var = torch.addcmul(noise, state * state, var)
    std = std.abs() if fresh is None else var.sqrt()
    bias, spread = data - table.ideal_gain, std - table.ideal_std
    return table.bias_share @ (bias * bias) + table.share @ (spread * spread)


def dps_coefficients(at: dict, zeta: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    return torch.addcmul(at["keep"], zeta, at["pull"], value=-1), zeta * at["push"]


def diffpir_coefficients(
    at: dict, lambda_: "torch.Tensor", zeta: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    kept = at["ratio"] * (1 - zeta).sqrt()
    rho = lambda_ * at["rho"]
    part = (at["alpha_s"] - at["alpha_t"] * kept) / (at["h2"] + rho)
    return torch.addcmul(kept, part, at["gain"] * rho), part * at["h"]


def weights_of(name: str, u, exp: Callable, sigmoid: Callable) -> dict:
    """The constrained weights of unconstrained u [P], for any array library."""
    num = len(u) // len(FREE[name])
    return {
        free: (sigmoid if (name, free) in UNIT else exp)(u[i * num : (i + 1) * num])
        for i, free in enumerate(FREE[name])
    }


def unconstrained(name: str, weights: dict[str, jax.Array]) -> np.ndarray:
    """The inverse of `weights_of`, [P]."""
    parts = []
    for free in FREE[name]:
        w = np.asarray(weights[free])
        if (name, free) in UNIT:
            w = np.clip(w, BOUNDARY, 1 - BOUNDARY)
            parts.append(np.log(w) - np.log1p(-w))
        else:
            parts.append(np.log(np.maximum(w, BOUNDARY * w.max())))
    return np.concatenate(parts)
