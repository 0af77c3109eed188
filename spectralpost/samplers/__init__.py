"""Published samplers, one a file. A new one is a file and a line in this table."""

import inspect
from collections.abc import Callable

from ..errors import InputError
from .base import Sampler
from .daps import daps
from .ddnm import ddnm
from .ddrm import ddrm
from .dds import dds
from .diffpir import diffpir
from .dmps import dmps
from .dps import dps
from .exact import exact
from .ilvr import ilvr
from .mcg import mcg
from .mpgd import mpgd
from .pigdm import pigdm
from .reddiff import reddiff
from .tmpd import tmpd

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "exact": exact,
    "dps": dps,
    "pigdm": pigdm,
    "ddnm": ddnm,
    "ddrm": ddrm,
    "diffpir": diffpir,
    "mpgd": mpgd,
    "dmps": dmps,
    "tmpd": tmpd,
    "dds": dds,
    "mcg": mcg,
    "ilvr": ilvr,
    "reddiff": reddiff,
    "daps": daps,
}


def make_sampler(name: str, **options: object) -> Sampler:
    """SAMPLERS[name](**options), for options from a file.

    InputError if the name or an option is unknown, or a value of another kind than the default.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler = {name!r}: allowed are {', '.join(SAMPLERS)}")
    try:
        inspect.signature(SAMPLERS[name]).bind(**options)
    except TypeError as error:
        raise InputError(f"sampler {name!r} with options {options}: {error}") from error
    for option, value in options.items():
        default = inspect.signature(SAMPLERS[name]).parameters[option].default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = None
        if isinstance(default, bool) and not isinstance(value, bool):
            wanted = "true or false"
        elif isinstance(default, float) and not number:
            wanted = "a number"
        if wanted:
            raise InputError(f"sampler {name!r}, option {option} = {value!r}: must be {wanted}")
    return SAMPLERS[name](**options)
