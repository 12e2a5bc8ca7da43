"""A running scan, in which each thread processes whole chunks of rows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, check_finite, normalize_rows
from nearfold._utils.threads import blas_threads, dealt_work
from nearfold.errors import DataError
from nearfold.scan.moments import RunningMoments, summed
from nearfold.scan.neighbors import NeighborSearch
from nearfold.scan.scan import Anchors, Kept, Scan, ScanSpec, numbers_of

__all__ = ["Scanner"]

# Rows that are no longer needed are dropped once this many times the needed ones are held.
_SLACK = 2.0

# The rows of a block for `stride`: enough for a product to run at full speed.
_BLOCK = 1024


def _summed_blocks(first_row: int, n: int, stride: int) -> Iterable[tuple[int, int]]:
    """Yield those of n rows, numbered from `first_row`, that are in every stride-th block, as ranges."""
    if stride == 1:
        yield 0, n
        return
    for block in range(first_row // _BLOCK, (first_row + n - 1) // _BLOCK + 1):
        if block % stride == 0:
            yield max(0, block * _BLOCK - first_row), min(n, (block + 1) * _BLOCK - first_row)


class Scanner:
    """A running scan, used as a context, inside which each chunk is given to a thread.

    Parameters
    ----------
    request : ScanSpec
        What the scan looks for.
    anchors : Anchors or None
        The anchors, from `anchors_of`. None for moments alone.
    start : Scan, optional
        The scan of earlier rows, from which this one resumes.
    carry : bool, default=True
        Whether the vectors of neighbours are kept. If not, `Scan.filled` adds them.
    """

    def __init__(
        self, request: ScanSpec, anchors: Anchors | None, *, start: Scan | None = None, carry: bool = True
    ) -> None:
        self._request, self._carry = request, carry
        self._shift = anchors.shift if anchors else None
        n_threads = blas_threads()
        self._search = None
        if anchors is not None:
            found = start.neighbors if start else None
            self._search = NeighborSearch(
                anchors.vectors, anchors.k, anchors.metric, n_threads, found, anchors.floor, distinct=True
            )
        self._start = start.moments if start else None
        self._rows = start.rows if start else 0
        self._sums: list[RunningMoments | None] = [None] * n_threads
        self._buffers = [np.empty((0, 0), np.float32)] * n_threads
        self._kept: list[Kept] = [start.kept] if start and start.kept else []

    def __enter__(self) -> Scanner:
        self._dealing = dealt_work(len(self._sums))
        self._deal = self._dealing.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._dealing.__exit__(*failure)

    def see(self, chunk: Float32, first_row: int, name: str = "X", named_row: int | None = None) -> None:
        """Give a chunk to a thread, which `result` waits for.

        Parameters
        ----------
        chunk : ndarray of shape (n, d), float32
            The rows, C-contiguous, which must not be changed afterwards.
        first_row : int
            The number of the first row in the whole data.
        name : str, default="X"
            The name of the data, or of its file, in messages.
        named_row : int, optional
            The number of the first row in messages. The default is `first_row`.
        """
        named = first_row if named_row is None else named_row
        self._rows += len(chunk)
        self._deal(partial(self._scan, chunk=chunk, first_row=first_row, name=name, named_row=named))

    def _scan(self, thread: int, chunk: Float32, first_row: int, name: str, named_row: int) -> None:
        rows = self._prepared(thread, chunk, name, named_row)
        sums = self._sums[thread] or RunningMoments(chunk.shape[1], self._request.products)
        self._sums[thread] = sums
        for low, high in _summed_blocks(first_row, len(rows), self._request.stride):
            sums.add(rows[low:high], chunk[low:high], name, named_row + low)
        if self._request.stride > 1 and not np.isfinite(np.ones(len(rows), np.float32) @ rows).all():
            check_finite(chunk, name, named_row)
        search = self._search
        if search is None:
            return
        search.look(thread, rows, first_row)
        if not self._carry:
            return
        with search.lock:
            ids = search.found.ids
            fresh = np.unique(ids[(ids >= first_row) & (ids < first_row + len(rows))])
            if len(fresh):
                self._kept.append(Kept(fresh, rows[fresh - first_row]))
            if sum(len(piece.ids) for piece in self._kept) > _SLACK * ids.size:
                self._drop_unneeded()

    def _prepared(self, thread: int, chunk: Float32, name: str, named_row: int) -> Float32:
        """Return a chunk's rows as the scan compares them, in the thread's buffer if they change."""
        shift = self._shift
        if not self._request.normalize and shift is None:
            return chunk
        buffer = self._buffers[thread]
        if buffer.shape[0] < len(chunk) or buffer.shape[1] != chunk.shape[1]:
            buffer = self._buffers[thread] = np.empty(chunk.shape, np.float32)
        rows = buffer[: len(chunk)]
        if shift is None:
            return normalize_rows(chunk, name, first_row=named_row, out=rows)
        return np.subtract(chunk, shift, out=rows)

    def _drop_unneeded(self) -> None:
        """Drop rows that are no longer neighbours, as nearer ones were found."""
        assert self._search is not None
        needed = numbers_of(self._search.found)
        for i, piece in enumerate(self._kept):
            still = np.isin(piece.ids, needed, assume_unique=True)
            self._kept[i] = Kept(piece.ids[still], piece.vectors[still])

    def result(self) -> Scan:
        """Return the result for all rows so far; more rows can follow.

        Raises
        ------
        DataError
            A row is not finite, or zero under cosine, or there is no row.
        """
        self._deal.wait()
        running = [part for part in self._sums if part is not None]
        if self._start is None and not running:
            raise DataError("no rows: a scan needs at least one")
        moments = summed(running, self._start)
        if self._search is None:
            return Scan(self._rows, moments, shift=self._shift)
        found = self._search.found.chosen(np.arange(len(self._search.found.ids)))
        if not self._carry:
            return Scan(self._rows, moments, found, shift=self._shift)
        width = self._kept[0].vectors.shape[1]
        self._kept = [Kept.gathered(self._kept, numbers_of(found), width)]
        return Scan(self._rows, moments, found, self._kept[0], self._shift)
