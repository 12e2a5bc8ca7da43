"""Detection of copies of rows, by a hash of each row, its mark.

Copies of a row fill each other's neighbourhoods, from which nothing can then be learned. A row's mark does
not depend on other rows, so copies are found in data of any size, in any order and on any machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64

__all__ = ["NO_MARK", "distinct_rows", "row_marks", "without_copies"]


NO_MARK = 0
"""The mark that stands for no row."""

# A mark hashes the cells of a row's direction on several random axes, and the cell of its norm's logarithm. A
# row of norm 1 and its float16 version lie about 1e-4 apart on each axis, so they mostly share a mark. Rows
# that differ by a hundredth of their norm hardly ever do.
_AXES, _CELL = 6, 1 / 100

# The most rows that are marked at a time.
_STEP = 2048

_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@lru_cache(maxsize=8)
def _axes(n_features: int) -> Float64:
    """Return random axes, shape (d, axes), on which the coordinates of a unit vector have variance 1."""
    return np.random.default_rng(0).standard_normal((n_features, _AXES))


def row_marks(rows: Float32) -> Int64:
    """Return the mark of each row: equal for copies, and hardly ever equal for other rows.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
        The rows as they are compared, of norm 1 for cosine.

    Returns
    -------
    ndarray of shape (n,), int64
        The marks, never `NO_MARK`. Copies that differ by r times their norm, by rounding, have different
        marks with a probability of about 500 r: a tenth for the rounding of float16.
    """
    marks = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _STEP):
        # In float32 the rounding, and thus a row's mark, could depend on the size of the chunk.
        wide = rows[start : start + _STEP].astype(np.float64)
        marks[start : start + _STEP] = _hashed(_cells(wide))
    return marks


def _cells(wide: Float64) -> Float64:
    """Return the cells of rows, as whole numbers of shape (n, axes + 1)."""
    cells = np.empty((len(wide), _AXES + 1))
    # Rows that are not finite pass here; the scan refuses them by name.
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        norms[norms == 0] = 1
        np.divide(wide @ _axes(wide.shape[1]), norms[:, None], out=cells[:, :_AXES])
        np.log(norms, out=cells[:, _AXES])
        cells *= 1 / _CELL
        np.rint(cells, out=cells)
    # Adding 0.0 turns -0.0 into 0.0, whose bits differ.
    cells += 0.0
    return cells


def _hashed(cells: Float64) -> Int64:
    """Return a hash of each row of cells."""
    mixed = np.zeros(len(cells), np.uint64)
    for column in cells.T:
        mixed ^= np.ascontiguousarray(column).view(np.uint64)
        mixed *= _MULTIPLIER
        mixed ^= mixed >> _SHIFT
    mixed[mixed == NO_MARK] = 1
    return mixed.view(np.int64)


def distinct_rows(rows: Float32) -> Int64:
    """Return the numbers of the rows that are not copies of earlier rows, in ascending order."""
    _, first = np.unique(row_marks(rows), return_index=True)
    return np.sort(first).astype(np.int64, copy=False)


def without_copies(rows: Float32, least: int) -> Float32:
    """Return the distinct rows in their order, or all rows if fewer than `least` are distinct."""
    once = distinct_rows(rows)
    return rows if len(once) == len(rows) or len(once) < least else rows[once]
