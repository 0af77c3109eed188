"""DPS2022/diffusion-posterior-sampling, the official code of DPS."""

import numpy as np

from ..errors import InputError, times
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
)

CODE = '''
from guided_diffusion.condition_methods import PosteriorSampling, register_conditioning_method
from guided_diffusion.gaussian_diffusion import DDIM, register_sampler


@register_conditioning_method(name="ps_schedule")
class ScheduledPosteriorSampling(PosteriorSampling):
    """`ps` with a scale for each step, in the order of its calls. One image a batch: the norm is
    that of the whole batch."""

    calls = 0

    def conditioning(self, *, measurement, **kwargs):
        self.scale = SCALE[self.calls % len(SCALE)]
        self.calls += 1
        kwargs.pop("noisy_measurement", None)  # which denoising's operator does not take
        if "mask" in kwargs:  # y has noise at unknown pixels too, which the norm would count
            measurement = measurement * kwargs["mask"]
        return super().conditioning(measurement=measurement, **kwargs)


@register_sampler(name="ddim_schedule")
class ScheduledDDIM(DDIM):
    """`ddim` at the schedule's time steps, with an eta for each; eta = 1 is `ddpm` with its
    smaller variance."""

    def __init__(self, use_timesteps, **kwargs):
        super().__init__(use_timesteps=TIMESTEPS, **kwargs)

    def p_sample_loop(self, model, x_start, *args, **kwargs):
        x_start = (SIGMA[0] * x_start).detach()
        return super().p_sample_loop(model, x_start, *args, **kwargs)

    def p_sample(self, model, x, t):
        return super().p_sample(model, x, t, eta=ETA[len(ETA) - 1 - int(t[0])])
'''


def to_dps(schedule: Schedule, weights: Weights) -> Export:
    """SCALE by step, of the norm of the residual of all pixels and planes of one image."""
    check_sampler("dps", schedule, {"dps": ("scale", "normalised")})
    timesteps = check_time_steps("dps", schedule)
    check_range("dps", schedule)
    check_clean_end("dps", schedule)
    if len(timesteps) < 2:
        raise InputError("target = 'dps': its diffusion takes two steps or more")
    content = module(
        schedule,
        "For DPS2022/diffusion-posterior-sampling: a scale and an eta for each step.",
        [CODE],
        TIMESTEPS=timesteps,
        SIGMA=levels_of(schedule)["SIGMA"][:1],
        SCALE=np.asarray(weights["scale"]),
        ETA=np.asarray(weights["eta"]),
    )
    size = times(schedule.shape)
    usage = (
        "import {module}  # in sample_condition.py, the file beside it",
        "# conditioning.method of the task's YAML: ps_schedule (its scale has no effect)",
        f"# measurement.noise of it: gaussian, sigma: {schedule.sigma_y:g}",
        "# diffusion_config.yaml: sampler: ddim_schedule, timestep_respacing: 1000",
        f"# scale is for {schedule.channels} planes of {size} pixels: for n times as many "
        "measurements multiply SCALE by sqrt(n)",
    )
    return Export(content, ".py", usage)
