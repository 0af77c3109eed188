"""`spectralpost restore`: an image, with a schedule and the Gaussian denoiser of its prior."""

import jax
import jax.numpy as jnp
import numpy as np

from .. import figures, images
from ..cli import Restore, to_yaml
from ..denoisers.gaussian import GaussianDenoiser
from ..errors import InputError
from ..files import check_free, fresh_folder, whole_folder
from ..noise import num_steps_of
from ..prior import resized
from ..restoration import measure, restore
from ..schedule_file import load_schedule
from .console import console, image_psnr
from .setting import stored_prior


def restore_image(options: Restore) -> None:
    """Restore an image; with simulate, degrade it first."""
    out = options.out or fresh_folder("runs", "restore")
    check_free(out)
    if options.samples < 1:
        raise InputError(f"samples = {options.samples}: must be >= 1")
    schedule = load_schedule(options.schedule)
    prior = stored_prior(options.schedule, options.prior, schedule)
    channels = "luminance" if schedule.channels == 1 else "rgb"
    image = jnp.asarray(images.load_image(options.image, channels, prior.pixel_range))
    prior = resized(prior, image.shape[1:])
    degradation = schedule.degradation(prior.shape)
    noise_key, sampler_key = jax.random.split(jax.random.key(options.seed))
    panels, y = [], image
    if options.simulate:
        y = measure(degradation, image, schedule.sigma_y, noise_key)
        panels.append(figures.Panel("photograph", np.asarray(image)))
    caption = f"{image_psnr(y, image, prior):.1f} dB" if options.simulate else ""
    panels.append(figures.Panel("measurement", np.asarray(y), caption))
    restored = restore(
        schedule.sampler(),
        GaussianDenoiser.of(prior),
        degradation,
        y,
        schedule.levels,
        schedule.guidance,
        sampler_key,
        sigma_y=schedule.sigma_y,
        num_samples=options.samples,
    )
    for i, sample in enumerate(restored):
        caption = f"{image_psnr(sample, image, prior):.1f} dB" if options.simulate else ""
        panels.append(figures.Panel(f"restored, sample {i + 1}", np.asarray(sample), caption))
        if options.simulate:
            console.print(f"sample {i + 1}: PSNR {image_psnr(sample, image, prior):.2f} dB")
    steps = num_steps_of(schedule.levels)
    title = f"{options.image.name}: {schedule.sampler_name}, {steps} steps"
    figure = figures.restored_figure([panels], title, prior.pixel_range)
    with whole_folder(out) as folder:
        for i, sample in enumerate(restored):
            images.save_image(
                folder / f"restored-{i + 1}.png", np.asarray(sample), prior.pixel_range
            )
        figures.save_figure(figure, folder / "overview.png")
        (folder / "config.yaml").write_text(to_yaml(options))
    console.print(f"results in {out}: restored-1.png, overview.png", soft_wrap=True)
