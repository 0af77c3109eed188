"""A loop on a network and a scheduler of diffusers."""

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
from .loop import LOOPS, loop, memory_numbers, numbers_of, step_of
from .solving import solver_notes

NETWORK = '''
def restore(unet, scheduler, y, A, shape, generator=None):
    """A sample of x_0 given y, of this shape [N, C, H, W], in [-1, 1].

    unet, scheduler  of diffusers, such as those of DDPMPipeline; of the scheduler only what the
                     network predicts and at which levels
    A                the degradation, linear and differentiable
    """
    known = scheduler.alphas_cumprod.double().sqrt()[list(TIMESTEPS)]
    wanted = torch.tensor(ALPHA[:-1], dtype=known.dtype, device=known.device)
    if float((known - wanted).abs().max()) > 1e-4:
        raise ValueError("scheduler: its levels are not those that the schedule is for")
    kind = scheduler.config.prediction_type

    def noise():
        return torch.randn(shape, generator=generator, dtype=y.dtype, device=y.device)

    def estimate(x, i):
        out = unet(x, torch.tensor(TIMESTEPS[i], device=x.device)).sample[:, : shape[1]]
        if kind == "sample":
            return out
        if kind == "v_prediction":
            return ALPHA[i] * x - SIGMA[i] * out
        if kind == "epsilon":
            return (x - SIGMA[i] * out) / ALPHA[i]
        raise ValueError(f"scheduler: prediction_type {kind!r}")
DENOISE
    def AT(r):
        with torch.enable_grad():
            at = torch.zeros(shape, dtype=r.dtype, device=r.device, requires_grad=True)
            return torch.autograd.grad(A(at), at, r)[0]

    with torch.no_grad():
        return sample(y, noise, denoise, PASSED)
'''

PLAIN = """
    denoise = estimate
"""

GRADIENT = """
    def denoise(x, i):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x_hat = estimate(x, i)
        return x_hat.detach(), lambda v: torch.autograd.grad(x_hat, x, v)[0]
"""

NORM = '''
def image_norm(r):
    """Of each image with all its planes."""
    return (r * r).flatten(1).sum(1).sqrt()[:, None, None, None]
'''

# Samplers that need no more of the degradation than itself and its transpose.
ALLOWED = {
    name: tuple(option for option in options if option not in ("noiseless", "start_from_y"))
    for name, (_, options) in LOOPS.items()
    if name not in ("ddnm", "ddrm", "reddiff")
}


def to_diffusers(schedule: Schedule, weights: Weights) -> Export:
    """The loop, and a function that runs it with a UNet and the levels of a scheduler."""
    check_sampler("diffusers", schedule, ALLOWED)
    check_time_steps("diffusers", schedule)
    check_range("diffusers", schedule)
    check_clean_end("diffusers", schedule)
    step = step_of(schedule)
    passed = ["A", "AT", *(["image_norm"] if "norm" in step.needs else [])]
    denoise = GRADIENT if step.gradient else PLAIN
    network = NETWORK.replace("DENOISE", denoise).replace("PASSED", ", ".join(passed))
    norm = [NORM] if "norm" in step.needs else []
    parts = ["import torch", *loop(schedule, weights), *norm, network]
    numbers = numbers_of(schedule, weights) | memory_numbers(weights)
    title = "For networks of diffusers: a schedule, and the loop that runs it."
    shape = (1, schedule.channels, *schedule.shape)
    usage = (
        "import diffusers",
        "from {module} import restore",
        "pipe = diffusers.DDPMPipeline.from_pretrained(...)",
        f"x = restore(pipe.unet.eval(), pipe.scheduler, y, A, shape={shape})  # in [-1, 1]",
    )
    content = module(schedule, title, parts, **numbers)
    return Export(content, ".py", usage + solver_notes(schedule, weights))
