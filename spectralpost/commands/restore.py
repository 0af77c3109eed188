"""`spectralpost restore`: an image, with a schedule and a denoiser."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import figures, images, metrics
from ..borders import on_canvas, restore_crop, takes_crops
from ..degradations import Degradation
from ..degradations.kernels import load_mask
from ..errors import LARGEST_STEPS, InputError, check_whole, times
from ..images import PixelRange
from ..inpainting import is_exact, learning_problem
from ..learning import evaluate
from ..noise import num_steps_of
from ..options import Restore
from ..prior import Prior, has_pixelwise_mean, resized
from ..problem import Problem
from ..restoration import measure, restore
from ..schedule import Schedule
from .console import Say, batch_for, console, image_psnr, measurement_panel, quiet
from .given_schedule import given_schedule, prior_of_schedule
from .inputs import denoiser_in_words, denoiser_of, merged

BINS = 1000
WORSE = 1.0  # dB, of a prediction at another size, that are told
HUGE = 10.0  # times the pixel range away from its middle: no image any more


class Result(NamedTuple):
    """Restored images."""

    title: str
    pixel_range: PixelRange
    photo: np.ndarray | None  # [C, H, W]; known if the measurement was simulated
    measurement: figures.Panel
    samples: np.ndarray  # [N, C, H, W]
    notes: tuple[str, ...]  # what there is to say of the file
    psnr: dict[str, float]  # of `_outputs`, where the photograph is known


def _outputs(samples: np.ndarray) -> dict[str, np.ndarray]:
    """Images [C, H, W] by name: samples, and of several their mean."""
    named = {f"sample {i}": one for i, one in enumerate(samples, start=1)}
    return named | ({"mean": np.mean(samples, 0)} if len(samples) > 1 else {})


def compute(options: Restore, say: Say = quiet) -> Result:
    """Restore an image; with simulate, degrade it first."""
    check_whole("samples", options.samples, maximum=LARGEST_STEPS)
    if options.simulate and options.borders in ("extend", "draw"):
        raise InputError(
            f"borders = {options.borders!r}: the blur of --simulate is circular; leave one out"
        )
    schedule = given_schedule(options.schedule)
    made_with = prior_of_schedule(options.schedule, options.prior, schedule)
    notes: list[str] = []
    schedule = _with_mask(schedule, options, notes)
    own = schedule.degradation()
    summed = own.sums_planes and not options.simulate  # what is read is one plane of y
    image = _image(options, schedule, made_with, summed, notes)
    degradation, is_crop = _degradation(options, schedule, image, made_with, notes)
    prior = resized(made_with, degradation.shape)
    planes = own.planes or len(image)
    sampler = schedule.sampler()
    denoiser = denoiser_of(options.denoiser, prior, (planes, *degradation.shape), sampler)
    problem = learning_problem(prior, degradation, schedule.sigma_y, channels=planes)
    if degradation.shape != own.shape and is_exact(degradation) and not has_pixelwise_mean(prior):
        there = resized(made_with, own.shape)
        usual = learning_problem(there, own, schedule.sigma_y, channels=planes)
        notes += _worse_here(schedule, usual, problem, degradation.shape)
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    if options.simulate:
        y = measure(degradation, image, schedule.sigma_y, noise_key)
    else:
        y = image[0] if summed else image
    steps = num_steps_of(schedule.levels)
    name, words = images.printable(options.image.name), denoiser_in_words(options.denoiser)
    title = f"{name}: {schedule.sampler_name}, {steps} steps, {words}"
    say(title)
    of_crop = partial(restore_crop, prior=prior, drawn=options.borders == "draw")
    samples = (of_crop if is_crop else restore)(
        sampler,
        denoiser,
        degradation,
        y,
        schedule.levels,
        schedule.guidance_for(problem),
        sampler_key,
        sigma_y=schedule.sigma_y,
        num_samples=options.samples,
        batch_size=batch_for(degradation.shape),
        progress=lambda done, of: say(f"{title}: {done} of {of} samples"),
    )
    samples = np.asarray(samples)
    _check_range(samples, prior.pixel_range)
    photo, known = None, {}
    if options.simulate:
        photo, found = image, _outputs(samples)
        known = {name: image_psnr(jnp.asarray(one), photo, prior) for name, one in found.items()}
    panel = measurement_panel(degradation, y, photo, prior)
    photo = None if photo is None else np.asarray(photo)
    return Result(title, prior.pixel_range, photo, panel, samples, tuple(notes), known)


def _image(
    options: Restore, schedule: Schedule, prior: Prior, summed: bool, notes: list[str]
) -> Array:
    """The image [C, H, W] that is measured, or to be; what there is to say is added to notes."""
    channels = "luminance" if schedule.channels == 1 or summed else "rgb"
    image = jnp.asarray(
        images.load_image(
            options.image,
            channels,
            prior.pixel_range,
            white_level=options.white_level,
            notice=notes.append,
        )
    )
    if min(image.shape[1:]) < 2:
        size = times(image.shape[1:])
        raise InputError(f"image {str(options.image)!r}: {size} pixels; 2x2 at least are needed")
    if options.simulate:
        of_network = 4 if options.denoiser.partition(":")[0] == "unet" else 1
        divisor = math.lcm(of_network, schedule.degradation_options.get("factor", 1))
        image, whole = middle(image, divisor), image
        if image.shape != whole.shape:
            sizes = (times(one.shape[1:]) for one in (whole, image))
            notes.append(
                "image: of {} pixels the middle {}, whose sides {} divides".format(*sizes, divisor)
            )
    if prior.axes is not None:
        if not summed:  # a grey image is one whose planes are equal
            image = jnp.broadcast_to(image, (len(prior.axes), *image.shape[1:]))
        if schedule.band_knots is not None:
            raise InputError(
                f"schedule {str(options.schedule)!r}: its bands are of the prior's axes of colour, "
                "not of the planes that are restored; allowed is one weight a step"
            )
    return image


def _degradation(
    options: Restore, schedule: Schedule, image: Array, prior: Prior, notes: list[str]
) -> tuple[Degradation, bool]:
    """The schedule's, for images of this size; and whether the image is the crop of a scene, whose
    canvas it is then for."""
    made_for = schedule.degradation if options.simulate else schedule.degradation_of
    degradation = made_for(image.shape[1:])
    if options.simulate or options.borders == "circular":
        return degradation, False
    if not takes_crops(degradation):
        if options.borders != "auto":
            raise InputError(
                f"borders = {options.borders!r}: not for {degradation.name}; allowed are auto and "
                "circular"
            )
        notes.append(f"borders: circular, as {degradation.name} takes the image to go on")
        return degradation, False
    if has_pixelwise_mean(prior):
        raise InputError(
            "prior: its mean differs from pixel to pixel and ends where the image does; "
            "allowed is --borders circular"
        )
    degradation = on_canvas(degradation)
    if degradation.shape != image.shape[1:]:
        notes.append(_canvas_in_words(degradation.shape))
    return degradation, True


def _worse_here(
    schedule: Schedule, usual: Problem, problem: Problem, shape: tuple[int, ...]
) -> list[str]:
    """What there is to say if outputs are predicted to be farther from the best that is possible on
    images of this shape than on those that the schedule was learned for: it may blow up frequencies
    that only these have."""

    def predicted(problem: Problem) -> tuple[float, float]:
        few = merged(problem, BINS)
        guidance = schedule.guidance_for(few)
        error = evaluate(schedule.sampler(), few, schedule.levels, guidance, metrics.mse)
        least = metrics.optimal_tradeoff(few).least_mse
        here, best = (float(metrics.psnr(one, schedule.pixel_range)) for one in (error, least))
        return here, best - here

    (here, lost_here), (there, lost_there) = predicted(problem), predicted(usual)
    if lost_here <= lost_there + WORSE:
        return []
    return [
        f"schedule: was learned for {times(schedule.shape)} pixels, where its predicted PSNR is "
        f"{there:.1f} dB; on {times(shape)} it is {here:.1f} dB: learn one for this size "
        "(design --size)"
    ]


def _check_range(samples: np.ndarray, pixel_range: PixelRange) -> None:
    """InputError for what is no image. `restore` has seen to the denoiser."""
    low, high = pixel_range
    farthest = np.max(np.abs(samples - (low + high) / 2))
    if not farthest <= HUGE * (high - low):
        found = f"{farthest:.3g} from grey" if np.isfinite(farthest) else "that are not finite"
        raise InputError(
            f"the schedule diverges with this denoiser: pixels {found}, in a range of {low:g} to "
            f"{high:g}; learn one for it (design --denoiser), or choose another sampler"
        )


def _canvas_in_words(shape: tuple[int, ...]) -> str:
    return (
        f"borders: as a crop of a larger scene, restored on a canvas of {shape[0]}x{shape[1]} "
        "pixels and cropped; --borders circular for an image whose blur is circular"
    )


def write(result: Result, folder: Path) -> None:
    panels = [] if result.photo is None else [figures.Panel("photograph", result.photo)]
    panels.append(result.measurement)
    for name, image in _outputs(result.samples).items():
        caption = f"{result.psnr[name]:.1f} dB" if result.psnr else ""
        panels.append(figures.Panel(f"restored, {name}", image, caption))
        path = folder / f"restored-{name.removeprefix('sample ')}.png"
        images.save_image(path, image, result.pixel_range)
    figure = figures.restored_figure([panels], result.title, result.pixel_range)
    figures.save_figure(figure, folder / "overview.png")


def present(result: Result) -> None:
    if result.psnr and result.measurement.caption.endswith(" dB"):  # of an image
        console.print(f"measurement: {result.measurement.caption.replace('measured', 'PSNR')}")
    for name, psnr in result.psnr.items():
        console.print(f"{name}: PSNR {psnr:.2f} dB")


def _with_mask(schedule: Schedule, options: Restore, notes: list[str]) -> Schedule:
    """The schedule for the image's own mask, which is not what another draw of a random one is."""
    name, own = schedule.degradation_name, schedule.degradation_options
    if options.mask is not None:
        if name != "inpaint":
            raise InputError(f"mask: the schedule is for {name}, which has none")
        mask = load_mask(options.mask, notes.append)
        what = "pixels" if mask.ndim == 2 else "values of all planes"
        notes.append(f"mask: {np.count_nonzero(mask)} of {mask.size} {what} are known")
        return replace(schedule, degradation_options={"mask": mask.tolist()}, shape=mask.shape[-2:])
    if name == "inpaint" and own.get("mask", "random") == "random" and not options.simulate:
        raise InputError(
            f"schedule {str(options.schedule)!r}: its mask was drawn at random, the image has "
            "another: name a picture of that by --mask, or --simulate"
        )
    return schedule


def middle(image: Array, divisor: int) -> Array:
    """The largest part [C, H, W], centred, whose sides are divisible."""
    cuts = []
    for side in image.shape[1:]:
        rest = side % divisor if side >= divisor else 0
        cuts.append(slice(rest // 2, side - rest + rest // 2))
    return image[:, *cuts]
