"""NVlabs/RED-diff, the official code of RED-diff, which has a DPS too."""

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
from .loop import DDIM, numbers_of
from .operators import BY_PLANE, FILTERS, INVERTED, check_svd

LEVEL = '''
def time_of(i, diffusion, like):
    """The time step of level i for each image, if the diffusion is the schedule's."""
    t = torch.full((len(like),), TIMESTEPS[i], dtype=torch.long, device=like.device)
    known = float(diffusion.alpha(t[:1]).sqrt())
    if abs(known - ALPHA[i]) > 1e-4:
        raise ValueError(f"diffusion: alpha is {known} at t = {TIMESTEPS[i]}, not {ALPHA[i]}")
    return t
'''

REDDIFF = '''
class ScheduledREDDIFF(REDDIFF):
    """RED-diff with a rate and a lambda by step, at the schedule's time steps.

    Plain gradient descent on sums over pixels, where its parent has Adam on means: a rate for each
    step has no counterpart there. Returns mu after the last step.
    """

    def sample(self, x, y, ts, **kwargs):
        y_0 = kwargs["y_0"]
        mu = self.initialize(x, y, ts, y_0=y_0).detach()
        for i in range(len(TIMESTEPS)):
            t = time_of(i, self.diffusion, mu)
            with torch.no_grad():
                x_hat = self.model(ALPHA[i] * mu + SIGMA[i] * torch.randn_like(mu), y, t)[1]
            mu.requires_grad_()
            fit = ((y_0 - self.H.H(mu)) ** 2).sum() / 2
            g = torch.autograd.grad(fit, mu)[0]
            mu = mu.detach()
            mu = mu - LR[i] * (g + LAMBDA[i] * (mu - x_hat))
        return mu, mu
'''

OF_FILTERS = '''
    def initialize(self, x, y, ts, y_0):
        """H^+ y. Its parent's is 0 where one of the two factors of a singular value is small, and
        divides by their product, which may be smaller by far."""
        h, z = self.H.singulars(), self.H.Ut(y_0.reshape(len(y_0), -1))
        return self.H.V(self.H.add_zeros(inverted(h) * z[:, : len(h)])).reshape(x.shape)
'''

DPS = '''
class ScheduledDPS(DPS):
    """DPS in DDIM's steps, zeta times the gradient of the squared norm, image by image.

    Its parent starts from the pseudo-inverse, noised, and this from noise.
    """

    def sample(self, x, y, ts, **kwargs):
        y_0 = kwargs["y_0"]
        x = SIGMA[0] * torch.randn_like(x)
        for i in range(len(TIMESTEPS)):
            t = time_of(i, self.diffusion, x)
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x_hat = self.model(x, y, t)[1]
                fit = ((y_0 - self.H.H(x_hat)) ** 2).sum()
                g = torch.autograd.grad(fit, x)[0]
            x, x_hat = x.detach(), x_hat.detach()
            eps_hat = (x - ALPHA[i] * x_hat) / SIGMA[i]
            x = ddim(i, x_hat, eps_hat, torch.randn_like(x), ETA[i]) - ZETA[i] * g
        return [x], [x_hat]
'''


def to_reddiff(schedule: Schedule, weights: Weights) -> Export:
    """RED-diff: LR and LAMBDA by step, of sums over pixels, in a subclass without Adam. DPS: ZETA
    by step, of the squared norm."""
    check_sampler("reddiff", schedule, {"reddiff": ("lr", "threshold"), "dps": ("scale",)})
    check_svd("reddiff", schedule, square=True)
    check_time_steps("reddiff", schedule)
    check_range("reddiff", schedule)
    numbers = numbers_of(schedule, {name: np.asarray(one) for name, one in weights.items()})
    filters = schedule.degradation_name in FILTERS
    if schedule.sampler_name == "dps":
        check_clean_end("reddiff", schedule)
        imported, parts, parent = "from algos.dps import DPS", [DDIM, DPS], "DPS"
        what, unused = "zeta and eta", "algo.eta and algo.grad_term_weight"
    else:
        imported, parts, parent = "from algos.reddiff import REDDIFF", [REDDIFF], "REDDIFF"
        if filters:
            parts = [INVERTED, REDDIFF + OF_FILTERS]
            numbers["THRESHOLD"] = dict(schedule.sampler().options)["threshold"]
        what, unused = "a rate and a lambda", "algo.lr, algo.grad_term_weight and algo.obs_weight"
    parts = [f"import torch\n{imported}", LEVEL, *parts]
    content = module(schedule, f"For NVlabs/RED-diff: {what} for each step.", parts, **numbers)
    usage = (
        f"# algos/__init__.py, the file beside main.py: in place of {parent}(cg_model, cfg)",
        f"from {{module}} import Scheduled{parent}",
        f"return Scheduled{parent}(cg_model, cfg)",
        f"# algo.sigma_y={schedule.sigma_y / 2:g}, of [0, 1]: it is doubled there",
        f"# exp.num_steps, {unused} have no effect; exp.save_evolution=False",
        *([BY_PLANE] if filters else []),
    )
    return Export(content, ".py", usage)
