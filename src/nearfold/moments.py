"""First and second moments of rows, gathered in one pass and mergeable.

They are all that PCA, the exact RAE and NearFold's starting point need to know of the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, check_finite
from nearfold.errors import DataError

__all__ = ["Moments"]

# Rows converted to float64 at a time: large enough that the product runs at full speed.
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums over rows x of 1, x and x x^T.

    Products of float32 numbers are exact in float64, so however the rows are cut into chunks
    the sums differ only by the rounding of float64 additions.

    Parameters
    ----------
    count
        The number of rows n.
    total
        Sum of the rows, shape (d,), float64.
    second
        Sum of their outer products, shape (d, d), float64, symmetric.
    """

    count: int
    total: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]

    @classmethod
    def of(cls, X: Float32) -> Moments:
        """Return the moments of the rows of one float32 array of shape (n, d).

        Raises
        ------
        DataError
            A row is not finite, or X has no rows.
        """
        return cls.stream([X])

    @classmethod
    def stream(cls, chunks: Iterable[Float32]) -> Moments:
        """Return the moments of rows that come in chunks of shape (n_i, d), in one pass.

        Raises
        ------
        DataError
            A row is not finite, chunks differ in d, or there is no row.
        """
        count = 0
        total = second = buffer = None
        for chunk in chunks:
            if total is None or second is None or buffer is None:
                d = chunk.shape[1]
                total, second, buffer = np.zeros(d), np.zeros((d, d)), np.empty((_ROWS, d))
            if chunk.shape[1] != total.shape[0]:
                raise DataError(
                    f"a chunk has {chunk.shape[1]} dimensions where earlier ones had {len(total)}"
                )
            for start in range(0, len(chunk), _ROWS):
                piece = chunk[start : start + _ROWS]
                rows = buffer[: len(piece)]
                rows[...] = piece
                with np.errstate(invalid="ignore", over="ignore"):
                    total += rows.sum(axis=0)
                    second += rows.T @ rows
                # NaN and infinity stay in the diagonal, which costs d looks instead of n d.
                if not np.isfinite(second.diagonal()).all():
                    check_finite(piece, "X", count + start)
            count += len(chunk)
        if count == 0 or total is None or second is None:
            raise DataError("no rows: moments need at least one")
        return cls(count, total, second)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        if len(self.total) != len(other.total):
            raise DataError(f"moments of {len(self.total)} and {len(other.total)} dimensions can't be merged")
        return Moments(self.count + other.count, self.total + other.total, self.second + other.second)

    @property
    def n_features(self) -> int:
        """The number d of dimensions."""
        return len(self.total)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean row, shape (d,)."""
        return self.total / self.count

    @property
    def uncentered(self) -> npt.NDArray[np.float64]:
        """E[x x^T], shape (d, d)."""
        return self.second / self.count

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """E[(x - mean)(x - mean)^T], shape (d, d)."""
        return self.uncentered - np.outer(self.mean, self.mean)
