"""The folder of a sweep: a manifest, and Parquet parts that are there whole or not at all.

A cell's hash is the only memory: what is done is what some part says.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError, shown
from ..files import locked_file, whole_file
from ..plain_json import read_json
from .axes import Range, as_text, columns_of
from .batch import METRICS, SCHEDULES, Columns
from .grid import Grid

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, VERSION = "spectralpost sweep", 1
MANIFEST, PARTS, LOCK = "manifest.json", "parts", ".spectralpost-lock"


class Dataset(NamedTuple):
    """A folder that this process may add to."""

    folder: Path
    columns: dict[str, str]  # name -> type, as in the manifest
    shared: bool  # it holds cells of other grids, too


@contextmanager
def opened(folder: Path, grid: Grid, *, extend: bool = False) -> Iterator[Dataset]:
    """The dataset of a grid in a folder, made if there is none, and locked against other sweeps.

    extend   also add the cells of another grid than the one that the folder is of
    Raises InputError for a folder of another grid, or that holds something else, that another sweep
    writes to, or that cannot be written.
    """
    need("pyarrow")
    with ExitStack() as lock:
        try:
            dataset = _opened(folder, grid, extend, lock)
        except OSError as error:
            raise InputError(f"out = {shown(folder)}: cannot be written ({error})") from error
        yield dataset


def _opened(folder: Path, grid: Grid, extend: bool, lock: ExitStack) -> Dataset:
    """`opened`; `lock` gives the folder back."""
    columns = columns_of_grid(grid)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out = {shown(folder)}: is not a folder")
    foreign = folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists()
    if foreign and set(os.listdir(folder)) - {LOCK, PARTS}:
        raise InputError(f"out = {shown(folder)}: holds other files; choose a new folder")
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    if not lock.enter_context(locked_file(folder / LOCK)):
        raise InputError(f"out = {shown(folder)}: another sweep writes there")
    grids, given = [], json.loads(json.dumps(grid.given))
    if (folder / MANIFEST).exists():
        before = manifest_of(folder)
        columns = _together(before["columns"], columns)
        if given not in before["grids"] and not extend:
            raise InputError(
                f"out = {shown(folder)}: is of another grid; choose a new folder, or "
                "--extend this one"
            )
        grids = [one for one in before["grids"] if one != given]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "grids": [*grids, given],
        "columns": columns,
    }
    with whole_file(folder / MANIFEST, overwrite=True) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    if grids:
        _give_columns(folder, columns)
    return Dataset(folder, columns, bool(grids))


def _give_columns(folder: Path, columns: dict[str, str]) -> None:
    """The columns of a grid that was added, to the parts from before: readers expect one schema."""
    import pyarrow.parquet as pq

    schema = schema_of(columns)
    for path in parts_of(folder):
        table = table_of(path)
        if table.schema.equals(schema):
            continue
        fitted = fitted_table(path, table, schema)
        with whole_file(path, overwrite=True) as temporary:
            pq.write_table(fitted, temporary)


def fitted_table(path: Path, table: "pa.Table", schema: "pa.Schema") -> "pa.Table":
    """A part with all columns of a schema; nothing where a grid that was added later has them."""
    import pyarrow as pa

    try:
        arrays = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        ]
    except ValueError as error:  # Arrow's own is of this kind
        raise InputError(f"sweep: {shown(path)} is no part of one ({error})") from error
    return pa.table(arrays, schema=schema)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a sweep's folder, or InputError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"sweep {shown(folder)}: has no {MANIFEST}; no sweep wrote this folder")
    try:
        found = read_json(path)
    except InputError as error:
        raise InputError(f"sweep {shown(folder)}: {MANIFEST}: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"sweep {shown(folder)}: {MANIFEST} is none of a sweep")
    if found.get("version") != VERSION:
        raise InputError(
            f"sweep {shown(folder)}: version {found.get('version')}; this package reads {VERSION}"
        )
    for key, kind in (("columns", dict), ("grids", list)):
        if not isinstance(found.get(key), kind):
            raise InputError(f"sweep {shown(folder)}: {MANIFEST}: {key} is missing")
    if not {"cell", "error"} <= found["columns"].keys():
        raise InputError(f"sweep {shown(folder)}: {MANIFEST}: columns has no cell or no error")
    return found


def parts_of(folder: Path) -> list[Path]:
    """The parts that are whole."""
    return sorted(
        path for path in (folder / PARTS).glob("*.parquet") if not path.name.startswith(".")
    )


def finished(folder: Path) -> set[str]:
    """The hashes of all cells that are done."""
    found: set[str] = set()
    for path in parts_of(folder):
        found.update(table_of(path, ["cell"])["cell"].to_pylist())
    return found


def failures(folder: Path) -> dict[str, str]:
    """The errors of all cells that failed, by hash."""
    found: dict[str, str] = {}
    for path in parts_of(folder):
        part = table_of(path, ["cell", "error"])
        errors = zip(part["cell"].to_pylist(), part["error"].to_pylist(), strict=True)
        found.update((cell, error) for cell, error in errors if error is not None)
    return found


def table_of(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """A part, or those of some columns that it has."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns)
    except (OSError, ValueError) as error:  # Arrow's own are of these kinds
        raise InputError(
            f"sweep: {shown(path)} is no part of one; without it, sweep computes its cells again"
        ) from error


def write_part(folder: Path, kinds: dict[str, str], columns: Sequence[Columns]) -> Path:
    """Write cells as a part, named by them.

    kinds     column -> type, as in the manifest
    columns   those of some cells, of some others, and so on
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([_table(kinds, some) for some in columns])
    names = "".join(name for some in columns for name in some["cell"])
    path = folder / PARTS / f"part-{hashlib.sha256(names.encode()).hexdigest()[:32]}.parquet"
    with whole_file(path, overwrite=True) as temporary:
        pq.write_table(table, temporary)
    return path


def _table(kinds: dict[str, str], columns: Columns) -> "pa.Table":
    import pyarrow as pa

    schema, arrays, num = schema_of(kinds), [], len(columns["cell"])
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(num, field.type))
        elif isinstance(values, np.ndarray) and values.ndim == 2:
            ends = np.arange(num + 1, dtype=np.int32) * values.shape[1]
            arrays.append(pa.ListArray.from_arrays(ends, values.astype(float).ravel()))
        else:
            if kinds[field.name] == "text":  # also of a column whose values have several types
                values = [
                    as_text(one) if type(one) in (bool, int, float) else one for one in values
                ]
            arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=schema)


def schema_of(columns: dict[str, str]) -> "pa.Schema":
    """The schema of columns by the names of their types."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "floats": pa.list_(pa.float64()),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def columns_of_grid(grid: Grid) -> dict[str, str]:
    """The columns of all cells of a grid: the same for every part, whatever it holds."""
    found: dict[str, str] = {"cell": "text"}
    for cell in _corners(grid):
        kinds = {name: _kind(value) for name, (value,) in columns_of([cell]).items()}
        found = _together(found, kinds)
    # An axis of nothing but defaults.
    found = {name: kind or "text" for name, kind in found.items()}
    for label in SCHEDULES:
        found |= {f"{label}_{metric}": "float" for metric in METRICS}
    found |= {"alpha": "floats", "sigma": "floats"}
    weights = {name for sampler in grid.samplers for name in sampler.constraint}
    found |= {f"weight_{name}": "floats" for name in sorted(weights)}
    return found | {
        "seconds": "float",
        "seed": "int",
        "spectralpost": "text",
        "jax": "text",
        "error": "text",
        "prior_hash": "text",
    }


def _corners(grid: Grid) -> Iterator[dict[str, Any]]:
    """Cells that between them have all values of all axes."""
    if grid.design == "list":
        yield from grid.choices[""]
        return
    first = {axis: values[0] for axis, values in grid.choices.items()}
    for axis, values in grid.choices.items():
        for value in values:
            yield first | {axis: value}


def _kind(value: Any) -> str:
    if isinstance(value, Range):
        return "int" if value.whole else "float"
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float")):
        if isinstance(value, kind):
            return name
    return "" if value is None else "text"


def _together(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Columns of both; of two types the one that holds both."""
    found = dict(one)
    for name, kind in other.items():
        before = found.get(name, "")
        if before in ("", kind) or kind == "":
            found[name] = before or kind
        else:
            found[name] = "float" if {before, kind} == {"int", "float"} else "text"
    return found


def need(module: str) -> None:
    """InputError unless a module of the extra `sweep` is there."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(f"sweeps need {module}: pip install 'spectralpost[sweep]'")
