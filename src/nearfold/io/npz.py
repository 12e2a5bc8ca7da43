"""NumPy's .npz: named arrays in a zip; the one with the vectors is read whole."""

from __future__ import annotations

import math
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
from nearfold.io.npy import ArraySink, ArraySource, read_header

__all__ = ["SUFFIXES", "read", "write"]

# Endings of such files.
SUFFIXES = (".npz",)


# deflate can't shrink anything further than this.
_MAX_SHRINK = 1032


def read(location: Location, column: str | None) -> ArraySource:
    """Open an .npz file; `column` names the array, None takes the only two-dimensional one."""
    path = location.name
    try:
        # The file is opened here: numpy leaves it open where the archive turns out to be broken.
        with location.open() as file, zipfile.ZipFile(file) as archive:
            name = _chosen(path, archive, column)
            with archive.open(f"{name}.npy") as member:
                array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    except (FileError, MemoryError):
        raise
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except Exception as error:
        # The zip reader, zlib and numpy's header parser each raise errors of their own kinds.
        raise FileError(f"{path}: truncated or not an .npz file of numbers ({error})") from error
    return ArraySource(path, array, name)


def _chosen(path: str, archive: zipfile.ZipFile, column: str | None) -> str:
    """Return the name of the array to read, whose header promises no more than the archive holds."""
    members = {
        info.filename.removesuffix(".npy"): info
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }
    if column is not None and column not in members:
        raise FileError(f"{path}: has no array {column!r}; it has {', '.join(members) or 'none'}")
    headers = {}
    for name in members if column is None else [column]:
        with archive.open(members[name]) as member:
            headers[name] = read_header(member)
    if column is None:
        tables = [name for name, (shape, _, _) in headers.items() if len(shape) == 2]
        if len(tables) != 1:
            raise FileError(
                f"{path}: {'several' if tables else 'none'} of its arrays ({', '.join(members) or 'none'}) "
                f"are tables of vectors; name one with --column"
            )
        column = tables[0]
    info, (shape, _, dtype) = members[column], headers[column]
    promised = math.prod(shape) * dtype.itemsize
    if promised > min(info.file_size, _MAX_SHRINK * info.compress_size):
        raise FileError(
            f"{path}: array {column!r} promises {promised} bytes, the archive holds {info.compress_size} "
            f"compressed ones; it is truncated"
        )
    return column


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
