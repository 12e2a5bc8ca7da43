"""A fixed sample of row numbers: the same rows whatever the chunks, the shards or the order read.

Every row number has a priority that depends on it and the seed alone; the sample is the rows of
the lowest. So the sample of a whole is among the samples of its parts, and grows consistently
when rows are added behind.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64

__all__ = ["FINGERPRINTED", "fingerprint_of", "fingerprint_rows", "sampled_rows"]

UInt64 = npt.NDArray[np.uint64]

# Numbers mixed at a time.
_STEP = 1 << 20

FINGERPRINTED = 256
"""Rows that stand for all of them in a fingerprint."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def sampled_rows(n_rows: int, count: int, seed: int, *, start: int = 0) -> Int64:
    """Return `count` row numbers from `start` to `n_rows`, rising; all where there are fewer.

    Parameters
    ----------
    n_rows
        One past the last number.
    count
        How many to draw, without replacement, each row as likely as any other.
    seed
        Of the draw; other seeds draw independently.
    start
        The first number.
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
    """Return the numbers of the rows, evenly spaced, whose values stand for the data."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, FINGERPRINTED)).astype(np.int64))


def fingerprint_of(rows: npt.NDArray[np.float32], n_rows: int) -> str:
    """Return a short hash of data of `n_rows` rows, of which `rows` are those of `fingerprint_rows`.

    Other data of the same shape has another one, unless it is equal in all of those rows.
    """
    digest = hashlib.sha256(repr((n_rows, rows.shape[1])).encode())
    digest.update(np.ascontiguousarray(rows, np.float32).data)
    return digest.hexdigest()[:16]


def _priorities(rows: Int64, seed: int) -> UInt64:
    """Return a well mixed number a row (the finaliser of SplitMix64, doi 10.1145/2714064.2660195).

    It is one to one, so no two rows of a seed tie.
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
    """Return where a seed's sequence starts, far from its neighbours'."""
    value = (seed + 1) * _GOLDEN & _MASK
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return value ^ value >> 32
