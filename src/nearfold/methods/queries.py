"""What NearFold does with a sample of queries: how much they weigh, and whether they alone should count.

Blocks of queries alone make a fold that fits them best where they have little in common with the base, and
otherwise one that keeps less than blocks of rows do, above all if there are few. Both kinds together never
cost more than noise where this was measured, so they are the rule, and queries alone must be clearly better
on queries that neither fold has learned from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, Int64, Metric
from nearfold.errors import DataError
from nearfold.io.base import Source
from nearfold.io.held import held_rows
from nearfold.methods.training import WeightedBlocks
from nearfold.scan.neighbors import nearest
from nearfold.scan.scan import Anchors, Blocks, Scan

__all__ = [
    "clearly_better",
    "held_out",
    "query_weight",
    "recalls",
    "sample_of_queries",
    "separate_blocks",
    "weighted_blocks",
]

# The most that the loss on queries' blocks weighs, and the number of queries that gives half of it. A fold
# learns few queries by heart, which costs other queries recall.
_MOST, _HALF_AT = 0.5, 500

# A fifth of the queries is held out, but no more than this; fewer than the least can't decide.
_SHARE, _MOST_HELD, _LEAST_HELD = 5, 500, 8

_DEPTH = 10
_ROWS = 4096


def query_weight(queries: int) -> float:
    """Return the weight of the loss on so many blocks of queries, where that on all blocks is 1.

    Parameters
    ----------
    queries : int
        Number q of blocks of queries.

    Returns
    -------
    float
        0.5 q / (q + 500).
    """
    return _MOST * queries / (queries + _HALF_AT)


def held_out(queries: int) -> npt.NDArray[np.bool_]:
    """Return which of so many queries are held out, evenly spread; none if they would be too few.

    Parameters
    ----------
    queries : int
        Number q of queries.

    Returns
    -------
    ndarray of shape (q,), bool
        A fifth is held out, and at most 500.
    """
    held = np.arange(queries) % max(_SHARE, -(-queries // _MOST_HELD)) == 0
    return held if held.sum() >= _LEAST_HELD else np.zeros(queries, bool)


def sample_of_queries(queries: Any, source: Source) -> Float32 | None:
    """Return a sample of queries to learn from with a base, or None if there is none.

    Parameters
    ----------
    queries : array-like, path, URL or Source, optional
        The sample, shape (q, d).
    source : Source
        The base.

    Returns
    -------
    ndarray of shape (q, d), float32, or None

    Raises
    ------
    DataError
        The queries are not a finite table of vectors of as many dimensions as the base's.
    FileError
        A file can't be read.
    """
    if queries is None:
        return None
    held, width = held_rows(queries, name="queries"), source.layout.n_features
    if held.shape[1] != width:
        raise DataError(f"queries has {held.shape[1]} dimensions where {source.path} has {width}")
    return held


def separate_blocks(scan: Scan, anchors: Anchors) -> tuple[Blocks, Blocks]:
    """Return the blocks of anchors that are rows, and of those that are queries.

    Parameters
    ----------
    scan : Scan
        The scan that found their neighbours.
    anchors : Anchors
        Anchors of both kinds.

    Returns
    -------
    rows, queries : Blocks
    """
    rows, queries = (
        scan.of_anchors(which).blocks(anchors.chosen(which))
        for which in (anchors.of_rows, anchors.of_queries)
    )
    return rows, queries


def weighted_blocks(scan: Scan, anchors: Anchors) -> list[WeightedBlocks]:
    """Return the blocks of all anchors, with the weight of each kind.

    Parameters
    ----------
    scan : Scan
        The scan that found their neighbours.
    anchors : Anchors
        Anchors that are rows, and queries if there are some.

    Returns
    -------
    list of WeightedBlocks
    """
    if not len(anchors.of_queries):
        return [WeightedBlocks(scan.blocks(anchors))]
    rows, queries = separate_blocks(scan, anchors)
    weight = query_weight(len(queries.index))
    return [WeightedBlocks(rows, 1 - weight), WeightedBlocks(queries, weight)]


def recalls(W: Float32, blocks: Blocks, index: Int64, n_rows: int, metric: Metric) -> Float64:
    """Return recall@10 of queries among the rows that a scan kept, which stand for all rows.

    Parameters
    ----------
    W : ndarray of shape (m, d), float32
        The encoder.
    blocks : Blocks
        Blocks of queries.
    index : ndarray of shape (q, k + 1), int64
        The blocks of the queries to measure, of `blocks.index`.
    n_rows : int
        Number of rows among `blocks.vectors`, which come first there.
    metric : {"cosine", "l2", "ip"}
        What near means.

    Returns
    -------
    ndarray of shape (q,), float64
    """
    right = index[:, 1 : _DEPTH + 1]

    def folded(rows: Float32) -> Float32:
        Z: Float32 = rows @ W.T
        if metric == "cosine":
            Z /= np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return Z

    def chunks() -> Iterator[Float32]:
        for start in range(0, n_rows, _ROWS):
            yield folded(blocks.vectors[start : min(start + _ROWS, n_rows)])

    found = nearest(folded(blocks.vectors[index[:, 0]]), chunks(), right.shape[1], metric, n_rows).ids
    share: Float64 = (right[:, :, None] == found[:, None]).any(axis=2).mean(axis=1)
    return share


def clearly_better(one: Float64, other: Float64) -> bool:
    """Return whether recalls are higher than others of the same queries by two standard errors.

    Parameters
    ----------
    one, other : ndarray of shape (q,), float64
        Recalls of two folds, from `recalls`.

    Returns
    -------
    bool
    """
    gain = one - other
    return bool(gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)))
