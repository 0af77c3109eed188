"""What the README shows works as shown."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from spectralpost.cli import COMMANDS, parse

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]


def command_lines() -> list[str]:
    """Every call of the program in the blocks that are not Python."""
    text = "\n".join(text for language, text in BLOCKS if language != "python")
    parts = re.split(r"\n|&&", text.replace("\\\n", " "))
    parts = (part.strip().removeprefix("$ ") for part in parts)
    return [part for part in parts if part.split()[:1] == ["spectralpost"]]


def test_there_is_something_to_show():
    assert PYTHON
    assert {line.split()[1] for line in command_lines()} == set(COMMANDS)


@pytest.mark.parametrize("line", command_lines())
def test_commands_exist(line):
    """They parse; the files that they name are the reader's."""
    command, *arguments = shlex.split(line, comments=True)[1:]
    assert type(parse([command, *arguments])) is COMMANDS[command][0]


@pytest.mark.parametrize("program", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(program, tmp_path):
    """As a reader would run it: a process of its own, in single precision, as one program."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compilation takes the time
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout and "inf" not in done.stdout
