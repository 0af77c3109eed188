"""Values of YAML and JSON as what a signature asks for."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from jax.typing import ArrayLike

from spectralpost.errors import InputError
from spectralpost.signatures import as_words, checked_options, fitted, parsed_words

GOOD = [
    (3, int, 3),
    (3.0, int, 3),
    (3, float, 3.0),
    ("1e-3", float, 1e-3),  # a text in YAML 1.1
    (True, bool, True),
    ("a", str, "a"),
    ("a/b", Path, Path("a/b")),
    ("uniform", Literal["uniform", "leading"], "uniform"),
    ([1, "2"], tuple[float, ...], (1.0, 2.0)),
    ([], tuple[str, ...], ()),
    ([0, 1], tuple[float, float], (0.0, 1.0)),
    (None, float | None, None),
    (2, float | None, 2.0),
    ([1], tuple[int, ...] | None, (1,)),
    (4, Annotated[int, "whatever"], 4),
]
BAD = [
    ("3", int, "a whole number"),
    (3.5, int, "a whole number"),
    (True, int, "a whole number"),
    (float("inf"), int, "a whole number"),
    (float("nan"), int, "a whole number"),
    ("three", float, "a number"),
    (True, float, "a number"),
    (10**400, float, "a number"),
    ([1], float, "a number"),
    (None, float, "a number"),
    (1, bool, "true or false"),
    (1, str, "a text"),
    (1, Path, "a text"),
    ("far", Literal["uniform", "leading"], "one of uniform, leading"),
    ([1], Literal["uniform"], "one of uniform"),
    ("ab", tuple[str, ...], "a list"),
    ([0, 1, 2], tuple[float, float], "a list of 2"),
    (["a"], tuple[float, ...], "a number"),
]


@pytest.mark.parametrize(("value", "wanted", "result"), GOOD)
def test_values_that_fit(value, wanted, result):
    found = fitted(value, wanted)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(("value", "wanted", "message"), BAD)
def test_values_that_do_not(value, wanted, message):
    with pytest.raises(TypeError) as error:
        fitted(value, wanted)
    assert str(error.value) == message


def test_what_files_do_not_have_passes():
    array = np.ones(3)
    assert fitted(array, np.ndarray) is array
    assert fitted(array, ArrayLike | None) is array and fitted([1], ArrayLike) == [1]


def test_words_mean_what_they_were_made_from():
    options = {"a": 1e-7, "b": True, "c": "trailing", "d": (1.0, 2.0), "e": None, "f": "3", "g": 12}
    words = as_words(options)
    assert words[2] == "c=trailing"
    assert parsed_words("x", words) == options | {"d": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a",), "x = 'a': name=value is needed"),
        (("=1",), "x = '=1': name=value"),
        (("a=",), "x = 'a=': name=value"),
        (("a=1", "a=2"), "a is given twice"),
        (("a=[",), r"x = 'a=\[': value cannot be read"),
    ],
)
def test_words_that_are_none(words, message):
    with pytest.raises(InputError, match=message):
        parsed_words("x", words)


def test_options_are_those_of_the_signature():
    def blur(shape, std: float, size: int = 9, *, mode: Literal["a", "b"] = "a"): ...

    def check(name="blur", **options):
        return checked_options("degradation", {"blur": blur}, name, options, own=("shape",))

    assert check(std=2) == {"std": 2.0}
    assert check(std="1e-3", size=3.0, mode="b") == {"std": 1e-3, "size": 3, "mode": "b"}
    for options, message in (
        ({"name": "shift"}, "degradation = 'shift': allowed are blur"),
        ({}, "degradation 'blur': needs the option 'std'"),
        ({"std": 1, "shape": 3}, "has no option 'shape'; its options: std, size, mode"),
        ({"std": 1, "size": "x"}, "degradation 'blur', option size = 'x': must be a whole number"),
        ({"std": 1, "mode": "c"}, "mode = 'c': must be one of a, b"),
    ):
        with pytest.raises(InputError, match=message):
            check(**options)
