"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

from contextlib import suppress


class InputError(ValueError):
    """Bad input. The message is one line that names the value and what is allowed.

    The command line prints it and exits with code 2; every other exception keeps its traceback.
    """


def check_whole(name: str, value: object, minimum: int = 1) -> int:
    """The value as an int; InputError unless it is a whole number >= minimum (10.0 is one)."""
    with suppress(OverflowError, TypeError, ValueError):
        number = int(value)  # ty: ignore[invalid-argument-type]
        kind = str(getattr(value, "dtype", type(value).__name__))  # NumPy has a bool of its own
        if number == value and number >= minimum and kind != "bool":
            return number
    raise InputError(f"{name} = {value}: must be a whole number >= {minimum}")
