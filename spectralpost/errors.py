"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

import numbers
import os
import sys
from contextlib import suppress
from typing import Any, TypeGuard

LARGEST_WHOLE = 2**63 - 1  # which NumPy and seeds take; memory may allow far less
LARGEST_STEPS = 100_000  # also of time steps, and of whole-number options in files
LARGEST_PLANES = 2**16


class StillRunning(KeyboardInterrupt):
    """The user will not wait for a thread, which the interpreter would do at its end."""


class InputError(ValueError):
    """Bad input. The message is one line that names the value and what is allowed.

    The command line prints it and exits with code 2; every other exception keeps its traceback.
    """

    def __init__(self, message: str):
        super().__init__(
            " ".join(line.strip() for line in message.splitlines())
        )  # arrays have more


def encodable(text: str) -> str:
    """The text in one line, with escapes for what the terminal's encoding lacks.

    So that printing a message cannot fail in a locale that is not UTF-8.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    text = " ".join(text.splitlines())
    return text.encode(encoding, "backslashreplace").decode(encoding)


def reason_of(error: Exception) -> str:
    """What somebody else's code raised, in a line that is not too long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def times(shape: tuple[int, ...]) -> str:
    """A size in words: 32x32."""
    return "x".join(map(str, shape))


def shown(path: str | bytes | os.PathLike) -> str:
    """A path in quotes for a message, whatever bytes its name is made of."""
    return encodable(repr(os.fsdecode(path)))


def check_whole(name: str, value: Any, minimum: int = 1, maximum: int = LARGEST_WHOLE) -> int:
    """The value as an int; InputError unless it is a whole number >= minimum (10.0 is one), and
    at most `maximum`."""
    allowed = f"a whole number >= {minimum}"
    with suppress(OverflowError, TypeError, ValueError):
        number = int(value)
        kind = str(getattr(value, "dtype", type(value).__name__))  # NumPy has a bool of its own
        if number == value and number >= minimum and kind != "bool":
            if number <= maximum:
                return number
            allowed += f", at most {maximum}"
    raise InputError(f"{name} = {value}: must be {allowed}")


def check_kind(name: str, value: Any, kind: type, advice: str = "") -> None:
    """InputError unless the value is of that kind."""
    if not isinstance(value, kind):
        words = f" ({advice})" if advice else ""
        raise InputError(
            f"{name}: {type(value).__name__} was given, {kind.__name__} is needed{words}"
        )


def check_shape(shape: Any, minimum: int = 1) -> tuple[int, ...]:
    """The size of a plane as a tuple of whole numbers >= minimum, or InputError."""
    try:
        sizes = tuple(shape)
    except TypeError as error:
        raise InputError(f"shape = {shape}: the sizes of all axes are needed") from error
    if not sizes:
        raise InputError(f"shape = {shape}: at least one axis is needed")
    return tuple(check_whole("size in shape", size, minimum) for size in sizes)


def as_plain(value: Any) -> Any:
    """NumPy's and JAX's numbers as Python's, which compare and hash by value; all else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a real number, Python's or NumPy's, and no bool; NaN and infinity are."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
