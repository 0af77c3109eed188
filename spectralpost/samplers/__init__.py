"""Published samplers, one a file. A new one is a file and a line in this table."""

from collections.abc import Callable

from ..errors import InputError
from ..step import Sampler
from .diffpir import diffpir
from .dps import dps
from .exact import exact
from .pigdm import pigdm

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "exact": exact,
    "dps": dps,
    "pigdm": pigdm,
    "diffpir": diffpir,
}


def make_sampler(name: str, **options: object) -> Sampler:
    """SAMPLERS[name](**options), or InputError if the name or an option is unknown."""
    if name not in SAMPLERS:
        raise InputError(f"sampler = {name!r}: allowed are {', '.join(SAMPLERS)}")
    try:
        return SAMPLERS[name](**options)
    except TypeError as error:
        raise InputError(f"sampler {name!r} with options {options}: {error}") from error
