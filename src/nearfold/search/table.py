"""Search results as a table for other tools."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nearfold._utils.files import replacing
from nearfold.io.lists import made_by
from nearfold.search.results import SearchResult

__all__ = ["write_results"]


def write_results(result: SearchResult, path: str | os.PathLike[str]) -> None:
    """Write search results to a Parquet file, atomically.

    The columns are query (its number), rank (from 0), id and score.

    Parameters
    ----------
    result : SearchResult
        The results.
    path : str or path
        The file to write.

    Raises
    ------
    FileError
        The file can't be written.
    """
    queries, k = result.ids.shape
    there = result.ids.ravel() >= 0
    table = pa.table(
        {
            "query": np.repeat(np.arange(queries), k)[there],
            "rank": np.tile(np.arange(k), queries)[there],
            "id": result.ids.ravel()[there],
            "score": result.scores.ravel()[there],
        }
    )
    table = table.replace_schema_metadata(made_by())
    with replacing(path) as file:
        pq.write_table(table, file)
