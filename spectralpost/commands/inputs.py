"""What options stand for: sampler, noise levels, degradation, prior, problem."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np

from .. import images
from ..choices import SHORT, choice
from ..degradations import DEGRADATIONS, Degradation, make_degradation
from ..denoiser_checks import as_returned
from ..denoiser_use import differentiates_denoiser
from ..denoisers.ffdnet import load_ffdnet
from ..denoisers.gaussian import GaussianDenoiser, WithCovariance
from ..denoisers.unet import load_unet
from ..errors import InputError, check_whole, reason_of, times
from ..inpainting import learning_problem
from ..learning import Search
from ..merging import bin_modes, unique_modes
from ..noise import NoiseLevel
from ..noise_grid import GRIDS, NoiseGrid, noise_grid
from ..options import (
    Compare,
    DegradationOptions,
    Design,
    LearningOptions,
    ProblemOptions,
    Tradeoff,
)
from ..prior import Prior, excess_kurtosis, from_images
from ..problem import Problem
from ..restoration import PixelDenoiser
from ..samplers import SAMPLERS, make_sampler
from ..samplers.base import Sampler
from ..schedule_checks import check_degradation, check_sizes
from ..signatures import as_words, checked_options, options_of
from .option_files import with_files_read

BUILT_IN_SIZE, LARGEST_SIZE = 128, 2**15  # of tiles, in pixels

Options = TypeVar("Options")


class Inputs(NamedTuple):
    """What a schedule is learned for, and a photograph to show it on."""

    prior: Prior
    degradation: Degradation
    problem: Problem  # all modes, or of a mask a model of them: see `learning_problem`
    small: Problem  # merged, to learn on
    photo: np.ndarray  # [C, H, W], kept out of the prior
    photo_name: str
    kurtosis: float  # excess, of the whitened images
    notes: tuple[str, ...]  # what there is to say of the files
    images: Callable[[], Iterator[np.ndarray]]  # those of the prior, [C, H, W] or [N, C, H, W]


def inputs_of(options: Design | Compare | Tradeoff, photo: Path | None = None) -> Inputs:
    """Prior, degradation and problem; the photograph is the first image, or the one at `photo`."""
    notes: set[str] = set()
    name, given = degradation_choice(options, notes)  # before images are read: that takes a while
    prior, planes, photo_name, kurtosis, images_again = prior_and_photo(options, photo, notes)
    degradation = make_degradation(name, prior.shape, **given)
    problem = learning_problem(prior, degradation, options.sigma_y, channels=len(planes))
    # Before it is learned: what a schedule file cannot hold.
    check_sizes(prior.shape, len(planes), options.sigma_y, prior.pixel_range)
    check_degradation(degradation.name, degradation.options, prior.shape)
    small = merged(problem, options.bins)
    said = tuple(sorted(notes))
    return Inputs(
        prior, degradation, problem, small, planes, photo_name, kurtosis, said, images_again
    )


def sampler_of(options: Design | Tradeoff) -> Sampler:
    """The sampler to learn for."""
    name, given = choice(options, "sampler")
    if name == "exact":
        raise InputError("sampler = 'exact': is a reference, with nothing to learn")
    return make_sampler(name, **given)


def denoiser_of(
    name: str, prior: Prior, shape: tuple[int, ...], sampler: Sampler | None = None
) -> PixelDenoiser:
    """What --denoiser names, for images [C, H, W] of this shape in the prior's pixel range; and for
    a sampler, which may ask for its derivative."""
    module, colon, rest = name.partition(":")
    if name == "gaussian":
        return GaussianDenoiser.of(prior)
    if module == "unet":
        network = load_unet(Path(rest) if colon else None).in_range(prior.pixel_range)
        return _checked(name, network, prior, shape, sampler)
    if not (module and rest):
        raise InputError(
            f"denoiser = {name!r}: allowed are gaussian, unet, unet:FILE, ffdnet:FILE, "
            "module:function"
        )
    if module == "ffdnet":
        return _checked(name, load_ffdnet(Path(rest), prior), prior, shape, sampler)
    try:
        if "" not in sys.path:
            sys.path.insert(0, "")  # a module of the folder that one is in, as with python -m
        found: Any = getattr(import_module(module), rest)
    except Exception as error:  # whatever a module does when it is imported
        plain = isinstance(error, ImportError | AttributeError)
        reason = " ".join(f"{'' if plain else f'{type(error).__name__}: '}{error}".split())
        raise InputError(f"denoiser = {name!r}: {reason}") from error
    if not callable(found):
        raise InputError(f"denoiser = {name!r}: is not a function (x_t, level) -> x_hat")
    return _checked(name, cast(PixelDenoiser, found), prior, shape, sampler)


def denoiser_in_words(name: str) -> str:
    return "the Gaussian denoiser" if name == "gaussian" else f"the denoiser {name}"


def _checked(
    name: str,
    denoiser: PixelDenoiser,
    prior: Prior,
    shape: tuple[int, ...],
    sampler: Sampler | None,
) -> PixelDenoiser:
    """The denoiser, told the covariance of its images; InputError if it does not take them, before
    any work is done."""
    image: Any = jax.ShapeDtypeStruct(shape, np.float32)
    number: Any = jax.ShapeDtypeStruct((), np.float32)
    level, called = NoiseLevel(number, number), f"denoiser = {name!r}"

    def as_used(x: jax.Array, t: NoiseLevel) -> jax.Array:
        return as_returned(denoiser(x, t), x, called).astype(x.dtype)

    try:
        jax.eval_shape(as_used, image, level)
    except InputError:
        raise
    except Exception as error:  # the tracers' own errors are TypeErrors
        raise InputError(
            f"{called}: is no function (x_t, level) -> x_hat in JAX ({reason_of(error)}); for "
            "PyTorch there is torch_denoiser"
        ) from error
    if sampler is not None and differentiates_denoiser(sampler):
        try:
            jax.eval_shape(lambda x, t: jax.vjp(lambda x: as_used(x, t), x)[1](x), image, level)
        except Exception as error:  # of a callback, or whatever a derivative of one's own raises
            raise InputError(
                f"{called}: has no derivative, which {sampler.name} asks for ({reason_of(error)})"
            ) from error
    return WithCovariance.of(denoiser, prior)


def free_weights(options: Design | Tradeoff) -> tuple[str, ...] | None:
    """The weights to learn."""
    if "levels" in (options.free or ()):
        raise InputError("free = 'levels': noise levels are learned with --learn-levels")
    return options.free


def search_of(options: LearningOptions) -> Search:
    return Search(options.starts, seed=options.seed)


def grid_of(options: ProblemOptions, steps: int) -> NoiseGrid:
    name, given = choice(options, "grid")
    return noise_grid(name, steps, **given)


def degradation_choice(
    options: DegradationOptions,
    notes: set[str],
    name: str = "",
    known: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Name and options of the degradation, checked, its files read.

    notes        what there is to say of the files is added
    name, known  of a schedule's own, for options that choose none: what is given changes it
    """
    chosen, given = choice(options, "degradation", name)
    if options.degradation is None:
        given = dict(known or {}) | given
    if chosen == "from_kernel" and given.get("kernel") is None:
        raise InputError("degradation = kernel: needs --kernel FILE")
    given = with_files_read(chosen, given, notes)
    return chosen, checked_options("degradation", DEGRADATIONS, chosen, given, own=("shape",))


def prior_and_photo(
    options: ProblemOptions, given: Path | None, notes: set[str]
) -> tuple[Prior, np.ndarray, str, float, Callable[[], Iterator[np.ndarray]]]:
    """The prior, a photograph [C, H, W] kept out of it, its name, the set's kurtosis, its images.

    The photograph is the one `given`, or the first image. What there is to say of the files is
    added to `notes`: a set, as they are read twice, and say everything twice.
    """
    pixel_range, size = options.pixel_range, options.size
    images.check_pixel_range(pixel_range)
    if size is not None:
        check_whole("size", size, 2, LARGEST_SIZE)
    if options.white_level is not None and options.images is None and given is None:
        raise InputError(
            f"white level = {options.white_level:g}: needs --images; the built-in photographs "
            f"have 8 bits"
        )
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
        if len(found) > 1:
            kept_out = photo_name
        else:
            notes.add(f"images: one only, so the prior is of the photograph {photo_name} itself")

    def planes() -> Iterator[np.ndarray]:
        for name, image in found:
            if name == kept_out:
                continue
            if colour:  # a grey image among others
                image = np.broadcast_to(image, (len(photo), *image.shape[1:]))
            yield image if size is None else images.tiles(image, size)

    colour = len(photo) > 1
    if size is not None:
        source += f", tiles of {size}x{size}"
        if not any(map(len, planes())):
            sides = [min(image.shape[1:]) for name, image in found if name != kept_out]
            raise InputError(f"size = {size}: no image is that large; the largest has {max(sides)}")
    prior = from_images(
        planes(), colour=colour, window=options.window, pixel_range=pixel_range, source=source
    )
    if any(have < want for have, want in zip(photo.shape[1:], prior.shape, strict=True)):
        raise InputError(
            f"photo {photo_name!r} of size {photo.shape[1]}x{photo.shape[2]}: "
            f"smaller than the prior's {prior.shape[0]}x{prior.shape[1]}"
        )
    photo = centred(photo, prior.shape).astype(float)
    kurtosis = excess_kurtosis(prior, planes())
    return prior, photo, photo_name, kurtosis, planes


def centred(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle [C, height, width] of an image that is as large or larger."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape[1:], shape, strict=True))
    return image[:, top : top + shape[0], left : left + shape[1]]


def title_of(options: ProblemOptions, steps: int, inputs: Inputs, grid: str) -> str:
    """The problem and the grid, in a line."""
    low, high = options.pixel_range
    return (
        f"{steps} steps ({grid}), {degradation_in_words(inputs.degradation)}, "
        f"sigma_y = {options.sigma_y:g} in [{low:g}, {high:g}]"
    )


def degradation_in_words(degradation: Degradation) -> str:
    """Its name and options; of arrays their sizes."""
    sizes = {name: np.shape(value) for name, value in degradation.options.items()}
    words = (
        f" {name} {'of ' + times(sizes[name]) if sizes[name] else value}"
        for name, value in degradation.options.items()
    )
    return ",".join([degradation.name, *words])


def check_unused(options: Any, usual: Any, fields: Iterable[str], on: str) -> None:
    """InputError for a field that differs from the usual options, where it has no effect."""
    for field in fields:
        if (value := getattr(options, field)) != getattr(usual, field):
            raise InputError(f"{field} = {value}: has no effect on {on}")


def merged(problem: Problem, bins: int) -> Problem:
    return bin_modes(unique_modes(problem)[0], bins)[0]


def complete(options: Options) -> Options:
    """The options with all that factories take by default, so that new defaults change no old run.

    Short flags become name=value words, but for the file of a kernel.
    """
    tables = {"sampler": SAMPLERS, "degradation": DEGRADATIONS, "grid": GRIDS}
    changes: dict[str, Any] = {}
    for field, table in tables.items():
        if getattr(options, field, None) is None:
            continue
        name, given = choice(options, field)
        defaults = {
            option: parameter.default
            for option, parameter in options_of(table[name]).items()
            if parameter.default is not parameter.empty
        }
        for flag, (owner, _, option) in SHORT.items():
            if owner == field and flag == "kernel" and getattr(options, flag) is not None:
                del given[option]
            elif owner == field:
                changes[flag] = None
        changes |= {field: name, f"{field}_options": as_words(defaults | given)}
    return replace(options, **changes)  # type: ignore[type-var]
