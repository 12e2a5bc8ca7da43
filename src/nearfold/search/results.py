"""The results of a search, with the ids that users chose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64
from nearfold.errors import DataError

__all__ = ["SearchResult", "empty_result", "named", "whole_numbers"]


class SearchResult(NamedTuple):
    """The nearest vectors of each query.

    Attributes
    ----------
    ids : ndarray of shape (n_queries, k), int64
        The ids of the vectors, nearest first, filled up with -1 if the index holds fewer than k vectors.
    scores : ndarray of shape (n_queries, k), float32
        The exact scores in all dimensions: the cosine similarity, minus the squared distance (l2), or the
        inner product (ip). A higher score is nearer, and -inf stands for no vector. A search by codes alone
        returns 0, -1, -2, ... in place of scores.
    n_read : ndarray of shape (n_queries,), int64
        The number of vectors that were read for each query, in all dimensions.
    """

    ids: Int64
    scores: Float32
    n_read: Int64


def named(ids: Int64, rows: Int64, scores: Float32, k: int, n_read: Int64) -> SearchResult:
    """Return a search result in which row numbers are replaced by ids.

    Parameters
    ----------
    ids : ndarray of shape (n,), int64
        The ids of all rows.
    rows, scores : ndarrays of shape (q, c), int64 and float32
        Row numbers, nearest first, and their scores. A score of -inf stands for no row.
    k : int
        The number of columns of the result.
    n_read : ndarray of shape (q,), int64
        The number of vectors that were read for each query.
    """
    named_ids = np.full((len(rows), k), -1, np.int64)
    padded = np.full((len(rows), k), -np.inf, np.float32)
    width = min(k, rows.shape[1])
    padded[:, :width] = scores[:, :width]
    known = ids[np.maximum(rows[:, :width], 0)]
    named_ids[:, :width] = np.where(np.isneginf(scores[:, :width]), -1, known)
    return SearchResult(named_ids, padded, n_read)


def empty_result(n_queries: int, k: int) -> SearchResult:
    """Return the result of a search that finds nothing."""
    ids, scores = np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf, np.float32)
    return SearchResult(ids, scores, np.zeros(n_queries, np.int64))


def whole_numbers(ids: npt.ArrayLike) -> Int64:
    """Return ids as int64, shape (n,).

    Raises
    ------
    DataError
        The ids are not a one-dimensional array of whole numbers from 0 to 2^63 - 1.
    """
    numbers = np.asarray(ids)
    if numbers.shape == (0,):
        return np.empty(0, np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(f"ids must be whole numbers in one dimension, not {numbers.dtype} {numbers.shape}")
    if numbers.size and (numbers.min() < 0 or numbers.max() > np.iinfo(np.int64).max):
        raise DataError("ids must be from 0 to 2^63 - 1")
    return numbers.astype(np.int64)
