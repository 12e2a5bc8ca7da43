"""Arrow IPC files (.arrow, .feather): vectors in a list column, record batch by record batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pyarrow as pa

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
SUFFIXES = (".arrow", ".feather")


class IpcSource(Source):
    """The vector column of an Arrow file and the columns beside it."""

    def __init__(self, location: Location, column: str | None) -> None:
        self.path = location.name
        self._location = location
        with self._open() as file:
            reader = pa.ipc.open_file(file)
            name = vector_column(self.path, reader.schema, column)
            kind = reader.schema.field(name).type
            sizes = []
            for i in range(reader.num_record_batches):
                vectors = reader.get_batch(i).column(name)
                # A forged list size promises more numbers than the batch holds.
                vectors.validate()
                sizes.append(len(vectors))
            width = kind.list_size if is_fixed(kind) else self._first_width(reader, name)
        self._starts = np.cumsum([0, *sizes])
        self.layout = layout_of(self.path, reader.schema, name, sum(sizes), width)

    def _open(self) -> AbstractContextManager[pa.NativeFile]:
        location = self._location
        if location.filesystem is None:
            mapped: AbstractContextManager[pa.NativeFile] = pa.memory_map(location.path)
            return mapped
        return location.open()

    def _first_width(self, reader: pa.ipc.RecordBatchFileReader, name: str) -> int:
        for i in range(reader.num_record_batches):
            lengths = reader.get_batch(i).column(name).value_lengths()
            if len(lengths):
                return lengths[0].as_py() or 0
        return 0

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield rows, cut from one record batch after another."""
        stop = self.layout.rows if stop is None else stop
        first_batch = int(np.searchsorted(self._starts, start, "right")) - 1
        try:
            with self._open() as file:
                reader = pa.ipc.open_file(file)
                for i in range(first_batch, reader.num_record_batches):
                    batch, origin = reader.get_batch(i), int(self._starts[i])
                    if origin >= stop:
                        break
                    if not others:
                        batch = batch.select([self.layout.name])
                    batch.validate()
                    end = min(stop, origin + len(batch))
                    for first in range(max(start, origin), end, rows):
                        piece = batch.slice(first - origin, min(rows, end - first))
                        yield chunk_of(self.path, piece, self.layout, first)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise FileError(f"{self.path}: truncated or corrupt ({first_line(error)})") from error

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of whole record batches."""
        return grouped_pieces(self._starts, rows)


def read(location: Location, column: str | None) -> IpcSource:
    """Open an Arrow file; `column` names the vectors, None takes the only list of numbers."""
    try:
        return IpcSource(location, column)
    except FileError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file_error(location.name, error, "truncated or not an Arrow file") from error


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[TableSink]:
    """Open an Arrow file for writing: the vectors first, then `layout.others`."""
    try:
        with replacing(path) as file, pa.ipc.new_file(file, vector_schema(layout)) as writer:
            yield TableSink(writer, layout)
    except pa.ArrowException as error:
        raise FileError(f"{path}: can't be written ({first_line(error)})") from error
