"""What can be proven of neighbours from folded vectors and one number a row.

Let P have orthonormal rows that span the row space of W, and r_x = |x - P^T P x| be what the fold
drops of x. Then for any query q and row b

    |<q, b> - <Pq, Pb>| <= r_q r_b,
    |q - b|^2 = |Pq - Pb|^2 + t,    (r_q - r_b)^2 <= t <= (r_q + r_b)^2.

With r stored beside each folded vector, every score is known up to an interval. The condition number
gives no such bound: it says nothing of the null space, which is where neighbours are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, normalize_rows

__all__ = [
    "NeighborBounds",
    "bound_neighbors",
    "null_space_energy",
    "residual_norms",
    "row_space",
    "score_bounds",
]


_QUERIES_AT_ONCE = 64


def row_space(weight: Float32) -> Float64:
    """Return orthonormal rows that span the row space of a weight.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        The weight W.

    Returns
    -------
    ndarray of shape (rank, d), float64
        The matrix P. The rank counts the singular values that are above the rounding of float32.
    """
    _, values, axes = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    kept: Float64 = axes[values > values[0] * np.finfo(np.float32).eps]
    return kept


def residual_norms(X: Float32, P: Float64) -> Float64:
    """Return the lengths of what a projection drops of each row.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows.
    P : ndarray of shape (r, d), float64
        Orthonormal rows, as `row_space` returns them.

    Returns
    -------
    ndarray of shape (n,), float64
        The norms r_x = |x - P^T P x|, in the units of X.
    """
    wide = X.astype(np.float64)
    norms: Float64 = np.linalg.norm(wide - (wide @ P.T) @ P, axis=1)
    return norms


def null_space_energy(second: Float64, P: Float64) -> float:
    """Return the share of the mean squared length E|x|^2 that a projection drops.

    Parameters
    ----------
    second : ndarray of shape (d, d), float64
        The uncentred second moments E[x x^T].
    P : ndarray of shape (r, d), float64
        Orthonormal rows, as `row_space` returns them.

    Returns
    -------
    float
        A share from 0 to 1; 0 if all moments are zero.
    """
    total = float(np.trace(second))
    return float(1 - np.sum(P @ second * P) / total) if total > 0 else 0.0


def score_bounds(
    queries: Float32, base: Float32, weight: Float32, metric: Metric
) -> Iterator[tuple[slice, Float64, Float64]]:
    """Yield a lower and an upper bound of every score, some queries at a time.

    Parameters
    ----------
    queries, base : ndarray of shape (n_queries, d) and (n, d), float32
        The vectors.
    weight : ndarray of shape (m, d), float32
        The weight W. The bounds use what W keeps (its row space) and r alone.
    metric : {"cosine", "l2", "ip"}
        Scores are cosine, -|q - b|^2 (l2) or <q, b> (ip); higher is nearer.

    Yields
    ------
    part : slice
        The queries that the bounds are of.
    lower, upper : ndarray of shape (len(part), n), float64
        The bounds.

    Raises
    ------
    DataError
        A zero row under cosine.
    """
    if metric == "cosine":
        queries, base = normalize_rows(queries, "queries"), normalize_rows(base, "base")
    elif metric == "l2":
        center = base.mean(axis=0, dtype=np.float64).astype(np.float32)
        queries, base = queries - center, base - center
    P = row_space(weight)
    dropped_q, dropped_b = residual_norms(queries, P), residual_norms(base, P)
    folded_q, folded_b = queries @ P.T, base @ P.T
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        scores = folded_q[part] @ folded_b.T
        r_q = dropped_q[part, None]
        if metric == "l2":
            squares = np.square(folded_q[part]).sum(axis=1)[:, None] + np.square(folded_b).sum(axis=1)
            apart = np.maximum(squares - 2 * scores, 0)
            yield part, -apart - np.square(r_q + dropped_b), -apart - np.square(r_q - dropped_b)
        else:
            slack = r_q * dropped_b
            yield part, scores - slack, scores + slack


class NeighborBounds(NamedTuple):
    """What the bounds of scores prove of each query's k nearest neighbours.

    Attributes
    ----------
    proven : ndarray of shape (n_queries,), int64
        The number of rows that are certain to be among the true k nearest.
    candidates : ndarray of shape (n_queries,), int64
        The number of rows that an exact re-rank must read, best upper bound first, until the true k
        nearest are certain: those whose upper bound reaches the k-th best exact score.
    """

    proven: Int64
    candidates: Int64


def bound_neighbors(
    queries: Float32, base: Float32, weight: Float32, metric: Metric, kth_scores: Float64, k: int
) -> NeighborBounds:
    """Return what W and the residual norms prove of each query's k nearest rows.

    Parameters
    ----------
    queries, base : ndarray of shape (n_queries, d) and (n, d), float32
        The vectors.
    weight : ndarray of shape (m, d), float32
        The weight W.
    metric : {"cosine", "l2", "ip"}
        The metric; see `score_bounds`.
    kth_scores : ndarray of shape (n_queries,), float64
        The exact k-th best score of each query, in the scale of `score_bounds`.
    k : int
        The number of neighbours.

    Returns
    -------
    NeighborBounds

    Raises
    ------
    DataError
        A row is zero under cosine.
    """
    proven = np.empty(len(queries), np.int64)
    candidates = np.empty(len(queries), np.int64)
    for part, lower, upper in score_bounds(queries, base, weight, metric):
        # A row is certain when fewer than k others could beat it: when its lower bound is above
        # the k-th largest upper bound of the others, its own being no smaller than its lower.
        bar = np.partition(upper, -k - 1, axis=1)[:, -k - 1] if upper.shape[1] > k else None
        proven[part] = k if bar is None else (lower > bar[:, None]).sum(axis=1)
        # Bounds are float64 sums of float32 vectors' products: allow for their rounding.
        wanted = kth_scores[part, None] - 1e-6 * np.maximum(1.0, np.abs(kth_scores[part, None]))
        candidates[part] = np.maximum(k, (upper >= wanted).sum(axis=1))
    return NeighborBounds(proven, candidates)
