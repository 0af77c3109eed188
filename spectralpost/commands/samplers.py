"""`spectralpost samplers`: the table of samplers."""

import numpy as np
from rich.table import Table

from ..cli import Samplers
from ..problem import make_problem
from ..samplers import SAMPLERS
from .console import console


def list_samplers(options: Samplers) -> None:
    """Print the table of samplers."""
    del options
    table = Table("name", "update", "weights", "reference")
    some_problem = make_problem(np.ones(1), np.ones(1), 1.0)
    for name, factory in SAMPLERS.items():
        sampler = factory(some_problem) if name == "exact" else factory()
        weights = ", ".join(
            f"{weight} {'in [0, 1]' if kind == 'unit' else '>= 0'}"
            for weight, kind in sampler.constraint.items()
        )
        table.add_row(name, sampler.summary, weights, sampler.reference)
    console.print(table)
