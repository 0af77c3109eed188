"""Crops of larger scenes: what does a blur that is not circular cost, by what fills the borders?

Scenes of 256x256 pixels are blurred, and their middle 128x128 are what is measured. The same pixels
blurred circularly, restored in the same way, are what the loss refers to, each against the truth on
these pixels. Published default weights, 20 steps of vp_linear. Ways to make up what is missing:

    as it is      the crop, restored as if its blur were circular
    edge taper    the crop, blended near its edges into its own circular blur
    reflected     on a canvas: reflections of both edges, blended from one into the other
    harmonic      on a canvas: the margin solves Laplace's equation (Liu and Jia, "Reducing boundary
                  artifacts in image deconvolution", ICIP 2008, make it smooth in a like manner)
    + noise       the same with noise of sigma_y
    mean          on a canvas: the mean of the margin given the crop, under the prior; this is what
                  `restore_crop` does
    drawn         on a canvas: a draw from that law, `restore_crop(drawn=True)`

Canvases are those of `on_canvas`, at most 160x160 here. Loss in dB, mean of 8 scenes of BSDS500,
sigma_y 0.05 and 0.01, of the Gaussian denoiser; below 0 is better than circular blur:

                    gaussian 3               uniform 21               motion 21
              pigdm       diffpir       pigdm       diffpir       pigdm       diffpir
as it is       1.8  7.9    3.5 12.7      5.4 17.1    9.0 16.3      5.9 16.9    8.8 19.6
edge taper     0.1  0.3   -0.1  0.4      0.4  5.2    0.8  4.2      0.7  5.2    0.9  6.7
reflected     -0.1  0.3    0.0  1.0      1.9  4.8    1.7  4.3      3.1 11.0    4.3 12.1
harmonic      -0.2  0.1   -0.1  0.7      1.0  3.2    0.8  2.8      0.9  5.8    1.3  6.4
  + noise     -0.1  0.1   -0.1  0.7      1.0  3.3    1.1  3.0      1.0  5.8    1.6  6.6
mean          -0.2 -0.2   -0.2 -0.2     -0.3  0.0   -0.6 -0.3      0.0  0.5   -0.3  0.2
  + noise     -0.2 -0.2   -0.2 -0.2     -0.3  0.1   -0.2  0.1      0.1  0.6    0.1  0.6
drawn         -0.2 -0.2   -0.1 -0.1      0.0  0.7    0.1  0.6      0.3  1.4    0.4  1.4

and of the shipped network, whose worst scene loses 2.2 dB by the mean (motion, PiGDM, 0.01):

as it is       5.8 15.7    8.1 19.2      8.5 20.6    7.3 13.0      9.4 21.2    9.1 20.9
mean          -0.1  0.0   -0.5 -0.3     -0.2  0.5   -0.9 -0.9      0.4  1.3   -0.7 -0.2
drawn         -0.1  0.1    0.0  0.1      0.1  1.0    0.2  0.4      0.7  1.9    0.5  1.5

    python experiments/borders.py --data bsds500_256.npz
    python experiments/borders.py --quick     one blur on built-in photographs, checked

The data are 8-bit images [N, H, W, 3] in the arrays `train`, for the prior, and `test`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import tyro
from scipy.sparse.linalg import spsolve

from spectralpost import (
    SAMPLERS,
    Degradation,
    GaussianDenoiser,
    InputError,
    Prior,
    cropped,
    extended,
    from_images,
    gaussian_blur,
    heuristic,
    image_problem,
    load_unet,
    measure,
    motion_blur,
    on_canvas,
    resized,
    restore,
    uniform_blur,
    vp_linear,
)
from spectralpost.images import built_in_photographs, tiles

BLURS: dict[str, Callable[[tuple[int, ...]], Degradation]] = {
    "gaussian 3": lambda shape: gaussian_blur(shape, 3.0),
    "uniform 21": lambda shape: uniform_blur(shape, 21),
    "motion 21": lambda shape: motion_blur(shape, 21.0, 30.0),
}


@dataclass
class Options:
    data: Path | None = None
    """File .npz with the arrays `train` and `test` of 8-bit images [N, H, W, 3]."""
    quick: bool = False
    """One blur of 9 pixels, two ways, on built-in photographs."""
    denoisers: tuple[str, ...] = ("gaussian", "unet")
    samplers: tuple[str, ...] = ("pigdm", "diffpir")
    sigma_y: tuple[float, ...] = (0.01, 0.05)
    scenes: int = 8
    """Test images: the first."""
    ways: tuple[str, ...] | None = None
    """Default: all."""


def main(options: Options) -> None:
    if options.quick:
        return quick()
    if options.data is None:
        raise InputError("data: name a file .npz with the arrays train and test")
    with np.load(options.data) as stored:
        train, scenes = unit(stored["train"]), unit(stored["test"][: options.scenes])
    size = scenes.shape[-1] // 2
    prior = from_images(np.concatenate([tile for one in train for tile in tiles(one, size)]))
    ways = options.ways or tuple(WAYS)
    head = "".join(f"{way:>18}" for way in ways)
    print(f"loss in dB: mean (worst scene)\n{'':41}circular{head}")
    cells = product(options.denoisers, BLURS, options.sigma_y, options.samplers)
    for denoiser, blur, sigma_y, sampler in cells:
        circular, losses = of_cell(prior, scenes, BLURS[blur], sigma_y, sampler, denoiser, ways)
        row = "".join(f"{f'{loss.mean():.2f} ({loss.max():.2f})':>18}" for loss in losses)
        label = f"{denoiser:<9} {blur:<11} {sigma_y:<5g} {sampler:<8}"
        print(f"{label}{circular.mean():>12.2f} {row}", flush=True)


def quick() -> None:
    """Ten decibels are lost by a crop as it is, hardly any on a canvas."""
    photographs = built_in_photographs("luminance").values()
    images = np.concatenate([tiles(one, 128) for one in photographs])
    prior = from_images(tiles(images[8:, 0], 64).reshape(-1, 64, 64))
    _, losses = of_cell(
        prior,
        images[:8],
        lambda shape: uniform_blur(shape, 9),
        0.01,
        "pigdm",
        "gaussian",
        ("as it is", "mean"),
    )
    as_it_is, mean = (loss.mean() for loss in losses)
    print(f"loss in dB: {as_it_is:.2f} as it is, {mean:.2f} on a canvas")
    if not (as_it_is > 10 and mean < 1):
        sys.exit("borders: a crop as it is does not lose 10 dB, or on a canvas more than 1 dB")


def unit(images: np.ndarray) -> np.ndarray:
    """8 bits [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return np.moveaxis(images, -1, 1).astype(np.float32) / 127.5 - 1


def of_cell(
    prior: Prior,
    scenes: np.ndarray,
    blur: Callable[[tuple[int, ...]], Degradation],
    sigma_y: float,
    sampler: str,
    denoiser: str,
    ways: tuple[str, ...],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """PSNR of each scene's crop blurred circularly, and what each way loses against it, in dB."""
    truth, key = cropped(jnp.asarray(scenes), prior.shape), jax.random.key(0)
    circular = blur(prior.shape)
    y = cropped(measure(blur(scenes.shape[-2:]), scenes, sigma_y, key), prior.shape)

    def psnr(y: np.ndarray | jax.Array, degradation: Degradation) -> np.ndarray:
        own = resized(prior, degradation.shape)
        problem = image_problem(own, degradation, sigma_y, channels=y.shape[1])
        levels, chosen = vp_linear(20), SAMPLERS[sampler]()
        x = restore(
            chosen,
            load_unet() if denoiser == "unet" else GaussianDenoiser.of(own),
            degradation,
            jnp.asarray(y, np.float32),
            levels,
            heuristic(chosen, problem, levels),
            jax.random.key(1),
            sigma_y=sigma_y,
        )
        error = np.mean((np.asarray(cropped(x, prior.shape)) - truth) ** 2, axis=(1, 2, 3))
        return -10 * np.log10(error / 4)

    reference = psnr(measure(circular, truth, sigma_y, key), circular)
    return reference, [
        reference - psnr(*WAYS[way](np.asarray(y), prior, circular, sigma_y)) for way in ways
    ]


# ----------------------------------------- ways: (y, prior, degradation, sigma_y) -> y, degradation


def as_it_is(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    return y, degradation


def edge_taper(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    """Weights are 1 less the kernel's autocorrelation along each axis, 0 at the edge."""
    origin = np.zeros(y.shape[-2:])
    origin[0, 0] = 1
    kernel = np.asarray(degradation.apply(origin))
    weight = np.ones(())
    for axis in (0, 1):
        power = np.abs(np.fft.fft(kernel.sum(axis=1 - axis))) ** 2
        correlation = np.fft.ifft(power).real
        along = 1 - correlation / correlation[0]
        weight = weight * np.minimum(along, along[::-1]).reshape((-1, 1) if axis == 0 else (1, -1))
    return weight * y + (1 - weight) * np.asarray(degradation.apply(y)), degradation


def reflected(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    canvas = on_canvas(degradation)
    for axis in (-2, -1):
        along = np.moveaxis(y, axis, -1)
        margin = canvas.shape[axis] - along.shape[-1]
        before, share = margin // 2, (np.arange(margin) + 0.5) / margin
        last, first = along[..., ::-1][..., :margin], along[..., :margin][..., ::-1]
        blend = (1 - share) * last + share * first
        along = np.concatenate([blend[..., margin - before :], along, blend], axis=-1)
        y = np.moveaxis(along[..., : canvas.shape[axis]], -1, axis)
    return y, canvas


def harmonic(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    canvas = on_canvas(degradation)
    known, filled = placed(np.ones(y.shape[-2:], bool), canvas), placed(y, canvas)
    row, column = np.nonzero(~known)
    number = np.full(canvas.shape, -1)
    number[row, column] = np.arange(row.size)
    matrix = scipy.sparse.identity(row.size, format="csc") * 4
    right = np.zeros((row.size, y[..., 0, 0].size))
    for down, along in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        at = (row + down) % canvas.shape[0], (column + along) % canvas.shape[1]
        right += filled[..., *at].reshape(-1, row.size).T  # 0 where it is not known
        inside = np.flatnonzero(~known[at])
        pairs = (np.ones(inside.size), (inside, number[at][inside]))
        matrix = matrix - scipy.sparse.csc_matrix(pairs, shape=matrix.shape)
    filled[..., row, column] = spsolve(matrix, right).T.reshape(*y.shape[:-2], -1)
    return filled, canvas


def harmonic_noise(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    return with_noise(y, *harmonic(y, prior, degradation, sigma_y), sigma_y)


def mean(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    canvas = on_canvas(degradation)
    return extended(y, resized(prior, canvas.shape), canvas, None, sigma_y=sigma_y), canvas


def mean_noise(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    return with_noise(y, *mean(y, prior, degradation, sigma_y), sigma_y)


def drawn(y: np.ndarray, prior: Prior, degradation: Degradation, sigma_y: float):
    canvas, key = on_canvas(degradation), jax.random.key(2)
    return extended(y, resized(prior, canvas.shape), canvas, key, sigma_y=sigma_y), canvas


def placed(crop: np.ndarray, canvas: Degradation) -> np.ndarray:
    """In the middle of zeros."""
    before = [(N - n) // 2 for n, N in zip(crop.shape[-2:], canvas.shape, strict=True)]
    filled = np.zeros((*crop.shape[:-2], *canvas.shape), crop.dtype)
    filled[..., *(slice(b, b + n) for b, n in zip(before, crop.shape[-2:], strict=True))] = crop
    return filled


def with_noise(y: np.ndarray, filled, canvas: Degradation, sigma_y: float):
    noise = sigma_y * np.random.default_rng(3).normal(size=filled.shape)
    return filled + noise * ~placed(np.ones(y.shape[-2:], bool), canvas), canvas


WAYS = {
    "as it is": as_it_is,
    "edge taper": edge_taper,
    "reflected": reflected,
    "harmonic": harmonic,
    "harmonic + noise": harmonic_noise,
    "mean": mean,
    "mean + noise": mean_noise,
    "drawn": drawn,
}


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except InputError as error:
        sys.exit(f"borders: {error}")
