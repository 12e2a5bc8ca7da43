"""NumPy's format .npy: one array in each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold._utils.files import one_line, os_errors, replacing
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import Chunk, Layout, Source, check_layout
from nearfold.io.location import Location
from nearfold.io.records import Head, RecordSource, RowSink, check_no_column

__all__ = [
    "SUFFIXES",
    "ArraySink",
    "ArraySource",
    "HeldSource",
    "check_array",
    "read",
    "read_header",
    "write",
]

# The suffix of such files.
SUFFIXES = (".npy",)

# In files in Fortran order, wanted rows in the same window of this many rows are read together.
_WINDOW = 1024


class ArraySource(Source):
    """Vectors in one array in memory.

    Parameters
    ----------
    path : str
        The file that the array is from, or its name in messages.
    array : ndarray of shape (n, d)
        The vectors, of any real dtype.
    name : str, default="vectors"
        The name of the array in the layout.

    Raises
    ------
    FileError
        The array is not a table of real numbers, or is empty.
    """

    random_access = True

    def __init__(self, path: str, array: npt.NDArray[Any], name: str = "vectors") -> None:
        self.path = path
        self.layout = check_layout(path, array.shape, array.dtype, name)
        self.array = array

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield views of the array."""
        for first in range(start, stop, rows):
            yield Chunk(self.array[first : min(stop, first + rows)])

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return a copy of the rows with the given numbers."""
        return self.array[rows]


class HeldSource(ArraySource):
    """An array that the user gave, as C-contiguous float32."""

    in_memory = True


class ArraySink(RowSink):
    """Writes the header of an .npy file, and appends rows to it.

    Parameters
    ----------
    file : binary file
        The file, opened for writing.
    layout : Layout
        The layout of the file.
    """

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        super().__init__(file, layout.dtype)
        header = {
            "descr": np.lib.format.dtype_to_descr(layout.dtype),
            "fortran_order": False,
            "shape": (layout.rows, layout.n_features),
        }
        np.lib.format.write_array_header_1_0(file, header)


class FortranSource(Source):
    """Vectors of an .npy file in Fortran order, in which the numbers of a row lie far apart."""

    random_access = True

    def __init__(self, location: Location, layout: Layout, offset: int) -> None:
        self.path = location.name
        self.layout = layout
        self._location = location
        self._offset = offset

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with os_errors(self.path), self._location.open() as file:
            yield file

    def _rows(self, file: IO[bytes], first: int, stop: int) -> npt.NDArray[Any]:
        columns = np.empty((self.layout.n_features, stop - first), self.layout.dtype)
        for i, column in enumerate(columns):
            file.seek(self._offset + (i * self.layout.rows + first) * column.itemsize)
            if file.readinto(column.view(np.uint8).data) != column.nbytes:  # type: ignore[attr-defined]
                raise FileError(f"{self.path}: truncated: it ends in the middle of its numbers")
        return columns.T

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield rows; for each chunk a piece of every column is read."""
        with self._open() as file:
            for first in range(start, stop, rows):
                yield Chunk(np.ascontiguousarray(self._rows(file, first, min(stop, first + rows))))

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers; those in the same window are read together."""
        taken = np.empty((len(rows), self.layout.n_features), self.layout.dtype)
        with self._open() as file:
            for window in np.unique(rows // _WINDOW).tolist():
                first, last = np.searchsorted(rows, [window * _WINDOW, (window + 1) * _WINDOW])
                low, high = int(rows[first]), int(rows[last - 1]) + 1
                taken[first:last] = self._rows(file, low, high)[rows[first:last] - low]
        return taken


def read(location: Location, column: str | None) -> Source:
    """Open an .npy file. It holds one array, so `column` must be None."""
    check_no_column(location, column)

    def read_head(file: IO[bytes], size: int) -> Head:
        layout, offset, fortran_order = _checked_header(location.name, file, size)
        if fortran_order:
            raise FileError(f"{location.name}: was replaced since it was opened; open it again")
        return Head(layout, offset)

    with os_errors(location.name), location.open() as file:
        layout, offset, fortran_order = _checked_header(location.name, file, location.size())
    if fortran_order:
        return FortranSource(location, layout, offset)
    return RecordSource(location, read_head)


def _checked_header(name: str, file: IO[bytes], size: int) -> tuple[Layout, int, bool]:
    """Return a file's layout, the offset of its numbers, and whether they are in Fortran order."""
    try:
        shape, fortran_order, dtype = read_header(file)
    except (OSError, NearfoldError):
        raise
    except Exception as error:
        # numpy's header parser passes on any error that ast and tokenize raise on broken text.
        raise FileError(f"{name}: truncated or not an .npy file of numbers ({one_line(error)})") from error
    offset = file.tell()
    layout = check_array(name, shape, dtype, "the array")
    expected = offset + layout.rows * layout.n_features * dtype.itemsize
    if size < expected:
        raise FileError(f"{name}: truncated: its header promises {expected} bytes, it has {size}")
    # With one row or one column both orders are the same.
    return layout, offset, fortran_order and 1 not in shape


def check_array(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, column: str = "vectors"
) -> Layout:
    """Return the layout of a numpy array in a file.

    Parameters
    ----------
    path, shape, dtype, name
        See `check_layout`.
    column : str, default="vectors"
        The name of the array in the layout.

    Raises
    ------
    FileError
        The array is pickled, is structured, is not a table of real numbers, or is empty.
    """
    if dtype.kind == "O":
        raise FileError(
            f"{path}: {name} holds Python objects (pickled), which nearfold never loads; save "
            f"np.stack(array) as float32"
        )
    if dtype.names is not None:
        raise FileError(
            f"{path}: {name} is structured, with the fields {', '.join(dtype.names)}; save the field of the "
            f"vectors alone, array[{dtype.names[0]!r}] say"
        )
    return check_layout(path, shape, dtype, name)._replace(name=column)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an .npy header; return the shape, whether the order is Fortran's, and the dtype.

    Raises
    ------
    Exception
        The header is damaged; numpy's parser raises errors of several types.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"format version {version}")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = reader(file)
    return shape, fortran_order, dtype


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ArraySink]:
    """Open an .npy file for writing."""
    with replacing(path) as file:
        yield ArraySink(file, layout)
