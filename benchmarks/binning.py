"""How far is the loss on merged modes from that on all of them?

`bin_modes` merges similar modes, and `learn` and the command line work on what is left. Here W2^2
of a schedule on n rows is held against that on all modes, 128x128, 20 steps of the uniform VP grid:

    published   the sampler's default
    tuned       the best constant, found on the rows
    learned     by `learn` with its defaults but fewer starts, on the rows: it has seen these, and
                may exploit them

for five samplers and six problems: power-law images blurred in four ways, and one blur of Matern
images. The table: the median and the largest of |loss on rows / loss on all - 1| for each n.

    python benchmarks/binning.py           some minutes: most of it compiles
    python benchmarks/binning.py --quick   64x64, 10 steps, one sampler, two problems, two sizes

float64; deterministic.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import tyro

import spectralpost as sp
from spectralpost.cli import Design
from spectralpost.compiled import drop_compiled_programs

SCHEDULES = ("published", "tuned", "learned")
GOAL = 1e-3  # relative error of the loss

# name -> (prior, degradation, sigma_y) of a shape
PROBLEMS: dict[str, Callable] = {
    "blur 2, sigma_y 0.05": lambda shape: (sp.power_law(shape), sp.gaussian_blur(shape, 2.0), 0.05),
    "blur 1, sigma_y 0.2": lambda shape: (sp.power_law(shape), sp.gaussian_blur(shape, 1.0), 0.2),
    "motion blur": lambda shape: (sp.power_law(shape), sp.motion_blur(shape), 0.05),
    "uniform blur 9": lambda shape: (sp.power_law(shape), sp.uniform_blur(shape, 9), 0.05),
    "Matern, blur 2": lambda shape: (sp.matern(shape), sp.gaussian_blur(shape, 2.0), 0.05),
    "Matern, motion blur": lambda shape: (sp.matern(shape), sp.motion_blur(shape), 0.05),
}


@dataclass
class Options:
    """The error of `bin_modes` in the loss of schedules."""

    quick: bool = False
    """A small version."""
    bins: tuple[int, ...] = (50, 100, 200, 400, 800)
    samplers: tuple[str, ...] = ("dps", "pigdm", "diffpir", "mpgd", "dds")
    problems: tuple[str, ...] = tuple(PROBLEMS)
    steps: int = 20
    size: int = 128
    starts: int = 8
    learn: bool = True
    """Without, published defaults only: seconds."""


def errors_of(name: str, whole: sp.Problem, rows: sp.Problem, options: Options) -> dict[str, float]:
    """Loss on the rows / loss on all modes - 1 of each schedule, of one sampler."""
    sampler, levels = sp.SAMPLERS[name](), sp.vp_linear(options.steps)
    # Of the whole problem: a default that depends on the problem is the same on all rows.
    default = sp.heuristic(sampler, whole, levels)
    schedules = {"published": default}
    if options.learn:
        result = sp.learn(sampler, rows, levels, default, search=sp.Search(starts=options.starts))
        schedules["tuned"] = result.baseline_guidance["tuned_constant"]
        schedules["learned"] = result.guidance
    return {
        label: float(sp.evaluate(sampler, rows, levels, guidance))
        / float(sp.evaluate(sampler, whole, levels, guidance))
        - 1
        for label, guidance in schedules.items()
    }


def print_table(errors: dict[int, dict[tuple[str, str, str], float]]) -> None:
    """errors: n -> (problem, sampler, schedule) -> relative error, with its sign."""
    print(f"\n{'':>6}" + "".join(f"{label:^22}" for label in (*SCHEDULES, "all")))
    print(f"{'n':>6}" + f"{'median':>11}{'worst':>11}" * 4 + "   worst case")
    for num, by_case in errors.items():
        cells = ""
        for label in (*SCHEDULES, "all"):
            some = [abs(e) for case, e in by_case.items() if label in (case[2], "all")]
            cells += f"{np.median(some):>11.1e}{max(some):>11.1e}" if some else " " * 22
        worst = max(by_case, key=lambda case: abs(by_case[case]))
        print(f"{num:>6}{cells}   {', '.join(worst)}: {by_case[worst]:+.1e}")
    worst_of = {num: max(map(abs, by_case.values())) for num, by_case in errors.items()}
    default = Design.bins
    if default in worst_of:
        within = "keeps" if worst_of[default] <= GOAL else "does not keep"
        print(f"\n--bins {default}, the default, {within} all losses within {GOAL:.1%}")
    good = [num for num in sorted(worst_of) if worst_of[num] <= GOAL]
    print(f"The smallest n that does, of these: {good[0] if good else 'none'}")
    # What is larger than the goal at its most bins deserves to be named.
    most = max(errors)
    for case, error in sorted(errors[most].items(), key=lambda item: -abs(item[1])):
        if abs(error) > GOAL:
            print(f"  at {most}: {', '.join(case)}: {error:+.1e}")


def main(options: Options) -> None:
    jax.config.update("jax_enable_x64", True)
    if options.quick:
        problems = tuple(PROBLEMS)[:3:2]
        options = Options(True, (50, 200), ("diffpir",), problems, 10, 64, 2, options.learn)
    begin = time.perf_counter()
    shape = (options.size, options.size)
    whole = {
        problem: sp.unique_modes(sp.image_problem(*PROBLEMS[problem](shape)))[0]
        for problem in options.problems
    }
    distinct = ", ".join(f"{name} {one.weight.size}" for name, one in whole.items())
    print(f"{options.size}x{options.size}, {options.steps} steps. Distinct modes: {distinct}")
    errors = {num: {} for num in sorted(options.bins)}
    for name in options.samplers:
        for num, by_case in errors.items():
            for problem, full in whole.items():
                found = errors_of(name, full, sp.bin_modes(full, num)[0], options)
                by_case |= {(problem, name, label): error for label, error in found.items()}
        drop_compiled_programs()  # nothing is used again
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    print_table(errors)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__.split("\n")[0]))
