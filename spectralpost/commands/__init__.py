"""The commands of the command line, one a file, and the modules that they share.

A command is three functions: `compute(options, say)` returns a result and prints nothing, `write`
puts it into a folder, `present` prints it. One that only lists something, or fills a folder while
it computes, has no `write`. One whose result is a file has `save` in its place. One whose results
have a place of their own says so in `default_folder(options)`.
"""

from importlib import import_module
from typing import Any

import jax

from ..compiled import keep_compiled_programs
from ..config_file import to_yaml
from ..files import results_folder
from . import console
from .inputs import complete


def run(name: str, file: str, options: Any) -> None:
    """Run the command in `commands/<file>.py`."""
    # A thousand steps multiply small numbers: double precision costs little here.
    jax.config.update("jax_enable_x64", True)
    keep_compiled_programs()  # most of a run is compiling
    command = import_module(f".{file}", __name__)
    if not hasattr(command, "write"):
        with console.progress_line() as say:
            result = command.compute(options, say)
        if hasattr(command, "save"):
            command.save(result)
        command.present(result)
        return
    default = command.default_folder(options) if hasattr(command, "default_folder") else None
    with results_folder(options.out, name, default) as results:
        with console.progress_line() as say:
            result = command.compute(options, say)
        (results.folder / "config.yaml").write_text(to_yaml(complete(options)))
        command.write(result, results.folder)
        files = sorted(path.name for path in results.folder.iterdir())
    for note in result.notes:
        console.console.print(note, soft_wrap=True)
    command.present(result)
    console.console.print(f"results in {results.path}: {', '.join(files)}", soft_wrap=True)
