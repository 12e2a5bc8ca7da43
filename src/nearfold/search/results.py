"""What a search returns: rows under the ids that users know."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold.errors import DataError

__all__ = ["Found", "named", "nothing", "whole_numbers"]

Int64 = npt.NDArray[np.int64]


class Found(NamedTuple):
    """What a search found.

    Parameters
    ----------
    ids
        Shape (q, k), nearest first; -1 where there are fewer than k vectors.
    scores
        In d dimensions, shape (q, k), float32: cosine, -|q - b|^2 or <q, b>, higher is nearer.
    read
        How many full vectors were read for each query, shape (q,).
    """

    ids: Int64
    scores: Float32
    read: Int64


def named(ids: Int64, rows: Int64, scores: Float32, k: int, read: Int64) -> Found:
    """Return rows under their ids, in k columns.

    Parameters
    ----------
    ids
        Of all rows, shape (n,).
    rows, scores
        Shape (q, c), nearest first; a score of -inf stands for no row.
    k
        Columns wanted.
    read
        As in `Found`.
    """
    named_ids = np.full((len(rows), k), -1, np.int64)
    padded = np.full((len(rows), k), -np.inf, np.float32)
    width = min(k, rows.shape[1])
    padded[:, :width] = scores[:, :width]
    known = ids[np.maximum(rows[:, :width], 0)]
    named_ids[:, :width] = np.where(np.isneginf(scores[:, :width]), -1, known)
    return Found(named_ids, padded, read)


def nothing(queries: int, k: int) -> Found:
    """Return what is found where there is nothing."""
    none = np.empty((queries, 0))
    return named(
        np.zeros(1, np.int64), none.astype(np.int64), none.astype(np.float32), k, np.zeros(queries, np.int64)
    )


def whole_numbers(ids: npt.ArrayLike) -> Int64:
    """Return ids as int64, or refuse those that are no whole numbers from 0 on."""
    numbers = np.asarray(ids)
    if numbers.shape == (0,):
        return np.empty(0, np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(f"ids must be whole numbers in one dimension, not {numbers.dtype} {numbers.shape}")
    if numbers.size and (numbers.min() < 0 or numbers.max() > np.iinfo(np.int64).max):
        raise DataError("ids must be from 0 to 2^63 - 1")
    return numbers.astype(np.int64)
