"""Arrays to which rows can be appended."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Growing"]

T = TypeVar("T", bound=np.generic)


class Growing(Generic[T]):
    """An array to which rows can be appended, whose memory doubles when it is full.

    Each row is thus copied only a few times, however small the additions are. Views that were taken before
    an addition stay valid.

    Parameters
    ----------
    array : ndarray of shape (n, ...)
        The first rows, which are not copied before more are appended.
    """

    def __init__(self, array: npt.NDArray[T]) -> None:
        self._memory, self._rows = array, len(array)

    @property
    def array(self) -> npt.NDArray[T]:
        """A view of the present rows."""
        return self._memory[: self._rows]

    def append(self, rows: npt.NDArray[T]) -> None:
        """Append rows."""
        total = self._rows + len(rows)
        if total > len(self._memory):
            memory = np.empty((max(total, 2 * self._rows), *rows.shape[1:]), self._memory.dtype)
            memory[: self._rows] = self.array
            self._memory = memory
        self._memory[self._rows : total] = rows
        self._rows = total
