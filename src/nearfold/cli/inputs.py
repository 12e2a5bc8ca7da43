"""What several commands read before they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32

__all__ = ["read_base_and_queries", "read_queries"]


def read_queries(
    path: str, column: str | None = None, query_column: str | None = None, *, directions: bool = False
) -> Float32:
    """Return the queries that a command line names.

    Parameters
    ----------
    path : str
        The file, folder or URL of the queries.
    column : str, optional
        The column of the base's vectors, which holds the queries too unless they have a column of their own.
        Of a file that keeps a base and its queries (`train` and `test` in HDF5) the queries are read.
    query_column : str, optional
        The queries' own column.
    directions : bool, default=False
        Whether zero rows are refused.

    Returns
    -------
    ndarray of shape (n_queries, d), float32

    Raises
    ------
    DataError, FileError
        The queries can't be read, or a row is not finite, or is zero if that is refused.
    """
    from nearfold.io.vectors import open_source, read_source

    source = open_source(path, query_column or column)
    if query_column is None and source.query_column is not None:
        source = open_source(path, source.query_column)
    return read_source(source, directions=directions)


def read_base_and_queries(
    base: str,
    queries: str | None,
    column: str | None,
    directions: bool,
    *,
    n_queries: int | None,
    rows: int | None = None,
    seed: int,
) -> tuple[Float32, Float32]:
    """Return the base and the queries, which are held out of the base if no file of queries is named.

    Parameters
    ----------
    base : str
        The file, folder or URL of the base.
    queries : str or None
        The file, folder or URL of the queries, if there is one.
    column : str or None
        The column of the vectors.
    directions : bool
        Whether zero rows are refused.
    n_queries : int or None
        The number of rows to hold out if no queries are named; None stands for the default.
    rows : int, optional
        The number of rows of the base to draw. By default all are read, as far as the memory budget allows.
    seed : int
        The seed of what is drawn.

    Returns
    -------
    base, queries : ndarray of shape (n, d) and (n_queries, d), float32

    Raises
    ------
    DataError, FileError, ParameterError
        As `read_queries` and `base_and_queries` raise them.
    """
    from nearfold.evaluation.split import base_and_queries
    from nearfold.io.held import held_rows

    given = None if queries is None else read_queries(queries, column, directions=directions)
    vectors = held_rows(base, rows, seed=seed, directions=directions, column=column)
    return base_and_queries(vectors, given, n_queries, seed)
