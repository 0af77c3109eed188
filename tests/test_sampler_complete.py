"""A sampler is complete: what it needs besides its file, all that is missing in one message."""

import copy
import dataclasses
import inspect
import pickle
import re
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EPS, ROWS, random_guidance
from literal import STEPS

from spectralpost.literal_form import from_literal, to_literal
from spectralpost.noise import NoiseLevel, vp_linear
from spectralpost.problem import make_problem
from spectralpost.samplers import SAMPLERS
from spectralpost.samplers.base import check_guidance
from spectralpost.samplers.dps import dps
from spectralpost.samplers.exact import exact
from spectralpost.transfer import sampler_transfer

FOLDER = Path(__file__).parent.parent
PAGE = (FOLDER / "docs" / "conventions.md").read_text("utf-8")
PROBLEM = make_problem([1.0, 0.3, 0.1, 0.02], [1.0, 0.6, 0.2, 0.0], 0.2, mean=[0.5, 0, 0, 0])
LEVELS = vp_linear(4)


def missing(name: str, factory, rows: dict, steps: dict, page: str) -> list[str]:
    """What is to be added for a sampler, each with its file."""
    sampler = factory(PROBLEM) if name == "exact" else factory()
    doc, found = inspect.getdoc(factory) or "", []
    if sampler.name != name:
        found.append(f"spectralpost/samplers: name={sampler.name!r}, the table says {name!r}")
    if not sampler.reference or not sampler.summary:
        found.append(f"spectralpost/samplers/{name}.py: reference and summary")
    weights = doc.partition("Weights")[2]
    unsaid = [weight for weight in sampler.constraint if weight.rstrip("_") not in weights]
    if unsaid:
        found.append(f"spectralpost/samplers/{name}.py: 'Weights: ...' of {', '.join(unsaid)}")
    try:
        given = sampler.heuristic(PROBLEM, LEVELS)
        check_guidance(sampler, LEVELS, given)
    except ValueError as error:
        found.append(f"spectralpost/samplers/{name}.py: defaults ({error})")
    if name not in rows:
        found.append("tests/cases.py: a row of ROWS")
    elif rows[name].literal not in steps:
        found.append(f"tests/literal.py: {rows[name].literal!r} in STEPS")
    if not re.search(rf"^## {name}$", page, re.MULTILINE):
        found.append(f"docs/conventions.md: a section '## {name}'")
    if not re.search(rf"^\| {name} \|", page, re.MULTILINE):
        found.append("docs/conventions.md: a line of the overview")
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_complete(name):
    found = missing(name, SAMPLERS[name], ROWS, STEPS, PAGE)
    assert not found, "to be added:\n" + "\n".join(found)


def page_example() -> str:
    """The Python of docs/add-a-sampler.md."""
    text = (FOLDER / "docs" / "add-a-sampler.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return program


@pytest.fixture(scope="module")
def pull():
    names = {}
    exec(compile(page_example(), "add-a-sampler.md", "exec"), names)
    return names["pull"]


def test_everything_that_is_missing_is_named(pull):
    found = missing("pull", pull, ROWS, STEPS, PAGE)
    assert found == [
        "tests/cases.py: a row of ROWS",
        "docs/conventions.md: a section '## pull'",
        "docs/conventions.md: a line of the overview",
    ]
    broken = partial(dataclasses.replace, summary="", defaults=lambda *_: {"pull": -jnp.ones(4)})
    found = missing("push", lambda: broken(pull()), ROWS, STEPS, PAGE)
    assert [line.partition(":")[0] for line in found] == [
        "spectralpost/samplers",
        "spectralpost/samplers/push.py",
        "spectralpost/samplers/push.py",
        "spectralpost/samplers/push.py",
        "tests/cases.py",
        "docs/conventions.md",
        "docs/conventions.md",
    ]


def test_the_example_of_the_page_samples(pull):
    """Its transfer, against the formula of its docstring in a loop over steps and modes."""
    sampler = pull(default=0.3)
    guidance = sampler.heuristic(PROBLEM, LEVELS) | {"eta": jnp.full(4, 0.4)}
    total = sampler_transfer(sampler, PROBLEM, LEVELS, guidance)
    alpha, sigma = (np.asarray(leaf) for leaf in LEVELS)
    spectrum, h = np.asarray(PROBLEM.spectrum), np.asarray(PROBLEM.response)
    state, data, var = np.full(4, sigma[0]), np.zeros(4), np.zeros(4)
    for i in range(4):
        gain = alpha[i] * spectrum / (alpha[i] ** 2 * spectrum + sigma[i] ** 2)
        tau2 = 1 - (alpha[i] * sigma[i + 1] / (alpha[i + 1] * sigma[i])) ** 2
        kept = sigma[i + 1] * np.sqrt(1 - 0.4**2 * tau2) / sigma[i]
        by_x = gain - 0.3 * h**2 * gain  # x_hat' by x_t, and by y
        by_y = 0.3 * h
        a = alpha[i + 1] * by_x + kept * (1 - alpha[i] * by_x)
        b = (alpha[i + 1] - kept * alpha[i]) * by_y
        state, data, var = a * state, a * data + b, a**2 * var + (0.4 * sigma[i + 1]) ** 2 * tau2
    for got, wanted in zip(total, (state, data, var), strict=False):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1000 * EPS * np.abs(wanted).max())


# ---------------------------------------------------------------------------------------- identity


def test_samplers_are_equal_by_name_and_options():
    assert dps(scale=0.3) is dps() and dps(scale=0.3, normalised=False) == dps()
    assert dps(scale=0.4) != dps() and dps(normalised=True) != dps()
    assert hash(dps(scale=0.4)) == hash(dps(scale=0.4))
    assert len({SAMPLERS[name]() for name in SAMPLERS if name != "exact"}) == len(SAMPLERS) - 1
    one = exact(PROBLEM)
    assert one == one and one != exact(PROBLEM)  # what it closes over cannot be compared
    changed = dataclasses.replace(dps(), summary="mine")
    assert changed == changed and changed != dps() and changed != copy.copy(dps())


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "exact"])
def test_samplers_can_be_pickled_and_copied(name):
    sampler = SAMPLERS[name]()
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert again == sampler and hash(again) == hash(sampler)
    assert pickle.loads(pickle.dumps(dps(scale=0.7))) == dps(scale=0.7) != dps()


def test_an_equal_sampler_is_not_traced_again():
    @partial(jax.jit, static_argnames="sampler")
    @chex.assert_max_traces(n=1)
    def total(sampler, guidance):
        return sampler_transfer(sampler, PROBLEM, LEVELS, guidance)

    guidance = random_guidance("dps", 0, num_steps=4)
    total(dps(), guidance)
    total(pickle.loads(pickle.dumps(dps())), guidance)
    with pytest.raises(AssertionError):  # and the check would notice
        total(dps(scale=0.7), guidance)


# ---------------------------------------------------------------------------------- official forms


OFFICIAL = [name for name, make in SAMPLERS.items() if name != "exact" and make().literal]


def test_samplers_whose_code_divides_by_norms_have_that_form():
    assert {"dps", "mpgd", "mcg", "reddiff"} <= set(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_weights_and_back(name):
    """The conversion by norms, both ways; and the official form takes the same steps."""
    sampler, guidance = SAMPLERS[name](), random_guidance(name, 1, num_steps=4)
    literal = to_literal(sampler, PROBLEM, LEVELS, guidance)
    assert set(literal) == set(sampler.literal.constraint)
    again = from_literal(sampler, PROBLEM, LEVELS, literal)
    for weight, values in guidance.items():
        np.testing.assert_allclose(again[weight], values, rtol=1000 * EPS)
    ours = sampler_transfer(sampler, PROBLEM, LEVELS, guidance)
    theirs = sampler_transfer(sampler.literal, PROBLEM, LEVELS, literal)
    for got, wanted in zip(theirs, ours, strict=True):
        bound = 1000 * EPS * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=bound)


def test_only_those_with_a_norm_have_another_form():
    with pytest.raises(ValueError, match=r"pigdm.*no form"):
        to_literal(SAMPLERS["pigdm"](), PROBLEM, LEVELS, random_guidance("pigdm", 0, num_steps=4))
    levels = NoiseLevel(*LEVELS)
    official = dps(normalised=True).heuristic(PROBLEM, levels)
    converted = from_literal(dps(), PROBLEM, levels, official)
    chex.assert_trees_all_equal(converted, dps().heuristic(PROBLEM, levels))
