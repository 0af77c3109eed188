"""yuanzhi-zhu/DiffPIR, the official code of DiffPIR."""

import numpy as np

from ..errors import InputError
from ..samplers.diffpir import rho_of
from ..schedule import Schedule
from .base import (
    Export,
    Weights,
    check_clean_end,
    check_range,
    check_sampler,
    check_time_steps,
    levels_of,
    module,
    steps_of,
)
from .operators import FILTERS, check_known

# Its data steps: by Fourier transform for circular blurs and what is decimated after one, by pixel
# for masks.
SOLVED = ("identity", *FILTERS, "downsample", "inpaint")

CODE = '''
import torch


def sample(x, predict_x0, data_step):
    """In place of part (4), main iterations, of main_ddpir.py or, for blurs, main_ddpir_deblur.py.

    x                   any tensor of the image's shape
    predict_x0(x, t_i)  x_hat in [-1, 1] of x at time step t_i
    data_step(x0, rho)  argmin_x ||y - H x||^2 + rho ||x - x0||^2, images in [-1, 1]

    Other than there, it starts from noise, takes a data step at the last time step too, and returns
    that estimate: there x still has the noise of the last time step.
    """
    x = SIGMA[0] * torch.randn_like(x)
    for i, t_i in enumerate(TIMESTEPS):
        x0 = data_step(predict_x0(x, t_i), RHOS[i])
        eps = (x - ALPHA[i] * x0) / SIGMA[i]
        kept, fresh = (1 - ZETA[i]) ** 0.5, ZETA[i] ** 0.5
        noise = kept * eps + fresh * torch.randn_like(x)
        x = ALPHA[i + 1] * x0 + SIGMA[i + 1] * noise
    return x
'''


def rhos_of(schedule: Schedule, weights: Weights) -> np.ndarray:
    """[S] `diffpir.rho_of` of each step."""
    return np.asarray(rho_of(weights["lambda_"], schedule.sigma_y, steps_of(schedule)[0]))


def check_solvable(target: str, weights: Weights) -> None:
    """InputError where lambda_ is 0: the data step then divides by it."""
    where = np.flatnonzero(np.asarray(weights["lambda_"]) == 0)
    if where.size:
        raise InputError(
            f"target = {target!r}: divides by rho, which is 0 at step {where[0]} (lambda_ = 0)"
        )


def to_diffpir(schedule: Schedule, weights: Weights) -> Export:
    """RHOS by step, as its data steps take them, and ZETA."""
    check_sampler("diffpir", schedule, {"diffpir": ("task",)})
    check_known("diffpir", schedule, SOLVED)
    timesteps = check_time_steps("diffpir", schedule)
    check_range("diffpir", schedule)
    check_clean_end("diffpir", schedule)
    check_solvable("diffpir", weights)
    content = module(
        schedule,
        "For yuanzhi-zhu/DiffPIR: rho and zeta for each step.",
        [CODE],
        TIMESTEPS=timesteps,
        RHOS=rhos_of(schedule, weights),
        ZETA=np.asarray(weights["zeta"]),
        **levels_of(schedule),
    )
    return Export(content, ".py", _usage(schedule))


def _usage(schedule: Schedule) -> tuple[str, ...]:
    blurs = schedule.degradation_name not in ("inpaint", "downsample")
    file, config = ("main_ddpir_deblur.py", "") if blurs else ("main_ddpir.py", "config.")
    noise = f"{schedule.sigma_y / 2 * 255:.6g}"  # of 255
    if schedule.degradation_name == "inpaint":
        step = ("    lambda x0, rho: (mask * (2 * y - 1) + rho * x0) / (mask + rho),",)
    else:
        step = (
            "    lambda x0, rho: 2 * sr.data_solution((x0 / 2 + 0.5).float(), FB, FBC, F2B, FBFy,",
            f"        torch.full((1, 1, 1, 1), rho, device=x0.device), {config}sf) - 1,",
        )
    return (
        f"import {{module}}  # in {file}, the file beside it",
        f"# noise_level_img = {noise} / 255"
        if blurs
        else f"# noise_level_img: {noise}, in the YAML",
        "# in place of part (4), main iterations:",
        "x = {module}.sample(",
        "    x,",
        "    lambda x, t_i: utils_model.model_fn(",
        "        x, noise_level=reduced_alpha_cumprod[t_i].item() * 255,",
        "        model_out_type='pred_xstart', model_diffusion=model, diffusion=diffusion,",
        f"        ddim_sample={config}ddim_sample, alphas_cumprod=alphas_cumprod),",
        *step,
        ")",
        "x_0 = x / 2 + 0.5",
    )
