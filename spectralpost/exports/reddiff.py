"""NVlabs/RED-diff, the official code of RED-diff."""

import numpy as np

from ..schedule_file import Schedule
from .base import Export, Weights, check_range, check_sampler, check_time_steps, module
from .loop import numbers_of
from .operators import check_svd

CODE = '''
import torch
from algos.reddiff import REDDIFF


class ScheduledREDDIFF(REDDIFF):
    """RED-diff with a rate and a lambda by step, at the schedule's time steps.

    Plain gradient descent on sums over pixels, where its parent has Adam on means: a rate for each
    step has no counterpart there. Returns mu after the last step.
    """

    def sample(self, x, y, ts, **kwargs):
        y_0 = kwargs["y_0"]
        mu = self.initialize(x, y, ts, y_0=y_0).detach()
        for i, t_i in enumerate(TIMESTEPS):
            t = torch.full((len(mu),), t_i, dtype=torch.long, device=mu.device)
            known = float(self.diffusion.alpha(t[:1]).sqrt())
            if abs(known - ALPHA[i]) > 1e-4:
                raise ValueError(f"diffusion: alpha is {known} at t = {t_i}, not {ALPHA[i]}")
            with torch.no_grad():
                x_hat = self.model(ALPHA[i] * mu + SIGMA[i] * torch.randn_like(mu), y, t)[1]
            mu.requires_grad_()
            fit = ((y_0 - self.H.H(mu)) ** 2).sum() / 2
            g = torch.autograd.grad(fit, mu)[0]
            mu = mu.detach()
            mu = mu - LR[i] * (g + LAMBDA[i] * (mu - x_hat))
        return mu, mu
'''


def to_reddiff(schedule: Schedule, weights: Weights) -> Export:
    """LR and LAMBDA by step, of sums over pixels, in a subclass without Adam."""
    check_sampler("reddiff", schedule, {"reddiff": ("lr", "threshold")})
    check_svd("reddiff", schedule, square=True)
    check_time_steps("reddiff", schedule)
    check_range("reddiff", schedule)
    numbers = numbers_of(schedule, {name: np.asarray(one) for name, one in weights.items()})
    content = module(
        schedule, "For NVlabs/RED-diff: a rate and a lambda for each step.", [CODE], **numbers
    )
    usage = (
        "# algos/__init__.py, the file beside main.py: in place of REDDIFF(cg_model, cfg)",
        "from {module} import ScheduledREDDIFF",
        "return ScheduledREDDIFF(cg_model, cfg)",
        "# exp.num_steps, algo.lr, algo.grad_term_weight and algo.obs_weight have no effect",
    )
    return Export(content, ".py", usage)
