"""`docs/conventions.md` has a section for every sampler, with the weights and defaults of the code.

The lines that are read, in a section `## name`, up to the next item of the list:

    * **Weights**: `name` (default): what it means; `name` (default): ...
    * **Options**: `name` (default): what it means; ...

A weight's default is its number at every step; "converted" if it is an official constant translated
by a norm, "varies" if it depends on the step otherwise. An option's default is a Python literal.
"""

import ast
import inspect
import re
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest

from spectralpost.noise import vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers import SAMPLERS

PAGE = (Path(__file__).parent.parent / "docs" / "conventions.md").read_text("utf-8")
COMMON = ("Common", "Degradations", "Overview")
ITEMS = ("Weights", "Options", "Official code", "Paper and code", "Not modelled")

# Read so that a missing section or row fails the tests of that sampler, not their collection.
HEADINGS = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
SECTIONS = dict(zip(HEADINGS, re.split(r"^## .+$", PAGE, flags=re.MULTILINE)[1:], strict=True))
# The overview, without its two lines of header.
LINES = [line for line in SECTIONS.get("Overview", "").splitlines() if line.startswith("|")][2:]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]


@cache
def problem():
    return make_problem([1.0, 0.3, 0.1], [1.0, 0.6, 0.0], 0.2)


def factory(name):
    """SAMPLERS[name], without the problem that `exact` asks for."""
    return partial(SAMPLERS[name], problem()) if name == "exact" else SAMPLERS[name]


@cache
def heuristic(name, factor=1.0):
    """The default weights of four steps."""
    with jax.disable_jit():  # too small to be worth compiling
        weights = factory(name)().heuristic(problem(), vp_linear(4), factor)
    return {weight: np.asarray(values) for weight, values in weights.items()}


def items(section: str) -> dict[str, str]:
    """The section's list, name of the item -> its text."""
    return dict(
        re.findall(r"^\* \*\*(.+?)\*\*: (.*?)(?=^\* |\Z)", section, re.MULTILINE | re.DOTALL)
    )


def defaults(text: str) -> dict[str, str]:
    """Every `name` (default) of an item."""
    return dict(re.findall(r"`(\w+)`\s+\(([^)]*)\)", text))


def assert_default(stated: str, values: np.ndarray):
    """A number that all steps share, or the right word for one that they do not."""
    if np.ptp(values) > 0:
        assert stated in ("converted", "varies")
    else:
        assert float(stated) == pytest.approx(values[0])


def test_a_heading_for_every_sampler_and_no_other():
    assert [*COMMON, *SAMPLERS] == HEADINGS
    assert [row[0] for row in ROWS] == list(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sections_have_the_same_parts(name):
    section = SECTIONS[name]
    assert section.startswith("\n```text\n")
    assert tuple(items(section)) == ITEMS


@pytest.mark.parametrize("name", SAMPLERS)
def test_weights_and_their_defaults(name):
    stated = defaults(items(SECTIONS[name])["Weights"])
    assert set(stated) == set(factory(name)().constraint)
    for weight, values in heuristic(name).items():
        assert_default(stated[weight], values)


@pytest.mark.parametrize("name", SAMPLERS)
def test_options_and_their_defaults(name):
    stated = defaults(items(SECTIONS[name])["Options"])
    options = inspect.signature(factory(name)).parameters
    assert {option: ast.literal_eval(text) for option, text in stated.items()} == {
        option: parameter.default for option, parameter in options.items()
    }


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "exact"])
def test_other_weights_of_options_are_named(name):
    """An option may rename a weight: `normalised` does."""
    options = inspect.signature(factory(name)).parameters
    flags = [option for option, parameter in options.items() if parameter.default is False]
    for flag in flags:
        for weight in factory(name)(**{flag: True}).constraint:
            assert f"`{weight}`" in items(SECTIONS[name])["Weights"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_overview_agrees_with_the_sections_and_marks_what_is_tuned(name):
    """Column 4: the same weights and defaults, `*` at the one that `factor` multiplies."""
    (row,) = [row for row in ROWS if row[0] == name]
    weights = re.findall(r"(\w+)(\*?) \((.+?)\)", row[3])
    stated = {weight: default for weight, _, default in weights}
    assert stated == defaults(items(SECTIONS[name])["Weights"])
    before, after = heuristic(name), heuristic(name, factor=0.5)
    changed = {weight for weight in before if np.any(before[weight] != after[weight])}
    tuned = {weight for weight, mark, _ in weights if mark}
    # A norm, and what is converted by it, may depend on the weight that is tuned.
    assert tuned == {weight for weight in changed if stated[weight] != "converted"} or (
        tuned == changed and len(tuned) == 1
    )
