"""What several commands read before they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32

__all__ = ["read_queries"]


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
