"""Open vectors by their names' endings: files, folders, URLs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64, as_vectors, check_directions, check_finite, chunk_rows
from nearfold._utils.memory import memory_limit
from nearfold.errors import DataError, FileError, NearfoldError
from nearfold.io import bins, hdf5, ipc, lance, npy, npz, parquet, vecs
from nearfold.io.base import Chunk, Format, Layout, Sink, Source
from nearfold.io.folder import FolderSource
from nearfold.io.kinds import advice_for, other_format
from nearfold.io.location import Location

__all__ = [
    "FORMATS",
    "WRITABLE",
    "as_float32",
    "as_source",
    "check_directions",
    "checked_chunks",
    "checked_rows",
    "located",
    "located_chunks",
    "open_sink",
    "open_source",
    "read_source",
]

_MODULES = (bins, hdf5, ipc, lance, npy, npz, parquet, vecs)

FORMATS = {suffix: module for module in _MODULES for suffix in module.SUFFIXES}
"""By ending: the module of this package that reads it."""

WRITABLE = tuple(suffix for suffix, module in FORMATS.items() if hasattr(module, "write"))

# Tables that are folders.
_FOLDERS = tuple(suffix for suffix, module in FORMATS.items() if getattr(module, "FOLDER", False))

# Rows read at a time: enough for matrix products to run at full speed, and below what the
# allocator takes from the system anew each time (32 MiB).
_CHUNK_BYTES = 16 << 20


def _format(name: str, suffix: str) -> Format:
    if suffix not in FORMATS:
        raise FileError(f"{name}: can't tell its format from its name; use {', '.join(FORMATS)}")
    return cast(Format, FORMATS[suffix])


def open_source(
    path: str | os.PathLike[str],
    column: str | None = None,
    *,
    on_bad: Callable[[str, NearfoldError], None] | None = None,
) -> Source:
    """Open vectors for reading.

    Parameters
    ----------
    path
        A file ending in one of FORMATS; a folder of such files, read in the order of their names;
        or a URL of either that pyarrow or fsspec can open (s3://, gs://, memory://, ...).
    column
        The column (Parquet, Arrow, Lance), array (.npz) or dataset (HDF5) of vectors; None where
        there is only one.
    on_bad
        Told of each file of a folder that can't be opened, which is then left out; None: refuse.

    Raises
    ------
    FileError
        Missing, unreadable, truncated, of another format, or without vectors.
    """
    location = Location.of(path)
    if location.is_folder() and location.suffix not in _FOLDERS:
        return _open_folder(location, column, on_bad)
    return _open_file(location, column)


def _open_file(location: Location, column: str | None) -> Source:
    todo = None if location.suffix in FORMATS else advice_for(location.suffix)
    if todo is not None:
        raise FileError(f"{location.name}: {todo}")
    chosen = _format(location.name, location.suffix)
    if location.suffix in _FOLDERS and location.is_folder():
        return _read(chosen, location, column)
    location = location.seen()
    if not location.size():
        raise FileError(f"{location.name}: is an empty file")
    try:
        return _read(chosen, location, column)
    except FileError as error:
        found = other_format(location)
        if found is not None:
            raise FileError(
                f"{location.name}: is {found}, though its name ends in {location.suffix}; rename it"
            ) from error
        raise


def _read(chosen: Format, location: Location, column: str | None) -> Source:
    source = chosen.read(location, column)
    source.column_name = column
    return source


def _open_folder(
    folder: Location, column: str | None, on_bad: Callable[[str, NearfoldError], None] | None
) -> Source:
    files = [file for file in folder.files() if file.suffix in FORMATS and file.suffix not in _FOLDERS]
    parts, skipped = [], []
    for file in files:
        try:
            parts.append(_open_file(file, column))
        except NearfoldError as error:
            if on_bad is None:
                raise
            on_bad(file.name, error)
            skipped.append((file.name, error))
    if not parts:
        raise FileError(f"{folder.name}: is a folder without a readable file of {', '.join(FORMATS)}")
    source = FolderSource(folder.name, parts)
    source.skipped = skipped
    return source


def open_sink(path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[Sink]:
    """Open a file of vectors for writing; it appears whole, or not at all.

    Raises
    ------
    FileError
        The name's ending is unknown or can only be read, or the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix in FORMATS and suffix not in WRITABLE:
        raise FileError(f"{path}: {suffix} can be read, not written; use {', '.join(WRITABLE)}")
    return _format(os.fspath(path), suffix).write(path, layout)


def as_source(X: Any, column: str | None = None, *, name: str = "X") -> Source:
    """Return any vectors as a source.

    Parameters
    ----------
    X : Source, path, URL or array-like
        An opened source is returned as it is. A text or path names a file, a folder or a URL; see
        `open_source`. Everything else is an array, a frame of pandas or polars, or a column of vectors,
        of shape (n, d) and any real dtype.
    column : str, optional
        The column of vectors of a file that holds several. By default there is only one.
    name : str, default="X"
        What errors call an array.

    Raises
    ------
    FileError
        The file is missing, unreadable, or without vectors.
    DataError
        The array is not a table of vectors.
    """
    if isinstance(X, Source):
        return X
    if isinstance(X, str | os.PathLike):
        return open_source(X, column)
    return npy.HeldSource(name, as_vectors(X, name, finite=False), name)


def as_float32(chunk: Chunk) -> Float32:
    """Return a chunk's vectors as C-contiguous float32; numbers beyond it become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(chunk.vectors, dtype=np.float32)


def located(source: Source, row: int) -> tuple[str, int]:
    """Return the file that a row of a source is in, and its number there."""
    first = 0
    for part in source.parts:
        if row < first + part.layout.rows:
            return part.path, row - first
        first += part.layout.rows
    return source.path, row


def checked_rows(
    taken: npt.NDArray[Any], rows: Int64, source: Source, *, directions: bool = False
) -> Float32:
    """Return rows of a source that were taken by number as finite float32.

    Parameters
    ----------
    taken, rows
        The rows, shape (n, d), and their numbers in the source.
    source
        Whose they are: an error names the file, and the number of the row there.
    directions
        Refuse zero rows too.

    Raises
    ------
    DataError
        A row is not finite, or zero where that is refused.
    """
    vectors = as_float32(Chunk(taken))
    try:
        check_finite(vectors, source.path)
    except DataError:
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        check_finite(vectors[bad : bad + 1], *located(source, int(rows[bad])))
    if directions and len(zero := np.flatnonzero(~vectors.any(axis=1))):
        check_directions(vectors[zero[:1]], *located(source, int(rows[zero[0]])))
    return vectors


def checked_chunks(
    source: Source,
    start: int = 0,
    stop: int | None = None,
    *,
    others: bool = True,
    nbytes: int | None = None,
    finite: bool = True,
) -> Iterator[Chunk]:
    """Yield a source's chunks with vectors as finite float32; an error names file and row.

    Parameters
    ----------
    source
        From `open_source`.
    start, stop
        The rows to read; None for the last.
    others
        Whether other columns are read too.
    nbytes
        How much float32 a chunk holds at most, about; None for the usual.
    finite
        False where whoever takes the chunks looks for NaN and infinity.

    Raises
    ------
    FileError
        There are not as many rows as promised.
    """
    first, stop = start, source.layout.rows if stop is None else stop
    rows = chunk_rows(source.layout.n_features, nbytes or _CHUNK_BYTES)
    for chunk in source.chunks(rows, start, stop, others=others):
        vectors = as_float32(chunk)
        if finite:
            check_finite(vectors, source.path, first)
        yield Chunk(vectors, chunk.others)
        first += len(vectors)
    if first != stop:
        raise FileError(
            f"{source.path}: promises {stop - start} rows and holds {first - start}; it is truncated"
        )


def located_chunks(
    source: Source, start: int = 0, *, others: bool = False, nbytes: int | None = None, finite: bool = True
) -> Iterator[tuple[Chunk, str, int]]:
    """Yield a source's chunks from a row on, each with its file and the number of its first row there.

    Parameters are those of `checked_chunks`, which reads each file.
    """
    for part in source.parts:
        row = min(start, part.layout.rows)
        start -= row
        for chunk in checked_chunks(part, row, others=others, nbytes=nbytes, finite=finite):
            yield chunk, part.path, row
            row += len(chunk.vectors)


def read_source(source: Source, *, directions: bool = False) -> Float32:
    """Return all vectors of a source as float32 of shape (n, d); with `directions` zero rows are refused.

    Raises
    ------
    DataError
        A row is not finite, or there is more than this machine's memory holds.
    FileError
        As `checked_chunks`.
    """
    needed, there = 4 * source.layout.rows * source.layout.n_features, memory_limit()
    if needed > there:
        raise DataError(
            f"{source.path}: promises {needed / 1e9:,.0f} GB of vectors, this machine has "
            f"{there / 1e9:,.0f} GB of memory; use --rows, or `fit` and `apply`, which read by chunks"
        )
    vectors = np.empty((source.layout.rows, source.layout.n_features), np.float32)
    first = 0
    for chunk, path, row in located_chunks(source):
        if directions:
            check_directions(chunk.vectors, path, row)
        vectors[first : first + len(chunk.vectors)] = chunk.vectors
        first += len(chunk.vectors)
    return vectors
