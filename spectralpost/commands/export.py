"""`spectralpost export`: a schedule as a file for another code."""

import keyword
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, shown
from ..exports import Export, export_schedule, needs_problem
from ..files import whole_file
from ..inpainting import learning_problem
from ..options import Export as Options
from .console import Say, console, quiet
from .given_schedule import given_schedule, is_file, prior_of_schedule


class Result(NamedTuple):
    """A file, and where it belongs."""

    path: Path
    export: Export
    target: str


def compute(options: Options, say: Say = quiet) -> Result:
    """Convert a schedule's weights for a target."""
    del say
    schedule, target = given_schedule(options.schedule), options.to
    problem = None
    if needs_problem(schedule, target):
        prior = prior_of_schedule(options.schedule, options.prior, schedule)
        schedule = replace(schedule, shape=prior.shape)  # whose norms are taken
        degradation, channels = schedule.degradation(), schedule.channels
        problem = learning_problem(prior, degradation, schedule.sigma_y, channels=channels)
    elif options.prior is not None:
        raise InputError(f"prior = {shown(options.prior)}: has no effect on target {target!r}")
    export = export_schedule(schedule, target, problem)
    path = options.out
    if path is None:
        given = options.schedule
        own = given.stem if is_file(given) else given.name  # of the gallery's, which have a dot
        name = re.sub(r"\W", "_", f"{own}_{target}", flags=re.ASCII)
        name = name if name.isidentifier() else f"_{name}"
        path = options.schedule.with_name(name + export.suffix)
    if export.suffix == ".py" and not (path.suffix == ".py" and _can_be_imported(path.stem)):
        raise InputError(
            f"out = {shown(path)}: a Python module is needed that hides none of others, such as "
            "schedule.py"
        )
    if path.suffix != export.suffix:
        raise InputError(f"out = {shown(path)}: the target writes a {export.suffix} file")
    return Result(path, export, target)


def _can_be_imported(name: str) -> bool:
    """As a module, by the side of those that its user needs."""
    others = name in sys.stdlib_module_names or name in ("numpy", "torch")
    return name.isidentifier() and not keyword.iskeyword(name) and not others


def save(result: Result) -> None:
    with whole_file(result.path) as temporary:
        temporary.write_bytes(result.export.content)


def present(result: Result) -> None:
    console.print(f"wrote {result.path}; to use it:", soft_wrap=True)
    for line in result.export.lines(result.path):
        console.print(f"    {line}", soft_wrap=True)
