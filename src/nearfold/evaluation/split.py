"""Hold out queries: rows that are searched with and never trained on."""

from __future__ import annotations

import numpy as np

from nearfold._utils.arrays import Float32, Metric, check_directions, check_positive, check_products
from nearfold.errors import DataError

__all__ = ["base_and_queries", "check_numbers", "default_query_count", "hold_out", "query_count"]


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
    X
        Shape (n, d).
    n_queries
        None for a tenth of the rows, at most 1,000.
    seed
        Of the draw.

    Returns
    -------
    base, queries

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
