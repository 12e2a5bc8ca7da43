"""The formats fvecs, bvecs and ivecs of SIFT1B: rows, each of which begins with its number of dimensions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold._utils.files import replacing
from nearfold.errors import FileError
from nearfold.io.base import Chunk, Layout, check_layout
from nearfold.io.location import Location
from nearfold.io.records import Head, RecordSource, check_dtype, check_no_column

__all__ = ["SUFFIXES", "read", "write"]

# The suffixes of such files.
SUFFIXES = (".fvecs", ".bvecs", ".ivecs")

_DTYPES: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"),
    ".ivecs": np.dtype("<i4"),
    ".bvecs": np.dtype("u1"),
}
_WIDTH = np.dtype("<i4")


class VecsSource(RecordSource):
    """Vectors each of which begins with its number of dimensions."""

    def _check(self, records: npt.NDArray[np.uint8], rows: Int64) -> None:
        widths = np.ascontiguousarray(records[:, : _WIDTH.itemsize]).view(_WIDTH)[:, 0]
        if len(bad := np.flatnonzero(widths != self.layout.n_features)):
            raise FileError(
                f"{self.path}: row {rows[bad[0]]} says it has {widths[bad[0]]} dimensions where the first "
                f"has {self.layout.n_features}; the file is corrupt or of another format"
            )


class VecsSink:
    """Appends rows, each after its number of dimensions."""

    def __init__(self, file: BinaryIO, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._file, self._dtype = file, dtype
        self._width = layout.n_features

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        record = np.dtype([("width", _WIDTH), ("numbers", self._dtype, (self._width,))])
        records = np.empty(len(chunk.vectors), record)
        records["width"] = self._width
        records["numbers"] = chunk.vectors
        self._file.write(records.data)


def read(location: Location, column: str | None) -> VecsSource:
    """Open a file of vectors. The format has no columns, so `column` must be None."""
    check_no_column(location, column)
    dtype = _DTYPES[location.suffix]

    def read_head(file: IO[bytes], size: int) -> Head:
        head = file.read(_WIDTH.itemsize)
        width = int(np.frombuffer(head, _WIDTH)[0]) if len(head) == _WIDTH.itemsize else 0
        stride = _WIDTH.itemsize + width * dtype.itemsize
        if width <= 0 or size % stride:
            raise FileError(
                f"{location.name}: truncated or not an {location.suffix} file: {size} bytes are not rows of "
                f"{width} dimensions"
            )
        return Head(check_layout(location.name, (size // stride, width), dtype, "vectors"), 0)

    return VecsSource(location, read_head, _WIDTH.itemsize)


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[VecsSink]:
    """Open a file for writing; `layout.dtype` must be the dtype that the suffix stands for.

    Raises
    ------
    FileError
        The layout has another dtype, or the file can't be written.
    """
    dtype = check_dtype(path, layout, _DTYPES)
    with replacing(path) as file:
        yield VecsSink(file, layout, dtype)
