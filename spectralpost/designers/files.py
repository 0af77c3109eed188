"""Designers as files, and those that come with the package: <sampler>.msgpack in this folder.

MessagePack as flax writes it: no pickle, and nothing in it unpacks to more than it occupies.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize, to_state_dict

from ..errors import InputError, reason_of
from ..files import whole_file
from ..samplers import SAMPLERS
from ..samplers.base import Sampler
from .network import FEATURES, Designer, check_designer, initial_params, options_in_words

FOLDER = Path(__file__).parent
LARGEST = 2**26  # bytes of a file; those shipped have 2^17


def save_designer(path: str | os.PathLike[str], designer: Designer) -> None:
    """Write a designer, its arrays in single precision.

    Raises InputError if the file exists or its folder does not.
    """
    arrays = to_state_dict(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), designer))
    about = {name: getattr(designer, name) for name in ("sampler", "width", "options")}
    about["free"] = list(designer.free)
    with whole_file(path) as temporary:
        temporary.write_bytes(msgpack_serialize(about | arrays))


def load_designer(path: str | os.PathLike[str], sampler: Sampler | None = None) -> Designer:
    """Read what `save_designer` wrote; InputError if that fails or it is for another sampler."""
    try:
        with open(path, "rb") as file:
            content: Any = msgpack_restore(file.read(LARGEST))
        content["free"] = tuple(content["free"])
        if "options" not in content:  # those shipped, from before it was stored
            content["options"] = options_in_words(SAMPLERS[content["sampler"]]())
        designer = Designer(**content)
        _check(designer)
    except Exception as error:  # flax and msgpack raise all kinds for bytes that are not theirs
        raise InputError(f"designer {str(path)!r}: cannot be read ({reason_of(error)})") from error
    if sampler is not None:
        check_designer(designer, sampler)
    return jax.tree.map(jnp.asarray, designer)


def shipped_designer(sampler: str | Sampler) -> Designer:
    """The designer that comes with this package, for a sampler or its name.

    Trained by `experiments/amortised.py`, for the sampler's default options and W2^2. Raises
    InputError if there is none for this sampler, or if it has other options.

    >>> sp.shipped_designer("dps").free
    ('zeta',)
    """
    name = sampler if isinstance(sampler, str) else sampler.name
    shipped = sorted(path.stem for path in FOLDER.glob("*.msgpack"))
    if name not in shipped:
        raise InputError(
            f"sampler = {name!r}: no designer is shipped; there are {', '.join(shipped)}"
        )
    published = SAMPLERS[name]()
    if not isinstance(sampler, str) and sampler != published:
        raise InputError(f"sampler {name}: a designer is shipped for its default options only")
    return load_designer(FOLDER / f"{name}.msgpack", published)


def _check(designer: Designer) -> None:
    """ValueError unless names are names and arrays have the shapes, dtype and range they need."""
    names = (designer.sampler, *designer.free)
    if not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError("sampler and free must be names")
    if not isinstance(designer.options, str):
        raise ValueError("options must be a text")
    params = jax.eval_shape(
        lambda: initial_params(jax.random.key(0), designer.free, designer.width)
    )
    scale = jax.ShapeDtypeStruct((FEATURES + len(designer.free),), np.float32)
    wanted = replace(designer, params=params, centre=scale, spread=scale)
    if jax.tree.map(_kind, designer) != jax.tree.map(_kind, wanted):
        raise ValueError("arrays of other names, shapes or precision")
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(designer)):
        raise ValueError("has NaN or infinite values")
    if not np.all(designer.spread > 0):
        raise ValueError("spread must be > 0")


def _kind(leaf: jax.Array) -> tuple[tuple[int, ...], str]:
    return leaf.shape, str(leaf.dtype)
