"""Arrow IPC files and streams (.arrow, .feather): vectors in a list column, read by record batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO

import numpy as np
import pyarrow as pa

from nearfold.errors import FileError
from nearfold.io.base import Chunk, Layout, grouped_pieces
from nearfold.io.ipc_index import MAGIC, Joined, index_of
from nearfold.io.lists import TableSink, TableSource, find_vectors, reading, written
from nearfold.io.location import Location

__all__ = ["SUFFIXES", "read", "write"]

# The suffixes of such files.
SUFFIXES = (".arrow", ".feather")

_OLD_MAGIC = b"FEA1"


class IpcSource(TableSource):
    """The vector column of an Arrow file or stream and the columns beside it."""

    def __init__(self, location: Location, column: str | None) -> None:
        self._location = location
        with location.open() as file:
            magic = file.read(len(MAGIC))
            if magic.startswith(_OLD_MAGIC):
                raise FileError(
                    f"{location.name}: is Feather of version 1, which nearfold does not read; write it as "
                    f"version 2, by pyarrow.feather.write_feather or pandas' to_feather"
                )
            self._index = index_of(location.name, file)
            with pa.ipc.open_stream(Joined(file, [self._index.schema])) as reader:
                schema = reader.schema
            if magic == MAGIC:
                self._check_footer(location.name, file, schema)
        rows = [batch.rows for batch in self._index.batches]
        self._starts = np.cumsum([0, *rows])
        super().__init__(location.name, schema, find_vectors(location.name, schema, column), sum(rows))
        itemsize = self.layout.n_features * self.layout.dtype.itemsize
        for batch in self._index.batches:
            if batch.rows * itemsize > batch.nbytes:
                raise FileError(
                    f"{self.path}: promises {batch.rows} vectors of {self.layout.n_features} dimensions in "
                    f"{batch.nbytes} bytes; rows without a vector (null) must be removed, or else the file "
                    f"is damaged"
                )

    def _check_footer(self, name: str, file: IO[bytes], schema: pa.Schema) -> None:
        """Refuse a file whose footer, which other readers use, describes other batches."""
        file.seek(0)
        footer = pa.ipc.open_file(file)
        if footer.num_record_batches != len(self._index.batches) or footer.schema != schema:
            raise FileError(f"{name}: truncated or damaged: its footer and its batches don't agree")

    def _batches(self, first: int, columns: list[int] | None) -> Iterator[pa.RecordBatch]:
        """Yield the record batches from number `first` on."""
        options = pa.ipc.IpcReadOptions(included_fields=columns)
        with (
            self._location.open() as file,
            pa.ipc.open_stream(Joined(file, self._index.stream(first)), options=options) as reader,
        ):
            yield from reader

    def _first_lists(self) -> Iterator[pa.Array]:
        place = self.schema.get_field_index(self.column.top)
        for batch in self._batches(0, [place]) if self._index.batches else ():
            yield self._lists(batch, 0)

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows, cut from one record batch after another."""
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        columns = None if others else [self.schema.get_field_index(self.column.top)]
        with reading(self.path, "truncated or damaged"):
            for i, batch in enumerate(self._batches(first, columns), first):
                origin = int(self._starts[i]) if i < len(self._index.batches) else stop
                if origin >= stop:
                    break
                low, high = max(0, start - origin), min(len(batch), stop - origin)
                yield from self._pieces(batch, rows, low, high, origin)

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of whole record batches."""
        return grouped_pieces(self._starts, rows)


def read(location: Location, column: str | None) -> IpcSource:
    """Open an Arrow file or stream; `column` names the vectors, None stands for the only list of numbers."""
    with reading(location.name, "truncated or not an Arrow file"):
        return IpcSource(location, column)


def write(path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[TableSink]:
    """Open an Arrow file for writing the vectors, followed by the columns of `layout.others`."""
    return written(path, layout, pa.ipc.new_file)
