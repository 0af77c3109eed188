"""Compiled programs, kept on disk for the next process.

JAX keeps them, but not safely for processes that run side by side or are killed: it writes an
entry in place, so that others read half of it, and never replaces one that is broken. Its mode
with a lock (`jax_compilation_cache_max_size`) does so, too, and once a process was killed between
its two files of an entry, every later write fails. Here an entry is written beside its place and
renamed, and carries a checksum: whoever reads gets all of it or nothing, without any lock.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import whole_file

LIMIT = 10**9  # bytes; what was not used for the longest time goes first
SUFFIX = ".compiled"  # not JAX's own "-cache": other programs may keep theirs in the same folder
CROWDED = 0.5  # of all memory maps
CHECKSUM = 16  # bytes before the program
ABANDONED = 3600  # seconds after which a file that is still half written has lost its writer

_store: "CompiledPrograms | None" = None
in_this_process: dict[Any, Any] = {}  # of `kept_jit`: what JAX's own dictionaries are for `jax.jit`


def keep_compiled_programs(folder: str | os.PathLike[str] | None = None) -> None:
    """From now on JAX keeps every program that it compiles in `folder`, and looks there first.

    By default that is the folder which JAX was told to use (by JAX_COMPILATION_CACHE_DIR, where
    the empty name means that nothing is kept), else `spectralpost` in the user's cache folder.
    It holds machine code, which is run as it is: others should not be able to write there.
    A folder that cannot be made or written, a full disk or a JAX without the place for another
    cache are no errors: less is kept, or nothing.

    An example: docs/learning.md#compiled-programs.
    """
    global _store
    import jax

    _store = None
    if folder is None:
        folder = jax.config.values["jax_compilation_cache_dir"]
    if folder == "":
        return
    # Most programs are small, but hundreds of them take longer than the few large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if "://" in str(folder or ""):  # remote storage is JAX's, and writes whole objects anyway
        return
    try:
        path = user_folder() if folder is None else Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        programs = CompiledPrograms(path)
        _replace_cache_of_jax(programs)
    except (OSError, RuntimeError, ImportError, AttributeError):
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        jax.config.update("jax_compilation_cache_dir", str(path))
        _store = programs


def store() -> "CompiledPrograms | None":
    """Where programs are kept now, by `keep_compiled_programs`."""
    import jax

    if _store is None or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    return _store if jax.config.values["jax_compilation_cache_dir"] == str(_store._path) else None


def drop_compiled_programs() -> None:
    """Forget all compiled programs of this process: they take memory, and room for memory maps."""
    import jax

    in_this_process.clear()
    jax.clear_caches()


def drop_compiled_programs_if_crowded() -> None:
    """Forget all compiled programs of this process once they fill half of the room for them.

    Linux allows a process 65,530 memory maps (vm.max_map_count). XLA's programs for CPUs take some
    for each function, those of a few dozen searches all, and at the limit LLVM ends the process
    ("Cannot allocate memory"), with gigabytes free. What is still needed is compiled again, or read
    from disk.
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):  # other systems have no such limit
        return
    if num_memory_maps() > CROWDED * most:
        drop_compiled_programs()


def num_memory_maps() -> int:
    """Of this process, where the system says so, else 0."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


def user_folder() -> Path:
    """Where this user's programs are kept. RuntimeError if there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectralpost"


class CompiledPrograms:
    """What JAX asks of a cache: `get` and `put`, whatever becomes of the folder meanwhile.

    folder  holds a file per program, named by JAX's key: checksum, then what JAX wants kept
    limit   bytes of all files together; processes side by side may pass it by what they add
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int = LIMIT):
        self._path = Path(folder)  # JAX reads this name when it logs
        self.limit = limit
        self.room = 0  # bytes that may be added before the folder is listed again
        self.closed = False

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Finds and keeps nothing meanwhile."""
        self.closed = True
        try:
            yield
        finally:
            self.closed = False

    def get(self, key: str) -> bytes | None:
        """The program, or None if it is not there as a whole; then `put` replaces it."""
        if self.closed:
            return None
        path = self._path / (key + SUFFIX)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        program = entry[CHECKSUM:]
        if entry[:CHECKSUM] != checksum(program):
            return None
        with suppress(OSError):  # a folder for reading only
            os.utime(path)
        return program

    def put(self, key: str, program: bytes) -> None:
        """Keep the program if that is possible, in place of what was there."""
        if self.closed:
            return
        entry = checksum(program) + program
        if len(entry) > self.limit:
            return
        if len(entry) > self.room:
            self.room = self.limit - remove_oldest(self._path, self.limit - len(entry))
        if len(entry) > self.room:  # others' files, which this user may not remove
            return
        with suppress(OSError, InputError):  # InputError: somebody removed the folder
            with whole_file(self._path / (key + SUFFIX), overwrite=True) as temporary:
                temporary.write_bytes(entry)
            self.room -= len(entry)


def checksum(program: bytes) -> bytes:
    return hashlib.blake2b(program, digest_size=CHECKSUM).digest()


def remove_oldest(folder: Path, most: int) -> int:
    """Remove the least recently used programs if there are more than `most` bytes of them.

    Returns the bytes that are left. They are at most 3/4 of `most`, so that this is rare. Files
    that a killed process left half written go in any case.
    """
    programs = []
    with suppress(OSError):
        for item in os.scandir(folder):
            with suppress(OSError):  # removed by another process
                status = item.stat()
                if item.name.endswith(SUFFIX):
                    programs.append((status.st_mtime, status.st_size, item.path))
                elif SUFFIX in item.name and time.time() - status.st_mtime > ABANDONED:
                    os.unlink(item.path)  # a temporary name of `whole_file`
    left = sum(size for _, size, _ in programs)
    if left > most:
        for _, size, path in sorted(programs):
            if left <= 3 * most // 4:
                break
            with suppress(OSError):
                os.unlink(path)
                left -= size
    return left


def _replace_cache_of_jax(programs: CompiledPrograms) -> None:
    """JAX makes its cache by one private function, the same from 0.7.2 to 0.12; replace it.

    ImportError or AttributeError: this JAX has none, or asks more of a cache than ours can do.
    """
    from jax._src import compilation_cache, compilation_cache_interface
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    for name in compilation_cache_interface.CacheInterface.__abstractmethods__:
        getattr(CompiledPrograms, name)
    compilation_cache.get_file_cache  # noqa: B018 (an AttributeError if there is none)

    def ours(path: str) -> tuple[CompiledPrograms, str]:
        return programs if path == str(programs._path) else CompiledPrograms(path), path

    compilation_cache.get_file_cache = ours
    reset_cache()  # JAX may have made its own before
