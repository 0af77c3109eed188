"""`jax.jit` for the large programs of this package, which the next process need not trace again.

JAX keeps what XLA compiled, but finds it only after it has traced and lowered the function anew,
half of the time of a search in a fresh process (`benchmarks/startup.py`). Here the whole executable
is kept, found by what it depends on: the sources of this package, the versions of JAX's, the
machine, JAX's settings, and the arguments' structure, shapes and static values. Where one of these
is a function of somebody else, whose source may change, nothing is kept and `jax.jit` does it.
Where the sources have changed it is traced once more; if that gives the same program, it is the
same executable.
"""

import hashlib
import inspect
import io
import os
import pickle
import pickletools
import platform
import zlib
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from . import compiled

R = TypeVar("R")

# Functions and classes of these are known by their sources or versions.
KNOWN = ("spectralpost", "jax", "jaxlib", "numpy", "builtins", "functools", "copyreg")
# These change what a program says or where it is, not what it does.
IRRELEVANT = ("jax_compilation_cache_dir", "jax_persistent_cache", "jax_log", "jax_traceback")
# And with these JAX has to see each call.
SEEN = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")


def kept_jit(
    function: Callable[..., R],
    *,
    static_argnames: str | Sequence[str] = (),
    donate_argnames: str | Sequence[str] = (),
) -> Callable[..., R]:
    """`jax.jit` of a function of this package, its programs kept by `keep_compiled_programs`.
    All of its arguments can be given by position.

    In other programs (under jit, vmap, a derivative), on several devices, or without a folder for
    programs it is `jax.jit`.
    """
    # An executable is known by its program's text, which has to say which arguments it takes.
    jitted = jax.jit(
        function,
        static_argnames=static_argnames,
        donate_argnames=donate_argnames,
        keep_unused=True,
    )
    signature = inspect.signature(function)
    names = {static_argnames} if isinstance(static_argnames, str) else set(static_argnames)
    called = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        store = compiled.store()
        if store is None or any(getattr(jax.config, name) for name in SEEN):
            return jitted(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        static = {name: value for name, value in bound.arguments.items() if name in names}
        dynamic = {name: value for name, value in bound.arguments.items() if name not in names}
        leaves, structure = jax.tree.flatten(dynamic)
        if jax.device_count() > 1 or not all(map(_on_first_device, leaves)):
            return jitted(*args, **kwargs)
        shapes = tuple(str(jax.api_util.shaped_abstractify(leaf)) for leaf in leaves)
        settings = _settings()
        key = function, tuple(static.items()), structure, shapes, settings
        program = compiled.in_this_process.get(key)
        if program is None:
            name = _name(called, static, structure, shapes, settings)
            trace = lambda: jitted.trace(*bound.args)  # noqa: E731
            program = jitted if name is None else _program(store, name, trace)
            compiled.in_this_process[key] = program
        return program(*args, **kwargs) if program is jitted else program(*dynamic.values())

    return call


def _on_first_device(leaf: Any) -> bool:
    """Or on the host, and a value: not what stands for one while another program is traced."""
    if isinstance(leaf, Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.devices() == {jax.devices()[0]}


def _program(
    store: compiled.CompiledPrograms, name: str, trace: Callable[[], Any]
) -> Callable[..., Any]:
    """The program of that name: from the store, else compiled, and kept.

    The store has it by its text, and what that is called by the name and the sources.
    """
    of_sources = f"{name}@{_digest(_sources())}"
    if (found := store.get(of_sources)) is not None:
        program = _loaded(store.get(found.decode(errors="replace")))
        if program is not None:
            return program
    traced = trace()
    lowered = traced.lower()
    text = lowered.as_text()
    if "callback" in text:  # into Python, at an address of this process
        return lowered.compile()
    from jax.experimental import serialize_executable

    outputs = repr((traced.out_info, traced.jaxpr.out_avals))
    by_text = f"{name}-{_digest(text.encode(), outputs.encode())}"
    program = _loaded(store.get(by_text))
    if program is None:
        # What JAX's own cache gives cannot be written a second time.
        with store.bypassed():
            program = lowered.compile()
        try:
            entry = pickle.dumps(serialize_executable.serialize(program))
        except Exception:
            return program
        store.put(by_text, zlib.compress(entry, level=1))
    store.put(of_sources, by_text.encode())
    return program


def _loaded(entry: bytes | None) -> Callable[..., Any] | None:
    """The executable that was kept; None if there is none, or whatever else is wrong with it: it
    can be compiled again."""
    from jax.experimental import serialize_executable

    if entry is None:
        return None
    _load_lapack()
    try:
        return serialize_executable.deserialize_and_load(*pickle.loads(zlib.decompress(entry)))
    except Exception:
        return None


@cache
def _load_lapack() -> None:
    """JAX tells XLA where LAPACK is when it lowers the first program that asks for it. One that was
    lowered in another process would jump to nowhere."""
    jax.jit(jax.numpy.linalg.cholesky).lower(np.eye(2))


def _name(
    function: str,
    static: dict[str, Any],
    structure: Any,
    shapes: tuple[str, ...],
    settings: tuple[Any, ...],
) -> str | None:
    """What is called, and all that it depends on but the sources; None if some is not known."""
    file = io.BytesIO()
    # Of protocol 2, which names each function and class that it refers to in one opcode.
    pickler = pickle.Pickler(file, protocol=2)
    pickler.fast = True  # the same bytes for equal things, whether they are one object or two
    try:
        pickler.dump((static, structure))
    except Exception:
        return None
    written = file.getvalue()
    for opcode, named, _ in pickletools.genops(written):
        if opcode.name == "GLOBAL" and str(named).split(" ")[0].partition(".")[0] not in KNOWN:
            return None
    return f"{function}-{_digest(written, repr((shapes, settings)).encode(), _surroundings())}"


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _settings() -> tuple[Any, ...]:
    """JAX's settings, those of this thread."""
    return tuple(
        (name, str(getattr(jax.config, name, None)))
        for name in jax.config.values
        if not name.startswith(IRRELEVANT)
    )


@cache
def _sources() -> bytes:
    """Those of this package."""
    digest = hashlib.blake2b()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()


@cache
def _surroundings() -> bytes:
    """What executables depend on besides program and arguments: versions, machine."""
    device = jax.devices()[0]
    about = [metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax")]
    about += [device.platform, device.device_kind, device.client.platform_version]
    about += [platform.machine(), platform.processor(), os.environ.get("XLA_FLAGS", "")]
    return "\0".join(about).encode() + _instructions()


def _instructions() -> bytes:
    """Those that this machine's processor has, where Linux says so."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return b""
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
