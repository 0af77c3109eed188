"""The commands of the command line, one a file, and what they share (`setting`, `console`)."""

import os
from pathlib import Path

import jax

from ..cli import Compare, Design, Evaluate, Restore, Samplers, Tradeoff
from .compare import compare
from .design import design
from .evaluate import evaluate
from .restore import restore_image
from .samplers import list_samplers
from .tradeoff import tradeoff


def run(options: Design | Compare | Tradeoff | Evaluate | Restore | Samplers) -> None:
    """Run the command that the options belong to."""
    # A thousand steps multiply small numbers: double precision costs little here.
    jax.config.update("jax_enable_x64", True)
    _keep_compiled_programs()
    commands = {
        Design: design,
        Compare: compare,
        Tradeoff: tradeoff,
        Evaluate: evaluate,
        Restore: restore_image,
        Samplers: list_samplers,
    }
    commands[type(options)](options)


def _keep_compiled_programs() -> None:
    """Most of a run is compiling: keep the programs for the next one, in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps nothing.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectralpost"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
