"""Priors as .npz files of plain arrays."""

import math
import os
import warnings
import zipfile
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from .calibration import LEVELS, Profile
from .errors import InputError
from .files import whole_file
from .images import printable
from .prior import MAX_VALUES, MAX_VARIANCE, Prior


def save_prior(path: str | os.PathLike[str], prior: Prior) -> None:
    """Write a prior as .npz (plain arrays, no pickle); InputError if the file exists.

    >>> sp.save_prior("a prior.npz", prior)
    """
    arrays: dict[str, Any] = {name: np.asarray(getattr(prior, name)) for name in _STORED}
    if prior.calibration is not None:
        arrays |= prior.calibration._asdict()
    if prior.axes is not None:
        arrays["axes"] = prior.axes
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_prior(path: str | os.PathLike[str]) -> Prior:
    """Read a prior written by `save_prior`.

    Raises InputError if the file is missing, is not one, or holds what no prior has: other types or
    shapes, numbers that are not finite, a negative spectrum, more than `MAX_VALUES` values.

    >>> sp.save_prior("prior.npz", prior)
    >>> sp.load_prior("prior.npz").hash == prior.hash
    True
    """
    name = f"prior {str(path)!r}"
    if not os.path.isfile(path):
        raise InputError(
            f"{name}: {'is a folder' if os.path.isdir(path) else 'there is no such file'}"
        )
    try:
        # Opened here, since NumPy leaves a broken archive open.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old versions of the format
            _check_archive(file, name)
            with np.load(file, allow_pickle=False) as stored:
                spectrum, mean, pixel_range, source = (stored[key] for key in _STORED)
                axes = stored["axes"] if "axes" in stored.files else None
                profile = [stored[key] for key in Profile._fields if key in stored.files]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a broken archive raises a dozen kinds
        raise InputError(f"{name}: is not a prior file") from error
    if pixel_range.shape != (2,) or pixel_range.dtype.kind not in "fiu":
        raise InputError(f"{name}: pixel_range must be numbers (low, high)")
    if source.dtype.kind != "U" or source.shape != ():
        raise InputError(f"{name}: source must be a text")
    low, high = map(float, pixel_range)
    try:
        prior = Prior(spectrum, mean, (low, high), printable(str(source)), None, axes)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    spectrum = prior.spectrum.astype(float)
    if not spectrum.max() < MAX_VARIANCE:
        raise InputError(
            f"{name}: spectrum to {spectrum.max():g}; allowed is 0 to {MAX_VARIANCE:g}"
        )
    planes = () if axes is None else spectrum.shape[:1]
    calibration = _checked_profile(name, profile, planes) if profile else None
    return replace(prior, spectrum=spectrum, mean=mean.astype(float), calibration=calibration)


_STORED = ("spectrum", "mean", "pixel_range", "source")


def _checked_profile(name: str, profile: list[np.ndarray], planes: tuple[int, ...]) -> Profile:
    """A calibration that was stored; InputError if its numbers cannot be one."""
    calibration = Profile(*profile) if len(profile) == 2 else None
    if calibration is not None and all(part.dtype.kind == "f" for part in profile):
        frequency, ratio = (part.astype(float) for part in profile)
        rows = frequency.size
        ascending = frequency.ndim == 1 and rows and np.all(np.diff(frequency) > 0)
        finite = np.all(np.isfinite(frequency)) and np.all(np.isfinite(ratio))
        if (
            ascending
            and finite
            and ratio.shape == (*planes, rows, LEVELS.size)
            and np.all(ratio >= 0)
        ):
            return Profile(frequency, ratio)
    raise InputError(
        f"{name}: a calibration is ascending frequencies [R] and ratios >= 0 [R, {LEVELS.size}]"
    )


def _check_archive(file: BinaryIO, name: str) -> None:
    """InputError if an array is larger than allowed, or than its part of the file: before any of it
    is read, as a few bytes can claim any size."""
    largest = 8 * MAX_VALUES
    with zipfile.ZipFile(file) as archive:
        extra = [key for key in (*Profile._fields, "axes") if f"{key}.npy" in archive.namelist()]
        for key in (*_STORED, *extra):
            entry = archive.getinfo(f"{key}.npy")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}[version]
                shape, _, dtype = getattr(np.lib.format, read)(member)
            size = math.prod(shape) * dtype.itemsize
            if size > largest or entry.file_size > largest + 2**16:
                raise InputError(f"{name}: {key} of shape {shape}; at most {MAX_VALUES} values")
            if size > entry.file_size:
                raise InputError(f"{name}: {key} of shape {shape} is cut short")
    file.seek(0)
