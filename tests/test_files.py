"""Files appear whole or not at all, and nothing is overwritten unasked."""

import os

import pytest

from spectralpost.errors import InputError
from spectralpost.files import check_free, fresh_folder, whole_file, whole_folder

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


def test_file_in_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"), whole_file(tmp_path / "no" / "a.json"):
        pytest.fail("the body ran")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder"), whole_file(tmp_path / "file" / "a.json"):
        pytest.fail("the body ran")


# ------------------------------------------------------------------------------------ whole_folder


@pytest.mark.parametrize("empty_before", [False, True])
def test_folder_appears_at_the_end_only(empty_before, tmp_path):
    """A new folder, or an empty one that is there already."""
    path = tmp_path / "out"
    if empty_before:
        path.mkdir()
    with whole_folder(path) as temporary:
        (temporary / "a").write_text("new")
        assert not path.exists() or not any(path.iterdir())
    assert (path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_folder_with_its_parents(tmp_path):
    with whole_folder(tmp_path / "runs" / "today" / "out") as temporary:
        (temporary / "a").write_text("new")
    assert (tmp_path / "runs" / "today" / "out" / "a").read_text() == "new"


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_folder_leaves_nothing(failure, tmp_path):
    with pytest.raises(failure), whole_folder(tmp_path / "out") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("half")
        raise failure
    assert os.listdir(tmp_path) == []


def test_failing_folder_takes_its_new_parents_along(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a" / "b" / "c"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "mine" / "out"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["mine"]


def test_folder_with_files_is_refused_before_any_work(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(InputError, match="already holds files"), whole_folder(path):
        pytest.fail("the body ran")
    assert os.listdir(tmp_path) == ["out"]
    assert (path / "mine").read_text() == "mine"


def test_folder_that_is_filled_meanwhile_is_not_overwritten(tmp_path):
    """Learning takes minutes, so two runs with the same name can overlap."""
    path = tmp_path / "out"
    with pytest.raises(InputError, match="out"), whole_folder(path) as temporary:
        (temporary / "a").write_text("ours")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file"])
def test_folder_in_the_place_of_a_file(kind, tmp_path):
    path = tmp_path / "out"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    target = path / "deeper" if kind == "below a file" else path
    before = os.listdir(tmp_path)
    with pytest.raises(InputError, match="out"), whole_folder(target):
        pytest.fail("the body ran")
    assert os.listdir(tmp_path) == before


def test_the_working_directory_as_folder(tmp_path, monkeypatch):
    """`--out .` in an empty folder: results or a message, but no other exception."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    try:
        with whole_folder(".") as temporary:
            (temporary / "a").write_text("new")
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


def test_fresh_folders_do_not_collide(tmp_path):
    """Two runs within one second get two names."""
    first = fresh_folder(tmp_path, "design")
    first.mkdir()
    second = fresh_folder(tmp_path, "design")
    assert first != second and not second.exists()
    assert first.name.startswith("design-") and second.name.startswith("design-")
