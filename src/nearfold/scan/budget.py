"""The memory that a scan and the training after it need, and the number of anchors that a budget allows."""

from __future__ import annotations

from nearfold._utils.arrays import Metric, chunk_rows
from nearfold._utils.sampling import FINGERPRINTED
from nearfold._utils.threads import PENDING
from nearfold.scan.moments import WIDE

__all__ = ["LEAST_ANCHORS", "SAMPLED_ROWS", "affordable_anchors", "chunks_held", "least_chunk", "scan_bytes"]

# The bytes that Python and the libraries take before any row is read.
_INTERPRETER = 240 << 20

_LEAST_CHUNK = 1 << 20

LEAST_ANCHORS = 64
"""The least number of anchors; training on fewer neighbourhoods is not worthwhile."""

# The d x d matrices of float64 that exist at a time: during the scan each thread's sum and current product,
# and the total; after it an eigensolver's workspace, which is smaller in float32.
_SQUARES_A_THREAD, _SQUARES, _SQUARES_WIDE = 1.5, 6, 4

SAMPLED_ROWS = 5_000
"""The number of rows that a checkpoint keeps, as they are in the data, for drift statistics."""

# Rows that may be neighbours are kept until there are this many times those needed, and the needed ones are
# then gathered beside them. Neither are ever more than all rows.
_CARRIED, _GATHERED = 2, 1

# The blocks of one training step; the loss is measured on fewer at a time.
_LEARNED = 24


def chunks_held(n_threads: int) -> int:
    """Return the number of chunks that a scan holds: those waiting or prepared for a thread, and the next."""
    return (PENDING + 1) * n_threads + 1


def least_chunk(n_features: int) -> int:
    """Return the bytes of the smallest chunk of float32 rows of `n_features` dimensions."""
    return 4 * n_features * chunk_rows(n_features, _LEAST_CHUNK)


def scan_bytes(
    rows: int, n_features: int, n_anchors: int, k: int, n_threads: int, metric: Metric = "cosine"
) -> int:
    """Return the bytes that a scan in the smallest chunks, and the training after it, hold at a time.

    Parameters
    ----------
    rows, n_features : int
        The numbers of rows n and dimensions d of the data.
    n_anchors, k : int
        The number of anchors, and of neighbours of each; 0 for moments alone.
    n_threads : int
        The number of threads that scan.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric. For "l2" the neighbourhoods are centred in a copy.

    Notes
    -----
    Each row is held only once, even if it belongs to many neighbourhoods.
    """
    vector = 4 * n_features
    # Without training on neighbourhoods, all axes are computed, in float64.
    least = _SQUARES_WIDE if n_anchors and n_features > WIDE else _SQUARES
    squares = (max(least, _SQUARES_A_THREAD * n_threads + 1) + (metric == "l2")) * 8 * n_features**2
    anchors = min(rows, n_anchors)
    # The drawn rows, which exist both as they are in the file and as they are prepared.
    drawn = (min(rows, SAMPLED_ROWS + FINGERPRINTED) + anchors) * vector
    fixed = _INTERPRETER + chunks_held(n_threads) * least_chunk(n_features) + squares
    if not n_anchors:
        return int(fixed + drawn)
    held = min(rows, _CARRIED * anchors * k) + min(rows, _GATHERED * anchors * k)
    if metric == "l2":
        held += min(rows, anchors * k)
    # The blocks of a training step, and what is computed from them.
    learned = 2 * min(anchors, _LEARNED) * (k + 1) * vector
    lists = 5 * 8 * anchors * k
    return int(fixed + max(2 * drawn, drawn + held * vector + learned + lists))


def affordable_anchors(
    rows: int, n_features: int, wanted: int, k: int, n_threads: int, memory: int, metric: Metric = "cosine"
) -> int:
    """Return the number of anchors that fit into `memory` bytes.

    Parameters
    ----------
    rows, n_features, k, n_threads, metric
        See `scan_bytes`.
    wanted : int
        The most anchors.
    memory : int
        The memory budget in bytes.

    Returns
    -------
    int
        At most `wanted`; 0 if the budget does not suffice for LEAST_ANCHORS or, if fewer are wanted, for all.
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
