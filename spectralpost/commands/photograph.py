"""The photograph that a learned schedule is tried on: degraded and restored, as is predicted?"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .. import figures, metrics
from ..affine import Transfer
from ..borders import cropped, extent, restore_crop, takes_crops
from ..degradations import Degradation
from ..errors import InputError, times
from ..inpainting import is_exact
from ..kept_jit import kept_jit
from ..noise_grid import NoiseGrid
from ..options import Design
from ..prior import has_pixelwise_mean
from ..problem import image_modes
from ..restoration import PixelDenoiser, measure, restore
from ..samplers.base import Guidance, Sampler
from .console import batch_for, image_psnr, measurement_panel
from .inputs import Inputs

MEAN_OF = 8  # samples

image_mse = kept_jit(metrics.image_mse)  # one program for all that it does


def check_borders(options: Design, inputs: Inputs) -> None:
    """InputError for `--borders extend` where there is no crop to measure."""
    if options.borders == "circular":
        return
    if not takes_crops(inputs.degradation):
        raise InputError(
            f"borders = 'extend': not for {inputs.degradation.name}; allowed is circular"
        )
    if has_pixelwise_mean(inputs.prior):
        raise InputError(
            "borders = 'extend': the prior's mean differs from pixel to pixel; allowed is circular"
        )
    shape, size = inputs.degradation.shape, _size_of_crop(inputs.degradation)
    if any(2 * n < N for n, N in zip(size, shape, strict=True)):
        reach = times(extent(inputs.degradation))
        raise InputError(
            f"borders = 'extend': a blur of {reach} pixels leaves less than half of "
            f"{times(shape)}; allowed are larger images, or circular"
        )


def prediction_in_words(options: Design, degradation: Degradation) -> str:
    if not is_exact(degradation):
        return "nothing is predicted of one image: its mask is modelled by small ones"
    if options.borders == "extend":
        size = times(_size_of_crop(degradation))
        return (
            f"measured: of the middle {size} pixels, restored as the crop that they are; "
            "predicted: in closed form, for the whole photograph and a blur that is circular"
        )
    return "predicted: in closed form, for this photograph"


def restored_photograph(
    options: Design,
    sampler: Sampler,
    inputs: Inputs,
    grid: NoiseGrid,
    schedules: dict[str, Guidance],
    transfers: dict[str, Transfer],
    denoiser: PixelDenoiser,
) -> tuple[list[figures.Panel], dict[str, dict[str, float]]]:
    """The panels of the photograph, and PSNR measured and predicted for each schedule."""
    prior, degradation = inputs.prior, inputs.degradation
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    x_0 = jnp.asarray(inputs.photo)
    y = measure(degradation, x_0, options.sigma_y, noise_key)
    of_image, seen, name_of_it = restore, x_0, "photograph"
    if options.borders == "extend":
        # The photograph is the canvas: the blur of its middle does not reach around it.
        size = _size_of_crop(degradation)
        y, seen = cropped(y, size), cropped(x_0, size)
        of_image, name_of_it = partial(restore_crop, prior=prior), "photograph, its middle"
    panels = [
        figures.Panel(name_of_it, np.asarray(seen)),
        measurement_panel(degradation, y, seen, prior),
    ]
    rows = {}
    for name in ("heuristic", "learned"):
        samples = of_image(
            sampler,
            denoiser,
            degradation,
            y,
            grid.levels,
            schedules[name],
            sampler_key,
            sigma_y=options.sigma_y,
            num_samples=MEAN_OF,
            batch_size=batch_for(degradation.shape),
        )
        row = {}
        for num, image, words in (
            (1, samples[0], "one sample"),
            (MEAN_OF, samples.mean(axis=0), f"mean of {MEAN_OF}"),
        ):
            row[words] = image_psnr(image, seen, prior)
            caption = f"measured {row[words]:.1f} dB"
            if is_exact(degradation):
                errors = [
                    image_mse(inputs.problem, transfers[name], rows_of_one, num)
                    for rows_of_one in image_modes(prior, degradation, x_0)
                ]
                predicted = float(metrics.psnr(jnp.mean(jnp.stack(errors)), prior.pixel_range))
                row[f"{words}, predicted"] = predicted
                caption += f"\npredicted {predicted:.1f} dB"
            if name == "learned" or num == 1:
                title = f"{figures.LABELS[name]}, {words}"
                panels.append(figures.Panel(title, np.asarray(image), caption))
        rows[name] = row
    return panels, rows


def _size_of_crop(degradation: Degradation) -> tuple[int, ...]:
    """Of the middle whose blur lies within the canvas."""
    return tuple(
        N - (reach - 1) for N, reach in zip(degradation.shape, extent(degradation), strict=True)
    )
