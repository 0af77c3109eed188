"""What a search goes on from: an earlier one that is resumed, or another schedule."""

import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..options import Design
from ..samplers.base import Guidance, Sampler
from ..schedule import Schedule
from ..schedule_file import load_schedule
from .given_schedule import given_schedule
from .inputs import Inputs

SCHEDULE, SEARCH = "schedule.json", "search.npz"  # --resume goes on from the latter


def schedule_to_begin_from(start: str, options: Design, sampler: Sampler) -> Schedule:
    """A file, or one of the gallery; of this sampler."""
    if options.resume is not None:
        raise InputError(f"start = {start!r}: a search that is resumed has begun; leave one out")
    schedule = given_schedule(start, "start")
    if schedule.sampler_name != sampler.name:
        raise InputError(f"start = {start!r}: is of {schedule.sampler_name}, not {sampler.name}")
    return schedule


def load_search(path: Path) -> Guidance:
    """What an earlier search found, for `learn(resume=)`."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: jnp.asarray(stored[name]) for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"resume {str(path)!r}: cannot be read ({error})") from error


def check_same(folder: Path, sampler: Sampler, inputs: Inputs, sigma_y: float) -> None:
    """InputError if the search of that folder was for another problem."""
    if not (path := folder / SCHEDULE).exists():
        return
    was = load_schedule(path)
    before = {
        "sampler": was.sampler(),
        "degradation": was.degradation(),
        "sigma_y": was.sigma_y,
        "prior": was.prior_hash,
    }
    now = {
        "sampler": sampler,
        "degradation": inputs.degradation,
        "sigma_y": sigma_y,
        "prior": inputs.prior.hash,
    }
    if differs := [name for name in now if now[name] != before[name]]:
        raise InputError(
            f"resume = {str(folder)!r}: its search was for another {' and '.join(differs)}; "
            f"--start {path} begins from its schedule"
        )
