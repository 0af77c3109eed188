"""Rows of a sweep back to the cells of its grids.

A row's columns are what people read; the cell that its hash is of has all values with their types.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from .axes import TABLES, columns_of
from .grid import Grid, Settings, cell_hash

NUMBERS = ("steps", "sigma_y", "factor")  # axes of which every cell has a number
Found = tuple[dict[str, Any], Settings]


def cells_of(grids: Sequence[Grid], rows: Sequence[Mapping[str, Any]]) -> dict[str, Found]:
    """Hash -> the cell of each row, and what its grid sets for all.

    Raises InputError for a row that is of none of the grids.
    """
    wanted = {row["cell"]: row for row in rows}
    found: dict[str, Found] = {}
    for grid in grids:
        if grid.design == "product":
            for name, row in wanted.items():
                if name not in found:
                    _look(_narrowed(grid, row), {name: row}, found)
        else:
            _look(grid, wanted, found)
    for name in wanted.keys() - found.keys():
        raise InputError(
            f"sweep: its grids have no cell {name}; parts of another grid need that one, too: "
            "sweep GRID --out FOLDER --extend"
        )
    return found


def _look(grid: Grid, rows: Mapping[str, Mapping[str, Any]], found: dict[str, Found]) -> None:
    """Go through a grid until all rows are found."""
    left = rows.keys() - found.keys()
    numbers = {tuple(rows[name].get(axis) for axis in NUMBERS) for name in left}
    for cell in grid.cells() if left else ():
        if tuple(cell[axis] for axis in NUMBERS) not in numbers:  # a hash costs more
            continue
        name = cell_hash(cell, grid.settings)
        if name in left:
            found[name] = cell, grid.settings
            left.remove(name)
            if not left:
                return


def _narrowed(grid: Grid, row: Mapping[str, Any]) -> Grid:
    """The product of the values that a row can be of."""
    choices = {}
    for axis, values in grid.choices.items():
        fits = [value for value in values if _fits(axis, value, row)]
        choices[axis] = tuple(fits) or values  # columns are none of the value: the hash decides
    num = 1
    for values in choices.values():
        num *= len(values)
    return grid._replace(choices=choices, num_cells=num)


def _fits(axis: str, value: Any, row: Mapping[str, Any]) -> bool:
    columns = {name: one for name, (one,) in columns_of([{axis: value}]).items()}
    own = {
        name: one
        for name, one in row.items()
        if name == axis or (axis in TABLES and name.startswith(f"{axis}."))
    }
    # Of columns of several types texts hold numbers.
    return all(
        columns.get(name) == one or str(columns.get(name)).lower() == str(one).lower()
        for name, one in own.items()
    )
