"""The table of an index's rows: the id of each, whether it was removed, and its norm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64
from nearfold.errors import DataError
from nearfold.search.growing import Growing
from nearfold.search.results import whole_numbers

__all__ = ["Rows"]


class Rows:
    """The table of an index's rows, in the order of their addition; removed rows keep their place.

    Parameters
    ----------
    ids : ndarray of shape (n,), int64
        The ids that users chose.
    removed : ndarray of shape (n,), bool
        Whether each row was removed.
    norms : ndarray of shape (n,), float32, optional
        The norms of the rows, which only the metric cosine needs.
    """

    def __init__(self, ids: Int64, removed: npt.NDArray[np.bool_], norms: Float32 | None = None) -> None:
        self._ids, self._removed = Growing(ids), Growing(removed)
        self._norms = None if norms is None else Growing(norms)
        self._largest = int(ids.max(initial=-1))
        self._n_removed = int(removed.sum())

    def __len__(self) -> int:
        """Return the number of rows, including removed rows."""
        return len(self.ids)

    @property
    def ids(self) -> Int64:
        """The id of each row, shape (n,)."""
        return self._ids.array

    @property
    def removed(self) -> npt.NDArray[np.bool_]:
        """Whether each row was removed, shape (n,)."""
        return self._removed.array

    @property
    def norms(self) -> Float32 | None:
        """The norm of each row, shape (n,), or None if the metric is not cosine."""
        return None if self._norms is None else self._norms.array

    @property
    def n_alive(self) -> int:
        """The number of rows that were not removed."""
        return len(self) - self._n_removed

    def new_ids(self, n: int, ids: npt.ArrayLike | None) -> Int64:
        """Return the ids of n further rows: the given ones, or with None the numbers after the largest id.

        Raises
        ------
        DataError
            The ids are not n distinct whole numbers, or the index holds one already.
        """
        if ids is None and n:
            if self._largest + n > np.iinfo(np.int64).max:
                raise DataError("the largest id is too near 2^63 to count on from it; give ids")
            return self._largest + 1 + np.arange(n)
        numbers = whole_numbers(() if ids is None else ids)
        if numbers.shape != (n,):
            raise DataError(f"ids has shape {numbers.shape} for {n} vectors; give one id for each")
        if len(np.unique(numbers)) < n or (n and self._holds_any(numbers)):
            raise DataError("ids has an id twice, or one that is taken; give each vector an id of its own")
        return numbers

    def _holds_any(self, numbers: Int64) -> bool:
        low, high = int(numbers.min()), int(numbers.max())
        if low > self._largest:
            return False
        near = self.ids[(self.ids >= low) & (self.ids <= high) & ~self.removed]
        return bool(np.isin(near, numbers).any())

    def append(self, ids: Int64, norms: Float32 | None = None) -> None:
        """Add rows, with their norms if the table has norms."""
        self._ids.append(ids)
        self._removed.append(np.zeros(len(ids), bool))
        if self._norms is not None and norms is not None:
            self._norms.append(norms)
        self._largest = max(self._largest, int(ids.max(initial=-1)))

    def drop_from(self, first: int) -> None:
        """Mark all rows from number `first` on as removed, and free their ids."""
        self._largest = int(self.ids[:first].max(initial=-1))
        self.ids[first:] = -1
        self.remove(np.arange(first, len(self)))

    def numbers_of(self, ids: npt.ArrayLike) -> Int64:
        """Return the numbers of the rows with the given ids, in ascending order.

        Raises
        ------
        DataError
            The index does not hold an id.
        """
        wanted = np.unique(whole_numbers(ids))
        alive = np.flatnonzero(~self.removed)
        numbers = alive[np.isin(self.ids[alive], wanted)]
        if len(numbers) < len(wanted):
            absent = np.setdiff1d(wanted, self.ids[numbers])
            raise DataError(f"id {absent[0]} is not in the index; give ids that it holds")
        return numbers

    def remove(self, numbers: Int64) -> None:
        """Mark the rows with the given numbers as removed."""
        self.removed[numbers] = True
        self._n_removed += len(numbers)

    def kept(self, numbers: Int64) -> Rows:
        """Return the table of the rows with the given numbers, none of them removed."""
        norms = None if self.norms is None else self.norms[numbers]
        return Rows(self.ids[numbers], np.zeros(len(numbers), bool), norms)
