"""NumPy's .npy: one array a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError
from nearfold.files import cause, replacing
from nearfold.io.base import Chunk, Int64, Layout, Source, check_layout
from nearfold.io.location import Location
from nearfold.io.records import RecordSource, RowSink

__all__ = ["SUFFIXES", "ArraySink", "ArraySource", "read", "read_header", "write"]

# Endings of such files.
SUFFIXES = (".npy",)


class ArraySource(Source):
    """Vectors in one array, in memory or mapped."""

    random_access = True

    def __init__(self, path: str, array: npt.NDArray[Any], name: str = "vectors") -> None:
        self.path = path
        self.layout = check_layout(path, array.shape, array.dtype, name)
        self.array = array

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield views of the array."""
        stop = len(self.array) if stop is None else stop
        for first in range(start, stop, rows):
            yield Chunk(self.array[first : min(stop, first + rows)])

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return a copy of the rows of these numbers."""
        return self.array[rows]


class ArraySink(RowSink):
    """Appends rows behind the header of an .npy stream."""

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        super().__init__(file, layout.dtype)
        header = {
            "descr": np.lib.format.dtype_to_descr(layout.dtype),
            "fortran_order": False,
            "shape": (layout.rows, layout.n_features),
        }
        np.lib.format.write_array_header_1_0(file, header)


def read(location: Location, column: str | None) -> Source:
    """Open an .npy file; it has one array, so `column` must be None."""
    if column is not None:
        raise FileError(f"{location.name}: an .npy file has no columns; leave --column out")
    try:
        with location.open() as file:
            shape, fortran_order, dtype = read_header(file)
            offset = file.tell()
    except OSError as error:
        raise FileError(f"{location.name}: can't be read: {cause(error)}") from error
    except Exception as error:
        # numpy's header parser lets through whatever ast and tokenize raise on broken text.
        raise FileError(
            f"{location.name}: truncated or not an .npy file of numbers ({_one_line(error)})"
        ) from error
    layout = check_layout(location.name, shape, dtype, "vectors")
    expected = offset + layout.rows * layout.n_features * dtype.itemsize
    if (size := location.size()) < expected:
        raise FileError(f"{location.name}: truncated: its header promises {expected} bytes, it has {size}")
    if fortran_order and 1 not in shape:
        # Rows are scattered over the whole file: only a map can read them a chunk at a time.
        if location.local is None:
            raise FileError(f"{location.name}: is stored column by column; save it in C order")
        return ArraySource(location.name, np.load(location.local, mmap_mode="r", allow_pickle=False))
    return RecordSource(location, layout, offset)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether columns come first, and dtype; numpy checks what it reads."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"format version {version}")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = reader(file)
    return shape, fortran_order, dtype


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ArraySink]:
    """Open an .npy file for writing."""
    with replacing(path) as file:
        yield ArraySink(file, layout)
