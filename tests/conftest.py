"""Float64 and strict promotion for every test; the library itself follows its input's dtype."""

import ctypes
import gc
import os
import tempfile
from importlib import metadata

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Programs that a test starts share with those of the same worker only, one at a time: not all
    # of them keep what they compile by our means, and JAX's own do not bear company, nor an end
    # while they are written. So nothing of theirs stays.
    os.environ["JAX_COMPILATION_CACHE_DIR"] += os.sep + os.environ["PYTEST_XDIST_WORKER"]
else:
    compiled = tempfile.TemporaryDirectory(prefix="spectralpost-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # The older code generator compiles twice as fast. jaxlib 0.11.1 lost it and refuses the flag.
    # Small programs are not worth being split among threads, which other workers need as well.
    if tuple(map(int, metadata.version("jaxlib").split(".")[:3])) < (0, 11, 1):
        flags = [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        ]
        os.environ["XLA_FLAGS"] = " ".join(flags)

import jax
import pytest
from compiling import KEPT, quick_compilation, reuse_contexts

from spectralpost.compiled import (
    drop_compiled_programs,
    keep_compiled_programs,
    num_memory_maps,
)

keep_compiled_programs(KEPT)
reuse_contexts()
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes objects by the million, hardly any of them in cycles: looking for these every 700
# takes a quarter of it. Once a file does, see below.
gc.set_threshold(100_000, 20, 20)


MANY_MAPS = 20_000

# Of glibc: else what one file needed stays with the worker.
return_free_memory = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Drop compiled programs once they are many. Each takes dozens of the 65,530 memory maps that
    Linux grants a process, and XLA ends in a segmentation fault when there are no more."""
    yield
    if num_memory_maps() > MANY_MAPS:
        drop_compiled_programs()
        gc.collect()
        if return_free_memory is not None:
            return_free_memory(0)


@pytest.fixture(scope="module")
def quick():
    """Shorter compilation: these programs run for milliseconds and compile for seconds. Of all of a
    file, fixtures of its own included."""
    with quick_compilation():
        yield


@pytest.fixture
def getkey():
    """A function that returns a fresh random key at each call, the same ones in every run."""
    key = jax.random.key(0)
    count = 0

    def next_key():
        nonlocal count
        count += 1
        return jax.random.fold_in(key, count)

    return next_key
