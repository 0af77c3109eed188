"""`spectralpost design --polish`: a learned schedule, polished on a folder of clean images."""

from itertools import islice
from pathlib import Path

import numpy as np

from .. import images
from ..errors import InputError
from ..learning import LearnResult
from ..noise import NoiseLevel
from ..options import Design
from ..polishing import KEPT_OUT, Polished, polish
from ..restoration import PixelDenoiser
from ..samplers.base import Sampler
from .console import Say
from .inputs import Inputs, centred

AT_ONCE = 4  # images, twice each
ENOUGH = 64  # images: the first of a folder


def clean_images(
    options: Design, folder: Path, inputs: Inputs
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images [N, C, H, W] to polish on, the middle of each, and what there is to say of them."""
    shape, notes = inputs.photo.shape, []
    found = images.stream_folder(
        folder,
        options.channels,
        options.pixel_range,
        white_level=options.white_level,
        notice=notes.append,
    )
    large = (
        centred(np.broadcast_to(image, (shape[0], *image.shape[1:])), shape[1:])
        for _, image in found
        if image.shape[1] >= shape[1] and image.shape[2] >= shape[2] and len(image) in (1, shape[0])
    )
    clean = list(islice(large, ENOUGH))
    if len(clean) < 2 * KEPT_OUT:
        raise InputError(
            f"polish {str(folder)!r}: {len(clean)} images of {shape[1]}x{shape[2]} pixels or more; "
            f"{2 * KEPT_OUT} at least are needed"
        )
    return np.stack(clean), tuple(notes)


def polish_with_progress(
    options: Design,
    sampler: Sampler,
    inputs: Inputs,
    levels: NoiseLevel,
    result: LearnResult,
    clean: np.ndarray,
    denoiser: PixelDenoiser,
    say: Say,
) -> Polished:
    say("polishing: compiling")
    return polish(
        sampler,
        denoiser,
        clean,
        inputs.degradation,
        options.sigma_y,
        levels,
        result.guidance,
        result.free,
        batch=AT_ONCE,
        seed=options.seed,
        pixel_range=inputs.prior.pixel_range,
        progress=lambda step, score: say(f"polishing: step {step}, energy score {score:.5f}"),
    )
