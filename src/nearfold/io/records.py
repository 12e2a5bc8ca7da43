"""Files of rows of equal size, one after another, which are read and never mapped into memory.

The pages of a mapped file count as the process's memory, and truncation of the file ends the process. Reads
into a buffer of one chunk avoid both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold._utils.files import os_errors
from nearfold.errors import FileError
from nearfold.io.base import Chunk, Layout, Source
from nearfold.io.location import Location

__all__ = ["Head", "RecordSource", "RowSink", "check_dtype", "check_no_column"]


class RowSink:
    """Appends rows of one dtype to a file, without anything between them.

    Parameters
    ----------
    file : binary file
        The file, opened for writing.
    dtype : numpy.dtype
        The dtype of the rows in the file.
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any]) -> None:
        self._file, self._dtype = file, dtype

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        self._file.write(np.ascontiguousarray(chunk.vectors, self._dtype).data)


def check_no_column(location: Location, column: str | None) -> None:
    """Refuse the name of a column for a file that holds nothing but vectors.

    Raises
    ------
    FileError
        `column` is not None.
    """
    if column is not None:
        raise FileError(f"{location.name}: an {location.suffix} file has no columns; leave --column out")


def check_dtype(
    path: str | os.PathLike[str], layout: Layout, dtypes: Mapping[str, np.dtype[Any]]
) -> np.dtype[Any]:
    """Return the dtype of files with the suffix of `path`, by the table `dtypes`.

    Raises
    ------
    FileError
        The layout has another dtype.
    """
    suffix = PurePath(path).suffix.lower()
    if layout.dtype != dtypes[suffix]:
        raise FileError(
            f"{path}: an {suffix} file holds {dtypes[suffix].name}, not {layout.dtype}; choose another format"
        )
    return dtypes[suffix]


class Head(NamedTuple):
    """The layout of a file's rows, and the number of bytes before the first row."""

    layout: Layout
    offset: int


class RecordSource(Source):
    """Vectors at a fixed stride in a file.

    If rows were appended to the file since it was opened, only the rows of then are read. A file that has
    changed in another way is refused.

    Parameters
    ----------
    location : Location
        The file, as `Location.seen` returns it.
    read_head : callable
        A function that takes the file, at its start, and its size in bytes, and returns its `Head`.
    prefix : int, default=0
        The number of bytes before the numbers of each row.

    Raises
    ------
    FileError
        The file can't be read, or `read_head` refuses it.
    """

    random_access = True

    def __init__(
        self, location: Location, read_head: Callable[[IO[bytes], int], Head], prefix: int = 0
    ) -> None:
        self.path = location.name
        self._location = location
        self._read_head = read_head
        with self._reading(location.open()) as file:
            self.layout, self._offset = read_head(file, location.size())
        self._prefix = prefix
        self._stride = prefix + self.layout.n_features * self.layout.dtype.itemsize

    @contextmanager
    def _reading(self, opened: IO[bytes]) -> Iterator[IO[bytes]]:
        with os_errors(self.path), opened as file:
            yield file

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with self._reading(self._location.open(grown=True)) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size > self._location.size():
                layout, offset = self._read_head(file, size)
                same = (layout.n_features, layout.dtype, offset) == (
                    self.layout.n_features,
                    self.layout.dtype,
                    self._offset,
                )
                if not same or layout.rows < self.layout.rows:
                    raise FileError(f"{self.path}: was replaced since it was opened; open it again")
            yield file

    def _check(self, records: npt.NDArray[np.uint8], rows: Int64) -> None:
        """Refuse rows whose prefix is wrong; subclasses with a prefix override this."""

    def _vectors(self, records: npt.NDArray[np.uint8], rows: Int64) -> npt.NDArray[Any]:
        if self._prefix:
            self._check(records, rows)
            records = np.ascontiguousarray(records[:, self._prefix :])
        return records.view(self.layout.dtype)

    def _fill(self, file: IO[bytes], records: npt.NDArray[np.uint8]) -> None:
        """Read from the file until `records` is full."""
        wanted = memoryview(records.reshape(-1).data)
        have = 0
        while have < len(wanted):
            got = file.readinto(wanted[have:])  # type: ignore[attr-defined]
            if not got:
                raise FileError(f"{self.path}: truncated: it ends {len(wanted) - have} bytes early")
            have += got

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows; each chunk has its own memory."""
        with self._open() as file:
            file.seek(self._offset + start * self._stride)
            for first in range(start, stop, rows):
                records = np.empty((min(rows, stop - first), self._stride), np.uint8)
                self._fill(file, records)
                yield Chunk(self._vectors(records, np.arange(first, first + len(records))))

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers, which are read one by one."""
        records = np.empty((len(rows), self._stride), np.uint8)
        with self._open() as file:
            for record, row in zip(records, rows.tolist(), strict=True):
                file.seek(self._offset + row * self._stride)
                self._fill(file, record)
        return self._vectors(records, rows)
