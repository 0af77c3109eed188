"""Weights in files of PyTorch, read without PyTorch and without running what a file says.

`torch.save` writes pickles, programs that may call anything. Here the few instructions of which the
weights of a network are made are followed, and any other is refused, so that nothing of a file is
ever called. Both layouts are read: the archive of PyTorch 1.6 and later (`data.pkl`, and one member
a storage), and the older one (five parts behind each other, then the storages).
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError, reason_of, shown

LARGEST = 2**26  # bytes of a file
INSTRUCTIONS = 2**16  # of a pickle; a tensor takes about 40

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_DTYPES = {
    "torch HalfStorage": np.dtype("<f2"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
}
_GLOBALS = {_ORDERED_DICT, _TENSOR, *_DTYPES}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # numbers


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state_dict by name, in half, single or double precision as stored.

    Raises InputError, in one line, for a file that is missing, larger than 64 MiB, cut, or anything
    else than a dictionary of such tensors.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        content, stored = (_archive if data[:4] == b"PK\3\4" else _older_layout)(data)
        if not isinstance(content, dict) or not content:
            raise ValueError("not a dictionary of tensors")
        if sum(_size_of(tensor) for tensor in content.values()) > LARGEST:  # they may share numbers
            raise ValueError(f"tensors of more than {LARGEST} bytes")
        return {_text(name): _array(tensor, stored) for name, tensor in content.items()}
    except Exception as error:  # parsers raise all kinds for bytes that are not theirs
        raise InputError(f"weights {shown(path)}: cannot be read ({reason_of(error)})") from error


def _archive(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """What is pickled in an archive, and the bytes of its storages by key."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {}
        for info in archive.infolist():
            # As PyTorch writes it; what is not compressed is no larger than the file.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                raise ValueError(f"{info.filename} is compressed")
            parts[info.filename.partition("/")[2]] = info
        if "byteorder" in parts and archive.read(parts["byteorder"]) != b"little":
            raise ValueError("big-endian numbers")
        content = _unpickled(io.BytesIO(archive.read(parts["data.pkl"])))
        keys = [name.removeprefix("data/") for name in parts if name.startswith("data/")]
        if sum(parts[f"data/{key}"].file_size for key in keys) > len(data):
            raise ValueError("members that overlap")
        return content, {key: archive.read(parts[f"data/{key}"]) for key in keys}


def _older_layout(data: bytes) -> tuple[Any, dict[str, bytes]]:
    file = io.BytesIO(data)
    magic, protocol, system = (_unpickled(file) for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise ValueError("not a file of PyTorch")
    if not system["little_endian"]:
        raise ValueError("big-endian numbers")
    storages: dict[str, _Storage] = {}
    content = _unpickled(file, storages)
    stored = {}
    for key in _unpickled(file):
        size = int.from_bytes(file.read(8), "little")
        if size != storages[key].size:
            raise ValueError(f"storage {key} of {size} numbers, not {storages[key].size}")
        stored[key] = file.read(size * storages[key].dtype.itemsize)
    return content, stored


def _unpickled(file: io.BytesIO, storages: dict[str, _Storage] | None = None) -> Any:
    """Follow the instructions of one pickle; storages that it names are added to `storages`."""
    storages = {} if storages is None else storages
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies under each mark
    memo: dict[int, Any] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        name = instruction.name
        if count >= INSTRUCTIONS:
            raise ValueError(f"more than {INSTRUCTIONS} instructions")
        if name == "STOP":
            return stack.pop()
        if name in _NUMBERS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL" and argument in _GLOBALS:
            stack.append(_Global(str(argument)))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                stack[-1].extend(items)
            else:
                keys = [_text(key) for key in items[::2]]
                stack[-1].update(zip(keys, items[1::2], strict=True))
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][_text(key)] = value
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]  # type: ignore[index]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])  # type: ignore[index]
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            storages[storage.key] = storage
            stack.append(storage)
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_called(called, arguments))
        elif name == "BUILD":  # attributes of a state_dict: versions of its modules
            stack.pop()
        elif name != "PROTO":
            what = f"the name {argument}" if name == "GLOBAL" else f"the instruction {name}"
            raise ValueError(f"holds {what}, which weights do not need")
    raise ValueError("cut")


def _called(called: Any, arguments: tuple[Any, ...]) -> Any:
    if called == _Global(_ORDERED_DICT) and arguments == ():
        return {}
    if called == _Global(_TENSOR):
        storage, offset, shape, strides = arguments[:4]
        return _Tensor(storage, offset, shape, strides)
    raise ValueError("calls what weights do not need")


def _storage(about: Any) -> _Storage:
    """A storage as pickles name it: ("storage", type, key, device, size, and None if older)."""
    kind, of, key, _, size, *view = about
    if kind != "storage" or not isinstance(of, _Global) or view not in ([], [None]):
        raise ValueError("a storage of an unknown kind")
    return _Storage(_text(key), _DTYPES[of.name], size)


def _size_of(tensor: Any) -> int:
    """Bytes of a tensor; 0 of what is none."""
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        return 0
    return math.prod(tensor.shape) * tensor.storage.dtype.itemsize


def _array(tensor: Any, stored: Mapping[str, bytes]) -> np.ndarray:
    """A tensor's numbers, once all of them are known to be in the file."""
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        raise ValueError("holds what is not a tensor")
    (key, dtype, size), offset, shape, strides = tensor
    whole = (size, offset, *shape, *strides)
    if not all(type(one) is int and one >= 0 for one in whole) or len(shape) != len(strides):
        raise ValueError("a tensor of a shape that is none")
    if len(stored[key]) != size * dtype.itemsize:
        raise ValueError("cut")
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 in shape or math.prod(shape) > size or offset + last >= size:
        raise ValueError("a tensor larger than its storage")
    numbers = np.frombuffer(stored[key], dtype)[offset:]
    view = np.lib.stride_tricks.as_strided(
        numbers, shape, [step * dtype.itemsize for step in strides], writeable=False
    )
    return np.array(view)


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError("a name that is no text")
    return name
