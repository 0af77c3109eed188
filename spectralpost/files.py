"""Files and folders that are written whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LONGEST_NAME = 200  # file systems allow 255; the temporary name is longer

# What is ours in a folder that was there before, see `results_folder`.
CLAIM, UNFINISHED = ".spectralpost-claim", ".spectralpost-unfinished"
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


# ------------------------------------------------------------------------------------------ files


@contextmanager
def whole_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which takes its place if all went well.

    Raises InputError if `path` exists (unless `overwrite`), if its folder does not, or if the
    system refuses to write (a full disk, a read-only folder): the body should only write.
    """
    path = _without_nul("file", path)
    if os.path.isdir(path):
        raise InputError(f"file {shown(path)}: exists and is a folder; choose another name")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"file {shown(path)}: exists; choose another name")
    if not os.path.isdir(path.parent):
        raise InputError(f"file {shown(path)}: there is no folder {shown(path.parent)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _in_one_line(f"file {shown(path)}: cannot be written"):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def kept_json(path: str | os.PathLike[str] | None, compute: Callable[[], Any]) -> Any:
    """The values in a JSON file; if there is none, those that `compute` gives are put there.

    For long runs that go on where they were stopped. With None nothing is kept.
    """
    if path is None:
        return compute()
    if not os.path.exists(path):
        value = compute()
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    return json.loads(Path(path).read_text("utf-8"))


@contextmanager
def locked_file(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Yields whether this process alone has the file, made if need be, until the body ends; then it
    is removed. The system frees it when a process ends in any way. Where the system knows no locks,
    the file itself is the lock, and has to be deleted after a kill."""
    path, opened = Path(path), None
    while path.parent.is_dir():
        with suppress(FileNotFoundError):  # whoever had it has removed it just now: once more
            opened = _opened_alone(path)
            break
    else:
        raise InputError(f"file {shown(path)}: there is no folder {shown(path.parent)}")
    try:
        yield opened is not None
    finally:
        if opened is not None:
            _give_back(path, opened)


# ---------------------------------------------------------------------------------- results folders


class Results(NamedTuple):
    """A results folder while it is being filled."""

    path: Path  # its name in the end, as it was given
    folder: Path  # where files are written until then, an absolute path


@contextmanager
def results_folder(
    given: str | os.PathLike[str] | None, name: str, default: Path | None = None
) -> Iterator[Results]:
    """A folder for the results of a run, claimed when the run starts.

    given   its path; it may exist if it is empty. None: `default`, or runs/NAME-DATE-TIME, with a
            number behind it if another run has claimed or made that one
    Files are written under `.folder` and appear under `.path` when the body has ended well. When it
    has not, nothing is left, new parents included. A folder that was there already stays the same
    folder (it may be the working directory, a mount point, a link): the results are moved into it.

    A claim is a lock on a hidden file, which the system frees when a process ends in any way:
    what a killed run has left neither blocks a later one nor survives it, if it has the same
    name. On file systems without locks the hidden file itself is the claim; there it has to be
    deleted after a kill (the message names it).

    Raises InputError before the body: `given` holds files, is no folder, cannot be made, or is
    claimed by another run. After it: the disk is full; or someone else has filled the place
    meanwhile: then the results are kept beside it, and the message says where.
    """
    path = default or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    path = _without_nul("out", path if given is None else given)
    if given is not None:
        check_free(path)
    with ExitStack() as undo:
        made: list[Path] = []
        undo.callback(_remove_empty, made)
        with _in_one_line(f"out = {shown(path)}: cannot be made"):
            if given is None:
                path, final = _claim_default(path, made, undo)
            else:
                final = _claim_given(path, made, undo)
            existed = final.is_dir()
            work = final / UNFINISHED if existed else final.with_name(f".{final.name}.unfinished")
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed: the claim is ours
            undo.callback(shutil.rmtree, work, ignore_errors=True)
            work.mkdir()
        with _in_one_line(f"out = {shown(path)}: cannot be written", FULL_DISK):
            yield Results(path, work)
        with _in_one_line(f"out = {shown(path)}: cannot be written"):
            _put_in_place(path, work, final, existed)


def check_free(path: str | os.PathLike[str]) -> None:
    """InputError if `path` exists and is not an empty folder."""
    path = _without_nul("out", path)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(f"out = {shown(path)}: the name is longer than {LONGEST_NAME} bytes")
    if os.path.isdir(path):
        with _in_one_line(f"out = {shown(path)}: cannot be read"):
            if set(os.listdir(path)) - {CLAIM, UNFINISHED}:
                raise InputError(f"out = {shown(path)}: already holds files; choose a new folder")
    elif os.path.lexists(path):
        raise InputError(f"out = {shown(path)}: is not a folder")
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not os.path.isdir(above):
        raise InputError(f"out = {shown(path)}: {shown(above)} is not a folder")


def _claim_default(default: Path, made: list[Path], undo: ExitStack) -> tuple[Path, Path]:
    """The first free name of those with a number, claimed: as people see it, and its real path."""
    for number in count(1):
        path = default if number == 1 else default.with_name(f"{default.name}-{number}")
        final = Path(os.path.realpath(path))
        if os.path.lexists(final):
            continue
        with ExitStack() as claimed:
            # Whoever held the claim may have ended well since we looked.
            if _claim(final, made, claimed) and not os.path.lexists(final):
                undo.push(claimed.pop_all())
                return path, final
    raise AssertionError("the numbers have an end")


def _claim_given(path: Path, made: list[Path], undo: ExitStack) -> Path:
    """The real path of `path`, claimed; InputError if another run has it."""
    final = Path(os.path.realpath(path))
    if not _claim(final, made, undo):
        raise InputError(
            f"out = {shown(path)}: another run writes its results there, its claim is "
            f"{shown(_claim_file(final))}; choose another folder"
        )
    check_free(path)  # that run may have ended well since we looked
    return final


def _claim_file(final: Path) -> Path:
    return final / CLAIM if final.is_dir() else final.with_name(f".{final.name}.claim")


def _claim(final: Path, made: list[Path], undo: ExitStack) -> bool:
    """Whether this process now has the claim to a path; `undo` gives it back."""
    for _ in range(100):  # each time another run must end just then
        _make_parents(final.parent, made)
        claim = _claim_file(final)
        with suppress(FileNotFoundError):  # a run that failed has removed it, or its new parents
            opened = _opened_alone(claim)
            if opened is not None:
                undo.callback(_give_back, claim, opened)
            return opened is not None
    raise InputError(
        f"out = {shown(final)}: its folder cannot be made, or disappears again and again"
    )


def _opened_alone(path: Path) -> int | None:
    """A file, made if need be, opened and locked by this process; None if another has it.

    Raises FileNotFoundError if another removes it meanwhile."""
    try:
        opened, created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
    except FileExistsError:
        opened, created = os.open(path, os.O_RDWR), False
    try:
        if not _locked(opened, created):
            os.close(opened)
            return None
        # Between our opening and our locking it another may have removed it and made a new one.
        if not os.path.samestat(os.fstat(opened), os.stat(path)):
            raise FileNotFoundError(path)
    except OSError:
        os.close(opened)
        raise
    return opened


def _locked(opened: int, created: bool) -> bool:
    """Whether an open file is now locked by us; `created`, where the system knows no locks."""
    if fcntl is None:
        return created
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return created
        raise
    return True


def _give_back(claim: Path, opened: int) -> None:
    if fcntl is None:  # Windows does not remove open files
        os.close(opened)
    with suppress(OSError):
        claim.unlink()
    if fcntl is not None:  # only now: else the lock of the next run could be on a file without name
        os.close(opened)


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make a folder and what is missing above it; `made` grows by what was not there."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    for one in reversed(missing):
        try:
            one.mkdir()
        except FileExistsError:  # another run was faster
            continue
        except FileNotFoundError:  # another run has failed and taken it along
            return
        if one not in made:
            made.append(one)


def _remove_empty(made: list[Path]) -> None:
    for folder in reversed(made):
        with suppress(OSError):  # not empty: it holds results
            folder.rmdir()


def _put_in_place(path: Path, work: Path, final: Path, existed: bool) -> None:
    """Give finished results their name; if the place is taken, another, and say so."""
    if not existed and not os.path.lexists(final):
        os.rename(work, final)
        return
    names = os.listdir(work)
    if existed and not any(os.path.lexists(final / name) for name in names):
        moved: list[str] = []
        try:
            for name in names:
                moved.append(name)
                os.rename(work / name, final / name)
        except BaseException:
            for name in moved:
                with suppress(OSError):
                    os.rename(final / name, work / name)
            raise
        return
    inside = final if existed else final.parent
    names_left = (inside / f"{final.name}-{number}" for number in count(2))
    kept = next(one for one in names_left if not os.path.lexists(one))
    os.rename(work, kept)
    raise InputError(f"out = {shown(path)}: was filled meanwhile; the results are in {shown(kept)}")


@contextmanager
def _in_one_line(what: str, only: set[int] | None = None) -> Iterator[None]:
    """An OSError (of the kinds `only`) becomes an InputError: what, and the system's reason."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise InputError(f"{what} ({error.strerror or error})") from error


def _without_nul(what: str, path: str | os.PathLike[str]) -> Path:
    if "\0" in os.fspath(path):
        raise InputError(f"{what} = {shown(path)}: a name cannot hold a NUL character")
    return Path(path)
