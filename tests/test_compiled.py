"""Kept programs: all or nothing, whoever writes, reads or is killed at the same time."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import spectralpost as sp
from spectralpost import compiled
from spectralpost.compiled import CompiledPrograms, keep_compiled_programs

HITS, MISSES = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"
events: list[str] = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))


@pytest.fixture(autouse=True)
def as_before():
    """What a test does to JAX's settings ends with it."""
    folder = jax.config.jax_compilation_cache_dir
    yield
    keep_compiled_programs(folder)


def run_anew(number: float) -> tuple[int, int]:
    """Runs a program that belongs to the number; how often it was found and how often compiled.

    The function is another one at each call, so that JAX has not compiled it in this process."""
    x = jnp.asarray([1.0, 2.0])
    before = len(events)
    program = jax.jit(lambda x: x * number + 1)
    assert program(x).tolist() == [number + 1, 2 * number + 1]
    return events[before:].count(HITS), events[before:].count(MISSES)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*" + compiled.SUFFIX))


def the_entry(folder: Path) -> Path:
    (path,) = (path for path in entries(folder) if "lambda" in path.name)
    return path


# ------------------------------------------------------------------------------ what is kept, where


def test_the_smallest_program_is_kept(tmp_path):
    keep_compiled_programs(tmp_path / "new" / "folder")
    assert run_anew(3.0) == (0, 1)
    assert run_anew(3.0) == (1, 0)
    assert the_entry(tmp_path / "new" / "folder").stat().st_size > compiled.CHECKSUM


def test_the_folder(tmp_path, monkeypatch):
    """The one that JAX was given; else the user's; with the empty name, none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for given, kept in (
        (str(tmp_path / "given"), str(tmp_path / "given")),
        (None, str(tmp_path / "cache" / "spectralpost")),
        ("", ""),
        ("gs://bucket/folder", "gs://bucket/folder"),
    ):
        jax.config.update("jax_compilation_cache_dir", given)
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "given"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert (tmp_path / "home" / ".cache" / "spectralpost").is_dir()


def test_the_least_recently_used_go_first(tmp_path):
    """Ten programs where eight have room: the six that were used last stay, 3/4 of the room."""
    size = 1000
    cache = CompiledPrograms(tmp_path, limit=8 * size)
    program = bytes(size - compiled.CHECKSUM)
    for number in range(8):
        cache.put(f"program-{number}", program)
        os.utime(tmp_path / f"program-{number}{compiled.SUFFIX}", (number, number))
    assert len(entries(tmp_path)) == 8
    assert cache.get("program-0") == program  # now the youngest
    cache.put("program-8", program)
    stay = (0, 4, 5, 6, 7, 8)  # 3/4 of what the new one leaves: five, and the new one
    assert [path.stem for path in entries(tmp_path)] == [f"program-{n}" for n in stay]
    for number in range(20, 50):
        cache.put(f"program-{number}", program)
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 8 * size
    assert cache.get("program-49") == program
    cache.put("large", bytes(9 * size))
    assert cache.get("large") is None and cache.get("program-49") == program


# ----------------------------------------------------------------------------------- broken entries


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry[: len(entry) // 2],
        lambda entry: entry[:-1],
        lambda entry: b"",
        lambda entry: os.urandom(len(entry)),
        lambda entry: entry[:200] + bytes([entry[200] ^ 1]) + entry[201:],
    ],
    ids=["half", "one byte less", "empty", "garbage", "one bit"],
)
def test_a_broken_entry_is_replaced(damage, tmp_path):
    """Without a warning, which would be an error here, and the run after it finds a whole one."""
    keep_compiled_programs(tmp_path)
    run_anew(5.0)
    path = the_entry(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert run_anew(5.0) == (0, 1)
    assert path.stat().st_size > len(whole) // 2
    assert run_anew(5.0) == (1, 0)


def test_killed_while_it_writes(tmp_path):
    """Each entry is whole or not there; what was half written does not stay for ever."""
    writer = """
import itertools, sys
from spectralpost.compiled import CompiledPrograms
cache = CompiledPrograms(sys.argv[1])
for number in itertools.count():
    cache.put(f"program-{number % 3}", bytes([number % 3]) * 20_000_000)
"""
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", writer, tmp_path])
        started = time.monotonic()
        while not entries(tmp_path) and time.monotonic() < started + 60:
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        if list(tmp_path.glob(".*.tmp")):
            break
    cache = CompiledPrograms(tmp_path)
    found = [cache.get(f"program-{number}") for number in range(3)]
    assert any(found)
    for number, program in enumerate(found):
        assert program is None or program == bytes([number]) * 20_000_000

    half = tmp_path / f".program-0{compiled.SUFFIX}.1.tmp"
    half.write_bytes(b"half")
    cache.put("program-3", b"new")
    assert half.exists()  # somebody may be writing it
    os.utime(half, (1, 1))
    CompiledPrograms(tmp_path).put("program-3", b"newer")
    assert not half.exists() and cache.get("program-3") == b"newer"


# ---------------------------------------------------------------------------------- side by side

TOGETHER = """
import sys, time, warnings
from pathlib import Path
import jax, jax.numpy as jnp
from spectralpost.compiled import keep_compiled_programs

def slowly(path, data):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.03)
        file.write(data[len(data) // 2 :])

Path.write_bytes = slowly  # a slow disk: others have time to read half of an entry
warnings.simplefilter("error")
folder, me, other = Path(sys.argv[1]), *sys.argv[2:]
keep_compiled_programs(folder / "cache")
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
x = jnp.arange(3.0)
for turn in range(20):
    (folder / f"{me}-{turn}").touch()
    late = time.monotonic() + 30
    while not (folder / f"{other}-{turn}").exists():
        assert time.monotonic() < late, "the other process is gone"
        time.sleep(0.0002)
    # They go through the same programs from both ends, and meet at each turn.
    for number in range(4) if me == "a" else reversed(range(4)):
        y = jax.jit(lambda x: (x + turn) * number)(x)
        assert y.tolist() == [(a + turn) * number for a in range(3)]
print(sum(hits))
"""


def test_two_processes_fill_one_cache_twenty_times(tmp_path):
    """They start each turn at the same time. Whoever comes later finds every program."""

    def start(me: str, other: str):
        command = [sys.executable, "-c", TOGETHER, tmp_path, me, other]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    pair = [start("a", "b"), start("b", "a")]
    for process in pair:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == ""
    assert not list((tmp_path / "cache").glob(".*"))
    cache = CompiledPrograms(tmp_path / "cache")
    for path in entries(tmp_path / "cache"):
        assert cache.get(path.stem) is not None
    third = start("c", "a")
    output, errors = third.communicate(timeout=120)
    assert third.returncode == 0, errors
    assert int(output) >= 80


# -------------------------------------------------------------------------- without a place to keep


@pytest.mark.parametrize("name", ["file", "file/cache", "name" * 100])
def test_a_folder_that_cannot_be_made(name, tmp_path):
    (tmp_path / "file").write_text("")
    keep_compiled_programs(tmp_path / name)
    assert jax.config.jax_compilation_cache_dir is None
    assert run_anew(7.0) == (0, 0)


def test_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(number, tmp_path, monkeypatch):
    """Full, or for reading only: what is there is used, and nothing half written is left."""
    keep_compiled_programs(tmp_path)
    run_anew(9.0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def half(path: Path, data: bytes):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", half)
    monkeypatch.setattr(os, "utime", refused)
    assert run_anew(9.0) == (1, 0)
    assert run_anew(11.0) == (0, 1) and run_anew(11.0) == (0, 1)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_without_write_permission(tmp_path):
    keep_compiled_programs(tmp_path)
    run_anew(9.0)
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        assert run_anew(9.0) == (1, 0)
        assert run_anew(11.0) == (0, 1) and run_anew(11.0) == (0, 1)
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    keep_compiled_programs(tmp_path / "cache")
    run_anew(9.0)
    shutil.rmtree(tmp_path / "cache")
    assert run_anew(9.0) == (0, 1) and run_anew(13.0) == (0, 1)


def test_a_jax_that_has_no_place_for_a_cache(tmp_path, monkeypatch):
    """None is better than one that is not safe."""
    from jax._src import compilation_cache, compilation_cache_interface

    with monkeypatch.context() as patch:
        patch.delattr(compilation_cache, "get_file_cache")
        keep_compiled_programs(tmp_path)
        assert jax.config.jax_compilation_cache_dir is None
    with monkeypatch.context() as patch:
        more = frozenset({"get", "put", "remove"})
        patch.setattr(compilation_cache_interface.CacheInterface, "__abstractmethods__", more)
        keep_compiled_programs(tmp_path)
        assert jax.config.jax_compilation_cache_dir is None
    keep_compiled_programs(tmp_path)
    assert isinstance(compilation_cache.get_file_cache(str(tmp_path))[0], CompiledPrograms)


def test_programs_are_dropped_before_they_fill_all_memory_maps(monkeypatch):
    """A process that compiles searches of one kind after the other ends at 65,530 memory maps: half
    of them are the signal. What was learned stays, what comes next is the same."""
    dropped = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(True))
    problem = sp.image_problem(sp.power_law((8,)), sp.gaussian_blur((8,), 1.0), 0.1)
    search = sp.Search(1, 1, explore=False)
    first = sp.learn(sp.SAMPLERS["dps"](), problem, sp.vp_linear(2), search=search)
    assert not dropped
    monkeypatch.setattr(compiled, "CROWDED", 1e-4)
    assert Path("/proc/self/maps").exists()  # on Linux, where these tests run
    second = sp.learn(sp.SAMPLERS["dps"](), problem, sp.vp_linear(2), search=search)
    assert dropped == [True] and second.loss == first.loss
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError))
    compiled.drop_compiled_programs_if_crowded()  # elsewhere there is nothing to do
    assert dropped == [True]
