"""The interfaces of file formats: sources of chunks for reading, and sinks of chunks for writing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.errors import FileError, NearfoldError
from nearfold.io.location import Location

__all__ = [
    "HELD_BYTES",
    "Chunk",
    "Format",
    "Layout",
    "Sink",
    "Source",
    "check_layout",
    "grouped_pieces",
    "listed",
]

HELD_BYTES = 256 << 20
"""The most bytes that a reader holds of a piece of a file that can't be read in smaller pieces."""


class Chunk(NamedTuple):
    """Some rows of a file.

    Attributes
    ----------
    vectors : ndarray of shape (rows, d)
        The vectors, of any real dtype.
    others : pyarrow.Table, optional
        The other columns of these rows. None if the file has no others.
    """

    vectors: npt.NDArray[Any]
    others: Any = None


class Layout(NamedTuple):
    """The shape and the columns of a file of vectors, known before any vector is read.

    Attributes
    ----------
    rows : int
        The number of rows n.
    n_features : int
        The number of dimensions d.
    dtype : numpy.dtype
        The dtype of the vectors.
    name : str
        The name of the column, array or dataset of vectors.
    others : pyarrow.Schema, optional
        The schema of the other columns. None if there are none.
    origin : mapping, optional
        What made the vectors, which formats with room for metadata write.
    """

    rows: int
    n_features: int
    dtype: np.dtype[Any]
    name: str
    others: Any = None
    origin: Mapping[str, Any] = MappingProxyType({})


class Source(ABC):
    """An opened file, folder or array of vectors, which is read in chunks of rows.

    Subclasses set `path` and `layout`, and yield rows in `_chunks`.
    """

    path: str
    """The path as the user wrote it."""

    layout: Layout
    """The number, width and dtype of the vectors, and the other columns."""

    random_access: ClassVar[bool] = False
    """Whether `take` reads little more than the rows that it returns."""

    column_name: str | None = None
    """The name of the column of vectors that the user gave, or None."""

    in_memory: ClassVar[bool] = False
    """Whether it is an array of this process, which no other process can open by its name."""

    skipped: Sequence[tuple[str, NearfoldError]] = ()
    """The files of a folder that could not be opened and are skipped, each with its error."""

    query_column: str | None = None
    """The column of the queries that belong to these vectors, or None if the format names none."""

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield the rows from `start` to `stop`, in order.

        Parameters
        ----------
        rows : int
            About how many rows a chunk has at most.
        start : int, default=0
            The first row.
        stop : int, optional
            One past the last row. By default all rows from `start` on are read.
        others : bool, default=True
            Whether to read the columns beside the vectors.
        """
        stop = self.layout.rows if stop is None else stop
        yield from self._chunks(rows, start, stop, others) if start < stop else ()

    @abstractmethod
    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield what `chunks` does; there is a row at least."""

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers, shape (len(rows), d); the numbers must be ascending."""
        layout = self.layout
        taken = np.empty((len(rows), layout.n_features), layout.dtype)
        first = 0
        for chunk in self.chunks(_ROWS, others=False):
            low, high = np.searchsorted(rows, [first, first + len(chunk.vectors)])
            taken[low:high] = chunk.vectors[rows[low:high] - first]
            first += len(chunk.vectors)
        return taken

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of about `rows` rows, in order, each of which can be read without much else."""
        last = self.layout.rows
        return [(start, min(last, start + rows)) for start in range(0, last, rows)]

    @property
    def parts(self) -> Sequence[Source]:
        """The files of a folder, in order; otherwise the source itself."""
        return (self,)


def grouped_pieces(starts: Int64, rows: int) -> list[tuple[int, int]]:
    """Return ranges of rows that consist of whole groups.

    Parameters
    ----------
    starts : ndarray of shape (groups + 1,), int64
        The first row of each group of rows that are stored together, and then the number of all rows.
    rows : int
        The most rows of a range, unless a single group has more.

    Returns
    -------
    list of (int, int)
        The first row of each range, and one past its last.
    """
    pieces, start = [], 0
    for stop, after in pairwise([*starts[1:].tolist(), None]):
        if stop > start and (after is None or after - start > rows):
            pieces.append((start, stop))
            start = stop
    return pieces


# The rows of a chunk when `take` reads through a source without random access.
_ROWS = 4096


class Sink(Protocol):
    """A file of vectors that is being written."""

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        ...


class Format(Protocol):
    """A module of this package that reads, and may write, one format.

    It has SUFFIXES, the suffixes of such files, and FOLDER = True if a table of the format is a folder.
    """

    def read(self, location: Location, column: str | None) -> Source:
        """Open a file for reading; `column` names the vectors if the file holds several columns."""
        ...

    def write(self, path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[Sink]:
        """Open a file for writing exactly `layout.rows` rows; it appears complete or not at all."""
        ...


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return text that lists the first `most` names, and says how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more if shown else "none"


def check_layout(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Layout:
    """Return the layout of an array in a file.

    Parameters
    ----------
    path : str
        The file, as messages name it.
    shape, dtype : tuple of int, numpy.dtype
        The shape and the dtype of the array.
    name : str
        The name of the array in messages and in the layout.

    Raises
    ------
    FileError
        The array is not a two-dimensional table of real numbers, or is empty.
    """
    if dtype.kind not in "fiu":
        raise FileError(f"{path}: {name} has dtype {dtype}, which holds no real numbers; save it as float32")
    if len(shape) != 2:
        raise FileError(f"{path}: {name} has shape {shape}; vectors are a table of rows and dimensions")
    if min(shape) <= 0:
        raise FileError(f"{path}: {name} is empty, its shape is {shape}")
    return Layout(shape[0], shape[1], dtype, name)
