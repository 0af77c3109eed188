"""bahjat-kawar/ddrm and wyhuai/DDNM, which step in the coordinates of singular vectors."""

import numpy as np

from ..schedule import Schedule
from .base import (
    Export,
    Weights,
    check_clean_end,
    check_range,
    check_sampler,
    check_time_steps,
    module,
)
from .loop import REPLACED, SVD, numbers_of
from .operators import BY_PLANE, FILTERS, INVERTED, check_svd

COMMON = '''
import torch


def denoise(model, x, i, b):
    """x_hat at step i, of a network of the linear betas b, [1000]."""
    known = (1 - b.double()).cumprod(0).sqrt()[TIMESTEPS[i]]
    if abs(float(known) - ALPHA[i]) > 1e-4:
        raise ValueError(f"betas: alpha is {known} at t = {TIMESTEPS[i]}, not {ALPHA[i]}")
    t = torch.full((x.size(0),), float(TIMESTEPS[i]), device=x.device)
    eps = model(x, t)
    if eps.size(1) == 2 * x.size(1):
        eps = eps[:, : x.size(1)]
    return (x - SIGMA[i] * eps) / ALPHA[i]


def in_all_modes(values, like):
    """[..., k] with zeros up to as many numbers as an image has: modes that are not measured."""
    out = torch.zeros(*values.shape[:-1], like[0].numel(), dtype=like.dtype, device=like.device)
    out[..., : values.shape[-1]] = values
    return out
'''

DDRM = '''
def efficient_generalized_steps(
    x, seq, model, b, H_funcs, y_0, sigma_0, etaB, etaA, etaC, cls_fn=None, classes=None
):
    """In place of the function of this name in functions/denoising.py: seq, etaB, etaA and etaC
    are the schedule's own. sigma_0 is in units of [-1, 1], as runners/diffusion.py gives it.

    Other than there, singular values that are 0 count as not measured, and the start has the scale
    of the first level.
    """
    check_noise(sigma_0)
    if cls_fn is not None:
        raise ValueError("cls_fn: the schedule is for a network without a classifier")
    shape = x.shape
    h = in_all_modes(H_funcs.singulars(), x)
    y = in_all_modes(H_funcs.Ut(y_0.reshape(len(y_0), -1)), x)
    with torch.no_grad():
        z = svd_start(y, x.reshape(len(x), -1), h)
        xs, x0_preds = [H_funcs.V(z).reshape(shape)], []
        for i in range(len(TIMESTEPS)):
            x0 = denoise(model, xs[-1], i, b)
            at, x0_at = (H_funcs.Vt(one.reshape(len(x), -1)) for one in (xs[-1], x0))
            z = svd_step(i, at, x0_at, y, torch.randn_like(at), h, ETA[i], ETA_B[i])
            x0_preds.append(x0)
            xs.append(H_funcs.V(z).reshape(shape))
    return xs, x0_preds
'''

DDNM = '''
def ddnm_plus_diffusion(
    x, model, b, eta, A_funcs, y, sigma_y, cls_fn=None, classes=None, config=None
):
    """In place of the function of this name in functions/svd_ddnm.py: time steps and eta are the
    schedule's own, without time travel. sigma_y is in units of [-1, 1], as diffusion.py gives it.

    Other than there, the predicted noise is weighted in the coordinates of singular vectors.
    """
    check_noise(sigma_y)
    if cls_fn is not None:
        raise ValueError("cls_fn: the schedule is for a network without a classifier")
    shape = x.shape
    h = in_all_modes(A_funcs.singulars(), x)
    y = in_all_modes(A_funcs.Ut(y.reshape(len(y), -1)), x)
    with torch.no_grad():
        x = SIGMA[0] * x
        for i in range(len(TIMESTEPS)):
            x0 = denoise(model, x, i, b)
            at, x0_at = (A_funcs.Vt(one.reshape(len(x), -1)) for one in (x, x0))
            z = svd_step(i, at, x0_at, y, torch.randn_like(at), h, ETA[i], 1.0)
            x = A_funcs.V(z).reshape(shape)
    return [x], [x0]
'''

DDNM_NOISELESS = '''
def ddnm_diffusion(x, model, b, eta, A_funcs, y, cls_fn=None, classes=None, config=None):
    """In place of the function of this name in functions/svd_ddnm.py: time steps and eta are the
    schedule's own, without time travel.

    Other than there, the pseudo-inverse is 0 for singular values up to THRESHOLD: of their products
    of two factors each may be above it.
    """
    if cls_fn is not None:
        raise ValueError("cls_fn: the schedule is for a network without a classifier")
    inverse = inverted(in_all_modes(A_funcs.singulars(), x))
    with torch.no_grad():
        x, y = SIGMA[0] * x, y.reshape(len(y), -1)
        for i in range(len(TIMESTEPS)):
            x0 = denoise(model, x, i, b)
            eps = (x - ALPHA[i] * x0) / SIGMA[i]
            misfit = in_all_modes(A_funcs.Ut(y - A_funcs.A(x0.reshape(len(x), -1))), x)
            x0 = x0 + A_funcs.V(inverse * misfit).reshape(x.shape)
            x = renoise(i, x0, eps, torch.randn_like(x), ETA[i])
    return [x], [x0]
'''

NOISE_CHECK = """
def check_noise(sigma):
    if abs(float(sigma) - SIGMA_Y) > 1e-3 * SIGMA_Y:
        raise ValueError(f"sigma_y: {sigma} in [-1, 1], the schedule is for {SIGMA_Y}")
"""


def to_ddrm(schedule: Schedule, weights: Weights) -> Export:
    """ETA and ETA_B by step, in a function that takes the place of its own."""
    check_sampler("ddrm", schedule, {"ddrm": ()})
    parts = [COMMON, NOISE_CHECK, SVD, DDRM]
    title = "For bahjat-kawar/ddrm: eta and eta_b for each step."
    usage = (
        "# runners/diffusion.py, the file beside main.py; in place of the import of the same name:",
        "from {module} import efficient_generalized_steps",
        f"# python main.py ... --sigma_0 {schedule.sigma_y / 2:g}  (of [0, 1]: doubled there)",
    )
    return _export("ddrm", schedule, weights, title, parts, usage)


def to_ddnm(schedule: Schedule, weights: Weights) -> Export:
    """ETA by step, in a function that takes the place of its own."""
    check_sampler("ddnm", schedule, {"ddnm": ("noiseless", "threshold")})
    noiseless = dict(schedule.sampler().options)["noiseless"]
    noisy = [COMMON, NOISE_CHECK, SVD, DDNM]
    parts = [COMMON, REPLACED, INVERTED, DDNM_NOISELESS] if noiseless else noisy
    name = "ddnm_diffusion" if noiseless else "ddnm_plus_diffusion"
    noisy_call = f"--sigma_y {schedule.sigma_y / 2:g} --add_noise  (of [0, 1]; it is doubled there)"
    usage = (
        "# guided_diffusion/diffusion.py, the file beside main.py; after its import of svd_ddnm:",
        f"from {{module}} import {name}",
        "# python main.py ... " + ("--sigma_y 0" if noiseless else noisy_call),
        "# without --simplified, which does not call it",
        *(["# y has no noise then, whatever the schedule's sigma_y"] if noiseless else []),
    )
    return _export("ddnm", schedule, weights, "For wyhuai/DDNM: eta for each step.", parts, usage)


def _export(
    target: str,
    schedule: Schedule,
    weights: Weights,
    title: str,
    parts: list[str],
    usage: tuple[str, ...],
) -> Export:
    check_svd(target, schedule)
    check_time_steps(target, schedule)
    check_range(target, schedule)
    check_clean_end(target, schedule)
    numbers = numbers_of(schedule, {name: np.asarray(one) for name, one in weights.items()})
    if INVERTED in parts:
        numbers["THRESHOLD"] = dict(schedule.sampler().options)["threshold"]
    usage += (BY_PLANE,) if schedule.degradation_name in FILTERS else ()
    return Export(module(schedule, title, parts, **numbers), ".py", usage)
