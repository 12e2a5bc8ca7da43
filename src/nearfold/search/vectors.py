"""The vectors themselves, in memory or in files, by which candidates are put in order."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64, as_rows, as_vectors, check_directions, check_finite
from nearfold._utils.config import memory_budget
from nearfold._utils.files import open_regular, os_errors
from nearfold.errors import DataError, FileError
from nearfold.io.base import Source
from nearfold.io.npy import read_header
from nearfold.io.vectors import as_source, checked_chunks, checked_rows, located, open_source, read_source
from nearfold.search.fingerprint import Fingerprint, Stamp, stamp
from nearfold.search.growing import Growing
from nearfold.search.scattered import Scattered

__all__ = ["Fetch", "Segment", "StoredVectors", "segments_of"]


# Rows that are no further apart than this are read together: a call of the system takes as long as so many
# bytes. Not too many, so that what lies between them needs little memory.
_GAP_BYTES, _MOST_JOINED = 8192, 512

# So few pieces are read one by one.
_FEW = 4

Fetch: TypeAlias = Callable[[Int64], npt.ArrayLike]
"""A function that takes ids (n,) and returns their vectors (n, d), in the same order."""


class _Rows:
    """Rows of an .npy file that stays open.

    It is never read through a map: a mapped file that shrinks ends the process.
    A file that is replaced by another of its name is read on as it was.
    """

    def __init__(self, file: BufferedReader, path: str) -> None:
        self._path = path
        # Of its own, closed once nothing reads it any more.
        self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._scattered = Scattered(self._handle)
        self._read_some = getattr(os, "preadv", _read_in_turn)
        self._seen = self._status()
        try:
            shape, by_columns, self.dtype = read_header(file)
        except Exception as error:
            # numpy's header parser lets through whatever ast and tokenize raise on broken text.
            raise FileError(f"{path}: truncated or not an .npy file of numbers") from error
        self.readable = len(shape) == 2 and not by_columns and self.dtype.kind in "fiu"
        self.rows, self.width = shape if len(shape) == 2 else (0, 0)
        self._offset = file.tell()

    def _status(self) -> tuple[int, int]:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return rows by number; those that lie near each other, in rising order, are read at once."""
        out = np.empty((len(rows), self.width), self.dtype)
        if not out.size:
            return out
        stride, buffer = out.strides[0], out.reshape(-1).view(np.uint8).data
        near = np.diff(rows)
        joined = (near >= 1) & (near <= max(1, _GAP_BYTES // stride))
        joined[_MOST_JOINED - 1 :: _MOST_JOINED] = False
        starts = np.concatenate([[0], np.flatnonzero(~joined) + 1])
        if len(starts) > _FEW and self._scattered.copied(self._offset + rows * stride, stride, out):
            self._check_same()
            return out
        stops = np.append(starts[1:], len(rows))
        spans = rows[stops - 1] - rows[starts] + 1
        places = self._offset + rows[starts] * stride
        with os_errors(self._path):
            for first, stop, span, place in zip(
                starts.tolist(), stops.tolist(), spans.tolist(), places.tolist(), strict=True
            ):
                if span == stop - first:
                    self._read(buffer[first * stride : stop * stride], place)
                else:
                    around = np.empty((span, self.width), self.dtype)
                    self._read(around.reshape(-1).view(np.uint8).data, place)
                    out[first:stop] = around[rows[first:stop] - rows[first]]
        self._check_same()
        return out

    def _check_same(self) -> None:
        if self._status() != self._seen:
            raise FileError(_changed(self._path))

    def _read(self, buffer: memoryview, place: int) -> None:
        """Fill a buffer with what stands at a place of the file; many threads may do so at once."""
        got = self._read_some(self._handle, [buffer], place)
        while got < len(buffer):
            more = self._read_some(self._handle, [buffer[got:]], place + got)
            if not more:
                raise FileError(_changed(self._path))
            got += more


_TURN = threading.Lock()


def _read_in_turn(handle: int, buffers: list[memoryview], place: int) -> int:
    """Do what `os.preadv` does for one buffer, where a file has a position alone, which threads share."""
    with _TURN:
        os.lseek(handle, place, os.SEEK_SET)
        content = os.read(handle, len(buffers[0]))
    buffers[0][: len(content)] = content
    return len(content)


def _changed(path: str) -> str:
    return (
        f"{path}: has changed since the index was opened; put the file back and load the index again, or "
        f"build it again"
    )


class Segment(NamedTuple):
    """Vectors that lie together, in an array or in a file.

    Parameters
    ----------
    rows : int
        How many there are.
    array : ndarray of shape (rows, d), optional
        The vectors, in memory. None where a file is read.
    source : Source, optional
        The open file. Single rows can be read from it, unless the vectors are only passed through.
    path : str, optional
        Where the file is. None for an array in memory, which `save` writes into the index's folder.
    npy : _Rows, optional
        The rows of an open .npy file, in place of `source`.
    seen : Stamp, optional
        What could be told of the file when it was opened.
    known : Fingerprint, optional
        What the file was when it was saved with an index.
    owned : bool, default=False
        Whether the array is a copy that the index made, which it may join with others.
    """

    rows: int
    array: npt.NDArray[Any] | None
    source: Source | None = None
    path: str | None = None
    npy: _Rows | None = None
    seen: Stamp | None = None
    known: Fingerprint | None = None
    owned: bool = False

    @classmethod
    def of_file(cls, path: str, known: Fingerprint | None = None) -> Segment:
        """Open a file of vectors, to be read row by row.

        Raises
        ------
        FileError
            It can't be read, or its format has no single rows.
        """
        if Path(path).suffix == ".npy":
            seen = stamp(Path(path))
            with open_regular(path) as file:
                npy = _Rows(file, path)
            if npy.readable:
                # This checks the layout, and that the file is as long as it says.
                open_source(path)
                return cls(npy.rows, None, None, path, npy, seen, known)
        source = open_source(path)
        if not source.random_access:
            raise FileError(
                f"{path}: single rows can't be read from this format; use .npy, .fvecs, HDF5 or Lance"
            )
        return cls(source.layout.rows, None, source, path, None, stamp(Path(path)), known)

    @property
    def width(self) -> int:
        """The dimensions of its vectors."""
        if self.array is not None:
            return int(self.array.shape[1])
        if self.npy is not None:
            return self.npy.width
        assert self.source is not None
        return self.source.layout.n_features

    def first(self, rows: int) -> Segment:
        """Return the first rows alone."""
        if rows == self.rows:
            return self
        return self._replace(rows=rows, array=None if self.array is None else self.array[:rows])

    def checked(self, rows: Int64) -> Float32:
        """Return rows by number as finite float32.

        Raises
        ------
        DataError
            One is not finite; the message names its file and its number there.
        FileError
            As `take`.
        """
        taken = self.take(rows)
        if self.source is not None:
            return checked_rows(taken, rows, self.source)
        name = self.name
        vectors = as_vectors(taken, name, min_rows=0, finite=False)
        try:
            check_finite(vectors, name)
        except DataError:
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            check_finite(vectors[bad : bad + 1], name, int(rows[bad]))
        return vectors

    def chunks(self, step: int) -> Iterator[tuple[Int64, Float32]]:
        """Yield the numbers of about `step` rows at a time, and those rows; raises as `checked`."""
        if self.source is None or self.source.random_access:
            for start in range(0, self.rows, step):
                rows = np.arange(start, min(self.rows, start + step))
                yield rows, self.checked(rows)
            return
        first = 0
        for chunk in checked_chunks(self.source, others=False, nbytes=4 * step * self.width):
            yield np.arange(first, first + len(chunk.vectors)), chunk.vectors
            first += len(chunk.vectors)

    @property
    def name(self) -> str:
        """What errors call the vectors: their file, or X."""
        return self.path or "X"

    def check_directions(self, vectors: Float32, rows: Int64) -> None:
        """Refuse a zero row among some that were taken, named by its file and its number there.

        Raises
        ------
        DataError
            There is one.
        """
        for zero in np.flatnonzero(~vectors.any(axis=1))[:1]:
            row = int(rows[zero])
            name, there = (self.name, row) if self.source is None else located(self.source, row)
            check_directions(vectors[zero : zero + 1], name, there)

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return rows by number.

        Raises
        ------
        FileError
            They are in a file that has changed since it was opened.
        """
        if self.array is not None:
            return self.array[rows]
        if self.npy is not None:
            return self.npy.take(rows)
        assert self.source is not None
        assert self.path is not None
        order = np.argsort(rows, kind="stable")
        taken = self.source.take(rows[order])
        if self.seen is not None and stamp(Path(self.path)) != self.seen:
            raise FileError(_changed(self.path))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return taken[back]


def segments_of(X: Any, *, fetched: bool = False, copy: bool = False) -> list[Segment]:
    """Return any vectors as segments, the files of a folder as one each.

    Files that single rows can be read from stay where they are. Others are read into memory.

    Parameters
    ----------
    X : Source, path, URL or array-like
        As for `as_source`; but an array keeps its dtype.
    fetched : bool, default=False
        Whether the vectors are only passed through once, and so need no memory.
    copy : bool, default=False
        Whether an array is copied, as float32.

    Raises
    ------
    FileError
        A file can't be read, or would have to be read into memory and is larger than the budget.
    DataError
        The array is not a table of vectors, or a row of a file that was read into memory is not finite.
    """
    if not isinstance(X, str | os.PathLike | Source):
        array = as_vectors(X, min_rows=0, finite=False).copy() if copy else as_rows(X)
        return [Segment(len(array), array, owned=copy)]
    return [_segment_of(part, fetched=fetched) for part in as_source(X).parts]


def _segment_of(part: Source, *, fetched: bool) -> Segment:
    """Return one file as a segment."""
    if fetched:
        return Segment(part.layout.rows, None, part, part.path)
    if part.random_access and "://" not in part.path and Path(part.path).exists():
        # A file of several columns may not open without a name, or at another column than the caller's; an
        # index that is loaded again has only the path.
        with suppress(FileError):
            segment, first = Segment.of_file(part.path), np.zeros(1, np.int64)
            if segment.rows == part.layout.rows and np.array_equal(segment.take(first), part.take(first)):
                return segment
    needed = 4 * part.layout.rows * part.layout.n_features
    if needed > memory_budget():
        raise FileError(
            f"{part.path}: single rows can't be read from it, and its {needed / 1e9:,.1f} GB of vectors are "
            f"more than the memory budget; convert it to .npy, or give a function that fetches vectors"
        )
    return Segment(part.layout.rows, read_source(part), owned=True)


class StoredVectors:
    """Vectors by row number: segments one behind another, or a function of ids.

    Parameters
    ----------
    n_features : int
        The number of dimensions, d.
    segments : list of Segment
        The segments, in the order in which they were added.
    fetch : callable, optional
        A function that is asked for the vectors of ids, in place of all segments.
    rows : ndarray of shape (n,), int64, optional
        Which of the segments' rows are still wanted, by number. By default all are.
    """

    def __init__(
        self, n_features: int, segments: list[Segment], fetch: Fetch | None = None, rows: Int64 | None = None
    ) -> None:
        self.n_features, self.fetch = n_features, fetch
        self._rows = None if rows is None else Growing(rows)
        self.segments = segments

    @property
    def segments(self) -> list[Segment]:
        """The segments, in order."""
        return self._segments

    @segments.setter
    def segments(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._starts = np.cumsum([0, *(segment.rows for segment in segments)])

    @property
    def rows(self) -> Int64 | None:
        """Which of the segments' rows are still wanted, shape (n,); None for all."""
        return None if self._rows is None else self._rows.array

    def append(self, segment: Segment) -> None:
        """Add vectors behind the others.

        A copy in memory is joined with those of similar size before it: a few segments remain, however
        many were added, and each vector is copied a few times at most.
        """
        if self._rows is not None:
            first = int(self._starts[-1])
            self._rows.append(np.arange(first, first + segment.rows))
        segments = [*self.segments, segment]
        while len(segments) > 1 and _joinable(*segments[-2:]):
            arrays = [each.array for each in segments[-2:] if each.array is not None]
            joined = np.concatenate(arrays)
            segments[-2:] = [Segment(len(joined), joined, owned=True)]
        self.segments = segments

    def keep(self, rows: Int64) -> None:
        """Forget all rows but some, which are numbered anew in the order given."""
        self._rows = Growing(rows if self.rows is None else self.rows[rows])

    @property
    def lone_array(self) -> Float32 | None:
        """The vectors, where they are one float32 array whose rows faiss can read itself."""
        if self.fetch is None and self.rows is None and len(self.segments) == 1:
            array = self.segments[0].array
            if array is not None and array.dtype == np.float32 and array.flags.c_contiguous:
                return array
        return None

    def take(self, rows: Int64, ids: Int64) -> Float32:
        """Return the vectors of some rows, whose ids are `ids`: shape (n, d), float32.

        Raises
        ------
        DataError
            The function that fetches them returned something else.
        """
        if self.fetch is not None:
            fetched = np.ascontiguousarray(self.fetch(ids), np.float32)
            if fetched.shape != (len(ids), self.n_features):
                raise DataError(
                    f"fetch returned shape {fetched.shape} for {len(ids)} ids; it must return one vector of "
                    f"{self.n_features} dimensions for each"
                )
            return fetched
        if self.rows is not None:
            rows = self.rows[rows]
        if len(self.segments) == 1:
            return np.ascontiguousarray(self.segments[0].take(rows), np.float32)
        out = np.empty((len(rows), self.n_features), np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners).tolist():
            inside = np.flatnonzero(owners == owner)
            out[inside] = self.segments[owner].take(rows[inside] - self._starts[owner])
        return out


def _joinable(before: Segment, after: Segment) -> bool:
    """Return whether two copies in memory may be joined: the first is less than twice as long."""
    return before.owned and after.owned and before.path is None and before.rows < 2 * after.rows
