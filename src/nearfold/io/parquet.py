"""Parquet: vectors in a list column, other columns carried along."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nearfold.errors import FileError
from nearfold.files import replacing
from nearfold.io.base import Chunk, Layout, Source, grouped_pieces
from nearfold.io.lists import (
    TableSink,
    chunk_of,
    file_error,
    first_line,
    is_fixed,
    layout_of,
    vector_column,
    vector_schema,
)
from nearfold.io.location import Location

__all__ = ["SUFFIXES", "read", "write"]

# Endings of such files.
SUFFIXES = (".parquet",)

# Pages are read as they are decoded: a row group of any size takes this much at a time.
_READ_BYTES = 4 << 20

# Vectors that are not nearly all the same don't shrink to less than this share of float32.
_BYTES, _PLAUSIBLE = 4, 64


class ParquetSource(Source):
    """The vector column of a Parquet file and the columns beside it."""

    def __init__(self, location: Location, column: str | None) -> None:
        self.path = location.name
        self._location = location
        with self._open() as file:
            schema = file.schema_arrow
            name = vector_column(self.path, schema, column)
            kind = schema.field(name).type
            rows = file.metadata.num_rows
            width = kind.list_size if is_fixed(kind) else self._first_width(file, name)
            if rows * width * _BYTES > _PLAUSIBLE * location.size():
                self._check_counts(file.metadata, name, rows, width, fixed=is_fixed(kind))
            group_rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._group_starts = np.cumsum([0, *group_rows])
        self.layout = layout_of(self.path, schema, name, rows, width)

    def _open(self) -> pq.ParquetFile:
        # No file stays open between uses: a folder may have more of them than a process may hold.
        location = self._location
        handle = location.path if location.filesystem is None else location.open()
        return pq.ParquetFile(handle, buffer_size=_READ_BYTES, pre_buffer=location.filesystem is not None)

    def _check_counts(
        self, footer: pq.FileMetaData, name: str, rows: int, width: int, *, fixed: bool
    ) -> None:
        """Refuse sizes that the stored values can't fill, before memory is taken for them.

        Only where a file promises far more than it has bytes: pyarrow 26 ends the process when it looks
        at a column whose statistics in the footer are damaged.
        """
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        columns = [group.column(j) for group in groups for j in range(group.num_columns)]
        values = sum(c.num_values for c in columns if c.path_in_schema.split(".")[0] == name)
        if max(rows, width) > max(values, 0) or (fixed and rows * width > values):
            raise FileError(
                f"{self.path}: column {name!r} promises {rows} vectors of {width} dimensions and holds "
                f"{values} numbers; rows without a vector must be removed, or else the file is corrupt"
            )

    def _first_width(self, file: pq.ParquetFile, name: str) -> int:
        """Return the length of the first list: all others must have it too."""
        for batch in file.iter_batches(batch_size=1, columns=[name]):
            lengths = batch.column(0).value_lengths()
            return lengths[0].as_py() or 0
        return 0

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield rows, one record batch after another; row groups without any of them are not read."""
        stop = self.layout.rows if stop is None else stop
        starts = self._group_starts
        low, high = np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts, stop)
        first = int(starts[low])
        columns = None if others else [self.layout.name]
        try:
            with self._open() as file:
                groups = list(range(low, high))
                for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=columns):
                    skip, keep = max(0, start - first), min(len(batch), stop - first)
                    if skip < keep:
                        yield chunk_of(self.path, batch.slice(skip, keep - skip), self.layout, first + skip)
                    first += len(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise file_error(self.path, error, "truncated or corrupt") from error

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of whole row groups."""
        return grouped_pieces(self._group_starts, rows)


def read(location: Location, column: str | None) -> ParquetSource:
    """Open a Parquet file; `column` names the vectors, None takes the only list of numbers."""
    try:
        return ParquetSource(location, column)
    except FileError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # ValueError: a name in the footer that is not UTF-8.
        raise file_error(location.name, error, "truncated or not a Parquet file") from error


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[TableSink]:
    """Open a Parquet file for writing: the vectors first, then `layout.others`."""
    schema = vector_schema(layout)
    try:
        with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
            yield TableSink(writer, layout)
    except pa.ArrowException as error:
        raise FileError(f"{path}: can't be written ({first_line(error)})") from error
