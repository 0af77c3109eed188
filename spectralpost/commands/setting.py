"""What options stand for: noise levels, degradation, prior, problem."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import noise
from ..cli import Design, Evaluate
from ..degradation import Degradation, make_degradation
from ..errors import InputError
from ..noise import NoiseLevel
from ..prior import Prior, load_prior
from ..problem import Problem, bin_modes, unique_modes
from ..schedule_file import Schedule


def levels_of(options: Design) -> tuple[NoiseLevel, tuple[int, ...] | None, str]:
    """The grid, its time steps if it has any, and its name for people."""
    name = options.grid.replace("-", "_")
    if not name.startswith("vp"):
        return getattr(noise, name)(options.steps), None, options.grid
    levels = getattr(noise, name)(options.steps, options.spacing)
    timesteps = noise.vp_timesteps(options.steps, options.spacing)
    return levels, tuple(timesteps.tolist()), f"{options.grid}, {options.spacing}"


def degradation_of(options: Design | Evaluate, name: str, shape: tuple[int, ...]) -> Degradation:
    choices: dict[str, dict[str, Any]] = {
        "identity": {},
        "gaussian-blur": {"std": options.blur_std},
        "uniform-blur": {"size": options.blur_size},
        "motion-blur": {"length": options.motion_length, "angle": options.motion_angle},
    }
    if name == "kernel":
        return make_degradation("from_kernel", shape, kernel=_load_kernel(options.kernel))
    return make_degradation(name.replace("-", "_"), shape, **choices[name])


def stored_prior(schedule_path: Path, prior_path: Path | None, schedule: Schedule) -> Prior:
    """The prior of a schedule; InputError if the file beside it is another one."""
    prior = load_prior(prior_path or schedule_path.with_name("prior.npz"))
    if prior_path is None and prior.hash != schedule.prior_hash:
        raise InputError(
            f"prior {str(schedule_path.with_name('prior.npz'))!r}: hash {prior.hash}, the schedule "
            f"was made for {schedule.prior_hash}; name the prior with --prior"
        )
    if prior.pixel_range != schedule.pixel_range:
        raise InputError(
            f"prior: pixel range {prior.pixel_range}, the schedule's is {schedule.pixel_range}"
        )
    return prior


def merged(problem: Problem, bins: int) -> Problem:
    return bin_modes(unique_modes(problem)[0], bins)[0]


def _load_kernel(path: Path | None) -> np.ndarray:
    if path is None:
        raise InputError("degradation = kernel: needs --kernel FILE")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(float)
        with warnings.catch_warnings():  # of an empty file, which `from_kernel` refuses
            warnings.simplefilter("ignore")
            return np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise InputError(f"kernel {str(path)!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"kernel {str(path)!r}: not rows of numbers, nor a .npy file") from error
