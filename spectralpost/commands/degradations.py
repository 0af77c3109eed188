"""`spectralpost degradations`: degradations and noise grids, with their options."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.table import Table

from ..degradations import DEGRADATIONS
from ..noise_grid import GRIDS
from ..options import Degradations
from ..signatures import as_words, options_of
from .console import Say, console, quiet


class Entry(NamedTuple):
    name: str
    options: tuple[str, ...]  # as name=default
    summary: str


def compute(options: Degradations, say: Say = quiet) -> dict[str, list[Entry]]:
    """Title of a table -> its entries."""
    del options, say
    return {
        "--degradation": [_entry(name, factory, "shape") for name, factory in DEGRADATIONS.items()],
        "--grid": [_entry(name, factory, "num_steps") for name, factory in GRIDS.items()],
    }


def present(result: dict[str, list[Entry]]) -> None:
    for title, entries in result.items():
        table = Table("name", "options and defaults", "what it is", title=title)
        for entry in entries:
            table.add_row(entry.name, "\n".join(entry.options), entry.summary)
        console.print(table)


def _entry(name: str, factory: Callable[..., Any], own: str) -> Entry:
    parameters = options_of(factory, own=(own,)).items()
    options = tuple(
        option if parameter.default is parameter.empty else as_words({option: parameter.default})[0]
        for option, parameter in parameters
    )
    return Entry(name, options, (inspect.getdoc(factory) or "").partition("\n\n")[0])
