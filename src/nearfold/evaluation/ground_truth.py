"""The ground truth: which base rows are a query's true neighbours, with ties counted as right.

A row counts as a true k-nearest neighbour when its exact score in d dimensions is at least the
k-th best one. Rows with equal scores (duplicates, integer descriptors) are then all right
answers, where a comparison of row numbers would call some of them errors at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Metric,
    check_finite,
    check_positive,
    check_products,
    chunk_rows,
    common_part,
    largest_number,
    normalize_rows,
    row_norms,
)
from nearfold._utils.progress import stage
from nearfold.errors import DataError, NearfoldWarning, ParameterError

__all__ = ["GroundTruth", "Rows", "are_blurred", "candidates", "search", "searched_again", "warn_of_copies"]

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

# Numbers of candidate vectors that are scored exactly at a time.
_NUMBERS_AT_ONCE = 1 << 24

# Scores nearer than this share of their scale are equal: some float64 roundings wide.
_EQUAL = 1e-12

# Scores that float32 may put in the wrong order are nearer than this share of what they are summed from.
_BLURRED = 16 * float(np.finfo(np.float32).eps)

# Neighbours so many are looked at to tell whether float32 puts them in order, and how much farther apart
# than its roundings they should lie for that.
_LOOKED_AT, _WIDER = 10, 16

# Numbers whose products, and sums of these, float32 holds at full precision.
_SMALL, _LARGE = 1e-12, 1e12

# Queries that are rows of the base are said from this share of them on, and this number.
_COPIES, _LEAST_COPIES = 0.01, 2


def search(base: Float32, queries: Float32, k: int, metric: Metric, *, folded: bool = False) -> Int64:
    """Return the numbers of the k nearest base rows of each query, nearest first, by exact faiss search.

    Parameters
    ----------
    base, queries : ndarray of shape (n, d) and (n_queries, d), float32
        The vectors.
    k : int
        The number of neighbours, at most n.
    metric : {"cosine", "l2", "ip"}
        The metric that says what near means.
    folded : bool, default=False
        Allow zero rows under cosine: a fold may leave nothing of a row, which is then near nothing.

    Returns
    -------
    ndarray of shape (n_queries, k), int64

    Raises
    ------
    DataError
        A row is not finite, or zero under cosine, or queries are not as wide as the base.
    ParameterError
        k is not a positive number, or is larger than n.
    """
    check_positive("k", k)
    if k > len(base):
        raise ParameterError(f"k={k} neighbours are asked of a base of {len(base)} rows; ask for fewer")
    if base.shape[1] != queries.shape[1]:
        raise DataError(f"queries has {queries.shape[1]} dimensions where the base has {base.shape[1]}")
    # faiss ends the process over some numbers: it is given none but those that it can multiply.
    base, queries = _multipliable(base, queries, metric)
    whole, asked = base, queries
    if metric == "cosine":
        base = normalize_rows(base, "base", keep_zero=folded)
        queries = normalize_rows(queries, "queries", keep_zero=folded)
    if metric != "l2":
        # <q, x - c> puts rows in the order of <q, x>, and keeps the digits that c would take.
        common = common_part(base)
        base = base if common is None else base - common
    else:
        # Distances don't change, but float32 loses less when rows are near the origin.
        center = base.mean(axis=0, dtype=np.float64).astype(np.float32)
        base, queries = base - center, queries - center
    index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(base.shape[1])
    index.add(np.ascontiguousarray(base))
    ids = np.empty((len(queries), k), np.int64)
    with stage("search", len(queries), "queries") as advance:
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = np.ascontiguousarray(queries[start : start + _QUERIES_AT_ONCE])
            distances, found = index.search(part, k)
            last = min(k, _LOOKED_AT) - 1
            norms = row_norms(part), row_norms(base[found[:, last]])
            sizes = norms[0] ** 2 + norms[1] ** 2 if metric == "l2" else norms[0] * norms[1]
            if len(blurred := are_blurred(distances, sizes)):
                found[blurred] = searched_again([(whole, 0)], asked[start + blurred], k, metric)
            ids[start : start + len(part)] = found
            advance(len(part))
    return ids


def are_blurred(scores: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> Int64:
    """Return the queries whose nearest rows are too close for float32 to put them in order.

    Parameters
    ----------
    scores
        Shape (q, k), the best first.
    sizes
        What their rounding is a share of, shape (q,).
    """
    last = min(scores.shape[1], _LOOKED_AT) - 1
    if last < 1:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.abs(scores[:, 0] - scores[:, last]) <= _WIDER * _BLURRED * sizes)


def _multipliable(base: Float32, queries: Float32, metric: Metric) -> tuple[Float32, Float32]:
    """Return vectors whose neighbours are the same and whose products are within float32's range.

    Raises
    ------
    DataError
        A row is not finite.
    """
    sizes = largest_number(base), largest_number(queries)
    for name, vectors, size in (("base", base, sizes[0]), ("queries", queries, sizes[1])):
        if not np.isfinite(size):
            check_finite(vectors, name)
    if metric == "cosine":
        return base, queries
    if metric == "l2":
        sizes = (max(sizes),) * 2
    return _resized(base, sizes[0]), _resized(queries, sizes[1])


def _resized(vectors: Float32, largest: float) -> Float32:
    """Return vectors scaled by a power of two, which rounds nothing, where their size calls for it."""
    if not largest or _SMALL < largest < _LARGE:
        return vectors
    scaled: Float32 = np.ldexp(vectors, -int(np.frexp(largest)[1]))
    return scaled


def searched_again(
    chunks: Iterable[tuple[npt.NDArray[Any], int]], queries: Float32, k: int, metric: Metric
) -> Int64:
    """Return the k nearest rows of queries whose neighbours float32 doesn't tell apart, by float64.

    Parameters
    ----------
    chunks
        The base: arrays of shape (n_i, d), each with the number of its first row.
    queries, k, metric
        As for `search`.

    Returns
    -------
    ndarray of shape (q, k), int64, nearest first.
    """
    asked = queries.astype(np.float64)
    center = asked.mean(axis=0)
    if metric == "l2":
        asked -= center
    scores, ids = np.full((len(asked), k), -np.inf), np.full((len(asked), k), -1, np.int64)
    for chunk, first in chunks:
        step = chunk_rows(chunk.shape[1], 8 << 20)
        for start in range(0, len(chunk), step):
            rows = chunk[start : start + step].astype(np.float64)
            if metric == "l2":
                rows -= center
            seen = asked @ rows.T
            if metric == "l2":
                seen -= 0.5 * np.einsum("ij,ij->i", rows, rows)
            elif metric == "cosine":
                # What folds to nothing is near nothing.
                seen /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.finfo(np.float64).tiny)
            numbers = np.broadcast_to(np.arange(first + start, first + start + len(rows)), seen.shape)
            together = np.concatenate([scores, seen], axis=1)
            numbers = np.concatenate([ids, numbers], axis=1)
            best = np.argpartition(together, -k, axis=1)[:, -k:]
            scores, ids = np.take_along_axis(together, best, 1), np.take_along_axis(numbers, best, 1)
    return np.take_along_axis(ids, np.argsort(-scores, axis=1, kind="stable"), 1)


def exact_scores(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> Float64:
    """Return each query's scores with the base rows `ids`, shape (q, c), in float64; higher is nearer."""
    return _scored(base, queries, ids, metric)[0]


def _scored(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> tuple[Float64, Float64]:
    """Return the `exact_scores`, and the norms of the rows scored (of 1 for cosine, 0 for l2)."""
    scores, lengths = np.empty(ids.shape), np.full(ids.shape, float(metric == "cosine"))
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
        else:
            lengths[part] = np.sqrt(np.einsum("qcd,qcd->qc", rows, rows))
    return scores, lengths


def candidates(k_max: int, rows: int) -> int:
    """Return how many rows to look for in float32 to know the k_max nearest exactly."""
    return min(k_max + _SLACK, rows)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The exact neighbours of queries, with which what any number of folds keeps is counted.

    Parameters
    ----------
    base : Rows
        The n rows that are searched.
    queries : ndarray of shape (n_queries, d), float32
        The vectors that are searched for.
    metric : {"cosine", "l2", "ip"}
        The metric that says what near means.
    k_max : int
        How many true neighbours are known of each query.
    near_ids : ndarray of shape (n_queries, k_max + slack), int64
        The base row numbers of the true neighbours and of some rows behind them, nearest first.
    near_scores : ndarray of shape (n_queries, k_max + slack), float64
        The exact scores of those, falling.
    copied : int
        The number of queries that are rows of the base, or for cosine multiples of one.
    """

    base: Rows
    queries: Float32
    metric: Metric
    k_max: int
    near_ids: Int64
    near_scores: Float64
    copied: int

    @classmethod
    def compute(cls, base: Float32, queries: Float32, k_max: int, metric: Metric) -> GroundTruth:
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
        check_products(base, metric, "the base")
        check_products(queries, metric, "queries", alone=False)
        ids = search(base, queries, candidates(k_max, len(base)), metric)
        center = base.mean(axis=0, dtype=np.float64) if metric == "l2" else None
        return cls.of_candidates(base, queries, ids, k_max, metric, lambda: [(base, 0)], center)

    @classmethod
    def of_candidates(
        cls,
        base: Rows,
        queries: Float32,
        ids: Int64,
        k_max: int,
        metric: Metric,
        again: Callable[[], Iterable[tuple[npt.NDArray[Any], int]]],
        center: Float64 | None,
    ) -> GroundTruth:
        """Put the `candidates` nearest by float32, shape (q, c), in their exact order.

        Parameters
        ----------
        base, queries, k_max, metric
            As for the class.
        ids
            The candidates.
        again
            Returns the whole base in chunks, each with the number of its first row. It is asked for where
            queries' candidates are so close that float32 may have missed nearer rows.
        center
            What was subtracted from all vectors for l2, shape (d,).
        """
        scores, lengths = _scored(base, queries, ids, metric)
        order = np.argsort(-scores, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        lengths = np.take_along_axis(lengths, order, 1)
        if ids.shape[1] < len(base):
            sizes = _sizes(queries, scores, lengths, metric, center)
            unsure = np.flatnonzero(scores[:, k_max - 1] - scores[:, -1] <= _BLURRED * sizes)
            if len(unsure):
                nearest = searched_again(again(), queries[unsure], ids.shape[1], metric)
                exact, widths = _scored(base, queries[unsure], nearest, metric)
                order = np.argsort(-exact, axis=1, kind="stable")
                for whole, found in ((ids, nearest), (scores, exact), (lengths, widths)):
                    whole[unsure] = np.take_along_axis(found, order, 1)
        copied = int(_are_copies(queries, scores, lengths, metric).any(axis=1).sum())
        return cls(base, queries, metric, k_max, ids, scores, copied)

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
        found : ndarray of shape (n_queries, r), int64
            The base row numbers that were found.
        k : int
            The number of true neighbours, at most `k_max`.

        Returns
        -------
        ndarray of shape (n_queries, r), bool
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


def _sizes(
    queries: Float32, scores: Float64, lengths: Float64, metric: Metric, center: Float64 | None
) -> Float64:
    """Return what float32's rounding of each query's scores is a share of, shape (q,)."""
    sizes: Float64 = np.ones(len(queries))
    wide = queries.astype(np.float64)
    if metric == "ip":
        sizes = np.linalg.norm(wide, axis=1) * lengths.max(axis=1)
    elif metric == "l2":
        apart = np.linalg.norm(wide if center is None else wide - center, axis=1)
        # Norms about the center, of the query and of its farthest candidate at most.
        sizes = apart**2 + (apart + np.sqrt(-scores[:, -1])) ** 2
    return sizes


def _are_copies(queries: Float32, scores: Float64, lengths: Float64, metric: Metric) -> npt.NDArray[np.bool_]:
    """Return which of the rows scored, shape (q, c), are the query itself, but for rounding of its length."""
    copies: npt.NDArray[np.bool_] = scores == 0
    if metric == "cosine":
        copies = scores >= 1 - _EQUAL
    elif metric == "ip":
        squares = np.square(np.linalg.norm(queries.astype(np.float64), axis=1))[:, None]
        copies = lengths**2 + squares - 2 * scores <= _EQUAL * squares
    return copies


def warn_of_copies(ground_truth: GroundTruth) -> None:
    """Warn where queries are rows of the base: what such find first is themselves."""
    n_queries = len(ground_truth.queries)
    if ground_truth.copied < max(_LEAST_COPIES, _COPIES * n_queries):
        return
    # By inner product others may come before a query's own copy, which is then not among those looked at.
    least = "at least " if ground_truth.metric == "ip" else ""
    warnings.warn(
        f"{least}{ground_truth.copied} of the {n_queries} queries are rows of the base themselves, which "
        f"flatters every figure; give queries that are not in the base, or remove duplicate rows",
        NearfoldWarning,
        stacklevel=3,
    )
