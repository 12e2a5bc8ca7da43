"""Exact nearest neighbours of a few anchors among very many rows, and the blocks they make.

The rows are seen once, chunk by chunk; what is kept is the best k of each anchor. faiss holds
the whole base and sorts more than this needs (see benchmarks/speed.py for the ratio), so it is
used for judging folds, where all it offers is wanted, and not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.sparse

from nearfold.arrays import Float32, Metric, normalize_rows
from nearfold.errors import DataError, ParameterError
from nearfold.progress import stage
from nearfold.threads import blas_threads, shared_work

__all__ = [
    "Blocks",
    "Neighbors",
    "build_blocks",
    "nearest",
    "nearest_others",
    "neighbor_differences",
    "neighbor_graph",
]

Int64 = npt.NDArray[np.int64]

# Rows and anchors scored at a time: together they bound the scores held.
_ROWS = 2048
_ANCHORS = 4096
# Anchors a thread: fewer are done sooner than a thread has started.
_MIN_ANCHORS = 64

# Added to second moments of mean 1 a dimension.
_FLOOR = 1e-4


@dataclass(frozen=True, eq=False)
class Neighbors:
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

    def merge(self, scores: Float32, ids: Int64) -> Neighbors:
        """Return the best k of these and of candidates of shape (a, c)."""
        k = self.scores.shape[1]
        scores = np.concatenate([self.scores, scores], axis=1)
        ids = np.concatenate([self.ids, ids], axis=1)
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        return Neighbors(np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1))

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
    n_threads = max(1, min(blas_threads(), len(anchors) // _MIN_ANCHORS))
    bounds = [len(anchors) * i // n_threads for i in range(n_threads + 1)]
    asked = [anchors[low:high] for low, high in pairwise(bounds)]
    found = [Neighbors.empty(len(part), k) for part in asked]
    scratch = [np.empty((len(part), _ROWS), np.float32) for part in asked]
    first = 0
    with stage("neighbours", rows) as advance, shared_work(n_threads) as share:
        for chunk in chunks:
            for start in range(0, len(chunk), _ROWS):
                piece = chunk[start : start + _ROWS]
                # |a|^2 is the same for all rows of an anchor: it can't change the order.
                offset = 0.5 * np.einsum("ij,ij->i", piece, piece) if metric == "l2" else None

                def look(
                    i: int, piece: Float32 = piece, offset: Float32 | None = offset, first: int = first
                ) -> None:
                    scores = np.matmul(asked[i], piece.T, out=scratch[i][:, : len(piece)])
                    if offset is not None:
                        scores -= offset
                    floor = found[i].scores.min(axis=1)
                    found[i] = found[i].merge(*(_better(scores, floor, first) if first else _best(scores, k)))

                share(look)
                first += len(piece)
                advance(len(piece))
    together = Neighbors(
        np.concatenate([part.scores for part in found]), np.concatenate([part.ids for part in found])
    )
    return together.sorted()


def _best(scores: Float32, k: int) -> tuple[Float32, Int64]:
    """Return the k best of the first scores, shape (a, c), and their columns."""
    k = min(k, scores.shape[1])
    columns = np.argpartition(scores, -k, axis=1)[:, -k:]
    return np.take_along_axis(scores, columns, 1), columns


def _better(scores: Float32, floor: Float32, first: int) -> tuple[Float32, Int64]:
    """Return the scores above each anchor's floor, packed to the left, and their row numbers.

    Once the first rows are seen few scores beat an anchor's worst neighbour; finding those few
    is one comparison a score, where a partial sort of all would cost several times that.
    """
    # One-dimensional nonzero is several times faster than two-dimensional.
    anchor, column = np.divmod(np.flatnonzero(scores > floor[:, None]), scores.shape[1])
    counts = np.bincount(anchor, minlength=len(scores))
    position = np.arange(len(anchor)) - np.repeat(np.cumsum(counts) - counts, counts)
    packed = Neighbors.empty(len(scores), int(counts.max(initial=0)))
    packed.scores[anchor, position] = scores[anchor, column]
    packed.ids[anchor, position] = column + first
    return packed.scores, packed.ids


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


def build_blocks(
    base: Float32,
    k: int,
    n_anchors: int,
    metric: Metric,
    rng: np.random.Generator,
    queries: Float32 | None = None,
) -> Blocks:
    """Draw anchors and find their k exact nearest neighbours among all rows of `base`.

    Parameters
    ----------
    base
        Shape (n, d), float32, prepared for the metric as `Blocks` says.
    k
        Neighbours an anchor, at most n - 1 (n with `queries`).
    n_anchors
        Anchors to draw at most.
    metric
        What near means.
    rng
        Draws the anchors.
    queries
        Shape (q, d), prepared alike: anchors are drawn from these instead of from `base`.
    """
    source = base if queries is None else queries
    chosen = np.sort(rng.choice(len(source), min(n_anchors, len(source)), replace=False))
    anchors = source[chosen]
    if queries is not None:
        found = nearest(anchors, [base], k, metric, len(base)).ids
        own = len(base) + np.arange(len(anchors))
        return Blocks(np.concatenate([base, anchors]), np.column_stack([own, found]), foreign=True)
    return Blocks(base, np.column_stack([chosen, nearest_others(base, chosen, k, metric)]))


def nearest_others(X: Float32, chosen: Int64, k: int, metric: Metric) -> Int64:
    """Return the numbers of the k rows of X nearest to each chosen row, itself left out: (a, k)."""
    return _without(nearest(X[chosen], [X], k + 1, metric, len(X)).ids, chosen)


def neighbor_graph(X: Float32, k: int, metric: Metric) -> scipy.sparse.csr_array:
    """Return the symmetric graph in which rows are joined (with weight 1) to their k nearest: (n, n)."""
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


def _without(found: Int64, own: Int64) -> Int64:
    """Drop each anchor's own number from its row of k + 1, or the last where duplicates hid it."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    kept: Int64 = found[~drop].reshape(len(found), -1)
    return kept
