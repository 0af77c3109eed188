"""Data without noise: are schedules that were made for the rounding of 8 bits good for them?

The model knows no measurement without noise. Its gallery has schedules for sigma_y 0.0023, what
rounding to 8 bits adds to pixels in [-1, 1]. Here they restore, on the shipped network, tiles of
scikit-image's colour photographs that were degraded with no noise at all, as floats and rounded to
8 bits, beside their published default at that sigma_y and the samplers that are meant for such
data: DDNM and PiGDM with `noiseless`, and DDRM, as published. Energy score of two restorations of
each (root mean square per pixel, less is better), and how much more it is than DDNM's, in %, with
the standard error of the paired differences.

    python experiments/noise_free.py            the table of docs/gallery.md
    python experiments/noise_free.py --quick    one task with a Gaussian denoiser, checked
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
import tyro

from gallery_measured import photographs, restored_energies
from on_networks.scores import percent_more
from spectralpost import (
    SAMPLERS,
    Degradation,
    GaussianDenoiser,
    InputError,
    NoiseLevel,
    Sampler,
    draw,
    gallery_prior,
    gallery_schedule,
    heuristic,
    keep_compiled_programs,
    load_unet,
    measure,
    vp_linear,
)
from spectralpost.degradations import make_degradation
from spectralpost.gallery import TASKS, entry_name, entry_of, problem_on, published_of
from spectralpost.problem_checks import ROUNDING
from spectralpost.restoration import PixelDenoiser
from spectralpost.samplers.base import Guidance

MEANT = {  # for data without noise
    "ddnm": SAMPLERS["ddnm"](noiseless=True),
    "pigdm, noiseless": SAMPLERS["pigdm"](noiseless=True),
    "ddrm, published": SAMPLERS["ddrm"](),
}
REFERENCE = "ddnm"

# As floats, and as a file of 8 bits holds them: pixels in [-1, 1] in steps of 2 / 255.
DATA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floats": lambda y: y,
    "8 bits": lambda y: np.clip(np.round((y + 1) * 127.5), 0, 255) / 127.5 - 1,
}

Contestant = tuple[str, Sampler, NoiseLevel, Guidance]


@dataclass
class Options:
    samplers: tuple[str, ...] = ("pigdm", "diffpir", "dds")
    tasks: tuple[str, ...] = ("gaussian_blur2", "motion_blur", "x4", "inpaint")
    steps: int = 10
    images: int = 48
    """Tiles restored, twice each."""
    quick: bool = False
    """One task with a Gaussian denoiser, checked."""


def main(options: Options) -> None:
    keep_compiled_programs()
    if options.quick:
        return quick(options)
    if unknown := [name for name in options.tasks if name not in TASKS]:
        raise InputError(f"tasks: {unknown[0]!r}: allowed are {', '.join(TASKS)}")
    if options.images < 2:
        raise InputError(f"images = {options.images}: a standard error needs 2 at least")
    network, x_0 = load_unet(), photographs(64, options.images)
    for task in options.tasks:
        of = {label: scores(task, kind, network, x_0, options) for label, kind in DATA.items()}
        show(task, of)


def scores(
    task: str,
    kind: Callable[[np.ndarray], np.ndarray],
    network: PixelDenoiser,
    x_0: np.ndarray,
    options: Options,
) -> dict[str, np.ndarray]:
    """Energy scores [N] of images x_0 [N, 3, H, W] in [-1, 1], by contestant."""
    degradation = make_degradation(TASKS[task].degradation, x_0.shape[2:], **TASKS[task].options)
    y = kind(np.asarray(measure(degradation, x_0, 0.0, jax.random.key(1)))).astype(np.float32)
    found = {}
    for label, sampler, levels, guidance in contestants(task, degradation, options):
        given = sampler, network, degradation, y, levels, guidance
        found[label] = restored_energies(*given, ROUNDING, x_0)
    return found


def contestants(task: str, degradation: Degradation, options: Options) -> Iterator[Contestant]:
    levels, problem = vp_linear(options.steps), problem_on(degradation, ROUNDING)
    for label, sampler in MEANT.items():
        yield label, sampler, levels, heuristic(sampler, problem, levels)
    for name in options.samplers:
        schedule = gallery_schedule(entry_of(entry_name(name, task, ROUNDING, options.steps)))
        yield name, schedule.sampler(), schedule.levels, schedule.guidance
        published = published_of(name, task, problem, levels)
        yield f"{name}, published", SAMPLERS[name](), levels, published


def show(task: str, found: dict[str, dict[str, np.ndarray]]) -> None:
    print(f"{task:<35}" + "".join(f"{label:<23}" for label in found))
    for label in next(iter(found.values())):
        line = f"    {label:<20}"
        for of_data in found.values():
            more, error = percent_more(of_data[label], of_data[REFERENCE])
            line += f"{of_data[label].mean():9.4f}" + f"{more:+.1f} ({error:.1f})".rjust(14)
        print(line, flush=True)


def quick(options: Options) -> None:
    """Under the denoiser that they were made for, learned schedules are the best of all."""
    prior = gallery_prior(32)
    x_0 = draw(prior, 16).astype(np.float32)
    few = replace(options, samplers=("pigdm",))
    found = {
        label: scores("x4", kind, GaussianDenoiser.of(prior), x_0, few)
        for label, kind in DATA.items()
    }
    show("x4", found)
    for of_data in found.values():
        if min(of_data, key=lambda label: of_data[label].mean()) != "pigdm":
            sys.exit("noise_free: the learned schedule is not the best")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"noise_free: {error}")
