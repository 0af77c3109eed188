"""Options of a factory by name: `name=value` words, and values checked against its signature.

Samplers, degradations and grids of noise levels are functions in a table; what may be asked of one
is what its signature says, so a new one needs nothing here.
"""

import inspect
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .errors import InputError, as_plain


def parsed_words(flag: str, words: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` words as a dictionary; values as in YAML."""
    import yaml

    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise InputError(f"{flag} = {word!r}: name=value is needed")
        if name in options:
            raise InputError(f"{flag} = {word!r}: {name} is given twice")
        try:
            options[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"{flag} = {word!r}: value cannot be read") from error
    return options


def as_words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """A dictionary as the words that `parsed_words` reads."""
    import yaml

    def text(value: Any) -> str:
        value = list(value) if isinstance(value, tuple) else value
        dumped = yaml.safe_dump(value, default_flow_style=True, width=10**9)
        return dumped.removesuffix("...\n").strip()

    return tuple(f"{name}={text(value)}" for name, value in options.items())


def checked_options(
    kind: str,
    table: Mapping[str, Callable[..., Any]],
    name: str,
    options: Mapping[str, Any],
    own: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The options with which table[name] may be called, by its signature.

    kind   what the table holds, in a word, for messages
    own    parameters that are no options: the caller gives them

    Lists of YAML or JSON become tuples, texts such as "1e-3" numbers, where the signature asks for
    these. Raises InputError if the name or an option is unknown, one without a default is missing,
    or a value is of another type than the signature says.
    """
    if name not in table:
        raise InputError(f"{kind} = {name!r}: allowed are {', '.join(table)}")
    parameters = options_of(table[name], own)
    checked = {}
    for option, value in options.items():
        if option not in parameters:
            known = f"its options: {', '.join(parameters)}" if parameters else "it has no options"
            raise InputError(f"{kind} {name!r}: has no option {reprlib.repr(option)}; {known}")
        try:
            checked[option] = fitted(value, parameters[option].annotation)
        except TypeError as error:
            raise InputError(
                f"{kind} {name!r}, option {option} = {reprlib.repr(value)}: must be {error}"
            ) from None
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in checked:
            raise InputError(f"{kind} {name!r}: needs the option {option!r}")
    return checked


def options_of(
    factory: Callable[..., Any], own: tuple[str, ...] = ()
) -> dict[str, inspect.Parameter]:
    """The parameters of a factory but its `own`, name -> parameter, their annotations evaluated."""
    parameters = inspect.signature(factory, eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in own}


def changed_options(factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the factory's defaults: files name no others."""
    parameters = options_of(factory)
    typed = {name: fitted(value, parameters[name].annotation) for name, value in given.items()}
    return {name: value for name, value in typed.items() if value != parameters[name].default}


def fitted(value: Any, wanted: Any) -> Any:
    """A value read from YAML or JSON as the type `wanted`; TypeError says what is needed instead.

    Types that such files do not have (arrays and whatever may be one of several types, or has no
    annotation) pass as they are: the factory looks at them.
    """
    value = as_plain(value)
    origin, args = get_origin(wanted), get_args(wanted)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if origin is Annotated:
        return fitted(value, args[0])
    if origin in (Union, UnionType):
        others = [arg for arg in args if arg is not NoneType]
        passes = len(others) > 1 or (value is None and NoneType in args)
        return value if passes else fitted(value, others[0])
    if origin is Literal:
        if value in args:
            return value
        raise TypeError(f"one of {', '.join(map(str, args))}")
    if origin is tuple:
        several = len(args) == 2 and args[1] is Ellipsis
        if not isinstance(value, list | tuple) or not (several or len(value) == len(args)):
            raise TypeError("a list" if several else f"a list of {len(args)}")
        kinds = args[:1] * len(value) if several else args
        return tuple(fitted(one, kind) for one, kind in zip(value, kinds, strict=True))
    if wanted is bool and not isinstance(value, bool):
        raise TypeError("true or false")
    if wanted is int and not (number and value == value // 1):
        raise TypeError("a whole number")
    if wanted is float:
        if not (number or isinstance(value, str)):  # YAML takes 1e-3 for a text
            raise TypeError("a number")
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise TypeError("a number") from None
    if wanted in (str, Path) and not isinstance(value, str | Path):
        raise TypeError("a text")
    plain: Any = value
    if wanted is int:
        return int(plain)
    return Path(plain) if wanted is Path else value
