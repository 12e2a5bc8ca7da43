"""Opening of vectors in files, folders and URLs, whose suffixes name their formats."""

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
"""The module of this package that reads files of each suffix."""

WRITABLE = tuple(suffix for suffix, module in FORMATS.items() if hasattr(module, "write"))
"""The suffixes of the formats that can be written."""

# The suffixes of tables that are folders.
_FOLDERS = tuple(suffix for suffix, module in FORMATS.items() if getattr(module, "FOLDER", False))

# The bytes of rows that are read at a time: enough for matrix products to run at full speed, and below the
# size (32 MiB) from which on the allocator takes memory anew from the system each time.
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
    path : str or path
        A file of a known format, such as .npy, .parquet or .hdf5; a folder of such files, which are read in
        the order of their names; or a URL of either that pyarrow or fsspec can open (s3://, gs://, ...).
    column : str, optional
        The name of the column (Parquet, Arrow, Lance), array (.npz) or dataset (HDF5) of vectors. By default
        the file must hold only one.
    on_bad : callable, optional
        A function that is called with the path and the error of each file of a folder that can't be opened.
        The file is then skipped. By default the error is raised.

    Returns
    -------
    Source
        The opened vectors.

    Raises
    ------
    FileError
        The file is missing, unreadable, truncated, of another format, or without vectors.
    MissingExtraError
        The format or the URL needs a package that is not installed.
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
    """Open a file of vectors for writing; it appears complete or not at all.

    Parameters
    ----------
    path : str or path
        The file, whose suffix names the format.
    layout : Layout
        The layout of the vectors. Exactly `layout.rows` rows must be written.

    Returns
    -------
    context manager of Sink

    Raises
    ------
    FileError
        The suffix is unknown or that of a format that is only read, or the file can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix in FORMATS and suffix not in WRITABLE:
        raise FileError(f"{path}: {suffix} can be read, not written; use {', '.join(WRITABLE)}")
    return _format(os.fspath(path), suffix).write(path, layout)


def as_source(X: Any, column: str | None = None, *, name: str = "X") -> Source:
    """Return any vectors as a source.

    Parameters
    ----------
    X : array-like, data frame, path, URL or Source
        The vectors, of shape (n, d). An opened source is returned as it is. A str or path names a file, a
        folder or a URL; see `open_source`. All else is an array, a frame of pandas or polars, or a column
        of vectors, of any real dtype.
    column : str, optional
        The column of vectors of a file that holds several. By default the file must hold only one.
    name : str, default="X"
        The name of an array in messages.

    Returns
    -------
    Source

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
    """Return a chunk's vectors as C-contiguous float32; numbers beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(chunk.vectors, dtype=np.float32)


def located(source: Source, row: int) -> tuple[str, int]:
    """Return the path of the file that holds a row of a source, and the row's number in that file."""
    first = 0
    for part in source.parts:
        if row < first + part.layout.rows:
            return part.path, row - first
        first += part.layout.rows
    return source.path, row


def checked_rows(
    taken: npt.NDArray[Any], rows: Int64, source: Source, *, directions: bool = False
) -> Float32:
    """Return rows that were taken from a source as finite float32.

    Parameters
    ----------
    taken : ndarray of shape (n, d)
        The rows, of any real dtype.
    rows : ndarray of shape (n,), int64
        Their numbers in the source.
    source : Source
        The source of the rows. Messages name the file and the row's number in it.
    directions : bool, default=False
        Whether to refuse zero rows.

    Returns
    -------
    ndarray of shape (n, d), float32

    Raises
    ------
    DataError
        A row is not finite, or is a refused zero row.
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
    """Yield the chunks of a source, with the vectors as finite float32.

    Parameters
    ----------
    source : Source
        The source.
    start : int, default=0
        The first row to read.
    stop : int, optional
        One past the last row to read. By default all rows from `start` on are read.
    others : bool, default=True
        Whether to read the columns beside the vectors.
    nbytes : int, optional
        About how many bytes of float32 vectors a chunk holds at most. The default is 16 MiB.
    finite : bool, default=True
        Whether to check for NaN and infinity. If not, the caller must.

    Raises
    ------
    DataError
        A row is not finite; the message names the file and the row.
    FileError
        The source has fewer rows than its layout declares.
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

    Parameters
    ----------
    source : Source
        The source.
    start : int, default=0
        The first row to read.
    others, nbytes, finite
        See `checked_chunks`, which reads each file. Here other columns are not read by default.
    """
    for part in source.parts:
        row = min(start, part.layout.rows)
        start -= row
        for chunk in checked_chunks(part, row, others=others, nbytes=nbytes, finite=finite):
            yield chunk, part.path, row
            row += len(chunk.vectors)


def read_source(source: Source, *, directions: bool = False) -> Float32:
    """Return all vectors of a source in memory.

    Parameters
    ----------
    source : Source
        The source.
    directions : bool, default=False
        Whether to refuse zero rows.

    Returns
    -------
    ndarray of shape (n, d), float32

    Raises
    ------
    DataError
        A row is not finite or is a refused zero row, or the vectors need more memory than this machine has.
    FileError
        The source has fewer rows than its layout declares.
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
