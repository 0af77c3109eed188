"""The cells of a sweep as columns: read at any time, those that conditions select.

Columns of axes are kept as their distinct values and a number for each cell, so that a million
cells take some hundred MB. Lists (levels, weights) are read only of cells that are asked for.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError, shown
from .axes import AXES, as_text
from .batch import METRICS, SCHEDULES
from .dataset import fitted_table, manifest_of, need, parts_of, schema_of, table_of
from .grid import Grid, cell_hash, grid_of

if TYPE_CHECKING:
    import pyarrow as pa

MOST_HASHED = 100_000  # cells of several grids, of which those are counted that differ
SAME = 5e-6  # relative: a number of six digits means the one that it was rounded from
CONDITION = re.compile(r"([\w.]+)\s*(==|!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)
COMPARE: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


class Column(NamedTuple):
    """A column by its distinct values."""

    values: np.ndarray  # [n] in order: numbers, NaN last where cells have none; or texts, None last
    codes: np.ndarray  # [N]: which of them each cell has


class Cells(NamedTuple):
    """N cells of a sweep, each once."""

    folder: Path
    kinds: dict[str, str]  # of all columns, as in the manifest
    axes: dict[str, Column]
    error: Column
    numbers: dict[str, np.ndarray]  # metrics and the like [N], NaN where there is none
    parts: tuple[Path, ...]
    part: np.ndarray  # [N]: where a cell is
    row: np.ndarray  # [N]

    @property
    def good(self) -> np.ndarray:
        """Which cells ended well, [N]."""
        return _missing(self.error.values)[self.error.codes]

    @property
    def num(self) -> int:
        return len(self.part)


class Condition(NamedTuple):
    """What a cell must be to be selected."""

    column: str
    operator: str  # = != < <= > >=
    value: Any  # number, text, bool, or None: no value


def conditions_of(words: Sequence[str], kinds: dict[str, str]) -> tuple[Condition, ...]:
    """Conditions such as sigma_y<=0.1; InputError for an unknown column or a value of another type.

    kinds   column -> type, as in the manifest
    """
    return tuple(_condition(word, kinds) for word in words)


def read_cells(
    folder: Path,
    metrics: Sequence[str],
    where: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Cells, np.ndarray]:
    """The cells that are done, failed ones included, and which of them all conditions select [N].

    metrics   columns of numbers to read beside the axes
    No lock is taken: of a sweep that runs, these are its parts so far.
    """
    need("pyarrow")
    kinds = manifest_of(folder)["columns"]
    conditions = conditions_of(where, kinds)
    own = {"cell", "error", *metrics, *axes_in(kinds)}
    names = [name for name in kinds if name in own | {one.column for one in conditions}]
    schema, parts = schema_of({name: kinds[name] for name in names}), parts_of(folder)
    of_numbers = {name for name in names if kinds[name] in ("int", "float")}
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    texts: dict[str, dict[Any, int]] = {name: {} for name in names}  # value -> number
    for i, path in enumerate(parts):
        table = _columns(path, schema)
        for name in names:
            if name in of_numbers:
                found = table[name].to_numpy().astype(float)
            elif name == "cell":
                found = table[name].to_numpy().astype("S")
            else:
                found = _coded(table[name], texts[name])
            chunks[name].append(found)
        if i % 100 == 99:
            say(f"read {i + 1} of {len(parts)} parts")
    sizes = [len(chunk) for chunk in chunks["cell"]]
    part = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    starts = np.cumsum([0, *sizes])[:-1]
    row = (np.arange(len(part)) - np.repeat(starts, sizes)).astype(np.int32)
    cell = _joined(chunks.pop("cell"), "S")
    once = _once(cell)
    numbers, columns = {}, {}
    for name in list(chunks):
        if name not in of_numbers:
            columns[name] = _in_order(texts[name], _joined(chunks.pop(name), np.int32))
            continue
        numbers[name] = _joined(chunks.pop(name), float)
        if name.split(".")[0] in AXES:
            values, codes = np.unique(numbers.pop(name), return_inverse=True)
            columns[name] = Column(values, codes.astype(np.int32))
    chosen = np.ones(len(part), bool)
    for one in conditions:
        if one.column == "cell":
            chosen &= _holds(one._replace(value=str(one.value).encode()), cell, "text")
        elif one.column in numbers:
            chosen &= _holds(one, numbers[one.column], kinds[one.column])
        else:
            values, codes = columns[one.column]
            chosen &= _holds(one, values, kinds[one.column])[codes]
    error, axes = columns["error"], {name: columns[name] for name in axes_in(kinds)}
    found = Cells(folder, kinds, axes, error, numbers, tuple(parts), part, row)
    return (found, chosen) if once.all() else (selected(found, once), chosen[once])


def selected(cells: Cells, keep: np.ndarray) -> Cells:
    """Some of the cells: a mask [N], or their numbers."""

    def of(column: Column) -> Column:
        used, codes = np.unique(column.codes[keep], return_inverse=True)
        return Column(column.values[used], codes.astype(np.int32))

    return cells._replace(
        axes={name: of(column) for name, column in cells.axes.items()},
        error=of(cells.error),
        numbers={name: values[keep] for name, values in cells.numbers.items()},
        part=cells.part[keep],
        row=cells.row[keep],
    )


def take(cells: Cells, which: np.ndarray, names: Sequence[str]) -> "pa.Table":
    """Columns of the cells of some numbers, lists among them, in that order."""
    import pyarrow as pa

    schema = schema_of({name: cells.kinds[name] for name in names})
    order = np.argsort(cells.part[which], kind="stable")
    part, row = cells.part[which][order], cells.row[which][order]
    ends = [*np.flatnonzero(np.diff(part)) + 1, len(part)]
    tables, start = [schema.empty_table()], 0
    for end in ends if len(part) else []:
        tables.append(_columns(cells.parts[part[start]], schema).take(row[start:end]))
        start = end
    back = np.empty(len(order), int)
    back[order] = np.arange(len(order))
    return pa.concat_tables(tables).take(back)


def axes_in(kinds: Mapping[str, str]) -> list[str]:
    """The columns that are axes, or options of them."""
    return [name for name in kinds if name.split(".")[0] in AXES]


def metrics_in(kinds: Mapping[str, str]) -> list[str]:
    known = [f"{label}_{metric}" for label in SCHEDULES for metric in METRICS]
    return [name for name in known if name in kinds]


def grids_of(folder: Path) -> list[Grid]:
    """The grids that a sweep's folder is of."""
    manifest = manifest_of(folder)
    try:
        return [grid_of(given) for given in manifest["grids"]]
    except InputError as error:
        raise InputError(f"sweep {shown(folder)}: {error}") from error


def num_cells_of(grids: Sequence[Grid]) -> tuple[int, bool]:
    """How many cells grids have, and whether that is exact: else it is at most so many."""
    most = sum(grid.num_cells for grid in grids)
    if len(grids) == 1 and grids[0].design == "product":
        return most, True
    if most > MOST_HASHED:
        return most, False
    return len({cell_hash(cell, grid.settings) for grid in grids for cell in grid.cells()}), True


# ------------------------------------------------------------------------------------ conditions


def _condition(word: str, kinds: dict[str, str]) -> Condition:
    found = CONDITION.fullmatch(word.strip())
    if found is None:
        raise InputError(
            f"where = {word!r}: COLUMN, one of = != < <= > >=, and a value are needed, such as "
            "sigma_y<=0.1"
        )
    column, operator, text = found.groups()
    operator = "=" if operator == "==" else operator
    allowed = [name for name, kind in kinds.items() if kind != "floats"]
    if column not in allowed:
        raise InputError(
            f"where = {word!r}: no column {column!r}; allowed are {', '.join(allowed)}"
        )
    kind = kinds[column]
    if operator in COMPARE and kind not in ("int", "float"):
        raise InputError(f"where = {word!r}: {column} is no number, it has = and != alone")
    if not text:
        if operator in COMPARE:
            raise InputError(f"where = {word!r}: a number is needed")
        return Condition(column, operator, None)
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise InputError(f"where = {word!r}: {column} is true or false")
        return Condition(column, operator, text.lower() == "true")
    if kind not in ("int", "float"):
        return Condition(column, operator, text)
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if np.isnan(number):
        raise InputError(f"where = {word!r}: {column} is a number, {text!r} is none")
    return Condition(column, operator, number)


def _holds(condition: Condition, values: np.ndarray, kind: str) -> np.ndarray:
    """For which values a condition holds; a cell without one is unequal to all."""
    _, operator, wanted = condition
    if operator in COMPARE:
        return COMPARE[operator](values, wanted)
    if wanted is None:
        equal = _missing(values)
    elif kind == "float":
        equal = np.isclose(values, wanted, rtol=SAME, atol=0.0)
    else:
        equal = values == wanted
    equal = np.asarray(equal, bool)
    return equal if operator == "=" else ~equal


# --------------------------------------------------------------------------------------- columns


def _columns(path: Path, schema: "pa.Schema") -> "pa.Table":
    """Columns of a part."""
    table = table_of(path, schema.names)
    return table if table.schema.equals(schema) else fitted_table(path, table, schema)


def _coded(array: "pa.ChunkedArray", known: dict[Any, int]) -> np.ndarray:
    """Texts as their numbers [n] in `known`, which grows by new ones."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_list(array.type):
        array = pa.chunked_array([[as_text(one) for one in array.to_pylist()]], pa.string())
    encoded = array.combine_chunks().dictionary_encode("encode")
    own = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
    return np.asarray(own, np.int32)[encoded.indices.to_numpy()]


def _missing(values: np.ndarray) -> np.ndarray:
    """Which of them stand for no value."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.asarray([value is None for value in values], bool)


def _in_order(known: dict[Any, int], codes: np.ndarray) -> Column:
    """The values sorted as texts, None last."""
    values = sorted(known, key=lambda value: (value is None, str(value)))
    rank = np.empty(len(values), np.int32)
    rank[[known[value] for value in values]] = np.arange(len(values))
    return Column(np.asarray([*values, None], object)[:-1], rank[codes])


def _joined(chunks: list[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate(chunks) if chunks else np.empty(0, kind)


def _once(cell: np.ndarray) -> np.ndarray:
    """Which rows are the first of their cell: two runs may have computed one."""
    keep = np.zeros(len(cell), bool)
    keep[np.unique(cell, return_index=True)[1]] = True
    return keep
