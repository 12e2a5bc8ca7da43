"""Filters: which rows of an index a search may find, as users say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.errors import DataError
from nearfold.search.groups import Searchable
from nearfold.search.results import whole_numbers
from nearfold.search.rows import Rows

__all__ = ["Scope", "Where", "allowed_rows"]

Where: TypeAlias = npt.ArrayLike | Callable[[Int64], npt.ArrayLike]
"""Ids that may be found, a boolean for each of an index's `ids`, or a function of ids that returns these."""


class Scope(NamedTuple):
    """The rows that one search may find.

    Attributes
    ----------
    hidden : ndarray of shape (n,), bool
        Whether each row of the index is hidden, as it was removed or the filter leaves it out.
    n_rows : int
        The number of rows that are not hidden.
    entries : Searchable
        The entries and rows that are not hidden.
    filtered : bool
        Whether there is a filter.
    """

    hidden: npt.NDArray[np.bool_]
    n_rows: int
    entries: Searchable
    filtered: bool


def allowed_rows(where: Where, rows: Rows) -> npt.NDArray[np.bool_]:
    """Return whether a filter allows each row, shape (n,); it allows no removed row.

    Parameters
    ----------
    where : array-like of int or bool, or callable
        The ids that may be found, in any order; or a boolean for each row that was not removed, in the order
        of their addition; or a function that takes the ids (m,) of these rows and returns these booleans.
    rows : Rows
        The rows of the index.

    Raises
    ------
    DataError
        An id is not in the index, a mask has another length than there are rows, or the filter is neither
        ids nor booleans.
    """
    alive = ~rows.removed
    allowed = np.zeros(len(rows), bool)
    if callable(where):
        allowed[alive] = _mask(np.asarray(where(rows.ids[alive])), rows.n_alive, "where(ids)")
        return allowed
    given = np.asarray(where)
    if given.dtype == bool:
        allowed[alive] = _mask(given, rows.n_alive, "where")
        return allowed
    try:
        allowed[rows.numbers_of(whole_numbers(given))] = True
    except DataError as error:
        raise DataError(f"where: {error}") from error
    return allowed


def _mask(given: npt.NDArray[np.bool_], n_rows: int, name: str) -> npt.NDArray[np.bool_]:
    """Return a mask, or refuse one of another dtype or shape than (n_rows,) booleans."""
    if given.dtype != bool or given.shape != (n_rows,):
        raise DataError(
            f"{name} is {given.dtype} of shape {given.shape}; a mask has one boolean for each of the "
            f"{n_rows} ids of the index, shape ({n_rows},)"
        )
    return given
