"""The commands of the command line, one a file, and what they share (`inputs`, `console`).

A command is three functions: `compute(options, say)` returns a result and prints nothing, `write`
puts it into a folder, `present` prints it. One that only lists something has no `write`.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import jax

from ..options import to_yaml
from . import console
from .inputs import complete


def run(name: str, file: str, options: Any) -> None:
    """Run the command in `commands/<file>.py`."""
    # A thousand steps multiply small numbers: double precision costs little here.
    jax.config.update("jax_enable_x64", True)
    _keep_compiled_programs()
    command = import_module(f".{file}", __name__)
    if not hasattr(command, "write"):
        command.present(command.compute(options))
        return
    with console.results_folder(options.out, name) as results:
        with console.progress_line() as say:
            result = command.compute(options, say)
        (results.folder / "config.yaml").write_text(to_yaml(complete(options)))
        command.write(result, results.folder)
        files = sorted(path.name for path in results.folder.iterdir())
    command.present(result)
    console.console.print(f"results in {results.path}: {', '.join(files)}", soft_wrap=True)


def _keep_compiled_programs() -> None:
    """Most of a run is compiling: keep the programs for the next one, in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps nothing.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectralpost"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
