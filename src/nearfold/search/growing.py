"""Arrays that grow at their end."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Growing"]

T = TypeVar("T", bound=np.generic)


class Growing(Generic[T]):
    """An array that rows are appended to, whose memory doubles when it is full.

    Each row is thus copied a few times at most, however small the additions are. An array that was seen
    before an addition keeps its rows.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        The first rows. They are copied when more rows come, and not before.
    """

    def __init__(self, array: npt.NDArray[T]) -> None:
        self._memory, self._rows = array, len(array)

    @property
    def array(self) -> npt.NDArray[T]:
        """The rows that are there, a view."""
        return self._memory[: self._rows]

    def append(self, rows: npt.NDArray[T]) -> None:
        """Add rows behind the others."""
        total = self._rows + len(rows)
        if total > len(self._memory):
            memory = np.empty((max(total, 2 * self._rows), *rows.shape[1:]), self._memory.dtype)
            memory[: self._rows] = self.array
            self._memory = memory
        self._memory[self._rows : total] = rows
        self._rows = total
