"""Exact search, exact scores, and the decision which scores are ties, for the evaluation of folds.

In float32 the order of nearly equal scores is random. All measures of recall decide such ties here, so that
they agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Float64,
    Int64,
    Metric,
    check_finite,
    check_positive,
    chunk_rows,
    common_part,
    largest_number,
    normalize_rows,
    row_norms,
)
from nearfold._utils.progress import stage
from nearfold.errors import DataError, ParameterError

__all__ = [
    "BLURRED",
    "EQUAL",
    "Rows",
    "are_blurred",
    "check_enough",
    "exact_scores",
    "scored",
    "search",
    "searched_again",
    "tied_from",
]


EQUAL = 1e-12
"""Scores that differ by less than this share of their scale are ties; it is some roundings of float64."""

# The numbers of candidates' vectors that are scored at a time, over all dimensions.
_NUMBERS_AT_ONCE = 1 << 24

_QUERIES_AT_ONCE = 256

BLURRED = 16 * float(np.finfo(np.float32).eps)
"""Scores that differ by less than this share of the size of their terms may be in wrong order in float32."""

# The number of nearest rows that show whether float32 can order a query's neighbours, and how many times
# BLURRED their scores must differ for that.
_LOOKED_AT, _WIDER = 10, 16

# Bounds between which numbers have products, and sums of these, at the full precision of float32.
_SMALL, _LARGE = 1e-12, 1e12


class Rows(Protocol):
    """Vectors that can be read by row number: an array, or a file of any size."""

    def __len__(self) -> int:
        """Return the number of vectors."""
        ...

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[Any]:
        """Return the vectors with the given row numbers, shape (..., d)."""
        ...


def search(base: Float32, queries: Float32, k: int, metric: Metric, *, folded: bool = False) -> Int64:
    """Return the row numbers of each query's k nearest base vectors, by exact search with faiss.

    Parameters
    ----------
    base : ndarray of shape (n, d), float32
        The vectors to search in.
    queries : ndarray of shape (q, d), float32
        The queries.
    k : int
        The number of neighbours, at most n.
    metric : {"cosine", "l2", "ip"}
        The metric.
    folded : bool, default=False
        Whether vectors may be zero under cosine, as a fold may map a vector to zero.

    Returns
    -------
    ndarray of shape (q, k), int64
        Row numbers, nearest first.

    Raises
    ------
    DataError
        A row is not finite, is zero under cosine, or the queries have another number of dimensions.
    ParameterError
        k is not a positive whole number, or is larger than n.
    """
    check_positive("k", k)
    check_enough(k, len(base))
    if base.shape[1] != queries.shape[1]:
        raise DataError(f"queries has {queries.shape[1]} dimensions where the base has {base.shape[1]}")
    import faiss

    # faiss can end the process if products overflow, so it gets only numbers that it can multiply.
    base, queries = _multipliable(base, queries, metric)
    whole, asked = base, queries
    if metric == "cosine":
        base = normalize_rows(base, "base", keep_zero=folded)
        queries = normalize_rows(queries, "queries", keep_zero=folded)
    if metric != "l2":
        # <q, x - c> orders rows as <q, x> does, and keeps the digits that c would take.
        common = common_part(base)
        base = base if common is None else base - common
    else:
        # The shift changes no distance, and float32 loses fewer digits when rows are near the origin.
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


def check_enough(k: int, rows: int) -> None:
    """Refuse to look for more neighbours than a base of `rows` rows has."""
    if k > rows:
        raise ParameterError(f"k={k} neighbours are asked of a base of {rows} rows; ask for fewer")


def are_blurred(scores: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> Int64:
    """Return the queries whose nearest rows have scores that float32 can't put in order.

    Parameters
    ----------
    scores : ndarray of shape (q, k)
        The scores of each query's nearest rows, best first.
    sizes : ndarray of shape (q,)
        The size of the terms that the scores are summed from.

    Returns
    -------
    ndarray of shape (b,), int64
        The numbers of the queries.
    """
    last = min(scores.shape[1], _LOOKED_AT) - 1
    if last < 1:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.abs(scores[:, 0] - scores[:, last]) <= _WIDER * BLURRED * sizes)


def _multipliable(base: Float32, queries: Float32, metric: Metric) -> tuple[Float32, Float32]:
    """Return vectors with the same neighbours whose products are within float32's range.

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
    """Return vectors scaled by a power of two, without rounding, if they are very small or large."""
    if not largest or _SMALL < largest < _LARGE:
        return vectors
    scaled: Float32 = np.ldexp(vectors, -int(np.frexp(largest)[1]))
    return scaled


def searched_again(
    chunks: Iterable[tuple[npt.NDArray[Any], int]], queries: Float32, k: int, metric: Metric
) -> Int64:
    """Return each query's k nearest rows, computed in float64, for queries that float32 can't decide.

    Parameters
    ----------
    chunks : iterable of (ndarray of shape (n_i, d), int)
        The base in chunks, each with the number of its first row.
    queries : ndarray of shape (q, d), float32
        The queries.
    k : int
        The number of neighbours, at most the number of base rows.
    metric : {"cosine", "l2", "ip"}
        The metric.

    Returns
    -------
    ndarray of shape (q, k), int64
        Row numbers, nearest first.
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
                # A zero row gets the score 0.
                seen /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.finfo(np.float64).tiny)
            numbers = np.broadcast_to(np.arange(first + start, first + start + len(rows)), seen.shape)
            together = np.concatenate([scores, seen], axis=1)
            numbers = np.concatenate([ids, numbers], axis=1)
            best = np.argpartition(together, -k, axis=1)[:, -k:]
            scores, ids = np.take_along_axis(together, best, 1), np.take_along_axis(numbers, best, 1)
    return np.take_along_axis(ids, np.argsort(-scores, axis=1, kind="stable"), 1)


def exact_scores(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> Float64:
    """Return each query's scores with given base rows, in float64; higher is nearer.

    Parameters
    ----------
    base : Rows
        The n base vectors, which are read by row number.
    queries : ndarray of shape (q, d), float32
        The queries.
    ids : ndarray of shape (q, c), int64
        The numbers of the base rows to score for each query.
    metric : {"cosine", "l2", "ip"}
        The metric: scores are the cosine similarity, the negative squared distance, or the inner product.

    Returns
    -------
    ndarray of shape (q, c), float64
        The scores. A zero row has the cosine similarity 0.
    """
    return scored(base, queries, ids, metric)[0]


def scored(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> tuple[Float64, Float64]:
    """Return exact scores, and the norms of the scored rows.

    Parameters
    ----------
    base, queries, ids, metric
        See `exact_scores`.

    Returns
    -------
    scores : ndarray of shape (q, c), float64
        The scores.
    norms : ndarray of shape (q, c), float64
        The norms of the base rows for "ip"; ones for "cosine", and zeros for "l2".
    """
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
            norms *= np.linalg.norm(asked, axis=1)[:, None]
            scores[part] /= np.maximum(norms, np.finfo(np.float64).tiny)
        else:
            lengths[part] = np.sqrt(np.einsum("qcd,qcd->qc", rows, rows))
    return scores, lengths


def tied_from(near_scores: Float64, k: int, metric: Metric) -> Float64:
    """Return the least score of a row that counts among each query's k nearest: the k-th best, less rounding.

    All rows that tie with the k-th count, such as duplicates or integer descriptors. A comparison of row
    numbers would count some of them as errors at random.

    Parameters
    ----------
    near_scores : ndarray of shape (q, c), float64
        The exact scores of each query's c nearest rows, best first; c is at least k.
    k : int
        The number of neighbours.
    metric : {"cosine", "l2", "ip"}
        The metric of the scores.

    Returns
    -------
    ndarray of shape (q, 1), float64
    """
    kth = near_scores[:, k - 1 : k]
    unit = 1.0 if metric == "cosine" else np.abs(near_scores).max(axis=1, keepdims=True)
    bar: Float64 = kth - EQUAL * np.maximum(unit, np.abs(kth))
    return bar
