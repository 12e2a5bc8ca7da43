"""What a file format offers: a source of chunks to read, a sink of chunks to write."""

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
"""What a file may make a reader hold at once of what can't be taken in smaller pieces."""


class Chunk(NamedTuple):
    """Some rows of a file.

    Parameters
    ----------
    vectors
        Shape (rows, d), any real dtype.
    others
        The file's other columns for these rows (a pyarrow.Table), None where it has none.
    """

    vectors: npt.NDArray[Any]
    others: Any = None


class Layout(NamedTuple):
    """What is known of a file's vectors before they are read."""

    rows: int
    n_features: int
    dtype: np.dtype[Any]
    name: str
    others: Any = None
    """The schema of the other columns (a pyarrow.Schema), None where there are none."""
    origin: Mapping[str, Any] = MappingProxyType({})
    """What made the vectors, for formats that have room for it."""


class Source(ABC):
    """Vectors in a file or a folder of files, opened.

    Subclasses set `path` (as the user wrote it) and `layout`, and yield rows in `_chunks`.
    """

    path: str
    layout: Layout

    random_access: ClassVar[bool] = False
    """Whether `take` reads the rows asked for and little more."""

    column_name: str | None = None
    """The column that it was opened by, where the user named one."""

    in_memory: ClassVar[bool] = False
    """Whether it is an array of this process, which no other process can open by its name."""

    skipped: Sequence[tuple[str, NearfoldError]] = ()
    """Files of a folder that could not be opened and were left out, with the reason of each."""

    query_column: str | None = None
    """The column of the queries that belong to these vectors, where the format has a name for it."""

    def chunks(
        self, rows: int, start: int = 0, stop: int | None = None, *, others: bool = True
    ) -> Iterator[Chunk]:
        """Yield the rows from `start` to `stop` (None: the last) in order, at most about `rows` at a time.

        With `others=False` columns beside the vectors need not be read.
        """
        stop = self.layout.rows if stop is None else stop
        yield from self._chunks(rows, start, stop, others) if start < stop else ()

    @abstractmethod
    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield what `chunks` does; there is a row at least."""

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers (rising), shape (len(rows), d)."""
        layout = self.layout
        taken = np.empty((len(rows), layout.n_features), layout.dtype)
        first = 0
        for chunk in self.chunks(_ROWS, others=False):
            low, high = np.searchsorted(rows, [first, first + len(chunk.vectors)])
            taken[low:high] = chunk.vectors[rows[low:high] - first]
            first += len(chunk.vectors)
        return taken

    def pieces(self, rows: int) -> list[tuple[int, int]]:
        """Return ranges of about `rows` rows, in order, that can be read without reading much else."""
        last = self.layout.rows
        return [(start, min(last, start + rows)) for start in range(0, last, rows)]

    @property
    def parts(self) -> Sequence[Source]:
        """The files that it is made of, in order: itself, unless it is a folder."""
        return (self,)


def grouped_pieces(starts: Int64, rows: int) -> list[tuple[int, int]]:
    """Return ranges of about `rows` rows that begin and end where groups do.

    Parameters
    ----------
    starts
        The first row of each group that is stored together, and behind them the number of rows.
    rows
        How many rows a range should have; one group at least.
    """
    pieces, start = [], 0
    for stop, after in pairwise([*starts[1:].tolist(), None]):
        if stop > start and (after is None or after - start > rows):
            pieces.append((start, stop))
            start = stop
    return pieces


# Rows looked through at a time where few are wanted.
_ROWS = 4096


class Sink(Protocol):
    """A file of vectors being written."""

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        ...


class Format(Protocol):
    """A module of this package that reads, and maybe writes, one format.

    It has SUFFIXES, the endings of such files, and FOLDER where such a table is a folder.
    """

    def read(self, location: Location, column: str | None) -> Source:
        """Open for reading; `column` names the vectors where a file holds several."""
        ...

    def write(self, path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[Sink]:
        """Open for writing exactly `layout.rows` rows; the file appears whole or not at all."""
        ...


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return names as a message can list them: the first ones, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more if shown else "none"


def check_layout(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Layout:
    """Return the layout of an array in a file, or refuse it.

    Raises
    ------
    FileError
        It is not a table of real numbers, or has no rows or dimensions.
    """
    if dtype.kind not in "fiu":
        raise FileError(f"{path}: {name} has dtype {dtype}, which holds no real numbers; save it as float32")
    if len(shape) != 2:
        raise FileError(f"{path}: {name} has shape {shape}; vectors are a table of rows and dimensions")
    if min(shape) <= 0:
        raise FileError(f"{path}: {name} is empty, its shape is {shape}")
    return Layout(shape[0], shape[1], dtype, name)
