"""azula 0.11: DPS, and DiffPIR's denoiser in DDIM."""

import numpy as np

from ..errors import InputError, times
from ..schedule import Schedule
from .base import Export, Weights, check_clean_end, check_sampler, fresh_shares, levels_of, module
from .diffpir import check_solvable
from .solving import solver_notes

LEVELS = '''
import torch
from azula.denoise import Denoiser
IMPORTS


class Levels(Schedule):
    """The schedule's levels, at times 1, ..., 0, evenly spaced."""

    def __call__(self, t):
        i = torch.round((1 - t) * (len(ALPHA) - 1)).long()
        levels = torch.tensor([ALPHA, SIGMA], dtype=t.dtype, device=t.device)
        return levels[0][i], levels[1][i]


class AtLevels(Denoiser):
    """A denoiser at the schedule's levels, whatever times it knows them by."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, Levels()

    def forward(self, x_t, t, **kwargs):
        alpha, sigma = self.schedule(t)
        time = self.time_of(sigma / alpha)
        scale = self.denoiser.schedule(time)[0] / alpha
        return self.denoiser(scale * x_t, time, **kwargs)

    def time_of(self, ratio):
        """When sigma / alpha is that of the denoiser's own schedule, by bisection."""
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        ends = [sigma / alpha for alpha, sigma in map(self.denoiser.schedule, (low, high))]
        if not ends[0] <= ratio <= ends[1]:
            raise ValueError(
                f"sigma / alpha = {ratio}: the denoiser's schedule has {ends[0]} to {ends[1]}; set "
                "denoiser.schedule to a wider one, such as VPSchedule(1e-3, 1e-3)"
            )
        for _ in range(60):
            middle = (low + high) / 2
            alpha, sigma = self.denoiser.schedule(middle)
            low, high = (middle, high) if sigma / alpha < ratio else (low, middle)
        return (low + high) / 2
'''

DPS_IMPORTS = """
from azula.guidance import DPSSampler
from azula.noise import Schedule
""".strip()

DIFFPIR_IMPORTS = """
from azula.guidance import DiffPIRDenoiser
from azula.noise import Schedule
from azula.sample import DDIMSampler
""".strip()

DPS = '''
class ScheduledDPS(DPSSampler):
    """DPS with zeta by step. One image a call: the norm is that of all that it is given."""

    def __init__(self, denoiser, y, A, **kwargs):
        super().__init__(AtLevels(denoiser), y, A, steps=len(ZETA), **kwargs)

    def step(self, x_t, t, s, **kwargs):
        self.zeta = ZETA[round(float((1 - t) * len(ZETA)))]
        return super().step(x_t, t, s, **kwargs)
'''

DIFFPIR = '''
class ScheduledDiffPIR(DDIMSampler):
    """DDIM of DiffPIR's denoiser, with lmbda and eta by step.

    iterations  of the linear solver in each step; the schedule is for the solution
    """

    def __init__(self, denoiser, y, A, iterations=20, **kwargs):
        guided = DiffPIRDenoiser(AtLevels(denoiser), y, A, SIGMA_Y**2, iterations=iterations)
        super().__init__(guided, steps=len(LMBDA), **kwargs)

    def step(self, x_t, t, s, **kwargs):
        i = round(float((1 - t) * len(LMBDA)))
        self.denoiser.lmbda, self.eta = LMBDA[i], ETA[i]
        return super().step(x_t, t, s, **kwargs)
'''


def to_azula(schedule: Schedule, weights: Weights) -> Export:
    """DPS: ZETA by step, of the norm. DiffPIR: LMBDA, and ETA that draws zeta of the variance anew:
    zeta / tau^2, as azula's eta multiplies the variance of DDPM."""
    allowed = {"dps": ("scale", "normalised"), "diffpir": ("task",)}
    check_sampler("azula", schedule, allowed)
    check_clean_end("azula", schedule)
    if np.asarray(schedule.levels.alpha)[0] == 0:
        raise InputError("target = 'azula': divides by alpha, which is 0 at the first level")
    low, high = schedule.pixel_range
    start = "x_T = {module}.SIGMA[0] * torch.randn_like(x)"
    if schedule.sampler_name == "dps":
        eta = np.asarray(weights["eta"])
        if np.any(eta != 1):
            raise InputError(
                f"target = 'azula': its DPS takes steps of DDPM, eta = 1; the schedule has eta = "
                f"{eta[eta != 1][0]:g}"
            )
        parts, name = [LEVELS.replace("IMPORTS", DPS_IMPORTS), DPS], "ScheduledDPS"
        numbers = {"ZETA": np.asarray(weights["scale"])}
        note = (
            f"# ZETA is for {schedule.channels} planes of {times(schedule.shape)} "
            "pixels: for n times as many measurements multiply it by sqrt(n)"
        )
    else:
        check_solvable("azula", weights)
        parts, name = [LEVELS.replace("IMPORTS", DIFFPIR_IMPORTS), DIFFPIR], "ScheduledDiffPIR"
        eta = np.asarray(weights["zeta"]) / fresh_shares(schedule)
        numbers = {"SIGMA_Y": schedule.sigma_y, "LMBDA": np.asarray(weights["lambda_"]), "ETA": eta}
        note = "# iterations=20, of the linear solver in each step: raise it until outputs stay"
    title = f"For azula 0.11: {schedule.sampler_name} by step."
    usage = (
        "import torch, {module}",
        f"sampler = {{module}}.{name}(denoiser, y, A)  # pixels in [{low:g}, {high:g}]",
        start,
        "x = sampler(x_T)",
        note,
        *solver_notes(schedule, weights),
    )
    content = module(schedule, title, parts, **levels_of(schedule), **numbers)
    return Export(content, ".py", usage)
