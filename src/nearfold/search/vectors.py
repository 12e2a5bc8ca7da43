"""The vectors of an index, in memory or in files, by which candidates are re-ranked."""

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


# Rows with gaps of at most so many bytes are read together, as a system call takes as long as reading that.
# The number of rows read together is limited, so that the gaps need little memory.
_GAP_BYTES, _MOST_JOINED = 8192, 512

# Up to this many pieces are read one by one.
_FEW = 4

Fetch: TypeAlias = Callable[[Int64], npt.ArrayLike]
"""A function that takes ids (n,) and returns their vectors (n, d), in the same order."""


class _Rows:
    """Rows of an .npy file that stays open.

    The file is not read through a mapping, as truncation of a mapped file ends the process. If another file
    replaces it under its name, the open file is still read.
    """

    def __init__(self, file: BufferedReader, path: str) -> None:
        self._path = path
        # A descriptor of its own, which is closed when this object is no longer used.
        self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._scattered = Scattered(self._handle)
        self._read_some = getattr(os, "preadv", _read_in_turn)
        self._seen = self._status()
        try:
            shape, by_columns, self.dtype = read_header(file)
        except Exception as error:
            # numpy's header parser passes on any error that ast and tokenize raise on broken text.
            raise FileError(f"{path}: truncated or not an .npy file of numbers") from error
        self.readable = len(shape) == 2 and not by_columns and self.dtype.kind in "fiu"
        self.rows, self.width = shape if len(shape) == 2 else (0, 0)
        self._offset = file.tell()

    def _status(self) -> tuple[int, int]:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return rows by number; near rows in ascending order are read together."""
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
        """Fill a buffer from an offset in the file; many threads may do so at once."""
        got = self._read_some(self._handle, [buffer], place)
        while got < len(buffer):
            more = self._read_some(self._handle, [buffer[got:]], place + got)
            if not more:
                raise FileError(_changed(self._path))
            got += more


_TURN = threading.Lock()


def _read_in_turn(handle: int, buffers: list[memoryview], place: int) -> int:
    """Read into one buffer as `os.preadv` does, on systems where threads share a file's position."""
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

    Attributes
    ----------
    rows : int
        The number of vectors.
    array : ndarray of shape (rows, d), or None
        The vectors in memory. None if they are in a file.
    source : Source, optional
        The open file. Single rows can be read from it, unless the vectors are read only once.
    path : str, optional
        The path of the file. None for an array in memory, which `save` writes into the index's folder.
    npy : _Rows, optional
        The rows of an open .npy file, in place of `source`.
    seen : Stamp, optional
        The stamp of the file when it was opened.
    known : Fingerprint, optional
        The fingerprint of the file when it was saved with an index.
    owned : bool, default=False
        Whether the array is a copy that the index made, and may join with others.
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
        """Open a file of vectors, to be read row by row; `known` is its fingerprint, if there is one.

        Raises
        ------
        FileError
            The file can't be read, or single rows can't be read from its format.
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
        """The number of dimensions d of the vectors."""
        if self.array is not None:
            return int(self.array.shape[1])
        if self.npy is not None:
            return self.npy.width
        assert self.source is not None
        return self.source.layout.n_features

    def first(self, rows: int) -> Segment:
        """Return the segment of the first `rows` vectors."""
        if rows == self.rows:
            return self
        return self._replace(rows=rows, array=None if self.array is None else self.array[:rows])

    def checked(self, rows: Int64) -> Float32:
        """Return rows by number as finite float32, shape (len(rows), d).

        Raises
        ------
        DataError
            A row is not finite; the message names its file and its number there.
        FileError
            The file has changed since it was opened.
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
        """Yield the numbers of about `step` rows at a time, and those rows; errors are those of `checked`."""
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
        """The name of the vectors in messages: their file, or X."""
        return self.path or "X"

    def check_directions(self, vectors: Float32, rows: Int64) -> None:
        """Refuse a zero row among `vectors`, whose numbers in the segment are `rows`.

        Raises
        ------
        DataError
            A row is zero; the message names its file and its number there.
        """
        for zero in np.flatnonzero(~vectors.any(axis=1))[:1]:
            row = int(rows[zero])
            name, there = (self.name, row) if self.source is None else located(self.source, row)
            check_directions(vectors[zero : zero + 1], name, there)

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return rows by number, shape (len(rows), d), in the dtype of the segment.

        Raises
        ------
        FileError
            The file has changed since it was opened, or can't be read.
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
    """Return any vectors as segments, one for each file of a folder.

    Files from which single rows can be read stay where they are. Others are read into memory.

    Parameters
    ----------
    X : array-like, data frame, path, URL or Source
        The vectors, as for `as_source`; but an array keeps its dtype.
    fetched : bool, default=False
        Whether the vectors are read only once, so that no file is read into memory.
    copy : bool, default=False
        Whether to copy an array, as float32.

    Returns
    -------
    list of Segment

    Raises
    ------
    FileError
        A file can't be read, or must be read into memory and is larger than the budget.
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
        # An index that is loaded again has only the path of a file. Without the name of the column, a file of
        # several columns may not open, or open at another column.
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
    """The vectors of an index by row number, from concatenated segments or from a function of ids.

    Parameters
    ----------
    n_features : int
        The number of dimensions d.
    segments : list of Segment
        The segments, in the order of their addition.
    fetch : callable, optional
        A function that takes ids and returns their vectors, in place of segments.
    rows : ndarray of shape (n,), int64, optional
        The numbers of the segments' rows that belong to the index. By default all do.
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
        """The numbers of the segments' rows that belong to the index, shape (n,), or None for all."""
        return None if self._rows is None else self._rows.array

    def append(self, segment: Segment) -> None:
        """Append a segment.

        A copy in memory is joined with copies of similar size before it. So only a few segments remain,
        however many were added, and each vector is copied only a few times.
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
        """Keep only some rows, which are numbered anew in the given order."""
        self._rows = Growing(rows if self.rows is None else self.rows[rows])

    @property
    def lone_array(self) -> Float32 | None:
        """The vectors as one float32 array (n, d) in memory, which faiss can read in place, or None."""
        if self.fetch is None and self.rows is None and len(self.segments) == 1:
            array = self.segments[0].array
            if array is not None and array.dtype == np.float32 and array.flags.c_contiguous:
                return array
        return None

    def take(self, rows: Int64, ids: Int64) -> Float32:
        """Return the vectors of rows by number.

        Parameters
        ----------
        rows : ndarray of shape (n,), int64
            The row numbers.
        ids : ndarray of shape (n,), int64
            The ids of these rows, for the function that fetches vectors.

        Returns
        -------
        ndarray of shape (n, d), float32

        Raises
        ------
        DataError
            The function that fetches vectors returned an array of another shape.
        FileError
            A file of vectors has changed since it was opened, or can't be read.
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
    """Return whether to join two copies in memory, of which the first is less than twice as long."""
    return before.owned and after.owned and before.path is None and before.rows < 2 * after.rows
