"""devzhk/InverseBench: DPS and DiffPIR on its networks and forward operators."""

import numpy as np

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
from .diffpir import check_solvable, rhos_of
from .loop import DDIM
from .solving import solver_notes

BASE = '''
import torch
from algo.base import Algo


class Scheduled(Algo):
    """What both have: noise at the first level, and the network at the schedule's levels."""

    def __init__(self, net, forward_op, **kwargs):
        super().__init__(net, forward_op)

    def first(self, num_samples):
        size = (self.net.img_channels, self.net.img_resolution, self.net.img_resolution)
        return SIGMA[0] * torch.randn(num_samples, *size, device=self.forward_op.device)

    def denoised(self, x, i):
        sigma = torch.as_tensor(SIGMA[i] / ALPHA[i], device=x.device)
        return self.net(x / ALPHA[i], sigma)
'''

DPS = '''

class ScheduledDPS(Scheduled):
    """DPS in DDIM's steps, zeta times the gradient of the squared norm, image by image.

    Its own DPS divides by a norm over all images, in Euler's steps of an SDE.
    """

    def inference(self, observation, num_samples=1, **kwargs):
        if num_samples > 1:
            observation = observation.repeat(num_samples, *[1] * (observation.ndim - 1))
        x = self.first(num_samples)
        for i in range(len(ZETA)):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                x_hat = self.denoised(x, i)
            down = self.forward_op.gradient(x_hat, observation)
            down = torch.autograd.grad(x_hat, x, down)[0]
            x, x_hat = x.detach(), x_hat.detach()
            eps_hat = (x - ALPHA[i] * x_hat) / SIGMA[i]
            x = ddim(i, x_hat, eps_hat, torch.randn_like(x), ETA[i]) - ZETA[i] * down
        return x
'''

DIFFPIR = '''

class ScheduledDiffPIR(Scheduled):
    """DiffPIR for linear operators, rho and zeta by step; the data step by conjugate gradients.

    Its own DiffPIR takes one gradient step in place of the solution, or inverts a matrix.
    """

    @torch.no_grad()
    def inference(self, observation, num_samples=1, **kwargs):
        if num_samples > 1:
            observation = observation.repeat(num_samples, *[1] * (observation.ndim - 1))
        x = self.first(num_samples)
        for i in range(len(RHO)):
            x_hat = self.data_step(self.denoised(x, i), observation, RHO[i])
            eps = (x - ALPHA[i] * x_hat) / SIGMA[i]
            noise = (1 - ZETA[i]) ** 0.5 * eps + ZETA[i] ** 0.5 * torch.randn_like(x)
            x = ALPHA[i + 1] * x_hat + SIGMA[i + 1] * noise
        return x

    def data_step(self, x_hat, y, rho, most=100, tolerance=1e-6):
        """argmin_x ||A x - y||^2 + rho ||x - x_hat||^2, image by image."""

        def gradient(x):
            with torch.enable_grad():
                return self.forward_op.gradient(x, y) / 2

        def dot(a, b):
            return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

        at = gradient(x_hat)
        shift, r = torch.zeros_like(x_hat), -at
        p, size = r, dot(r, r)
        enough = tolerance**2 * size
        for _ in range(most):
            going = size > enough
            if not going.any():
                break
            q = gradient(x_hat + p) - at + rho * p
            step = torch.where(going, size / torch.where(going, dot(p, q), 1), 0)
            shift, r = shift + step * p, r - step * q
            before, size = size, dot(r, r)
            p = r + torch.where(going, size / torch.where(going, before, 1), 0) * p
        return x_hat + shift
'''


def to_inversebench(schedule: Schedule, weights: Weights) -> Export:
    """DPS: ZETA by step, of the squared norm. DiffPIR: RHO by step."""
    allowed = {"dps": ("scale",), "diffpir": ("task",)}
    check_sampler("inversebench", schedule, allowed)
    check_time_steps("inversebench", schedule)
    check_range("inversebench", schedule)
    check_clean_end("inversebench", schedule)
    numbers: dict[str, object] = {**levels_of(schedule)}
    if schedule.sampler_name == "dps":
        numbers |= {"ZETA": np.asarray(weights["zeta"]), "ETA": np.asarray(weights["eta"])}
        parts, name = [BASE, DDIM, DPS], "ScheduledDPS"
    else:
        check_solvable("inversebench", weights)
        numbers |= {"RHO": rhos_of(schedule, weights), "ZETA": np.asarray(weights["zeta"])}
        parts, name = [BASE, DIFFPIR], "ScheduledDiffPIR"
    title = f"For devzhk/InverseBench: {schedule.sampler_name} by step."
    usage = (
        "# configs/algorithm/scheduled.yaml, the file beside main.py:",
        "name: Scheduled",
        "method:",
        f"  _target_: {{module}}.{name}",
        f"# python main.py algorithm=scheduled ... , sigma_noise {schedule.sigma_y:g} in [-1, 1]",
    )
    content = module(schedule, title, parts, **numbers)
    return Export(content, ".py", usage + solver_notes(schedule, weights))
