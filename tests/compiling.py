"""Shorter compilation for tests whose programs run for milliseconds and compile for seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest


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
