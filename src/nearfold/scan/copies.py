"""Which rows are copies of others, told by a number of each row alone.

Rows that are there several times fill each other's neighbourhoods with themselves, from which nothing
can be learned. A row's mark needs no other row, so copies are found in data of any size and in any
order, by whoever sees them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64

__all__ = ["NO_MARK", "distinct_rows", "row_marks", "without_copies"]


NO_MARK = 0
"""The mark of no row."""

# A mark is the cell that a row's direction lies in, on so many random axes, and that of its norm's
# logarithm. A row of norm 1 and what float16 makes of it lie about 1e-4 apart on each axis, so they share
# a mark mostly; rows that differ by a hundredth of their norm nearly never do.
_AXES, _CELL = 6, 1 / 100

# Rows marked at a time, at most.
_STEP = 2048

_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@lru_cache(maxsize=8)
def _axes(n_features: int) -> Float64:
    """Return the axes, on which a vector of norm 1 has a spread of 1: shape (d, axes)."""
    return np.random.default_rng(0).standard_normal((n_features, _AXES))


def row_marks(rows: Float32) -> Int64:
    """Return a number a row, never `NO_MARK`: equal for copies, but for rounding, and hardly for others.

    Parameters
    ----------
    rows
        Shape (n, d), float32, prepared as they are compared (norm 1 for cosine).

    Returns
    -------
    int64 array of shape (n,). Copies that rounding took apart by r times their norm have two marks with a
    chance of about 500 r: a tenth for what float16 does.
    """
    marks = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _STEP):
        # Rounded as float32, the same row could be marked in two ways in chunks of two sizes.
        wide = rows[start : start + _STEP].astype(np.float64)
        marks[start : start + _STEP] = _hashed(_cells(wide))
    return marks


def _cells(wide: Float64) -> Float64:
    """Return the cells of rows, whole numbers of shape (n, axes + 1)."""
    cells = np.empty((len(wide), _AXES + 1))
    # Who scans the rows refuses those that are not finite, by name.
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        norms[norms == 0] = 1
        np.divide(wide @ _axes(wide.shape[1]), norms[:, None], out=cells[:, :_AXES])
        np.log(norms, out=cells[:, _AXES])
        cells *= 1 / _CELL
        np.rint(cells, out=cells)
    # -0.0 has other bits than 0.0.
    cells += 0.0
    return cells


def _hashed(cells: Float64) -> Int64:
    """Return a well mixed number of each row of cells."""
    mixed = np.zeros(len(cells), np.uint64)
    for column in cells.T:
        mixed ^= np.ascontiguousarray(column).view(np.uint64)
        mixed *= _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    mixed[mixed == NO_MARK] = 1
    return mixed.view(np.int64)


def distinct_rows(rows: Float32) -> Int64:
    """Return the numbers of the rows that are no copies of earlier ones, rising."""
    _, first = np.unique(row_marks(rows), return_index=True)
    return np.sort(first).astype(np.int64, copy=False)


def without_copies(rows: Float32, least: int) -> Float32:
    """Return the distinct rows in their order, or all rows where that leaves fewer than `least`."""
    once = distinct_rows(rows)
    return rows if len(once) == len(rows) or len(once) < least else rows[once]
