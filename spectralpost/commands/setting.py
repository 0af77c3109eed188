"""What options stand for: noise levels, degradation, prior, problem."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import images, noise
from ..cli import Evaluate, ProblemOptions
from ..degradations import Degradation, make_degradation
from ..degradations.kernels import kernel_note, load_kernel
from ..errors import InputError
from ..merging import bin_modes, unique_modes
from ..noise import NoiseLevel
from ..prior import Prior, excess_kurtosis, from_images, load_prior
from ..problem import Problem
from ..schedule_file import Schedule

BUILT_IN_SIZE = 128


def levels_of(
    options: ProblemOptions, steps: int
) -> tuple[NoiseLevel, tuple[int, ...] | None, str]:
    """The grid, its time steps if it has any, and its name for people."""
    name = options.grid.replace("-", "_")
    if not name.startswith("vp"):
        return getattr(noise, name)(steps), None, options.grid
    levels = getattr(noise, name)(steps, options.spacing)
    timesteps = noise.vp_timesteps(steps, options.spacing)
    return levels, tuple(timesteps.tolist()), f"{options.grid}, {options.spacing}"


def nearest_levels(
    options: ProblemOptions, learned: NoiseLevel
) -> tuple[NoiseLevel, tuple[int, ...] | None, str]:
    """As `levels_of`, for learned levels: of a vp grid the nearest that the network knows."""
    name = options.grid.replace("-", "_")
    grid = f"{options.grid}, learned"
    if not name.startswith("vp"):
        return learned, None, grid
    trained = getattr(noise, name)(noise.TRAIN_STEPS)
    timesteps = noise.nearest_timesteps(learned, trained)
    rows = np.append(noise.TRAIN_STEPS - 1 - timesteps, noise.TRAIN_STEPS)  # noisiest first
    levels = NoiseLevel(trained.alpha[rows], trained.sigma[rows])
    return levels, tuple(timesteps.tolist()), grid


def degradation_of(
    options: ProblemOptions | Evaluate, name: str, shape: tuple[int, ...]
) -> Degradation:
    choices: dict[str, dict[str, Any]] = {
        "identity": {},
        "gaussian-blur": {"std": options.blur_std},
        "uniform-blur": {"size": options.blur_size},
        "motion-blur": {"length": options.motion_length, "angle": options.motion_angle},
    }
    if name == "kernel":
        return make_degradation("from_kernel", shape, kernel=_load_kernel(options.kernel))
    return make_degradation(name.replace("-", "_"), shape, **choices[name])


def prior_and_photo(
    options: ProblemOptions, given: Path | None = None
) -> tuple[Prior, np.ndarray, str, float]:
    """The prior, a photograph [C, H, W] kept out of it, its name, and the set's kurtosis.

    The photograph is the one `given`, or the first image.
    """
    pixel_range, size = options.pixel_range, options.size
    images.check_pixel_range(pixel_range)
    if size is not None and size < 2:
        raise InputError(f"size = {size}: must be >= 2")
    if options.white_level is not None and options.images is None and given is None:
        raise InputError(
            f"white level = {options.white_level:g}: needs --images; the built-in photographs "
            f"have 8 bits"
        )
    notes: set[str] = set()  # the images are read twice, and say twice what there is to say
    reading: dict[str, Any] = {"white_level": options.white_level, "notice": notes.add}
    if options.images is None:
        found = images.built_in_photographs(options.channels, pixel_range).items()
        source, size = "photographs of scikit-image", size or BUILT_IN_SIZE
    else:
        # One at a time in memory: there, single precision would gain nothing.
        found = images.stream_folder(
            options.images, options.channels, pixel_range, **reading, dtype=float
        )
        source = f"{len(found)} images of {images.printable(options.images.name)}"
    kept_out = None
    if given is not None:
        photo_name = images.printable(given.name)
        photo = images.load_image(given, options.channels, pixel_range, **reading)
    else:
        photo_name, photo = next(iter(found))
        if len(found) > 1:  # with a single image, the prior has to come from the photograph itself
            kept_out = photo_name

    def planes() -> Iterator[np.ndarray]:
        for name, image in found:
            if name != kept_out:
                yield image if size is None else images.tiles(image, size)

    if size is not None:
        source += f", tiles of {size}x{size}"
        if not any(map(len, planes())):
            raise InputError(f"size = {size}: no image is that large")
    prior = from_images(planes(), window=options.window, pixel_range=pixel_range, source=source)
    if any(have < want for have, want in zip(photo.shape[1:], prior.shape, strict=True)):
        raise InputError(
            f"photo {photo_name!r} of size {photo.shape[1]}x{photo.shape[2]}: "
            f"smaller than the prior's {prior.shape[0]}x{prior.shape[1]}"
        )
    top, left = (
        (have - want) // 2 for have, want in zip(photo.shape[1:], prior.shape, strict=True)
    )
    photo = photo[:, top : top + prior.shape[0], left : left + prior.shape[1]].astype(float)
    kurtosis = excess_kurtosis(prior, planes())
    for note in sorted(notes):
        print(note)
    return prior, photo, photo_name, kurtosis


def parsed_options(words: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` words as a dictionary; values as in YAML."""
    import yaml

    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise InputError(f"sampler-options = {word!r}: name=value is needed")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"sampler-options = {word!r}: value cannot be read") from error
    return options


def title_of(options: ProblemOptions, steps: int, grid: str) -> str:
    """The problem and the grid, in a line."""
    low, high = options.pixel_range
    return (
        f"{steps} steps ({grid}), {options.degradation}, "
        f"sigma_y = {options.sigma_y:g} in [{low:g}, {high:g}]"
    )


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
    kernel = load_kernel(path)
    if (note := kernel_note(kernel)) is not None:
        print(note)
    return kernel
