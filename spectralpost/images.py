"""Photographs in and out.

An image is an array of planes [C, H, W] with values in a stated pixel range, [-1, 1] by default:
one luminance plane, or three colour planes that the rest of the package treats as independent.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import InputError
from .pixels import has_colour, read_pixels

PixelRange = tuple[float, float]
Channels = Literal["rgb", "luminance"]
Notice = Callable[[str], Any]  # takes a line that the user should read

PIXEL_RANGE: PixelRange = (-1.0, 1.0)
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Single precision holds the squares of such widths, times the pixels of an image.
WIDTHS = (1e-12, 1e12)
REC_709 = np.array([0.2125, 0.7154, 0.0721])  # luminance of red, green and blue

_DARK = "uses {:.1%} of the range of its integers; give a white level if white is lower"

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
    *,
    white_level: float | None = None,
    notice: Notice = warnings.warn,
) -> np.ndarray:
    """Read one image as planes [C, H, W] in `pixel_range`, the way up that a viewer shows it.

    Grey files (1 bit, 8 bit, 16 bit, floating point) become one plane. Palettes, CMYK and YCbCr
    become red, green and blue; a CMYK profile is not applied. Transparency is dropped: a pixel
    keeps the colour that the file gives it, whatever its alpha.

    white_level  pixel value that is white in integer files, such as 4095 for a 12-bit camera whose
                 files have 16 bits (default: the largest that the file's type holds);
                 floating-point pixels are taken as they are and must lie in [0, 1]
    notice       is given a line if less than a quarter of an integer range is used

    Raises InputError if the file is missing, not an image, holds several pages or frames, a depth
    that cannot be read whole, NaN or pixels out of range.
    """
    check_pixel_range(pixel_range)
    pixels, brightest = _unit_pixels(Path(path), white_level)
    if white_level is None and brightest is not None and brightest < 0.25:
        notice(f"image {str(path)!r}: {_DARK.format(brightest)}")
    return _planes(pixels, channels, pixel_range)


def load_folder(
    folder: str | os.PathLike[str],
    channels: Channels = "rgb",
    pixel_range: PixelRange = PIXEL_RANGE,
    *,
    white_level: float | None = None,
    notice: Notice = warnings.warn,
) -> dict[str, np.ndarray]:
    """Every image of a folder, all in memory: name -> planes [C, H, W], as `stream_folder`."""
    return dict(
        stream_folder(
            folder, channels, pixel_range, white_level=white_level, notice=notice, dtype=np.float64
        )
    )


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, read anew and one at a time whenever this is iterated."""

    paths: tuple[Path, ...]  # in the order of their names
    channels: Channels
    pixel_range: PixelRange
    white_level: float | None
    notice: Notice
    dtype: Any
    colour: bool  # grey images are given three equal planes

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Pairs (name, planes [C, H, W]); names can be printed. At the end, `notice` if dark."""
        brightest = None
        for path in self.paths:
            pixels, value = _unit_pixels(path, self.white_level)
            if value is not None:
                brightest = max(value, brightest or 0.0)
            planes = _planes(pixels, self.channels, self.pixel_range)
            if self.colour and planes.shape[0] == 1:
                planes = np.repeat(planes, 3, axis=0)
            yield printable(path.name), planes.astype(self.dtype)
        if self.white_level is None and brightest is not None and brightest < 0.25:
            folder = str(self.paths[0].parent)
            self.notice(f"images = {folder!r}: {_DARK.format(brightest)}")


def stream_folder(
    folder: str | os.PathLike[str],
    channels: Channels = "rgb",
    pixel_range: PixelRange = PIXEL_RANGE,
    *,
    white_level: float | None = None,
    notice: Notice = warnings.warn,
    dtype: Any = np.float32,
) -> ImageFolder:
    """The images of a folder as pairs (name, planes [C, H, W]), read one at a time.

    In the order of their names. Hidden files (whose name begins with a dot) and folders are passed
    over. Where one image has colours, grey ones are given three equal planes. Options as for
    `load_image`; `notice` is called once each time that all were read.

    Raises InputError if the folder is missing or holds no image; while it is iterated, if an image
    cannot be read.
    """
    check_pixel_range(pixel_range)
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r}: no such folder of images")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    except OSError as error:
        raise InputError(f"{str(folder)!r}: cannot be read ({error.strerror})") from error
    paths = tuple(path for path in paths if path.name[0] != "." and not path.is_dir())
    if not paths:
        raise InputError(f"{str(folder)!r}: holds no image; allowed are {', '.join(EXTENSIONS)}")
    colour = channels == "rgb" and len(paths) > 1 and any(map(has_colour, paths))
    return ImageFolder(paths, channels, pixel_range, white_level, notice, dtype, colour)


def printable(name: str) -> str:
    """`name` with what cannot be printed escaped: bytes that are not UTF-8, control characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


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


def enlarged(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image [C, h, w] at another size, by cubic interpolation; as it is if that is its size."""
    if image.shape[1:] == shape:
        return image
    from skimage.transform import resize

    large = np.empty((len(image), *shape))
    for plane, found in zip(image, large, strict=True):
        found[...] = resize(np.asarray(plane, float), shape, order=3, mode="edge")
    return large


def to_uint8(image: np.ndarray, pixel_range: PixelRange = PIXEL_RANGE) -> np.ndarray:
    """Planes [C, H, W] in `pixel_range` to pixels [H, W, C] (or [H, W] for one plane), clipped."""
    low, high = pixel_range
    pixels = np.clip((np.moveaxis(np.asarray(image), 0, -1) - low) / (high - low), 0, 1)
    pixels = np.rint(255 * np.nan_to_num(pixels)).astype(np.uint8)  # of what diverged: black
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def check_pixel_range(pixel_range: PixelRange) -> None:
    """InputError unless pixel_range is (low, high) with finite low < high, `WIDTHS` apart."""
    low, high = map(float, pixel_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"pixel range ({low}, {high}): low < high is needed")
    if not WIDTHS[0] <= high - low <= WIDTHS[1]:  # an infinite difference is neither
        raise InputError(
            f"pixel range ({low}, {high}): {WIDTHS[0]:g} to {WIDTHS[1]:g} between low and high "
            f"is needed"
        )


def check_pixels(name: str, images: Any, pixel_range: PixelRange) -> None:
    """InputError unless all pixels are finite and, to rounding, within the range."""
    images = np.asarray(images)
    low, high = map(float, pixel_range)
    slack = 1e-6 * (high - low)  # float32 images carried through a change of range
    if not np.all(np.isfinite(images)):
        raise InputError(f"{name}: NaN or infinite pixels")
    lowest, highest = float(images.min()), float(images.max())
    if lowest < low - slack or highest > high + slack:
        raise InputError(
            f"{name}: pixels from {lowest:g} to {highest:g}, "
            f"outside of the pixel range [{low:g}, {high:g}]"
        )


def save_image(
    path: str | os.PathLike[str], image: np.ndarray, pixel_range: PixelRange = PIXEL_RANGE
) -> None:
    """Write planes [C, H, W] as an 8-bit PNG."""
    from PIL import Image

    Image.fromarray(to_uint8(image, pixel_range)).save(path)


def _unit_pixels(path: Path, white_level: float | None) -> tuple[np.ndarray, float | None]:
    """Pixels [H, W, 1 or 3] in [0, 1], and the brightest if they were integers."""
    pixels, white = read_pixels(path)
    if not np.all(np.isfinite(pixels)):
        raise InputError(f"image {str(path)!r}: has NaN or infinite pixels")
    low, high = pixels.min(), pixels.max()
    if white is None:
        if low < 0 or high > 1:
            raise InputError(
                f"image {str(path)!r}: floating-point pixels from {low:g} to {high:g}; "
                f"allowed is [0, 1]"
            )
        if white_level is not None:
            raise InputError(
                f"white level = {white_level:g}: image {str(path)!r} has floating-point pixels, "
                "whose white is 1"
            )
        return pixels.astype(float), None
    if low < 0:
        raise InputError(f"image {str(path)!r}: has negative pixels, down to {low}")
    if white_level is not None:
        if not 0 < white_level <= white:
            raise InputError(
                f"white level = {white_level:g}: image {str(path)!r} allows above 0, up to {white}"
            )
        white = white_level
    if high > white:
        raise InputError(
            f"image {str(path)!r}: has pixels up to {high}, above the white level {white:g}"
        )
    return pixels / float(white), high / float(white)


def _planes(pixels: np.ndarray, channels: Channels, pixel_range: PixelRange) -> np.ndarray:
    if channels == "luminance" and pixels.shape[-1] == 3:
        pixels = (pixels @ REC_709)[..., None]
    low, high = pixel_range
    return low + (high - low) * np.moveaxis(pixels, -1, 0)
