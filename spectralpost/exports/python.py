"""A Python file without dependencies: the numbers, and a loop that runs them."""

from ..schedule import Schedule
from .base import Export, Weights, check_sampler, module
from .loop import LOOPS, loop, memory_numbers, numbers_of, step_of
from .solving import solver_notes

# What the lines that use it show for each thing that a loop needs.
SHOWN = {
    "A": "A",
    "AT": "AT",
    "pinv": "pinv",
    "norm": "norm",
    "svd": "h=h, Vt=Vt, V=V, Ut=Ut",
}


def to_python(schedule: Schedule, weights: Weights) -> Export:
    """Numbers and loop of one of LOOPS, for any arrays."""
    check_sampler("python", schedule, {name: options for name, (_, options) in LOOPS.items()})
    numbers = numbers_of(schedule, weights) | memory_numbers(weights)
    title = "Numbers of a schedule, and the loop that runs them."
    content = module(schedule, title, loop(schedule, weights), **numbers)
    step = step_of(schedule)
    given = [SHOWN[need] for need in step.needs if need in SHOWN]
    passed = [one if "=" in one else f"{one}={one}" for one in given]
    usage = (
        "from {module} import ALPHA, SIGMA, sample",
        f"# denoise(x, i) -> x_hat{', vjp' if step.gradient else ''}, of x at ALPHA[i], SIGMA[i]",
        f"x = sample(y, lambda: rng.normal(size=shape), denoise, {', '.join(passed)})",
    )
    return Export(content, ".py", usage + solver_notes(schedule, weights))
