"""Published samplers, one a file. A new one is a file and a line in this table."""

from collections.abc import Callable

from ..signatures import checked_options
from .base import Sampler
from .daps import daps
from .ddnm import ddnm
from .ddrm import ddrm
from .dds import dds
from .diffpir import diffpir
from .dmps import dmps
from .dps import dps
from .exact import exact
from .freehunch import freehunch
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
    "freehunch": freehunch,
    "dds": dds,
    "mcg": mcg,
    "ilvr": ilvr,
    "reddiff": reddiff,
    "daps": daps,
}


def make_sampler(name: str, /, **options: object) -> Sampler:
    """SAMPLERS[name](**options), for options from a file: see `checked_options`."""
    checked = checked_options("sampler", SAMPLERS, name, options)
    return SAMPLERS[name](**checked)
