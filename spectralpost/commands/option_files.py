"""Options of degradations that are too large for a command line: a file is named instead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..degradations.dense import MASKS
from ..degradations.downsample import KERNELS
from ..degradations.kernels import kernel_note, load_kernel, load_mask, load_matrix
from ..errors import LARGEST_WHOLE, InputError, times
from ..plain_json import check_size

Notes = set[str]  # what there is to say of files


class FromFile(NamedTuple):
    """How the file of an option is read, and which words are none."""

    load: Callable[[Path, Notes], np.ndarray]
    words: tuple[str, ...] = ()


def _kernel(path: Path, notes: Notes) -> np.ndarray:
    kernel = load_kernel(path)
    if (note := kernel_note(kernel)) is not None:
        notes.add(note)
    return kernel


def _mask(path: Path, notes: Notes) -> np.ndarray:
    return load_mask(path, notes.add)


def _frequencies(path: Path, notes: Notes) -> np.ndarray:
    mask = load_mask(path, notes.add)
    if mask.ndim == 2 and not mask[0, 0]:  # which all scanners measure
        notes.add(
            "mask: frequency 0 is not known; the first of rows and columns is frequency 0, as "
            "numpy.fft.ifftshift puts it for a mask with frequency 0 in the middle"
        )
    return mask


FROM_FILE = {
    ("from_kernel", "kernel"): FromFile(_kernel),
    ("downsample", "kernel"): FromFile(_kernel, KERNELS),
    ("inpaint", "mask"): FromFile(_mask, MASKS),
    ("mri", "mask"): FromFile(_frequencies),
    ("from_matrix", "matrix"): FromFile(lambda path, notes: load_matrix(path)),
}


def with_files_read(name: str, options: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """The options of a degradation, the array of a file in place of its name.

    InputError for a file that cannot be read, or holds more than a schedule file does.
    """
    read = dict(options)
    for (owner, option), (load, words) in FROM_FILE.items():
        value = options.get(option)
        if owner != name or not isinstance(value, str | Path) or value in words:
            continue
        path = Path(value)
        if words and not path.is_file():
            raise InputError(f"{option} = {str(path)!r}: allowed are {', '.join(words)}, or a file")
        array = load(path, notes)
        # Ones and zeros are shorter so.
        whole = np.all(np.rint(array) == array) and np.all(np.abs(array) < LARGEST_WHOLE)
        read[option] = (array.astype(int) if whole else array).tolist()
        try:  # before a schedule is learned that cannot be written, indented as it would be
            there = {"problem": {"degradation_options": read}}
            check_size(json.dumps(there, indent=1).encode())
        except InputError as error:
            size = times(array.shape)
            raise InputError(
                f"{option} {str(path)!r}: {size} numbers, of which a schedule file would be {error}"
            ) from error
    return read
