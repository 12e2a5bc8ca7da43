"""Exact search and scores for measuring folds, and which scores are ties.

Float32 puts scores that are nearly equal in an order of chance. Whatever says how many neighbours are kept
decides here, so that all measures agree.
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
"""Scores nearer than this share of their scale are equal: some float64 roundings wide."""

# Numbers of candidates that are scored at a time.
_NUMBERS_AT_ONCE = 1 << 24

_QUERIES_AT_ONCE = 256

BLURRED = 16 * float(np.finfo(np.float32).eps)
"""Scores that float32 may put in the wrong order are nearer than this share of what they are summed from."""

# Neighbours so many are looked at to tell whether float32 puts them in order, and how much farther apart
# than its roundings they should lie for that.
_LOOKED_AT, _WIDER = 10, 16

# Numbers whose products, and sums of these, float32 holds at full precision.
_SMALL, _LARGE = 1e-12, 1e12


class Rows(Protocol):
    """Vectors that can be fetched by number: an array, or a file of any size."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[Any]:
        """Return the rows of these numbers, shape (..., d)."""
        ...


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
        A row is not finite, or zero under cosine, or queries are not as wide as the base.
    ParameterError
        k is not a positive number, or is larger than n.
    """
    check_positive("k", k)
    check_enough(k, len(base))
    if base.shape[1] != queries.shape[1]:
        raise DataError(f"queries has {queries.shape[1]} dimensions where the base has {base.shape[1]}")
    import faiss

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


def check_enough(k: int, rows: int) -> None:
    """Refuse to look for more neighbours than a base of `rows` rows has."""
    if k > rows:
        raise ParameterError(f"k={k} neighbours are asked of a base of {rows} rows; ask for fewer")


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
    return np.flatnonzero(np.abs(scores[:, 0] - scores[:, last]) <= _WIDER * BLURRED * sizes)


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
    """Return each query's k nearest rows by float64, for queries whose neighbours float32 can't order.

    Parameters
    ----------
    chunks : iterable of (ndarray of shape (n_i, d), int)
        The base in pieces, each with the number of its first row.
    queries : ndarray of shape (q, d), float32
        The queries.
    k : int
        Number of rows to find for each, at most those of the base.
    metric : {"cosine", "l2", "ip"}
        What near means.

    Returns
    -------
    ndarray of shape (q, k), int64
        Row numbers, the nearest first.
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
    """Return each query's scores with some base rows, in float64; higher is nearer.

    Parameters
    ----------
    base : Rows
        Vectors that can be fetched by number, n of them.
    queries : ndarray of shape (q, d), float32
        The queries.
    ids : ndarray of shape (q, c), int64
        Numbers of the base rows that each query is scored with.
    metric : {"cosine", "l2", "ip"}
        Cosine similarity, the negative squared distance, or the inner product.

    Returns
    -------
    ndarray of shape (q, c), float64
        By cosine a zero row is near nothing: its score is 0.
    """
    return scored(base, queries, ids, metric)[0]


def scored(base: Rows, queries: Float32, ids: Int64, metric: Metric) -> tuple[Float64, Float64]:
    """Return the `exact_scores`, and the norms of the rows scored, shape (q, c): by cosine 1 and by l2 0."""
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
    """Return the score from which on a row counts among each query's k nearest: the k-th best, less rounding.

    Rows that tie with the k-th (duplicates, integer descriptors) all count, where a comparison of row numbers
    would call some of them errors at random.

    Parameters
    ----------
    near_scores : ndarray of shape (q, c), float64
        Exact scores of each query's c nearest rows, the best first; c is at least k.
    k : int
        Number of neighbours.
    metric : {"cosine", "l2", "ip"}
        Metric of the scores.

    Returns
    -------
    ndarray of shape (q, 1), float64
    """
    kth = near_scores[:, k - 1 : k]
    unit = 1.0 if metric == "cosine" else np.abs(near_scores).max(axis=1, keepdims=True)
    bar: Float64 = kth - EQUAL * np.maximum(unit, np.abs(kth))
    return bar
