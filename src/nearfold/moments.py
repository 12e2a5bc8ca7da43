"""First and second moments of rows, gathered in one pass and mergeable.

They are all that PCA, the exact RAE and NearFold's starting point need to know of the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, check_finite, chunk_rows
from nearfold.errors import DataError

__all__ = ["Moments"]

Precision: TypeAlias = type[np.float32] | type[np.float64]

# Rows multiplied at a time: enough for the product to run at full speed.
_CHUNK_BYTES = 16 << 20


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
    def of(cls, X: Float32, *, products: Precision = np.float64) -> Moments:
        """Return the moments of the rows of one float32 array of shape (n, d); see `stream`."""
        return cls.stream([X], products=products)

    @classmethod
    def stream(cls, chunks: Iterable[Float32], *, products: Precision = np.float64) -> Moments:
        """Return the moments of rows that come in chunks of shape (n_i, d), in one pass.

        Parameters
        ----------
        chunks
            float32 arrays of one width.
        products
            What products within some megabytes of rows are computed in; the sums over those are float64
            always. float32 is twice as fast and leaves a relative error of some 1e-7 of the
            largest entry: enough for uncentred axes, not for a covariance far from the origin.

        Raises
        ------
        DataError
            A row is not finite, chunks differ in d, or there is no row.
        """
        count = 0
        total = second = None
        for chunk in chunks:
            if total is None or second is None:
                d = chunk.shape[1]
                total, second = np.zeros(d), np.zeros((d, d))
            if chunk.shape[1] != total.shape[0]:
                raise DataError(
                    f"a chunk has {chunk.shape[1]} dimensions where earlier ones had {len(total)}"
                )
            step = chunk_rows(chunk.shape[1], _CHUNK_BYTES)
            for start in range(0, len(chunk), step):
                piece = chunk[start : start + step]
                sums, outer = _products(piece, products)
                # NaN and infinity stay in the diagonal, which costs d looks instead of n d.
                if not np.isfinite(outer.diagonal()).all():
                    check_finite(piece, "X", count + start)
                    sums, outer = _products(piece, np.float64)
                total += sums
                second += outer
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


def _products(rows: Float32, precision: Precision) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the sum of some rows and of their outer products."""
    values: npt.NDArray[Any] = rows.astype(precision, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        # A product with ones is the sum, several times faster than sum(axis=0).
        ones: npt.NDArray[Any] = np.ones(len(values), precision)
        return ones @ values, values.T @ values
