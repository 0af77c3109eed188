"""Schedules for other people's code, one code base a file; two share their steps (`svd_codes`).

A target is a function and a line in this table. What it writes, in which units, and what it refuses
is listed in docs/exports.md.
"""

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..literal_form import to_literal
from ..plain_json import plain
from ..problem import Problem, num_pixels
from ..schedule import Schedule
from .azula import to_azula
from .base import Export, Target, check_steps_alone
from .deepinv import to_deepinv
from .diffpir import to_diffpir
from .diffusers import to_diffusers
from .dps import to_dps
from .inversebench import to_inversebench
from .python import to_python
from .reddiff import to_reddiff
from .svd_codes import to_ddnm, to_ddrm
from .tables import to_csv, to_npz

# Fields that may have numbers of NumPy or JAX, which files write as text.
AS_PLAIN = ("sampler_options", "degradation_options", "sigma_y", "pixel_range", "loss")

EXPORTS: dict[str, Target] = {
    "csv": Target("a table, one line a step", to_csv),
    "npz": Target("arrays of NumPy", to_npz),
    "python": Target("numbers and loop, without dependencies", to_python),
    "deepinv": Target("deepinv 0.5: dps, diffpir", to_deepinv, by_norm=("dps",)),
    "diffpir": Target("yuanzhi-zhu/DiffPIR", to_diffpir),
    "dps": Target("DPS2022/diffusion-posterior-sampling", to_dps, by_norm=("dps",)),
    "ddrm": Target("bahjat-kawar/ddrm", to_ddrm),
    "ddnm": Target("wyhuai/DDNM", to_ddnm),
    "azula": Target("azula 0.11: dps, diffpir", to_azula, by_norm=("dps",)),
    "diffusers": Target("a loop on networks of diffusers", to_diffusers),
    "reddiff": Target("NVlabs/RED-diff: reddiff, dps", to_reddiff),
    "inversebench": Target("devzhk/InverseBench: dps, diffpir", to_inversebench),
}


def export_schedule(schedule: Schedule, target: str, problem: Problem | None = None) -> Export:
    """A schedule as the file that another code reads, and the lines that use it.

        sp.export_schedule(sp.load_schedule("schedule.json"), "diffpir").content

    target   one of EXPORTS
    problem  what the schedule was made for: for targets that divide by a norm (`needs_problem`),
             whose weights it converts as `to_literal` does. Their strength depends on the number of
             pixels
    InputError, in one line, for what the target cannot do.

    >>> sp.export_schedule(schedule, "csv").content.splitlines()[0]
    b'step,timestep,alpha_t,sigma_t,alpha_s,sigma_s,eta,zeta'
    """
    chosen = _target(target)
    schedule = replace(schedule, **{name: plain(getattr(schedule, name)) for name in AS_PLAIN})
    weights = {name: np.asarray(one, float) for name, one in schedule.guidance.items()}
    if not needs_problem(schedule, target):
        return chosen.make(schedule, weights)
    check_steps_alone(target, schedule)
    if problem is None:
        raise InputError(
            f"target = {target!r}: divides by the norm of the residual, so that the problem is "
            "needed, with its prior"
        )
    _check_problem(schedule, problem)
    sampler = schedule.sampler()
    if sampler.memory == 0:  # others are refused by name below
        literal = to_literal(sampler, problem, schedule.levels, schedule.guidance)
        weights = {name: np.asarray(one, float) for name, one in literal.items()}
    return chosen.make(schedule, weights)


def _check_problem(schedule: Schedule, problem: Problem) -> None:
    """InputError where norms would be those of another problem, as far as one sees: images may be
    of another size, but not three times as many pixels."""
    sigma_y = float(problem.sigma_y)
    if not np.isclose(sigma_y, schedule.sigma_y, rtol=1e-5):
        raise InputError(f"problem: sigma_y is {sigma_y:g}, the schedule's {schedule.sigma_y:g}")
    own = schedule.channels
    planes = float(num_pixels(problem)) / math.prod(schedule.shape)
    if problem.basis is None and (np.isclose(planes, 3 * own) or np.isclose(3 * planes, own)):
        raise InputError(
            f"problem: {planes:g} planes, the schedule is for {own} (`image_problem(channels=...)`)"
        )


def needs_problem(schedule: Schedule, target: str) -> bool:
    """Whether weights have to be converted by norms, which depend on problem and prior."""
    by_norm = schedule.sampler_name in _target(target).by_norm
    return by_norm and schedule.sampler().literal is not None


def _target(name: str) -> Target:
    if name not in EXPORTS:
        raise InputError(f"target = {name!r}: allowed are {', '.join(EXPORTS)}")
    return EXPORTS[name]
