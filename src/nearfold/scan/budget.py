"""What a scan and the learning behind it hold in memory, and how many anchors a budget allows."""

from __future__ import annotations

from nearfold._utils.arrays import Metric, chunk_rows
from nearfold._utils.sampling import FINGERPRINTED
from nearfold._utils.threads import PENDING
from nearfold.scan.moments import WIDE

__all__ = ["LEAST_ANCHORS", "SAMPLED_ROWS", "affordable_anchors", "chunks_held", "least_chunk", "scan_bytes"]

# What Python and the libraries take before any row is read.
_INTERPRETER = 240 << 20

_LEAST_CHUNK = 1 << 20

LEAST_ANCHORS = 64
"""Fewer neighbourhoods than these are not worth learning from."""

# d x d matrices of float64 that live at a time: each thread's sum and its product under way while rows are
# read, and the sum of all; or behind that an eigensolver's workspace, which is smaller in float32.
_SQUARES_A_THREAD, _SQUARES, _SQUARES_WIDE = 1.5, 6, 4

SAMPLED_ROWS = 5_000
"""Rows that a checkpoint keeps, as they are in the data, to watch for drift by."""

# Rows carried along reach this many times those needed before the rest are dropped; those needed are then
# gathered beside them. Neither are ever more than there are rows.
_CARRIED, _GATHERED = 2, 1

# Blocks that are learned from at a time; the loss is measured on fewer.
_LEARNED = 24


def chunks_held(n_threads: int) -> int:
    """Return how many chunks a scan holds: of each thread those waiting and a prepared one, and one read."""
    return (PENDING + 1) * n_threads + 1


def least_chunk(n_features: int) -> int:
    """Return the bytes that the smallest chunk of float32 rows takes."""
    return 4 * n_features * chunk_rows(n_features, _LEAST_CHUNK)


def scan_bytes(
    rows: int, n_features: int, n_anchors: int, k: int, n_threads: int, metric: Metric = "cosine"
) -> int:
    """Return the bytes that a scan and the learning behind it hold, rows being read in the smallest chunks.

    Parameters
    ----------
    rows, n_features
        Of the data, n and d.
    n_anchors, k
        Neighbourhoods, and the rows of each; 0 for moments alone.
    n_threads
        That scan side by side.
    metric
        "l2" centres its neighbourhoods, in a copy.

    Notes
    -----
    Neighbourhoods hold each row once, however many of them it is in: never more rows than there are.
    """
    vector = 4 * n_features
    # Where nothing is learned from neighbourhoods, all axes are wanted, in float64.
    least = _SQUARES_WIDE if n_anchors and n_features > WIDE else _SQUARES
    squares = (max(least, _SQUARES_A_THREAD * n_threads + 1) + (metric == "l2")) * 8 * n_features**2
    anchors = min(rows, n_anchors)
    # As they are in the file, and as they are prepared.
    drawn = (min(rows, SAMPLED_ROWS + FINGERPRINTED) + anchors) * vector
    fixed = _INTERPRETER + chunks_held(n_threads) * least_chunk(n_features) + squares
    if not n_anchors:
        return int(fixed + drawn)
    held = min(rows, _CARRIED * anchors * k) + min(rows, _GATHERED * anchors * k)
    if metric == "l2":
        held += min(rows, anchors * k)
    # The blocks, and what is computed of them.
    learned = 2 * min(anchors, _LEARNED) * (k + 1) * vector
    lists = 5 * 8 * anchors * k
    return int(fixed + max(2 * drawn, drawn + held * vector + learned + lists))


def affordable_anchors(
    rows: int, n_features: int, wanted: int, k: int, n_threads: int, memory: int, metric: Metric = "cosine"
) -> int:
    """Return how many anchors, at most `wanted`, fit into `memory` bytes; 0 where not even a few do.

    Parameters are those of `scan_bytes`.
    """

    def fits(anchors: int) -> bool:
        return scan_bytes(rows, n_features, anchors, k, n_threads, metric) <= memory

    least, most = min(LEAST_ANCHORS, wanted), wanted
    if fits(most):
        return most
    if not fits(least):
        return 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least
