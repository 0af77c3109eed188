"""`spectralpost samplers`: the table of samplers."""

import numpy as np
from rich.table import Table

from ..options import Samplers
from ..problem import make_problem
from ..samplers import SAMPLERS
from ..samplers.base import Sampler
from .console import Say, console, quiet


def compute(options: Samplers, say: Say = quiet) -> list[Sampler]:
    """All samplers, as published."""
    del options, say
    some_problem = make_problem(np.ones(1), np.ones(1), 1.0)
    return [
        factory(some_problem) if name == "exact" else factory()
        for name, factory in SAMPLERS.items()
    ]


def present(result: list[Sampler]) -> None:
    table = Table("name", "update", "weights", "reference")
    for sampler in result:
        weights = ", ".join(
            f"{weight} {'in [0, 1]' if kind == 'unit' else '>= 0'}"
            for weight, kind in sampler.constraint.items()
        )
        table.add_row(sampler.name, sampler.summary, weights, sampler.reference)
    console.print(table)
