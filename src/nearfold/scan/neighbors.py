"""Exact nearest neighbours of a few anchors among very many rows.

The rows are read once, chunk by chunk, and only each anchor's best k are kept. faiss holds the whole base in
memory and sorts more than this needs (benchmarks/speed.py has the ratio), so it is used for the evaluation of
folds and not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, common_part, normalize_rows, row_norms
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, dealt_work
from nearfold.errors import DataError, ParameterError
from nearfold.scan.copies import NO_MARK, row_marks, without_copies

if TYPE_CHECKING:
    import scipy.sparse

__all__ = [
    "NeighborSearch",
    "Neighbors",
    "lowest_scores",
    "nearest",
    "nearest_others",
    "neighbor_differences",
    "neighbor_graph",
    "without_own",
]


# The most rows, and the most anchors, that are scored at a time.
_ROWS = 2048
_ANCHORS = 4096
# Scores of the same rows in different chunks differ by less than this share of their largest possible size.
_ROUNDING = 1e-4

# The number of scores that each thread holds, which fit a core's share of the cache.
_SCORES = 1 << 21

# The multiple of the identity that is added to second moments of mean 1 in each dimension.
_FLOOR = 1e-4


class Neighbors(NamedTuple):
    """The k nearest rows found so far for each anchor; results for disjoint sets of rows can be merged.

    Attributes
    ----------
    scores : ndarray of shape (n_anchors, k), float32
        The scores in no particular order, higher for nearer rows, and -inf for no row.
    ids : ndarray of shape (n_anchors, k), int64
        The row numbers, -1 for no row.
    marks : ndarray of shape (n_anchors, k), int64, optional
        The marks of the rows (see `row_marks`), if copies of a row count once, as the lowest number among
        them. None if each row counts.
    """

    scores: Float32
    ids: Int64
    marks: Int64 | None = None

    @classmethod
    def empty(cls, n_anchors: int, k: int, *, distinct: bool = False) -> Neighbors:
        """Return the neighbours of anchors before any rows are seen, with marks if `distinct`."""
        shape = n_anchors, k
        marks = np.full(shape, NO_MARK, np.int64) if distinct else None
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), marks)

    def merge(self, other: Neighbors) -> Neighbors:
        """Return each anchor's best k of these and of further candidates (a, c)."""
        k = self.scores.shape[1]
        both = self.joined(other, axis=1)
        best = _best(both, k)
        # If an anchor's best rows are distinct, copies among the others can't change them.
        if best.marks is not None and len(again := np.flatnonzero(_repeats(best.marks))):
            best.put(again, _best(_once(both.chosen(again)), k))
        return best

    def joined(self, other: Neighbors, axis: int) -> Neighbors:
        """Return the concatenation with others, of other anchors for axis 0 or of other rows for axis 1."""
        marks = None
        if self.marks is not None and other.marks is not None:
            marks = np.concatenate([self.marks, other.marks], axis)
        scores = np.concatenate([self.scores, other.scores], axis)
        return Neighbors(scores, np.concatenate([self.ids, other.ids], axis), marks)

    def chosen(self, which: Int64) -> Neighbors:
        """Return the neighbours of some of the anchors."""
        return self._each(lambda part: part[which])

    def put(self, which: Int64, other: Neighbors) -> None:
        """Replace the neighbours of some of the anchors."""
        self.scores[which], self.ids[which] = other.scores, other.ids
        if self.marks is not None and other.marks is not None:
            self.marks[which] = other.marks

    def along(self, columns: Int64) -> Neighbors:
        """Return the neighbours of each anchor in the given columns (a, c)."""
        return self._each(lambda part: np.take_along_axis(part, columns, 1))

    def _each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Neighbors:
        marks = None if self.marks is None else change(self.marks)
        return Neighbors(change(self.scores), change(self.ids), marks)

    def sorted(self) -> Neighbors:
        """Return the same neighbours, nearest first, and those of equal scores by row number."""
        return self.along(np.lexsort((self.ids, -self.scores), axis=1))


def nearest(
    anchors: Float32, chunks: Iterable[Float32], k: int, metric: Metric, rows: int, *, distinct: bool = False
) -> Neighbors:
    """Return each anchor's k nearest rows.

    Parameters
    ----------
    anchors : ndarray of shape (a, d), float32
        The anchors. For cosine, anchors and rows must have norm 1 already.
    chunks : iterable of ndarrays of shape (n_i, d), float32
        The rows in order, which are read once.
    k : int
        The number of neighbours of each anchor.
    metric : {"cosine", "l2", "ip"}
        The metric: scores are inner products for "cosine" and "ip", and <a, x> - |x|^2 / 2 for "l2".
    rows : int
        The number of rows in all chunks, for the progress that is shown.
    distinct : bool, default=False
        Whether copies of a row count once, as training wants it. For search each row counts.

    Returns
    -------
    Neighbors
        The neighbours, nearest first.
    """
    n_threads = blas_threads()
    # A common part of all rows does not change their order, but would take most of float32's digits.
    common = common_part(anchors)
    if common is not None and metric == "l2":
        anchors = anchors - common
    search = NeighborSearch(anchors, k, metric, n_threads, distinct=distinct)
    first = 0
    with stage("neighbours", rows) as advance, dealt_work(n_threads) as deal:
        for chunk in chunks:
            step = max(256, min(_ROWS, -(-len(chunk) // (4 * n_threads))))
            for start in range(0, len(chunk), step):
                piece = chunk[start : start + step]
                if common is not None:
                    piece = piece - common
                deal(partial(search.look, rows=piece, first=first))
                first += len(piece)
                advance(len(piece))
    return search.found.sorted()


class NeighborSearch:
    """A search for anchors' neighbours in which threads may compare different rows at a time.

    The result does not depend on the order of the rows.

    Parameters
    ----------
    anchors, k, metric
        See `nearest`.
    n_threads : int
        The number of threads.
    start : Neighbors, optional
        The neighbours among earlier rows, which are not compared again.
    floor : ndarray of shape (a,), float32, optional
        Lower bounds of the scores of the k-th neighbours, from `lowest_scores`.
    distinct : bool, default=False
        See `nearest`. The floor must then come from distinct rows.
    """

    def __init__(
        self,
        anchors: Float32,
        k: int,
        metric: Metric,
        n_threads: int,
        start: Neighbors | None = None,
        floor: Float32 | None = None,
        *,
        distinct: bool = False,
    ) -> None:
        self._anchors, self._k, self._metric, self._distinct = anchors, k, metric, distinct
        self.found = Neighbors.empty(len(anchors), k, distinct=distinct)
        if start is not None:
            self.found = self.found.merge(start)
        # Other threads read only this lower bound of each anchor's worst neighbour. If it is not quite up to
        # date, it lets a few more candidates pass.
        self._floor = self.found.scores.min(axis=1)
        if floor is not None:
            np.maximum(self._floor, floor, out=self._floor)
        self._step = max(256, min(_ROWS, _SCORES // len(anchors)))
        self._scratch = [np.empty((len(anchors), self._step), np.float32) for _ in range(n_threads)]
        self.lock = threading.Lock()

    def look(self, thread: int, rows: Float32, first: int) -> None:
        """Compare rows (n, d), numbered from `first`, with all anchors, in the thread of the given number."""
        hits: list[_Hits] = []
        marks = row_marks(rows) if self._distinct else None
        for start in range(0, len(rows), self._step):
            piece = rows[start : start + self._step]
            seen = _seen(piece, first + start, None if marks is None else marks[start : start + len(piece)])
            piece = seen.rows
            scores = np.matmul(self._anchors, piece.T, out=self._scratch[thread][:, : len(piece)])
            if self._metric == "l2":
                # |a|^2 is the same for all rows of an anchor, so it is omitted.
                scores -= 0.5 * np.einsum("ij,ij->i", piece, piece)
            if seen.heads is not None:
                scores = np.maximum.reduceat(scores, seen.heads, axis=1)
            if np.isneginf(self._floor).any():
                ids = np.broadcast_to(seen.ids, scores.shape)
                best = _best(Neighbors(scores, ids), min(self._k, scores.shape[1]))
                if marks is not None:
                    best = _marked(best, marks, first)
                self._merge(np.arange(len(scores)), best)
            else:
                hits.append(_reaching(scores, self._floor, seen))
        # All pieces are merged at once, as a merge costs as much for few candidates as for many.
        if hits and sum(len(hit.anchors) for hit in hits):
            anchors, packed = _packed(hits)
            if marks is not None:
                packed = _best_marked(packed, self._k, marks, first)
            self._merge(anchors, packed)

    def _merge(self, anchors: Int64, seen: Neighbors) -> None:
        """Merge candidates of some anchors into the neighbours found so far."""
        with self.lock:
            best = self.found.chosen(anchors).merge(seen)
            self.found.put(anchors, best)
            self._floor[anchors] = np.maximum(self._floor[anchors], best.scores.min(axis=1))


def lowest_scores(anchors: Float32, sample: Float32, k: int, metric: Metric) -> Float32:
    """Return a lower bound of the score of each anchor's k-th neighbour, from a sample of the rows.

    Parameters
    ----------
    anchors, k, metric
        See `nearest`.
    sample : ndarray of shape (s, d), float32
        Some of the rows that will be searched, each once, and without copies if those count once.

    Returns
    -------
    ndarray of shape (a,), float32
        The k-th best score in the sample, less rounding, or -inf if s < k.
    """
    if len(sample) < k:
        return np.full(len(anchors), -np.inf, np.float32)
    step = max(1, _SCORES // len(sample))
    half = 0.5 * np.einsum("ij,ij->i", sample, sample) if metric == "l2" else np.float32(0)
    lowest = np.empty(len(anchors), np.float32)
    for start in range(0, len(anchors), step):
        scores = anchors[start : start + step] @ sample.T - half
        lowest[start : start + step] = np.partition(scores, -k, axis=1)[:, -k]
    farthest = row_norms(sample).max()
    scale = row_norms(anchors) * farthest + (farthest**2 / 2 if metric == "l2" else 0)
    bound: Float32 = lowest - np.float32(_ROUNDING) * scale
    return bound


class _Seen(NamedTuple):
    """Rows as they are scored, with copies of each other side by side.

    Attributes
    ----------
    rows : ndarray of shape (n, d), float32
        The rows.
    ids : ndarray of shape (u,), int64
        The numbers of the distinct rows.
    heads : ndarray of shape (u,), int64, or None
        The place in `rows` of the first copy of each distinct row. None if all rows are distinct.
    """

    rows: Float32
    ids: Int64
    heads: Int64 | None


def _seen(rows: Float32, first: int, marks: Int64 | None) -> _Seen:
    """Return rows, numbered from `first`, as they are scored; if there are marks, copies count once."""
    ids = np.arange(first, first + len(rows))
    if marks is None:
        return _Seen(rows, ids, None)
    order = np.argsort(marks, kind="stable")
    ordered = marks[order]
    heads = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(heads) == len(rows):
        return _Seen(rows, ids, None)
    return _Seen(rows[order], ids[order[heads]], heads)


def _repeats(marks: Int64) -> npt.NDArray[np.bool_]:
    """Return whether each anchor has rows with the same mark (a, k), as a mask of shape (a,)."""
    ordered = np.sort(marks, axis=1)
    same = ordered[:, 1:] == ordered[:, :-1]
    if not same.any():
        return np.zeros(len(marks), bool)
    found: npt.NDArray[np.bool_] = (same & (ordered[:, 1:] != NO_MARK)).any(axis=1)
    return found


def _once(seen: Neighbors) -> Neighbors:
    """Return candidates (a, c) in which a single entry stands for all rows of a mark; the others are empty.

    The entry has the highest score and the lowest number of these rows, whatever their order.
    """
    assert seen.marks is not None
    ordered = seen.along(np.lexsort((seen.ids, seen.marks), axis=1))
    assert ordered.marks is not None
    heads = np.ones(ordered.ids.shape, bool)
    heads[:, 1:] = ordered.marks[:, 1:] != ordered.marks[:, :-1]
    starts = np.flatnonzero(heads)
    once = Neighbors.empty(*ordered.ids.shape, distinct=True)
    assert once.marks is not None
    once.scores.flat[starts] = np.maximum.reduceat(ordered.scores.ravel(), starts)
    once.ids.flat[starts] = ordered.ids.flat[starts]
    once.marks.flat[starts] = ordered.marks.flat[starts]
    return once


def _marked(seen: Neighbors, marks: Int64, first: int) -> Neighbors:
    """Return candidates with their marks, taken from the marks of all rows numbered from `first`."""
    known = seen.ids >= 0
    return seen._replace(marks=np.where(known, marks[np.where(known, seen.ids - first, 0)], NO_MARK))


def _best_marked(seen: Neighbors, k: int, marks: Int64, first: int) -> Neighbors:
    """Return the k best distinct rows of candidates (a, c), with their marks, which few candidates need."""
    k = min(k, seen.ids.shape[1])
    best = _marked(_best(seen, k), marks, first)
    assert best.marks is not None
    if len(again := np.flatnonzero(_repeats(best.marks))):
        best.put(again, _best(_once(_marked(seen.chosen(again), marks, first)), k))
    return best


def _best(seen: Neighbors, k: int) -> Neighbors:
    """Return the k best of candidates (a, c), and among equal scores those of the lowest numbers.

    The result thus does not depend on how rows are cut into chunks and shards.
    """
    scores = seen.scores
    best = seen.along(np.argpartition(scores, -k, axis=1)[:, -k:])
    worst = best.scores.min(axis=1, keepdims=True)
    tied = (scores == worst).sum(axis=1) > (best.scores == worst).sum(axis=1)
    if len(rows := np.flatnonzero(tied & ~np.isneginf(worst[:, 0]))):
        some = seen.chosen(rows)
        best.put(rows, some.along(np.lexsort((some.ids, -some.scores), axis=1)[:, :k]))
    return best


class _Hits(NamedTuple):
    """Scores of at least their anchor's floor, with the anchors and row numbers, each of shape (h,)."""

    anchors: Int64
    scores: Float32
    ids: Int64


def _reaching(scores: Float32, floor: Float32, seen: _Seen) -> _Hits:
    """Return those of the scores (a, n) that are at least their anchor's floor.

    After the first rows they are few. Finding them takes one comparison for each score, and a partial sort
    would cost several times that.
    """
    # One-dimensional nonzero is several times faster than two-dimensional.
    flat = np.flatnonzero(scores >= floor[:, None])
    anchors, columns = np.divmod(flat, scores.shape[1])
    return _Hits(anchors, scores[anchors, columns], seen.ids[columns])


def _packed(hits: list[_Hits]) -> tuple[Int64, Neighbors]:
    """Return the anchors that have candidates, and these candidates, filled from the left."""
    anchors, scores, ids = (np.concatenate(parts) for parts in zip(*hits, strict=True))
    order = np.argsort(anchors, kind="stable")
    hit, counts = np.unique(anchors, return_counts=True)
    line = np.repeat(np.arange(len(hit)), counts)
    place = np.arange(len(anchors)) - np.repeat(np.cumsum(counts) - counts, counts)
    packed = Neighbors.empty(len(hit), int(counts.max()))
    packed.scores[line, place] = scores[order]
    packed.ids[line, place] = ids[order]
    return hit, packed


def nearest_others(X: Float32, chosen: Int64, k: int, metric: Metric) -> Int64:
    """Return the nearest rows of some rows, which are not among their own neighbours.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows, of norm 1 for cosine.
    chosen : ndarray of shape (a,), int64
        The numbers of the rows whose neighbours are searched.
    k : int
        The number of neighbours of each, below n.
    metric : {"cosine", "l2", "ip"}
        The metric.

    Returns
    -------
    ndarray of shape (a, k), int64
        Row numbers, nearest first.
    """
    return without_own(nearest(X[chosen], [X], k + 1, metric, len(X)).ids, chosen)


def neighbor_graph(X: Float32, k: int, metric: Metric) -> scipy.sparse.csr_array:
    """Return the symmetric graph that joins each row to its k nearest rows, with weight 1.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows, of norm 1 for cosine.
    k : int
        The number of neighbours of each row, below n.
    metric : {"cosine", "l2", "ip"}
        The metric.

    Returns
    -------
    scipy.sparse.csr_array of shape (n, n)
    """
    import scipy.sparse

    n = len(X)
    neighbors = np.concatenate(
        [
            nearest_others(X, np.arange(start, min(n, start + _ANCHORS)), k, metric)
            for start in range(0, n, _ANCHORS)
        ]
    )
    joined = (np.ones(n * k), (np.repeat(np.arange(n), k), neighbors.ravel()))
    graph = scipy.sparse.csr_array(joined, shape=(n, n))
    return graph.maximum(graph.T)


def neighbor_differences(X: Float32, k: int, metric: Metric, rng: np.random.Generator) -> Float64:
    """Return the second moments of the differences x_i - x_j of neighbours, scaled to trace d.

    The neighbours are those of up to 4,096 drawn rows, among all rows. A small multiple of the identity keeps
    the matrix positive definite if differences don't span the space.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows.
    k : int
        The number of neighbours, below n.
    metric : {"cosine", "l2", "ip"}
        The metric.
    rng : numpy.random.Generator
        The source of randomness, by which rows are drawn.

    Returns
    -------
    ndarray of shape (d, d), float64

    Raises
    ------
    ParameterError
        k is not below the number of rows.
    DataError
        All neighbours are equal, or a row is zero under cosine.
    """
    if k >= len(X):
        raise ParameterError(f"{k} neighbours need more than {len(X)} sample(s) (n_samples = {len(X)})")
    rows = without_copies(normalize_rows(X) if metric == "cosine" else X, k + 1)
    chosen = np.sort(rng.choice(len(rows), min(_ANCHORS, len(rows)), replace=False))
    neighbors = nearest_others(rows, chosen, k, metric)
    d = X.shape[1]
    total = np.zeros((d, d))
    for column in neighbors.T:
        differences = (rows[chosen] - rows[column]).astype(np.float64)
        total += differences.T @ differences
    trace = float(np.trace(total))
    if trace <= 0:
        raise DataError("X has equal vectors only as neighbours; remove duplicate rows")
    scaled: Float64 = total * (d / trace)
    scaled[np.diag_indices(d)] += _FLOOR
    return scaled


def without_own(found: Int64, own: Int64) -> Int64:
    """Return neighbours (a, k + 1) without each anchor's own number, or without the last if it is missing."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    kept: Int64 = found[~drop].reshape(len(found), -1)
    return kept
