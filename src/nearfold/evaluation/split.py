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
    """Return how many queries to hold out by default: a tenth of the rows, at least 1 and at most 1,000.

    Parameters
    ----------
    rows : int
        The number of rows.

    Returns
    -------
    int
    """
    return max(1, min(1000, rows // 10))


def query_count(rows: int, n_queries: int | None) -> int:
    """Return how many queries to hold out.

    Parameters
    ----------
    rows : int
        The number of rows.
    n_queries : int or None
        The number that the caller wants, or None for the default.

    Returns
    -------
    int

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
    """Refuse vectors that a metric can't compare; the message names the first such row.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32, or None
        The vectors. None passes.
    metric : {"cosine", "l2", "ip"}
        The metric.
    name : str
        The name of the vectors in messages.

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
    """Return a base and queries, which are held out of the rows if none are given; see `hold_out`.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        The rows.
    queries : ndarray of shape (n_queries, d), float32, or None
        The queries, if there are any.
    n_queries : int, optional
        The number of rows to hold out if no queries are given. The default is a tenth, at most 1,000.
    seed : int, default=0
        The seed of the draw.

    Returns
    -------
    base, queries : ndarray of shape (n, d) and (n_queries, d), float32
        The base has fewer rows than X if queries are held out.

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

    Rows that a metric can't compare are refused here, by their numbers in the caller's own data: later
    splits of the rows have numbers of their own.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The vectors.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, or None
        The queries, if there are any.
    metrics : sequence of {"cosine", "l2", "ip"}
        The metrics that rows will be compared by.
    name : str, default="X"
        The name of X in messages, if it is an array.
    min_rows : int, default=1
        The least number of rows of X that is accepted.
    seed : int, default=0
        The seed of the sample that is drawn if the memory budget can't hold all rows of X.

    Returns
    -------
    rows, queries : ndarray of shape (n, d) and (n_queries, d), float32
        The queries are None if none were given.

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
