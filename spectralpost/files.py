"""Files that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from .errors import InputError

LONGEST_NAME = 200  # file systems allow 255; the temporary name is longer


@contextmanager
def whole_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which takes its place if all went well.

    Raises InputError if `path` exists (unless `overwrite`) or its folder does not.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"file {str(path)!r}: exists; choose another name")
    if not path.parent.is_dir():
        raise InputError(f"file {str(path)!r}: there is no folder {str(path.parent)!r}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which takes its place if all went well.

    Raises InputError if `path` exists and is not an empty folder, or cannot be made.
    """
    given, path = path, Path(path).absolute()
    check_free(given)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    made = [parent for parent in path.parents if not parent.exists()]  # innermost first
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"out = {str(given)!r}: cannot be made ({error.strerror})") from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:  # somebody filled it meanwhile
            raise InputError(f"out = {str(given)!r}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not empty: it holds the results
                parent.rmdir()


def check_free(path: str | os.PathLike[str]) -> None:
    """InputError if `path` exists and is not an empty folder."""
    path = Path(path)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(f"out = {str(path)!r}: the name is longer than {LONGEST_NAME} bytes")
    if path.is_dir():
        if any(path.iterdir()):
            raise InputError(f"out = {str(path)!r}: already holds files; choose a new folder")
    elif path.exists() or path.is_symlink():
        raise InputError(f"out = {str(path)!r}: is not a folder")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise InputError(f"out = {str(path)!r}: {str(above)!r} is not a folder")


def fresh_folder(parent: str | os.PathLike[str], name: str) -> Path:
    """A path parent/name-DATE-TIME that does not exist yet."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = Path(parent) / stem, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{stem}-{number}"
    return path
