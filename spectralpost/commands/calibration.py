"""The prior of `spectralpost design`, calibrated on the denoiser that the schedule is for."""

import numpy as np

from ..denoisers.calibrating import calibrate
from ..errors import InputError
from ..inpainting import learning_problem
from ..options import Design
from ..restoration import PixelDenoiser
from .inputs import Inputs, merged

LOOKED_AT, CALIBRATED_ON = 1024, 64  # images: a random choice of the first


def calibrated(options: Design, inputs: Inputs, denoiser: PixelDenoiser) -> Inputs:
    """The same for another denoiser than the Gaussian one: see `calibrate`."""
    some: list[np.ndarray] = []
    for images_or_one in inputs.images():
        several = images_or_one if images_or_one.ndim == 4 else images_or_one[None]
        # A grey image among colour ones is none that the denoiser takes.
        some += [image for image in several if image.shape == inputs.photo.shape]
        if len(some) >= LOOKED_AT:
            break
    if not some:
        raise InputError("images: none with as many planes as the photograph, to calibrate on")
    chosen = np.random.default_rng(options.seed).permutation(len(some))[:CALIBRATED_ON]
    images, told = np.stack([some[i] for i in chosen]), list[str]()
    prior = calibrate(inputs.prior, denoiser, images, notice=told.append)
    if told and len(some) > len(chosen):
        told.append(
            f"calibration: design takes {len(chosen)} of the images; `sp.calibrate` in Python "
            "takes more"
        )
    problem = learning_problem(
        prior, inputs.degradation, options.sigma_y, channels=len(inputs.photo)
    )
    small = merged(problem, options.bins)
    return inputs._replace(prior=prior, problem=problem, small=small, notes=(*inputs.notes, *told))
