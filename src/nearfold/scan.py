"""One pass over rows of any number: their moments, and the neighbours of a few anchors among them.

What a scan finds is a value of megabytes that can be merged with another part's, written, and
gone on from; it is all that training reads. The rows that are neighbours are carried along, so
no second pass has to fetch them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, check_finite, chunk_rows, normalize_rows
from nearfold.errors import DataError
from nearfold.moments import Moments, Precision, RunningMoments
from nearfold.neighbors import Neighbors, NeighborSearch, lowest_scores, without_own
from nearfold.progress import stage
from nearfold.sampling import sampled_rows
from nearfold.threads import blas_threads, dealt_work

__all__ = [
    "Anchors",
    "Blocks",
    "Kept",
    "Request",
    "Scan",
    "Scanner",
    "anchors_of",
    "prepared",
    "scan_array",
    "scan_rows",
]

Int64 = npt.NDArray[np.int64]

# Rows carried along are looked through once this many times those needed are held.
_SLACK = 2.0

# Rows of an array that anchors are compared with first.
_SAMPLE = 2048

# Rows that are summed, or not, together: enough for a product to run at full speed.
_BLOCK = 1024


class Request(NamedTuple):
    """What a method asks of a scan of its data.

    Parameters
    ----------
    metric
        What near means.
    normalize
        Whether rows are scaled to norm 1 first.
    products
        What products of rows are computed in; see `Moments.stream`.
    n_anchors, k
        How many rows' neighbours to look for, and how many each; 0 anchors for moments alone.
    seed
        Of the anchors.
    stride
        Sum the moments of one block of rows in so many.
    queries
        A sample of queries of another kind, shape (q, d): the anchors are drawn from them.
    """

    metric: Metric
    normalize: bool
    products: Precision
    n_anchors: int = 0
    k: int = 0
    seed: int = 0
    stride: int = 1
    queries: Float32 | None = None


@dataclass(frozen=True, eq=False)
class Anchors:
    """Rows, or queries of another kind, whose neighbours a scan looks for.

    Parameters
    ----------
    vectors
        Shape (a, d), prepared as the rows will be.
    rows
        Their row numbers, shape (a,), rising; None for queries.
    k
        The rows to find for each, itself included where it is one of them.
    metric
        What near means.
    shift
        What is subtracted from every row for "l2", shape (d,): near the mean, so that neither
        distances nor moments lose digits to an origin far away. None for other metrics.
    """

    vectors: Float32
    rows: Int64 | None
    k: int
    metric: Metric
    shift: Float32 | None = None
    floor: Float32 | None = None
    """A lower bound of the score of each anchor's k-th neighbour, shape (a,); None where none is known."""

    def chosen(self, which: Int64) -> Anchors:
        """Return some of the anchors."""
        rows = None if self.rows is None else self.rows[which]
        floor = None if self.floor is None else self.floor[which]
        return replace(self, vectors=self.vectors[which], rows=rows, floor=floor)


def anchors_of(vectors: Float32, rows: Int64 | None, request: Request, sample: Float32) -> Anchors:
    """Prepare anchors.

    Parameters
    ----------
    vectors, rows
        The anchors as they are in the data, shape (a, d), and the numbers of their rows.
    request
        What is asked.
    sample
        Some of the rows that will be scanned, as they are in the data, shape (s, d): the k-th neighbour
        among all is at least as near as that among them, so most rows need no second look.
    """
    k = request.k if rows is None else request.k + 1
    shift = None
    if request.metric == "l2":
        shift = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    name = "queries" if rows is None else "X"
    anchors = prepared(vectors, request, shift, name)
    floor = lowest_scores(anchors, prepared(sample, request, shift), k, request.metric)
    return Anchors(anchors, rows, k, request.metric, shift, floor)


def prepared(vectors: Float32, request: Request, shift: Float32 | None, name: str = "X") -> Float32:
    """Return rows as a scan looks at them: normalised or shifted, where that is asked."""
    if request.normalize:
        return normalize_rows(vectors, name)
    return vectors if shift is None else vectors - shift


@dataclass(frozen=True, eq=False)
class Kept:
    """Some rows and their numbers.

    Parameters
    ----------
    ids
        Shape (r,), int64, rising.
    vectors
        Shape (r, d), float32, prepared.
    """

    ids: Int64
    vectors: Float32

    @classmethod
    def gathered(cls, pieces: list[Kept], needed: Int64, n_features: int) -> Kept:
        """Return the rows `needed` (rising, each once) out of pieces, a list that is emptied meanwhile."""
        vectors = np.empty((len(needed), n_features), np.float32)
        have = np.zeros(len(needed), bool)
        while pieces:
            piece = pieces.pop()
            places = np.searchsorted(needed, piece.ids)
            places[places == len(needed)] = 0
            wanted = needed[places] == piece.ids if len(needed) else np.zeros(len(piece.ids), bool)
            if wanted.all():
                vectors[places] = piece.vectors
            else:
                places = places[wanted]
                vectors[places] = piece.vectors[wanted]
            have[places] = True
        return cls(needed[have], vectors if have.all() else vectors[have])


@dataclass(frozen=True, eq=False)
class Blocks:
    """Anchors with their neighbours: all that NearFold's training reads.

    Parameters
    ----------
    vectors
        The rows that blocks are made of, shape (u, d), float32, as the metric wants them
        (norm 1 for cosine, mean subtracted for l2).
    index
        Shape (a, k + 1), int64: the numbers of each block's rows, the anchor first.
    foreign
        Whether anchors are queries of another kind than the rows they are blocked with.
    """

    vectors: Float32
    index: Int64
    foreign: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """What a pass over some rows found.

    Parameters
    ----------
    rows
        How many rows were seen.
    moments
        Of the prepared rows (about `Anchors.shift`, where there is one), or of every so many blocks
        of them.
    neighbors
        Of the anchors, in no particular order; None without anchors.
    kept
        The rows that are neighbours; None without anchors, or where they were not carried along.
    shift
        That of the anchors.
    """

    rows: int
    moments: Moments
    neighbors: Neighbors | None = None
    kept: Kept | None = None
    shift: Float32 | None = None

    def __add__(self, other: Scan) -> Scan:
        """Return what a pass over both parts' rows would have found."""
        moments = self.moments + other.moments
        if self.neighbors is None or other.neighbors is None:
            return replace(self, rows=self.rows + other.rows, moments=moments)
        neighbors = self.neighbors.merge(other.neighbors)
        kept = None
        if self.kept is not None and other.kept is not None:
            width = self.kept.vectors.shape[1]
            kept = Kept.gathered([self.kept, other.kept], _numbers(neighbors), width)
        return replace(self, rows=self.rows + other.rows, moments=moments, neighbors=neighbors, kept=kept)

    def needed(self) -> Int64:
        """Return the numbers of the rows that are neighbours and were not carried along, rising."""
        if self.neighbors is None or self.kept is not None:
            return np.empty(0, np.int64)
        return _numbers(self.neighbors)

    def filled(self, rows: list[Kept]) -> Scan:
        """Return this scan with the rows that `needed()` names, given among others, prepared."""
        needed, width = self.needed(), rows[0].vectors.shape[1]
        return replace(self, kept=Kept.gathered(rows, needed, width))

    def of_anchors(self, chosen: Int64) -> Scan:
        """Return this scan for some of its anchors."""
        assert self.neighbors is not None
        return replace(self, neighbors=Neighbors(self.neighbors.scores[chosen], self.neighbors.ids[chosen]))

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of the rows before they were shifted, shape (d,)."""
        return self.moments.mean + (0.0 if self.shift is None else self.shift.astype(np.float64))

    def blocks(self, anchors: Anchors) -> Blocks:
        """Return the anchors' blocks, centred on the mean where the scan shifted."""
        assert self.neighbors is not None
        assert self.kept is not None
        found = self.neighbors.sorted().ids
        own = anchors.rows
        if own is None:
            # Queries have no row numbers: they stand behind the rows.
            vectors = np.concatenate([self.kept.vectors, anchors.vectors])
            own_places = len(self.kept.ids) + np.arange(len(anchors.vectors))
            index = np.searchsorted(self.kept.ids, found)
        else:
            # Duplicates can push an anchor out of its own list.
            numbers, vectors = self.kept.ids, self.kept.vectors
            if len(missing := np.flatnonzero(~np.isin(own, numbers))):
                pieces = [self.kept, Kept(own[missing], anchors.vectors[missing])]
                numbers = np.union1d(numbers, own)
                vectors = Kept.gathered(pieces, numbers, vectors.shape[1]).vectors
            own_places = np.searchsorted(numbers, own)
            index = np.searchsorted(numbers, without_own(found, own))
        if self.shift is not None:
            vectors = vectors - self.moments.mean.astype(np.float32)
        return Blocks(vectors, np.column_stack([own_places, index]), foreign=own is None)


def _numbers(neighbors: Neighbors) -> Int64:
    """Return the numbers of all rows that are somebody's neighbour, rising."""
    numbers = np.unique(neighbors.ids)
    return numbers[np.searchsorted(numbers, 0) :]


def _summed_blocks(first_row: int, n: int, stride: int) -> Iterable[tuple[int, int]]:
    """Yield which of n rows, numbered from `first_row`, are in every stride-th block, as ranges."""
    if stride == 1:
        yield 0, n
        return
    for block in range(first_row // _BLOCK, (first_row + n - 1) // _BLOCK + 1):
        if block % stride == 0:
            yield max(0, block * _BLOCK - first_row), min(n, (block + 1) * _BLOCK - first_row)


def _array_chunks(X: Float32) -> Iterable[Float32]:
    """Yield views of an array, enough of them for all threads to have some."""
    step = max(256, min(chunk_rows(X.shape[1], 16 << 20), -(-len(X) // (4 * blas_threads()))))
    return (X[start : start + step] for start in range(0, len(X), step))


def scan_rows(
    chunks: Iterable[Float32],
    request: Request,
    anchors: Anchors | None,
    *,
    total: int,
) -> Scan:
    """Scan rows that come in chunks.

    Parameters
    ----------
    chunks
        Arrays of shape (n_i, d), float32, C-contiguous, in order.
    request
        What is asked.
    anchors
        From `anchors_of`; None for moments alone.
    total
        How many rows there are, for the progress shown.

    Raises
    ------
    DataError
        A row is not finite, or is zero where rows are normalised.
    """
    scanner, first_row = Scanner(request, anchors), 0
    with stage("scan", total) as advance, scanner:
        for chunk in chunks:
            scanner.see(chunk, first_row)
            first_row += len(chunk)
            advance(len(chunk))
    return scanner.result()


class Scanner:
    """A scan under way; a context in which each chunk is given to a thread.

    Parameters
    ----------
    request, anchors
        As for `scan_rows`.
    start
        What earlier rows gave, where a scan goes on from there.
    carry
        Whether the rows that are neighbours are carried along. Where not, `Scan.filled` adds them.
    """

    def __init__(
        self,
        request: Request,
        anchors: Anchors | None,
        *,
        start: Scan | None = None,
        carry: bool = True,
    ) -> None:
        self._request, self._carry = request, carry
        self._shift = anchors.shift if anchors else None
        n_threads = blas_threads()
        self._search = None
        if anchors is not None:
            found = start.neighbors if start else None
            self._search = NeighborSearch(
                anchors.vectors, anchors.k, anchors.metric, n_threads, found, anchors.floor
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
        """Scan one chunk, soon: `result` waits for it.

        Parameters
        ----------
        chunk
            Shape (n, d), float32, C-contiguous; not to be changed.
        first_row
            The number of its first row among all.
        name, named_row
            What errors call the data, and the number of the first row there (None: the same).
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
        """Return a chunk's rows as the request wants them, in the thread's buffer where they change."""
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
        """Forget rows that were neighbours until nearer ones came."""
        assert self._search is not None
        needed = _numbers(self._search.found)
        for i, piece in enumerate(self._kept):
            still = np.isin(piece.ids, needed, assume_unique=True)
            self._kept[i] = Kept(piece.ids[still], piece.vectors[still])

    def result(self) -> Scan:
        """Return what was found so far; the scan can go on."""
        self._deal.wait()
        sums = [part.result() for part in self._sums if part is not None]
        if self._start is not None:
            sums.insert(0, self._start)
        if not sums:
            raise DataError("no rows: a scan needs at least one")
        moments = reduce(add, sums)
        if self._search is None:
            return Scan(self._rows, moments, shift=self._shift)
        found = Neighbors(self._search.found.scores.copy(), self._search.found.ids.copy())
        if not self._carry:
            return Scan(self._rows, moments, found, shift=self._shift)
        width = self._kept[0].vectors.shape[1]
        self._kept = [Kept.gathered(self._kept, _numbers(found), width)]
        return Scan(self._rows, moments, found, self._kept[0], self._shift)


def scan_array(X: Float32, request: Request) -> tuple[Scan, Anchors | None]:
    """Scan an array of shape (n, d) and return what was found, and the anchors drawn."""
    anchors = None
    if request.n_anchors:
        source = X if request.queries is None else request.queries
        rows = sampled_rows(len(source), request.n_anchors, request.seed)
        sample = X[sampled_rows(len(X), _SAMPLE, request.seed + 1)]
        anchors = anchors_of(source[rows], None if request.queries is not None else rows, request, sample)
    return scan_rows(_array_chunks(X), request, anchors, total=len(X)), anchors
