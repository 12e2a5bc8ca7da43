"""Hold out queries: rows that are searched with and never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Metric, check_directions, check_positive, check_products
from nearfold.errors import DataError
from nearfold.io.held import held_rows

__all__ = [
    "base_and_queries",
    "check_numbers",
    "default_query_count",
    "hold_out",
    "query_count",
    "rows_and_queries",
]


def default_query_count(rows: int) -> int:
    """Return how many queries to hold out of `rows`: a tenth, at most 1,000, at least 1."""
    return max(1, min(1000, rows // 10))


def query_count(rows: int, n_queries: int | None) -> int:
    """Return how many queries to hold out of `rows`: `n_queries`, or the default where it is None.

    Raises
    ------
    DataError
        Fewer than two rows would be left in the base.
    """
    count = default_query_count(rows) if n_queries is None else n_queries
    if rows - count < 2:
        raise DataError(
            f"{rows} row(s) can't give {count} held-out queries and a base of at least 2; give more rows"
        )
    return count


def hold_out(X: Float32, n_queries: int | None = None, seed: int = 0) -> tuple[Float32, Float32]:
    """Split rows into a base and queries, drawn at random and kept in their order.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows.
    n_queries : int, optional
        The number of queries. The default is a tenth of the rows, at most 1,000.
    seed : int, default=0
        The seed of the draw.

    Returns
    -------
    base, queries : ndarray of shape (n - n_queries, d) and (n_queries, d), float32

    Raises
    ------
    DataError
        Fewer than two rows would be left in the base.
    """
    count = query_count(len(X), n_queries)
    held = np.zeros(len(X), bool)
    held[np.random.default_rng(seed).choice(len(X), count, replace=False)] = True
    return X[~held], X[held]


def check_numbers(vectors: Float32 | None, metric: Metric, name: str) -> None:
    """Refuse vectors, where there are any, that a metric can't compare; the first such row is named.

    Raises
    ------
    DataError
        A row is zero under cosine, or products are beyond float32 under another metric.
    """
    if vectors is None:
        return
    check_products(vectors, metric, name)
    if metric == "cosine":
        check_directions(vectors, name)


def base_and_queries(
    X: Float32, queries: Float32 | None, n_queries: int | None = None, seed: int = 0
) -> tuple[Float32, Float32]:
    """Return X and the queries given, or a split of X where none are; see `hold_out`.

    Raises
    ------
    ParameterError
        `n_queries` is not a positive whole number.
    DataError
        Queries differ in width from X, or X is too small to split.
    """
    if queries is None:
        if n_queries is not None:
            check_positive("n_queries", n_queries)
        return hold_out(X, n_queries, seed)
    if queries.shape[1] != X.shape[1]:
        raise DataError(f"queries has {queries.shape[1]} dimensions where the base has {X.shape[1]}")
    return X, queries


def rows_and_queries(
    X: Any, queries: Any, metrics: Sequence[Metric], *, name: str = "X", min_rows: int = 1, seed: int = 0
) -> tuple[Float32, Float32 | None]:
    """Return any vectors, and the queries given for them if any, as float32 rows in memory.

    Rows that a metric can't compare are refused here, by their numbers in the caller's own data: behind
    this, splits number rows in ways of their own.

    Parameters
    ----------
    X, queries
        As for `held_rows`; queries may be None.
    metrics : sequence of {"cosine", "l2", "ip"}
        The metrics that rows will be compared by.
    name : str, default="X"
        What errors call X where it is an array.
    min_rows : int, default=1
        Refuse fewer rows of X.
    seed : int, default=0
        The seed of the sample, where the rows of X are more than the memory budget holds.

    Returns
    -------
    rows, queries : ndarray of shape (n, d) and (n_queries, d), float32; or None for no queries

    Raises
    ------
    DataError, FileError
        As `held_rows` and `check_numbers` raise them.
    """
    directions = "cosine" in metrics
    rows = held_rows(X, seed=seed, directions=directions, name=name, min_rows=min_rows)
    given = None if queries is None else held_rows(queries, directions=directions, name="queries")
    for metric in metrics:
        check_numbers(rows, metric, name)
        check_numbers(given, metric, "queries")
    return rows, given
