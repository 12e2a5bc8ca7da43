"""What several commands read before they work in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfold._utils.arrays import Float32
    from nearfold.io.base import Source

__all__ = ["read_queries", "rows_in_memory"]


def rows_in_memory(source: Source, rows: int | None, seed: int, *, directions: bool = False) -> Float32:
    """Return all rows of a source, or a sample of `rows` where it has more; shape (n, d).

    With `directions` a zero row, which has none, is refused by its number in its file: behind this
    samples and splits count rows in ways of their own.
    """
    from nearfold._utils.sampling import sampled_rows
    from nearfold.io.vectors import checked_rows, read_source

    if rows is None or rows >= source.layout.rows:
        return read_source(source, directions=directions)
    chosen = sampled_rows(source.layout.rows, rows, seed)
    return checked_rows(source.take(chosen), chosen, source, directions=directions)


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
