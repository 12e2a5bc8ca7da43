"""Samples of row numbers that do not depend on chunks, shards or the order of reading.

Each row number has a priority that depends only on the number and the seed, and the sample holds the rows of
the lowest priorities. The sample of all rows is thus contained in the union of the samples of any parts, and
changes little when rows are appended.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64

__all__ = ["FINGERPRINTED", "fingerprint_of", "fingerprint_rows", "sampled_rows"]

UInt64 = npt.NDArray[np.uint64]

# The number of rows whose priorities are computed at a time.
_STEP = 1 << 20

FINGERPRINTED = 256
"""The number of rows that a fingerprint is computed from."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def sampled_rows(n_rows: int, count: int, seed: int, *, start: int = 0) -> Int64:
    """Return a random sample of the row numbers from `start` to `n_rows` - 1, in ascending order.

    Parameters
    ----------
    n_rows : int
        The number of rows, one more than the last row number.
    count : int
        The number of rows to draw, uniformly and without replacement. If there are fewer, all are returned.
    seed : int
        The seed of the draw. Different seeds give independent draws.
    start : int, default=0
        The first row number.

    Returns
    -------
    ndarray of shape (min(count, n_rows - start),), int64
    """
    if count == 0:
        return np.empty(0, np.int64)
    if n_rows - start <= count:
        return np.arange(start, n_rows)
    kept = np.empty(0, np.int64)
    lowest = np.empty(0, np.uint64)
    for first in range(start, n_rows, _STEP):
        rows = np.arange(first, min(n_rows, first + _STEP))
        priority = _priorities(rows, seed)
        if len(lowest) == count:
            better = priority < lowest.max()
            rows, priority = rows[better], priority[better]
        kept, lowest = np.concatenate([kept, rows]), np.concatenate([lowest, priority])
        if len(kept) > count:
            best = np.argpartition(lowest, count - 1)[:count]
            kept, lowest = kept[best], lowest[best]
    return np.sort(kept)


def fingerprint_rows(n_rows: int) -> Int64:
    """Return the numbers of the evenly spaced rows that the fingerprint of `n_rows` rows is computed from."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, FINGERPRINTED)).astype(np.int64))


def fingerprint_of(rows: npt.NDArray[np.float32], n_rows: int) -> str:
    """Return a fingerprint, a short hash that tells data from other data unless all hashed rows are equal.

    Parameters
    ----------
    rows : ndarray of shape (r, d), float32
        The rows of the data that `fingerprint_rows` names.
    n_rows : int
        The number of all rows.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(repr((n_rows, rows.shape[1])).encode())
    digest.update(np.ascontiguousarray(rows, np.float32).data)
    return digest.hexdigest()[:16]


def _priorities(rows: Int64, seed: int) -> UInt64:
    """Return the priority of each row, by the finaliser of SplitMix64 (doi 10.1145/2714064.2660195).

    The map is one to one, so no two rows tie.
    """
    mixed = rows.astype(np.uint64)
    mixed += np.uint64(_mix(seed) & _MASK)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _mix(seed: int) -> int:
    """Return the start of a seed's sequence, far from those of neighbouring seeds."""
    value = (seed + 1) * _GOLDEN & _MASK
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return value ^ value >> 32
