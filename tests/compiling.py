"""What tests compile: kept for their next run, and shorter for programs that run for milliseconds
and compile for seconds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from jax._src.interpreters import mlir

# Compiling is most of the work: workers share what they compile, and later runs find it where
# pytest keeps its own things, until `pytest --cache-clear`.
KEPT = Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled"


def reuse_contexts() -> None:
    """Lower a hundred programs in one MLIR context. Making it takes 8 ms of the 25 ms that a small
    program costs, of which there are thousands. JAX 0.12 does the same for ten."""
    if not hasattr(mlir, "make_ir_context"):  # JAX's own affair
        return
    make, mine = mlir.make_ir_context, threading.local()

    def reused():
        if not getattr(mine, "left", 0):
            mine.context, mine.left = make(), 100
        mine.left -= 1
        return mine.context

    mlir.make_ir_context = reused


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Without most of XLA's optimisations, which change results by rounding only; in processes
    that are started meanwhile as well."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
