"""The second stage: exact scores of candidates, and the best of them."""

from __future__ import annotations

import faiss
import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, row_norms
from nearfold.errors import DataError
from nearfold.search.vectors import StoredVectors

__all__ = ["best", "exact_scores_of", "norms_of", "rounding", "settled"]


# The bytes of candidates' vectors that are held at a time.
_BYTES = 64 << 20

# Scores that differ by less than this may have lost digits to underflow.
_LEAST_SCORE = np.float32(1e-30)


def exact_scores_of(
    queries: Float32,
    candidates: Int64,
    stored: StoredVectors,
    ids: Int64,
    norms: Float32 | None,
    metric: Metric,
) -> Float32:
    """Return the exact scores of candidates, in all d dimensions.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
        The queries, of norm 1 for cosine.
    candidates : ndarray of shape (q, c), int64
        The row numbers of each query's candidates, -1 for none.
    stored : StoredVectors
        The vectors.
    ids : ndarray of shape (n,), int64
        The id of each row.
    norms : ndarray of shape (n,), float32, or None
        The norms of the rows for cosine; None for other metrics.
    metric : {"cosine", "l2", "ip"}
        The metric: scores are the cosine similarity, -|q - b|^2 or <q, b>.

    Returns
    -------
    ndarray of shape (q, c), float32
        The scores, higher for nearer rows, and -inf for no row.

    Raises
    ------
    DataError
        A score is not finite, as the vectors are not those that the index was built with.
    """
    missing = candidates < 0
    rows = np.where(missing, 0, candidates)
    array = stored.lone_array
    scores = np.empty(rows.shape, np.float32)
    step = max(1, _BYTES // (4 * queries.shape[1] * max(1, rows.shape[1])))
    # faiss reads the rows in place; gathering them first would take several times as long.
    by_rows = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
    for start in range(0, len(rows), step):
        asked, wanted = queries[start : start + step], rows[start : start + step]
        if array is None:
            taken, wanted = np.unique(wanted, return_inverse=True)
            vectors = stored.take(taken, ids[taken])
        else:
            vectors = array
        wanted = np.ascontiguousarray(wanted.reshape(len(asked), -1))
        by_rows(
            faiss.swig_ptr(scores[start:]),
            faiss.swig_ptr(np.ascontiguousarray(asked)),
            faiss.swig_ptr(vectors),
            faiss.swig_ptr(wanted),
            vectors.shape[1],
            *wanted.shape,
        )
    if metric == "l2":
        np.negative(scores, out=scores)
    elif norms is not None:
        scores /= norms[rows]
    if not np.isfinite(scores).all():
        raise DataError(
            "vectors hold NaN or numbers whose products leave float32's range, as those that the index "
            "was made of did not; give it the vectors it was built with"
        )
    scores[missing] = -np.inf
    return scores


def settled(
    queries: Float32,
    candidates: Int64,
    scores: Float32,
    k: int,
    stored: StoredVectors,
    ids: Int64,
    metric: Metric,
) -> tuple[Int64, Float32]:
    """Return each query's k best candidates and their scores, best first, with near ties decided in float64.

    If float32 can't tell the k-th best from further candidates, all of these are scored again in float64.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
        The queries as the user gave them.
    candidates, scores : ndarrays of shape (q, c), int64 and float32
        The candidates of `exact_scores_of`, each row at most once for a query, and their scores.
    k : int
        The number of candidates to return for each query.
    stored, ids, metric
        See `exact_scores_of`.

    Returns
    -------
    rows, scores : ndarrays of shape (q, min(k, c)), int64 and float32
    """
    rows, top = best(candidates, scores, k)
    if k >= scores.shape[1]:
        return rows, top
    bar = top[:, -1]
    if metric == "cosine":
        size = np.ones_like(bar)
    elif metric == "l2":
        size = np.abs(bar)
    else:
        size = np.abs(np.where(np.isneginf(scores), 0, scores)).max(axis=1)
    with np.errstate(invalid="ignore"):
        lowest = bar - np.maximum(np.float32(2 * rounding(queries.shape[1])) * size, _LEAST_SCORE)
    close = scores >= lowest[:, None]
    for i in np.flatnonzero((close.sum(axis=1) > k) & ~np.isneginf(bar)):
        chosen = candidates[i, close[i]]
        again = _in_float64(queries[i], chosen, stored, ids, metric)
        order = np.argsort(-again, kind="stable")[:k]
        rows[i], top[i] = chosen[order], again[order]
    return rows, top


def rounding(n_features: int) -> float:
    """Return the largest error of a sum of d products in float32, as a share of the sum of magnitudes."""
    # Such sums are computed in eight or more parallel lanes.
    return float(np.finfo(np.float32).eps) * (n_features / 8 + 8)


def _in_float64(query: Float32, rows: Int64, stored: StoredVectors, ids: Int64, metric: Metric) -> Float64:
    """Return the scores of rows (c,) for a query (d,), in float64."""
    scores = np.empty(len(rows))
    asked = query.astype(np.float64)
    step = max(1, _BYTES // (8 * len(query)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        vectors = stored.take(rows[part], ids[rows[part]]).astype(np.float64)
        if metric == "l2":
            vectors -= asked
            scores[part] = -np.einsum("cd,cd->c", vectors, vectors)
            continue
        scores[part] = vectors @ asked
        if metric == "cosine":
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
            scores[part] /= np.where(norms == 0, 1, norms)
    return scores


def best(candidates: Int64, scores: Float32, k: int) -> tuple[Int64, Float32]:
    """Return each query's k best candidates (q, c), by their scores (q, c), and these scores, best first."""
    if k < scores.shape[1]:
        chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores = np.take_along_axis(scores, chosen, 1)
        candidates = np.take_along_axis(candidates, chosen, 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)


def norms_of(vectors: Float32, name: str) -> Float32:
    """Return the norms (n,) of vectors (n, d) that cosine divides by: 1 for a zero row, which then scores 0.

    Raises
    ------
    DataError
        A norm is beyond float32; the message begins with `name`.
    """
    with np.errstate(over="ignore"):
        norms = row_norms(vectors)
    if not np.isfinite(norms).all():
        raise DataError(f"{name}: has rows whose norm is beyond float32; divide all vectors by a constant")
    norms[norms == 0] = 1
    return norms
