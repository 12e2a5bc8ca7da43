"""What several commands read before they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32

__all__ = ["read_base_and_queries", "read_queries"]


def read_queries(
    path: str, column: str | None = None, query_column: str | None = None, *, directions: bool = False
) -> Float32:
    """Return the vectors to ask with, shape (q, d).

    Parameters
    ----------
    path
        The file, folder or URL that is named for them.
    column
        That of the base, which is theirs too where they have none of their own; but a file that keeps a base
        and its queries (`train` and `test` in HDF5) is asked with the queries.
    query_column
        Their own.
    directions
        Refuse zero rows.
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
    """Return the vectors to search in and those to ask with, of a file of their own or held out of the base.

    Parameters
    ----------
    base, queries, column
        As the command line has them.
    directions
        Refuse zero rows.
    n_queries
        How many rows to hold out where no queries are named.
    rows
        How many rows of the base to draw; None for all.
    seed
        Of what is drawn.
    """
    from nearfold.evaluation.split import base_and_queries
    from nearfold.io.held import held_rows

    given = None if queries is None else read_queries(queries, column, directions=directions)
    vectors = held_rows(base, rows, seed=seed, directions=directions, column=column)
    return base_and_queries(vectors, given, n_queries, seed)
