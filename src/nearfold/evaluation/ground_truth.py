"""The ground truth: which base rows are a query's true neighbours, with ties counted as right.

A row counts as a true k-nearest neighbour when its exact score in d dimensions is at least the
k-th best one. Rows with equal scores (duplicates, integer descriptors) are then all right
answers, where a comparison of row numbers would call some of them errors at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, check_products
from nearfold._utils.warned import warn
from nearfold.scan.exact import (
    BLURRED,
    EQUAL,
    Rows,
    check_enough,
    exact_scores,
    scored,
    search,
    searched_again,
    tied_from,
)

__all__ = ["GroundTruth", "candidates", "warn_of_copies"]


# faiss scores in float32; this many rows past the k-th are scored again in float64, so that
# near-ties which float32 can't tell apart are put in order.
_SLACK = 16

_QUERIES_AT_ONCE = 256

# Queries that are rows of the base are said from this share of them on, and this number.
_COPIES, _LEAST_COPIES = 0.01, 2


def candidates(k_max: int, rows: int) -> int:
    """Return how many rows to look for in float32 in order to know the nearest ones exactly.

    Parameters
    ----------
    k_max : int
        The number of nearest rows that must be known.
    rows : int
        The number of rows of the base.

    Returns
    -------
    int
        At most `rows`.
    """
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

        Parameters
        ----------
        base : ndarray of shape (n, d), float32
            The rows that are searched.
        queries : ndarray of shape (n_queries, d), float32
            The vectors that are searched for.
        k_max : int
            The number of neighbours of each query, at most n.
        metric : {"cosine", "l2", "ip"}
            The metric that says what near means.

        Returns
        -------
        GroundTruth

        Raises
        ------
        ParameterError
            There are fewer than k_max rows.
        DataError
            A row is zero under cosine, or numbers are so large that float32 can't hold their products.
        """
        check_enough(k_max, len(base))
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
        """Put the `candidates` nearest by float32 in their exact order.

        Parameters
        ----------
        base : Rows
            The n rows that are searched.
        queries : ndarray of shape (n_queries, d), float32
            The vectors that are searched for.
        ids : ndarray of shape (n_queries, c), int64
            The base row numbers of the candidates.
        k_max : int
            The number of neighbours of each query, at most c.
        metric : {"cosine", "l2", "ip"}
            The metric that says what near means.
        again : callable
            A function without arguments that returns the whole base in chunks, each with the number of its
            first row. It is called if candidates of a query are so close that float32 may have missed nearer
            rows.
        center : ndarray of shape (d,), float64, or None
            What was subtracted from all vectors for l2.

        Returns
        -------
        GroundTruth
        """
        scores, lengths = scored(base, queries, ids, metric)
        order = np.argsort(-scores, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        lengths = np.take_along_axis(lengths, order, 1)
        if ids.shape[1] < len(base):
            sizes = _sizes(queries, scores, lengths, metric, center)
            unsure = np.flatnonzero(scores[:, k_max - 1] - scores[:, -1] <= BLURRED * sizes)
            if len(unsure):
                nearest = searched_again(again(), queries[unsure], ids.shape[1], metric)
                exact, widths = scored(base, queries[unsure], nearest, metric)
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
        bar = tied_from(self.near_scores, k, self.metric)
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
        copies = scores >= 1 - EQUAL
    elif metric == "ip":
        squares = np.square(np.linalg.norm(queries.astype(np.float64), axis=1))[:, None]
        copies = lengths**2 + squares - 2 * scores <= EQUAL * squares
    return copies


def warn_of_copies(ground_truth: GroundTruth) -> None:
    """Warn if many queries are rows of the base, which such queries find first.

    Parameters
    ----------
    ground_truth : GroundTruth
        The ground truth of the queries.

    Warns
    -----
    NearfoldWarning
        At least two queries, and one in a hundred, are rows of the base.
    """
    n_queries = len(ground_truth.queries)
    if ground_truth.copied < max(_LEAST_COPIES, _COPIES * n_queries):
        return
    # By inner product others may come before a query's own copy, which is then not among those looked at.
    least = "at least " if ground_truth.metric == "ip" else ""
    warn(
        f"{least}{ground_truth.copied} of the {n_queries} queries are rows of the base themselves, which "
        f"flatters every figure; give queries that are not in the base, or remove duplicate rows"
    )
