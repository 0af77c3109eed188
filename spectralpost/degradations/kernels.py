"""Kernels, masks and matrices from files."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images import EXTENSIONS, load_image
from ..pixels import read_pixels

SUM_TOLERANCE = 1e-6  # kernels are written with six digits, or more
NUMBERS = (".npy", ".txt", ".csv")  # names of files that are no pictures


def load_kernel(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a blur kernel as float64 [rows, columns].

    * .npy: real or whole numbers, as they are.
    * images (.png, .tif, ...): grey values. Those of integer files have an arbitrary scale, so they
      are divided by their sum; floating-point ones are used as they are.
    * any other name, such as .txt or .csv: rows of numbers, between them spaces or commas, as they
      are; what follows a # is skipped.

    The centre is the pixel size // 2 along each axis, and the degradation is a convolution with it
    (not a correlation). Raises InputError for anything else: complex or missing numbers, NaN, zeros
    only, other than two dimensions, colours.
    """
    return _loaded("kernel", Path(path), EXTENSIONS, _grey_values)


def load_mask(
    path: str | os.PathLike[str], notice: Callable[[str], object] = warnings.warn
) -> np.ndarray:
    """Read a mask as float64 [rows, columns]: numbers as of `load_kernel`, or an image, 1 where it
    is brighter than half. A .npy file may have one of each plane, [C, rows, columns]. `notice` as
    of `load_image`. Raises InputError as `load_kernel`."""

    def bright(path: Path) -> np.ndarray:
        return (load_image(path, "luminance", (0.0, 1.0), notice=notice)[0] > 0.5).astype(float)

    path = Path(path)
    suffix = path.suffix.lower()
    return _loaded("mask", path, () if suffix in NUMBERS else (suffix,), bright, (2, 3))


def load_matrix(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a matrix as float64 [rows, columns], from numbers as of `load_kernel`; not from images,
    whose scale is arbitrary. Raises InputError as `load_kernel`."""
    return _loaded("matrix", Path(path))


def _loaded(
    what: str,
    path: Path,
    pictures: tuple[str, ...] = (),
    from_picture: Callable[[Path], np.ndarray] | None = None,
    axes: tuple[int, ...] = (2,),
) -> np.ndarray:
    """[rows, columns], or of as many axes as is said, in double precision; pictures (suffixes) are
    read by `from_picture`."""
    suffix = path.suffix.lower()
    try:
        if from_picture is not None and suffix in pictures:
            found = from_picture(path)
        elif suffix == ".npy":
            with open(path, "rb") as file:  # NumPy leaves a broken file open
                found = np.load(file, allow_pickle=False)
        else:
            found = _from_text(path.read_text(encoding="utf-8-sig"))  # Excel marks its CSV
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "not a whole file"
        raise InputError(f"{what} {str(path)!r}: cannot be read ({reason})") from error
    except Exception as error:  # a broken .npy raises a dozen kinds
        raise InputError(f"{what} {str(path)!r}: not rows of numbers, nor a .npy file") from error
    if found.dtype.kind not in "biuf":
        raise InputError(f"{what} {str(path)!r}: {found.dtype} values; real numbers are needed")
    if found.ndim not in axes or found.size == 0:
        raise InputError(f"{what} of shape {found.shape} in {str(path)!r}: rows x columns needed")
    found = found.astype(float)
    if not np.all(np.isfinite(found)) or not np.any(found):
        raise InputError(f"{what} {str(path)!r}: all values must be finite, and one at least not 0")
    return found


def kernel_note(kernel: np.ndarray) -> str | None:
    """A line on what the kernel does to the mean grey value; None if it is kept."""
    total = float(np.sum(kernel))
    if abs(total - 1) <= SUM_TOLERANCE:
        return None
    return f"kernel: its values add up to {total:g}; the mean grey value is multiplied by that"


def _from_text(text: str) -> np.ndarray:
    delimiter = "," if "," in text else None
    with warnings.catch_warnings():  # of an empty file, which has no values and is refused
        warnings.simplefilter("ignore")
        return np.loadtxt(text.splitlines(), ndmin=2, delimiter=delimiter)


def _grey_values(path: Path) -> np.ndarray:
    values, white = read_pixels(path)
    if np.any(values != values[..., :1]):
        raise InputError(f"kernel {str(path)!r}: has colours; grey is needed")
    kernel = values[..., 0].astype(float)
    total = kernel.sum()
    return kernel if white is None or total == 0 else kernel / total
