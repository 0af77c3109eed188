"""Public names have docstrings, whose examples run, and stand on the page of the API."""

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
# Functions without an example, which need what tests lack or take minutes: where they are shown.
SHOWN = {
    "as_torch_denoiser": "denoisers.md",
    "from_deepinv": "exports.md",
    "keep_compiled_programs": "learning.md",
    "load_ffdnet": "denoisers.md",
    "polish": "networks.md",
    "to_deepinv": "exports.md",
    "torch_denoiser": "denoisers.md",
    "torch_eps_denoiser": "denoisers.md",
}


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


def test_every_function_is_shown():
    lines = "\n".join(DOCS.values()).splitlines()
    examples = "\n".join(line for line in lines if line.startswith((">>>", "...")))
    functions = [name for name in sp.__all__ if not isinstance(getattr(sp, name), type | dict)]
    shown = {name for name in functions if re.search(rf"\bsp\.{name}\b", examples)}
    assert {"learn", "restore", "image_problem", "from_images"} < shown
    assert set(functions) - shown == set(SHOWN)
    for name, page in SHOWN.items():
        assert f"sp.{name}" in (PAGES / page).read_text("utf-8")


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
