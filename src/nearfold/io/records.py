"""Rows of one length behind each other in a file: read by plain reads, never mapped.

A mapped file's pages count as the process's memory while it reads through them; a buffer of one
chunk does not grow with the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError
from nearfold.files import cause
from nearfold.io.base import Chunk, Int64, Layout, Source
from nearfold.io.location import Location

__all__ = ["RecordSource", "RowSink", "check_dtype", "check_no_column"]


class RowSink:
    """Appends rows of one type of numbers to a file, nothing between them."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any]) -> None:
        self._file, self._dtype = file, dtype

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(chunk.vectors, self._dtype).data)


def check_no_column(location: Location, column: str | None) -> None:
    """Refuse a column's name where a file holds vectors alone."""
    if column is not None:
        raise FileError(f"{location.name}: an {location.suffix} file has no columns; leave --column out")


def check_dtype(
    path: str | os.PathLike[str], layout: Layout, dtypes: Mapping[str, np.dtype[Any]]
) -> np.dtype[Any]:
    """Return the numbers that files of an ending hold, or refuse a layout of others."""
    suffix = PurePath(path).suffix.lower()
    if layout.dtype != dtypes[suffix]:
        raise FileError(
            f"{path}: an {suffix} file holds {dtypes[suffix].name}, not {layout.dtype}; choose another format"
        )
    return dtypes[suffix]


class RecordSource(Source):
    """Vectors at a fixed stride.

    Parameters
    ----------
    location
        The file.
    layout
        Of its vectors.
    offset
        Bytes before the first row.
    prefix
        Bytes before each row's numbers.
    """

    random_access = True

    def __init__(self, location: Location, layout: Layout, offset: int, prefix: int = 0) -> None:
        self.path = location.name
        self.layout = layout
        self._location = location
        self._offset = offset
        self._prefix = prefix
        self._stride = prefix + layout.n_features * layout.dtype.itemsize

    def _check(self, records: npt.NDArray[np.uint8], rows: Int64) -> None:
        """Refuse rows whose prefix is not what it should be; subclasses with a prefix say how."""

    def _vectors(self, records: npt.NDArray[np.uint8], rows: Int64) -> npt.NDArray[Any]:
        if self._prefix:
            self._check(records, rows)
            records = np.ascontiguousarray(records[:, self._prefix :])
        return records.view(self.layout.dtype)

    def _fill(self, file: IO[bytes], records: npt.NDArray[np.uint8]) -> None:
        """Read on until `records` are full."""
        wanted = memoryview(records.reshape(-1).data)
        have = 0
        while have < len(wanted):
            got = file.readinto(wanted[have:])  # type: ignore[attr-defined]
            if not got:
                raise FileError(f"{self.path}: truncated: it ends {len(wanted) - have} bytes early")
            have += got

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield rows, each chunk in memory of its own."""
        stop = self.layout.rows if stop is None else stop
        try:
            with self._location.open() as file:
                file.seek(self._offset + start * self._stride)
                for first in range(start, stop, rows):
                    records = np.empty((min(rows, stop - first), self._stride), np.uint8)
                    self._fill(file, records)
                    yield Chunk(self._vectors(records, np.arange(first, first + len(records))))
        except OSError as error:
            raise FileError(f"{self.path}: can't be read: {cause(error)}") from error

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers, read one by one."""
        records = np.empty((len(rows), self._stride), np.uint8)
        try:
            with self._location.open() as file:
                for record, row in zip(records, rows.tolist(), strict=True):
                    file.seek(self._offset + row * self._stride, os.SEEK_SET)
                    self._fill(file, record)
        except OSError as error:
            raise FileError(f"{self.path}: can't be read: {cause(error)}") from error
        return self._vectors(records, rows)
