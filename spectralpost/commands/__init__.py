"""The commands of the command line, one a file, and what they share (`setting`, `console`)."""

import jax

from ..cli import Compare, Design, Evaluate, Restore, Samplers
from .compare import compare
from .design import design
from .evaluate import evaluate
from .restore import restore_image
from .samplers import list_samplers


def run(options: Design | Compare | Evaluate | Restore | Samplers) -> None:
    """Run the command that the options belong to."""
    # A thousand steps multiply small numbers: double precision costs little here.
    jax.config.update("jax_enable_x64", True)
    commands = {
        Design: design,
        Compare: compare,
        Evaluate: evaluate,
        Restore: restore_image,
        Samplers: list_samplers,
    }
    commands[type(options)](options)
