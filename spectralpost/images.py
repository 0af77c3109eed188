"""Photographs in and out.

An image is an array of planes [C, H, W] with values in a stated pixel range, [-1, 1] by default:
one luminance plane, or three colour planes that the rest of the package treats as independent.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import InputError

PixelRange = tuple[float, float]
Channels = Literal["rgb", "luminance"]

PIXEL_RANGE: PixelRange = (-1.0, 1.0)
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# Natural photographs that scikit-image carries inside its wheel, so nothing is downloaded.
BUILT_IN = (
    "chelsea.png",
    "astronaut.png",
    "camera.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
)


def load_image(
    path: str | os.PathLike[str],
    channels: Channels = "rgb",
    pixel_range: PixelRange = PIXEL_RANGE,
) -> np.ndarray:
    """Read one image as planes [C, H, W] in `pixel_range`; an alpha channel is dropped.

    Integer pixels are scaled by their type's range, floating-point ones must lie in [0, 1].
    Raises InputError if the file is missing, not an image, or holds NaN or out-of-range pixels.
    """
    import skimage.color
    import skimage.io
    import skimage.util

    check_pixel_range(pixel_range)
    path = Path(path)
    if not path.is_file():
        raise InputError(f"image {str(path)!r}: no such file")
    try:
        pixels = np.asarray(skimage.io.imread(path))
    except Exception as error:  # the readers behind imread raise whatever they like
        raise InputError(f"image {str(path)!r}: cannot be read as an image") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise InputError(
            f"image {str(path)!r}: shape {pixels.shape}; height x width x 1..4 channels is needed"
        )
    pixels = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
    if not np.all(np.isfinite(pixels)):
        raise InputError(f"image {str(path)!r}: has NaN or infinite pixels")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(float)
        if pixels.min() < 0 or pixels.max() > 1:
            raise InputError(
                f"image {str(path)!r}: floating-point pixels from {pixels.min():g} to "
                f"{pixels.max():g}; allowed is [0, 1]"
            )
    elif pixels.min() < 0:
        raise InputError(f"image {str(path)!r}: has negative pixels, down to {pixels.min()}")
    else:
        pixels = skimage.util.img_as_float(pixels)
    if channels == "luminance" and pixels.shape[-1] == 3:
        pixels = skimage.color.rgb2gray(pixels)[..., None]
    low, high = pixel_range
    return low + (high - low) * np.moveaxis(pixels, -1, 0)


def load_folder(
    folder: str | os.PathLike[str],
    channels: Channels = "rgb",
    pixel_range: PixelRange = PIXEL_RANGE,
) -> dict[str, np.ndarray]:
    """Every image of a folder, name -> planes [C, H, W], in the order of their names.

    Raises InputError if the folder is missing or holds no image, or if an image cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"images = {str(folder)!r}: no such folder")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    except OSError as error:
        raise InputError(f"images = {str(folder)!r}: cannot be read ({error.strerror})") from error
    if not paths:
        raise InputError(
            f"images = {str(folder)!r}: holds no image; allowed are {', '.join(EXTENSIONS)}"
        )
    return {path.name: load_image(path, channels, pixel_range) for path in paths}


def built_in_photographs(
    channels: Channels = "rgb", pixel_range: PixelRange = PIXEL_RANGE
) -> dict[str, np.ndarray]:
    """Six photographs of different sizes that scikit-image ships, name -> planes [C, H, W]."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return {name: load_image(folder / name, channels, pixel_range) for name in BUILT_IN}


def tiles(image: np.ndarray, size: int) -> np.ndarray:
    """Non-overlapping square tiles [N, C, size, size] of planes [C, H, W], centred; N may be 0."""
    channels, height, width = image.shape
    rows, columns = height // size, width // size
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    cut = image[:, top : top + rows * size, left : left + columns * size]
    cut = cut.reshape(channels, rows, size, columns, size)
    return cut.transpose(1, 3, 0, 2, 4).reshape(rows * columns, channels, size, size)


def all_planes(images: Iterable[np.ndarray]) -> np.ndarray:
    """The colour planes of many images [C, H, W] as one set [N, H, W] of independent planes.

    Raises InputError if the images differ in height or width.
    """
    images = list(images)
    sizes = sorted({image.shape[-2:] for image in images})
    if len(sizes) > 1:
        found = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
        raise InputError(f"images of mixed sizes: {found}{', ...' if len(sizes) > 3 else ''}")
    return np.concatenate(images)


def to_uint8(image: np.ndarray, pixel_range: PixelRange = PIXEL_RANGE) -> np.ndarray:
    """Planes [C, H, W] in `pixel_range` to pixels [H, W, C] (or [H, W] for one plane), clipped."""
    low, high = pixel_range
    pixels = np.clip((np.moveaxis(np.asarray(image), 0, -1) - low) / (high - low), 0, 1)
    pixels = np.rint(255 * pixels).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def check_pixel_range(pixel_range: PixelRange) -> None:
    """InputError unless pixel_range is (low, high) with finite low < high."""
    low, high = pixel_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"pixel range ({low}, {high}): low < high is needed")


def save_image(
    path: str | os.PathLike[str], image: np.ndarray, pixel_range: PixelRange = PIXEL_RANGE
) -> None:
    """Write planes [C, H, W] as an 8-bit PNG."""
    import skimage.io

    skimage.io.imsave(path, to_uint8(image, pixel_range), check_contrast=False)
