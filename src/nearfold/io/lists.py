"""Vectors in Arrow tables: a list column, and the columns beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold.errors import DataError, FileError
from nearfold.files import cause
from nearfold.io.base import Chunk, Layout, check_layout
from nearfold.version import __version__

__all__ = [
    "TableSink",
    "chunk_of",
    "file_error",
    "first_line",
    "fixed_lists",
    "is_fixed",
    "layout_of",
    "made_by",
    "matrix_of",
    "vector_column",
    "vector_schema",
]


def vector_column(path: str, schema: pa.Schema, column: str | None) -> str:
    """Return the name of the vector column: `column`, or the only list of numbers there is."""
    lists: list[str] = [field.name for field in schema if _holds_vectors(field.type)]
    if column is not None:
        if column not in schema.names:
            raise FileError(f"{path}: has no column {column!r}; it has {', '.join(schema.names)}")
        if column not in lists:
            raise FileError(
                f"{path}: column {column!r} is {schema.field(column).type}, not a list of numbers"
            )
        return _usable(path, schema, column)
    if len(lists) != 1:
        raise FileError(
            f"{path}: {'several columns are' if lists else 'no column is a'} list of numbers "
            f"({', '.join(lists or schema.names)}); name the vectors with --column"
        )
    return _usable(path, schema, lists[0])


def _usable(path: str, schema: pa.Schema, name: str) -> str:
    """Return a column's name, or refuse one by which it can't be found."""
    if schema.get_field_index(name) < 0:
        raise FileError(f"{path}: column {name!r} is there twice, or its name is damaged; rename it")
    return name


def _holds_vectors(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or is_fixed(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def is_fixed(kind: pa.DataType) -> bool:
    """Return whether all lists of a type have one length."""
    return bool(pa.types.is_fixed_size_list(kind))


def layout_of(path: str, schema: pa.Schema, name: str, rows: int, width: int) -> Layout:
    """Return the layout of a table with vectors of `width` in column `name`."""
    others = pa.schema([field for field in schema if field.name != name])
    # Arrow's own answer (to_pandas_dtype) asks for pandas in early releases.
    dtype = pa.array([], schema.field(name).type.value_type).to_numpy().dtype
    layout = check_layout(path, (rows, width), dtype, f"column {name!r}")
    return layout._replace(name=name, others=others if len(others) else None)


def vector_schema(layout: Layout) -> pa.Schema:
    """Return the schema that a layout is written with: the vectors first, then the others."""
    fields = [pa.field(layout.name, pa.list_(pa.from_numpy_dtype(layout.dtype), layout.n_features))]
    return pa.schema([*fields, *(layout.others or [])], metadata=made_by(layout.origin))


def made_by(origin: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str]:
    """Return the metadata by which a table says what made it: this version, and more that is known."""
    return {"nearfold": json.dumps({"nearfold": __version__, **origin})}


def table_of(chunk: Chunk, layout: Layout) -> pa.Table:
    """Return a chunk as a table of `vector_schema(layout)`."""
    columns: dict[str, Any] = {layout.name: fixed_lists(chunk.vectors.astype(layout.dtype, copy=False))}
    if chunk.others is not None:
        columns |= {name: chunk.others.column(name) for name in chunk.others.column_names}
    schema = vector_schema(layout)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def fixed_lists(vectors: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Return an array of shape (n, width) as n lists of one length."""
    flat = np.ascontiguousarray(vectors).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def chunk_of(path: str, batch: pa.RecordBatch, layout: Layout, first_row: int) -> Chunk:
    """Return the vectors and the other columns of a batch whose rows count from `first_row`."""
    table = pa.Table.from_batches([batch])
    lists = table.column(layout.name).combine_chunks()
    others = table.drop_columns([layout.name])
    vectors = matrix_of(path, lists, layout.n_features, first_row)
    return Chunk(vectors, others if others.num_columns else None)


def matrix_of(path: str, lists: pa.Array, width: int, first_row: int) -> npt.NDArray[Any]:
    """Return lists of one length as an array of shape (rows, width)."""
    if lists.null_count:
        bad = first_row + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{path}: row {bad} has no vector (null); remove such rows")
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        bad = int(np.flatnonzero(lengths != width)[0])
        raise DataError(
            f"{path}: row {first_row + bad} has {lengths[bad]} dimensions where the first row has {width}"
        )
    flat = lists.flatten()
    if flat.null_count:
        bad = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"{path}: row {first_row + bad // width}, dimension {bad % width} is null; remove such rows"
        )
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), width)


class TableSink:
    """Appends tables to an Arrow or Parquet writer; vectors become a fixed-size list column."""

    def __init__(self, writer: Any, layout: Layout) -> None:
        self._writer, self._layout = writer, layout

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        self._writer.write_table(table_of(chunk, self._layout))


def file_error(path: str, error: BaseException, otherwise: str) -> FileError:
    """Return what to raise for an error of Arrow: the system's own words, or `otherwise` and Arrow's."""
    if isinstance(error, OSError) and error.errno is not None:
        return FileError(f"{path}: can't be read: {cause(error)}")
    return FileError(f"{path}: {otherwise} ({first_line(error)})")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().split("\n")[0]
