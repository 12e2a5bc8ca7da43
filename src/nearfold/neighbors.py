"""Exact nearest neighbours of a few anchors among very many rows.

The rows are seen once, chunk by chunk; what is kept is the best k of each anchor. faiss holds
the whole base and sorts more than this needs (see benchmarks/speed.py for the ratio), so it is
used for judging folds, where all it offers is wanted, and not here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, common_part, normalize_rows, row_norms
from nearfold.errors import DataError, ParameterError
from nearfold.progress import stage
from nearfold.threads import blas_threads, dealt_work

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

Int64 = npt.NDArray[np.int64]

# Rows and anchors scored at a time, at most.
_ROWS = 2048
_ANCHORS = 4096
# Scores of the same rows, cut into chunks in different ways, differ by less than this share of their
# largest possible size.
_ROUNDING = 1e-4

# Scores held by each thread: what a core's share of the cache can hold.
_SCORES = 1 << 21

# Added to second moments of mean 1 a dimension.
_FLOOR = 1e-4


class Neighbors(NamedTuple):
    """The best k rows found so far for each of a anchors; parts over other rows can be merged.

    Parameters
    ----------
    scores
        Shape (a, k), float32, higher is nearer, in no particular order; -inf where none is known.
    ids
        Shape (a, k), int64, the rows' numbers; -1 where none is known.
    """

    scores: Float32
    ids: Int64

    @classmethod
    def empty(cls, n_anchors: int, k: int) -> Neighbors:
        """Return the neighbours of anchors that have seen no rows."""
        return cls(np.full((n_anchors, k), -np.inf, np.float32), np.full((n_anchors, k), -1, np.int64))

    def merge(self, other: Neighbors) -> Neighbors:
        """Return the best k of these and of others, shape (a, c), of the same anchors."""
        k = self.scores.shape[1]
        return _best(
            np.concatenate([self.scores, other.scores], axis=1),
            np.concatenate([self.ids, other.ids], axis=1),
            k,
        )

    def sorted(self) -> Neighbors:
        """Return the same neighbours, nearest first, equal scores by row number."""
        order = np.lexsort((self.ids, -self.scores), axis=1)
        return Neighbors(np.take_along_axis(self.scores, order, 1), np.take_along_axis(self.ids, order, 1))


def nearest(anchors: Float32, chunks: Iterable[Float32], k: int, metric: Metric, rows: int) -> Neighbors:
    """Return each anchor's k best rows by inner product, or by distance for metric "l2".

    Parameters
    ----------
    anchors
        Shape (a, d), float32. For cosine, anchors and rows must have norm 1 already.
    chunks
        The base, in order, as arrays of shape (n_i, d); each is looked at once.
    k
        Neighbours to keep.
    metric
        "cosine" and "ip" rank by inner product, "l2" by -|a - x|^2 / 2 (+ |a|^2 / 2).
    rows
        How many rows the chunks hold together, for the progress shown.

    Returns
    -------
    Neighbors, nearest first.
    """
    n_threads = blas_threads()
    # What all rows share changes no order, and would take most of float32's digits.
    common = common_part(anchors)
    if common is not None and metric == "l2":
        anchors = anchors - common
    search = NeighborSearch(anchors, k, metric, n_threads)
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
    """A running search of anchors' neighbours; threads may look at different rows at a time.

    What is found does not depend on the order in which rows are looked at.

    Parameters
    ----------
    anchors, k, metric
        As for `nearest`.
    n_threads
        How many threads may look at a time.
    start
        What is known already, of rows that are not looked at again; None for nothing.
    floor
        From `lowest_scores`; None where nothing is known.
    """

    def __init__(
        self,
        anchors: Float32,
        k: int,
        metric: Metric,
        n_threads: int,
        start: Neighbors | None = None,
        floor: Float32 | None = None,
    ) -> None:
        self._anchors, self._k, self._metric = anchors, k, metric
        self.found = Neighbors.empty(len(anchors), k)
        if start is not None:
            self.found.scores[:], self.found.ids[:] = start
        # A lower bound of each anchor's worst neighbour is all that other threads read, so one that
        # is not quite up to date only lets a few more candidates through.
        self._floor = self.found.scores.min(axis=1)
        if floor is not None:
            np.maximum(self._floor, floor, out=self._floor)
        self._step = max(256, min(_ROWS, _SCORES // len(anchors)))
        self._scratch = [np.empty((len(anchors), self._step), np.float32) for _ in range(n_threads)]
        self.lock = threading.Lock()

    def look(self, thread: int, rows: Float32, first: int) -> None:
        """Let a thread see rows of shape (n, d), numbered from `first`."""
        hits: list[_Hits] = []
        for start in range(0, len(rows), self._step):
            piece = rows[start : start + self._step]
            scores = np.matmul(self._anchors, piece.T, out=self._scratch[thread][:, : len(piece)])
            if self._metric == "l2":
                # |a|^2 is the same for all rows of an anchor: it can't change the order.
                scores -= 0.5 * np.einsum("ij,ij->i", piece, piece)
            if np.isneginf(self._floor).any():
                ids = np.broadcast_to(np.arange(first + start, first + start + len(piece)), scores.shape)
                self._merge(np.arange(len(scores)), _best(scores, ids, min(self._k, len(piece))))
            else:
                hits.append(_reaching(scores, self._floor, first + start))
        # One merge for all pieces: it costs as much for few candidates as for many.
        if hits and sum(len(hit.anchors) for hit in hits):
            self._merge(*_packed(hits))

    def _merge(self, anchors: Int64, seen: Neighbors) -> None:
        """Merge candidates of some anchors into what is found."""
        with self.lock:
            best = Neighbors(self.found.scores[anchors], self.found.ids[anchors]).merge(seen)
            self.found.scores[anchors], self.found.ids[anchors] = best
            self._floor[anchors] = np.maximum(self._floor[anchors], best.scores.min(axis=1))


def lowest_scores(anchors: Float32, sample: Float32, k: int, metric: Metric) -> Float32:
    """Return a lower bound of the score of each anchor's k-th neighbour in any rows that hold a sample.

    Parameters
    ----------
    anchors, k, metric
        As for `nearest`.
    sample
        Shape (s, d): different rows of those that will be searched.

    Returns
    -------
    ndarray of shape (a,), a rounding's width below the k-th score in the sample; -inf where s < k.
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


def _best(scores: Float32, ids: Int64, k: int) -> Neighbors:
    """Return the k best of candidates of shape (a, c); among equal scores the lowest numbers.

    So the same rows are found however they are cut into chunks and shards.
    """
    columns = np.argpartition(scores, -k, axis=1)[:, -k:]
    best = Neighbors(np.take_along_axis(scores, columns, 1), np.take_along_axis(ids, columns, 1))
    worst = best.scores.min(axis=1, keepdims=True)
    tied = (scores == worst).sum(axis=1) > (best.scores == worst).sum(axis=1)
    if len(rows := np.flatnonzero(tied & ~np.isneginf(worst[:, 0]))):
        order = np.lexsort((ids[rows], -scores[rows]), axis=1)[:, :k]
        best.scores[rows] = np.take_along_axis(scores[rows], order, 1)
        best.ids[rows] = np.take_along_axis(ids[rows], order, 1)
    return best


class _Hits(NamedTuple):
    """Scores that reach their anchor's floor, with anchors and row numbers, each of shape (h,)."""

    anchors: Int64
    scores: Float32
    ids: Int64


def _reaching(scores: Float32, floor: Float32, first: int) -> _Hits:
    """Return the scores of shape (a, n) that reach their anchor's floor.

    Few do once the first rows are seen; finding those is one comparison a score, where a partial
    sort of all would cost several times that.
    """
    # One-dimensional nonzero is several times faster than two-dimensional.
    flat = np.flatnonzero(scores >= floor[:, None])
    anchors, columns = np.divmod(flat, scores.shape[1])
    return _Hits(anchors, scores[anchors, columns], columns + first)


def _packed(hits: list[_Hits]) -> tuple[Int64, Neighbors]:
    """Return the anchors that were hit, and their candidates, packed to the left."""
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
    """Return the numbers of the k rows of X nearest to each chosen row, itself left out: (a, k)."""
    return without_own(nearest(X[chosen], [X], k + 1, metric, len(X)).ids, chosen)


def neighbor_graph(X: Float32, k: int, metric: Metric) -> scipy.sparse.csr_array:
    """Return the symmetric graph in which rows are joined (with weight 1) to their k nearest: (n, n)."""
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


def neighbor_differences(
    X: Float32, k: int, metric: Metric, rng: np.random.Generator, n_anchors: int = _ANCHORS
) -> npt.NDArray[np.float64]:
    """Return the second moments of x_i - x_j over neighbours, scaled to trace d: shape (d, d).

    Edges run from up to `n_anchors` drawn rows to their k nearest among all. A small multiple of the
    identity keeps the result positive definite where differences don't span the space.

    Raises
    ------
    ParameterError
        k is not below the number of rows.
    DataError
        All neighbours are equal, or a row is zero under cosine.
    """
    if k >= len(X):
        raise ParameterError(f"{k} neighbours need more than {len(X)} sample(s) (n_samples = {len(X)})")
    rows = normalize_rows(X) if metric == "cosine" else X
    chosen = np.sort(rng.choice(len(X), min(n_anchors, len(X)), replace=False))
    neighbors = nearest_others(rows, chosen, k, metric)
    d = X.shape[1]
    total = np.zeros((d, d))
    for column in neighbors.T:
        differences = (rows[chosen] - rows[column]).astype(np.float64)
        total += differences.T @ differences
    trace = float(np.trace(total))
    if trace <= 0:
        raise DataError("X has equal vectors only as neighbours; remove duplicate rows")
    scaled: npt.NDArray[np.float64] = total * (d / trace)
    scaled[np.diag_indices(d)] += _FLOOR
    return scaled


def without_own(found: Int64, own: Int64) -> Int64:
    """Drop each anchor's own number from its row of k + 1, or the last where duplicates hid it."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    kept: Int64 = found[~drop].reshape(len(found), -1)
    return kept
