"""Which base rows are a query's true neighbours, with ties counted as right.

A row counts as a true k-nearest neighbour when its exact score in d dimensions is at least the
k-th best one. Rows with equal scores (duplicates, integer descriptors) are then all right
answers, where a comparison of row numbers would call some of them errors at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, check_products, normalize_rows
from nearfold.errors import ParameterError
from nearfold.progress import stage

__all__ = ["Rows", "Truth", "candidates", "search"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Rows(Protocol):
    """Vectors that can be fetched by number: an array, or a file of any size."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[Any]:
        """Return the rows of these numbers, shape (..., d)."""
        ...


# faiss scores in float32; this many rows past the k-th are scored again in float64, so that
# near-ties which float32 can't tell apart are put in order.
_SLACK = 16

_QUERIES_AT_ONCE = 256

# Of candidates that are scored exactly.
_NUMBERS_AT_ONCE = 1 << 24

# Scores nearer than this share of their scale are equal: some float64 roundings wide.
_EQUAL = 1e-12


def search(base: Float32, queries: Float32, k: int, metric: Metric, *, folded: bool = False) -> Int64:
    """Return the numbers of the k nearest base rows of each query, nearest first, by exact faiss search.

    Parameters
    ----------
    base, queries
        Shapes (n, d) and (q, d), float32.
    k
        At most n.
    metric
        What near means.
    folded
        Zero rows may occur under cosine: a fold may leave nothing of a row, which is then near nothing.

    Returns
    -------
    ndarray of shape (q, k), int64.

    Raises
    ------
    DataError
        A zero row under cosine.
    ParameterError
        k is larger than n.
    """
    if k > len(base):
        raise ParameterError(f"k={k} neighbours are asked of a base of {len(base)} rows; ask for fewer")
    if metric == "cosine":
        base = normalize_rows(base, "base", keep_zero=folded)
        queries = normalize_rows(queries, "queries", keep_zero=folded)
    elif metric == "l2":
        # Distances don't change, but float32 loses less when rows are near the origin.
        center = base.mean(axis=0, dtype=np.float64).astype(np.float32)
        base, queries = base - center, queries - center
    index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(base.shape[1])
    index.add(np.ascontiguousarray(base))
    ids = np.empty((len(queries), k), np.int64)
    with stage("search", len(queries), "queries") as advance:
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = np.ascontiguousarray(queries[start : start + _QUERIES_AT_ONCE])
            ids[start : start + len(part)] = index.search(part, k)[1]
            advance(len(part))
    return ids


def exact_scores(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> Float64:
    """Return each query's scores with the base rows `ids`, shape (q, c), in float64; higher is nearer."""
    scores = np.empty(ids.shape)
    step = max(1, _NUMBERS_AT_ONCE // (ids.shape[1] * queries.shape[1]))
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        rows = base[ids[part]].astype(np.float64)
        asked = queries[part].astype(np.float64)
        if metric == "l2":
            rows -= asked[:, None, :]
            scores[part] = -np.einsum("qcd,qcd->qc", rows, rows)
            continue
        scores[part] = np.einsum("qcd,qd->qc", rows, asked, optimize=True)
        if metric == "cosine":
            norms = np.sqrt(np.einsum("qcd,qcd->qc", rows, rows))
            scores[part] /= norms * np.linalg.norm(asked, axis=1)[:, None]
    return scores


def candidates(k_max: int, rows: int) -> int:
    """Return how many rows to look for in float32 to know the k_max nearest exactly."""
    return min(k_max + _SLACK, rows)


@dataclass(frozen=True, eq=False)
class Truth:
    """The exact neighbours of queries, against which any number of folds can be judged.

    Parameters
    ----------
    base
        The n rows searched in.
    queries
        Shape (q, d), float32.
    metric
        What near means.
    k_max
        How many neighbours each query's truth has.
    near_ids
        Base row numbers of the true neighbours and some rows behind them, shape (q, k_max + slack),
        nearest first.
    near_scores
        Their exact scores, float64, falling.
    """

    base: Rows
    queries: Float32
    metric: Metric
    k_max: int
    near_ids: Int64
    near_scores: Float64

    @classmethod
    def compute(cls, base: Float32, queries: Float32, k_max: int, metric: Metric) -> Truth:
        """Search the k_max nearest base rows of each query.

        Raises
        ------
        ParameterError
            There are fewer rows.
        DataError
            As `search`, and for numbers whose products float32 can't hold.
        """
        if k_max > len(base):
            raise ParameterError(
                f"k={k_max} neighbours are asked of a base of {len(base)} rows; ask for fewer"
            )
        for name, vectors in (("the base", base), ("queries", queries)):
            check_products(vectors, metric, name)
        ids = search(base, queries, candidates(k_max, len(base)), metric)
        return cls.of_candidates(base, queries, ids, k_max, metric)

    @classmethod
    def of_candidates(cls, base: Rows, queries: Float32, ids: Int64, k_max: int, metric: Metric) -> Truth:
        """Put the `candidates` nearest by float32, shape (q, c), in their exact order."""
        scores = exact_scores(base, queries, ids, metric)
        order = np.argsort(-scores, axis=1, kind="stable")
        nearest = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        return cls(base, queries, metric, k_max, *nearest)

    @property
    def ids(self) -> Int64:
        """The true neighbours, shape (q, k_max), nearest first."""
        return self.near_ids[:, : self.k_max]

    @property
    def scores(self) -> Float64:
        """Their exact scores, shape (q, k_max), falling."""
        return self.near_scores[:, : self.k_max]

    @property
    def _unit(self) -> Float64 | float:
        """What rounding is relative to: 1 for cosine, else the largest score known of each query, (q, 1)."""
        return 1.0 if self.metric == "cosine" else np.abs(self.near_scores).max(axis=1, keepdims=True)

    def correct(self, found: Int64, k: int) -> npt.NDArray[np.bool_]:
        """Return whether each found row is among its query's true k nearest, ties included.

        Parameters
        ----------
        found
            Base row numbers, shape (q, r).
        k
            At most the k_max of `compute`.
        """
        bar = self.near_scores[:, k - 1 : k]
        bar = bar - _EQUAL * np.maximum(self._unit, np.abs(bar))
        reaching = self.near_scores >= bar
        wanted = np.where(reaching, self.near_ids, -1)
        right = np.empty(found.shape, bool)
        for start in range(0, len(found), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            right[part] = (found[part, :, None] == wanted[part, None, :]).any(axis=2)
        # Where even the last row known is as near as the k-th, more may be: those are scored.
        if self.near_ids.shape[1] < len(self.base) and len(more := np.flatnonzero(reaching[:, -1])):
            scores = exact_scores(self.base, self.queries[more], found[more], self.metric)
            right[more] = scores >= bar[more]
        return right
