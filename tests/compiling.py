"""What tests compile: kept for their next run, and shorter for programs that run for milliseconds
and compile for seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest

# Compiling is most of the work: workers share what they compile, and later runs find it where
# pytest keeps its own things, until `pytest --cache-clear`.
KEPT = Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled"


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
