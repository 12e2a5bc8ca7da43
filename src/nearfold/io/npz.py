"""NumPy's .npz: named arrays in a zip; the one with the vectors is read whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nearfold.errors import FileError
from nearfold.files import cause, replacing
from nearfold.io.base import Layout
from nearfold.io.npy import ArraySink, ArraySource

__all__ = ["read", "write"]


def read(path: Path, column: str | None) -> ArraySource:
    """Open an .npz file; `column` names the array, None takes the only two-dimensional one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FileError(f"{path}: is not an .npz file, whatever its name says")
            if column is not None and column not in archive.files:
                raise FileError(
                    f"{path}: has no array {column!r}; it has {', '.join(archive.files) or 'none'}"
                )
            arrays = {name: archive[name] for name in ([column] if column else archive.files)}
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error
    except (
        ValueError,
        EOFError,
        TypeError,
        OverflowError,
        MemoryError,
        SyntaxError,
        NotImplementedError,
    ) as error:
        raise FileError(f"{path}: truncated or not an .npz file of numbers ({error})") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError) as error:
        raise FileError(f"{path}: truncated or corrupt ({error})") from error
    tables = [name for name, array in arrays.items() if array.ndim == 2] if column is None else [column]
    if len(tables) != 1:
        raise FileError(
            f"{path}: {'several' if tables else 'none'} of its arrays ({', '.join(arrays) or 'none'}) "
            f"are tables of vectors; name one with --column"
        )
    return ArraySource(path, arrays[tables[0]], tables[0])


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
