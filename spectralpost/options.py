"""The options of every command.

The classes are what `--help` shows, what a `--config` file holds and what the functions of
`commands` take. Names of samplers, degradations and noise grids are strings here, checked against
the tables SAMPLERS, DEGRADATIONS and GRIDS once a command runs: nothing here imports JAX.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import lazy_loader

if TYPE_CHECKING:
    import tyro
else:
    tyro = lazy_loader.load("tyro")  # only annotations name it: loaded once somebody reads them

STARTS = 48  # searches side by side, as `learn` has it


@dataclass(kw_only=True)
class DegradationOptions:
    """What happened to an image, besides noise."""

    degradation: str | None = None
    """What happened to the photograph, besides noise: see `spectralpost degradations`."""
    degradation_options: tuple[str, ...] = ()
    """Its options as name=value, such as std=2: see `spectralpost degradations`."""
    blur_std: float | None = None
    """gaussian_blur: short for --degradation-options std=..., standard deviation in pixels."""
    blur_size: int | None = None
    """uniform_blur: short for size=..., side of the box in pixels, odd."""
    motion_length: float | None = None
    """motion_blur: short for length=..., in pixels."""
    motion_angle: float | None = None
    """motion_blur: short for angle=..., in degrees, 0 is horizontal."""
    kernel: Path | None = None
    """kernel: file with the kernel of a convolution: .npy, .txt, .csv, or a grey image."""


@dataclass(kw_only=True)
class ProblemOptions(DegradationOptions):
    """What is to be restored, and on which noise levels."""

    degradation: str = "gaussian_blur"
    """What happened to the photograph, besides noise: see `spectralpost degradations`. Blurs are
    circular convolutions."""
    images: Path | None = None
    """Folder of images that the prior is estimated from (default: photographs of scikit-image)."""
    size: int | None = None
    """Cut all images into tiles of this side, in pixels (default: images as they are; 128 for the
    built-in photographs)."""
    channels: Literal["rgb", "luminance"] = "rgb"
    """Colour, or luminance alone."""
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white, as the denoiser takes them; sigma_y is in these units."""
    white_level: float | None = None
    """Pixel value that is white in integer files, such as 4095 for 12 bits in 16-bit files
    (default: the largest that the file's type holds)."""
    window: Literal["none", "hann"] = "none"
    """Taper of the images before their power spectrum is taken."""
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, in units of the pixel range."""
    grid: str = "vp_linear"
    """Noise levels that the network was trained on: see `spectralpost degradations`."""
    grid_options: tuple[str, ...] = ()
    """Its options as name=value, such as spacing=leading: see `spectralpost degradations`."""
    spacing: Literal["uniform", "leading", "trailing", "quadratic"] | None = None
    """vp grids: short for --grid-options spacing=..., how their time steps are chosen."""


@dataclass(kw_only=True)
class LearningOptions:
    """How a schedule is learned."""

    starts: int = STARTS
    """Searches run side by side."""
    bins: int = 1000
    """Frequencies are merged into this many bins while learning; the table is exact again."""
    seed: int = 0
    """Of the search, and of all noise that is drawn."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass(kw_only=True)
class SamplerOptions:
    """The sampler that a schedule is learned for, and what of it is learned."""

    sampler: str = "dps"
    """Sampler to learn for: see `spectralpost samplers`."""
    sampler_options: tuple[str, ...] = ()
    """Variants of the sampler as name=value, such as noiseless=true: see docs/conventions.md."""
    steps: int = 20
    """Number of sampling steps."""
    learn_levels: bool = False
    """Also learn which noise levels to visit; those of a vp grid become the nearest time steps."""


@dataclass(kw_only=True)
class Design(LearningOptions, SamplerOptions, ProblemOptions):
    """Learn a guidance schedule for a folder of images, a degradation and a step budget."""

    free: tuple[str, ...] | None = None
    """Weights to learn (default: all but eta, or eta if the sampler has no other)."""
    eta: float | None = None
    """Stochasticity of the DDIM step, 0 to 1 (default: the sampler's published value)."""
    resume: Path | None = None
    """Folder of an earlier run with the same options, whose search goes on."""
    start: str | None = None
    """Schedule to begin from: a file, or a name of the gallery; of another problem, or in another
    number of steps. The search goes on from there, in a fraction of the time, and does not look
    elsewhere."""
    photo: Path | None = None
    """Photograph to degrade and restore (default: the first image, kept out of the prior)."""
    borders: Literal["circular", "extend"] = "circular"
    """Of the photograph. circular: so is its blur, as that of the model. extend: only its middle is
    measured, blurred from what is around it, as in real photographs; it is restored on a canvas
    whose margin is filled in (see `restore`), which shows what that costs."""
    denoiser: str = "gaussian"
    """What the schedule is for, and restores the photograph. gaussian: the prior's own; unet: the
    network that comes with this package, or unet:FILE of `spectralpost train`; ffdnet:FILE: weights
    as its authors publish them; module:function: yours, (x_t, level) -> x_hat of images
    [..., C, H, W]. Networks are calibrated on the images."""
    polish: Path | None = None
    """Folder of clean images to polish the schedule on, with the denoiser itself: gradient steps
    through whole restorations (`sp.polish`). The first 64 images that are as large as the
    prior, cut to its size; 8 at least."""
    limits: Literal["auto", "bare", "network"] = "auto"
    """bare: the model's optimum within what `sp.learn` has by default, an amplification of 3 at
    most and a price of 1e-4 on roughness (`sp.Prices`). network: what a trained network needs, see
    `sp.for_network`: limits on amplification and roughness, scales of the spectrum, learned noise
    levels. auto: bare for the Gaussian denoiser, network for others."""
    hold_levels: bool = False
    """Keep the noise levels of the grid, where limits of a network would have them learned."""


@dataclass(kw_only=True)
class Compare(LearningOptions, ProblemOptions):
    """Compare all samplers on one problem: published default, tuned constant, learned, exact."""

    samplers: tuple[str, ...] | None = None
    """Samplers to compare (default: all, see `spectralpost samplers`)."""
    steps: tuple[int, ...] = (10, 20)
    """Numbers of sampling steps."""
    check: bool = True
    """Also run the literal algorithm of samplers that divide by a norm, on images drawn from the
    prior, and say where their closed form does not hold."""


@dataclass(kw_only=True)
class Tradeoff(LearningOptions, SamplerOptions, ProblemOptions):
    """Learn schedules between least error and most realistic images, beside what theory allows."""

    free: tuple[str, ...] | None = None
    """Weights to learn (default: all, eta included: noise is what buys realism)."""
    prices: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0, 10.0)
    """Weights of perception in mse + price * perception; a schedule is learned for each."""


@dataclass(kw_only=True)
class Evaluate(LearningOptions, DegradationOptions):
    """Evaluate a schedule on another problem than the one it was learned for."""

    schedule: "tyro.conf.Positional[Path]" = field(kw_only=False)
    """Schedule file, or a name of the gallery."""
    prior: Path | None = None
    """Prior file (default: prior.npz beside the schedule, or the gallery's)."""
    degradation: str | None = None
    """Other degradation (default: the schedule's, with the options given here)."""
    sigma_y: float | None = None
    """Other measurement noise, in units of the schedule's pixel range (default: the schedule's)."""
    relearn: bool = True
    """Also learn a schedule for the other problem, to see what is lost by not doing so."""
    limits: Literal["auto", "bare", "network"] = "auto"
    """Of the schedule that is learned: bare or network, as of `design`, on the noise levels of the
    given one. auto: those that the schedule file says it was learned with, else bare."""


@dataclass
class Export:
    """Write a schedule as a file that another code reads, and print the lines that use it."""

    schedule: "tyro.conf.Positional[Path]"
    """Schedule file, or a name of the gallery."""
    to: str
    """Whose code: csv, npz, python, deepinv, diffpir, dps, ddrm, ddnm, azula, diffusers, reddiff,
    inversebench. See docs/exports.md."""
    prior: Path | None = None
    """Prior file, for codes that divide by a norm (default: prior.npz beside the schedule, or the
    gallery's)."""
    out: Path | None = None
    """New file (default: beside the schedule, such as schedule_dps.py; of the gallery's in the
    folder that one is in)."""


@dataclass
class Restore:
    """Restore an image with a schedule and a denoiser."""

    image: "tyro.conf.Positional[Path]"
    """Degraded image; with --simulate the clean one, which is degraded first."""
    schedule: Path
    """Schedule file, or a name of the gallery."""
    prior: Path | None = None
    """Prior file (default: prior.npz beside the schedule, or the gallery's)."""
    denoiser: str = "gaussian"
    """gaussian: of the prior; unet: the network that comes with this package, or unet:FILE of
    `spectralpost train`; ffdnet:FILE: weights as its authors publish them; module:function: yours,
    (x_t, level) -> x_hat of images [..., C, H, W]."""
    white_level: float | None = None
    """Pixel value that is white in an integer file (default: the largest that its type holds)."""
    simulate: bool = False
    """Degrade the image first, then restore it, and report PSNR."""
    borders: Literal["auto", "extend", "draw", "circular"] = "auto"
    """extend: the image is the crop of a larger scene, so its blur is not circular; it is restored
    on a canvas with a margin as wide as the blur, filled with what is expected there. draw: each
    sample has a margin of its own, drawn; more error, honest spread. circular: the blur is. auto:
    extend, but circular with --simulate, whose blur is."""
    mask: Path | None = None
    """Of a schedule for inpainting: a picture of the mask, white where a pixel of the image is
    known; needed where the schedule's own was drawn at random."""
    samples: int = 1
    """Number of restored images to draw; of several the mean is written as well, which has less
    error than they have on average, and less detail."""
    seed: int = 0
    """Of the measurement noise (with --simulate) and the sampler's noise."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Train:
    """Train a small denoising network on images."""

    data: tuple[str, ...] = ()
    """Folders of images, and files of 8-bit arrays [N, H, W, planes]: FILE.npy, FILE.npz:NAME."""
    channels: Literal["rgb", "luminance"] = "rgb"
    """Colour, or luminance alone."""
    steps: int = 20_000
    """Steps of training."""
    batch: int = 64
    """Patches of 32x32 pixels a step; larger ones are fewer."""
    patch: int = 32
    """Side of the patches, in pixels. Smaller images of an array are taken whole, those of a folder
    left out."""
    learning_rate: float = 1e-3
    """Of Adam."""
    width: int = 48
    """Channels of the network at half the resolution; twice as many at a quarter."""
    blocks: int = 4
    """Residual blocks at each of its three stages."""
    seed: int = 0
    """Of weights, patches and noise."""
    checkpoints: Path = Path("runs/unet-checkpoints")
    """Folder of checkpoints. A run that finds some of its own there goes on from the last."""
    out: Path | None = None
    """New folder for the results (default: a fresh one under runs/)."""


@dataclass
class Figures:
    """Make the figures of the experiments, on one page with their captions and numbers.

    The scripts are in a checkout of the source, which a wheel does not hold.
    """

    quick: bool = False
    """Toys, which take seconds each and check their own numbers."""
    only: tuple[str, ...] | None = None
    """Figures to make, such as robust fewer_steps (default: all)."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Of the figures."""
    data: Path | None = None
    """Folder of the data sets that some figures are of: see docs/figures.md."""
    out: Path | None = None
    """Folder of the results (default: a fresh one under runs/). Figures that it holds, made with
    the same options, are not made again."""


@dataclass(kw_only=True)
class Gallery(DegradationOptions):
    """Ready schedules: list them, show one, or find the nearest to a problem.

    spectralpost gallery nearest --sampler dps --blur-std 1.9 --sigma-y 0.05 --steps 10
    """

    action: 'tyro.conf.Positional[Literal["list", "show", "nearest"]]' = field(
        default="list", kw_only=False
    )
    """list: those that fit the options below. show: the one of that NAME. nearest: to the problem
    that the options below are, and what is lost by taking it."""
    name: "tyro.conf.Positional[str | None]" = field(default=None, kw_only=False)
    """Of the schedule to show, such as dps-gaussian_blur2-s0.05-10."""
    sampler: str | None = None
    """Sampler."""
    sigma_y: float | None = None
    """Standard deviation of the measurement noise, for pixels in [-1, 1]."""
    steps: int | None = None
    """Number of sampling steps."""
    out: Path | None = None
    """New schedule file; prior.npz beside it is what it was made for."""


@dataclass
class Samplers:
    """List the samplers with their updates, weights and references."""


@dataclass
class Degradations:
    """List the degradations and the grids of noise levels with their options."""
