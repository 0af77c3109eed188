"""Public names have docstrings, whose examples run, and stand on the page of the API."""

import ast
import doctest
import inspect
import os
import re
from pathlib import Path

import jax
import pytest
from compiling import quick_compilation

import spectralpost as sp

PAGES = Path(__file__).parent.parent / "docs"
API = (PAGES / "api.md").read_text("utf-8")
DOCS = {name: inspect.getdoc(getattr(sp, name)) or "" for name in sp.__all__}
WITH_EXAMPLES = [name for name, text in DOCS.items() if ">>>" in text]
FUNCTIONS = [name for name in sp.__all__ if not isinstance(getattr(sp, name), type | dict)]
LINK = re.compile(r"^An example: docs/([\w-]+\.md)#([\w-]+)\.$", re.MULTILINE)


def sections(page: str) -> dict[str, str]:
    """What stands below each heading of a page, up to the next, by the anchor of the heading."""
    found, anchor, is_code = {"": ""}, "", False
    for line in (PAGES / page).read_text("utf-8").splitlines():
        is_code ^= line.startswith("```")
        if line.startswith("#") and not is_code:
            anchor = re.sub(r"\W+", "-", line.lower()).strip("-")
            found[anchor] = ""
        found[anchor] += line + "\n"
    return found


def example_of(name: str) -> str:
    """The code that shows a function: in its docstring, or where this says that it is."""
    text = DOCS[name]
    if linked := LINK.search(text):
        page, anchor = linked.groups()
        text = sections(page)[anchor]
        return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return "\n".join(line for line in text.splitlines() if line.startswith((">>>", "...")))


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """What examples begin with, as a reader has it: in single precision, no strict promotion, in a
    folder of their own."""
    (program,) = re.findall(r"^```python\n(.*?)^```", API, re.MULTILINE | re.DOTALL)
    usual = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
    }
    before = {name: jax.config.values[name] for name in usual}
    folder = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("examples"))
    try:
        for name, value in usual.items():
            jax.config.update(name, value)
        with quick_compilation():
            names = {}
            exec(program, names)
            yield names
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        os.chdir(folder)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_shown(name):
    """By code, in its docstring or where that links; that others name it is no example."""
    assert re.search(rf"\bsp\.{name}\b", example_of(name))


def test_links_to_examples_are_few():
    """For what tests lack or what takes long; the rest is in docstrings, which are run."""
    assert {name for name in FUNCTIONS if LINK.search(DOCS[name])} == {
        "as_torch_denoiser",
        "from_deepinv",
        "keep_compiled_programs",
        "load_ffdnet",
        "polish",
        "to_deepinv",
        "torch_denoiser",
        "torch_eps_denoiser",
    }


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, beginning):
    test = doctest.DocTestParser().get_doctest(DOCS[name], dict(beginning), name, None, 0)
    said = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", sp.__all__)
def test_a_public_name_is_described(name):
    if not isinstance(getattr(sp, name), dict):  # a table, which a comment describes
        # What Python writes for a class without a docstring is its signature.
        assert DOCS[name] and not DOCS[name].startswith(f"{name}(")
    assert re.search(rf"^::: spectralpost\S*\.{name}$", API, re.MULTILINE)


def test_a_table_that_stands_twice_is_the_same():
    """What a schedule is worth on a network: on the first page, and in the documentation."""
    head = "                         dps  pigdm   mpgd"
    texts = [(PAGES.parent / name).read_text("utf-8") for name in ("README.md", "docs/networks.md")]
    first, other = (text[text.index(head) :].partition("```")[0] for text in texts)
    assert first == other and len(first.splitlines()) > 5


def test_tables_of_pages_are_those_of_their_scripts():
    """A table that a page has from a script, by its first line: a figure that changes does so in
    both."""
    in_words = lambda text: [" ".join(line.split()) for line in text.splitlines() if line.strip()]  # noqa: E731
    root, shared = PAGES.parent, 0
    scripts = [*(root / "experiments").glob("*.py"), *(root / "benchmarks").glob("*.py")]
    told = [in_words(ast.get_docstring(ast.parse(one.read_text("utf-8"))) or "") for one in scripts]
    for page in PAGES.glob("*.md"):
        for table in re.findall(r"^```text\n(.*?)^```", page.read_text("utf-8"), re.M | re.DOTALL):
            lines = in_words(table)
            for script in (one for one in told if lines[0] in one):
                assert set(lines) <= set(script), f"{page.name}: {set(lines) - set(script)}"
                shared += 1
    assert shared >= 2
