"""NumPy's .npy: one array a file, read through a memory map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError
from nearfold.files import cause, replacing
from nearfold.io.base import Chunk, Layout, check_layout

__all__ = ["ArraySink", "ArraySource", "read", "write"]


class ArraySource:
    """Vectors in one array, in memory or mapped."""

    def __init__(self, path: Path, array: npt.NDArray[Any], name: str) -> None:
        self.path = path
        self.layout = check_layout(path, array.shape, array.dtype, name)
        self.array = array

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield views of the array."""
        for start in range(0, len(self.array), rows):
            yield Chunk(self.array[start : start + rows])


class ArraySink:
    """Appends rows behind the header of an .npy stream."""

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        self._file = file
        self._dtype = layout.dtype
        header = {
            "descr": np.lib.format.dtype_to_descr(layout.dtype),
            "fortran_order": False,
            "shape": (layout.rows, layout.n_features),
        }
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(chunk.vectors, self._dtype).data)


def read(path: Path, column: str | None) -> ArraySource:
    """Open an .npy file; it has one array, so `column` must be None."""
    if column is not None:
        raise FileError(f"{path}: an .npy file has no columns; leave --column out")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except Exception as error:
        # numpy's header parser lets through whatever ast and tokenize raise on broken text.
        raise FileError(f"{path}: truncated or not an .npy file of numbers ({error})") from error
    if not isinstance(array, np.ndarray):
        raise FileError(f"{path}: is not an .npy file, whatever its name says")
    return ArraySource(path, array, "vectors")


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ArraySink]:
    """Open an .npy file for writing."""
    with replacing(path) as file:
        yield ArraySink(file, layout)
