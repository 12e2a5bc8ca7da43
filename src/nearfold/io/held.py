"""Rows in memory, of whatever holds them: all of them, or a sample that fits the budget."""

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

# The rows, what they are read through, and what is computed of them.
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
    """Return vectors in memory, as float32 of shape (n, d).

    Parameters
    ----------
    X
        As for `as_source`.
    n_rows
        Draw a sample of so many rows, where there are more. None takes all, or for files as many as
        the memory budget allows, and warns where those are not all.
    seed
        Of the sample.
    directions
        Refuse zero rows, by their numbers in the user's own data. "sampled" refuses those of a sample
        alone, in which whoever refuses them later would count by other numbers.
    column, name
        As for `as_source`.
    min_rows
        Refuse fewer rows.

    Raises
    ------
    DataError
        A row is not finite, or zero where that is refused, or there are too few rows.
    FileError
        The file can't be read.

    Warns
    -----
    NearfoldWarning
        The rows of a file need more than the budget, so a sample stands for them.
    """
    if n_rows is None and (isinstance(X, npy.HeldSource) or not isinstance(X, str | os.PathLike | Source)):
        vectors = as_vectors(X.array if isinstance(X, npy.HeldSource) else X, name, min_rows=min_rows)
        if directions is True:
            check_directions(vectors, name)
        return vectors
    source = as_source(X, column, name=name)
    rows, wanted = source.layout.rows, n_rows
    if n_rows is None:
        budget = memory_budget()
        affordable = budget // (_COPIES * 4 * source.layout.n_features)
        if rows > affordable:
            wanted = max(1, affordable)
            warn(
                f"{source.path}: {wanted:,} rows, drawn at random, stand for its {rows:,}, which need more "
                f"than the budget of {budget / 1e6:,.0f}MB; allow more memory for all of them"
            )
    if wanted is None or wanted >= rows:
        return as_vectors(read_source(source, directions=directions is True), name, min_rows=min_rows)
    chosen = sampled_rows(rows, wanted, seed)
    vectors = checked_rows(source.take(chosen), chosen, source, directions=bool(directions))
    return as_vectors(vectors, name, min_rows=min_rows)
