"""What several commands read before they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from nearfold._utils.arrays import Float32, Int64
    from nearfold.evaluation.qrels import Qrels
    from nearfold.io.base import Source
    from nearfold.io.where import Matches
    from nearfold.search.filters import Where

__all__ = ["read_base_and_queries", "read_filter", "read_labels", "read_queries"]


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
    from nearfold.io.vectors import read_source

    return read_source(_queries_source(path, column, query_column), directions=directions)


def _queries_source(path: str, column: str | None, query_column: str | None) -> Source:
    from nearfold.io.vectors import open_source

    source = open_source(path, query_column or column)
    if query_column is None and source.query_column is not None:
        source = open_source(path, source.query_column)
    return source


def read_filter(where: str | None, columns: str | None, ids: str | None, base: str | None) -> Where | None:
    """Return the filter that a command line names.

    Parameters
    ----------
    where : str or None
        A Parquet file of ids, or a condition on columns. None stands for no filter.
    columns : str or None
        The file, folder or URL of the columns of a condition. None stands for that of the base.
    ids : str or None
        The column of ids, in either file.
    base : str or None
        The file, folder or URL of the base, if it is named.

    Returns
    -------
    ndarray of shape (m,), int64, callable or None
        The ids, or a function that says which ids meet the condition. Rows that the table has and the index
        does not are no error, as they may have been removed.

    Raises
    ------
    ParameterError
        The condition is not one, or its columns or ids are named without need or not at all.
    FileError
        A file can't be read or has no such column.
    """
    from nearfold.errors import ParameterError

    if where is None:
        if ids is not None or columns is not None:
            raise ParameterError("--columns and --ids say what --where names; give that too")
        return None
    from nearfold.io.where import matching_rows, read_ids

    if where.lower().endswith(".parquet"):
        return read_ids(where, ids)
    columns = columns or base
    if columns is None:
        raise ParameterError(
            f"--where {where!r:.200}: an index keeps no columns; name the file that has them by --columns"
        )
    return _meeting(columns, matching_rows(columns, where, ids), numbered=ids is None)


def _meeting(columns: str, matches: Matches, *, numbered: bool) -> Callable[[Int64], npt.NDArray[np.bool_]]:
    """Return a function that says which ids are those of matches."""
    import numpy as np

    from nearfold.errors import DataError

    def meets(ids: Int64) -> npt.NDArray[np.bool_]:
        if numbered and len(ids) and int(ids.max()) >= matches.rows:
            raise DataError(
                f"{columns}: has {matches.rows} rows, so that row numbers can't be ids of the index, which "
                f"holds {ids.max()}; name the column of ids by --ids"
            )
        return np.isin(ids, matches.ids)

    return meets


def read_labels(
    qrels: str | None,
    base: str,
    queries: str | None,
    column: str | None,
    query_column: str | None = None,
    *,
    ids: str | None,
    query_ids: str | None,
) -> Qrels | None:
    """Return the labels that a command line names, with the ids of the base and the queries.

    Parameters
    ----------
    qrels : str or None
        The file or URL of the labels, if there is one.
    base : str
        The file, folder or URL of the base.
    queries : str or None
        The file, folder or URL of the queries.
    column, query_column : str or None
        The columns of the vectors; see `read_queries`.
    ids, query_ids : str or None
        The columns of the ids; None stands for row numbers.

    Returns
    -------
    Qrels or None

    Raises
    ------
    ParameterError
        Labels are named without queries, or ids without labels.
    FileError
        A file can't be read or has no such column.
    MissingExtraError
        Labels need the extra `labels`.
    """
    from nearfold.errors import ParameterError
    from nearfold.evaluation.labels import check_labels_extra
    from nearfold.evaluation.qrels import Qrels, ids_of_column
    from nearfold.io.vectors import open_source

    if qrels is None:
        if ids is not None or query_ids is not None:
            raise ParameterError("--ids and --query-ids say what --qrels names; give that file of labels too")
        return None
    if queries is None:
        raise ParameterError("--qrels labels queries; name their file by --queries")
    check_labels_extra()
    return Qrels(
        qrels,
        document_ids=None if ids is None else ids_of_column(open_source(base, column), ids),
        query_ids=None
        if query_ids is None
        else ids_of_column(_queries_source(queries, column, query_column), query_ids),
    )


def read_base_and_queries(
    base: str,
    queries: str | None,
    column: str | None,
    directions: bool,
    *,
    n_queries: int | None,
    rows: int | None = None,
    seed: int,
    whole: bool = False,
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
    whole : bool, default=False
        Whether a sample of the base is refused, as labels may name any row.

    Returns
    -------
    base, queries : ndarray of shape (n, d) and (n_queries, d), float32

    Raises
    ------
    DataError, FileError, ParameterError
        As `read_queries` and `base_and_queries` raise them, or a refused sample would be drawn.
    """
    from nearfold.errors import ParameterError
    from nearfold.evaluation.split import base_and_queries
    from nearfold.io.held import held_rows
    from nearfold.io.vectors import open_source

    given = None if queries is None else read_queries(queries, column, directions=directions)
    vectors = held_rows(base, rows, seed=seed, directions=directions, column=column)
    if whole and len(vectors) < (total := open_source(base, column).layout.rows):
        raise ParameterError(
            f"--qrels needs all {total:,} rows of the base, and {len(vectors):,} were drawn; leave out "
            f"--rows, or allow more memory"
        )
    return base_and_queries(vectors, given, n_queries, seed)
