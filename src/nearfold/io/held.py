"""Vectors from any input in memory: all rows, or a sample that fits the memory budget."""

from __future__ import annotations

import os
from typing import Any, Literal

from nearfold._utils.arrays import Float32, as_vectors, check_directions
from nearfold._utils.config import memory_budget
from nearfold._utils.sampling import sampled_rows
from nearfold._utils.warned import warn
from nearfold.io import npy
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, checked_rows, read_source

__all__ = ["held_rows"]

# The memory of the rows, of the buffers that they are read through, and of what is computed from them, as
# multiples of the rows' own size.
_COPIES = 3


def held_rows(
    X: Any,
    n_rows: int | None = None,
    *,
    seed: int = 0,
    directions: bool | Literal["sampled"] = False,
    column: str | None = None,
    name: str = "X",
    min_rows: int = 1,
) -> Float32:
    """Return vectors in memory.

    Parameters
    ----------
    X : array-like, data frame, path, URL or Source
        The vectors, as for `as_source`.
    n_rows : int, optional
        The most rows to return: a random sample is drawn if there are more. By default all rows. Of a file
        no more are returned than the memory budget allows, with a warning.
    seed : int, default=0
        The seed of the sample.
    directions : bool or "sampled", default=False
        Whether to refuse zero rows, by their numbers in the user's data. "sampled" refuses them only if a
        sample is drawn, as later checks would number its rows differently.
    column, name : str
        See `as_source`.
    min_rows : int, default=1
        The least number of rows.

    Returns
    -------
    ndarray of shape (n, d), float32

    Raises
    ------
    DataError
        A row is not finite or is a refused zero row, or there are too few rows.
    FileError
        The file can't be read.

    Warns
    -----
    NearfoldWarning
        The rows of a file would exceed the memory budget, so a smaller sample is returned.
    """
    if isinstance(X, npy.HeldSource) or not isinstance(X, str | os.PathLike | Source):
        vectors = as_vectors(X.array if isinstance(X, npy.HeldSource) else X, name, min_rows=min_rows)
        if n_rows is None or n_rows >= len(vectors):
            if directions is True:
                check_directions(vectors, name)
            return vectors
    source = as_source(X, column, name=name)
    rows = source.layout.rows
    wanted = rows if n_rows is None else min(rows, n_rows)
    if not source.in_memory:
        budget = memory_budget()
        affordable = max(1, budget // (_COPIES * 4 * source.layout.n_features))
        if wanted > affordable:
            warn(
                f"{source.path}: {affordable:,} rows, drawn at random, stand for its {rows:,}: {wanted:,} "
                f"need more than the budget of {budget / 1e6:,.0f}MB; allow more memory for all of them"
            )
            wanted = affordable
    if wanted >= rows:
        return as_vectors(read_source(source, directions=directions is True), name, min_rows=min_rows)
    chosen = sampled_rows(rows, wanted, seed)
    vectors = checked_rows(source.take(chosen), chosen, source, directions=bool(directions))
    return as_vectors(vectors, name, min_rows=min_rows)
