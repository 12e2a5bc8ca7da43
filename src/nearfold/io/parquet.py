"""Parquet: vectors in a list column, other columns carried along."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nearfold.errors import DataError, FileError
from nearfold.files import cause, replacing
from nearfold.io.base import Chunk, Layout, check_layout

__all__ = ["read", "write"]


class ParquetSource:
    """The vector column of a Parquet file and the columns beside it."""

    def __init__(self, path: Path, file: pq.ParquetFile, column: str | None) -> None:
        self.path = path
        self._file = file
        schema = file.schema_arrow
        name = _choose(path, schema, column)
        kind = schema.field(name).type
        rows = file.metadata.num_rows
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_width(name)
        self._check_counts(name, rows, width, fixed=pa.types.is_fixed_size_list(kind))
        others = pa.schema([field for field in schema if field.name != name])
        self.layout = check_layout(
            path, (rows, width), np.dtype(kind.value_type.to_pandas_dtype()), f"column {name!r}"
        )._replace(name=name, others=others if len(others) else None)

    def _check_counts(self, name: str, rows: int, width: int, *, fixed: bool) -> None:
        """Refuse sizes that the stored values can't fill, before memory is taken for them."""
        footer = self._file.metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        columns = [group.column(j) for group in groups for j in range(group.num_columns)]
        values = sum(c.num_values for c in columns if c.path_in_schema.split(".")[0] == name)
        if max(rows, width) > max(values, 0) or (fixed and rows * width > values):
            raise FileError(
                f"{self.path}: column {name!r} promises {rows} vectors of {width} dimensions and holds "
                f"{values} numbers; rows without a vector must be removed, or else the file is corrupt"
            )

    def _first_width(self, name: str) -> int:
        """Return the length of the first list: all others must have it too."""
        for batch in self._batches(1, [name]):
            lengths = batch.column(0).value_lengths()
            return lengths[0].as_py() or 0
        return 0

    def _batches(self, rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(batch_size=rows, columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise FileError(f"{self.path}: truncated or corrupt ({_first_line(error)})") from error

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield the rows of the file, one record batch after another."""
        first = 0
        for batch in self._batches(rows):
            table = pa.Table.from_batches([batch])
            lists = table.column(self.layout.name).combine_chunks()
            others = None if self.layout.others is None else table.drop_columns([self.layout.name])
            yield Chunk(_matrix(self.path, lists, self.layout.n_features, first), others)
            first += len(batch)


class ParquetSink:
    """Appends record batches; vectors become a fixed-size list column."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema, layout: Layout) -> None:
        self._writer, self._schema, self._layout = writer, schema, layout

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        flat = np.ascontiguousarray(chunk.vectors, self._layout.dtype).reshape(-1)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), self._layout.n_features)
        columns = {self._layout.name: vectors}
        if chunk.others is not None:
            columns |= {name: chunk.others.column(name) for name in chunk.others.column_names}
        table = pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table)


def read(path: Path, column: str | None) -> ParquetSource:
    """Open a Parquet file; `column` names the vectors, None takes the only list of numbers."""
    try:
        return ParquetSource(path, pq.ParquetFile(path), column)
    except OSError as error:
        if error.errno is None:
            raise FileError(f"{path}: truncated or not a Parquet file ({_first_line(error)})") from error
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except (pa.ArrowException, ValueError) as error:
        # ValueError: a name in the footer that is not UTF-8.
        raise FileError(f"{path}: truncated or not a Parquet file ({_first_line(error)})") from error


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ParquetSink]:
    """Open a Parquet file for writing: the vectors first, then `layout.others`."""
    fields = [pa.field(layout.name, pa.list_(pa.from_numpy_dtype(layout.dtype), layout.n_features))]
    schema = pa.schema([*fields, *(layout.others or [])])
    try:
        with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
            yield ParquetSink(writer, schema, layout)
    except pa.ArrowException as error:
        raise FileError(f"{path}: can't be written ({_first_line(error)})") from error


def _choose(path: Path, schema: pa.Schema, column: str | None) -> str:
    """Return the name of the vector column."""
    lists: list[str] = [field.name for field in schema if _holds_vectors(field.type)]
    if column is not None:
        if column not in schema.names:
            raise FileError(f"{path}: has no column {column!r}; it has {', '.join(schema.names)}")
        if column not in lists:
            raise FileError(
                f"{path}: column {column!r} is {schema.field(column).type}, not a list of numbers"
            )
        return column
    if len(lists) != 1:
        raise FileError(
            f"{path}: {'several columns are' if lists else 'no column is a'} list of numbers "
            f"({', '.join(lists or schema.names)}); name the vectors with --column"
        )
    return lists[0]


def _holds_vectors(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _matrix(path: Path, lists: pa.Array, width: int, first_row: int) -> npt.NDArray[Any]:
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
