"""Open files of vectors by their names' endings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import numpy as np

from nearfold.arrays import Float32, check_finite, chunk_rows
from nearfold.errors import FileError
from nearfold.files import cause
from nearfold.io.base import Chunk, Format, Layout, Sink, Source

__all__ = ["FORMATS", "checked_chunks", "open_sink", "open_source", "read_vectors"]

# By ending: the module of this package that reads and writes it, imported when first needed.
FORMATS = {".npy": "npy", ".npz": "npz", ".parquet": "parquet"}

_CHUNK_BYTES = 32 << 20


def _format(path: Path) -> Format:
    if path.suffix.lower() not in FORMATS:
        raise FileError(f"{path}: can't tell its format from its name; use {', '.join(FORMATS)}")
    return cast(Format, importlib.import_module(f"nearfold.io.{FORMATS[path.suffix.lower()]}"))


def open_source(path: str | os.PathLike[str], column: str | None = None) -> Source:
    """Open a file of vectors for reading.

    Parameters
    ----------
    path
        Ending in one of FORMATS.
    column
        The column (Parquet) or array (.npz) of vectors; None where there is only one.

    Raises
    ------
    FileError
        Missing, unreadable, truncated, of another format, or without vectors.
    """
    target = Path(path)
    chosen = _format(target)
    try:
        with target.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise FileError(f"{target}: can't be read: {cause(error)}") from error
    if empty:
        raise FileError(f"{target}: is an empty file")
    return chosen.read(target, column)


def open_sink(path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[Sink]:
    """Open a file of vectors for writing; it appears whole, or not at all.

    Raises
    ------
    FileError
        The name's ending is unknown, or the file can't be written.
    """
    return _format(Path(path)).write(path, layout)


def checked_chunks(source: Source) -> Iterator[Chunk]:
    """Yield a source's chunks with vectors as finite float32; an error names file and row."""
    first = 0
    for chunk in source.chunks(chunk_rows(source.layout.n_features, _CHUNK_BYTES)):
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(chunk.vectors, dtype=np.float32)
        check_finite(vectors, str(source.path), first)
        yield Chunk(vectors, chunk.others)
        first += len(vectors)


def read_vectors(path: str | os.PathLike[str], column: str | None = None) -> Float32:
    """Return all vectors of a file as float32 of shape (n, d).

    Raises
    ------
    FileError
        As `open_source`.
    DataError
        A row is not finite, or rows differ in length.
    """
    source = open_source(path, column)
    vectors = np.empty((source.layout.rows, source.layout.n_features), np.float32)
    first = 0
    for chunk in checked_chunks(source):
        vectors[first : first + len(chunk.vectors)] = chunk.vectors
        first += len(chunk.vectors)
    if first != len(vectors):
        raise FileError(f"{path}: promises {len(vectors)} rows and holds {first}; it is truncated")
    return vectors
