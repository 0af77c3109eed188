"""Blur kernels from files."""

import os
import warnings
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images import EXTENSIONS
from ..pixels import read_pixels

SUM_TOLERANCE = 1e-6  # kernels are written with six digits, or more


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
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix in EXTENSIONS:
            kernel = _from_image(path)
        elif suffix == ".npy":
            with open(path, "rb") as file:  # NumPy leaves a broken file open
                kernel = np.load(file, allow_pickle=False)
        else:
            kernel = _from_text(path.read_text(encoding="utf-8-sig"))  # Excel marks its CSV
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "not a whole file"
        raise InputError(f"kernel {str(path)!r}: cannot be read ({reason})") from error
    except Exception as error:  # a broken .npy raises a dozen kinds
        raise InputError(f"kernel {str(path)!r}: not rows of numbers, nor a .npy file") from error
    if kernel.dtype.kind not in "biuf":
        raise InputError(f"kernel {str(path)!r}: {kernel.dtype} values; real numbers are needed")
    if kernel.ndim != 2 or kernel.size == 0:
        raise InputError(f"kernel of shape {kernel.shape} in {str(path)!r}: rows x columns needed")
    kernel = kernel.astype(float)
    if not np.all(np.isfinite(kernel)) or not np.any(kernel):
        raise InputError(f"kernel {str(path)!r}: all values must be finite, and one at least not 0")
    return kernel


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


def _from_image(path: Path) -> np.ndarray:
    values, white = read_pixels(path)
    if np.any(values != values[..., :1]):
        raise InputError(f"kernel {str(path)!r}: has colours; grey is needed")
    kernel = values[..., 0].astype(float)
    total = kernel.sum()
    return kernel if white is None or total == 0 else kernel / total
