"""NumPy's .npz: named arrays in a zip; the one with the vectors is read whole."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError
from nearfold.files import cause, replacing
from nearfold.io.base import Layout
from nearfold.io.location import Location
from nearfold.io.npy import ArraySink, ArraySource

__all__ = ["SUFFIXES", "read", "write"]

# Endings of such files.
SUFFIXES = (".npz",)


def read(location: Location, column: str | None) -> ArraySource:
    """Open an .npz file; `column` names the array, None takes the only two-dimensional one."""
    path = location.name
    try:
        arrays = _arrays(location, column)
    except (FileError, MemoryError):
        raise
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except Exception as error:
        # The zip reader, zlib and numpy's header parser each raise errors of their own kinds.
        raise FileError(f"{path}: truncated or not an .npz file of numbers ({error})") from error
    tables = [name for name, array in arrays.items() if array.ndim == 2] if column is None else [column]
    if len(tables) != 1:
        raise FileError(
            f"{path}: {'several' if tables else 'none'} of its arrays ({', '.join(arrays) or 'none'}) "
            f"are tables of vectors; name one with --column"
        )
    return ArraySource(path, arrays[tables[0]], tables[0])


def _arrays(location: Location, column: str | None) -> dict[str, npt.NDArray[Any]]:
    """Return the archive's arrays, or the one named `column`."""
    # The file is opened here: numpy leaves it open where the archive turns out to be broken.
    with location.open() as file, zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if column is not None and column not in names:
            raise FileError(f"{location.name}: has no array {column!r}; it has {', '.join(names) or 'none'}")
        arrays = {}
        for name in names if column is None else [column]:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays


@contextmanager
def write(path: str | os.PathLike[str], layout: Layout) -> Iterator[ArraySink]:
    """Open an .npz file for writing one array, uncompressed."""
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        # A fixed date: the same vectors make the same bytes.
        archive.open(zipfile.ZipInfo(f"{layout.name}.npy"), "w", force_zip64=True) as member,
    ):
        yield ArraySink(member, layout)
