"""The formats fbin, u8bin and i8bin of big-ann-benchmarks: counts of rows and dimensions, then the rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from nearfold._utils.files import replacing
from nearfold.errors import FileError
from nearfold.io.base import Layout, check_layout
from nearfold.io.location import Location
from nearfold.io.records import Head, RecordSource, RowSink, check_dtype, check_no_column

__all__ = ["SUFFIXES", "read", "write"]

# The suffixes of such files.
SUFFIXES = (".fbin", ".u8bin", ".i8bin")

_DTYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
}
_HEADER = np.dtype("<u4")


def read(location: Location, column: str | None) -> RecordSource:
    """Open a file of vectors. The format has no columns, so `column` must be None."""
    check_no_column(location, column)
    dtype = _DTYPES[location.suffix]

    def read_head(file: IO[bytes], size: int) -> Head:
        head = file.read(2 * _HEADER.itemsize)
        rows, width = map(int, np.frombuffer(head, _HEADER)) if len(head) == 2 * _HEADER.itemsize else (0, 0)
        if len(head) + rows * width * dtype.itemsize != size:
            raise FileError(
                f"{location.name}: truncated or not an {location.suffix} file: {size} bytes are not {rows} "
                f"rows of {width} dimensions"
            )
        return Head(check_layout(location.name, (rows, width), dtype, "vectors"), len(head))

    return RecordSource(location, read_head)


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[RowSink]:
    """Open a file for writing; `layout.dtype` must be the dtype that the suffix stands for.

    Raises
    ------
    FileError
        The layout has another dtype, or the file can't be written.
    """
    dtype = check_dtype(path, layout, _DTYPES)
    with replacing(path) as file:
        file.write(np.array([layout.rows, layout.n_features], _HEADER).data)
        yield RowSink(file, dtype)
