"""First and second moments of rows, gathered in one pass and mergeable.

They are all that PCA, the exact RAE and NearFold's starting point need to know of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, check_finite, chunk_rows
from nearfold.errors import DataError

__all__ = ["WIDE", "Moments", "Precision", "RunningMoments", "summed"]

Precision: TypeAlias = type[np.float32] | type[np.float64]

WIDE = 1024
"""Dimensions beyond which a matrix of moments is decomposed in float32, and for some of its axes alone, where
those are a start for training: in a third of the time, and of the memory."""

# Sums of squares that may have lost digits to the lower end of float32's range are below this.
_TINY_SQUARE = 1e-28

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
    total: Float64
    second: Float64

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
        running = None
        for chunk in chunks:
            running = running or RunningMoments(chunk.shape[1], products)
            if chunk.shape[1] != len(running.total):
                raise DataError(
                    f"a chunk has {chunk.shape[1]} dimensions where earlier ones had {len(running.total)}"
                )
            running.add(chunk, first_row=running.count)
        if running is None or running.count == 0:
            raise DataError("no rows: moments need at least one")
        return running.result()

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
    def mean(self) -> Float64:
        """The mean row, shape (d,)."""
        return self.total / self.count

    @property
    def uncentered(self) -> Float64:
        """E[x x^T], shape (d, d)."""
        return self.second / self.count

    @property
    def covariance(self) -> Float64:
        """E[(x - mean)(x - mean)^T], shape (d, d)."""
        return self.uncentered - np.outer(self.mean, self.mean)


class RunningMoments:
    """Moments being summed, in place.

    Parameters
    ----------
    n_features
        d.
    products
        As for `Moments.stream`.
    """

    def __init__(self, n_features: int, products: Precision) -> None:
        self.count = 0
        self.total = np.zeros(n_features)
        self.second = np.zeros((n_features, n_features))
        self._products = products

    def add(self, rows: Float32, raw: Float32 | None = None, name: str = "X", first_row: int = 0) -> None:
        """Add rows, or refuse the first of them that is not finite.

        Parameters
        ----------
        rows
            Shape (n, d).
        raw
            What they were before any preparation, where that is what an error should look at.
        name, first_row
            What an error calls them, and the number of the first.
        """
        step = chunk_rows(rows.shape[1], _CHUNK_BYTES)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            sums, outer = _sums(piece, self._products)
            # NaN and infinity stay in the diagonal, which costs d looks instead of n d.
            squares = outer.diagonal()
            if not np.isfinite(squares).all():
                check_finite((rows if raw is None else raw)[start : start + step], name, first_row + start)
                sums, outer = _sums(piece, np.float64)
            elif self._products is np.float32 and squares.max(initial=0.0) < _TINY_SQUARE:
                # Products vanish, or soon do.
                sums, outer = _sums(piece, np.float64)
            self.total += sums
            self.second += outer
        self.count += len(rows)

    def result(self) -> Moments:
        """Return the moments of all rows added."""
        return Moments(self.count, self.total.copy(), self.second.copy())


def summed(parts: Sequence[RunningMoments], start: Moments | None = None) -> Moments:
    """Return the moments of all rows of some parts, behind those of a start; at least one is given.

    The sum is one matrix, however many parts there are: each is as large as all the rest of a scan of
    wide rows.
    """
    first = (
        parts[0].result() if start is None else Moments(start.count, start.total.copy(), start.second.copy())
    )
    count = first.count
    for part in parts[1:] if start is None else parts:
        count += part.count
        first.total[...] += part.total
        first.second[...] += part.second
    return Moments(count, first.total, first.second)


def _sums(rows: Float32, precision: Precision) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the sum of some rows and of their outer products."""
    values: npt.NDArray[Any] = rows.astype(precision, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        # A product with ones is the sum, several times faster than sum(axis=0).
        ones: npt.NDArray[Any] = np.ones(len(values), precision)
        return ones @ values, values.T @ values
