"""What the README and the pages of the documentation show works as shown.

A block of Python that cannot run alone has a comment in the line above, `<!-- not run: why -->`.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from spectralpost.cli import COMMANDS, parse

FOLDER = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text("utf-8")
    for path in [FOLDER / "README.md", *sorted((FOLDER / "docs").glob("*.md"))]
}
BLOCK = re.compile(r"^(?:<!-- not run: (.+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(name, *block) for name, page in PAGES.items() for block in BLOCK.findall(page)]
# The same program on two pages is one; the first page names it.
PYTHON = {text: name for name, _, language, text in reversed(BLOCKS) if language == "python"}
RUN = {text: PYTHON[text] for _, why, _, text in BLOCKS if text in PYTHON and not why}


def command_lines(page: str) -> list[str]:
    """Every call of the program in the blocks that are not Python, and in the text."""
    blocks = [text for name, _, language, text in BLOCKS if name == page and language != "python"]
    text = "\n".join(blocks)
    parts = re.split(r"\n|&&", text.replace("\\\n", " "))
    parts = [part.strip().removeprefix("$ ") for part in parts]
    parts += re.findall(r"(?<!`)`(spectralpost [^`]+)`(?!`)", BLOCK.sub("", PAGES[page]))
    return [" ".join(part.split()) for part in parts if part.split()[:1] == ["spectralpost"]]


LINES = {line: page for page in PAGES for line in command_lines(page)}


def test_there_is_something_to_show():
    assert "index.md" in RUN.values() and "theory.md" in RUN.values()
    assert len(command_lines("README.md")) > 3
    assert {line.split()[1] for line in LINES} == set(COMMANDS)


@pytest.mark.parametrize(("line", "page"), LINES.items())
def test_commands_exist(line, page):
    """They parse; the files that they name are the reader's."""
    command, *arguments = shlex.split(line, comments=True)[1:]
    assert type(parse([command, *arguments])) is COMMANDS[command][0]


@pytest.mark.parametrize(("page", "text"), [(name, text) for text, name in PYTHON.items()])
def test_python_is_python(page, text):
    ast.parse(text)


@pytest.mark.parametrize("program", RUN, ids=RUN.values())
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
    # Some print whether what they say is so.
    assert not re.search(r"nan|inf|False", done.stdout)
