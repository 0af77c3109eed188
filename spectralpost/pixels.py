"""The numbers of an image file, as the file itself declares them.

Nothing is guessed from the shape of an array: mode and orientation are read by Pillow, the tags of
a TIFF by tifffile.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError

# The modes of Pillow, as what their numbers are read. Any other is refused.
READ_AS = {
    **{"1": "L", "L": "L", "LA": "LA", "La": "LA", "F": "F", "I": "I"},
    **{mode: mode for mode in ("I;16", "I;16L", "I;16B", "I;16N")},
    **{"RGB": "RGB", "RGBX": "RGBX", "RGBA": "RGBA", "RGBa": "RGBA"},
    # A palette with transparent colours is read with them: Pillow warns of anything else.
    **{"P": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"},
}
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF
ORIENTATION = 274  # tag of EXIF and TIFF


def read_pixels(path: Path) -> tuple[np.ndarray, int | None]:
    """Pixels [H, W, 1] or [H, W, 3] as stored, upright, and the integer that is white.

    White is the largest number of the file's depth, None for floating point. Grey stays grey,
    anything else becomes red, green and blue. Alpha is dropped.

    Raises InputError if the file is missing, not an image, or not one picture; if its channels are
    not colours, or if its depth would be cut.
    """
    return _opened(path, _read_tiff, _read_pillow)


def has_colour(path: Path) -> bool:
    """Whether `read_pixels` gives three channels, from the head of the file; raises alike."""
    return _opened(path, _tiff_has_colour, _pillow_has_colour)


def _opened(path: Path, tiff: Any, other: Any) -> Any:
    """Call the reader that fits the first bytes; whatever it raises becomes an InputError."""
    if not path.is_file():
        is_folder = "a folder; one image is needed" if path.is_dir() else "no such file"
        raise InputError(f"image {str(path)!r}: {is_folder}")
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        with warnings.catch_warnings():  # of odd metadata, which do not matter here
            warnings.simplefilter("ignore")
            return (tiff if magic in TIFF_MAGIC else other)(path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"image {str(path)!r}: cannot be read ({error.strerror})") from error
    except Exception as error:  # the readers raise whatever they like
        raise InputError(f"image {str(path)!r}: cannot be read as an image") from error


# ---------------------------------------------------------------------------------------- Pillow


def _pillow_has_colour(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return READ_AS.get(image.mode, "RGB").startswith("RGB")


def _read_pillow(path: Path) -> tuple[np.ndarray, int | None]:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        kind, mode = image.format, image.mode
        frames = getattr(image, "n_frames", 1)
        # Phones put a second picture behind a JPEG (MPO); `_read_tiff` has counted those of a TIFF.
        if frames > 1 and kind not in ("MPO", "TIFF"):
            raise InputError(f"image {str(path)!r}: has {frames} frames; one picture is needed")
        if mode not in READ_AS:
            raise InputError(f"image {str(path)!r}: mode {mode}; allowed are grey, RGB and CMYK")
        deep = kind == "PNG" and str(image.tile[0][3]).endswith(";16B") and mode[0] != "I"
        image.load()
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(upright if mode == READ_AS[mode] else upright.convert(READ_AS[mode]))
    if deep:
        pixels = pixels.astype(np.uint16) * 256 + _low_bytes(path)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    pixels = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
    if pixels.dtype.kind == "f":
        return pixels, None
    # "I" has 32 bits, but what Pillow reads into it from PNG and PGM has 16.
    return pixels, 255 if pixels.dtype == np.uint8 else 65535


def _low_bytes(path: Path) -> np.ndarray:
    """The lower bytes [H, W, C] of a PNG of 16 bits a colour, of which Pillow keeps the upper.

    Pillow unpacks the upper byte of big-endian numbers; told that they are little-endian, the
    lower one.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        name, extents, offset, raw = image.tile[0]
        if raw not in ("RGB;16B", "RGBA;16B"):
            raise InputError(f"image {str(path)!r}: 16-bit grey with alpha; save it without alpha")
        image.tile = [type(image.tile[0])(name, extents, offset, raw[:-1] + "L")]
        image.load()
        return np.asarray(ImageOps.exif_transpose(image))


# ------------------------------------------------------------------------------------------ TIFF


def _pages(file: Any) -> list[Any]:
    """The series of a TIFF that are pictures: neither masks nor smaller copies."""
    return [s for s in file.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]


def _tiff_has_colour(path: Path) -> bool:
    import tifffile

    with tifffile.TiffFile(path) as file:
        return _pages(file)[0].keyframe.photometric > 1


def _read_tiff(path: Path) -> tuple[np.ndarray, int | None]:
    from tifffile import EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffFile

    with TiffFile(path) as file:
        series = _pages(file)
        page = series[0].keyframe
        slices = sum(s.size // s.keyframe.size * s.keyframe.imagedepth for s in series)
        if slices > 1:
            raise InputError(
                f"image {str(path)!r}: has {slices} pages or slices; one picture is needed"
            )
        photometric, bits = page.photometric, int(np.max(page.bitspersample))
        extra = tuple(page.extrasamples)
        grey = photometric in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
        alpha = {EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA}
        if grey and page.samplesperpixel > 1 and not (len(extra) == 1 and alpha & set(extra)):
            raise InputError(
                f"image {str(path)!r}: has {page.samplesperpixel} channels that are not colours"
            )
        # tifffile keeps every depth; Pillow knows more colours and compressions.
        plain = grey or photometric == PHOTOMETRIC.RGB
        if plain and EXTRASAMPLE.ASSOCALPHA not in extra:
            pixels = _decoded(page)
            if pixels is not None:
                height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
                if samples > 1 and page.planarconfig == PLANARCONFIG.SEPARATE:
                    pixels = np.moveaxis(pixels.reshape(samples, height, width), 0, -1)
                pixels = pixels.reshape(height, width, samples)[..., : 1 if grey else 3]
                tag = page.tags.get(ORIENTATION)
                pixels = _upright(pixels, 1 if tag is None else int(tag.value))
                return _black_is_zero(path, pixels, bits, photometric == PHOTOMETRIC.MINISWHITE)
        if bits > 8 and photometric != PHOTOMETRIC.MINISBLACK:  # Pillow would cut it to 8 bits
            raise InputError(
                f"image {str(path)!r}: {bits}-bit {photometric.name} with compression "
                f"{page.compression.name}; 8 bits, or no compression, is needed"
            )
    pixels, white = _read_pillow(path)
    return pixels, white if white is None or bits <= 8 else 2**bits - 1


def _decoded(page: Any) -> np.ndarray | None:
    """The page's numbers; None if tifffile cannot: many compressions need one more package."""
    try:
        return page.asarray()
    except (ValueError, ImportError, NotImplementedError):
        return None


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, C] turned and mirrored as the tag says: 1 to 8, 1 is upright."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _black_is_zero(
    path: Path, pixels: np.ndarray, bits: int, inverted: bool
) -> tuple[np.ndarray, int | None]:
    if pixels.dtype.kind == "f":
        return (1 - pixels if inverted else pixels), None
    if pixels.dtype.kind not in "biu":
        raise InputError(f"image {str(path)!r}: {pixels.dtype} pixels; allowed are real numbers")
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    white = int(np.iinfo(pixels.dtype).max) if pixels.dtype.kind == "i" else 2**bits - 1
    return (white - pixels if inverted else pixels), white
