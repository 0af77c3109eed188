"""deepinv 0.5: DPS on its SDE framework, and DiffPIR."""

import numpy as np

from ..schedule import Schedule
from .base import (
    Export,
    Weights,
    check_clean_end,
    check_range,
    check_sampler,
    check_vp,
    fresh_shares,
    levels_of,
    module,
)
from .diffpir import check_solvable, rhos_of

# Of its VariancePreservingDiffusion: beta grows linearly from the first to the second.
BETA_MIN, BETA_MAX = 0.1, 20.0

DPS = '''
import torch
from deepinv.sampling import (
    DDIMSolver,
    DPSDataFidelity,
    PosteriorDiffusion,
    VariancePreservingDiffusion,
)


class ScheduledSolver(DDIMSolver):
    """DDIM at the schedule's levels, with eta and the weight of the data fidelity by step."""

    def __init__(self, data_fidelity, rng=None):
        times = torch.tensor(TIMES, dtype=torch.float64)
        super().__init__(timesteps=times, rng=rng)
        self.data_fidelity = data_fidelity

    def step(self, sde, t0, t1, x0, *args, **kwargs):
        i = min(range(len(WEIGHT)), key=lambda k: abs(TIMES[k] - float(t0)))
        self.eta, self.data_fidelity.weight = ETA[i], WEIGHT[i]
        return super().step(sde, t0, t1, x0, *args, **kwargs)


def posterior(denoiser, rng=None):
    """model(y, physics, denoise_output=False) samples x_0 given y, all in [0, 1].

    denoiser  (x, sigma) -> x_hat, of images in [0, 1], as deepinv has them
    """
    data_fidelity = DPSDataFidelity(guidance="norm", clip=None)
    return PosteriorDiffusion(
        data_fidelity=data_fidelity,
        denoiser=denoiser,
        sde=VariancePreservingDiffusion(beta_min=BETA_MIN, beta_max=BETA_MAX),
        solver=ScheduledSolver(data_fidelity, rng),
        minus_one_one=True,
    )
'''

DIFFPIR = '''
import deepinv
import torch


class ScheduledDiffPIR(deepinv.sampling.DiffPIR):
    """DiffPIR with rho and zeta by step, of y and images in [0, 1].

    Other than its parent, it starts from noise, takes a data step at the last level too, and
    returns that estimate: its parent returns x with the noise of the last level.
    """

    def forward(self, y, physics, seed=None, x_init=None):
        if seed is not None:
            torch.manual_seed(seed)
        like = physics.A_adjoint(y) if x_init is None else x_init
        x = SIGMA[0] * torch.randn_like(like)
        with torch.no_grad():
            for i in range(len(RHO)):
                sigma = torch.tensor(SIGMA[i] / (2 * ALPHA[i]), dtype=x.dtype, device=x.device)
                x_hat = self.model(x / (2 * ALPHA[i]) + 0.5, sigma).clamp(0, 1)
                x_hat = self.data_fidelity.prox(x_hat, y, physics, gamma=1 / RHO[i])
                x_hat = 2 * x_hat - 1
                eps = (x - ALPHA[i] * x_hat) / SIGMA[i]
                kept, fresh = (1 - ZETA[i]) ** 0.5, ZETA[i] ** 0.5
                noise = kept * eps + fresh * torch.randn_like(x)
                x = ALPHA[i + 1] * x_hat + SIGMA[i + 1] * noise
        return x / 2 + 0.5
'''


def to_deepinv(schedule: Schedule, weights: Weights) -> Export:
    """DPS: WEIGHT of DPSDataFidelity by time, for a state in [-1, 1] and y in [0, 1]. DiffPIR: RHO
    by step."""
    allowed = {"dps": ("scale", "normalised"), "diffpir": ("task",)}
    check_sampler("deepinv", schedule, allowed)
    check_range("deepinv", schedule)
    check_vp("deepinv", schedule)
    check_clean_end("deepinv", schedule)
    return (_dps if schedule.sampler_name == "dps" else _diffpir)(schedule, weights)


def _dps(schedule: Schedule, weights: Weights) -> Export:
    width = BETA_MAX - BETA_MIN
    alpha, sigma = levels_of(schedule).values()
    integral = np.log1p((sigma / alpha) ** 2)  # of beta: -2 log alpha, with all digits of sigma
    times = (np.sqrt(BETA_MIN**2 + 2 * width * integral) - BETA_MIN) / width
    content = module(
        schedule,
        "For deepinv 0.5: DPS in PosteriorDiffusion, weights and eta by time.",
        [DPS],
        BETA_MIN=BETA_MIN,
        BETA_MAX=BETA_MAX,
        TIMES=times,
        # Its gradient is one by (x / alpha + 1) / 2, of a norm that is half as large; it is halved.
        WEIGHT=2 * np.asarray(weights["scale"]) / score_step(schedule, np.asarray(weights["eta"])),
        ETA=np.asarray(weights["eta"]),
    )
    size = f"{schedule.channels}, {', '.join(map(str, schedule.shape))}"
    usage = (
        "from {module} import posterior",
        "model = posterior(denoiser)  # a deepinv denoiser of images in [0, 1]",
        f"# physics and y in [0, 1], where sigma_y is {schedule.sigma_y / 2:g}",
        f"x = model(y, physics, x_init=(1, {size}), denoise_output=False)",
        f"# weights are for {schedule.channels} planes of {'x'.join(map(str, schedule.shape))} "
        "pixels: for n times as many measurements multiply WEIGHT by sqrt(n)",
    )
    return Export(content, ".py", usage)


def score_step(schedule: Schedule, eta: np.ndarray) -> np.ndarray:
    """[S] By how much a likelihood score of x_t / alpha_t, which enters the score, moves x_s.

    DDIM(eta) multiplies a score of x_t by alpha_t alpha_s (sigma_t / alpha_t)^2 (1 - c), with
    c = (sigma_s alpha_t / (alpha_s sigma_t)) sqrt(1 - eta^2 tau^2); its derivative by x_t / alpha_t
    is alpha_t times that by x_t, and it is divided by alpha_t.
    """
    alpha, sigma = levels_of(schedule).values()
    fresh = fresh_shares(schedule)
    kept = np.sqrt(1 - fresh) * np.sqrt(np.maximum(1 - eta**2 * fresh, 0))
    return alpha[1:] * sigma[:-1] ** 2 / alpha[:-1] * (1 - kept)


def _diffpir(schedule: Schedule, weights: Weights) -> Export:
    check_solvable("deepinv", weights)
    content = module(
        schedule,
        "For deepinv 0.5: DiffPIR, rho and zeta by step.",
        [DIFFPIR],
        RHO=rhos_of(schedule, weights),
        ZETA=np.asarray(weights["zeta"]),
        **levels_of(schedule),
    )
    usage = (
        "import deepinv",
        "from {module} import ScheduledDiffPIR",
        "model = ScheduledDiffPIR(denoiser, deepinv.optim.data_fidelity.L2())",
        "x = model(y, physics)  # physics and y in [0, 1], where sigma_y is "
        f"{schedule.sigma_y / 2:g}",
    )
    return Export(content, ".py", usage)
