"""The commands of the command line, one a file, and what they share (`setting`, `console`)."""

import jax

from ..cli import Compare, Design, Evaluate, Restore, Samplers, Tradeoff
from ..compiled import keep_compiled_programs
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
    keep_compiled_programs()  # most of a run is compiling
    commands = {
        Design: design,
        Compare: compare,
        Tradeoff: tradeoff,
        Evaluate: evaluate,
        Restore: restore_image,
        Samplers: list_samplers,
    }
    commands[type(options)](options)
