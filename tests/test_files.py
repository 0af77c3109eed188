"""Files appear whole or not at all, and nothing is overwritten unasked."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from spectralpost import files
from spectralpost.errors import InputError, encodable, shown
from spectralpost.files import (
    check_free,
    kept_json,
    locked_file,
    results_folder,
    whole_file,
)

FAILURES = [RuntimeError, KeyboardInterrupt]  # a bug, and Ctrl-C


# -------------------------------------------------------------------------------------- whole_file


def test_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "a.json"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_file_leaves_nothing(failure, tmp_path):
    with pytest.raises(failure), whole_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise failure
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_overwrite_keeps_the_old_file(failure, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(failure), whole_file(path, overwrite=True) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_existing_file_is_refused_before_any_work(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(InputError, match=r"a\.json.*exists"), whole_file(path):
        pytest.fail("the body ran")
    assert path.read_text() == "old"
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@contextmanager
def full_disk(num_bytes):
    """No file may become larger: writing raises the system's own error, half of the way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_on_a_full_disk(overwrite, tmp_path):
    """One line, and the old file stays."""
    path = tmp_path / "a.json"
    if overwrite:
        path.write_text("old")
    with (
        pytest.raises(InputError, match=r"a\.json.*cannot be written \(File too large\)"),
        full_disk(50),
        whole_file(path, overwrite=overwrite) as temporary,
    ):
        temporary.write_text("x" * 100)
    assert os.listdir(tmp_path) == (["a.json"] if overwrite else [])
    assert not overwrite or path.read_text() == "old"


def test_file_that_the_system_does_not_take(tmp_path, monkeypatch):
    """A folder that is read-only, a disk that fails when the file gets its name."""

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(InputError, match="Read-only file system"),
        whole_file(tmp_path / "a.json") as temporary,
    ):
        temporary.write_text("new")
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="name too long"), whole_file(tmp_path / ("n" * 254)) as t:
        t.write_text("new")


def test_names_that_no_file_can_have(tmp_path):
    for path, match in [(f"{tmp_path}/a\0b", "NUL"), (tmp_path, "is a folder")]:
        with pytest.raises(InputError, match=match), whole_file(path, overwrite=True):
            pytest.fail("the body ran")


def test_file_in_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"), whole_file(tmp_path / "no" / "a.json"):
        pytest.fail("the body ran")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder"), whole_file(tmp_path / "file" / "a.json"):
        pytest.fail("the body ran")


# ---------------------------------------------------------------------------------- results_folder


@pytest.mark.parametrize("empty_before", [False, True])
def test_folder_appears_at_the_end_only(empty_before, tmp_path):
    """A new folder, or an empty one that is there already."""
    path = tmp_path / "out"
    if empty_before:
        path.mkdir()
    with results_folder(path, "run") as results:
        (results.folder / "a").write_text("new")
        assert not path.exists() or all(one.name.startswith(".") for one in path.iterdir())
    assert (path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_folder_with_its_parents(tmp_path):
    with results_folder(tmp_path / "runs" / "today" / "out", "run") as results:
        (results.folder / "a").write_text("new")
    assert (tmp_path / "runs" / "today" / "out" / "a").read_text() == "new"


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_folder_leaves_nothing(failure, tmp_path):
    with pytest.raises(failure), results_folder(tmp_path / "out", "run") as results:
        (results.folder / "deep").mkdir()
        (results.folder / "deep" / "a").write_text("half")
        raise failure
    assert os.listdir(tmp_path) == []


def test_failing_folder_takes_its_new_parents_along(tmp_path):
    with pytest.raises(RuntimeError), results_folder(tmp_path / "a" / "b" / "c", "run"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(RuntimeError), results_folder(tmp_path / "mine" / "out", "run"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["mine"]


def test_folder_with_files_is_refused_before_any_work(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(InputError, match="already holds files"), results_folder(path, "run"):
        pytest.fail("the body ran")
    assert os.listdir(tmp_path) == ["out"]
    assert (path / "mine").read_text() == "mine"


def test_folder_that_is_filled_meanwhile_is_not_overwritten(tmp_path):
    """Learning takes minutes, so two runs with the same name can overlap."""
    path = tmp_path / "out"
    with (
        pytest.raises(InputError, match=r"filled meanwhile.*out-2"),
        results_folder(path, "run") as results,
    ):
        (results.folder / "a").write_text("ours")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert (tmp_path / "out-2" / "a").read_text() == "ours"  # nothing that took minutes is lost
    assert set(os.listdir(tmp_path)) == {"out", "out-2"}


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file"])
def test_folder_in_the_place_of_a_file(kind, tmp_path):
    path = tmp_path / "out"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    target = path / "deeper" if kind == "below a file" else path
    before = os.listdir(tmp_path)
    with pytest.raises(InputError, match="out"), results_folder(target, "run"):
        pytest.fail("the body ran")
    assert os.listdir(tmp_path) == before


def test_the_working_directory_as_folder(tmp_path, monkeypatch):
    """`--out .` in an empty folder: results or a message, but no other exception."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    try:
        with results_folder(".", "run") as results:
            (results.folder / "a").write_text("new")
    except InputError as error:
        assert "out = '.'" in str(error)
        assert os.listdir(empty) == []
    else:
        assert os.listdir(empty) == ["a"]
    assert os.listdir(tmp_path) == ["empty"]


def test_check_free(tmp_path):
    check_free(tmp_path / "new")
    check_free(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="already holds files"):
        check_free(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        check_free(tmp_path / "a")


def test_a_place_that_cannot_become_a_folder_is_found_out_early(tmp_path):
    """`check_free` is asked before minutes of work, `whole_folder` after them."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        check_free(tmp_path / "file" / "out")


# ---------------------------------------------------------------------------------- results_folder


def nothing_but_hidden(folder):
    return all(name.startswith(".") for name in os.listdir(folder))


@pytest.mark.parametrize("before", ["nothing", "no parents", "an empty folder", "a link to one"])
def test_results_appear_at_the_end(before, tmp_path):
    path = tmp_path / "a" / "b" / "out" if before == "no parents" else tmp_path / "out"
    if before == "an empty folder":
        path.mkdir()
    elif before == "a link to one":
        (tmp_path / "real").mkdir()
        path.symlink_to("real")
    inode = path.stat().st_ino if path.exists() else None
    with results_folder(path, "design") as results:
        assert results.path == path
        (results.folder / "deep").mkdir()
        (results.folder / "deep" / "a").write_text("new")
        (results.folder / "b").write_text("new")
        assert not path.exists() or nothing_but_hidden(path)
        assert before == "no parents" or nothing_but_hidden(path.resolve().parent) or inode
    assert (path / "deep" / "a").read_text() == (path / "b").read_text() == "new"
    assert set(os.listdir(path)) == {"deep", "b"}
    assert nothing_but_hidden(path.parent) is False
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]
    assert inode is None or path.stat().st_ino == inode  # the user's folder, with its rights


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("before", ["nothing", "no parents", "an empty folder", "default"])
def test_results_that_fail_leave_nothing(failure, before, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"no parents": Path("a/b/out"), "default": None}.get(before, Path("out"))
    if before == "an empty folder":
        given.mkdir()
    with pytest.raises(failure), results_folder(given, "design") as results:
        (results.folder / "a").write_text("half")
        raise failure
    assert list(tmp_path.rglob("*")) == ([tmp_path / "out"] if before == "an empty folder" else [])


def test_results_have_a_default_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with results_folder(None, "design") as first, results_folder(None, "design") as second:
        monkeypatch.chdir("/")  # where a run goes later does not matter
        for results in (first, second):
            (results.folder / "a").write_text(str(results.path))
            assert results.path.parent == Path("runs")
            assert results.path.name.startswith("design-2")
    assert first.path != second.path
    for results in (first, second):
        assert (tmp_path / results.path / "a").read_text() == str(results.path)
    assert len(os.listdir(tmp_path / "runs")) == 2


@pytest.mark.parametrize("existed", [False, True])
def test_results_claimed_by_another_run(existed, tmp_path):
    path = tmp_path / "out"
    if existed:
        path.mkdir()
    with results_folder(path, "design") as results:
        for same in (path, tmp_path / "no" / ".." / "out" if existed else path):
            with pytest.raises(InputError, match="another run"), results_folder(same, "design"):
                pytest.fail("the body ran")
        (results.folder / "a").write_text("new")
    assert os.listdir(path) == ["a"] and os.listdir(tmp_path) == ["out"]
    with pytest.raises(InputError, match="already holds files"), results_folder(path, "design"):
        pytest.fail("the body ran")


def test_results_of_a_place_that_is_filled_meanwhile_are_kept(tmp_path):
    """In a folder that was there, only a name that is taken is in the way."""
    path = tmp_path / "out"
    path.mkdir()
    with results_folder(path, "design") as results:
        (path / "theirs").write_text("theirs")
        (results.folder / "a").write_text("ours")
    assert set(os.listdir(path)) == {"theirs", "a"}
    other = tmp_path / "other"
    other.mkdir()
    with (
        pytest.raises(InputError, match=r"filled meanwhile.*other-2"),
        results_folder(other, "design") as results,
    ):
        (other / "a").write_text("theirs")
        (results.folder / "a").write_text("ours")
    assert (other / "a").read_text() == "theirs"
    assert (other / "other-2" / "a").read_text() == "ours"
    assert set(os.listdir(other)) == {"a", "other-2"}


def test_interrupted_move_into_a_folder_is_undone(tmp_path, monkeypatch):
    path = tmp_path / "out"
    path.mkdir()
    rename, count = os.rename, []

    def interrupted(source, target):
        count.append(target)
        if len(count) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), results_folder(path, "design") as results:
        for name in "abc":
            (results.folder / name).write_text("new")
    assert os.listdir(path) == []


@pytest.mark.parametrize("existed", [False, True])
def test_results_on_a_full_disk(existed, tmp_path):
    path = tmp_path / "out"
    if existed:
        path.mkdir()
    with (
        pytest.raises(InputError, match=r"out.*cannot be written"),
        full_disk(50),
        results_folder(path, "design") as results,
    ):
        (results.folder / "a").write_text("x" * 100)
    assert not path.exists() or os.listdir(path) == []
    assert os.listdir(tmp_path) == (["out"] if existed else [])


def test_other_errors_of_a_run_keep_their_traceback(tmp_path):
    with pytest.raises(FileNotFoundError), results_folder(tmp_path / "out", "design"):
        (tmp_path / "nowhere").read_text()


def test_results_in_a_folder_that_is_read_only(tmp_path, monkeypatch):
    """Found out before the work. (Tests may run as root, who may write everywhere.)"""
    real = os.open

    def refuse(path, flags, *mode, **more):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", refuse)
    for given in (tmp_path / "new" / "out", None):
        monkeypatch.chdir(tmp_path)
        with (
            pytest.raises(InputError, match=r"cannot be made.*Permission denied"),
            results_folder(given, "design"),
        ):
            pytest.fail("the body ran")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["no fcntl", "no locks"])
def test_results_on_a_file_system_without_locks(kind, tmp_path, monkeypatch):
    """The hidden file is the claim: two runs still exclude each other."""
    if kind == "no fcntl":
        monkeypatch.setattr(files, "fcntl", None)
    else:

        def flock(*_):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(files.fcntl, "flock", flock)
    monkeypatch.chdir(tmp_path)
    with results_folder(Path("out"), "design"):
        with (
            pytest.raises(InputError, match=r"another run.*\.out\.claim"),
            results_folder(Path("out"), "design"),
        ):
            pytest.fail("the body ran")
        with results_folder(None, "design") as first, results_folder(None, "design") as second:
            assert first.path != second.path
    assert sorted(os.listdir()) == ["out", "runs"]
    assert len(os.listdir("runs")) == 2
    for _ in range(2):
        with locked_file("lock") as ours, locked_file("lock") as theirs:
            assert ours and not theirs
        with pytest.raises(RuntimeError), locked_file("lock"):
            raise RuntimeError
    assert not os.path.exists("lock")


# ------------------------------------------------------------------------- processes side by side

RUN = """
import sys, time
from pathlib import Path
from spectralpost.errors import InputError
from spectralpost.files import results_folder
assert "jax" not in sys.modules
given, start, mine = sys.argv[1] or None, float(sys.argv[2]), sys.argv[3]
time.sleep(max(0, start - time.time()))
try:
    with results_folder(given, "design") as results:
        print("claimed", flush=True)
        (results.folder / "a").write_text(mine)
        sys.stdin.readline()
        if mine == "fails":
            raise RuntimeError
    print(results.path)
except InputError as error:
    print(error)
    sys.exit(2)
"""


def start(folder, given, when, mine):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, given, str(when), mine],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])},
    )


def soon():
    """A moment that lies in the middle of a second, when all processes are awake."""
    import time

    return float(int(time.time()) + 2) + 0.3


def test_runs_of_one_second_keep_all_results(tmp_path):
    """Eight processes that start at the same moment, with the default name; one of them fails."""
    when = soon()
    runs = [start(tmp_path, "", when, "fails" if i == 3 else str(i)) for i in range(8)]
    for run in runs:
        assert run.stdout.readline() == "claimed\n"
    names = []
    for i, run in enumerate(runs):
        out, err = run.communicate("go\n")
        if i == 3:
            assert "RuntimeError" in err
            continue
        assert (run.returncode, err) == (0, "")
        names.append(out.strip())
        assert (tmp_path / names[-1] / "a").read_text() == str(i)
    assert len(set(names)) == 7
    assert sorted(f"runs/{name}" for name in os.listdir(tmp_path / "runs")) == sorted(names)


@pytest.mark.parametrize("existed", [False, True])
def test_one_of_many_runs_gets_a_named_folder(existed, tmp_path):
    """The others hear it at once, before any work."""
    if existed:
        (tmp_path / "out").mkdir()
    when = soon()
    runs = [start(tmp_path, "out", when, str(i)) for i in range(6)]
    first = [run.stdout.readline() for run in runs]
    winners = [i for i, line in enumerate(first) if line == "claimed\n"]
    assert len(winners) == 1
    assert all("another run" in line for i, line in enumerate(first) if i not in winners)
    for i, run in enumerate(runs):
        run.communicate("go\n")
        assert run.returncode == (0 if i in winners else 2)
    assert (tmp_path / "out" / "a").read_text() == str(winners[0])
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["a"]


def test_a_run_that_fails_takes_new_parents_from_below_another(tmp_path, monkeypatch):
    """Between the moment that they are there and the claim in them: they are made again."""
    real, count = os.open, []

    def late(path, flags, *mode, **more):
        if str(path).endswith(".claim") and not count:
            count.append(path)
            Path(path).parent.rmdir()
        return real(path, flags, *mode, **more)

    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(os, "open", late)
    with results_folder(tmp_path / "runs" / "out", "design") as results:
        (results.folder / "a").write_text("new")
    assert count and os.listdir(tmp_path / "runs" / "out") == ["a"]


def vanishing(monkeypatch, path):
    """The file is removed between the first opening and locking; what was locked, in order."""
    real, locked = files.fcntl.flock, []

    def late(opened, how):
        if not locked:
            path.unlink()
        locked.append(opened)
        real(opened, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    return locked


def test_a_claim_that_vanishes_between_opening_and_locking(tmp_path, monkeypatch):
    """Its run has ended just then: a lock on a file without name would protect nothing."""
    count = vanishing(monkeypatch, tmp_path / ".out.claim")
    with results_folder(tmp_path / "out", "design"):
        assert len(count) == 2 and (tmp_path / ".out.claim").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_lock_that_vanishes_between_opening_and_locking(tmp_path, monkeypatch):
    count = vanishing(monkeypatch, tmp_path / "lock")
    with locked_file(tmp_path / "lock") as ours:
        assert ours and len(count) == 2 and (tmp_path / "lock").exists()
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="there is no folder"), locked_file(tmp_path / "a" / "b"):
        pytest.fail("the body ran")


@pytest.mark.parametrize("existed", [False, True])
def test_a_killed_run_does_not_block_the_next(existed, tmp_path):
    path = tmp_path / "out"
    if existed:
        path.mkdir()
    run = start(tmp_path, "out", 0, "killed")
    assert run.stdout.readline() == "claimed\n"
    with pytest.raises(InputError, match="another run"), results_folder(path, "design"):
        pytest.fail("the body ran")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    with results_folder(path, "design") as results:
        assert os.listdir(results.folder) == []
        (results.folder / "b").write_text("next")
    assert os.listdir(path) == ["b"] and os.listdir(tmp_path) == ["out"]


# --------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_messages_can_be_printed_in_any_locale(encoding, tmp_path):
    """Names that are not UTF-8, or not in the locale; a line break in a name stays escaped."""
    code = (
        "import os, sys\nfrom spectralpost.errors import InputError\n"
        "from spectralpost.files import results_folder, whole_file\n"
        "for name in (b'\\xff/a', 'süß-ж/a'.encode(), b'two\\nlines/a'):\n"
        "    try:\n"
        "        with whole_file(os.fsdecode(name)): pass\n"
        "    except InputError as error:\n"
        "        print(error)\n"
        "    with results_folder(os.fsdecode(name), 'design'): pass\n"
        "    try:\n"
        "        with whole_file(os.fsdecode(name)): pass\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ
        | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(files.__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode(encoding).splitlines()
    assert len(lines) == 6 and "\\udcff" in lines[0] and "two\\nlines" in lines[4]
    assert ("süß" in lines[2]) == (encoding != "ascii")
    assert ("ж" in lines[2]) == (encoding == "utf-8")


def test_shown_is_one_line_in_quotes():
    assert shown("a b") == "'a b'" and shown(b"a\nb") == r"'a\nb'"
    assert encodable("one\ntwo\u2028three") == "one two three"


def test_values_are_kept(tmp_path):
    """They are computed once; a computation that fails leaves nothing."""
    path, calls = tmp_path / "a.json", []

    def compute() -> dict:
        calls.append(1)
        return {"a": [0.1, 1 / 3]}

    assert kept_json(path, compute) == kept_json(path, compute) == {"a": [0.1, 1 / 3]}
    assert len(calls) == 1
    assert kept_json(None, compute) == {"a": [0.1, 1 / 3]}
    with pytest.raises(ZeroDivisionError):
        kept_json(tmp_path / "b.json", lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == [path]
