"""JSON from files that nobody vouches for, read in bounded time and memory."""

import json
import math
import os
from typing import Any

from .errors import InputError

LARGEST_JSON = 32 * 2**20  # bytes
MOST_VALUES = 2_000_000  # in a file; each costs up to 200 bytes and a few microseconds
DEEPEST_JSON = 32  # lists and objects within each other
LARGEST_WHOLE = 2**64  # whole numbers are smaller in size: seeds are the largest that occur


def read_json(path: str | os.PathLike[str]) -> Any:
    """The values of a JSON file in UTF-8, as `plain` returns them.

    Raises InputError, without the file's name, if it cannot be read, is larger than LARGEST_JSON,
    has more than MOST_VALUES values, is not JSON, has a key twice in one object, or holds what
    `plain` refuses.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL character in the name
        raise InputError(f"cannot be read ({error})") from error
    check_size(content)
    try:
        value = json.loads(
            content.decode("utf-8-sig"),  # some editors begin a file with a byte-order mark
            # Too long or no number at all: `plain` refuses it and knows the field.
            parse_int=lambda digits: int(digits) if len(digits) <= 21 else math.inf,
            object_pairs_hook=_unique,
        )
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"nested deeper than {DEEPEST_JSON} lists and objects") from error
    except ValueError as error:
        raise InputError(f"not a JSON file ({error})") from error
    return plain(value)


def check_size(content: bytes) -> None:
    """InputError for the text of a JSON file beyond LARGEST_JSON or MOST_VALUES."""
    if len(content) > LARGEST_JSON:
        raise InputError(f"larger than {LARGEST_JSON // 2**20} MB")
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:  # before any of them is made
        raise InputError(f"more than {MOST_VALUES} values")


def plain(value: Any, at: tuple[str | int, ...] = ()) -> Any:
    """A value as JSON has it: NumPy's and JAX's numbers and arrays become plain ones.

    Raises InputError, naming the field, for a number that is not finite or a whole one not below
    LARGEST_WHOLE, nesting deeper than DEEPEST_JSON, and types that JSON does not have.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise InputError(
            f"{_field(at)} = {value}: must be a finite number, no NaN or Infinity, and below 2^64 "
            "if it is whole"
        )
    if isinstance(value, int):
        if abs(value) < LARGEST_WHOLE:
            return int(value)
        raise InputError(f"{_field(at)}: must be below 2^64")
    if len(at) >= DEEPEST_JSON:
        raise InputError(f"{_field(at[:3])}: nested deeper than {DEEPEST_JSON} lists and objects")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{_field(at)}: the key {key!r} is not a text")
        return {key: plain(one, (*at, key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        # Most values are in lists of numbers, none of which has anything to say.
        if all(type(one) in (float, int) and abs(one) < LARGEST_WHOLE for one in value):
            return list(value)
        return [plain(one, (*at, i)) for i, one in enumerate(value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), at)
    raise InputError(f"{_field(at)}: JSON has no {type(value).__name__}")


def text_of(value: Any) -> str:
    """What a command has found as JSON, which has no NaN and no infinity: null in their place."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=1, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InputError(f"{twice[:40]!r}: is given twice in one object")
    return found


def _field(at: tuple[str | int, ...]) -> str:
    """problem.degradation_options.kernel[0][1]"""
    name = ""
    for part in at:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += ("." if name else "") + (part if part.isidentifier() else repr(part))[:40]
    return name or "the file"


def brief(value: Any) -> str:
    """The first characters of a value's JSON, for messages."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:40] + "..."
