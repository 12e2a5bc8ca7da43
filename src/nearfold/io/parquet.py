"""The format Parquet: vectors in a list column, with other columns beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nearfold.errors import FileError
from nearfold.io.base import Chunk, Layout, grouped_pieces
from nearfold.io.lists import TableSink, TableSource, find_vectors, is_fixed, reading, written
from nearfold.io.location import Location

__all__ = ["SUFFIXES", "read", "write"]

# The suffix of such files.
SUFFIXES = (".parquet",)

# The read buffer: pages are read as they are decoded, so a row group of any size needs no more at a time.
_READ_BYTES = 4 << 20

# The bytes of float32, and the compression beyond which a file's counts are checked: unless they are nearly
# all equal, vectors can't be compressed that much.
_BYTES, _PLAUSIBLE = 4, 64

# The rows of the first read, when their size is not yet known, and the factor by which reads then grow.
_FIRST_ROWS, _GROWTH = 64, 4


class ParquetSource(TableSource):
    """The vector column of a Parquet file and the columns beside it."""

    def __init__(self, location: Location, column: str | None) -> None:
        self._location = location
        with self._open() as file:
            schema = file.schema_arrow
            # The column is checked first, so that no more is read of an unusable file.
            vectors = find_vectors(location.name, schema, column)
            footer = file.metadata
            rows = footer.num_rows
            group_rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
            self._group_starts = np.cumsum([0, *group_rows])
            self._file = file
            super().__init__(location.name, schema, vectors, rows)
            del self._file
            if rows * self.layout.n_features * _BYTES > _PLAUSIBLE * location.size():
                self._check_counts(footer)

    @contextmanager
    def _open(self, **options: Any) -> Iterator[pq.ParquetFile]:
        # No file stays open between uses, as a folder may have more files than a process may open.
        location = self._location
        with (
            location.open() as handle,
            pq.ParquetFile(
                handle, buffer_size=_READ_BYTES, pre_buffer=location.filesystem is not None, **options
            ) as file,
        ):
            yield file

    @property
    def _leaf(self) -> str:
        """The path of the vectors within the schema, by which they alone are read."""
        return ".".join((self.column.top, *self.column.fields))

    def _check_counts(self, footer: pq.FileMetaData) -> None:
        """Refuse declared sizes that exceed the stored values, before memory is allocated for them.

        This is called only if a file declares far more than it has bytes, because pyarrow 26 ends the process
        when it reads a column's metadata whose statistics are damaged.
        """
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        columns = [group.column(j) for group in groups for j in range(group.num_columns)]
        values = sum(c.num_values for c in columns if f"{c.path_in_schema}.".startswith(f"{self._leaf}."))
        rows, width, fixed = self.layout.rows, self.layout.n_features, is_fixed(self.column.kind)
        if max(rows, width) > max(values, 0) or (fixed and rows * width > values):
            raise FileError(
                f"{self.path}: column {self.column.name!r} promises {rows} vectors of {width} dimensions and "
                f"holds {values} numbers; rows without a vector (null) must be removed, or else the file is "
                f"damaged"
            )

    def _first_lists(self) -> Iterator[pa.Array]:
        for batch in self._file.iter_batches(batch_size=1, columns=[self._leaf]):
            yield self._lists(batch, 0)

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows, one record batch after another; only the row groups that hold them are read."""
        starts = self._group_starts
        low, high = np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts, stop)
        first = int(starts[low])
        columns = None if others else [self._leaf]
        size = _Size(rows, self._chunk_bytes(rows))
        with reading(self.path, "truncated or damaged"), self._open() as file:
            for groups in self._spans(int(low), int(high), rows):
                size.largest = self._largest_texts(file, groups) if others else 0
                batches = file.iter_batches(size.rows, row_groups=groups, columns=columns)
                for batch in batches:
                    skip, keep = max(0, start - first), min(len(batch), stop - first)
                    if skip < keep:
                        yield from self._pieces(batch, rows, skip, keep, first)
                    first += len(batch)
                    if first >= stop:
                        return
                    size.saw(batch)
                    # The reader uses this size from the next batch on.
                    file.reader.set_batch_size(size.rows)

    def _spans(self, low: int, high: int, rows: int) -> Iterator[list[int]]:
        """Yield the row groups from `low` to `high`, joined until they have about `rows` rows."""
        while low < high:
            next_one = int(np.searchsorted(self._group_starts, self._group_starts[low] + rows))
            next_one = min(high, max(low + 1, next_one))
            yield list(range(low, next_one))
            low = next_one

    def _largest_texts(self, file: pq.ParquetFile, groups: list[int]) -> int:
        """Return the most bytes that a row's dictionary-encoded texts can have.

        A few bytes of a file can stand for thousands of copies of a long text, and no size in the file
        shows that.
        """
        footer, total = file.metadata, 0
        for field in self.layout.others or ():
            place = next(
                (i for i in range(footer.num_columns) if footer.schema.column(i).path == field.name), None
            )
            if place is None or not _is_text(field.type):
                continue
            coded = [g for g in groups if footer.row_group(g).column(place).has_dictionary_page]
            largest = 0
            for group in coded:
                with self._open(metadata=footer, read_dictionary=[field.name]) as peek:
                    for batch in peek.iter_batches(1, row_groups=[group], columns=[field.name]):
                        lengths = pc.binary_length(batch.column(0).dictionary)
                        largest = max(largest, pc.max(lengths).as_py() or 0)
                        break
            total += largest
        return total

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of whole row groups."""
        return grouped_pieces(self._group_starts, rows)


class _Size:
    """The number of rows to read at a time, which is small until the size of the rows is known."""

    def __init__(self, most: int, nbytes: int) -> None:
        self._most, self._nbytes = most, nbytes
        self._rows, self._row_bytes = _FIRST_ROWS, 0.0
        self.largest = 0
        """The bytes of texts that a row may have, beyond the rows read so far."""

    @property
    def rows(self) -> int:
        fitting = int(self._nbytes / max(self._row_bytes, self.largest, 1e-9))
        return max(1, min(self._rows, self._most, fitting))

    def saw(self, batch: pa.RecordBatch) -> None:
        """Update the size of rows from a batch that was read."""
        if len(batch):
            self._row_bytes = max(self._row_bytes, batch.nbytes / len(batch))
        self._rows = min(self._most, self._rows * _GROWTH)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def read(location: Location, column: str | None) -> ParquetSource:
    """Open a Parquet file; `column` names the vectors, and None stands for the only list of numbers."""
    with reading(location.name, "truncated or not a Parquet file"):
        return ParquetSource(location, column)


def write(path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[TableSink]:
    """Open a Parquet file for writing the vectors, followed by the columns of `layout.others`."""
    return written(path, layout, pq.ParquetWriter)
