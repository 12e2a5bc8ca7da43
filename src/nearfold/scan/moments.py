"""First and second moments of rows, which are computed in one pass and can be merged.

They are all that PCA, the exact RAE and NearFold's starting point need from the data.
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
"""The number of dimensions beyond which axes that training starts from are computed in float32, and only as
many as needed. This takes a third of the time and of the memory."""

# Sums of squares below this may have lost digits to underflow in float32.
_TINY_SQUARE = 1e-28

# The bytes of rows that are multiplied at a time: enough for the product to run at full speed.
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums of 1, x and x x^T over rows x.

    Products of float32 numbers are exact in float64, so sums over different chunks of the same rows differ
    only by the rounding of float64 additions.

    Parameters
    ----------
    count : int
        The number of rows n.
    total : ndarray of shape (d,), float64
        The sum of the rows.
    second : ndarray of shape (d, d), float64
        The sum of their outer products, a symmetric matrix.
    """

    count: int
    total: Float64
    second: Float64

    @classmethod
    def of(cls, X: Float32, *, products: Precision = np.float64) -> Moments:
        """Return the moments of the rows of one array.

        Parameters
        ----------
        X : ndarray of shape (n, d), float32
            The rows.
        products : {numpy.float64, numpy.float32}, default=numpy.float64
            The dtype of products; see `stream`.

        Returns
        -------
        Moments

        Raises
        ------
        DataError
            A row is not finite, or there is no row.
        """
        return cls.stream([X], products=products)

    @classmethod
    def stream(cls, chunks: Iterable[Float32], *, products: Precision = np.float64) -> Moments:
        """Return the moments of rows that come in chunks, in one pass.

        Parameters
        ----------
        chunks : iterable of ndarrays of shape (n_i, d), float32
            The rows.
        products : {numpy.float64, numpy.float32}, default=numpy.float64
            The dtype of products within a few megabytes of rows, which are always summed up in float64.
            float32 is twice as fast, with an error of about 1e-7 of the largest entry. This suffices for
            uncentred axes, but not for the covariance of rows far from the origin.

        Returns
        -------
        Moments

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
        """Return the moments of the union of both sets of rows."""
        if len(self.total) != len(other.total):
            raise DataError(f"moments of {len(self.total)} and {len(other.total)} dimensions can't be merged")
        return Moments(self.count + other.count, self.total + other.total, self.second + other.second)

    @property
    def n_features(self) -> int:
        """The number d of dimensions."""
        return len(self.total)

    @property
    def mean(self) -> Float64:
        """The mean of the rows, shape (d,)."""
        return self.total / self.count

    @property
    def uncentered(self) -> Float64:
        """The uncentred second moments E[x x^T], shape (d, d)."""
        return self.second / self.count

    @property
    def covariance(self) -> Float64:
        """The covariance E[(x - mean)(x - mean)^T], shape (d, d)."""
        return self.uncentered - np.outer(self.mean, self.mean)


class RunningMoments:
    """Moments that are summed up in place.

    Parameters
    ----------
    n_features : int
        The number of dimensions d.
    products : {numpy.float64, numpy.float32}
        The dtype of products; see `Moments.stream`.
    """

    def __init__(self, n_features: int, products: Precision) -> None:
        self.count = 0
        self.total = np.zeros(n_features)
        self.second = np.zeros((n_features, n_features))
        self._products = products

    def add(self, rows: Float32, raw: Float32 | None = None, name: str = "X", first_row: int = 0) -> None:
        """Add rows.

        Parameters
        ----------
        rows : ndarray of shape (n, d), float32
            The rows.
        raw : ndarray of shape (n, d), float32, optional
            The rows before any preparation, which errors refer to. The default is `rows`.
        name : str, default="X"
            The name of the rows in messages.
        first_row : int, default=0
            The number of the first row in messages.

        Raises
        ------
        DataError
            A row is not finite.
        """
        step = chunk_rows(rows.shape[1], _CHUNK_BYTES)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            sums, outer = _sums(piece, self._products)
            # NaN and infinity persist in the diagonal, so d numbers are checked instead of n d.
            squares = outer.diagonal()
            if not np.isfinite(squares).all():
                check_finite((rows if raw is None else raw)[start : start + step], name, first_row + start)
                sums, outer = _sums(piece, np.float64)
            elif self._products is np.float32 and squares.max(initial=0.0) < _TINY_SQUARE:
                # Products underflow in float32, or nearly.
                sums, outer = _sums(piece, np.float64)
            self.total += sums
            self.second += outer
        self.count += len(rows)

    def result(self) -> Moments:
        """Return the moments of all rows added so far."""
        return Moments(self.count, self.total.copy(), self.second.copy())


def summed(parts: Sequence[RunningMoments], start: Moments | None = None) -> Moments:
    """Return the sum of the moments of all parts and of `start`, at least one of which is given.

    The parts are added to a single copy, as with many dimensions each takes as much memory as the rest of a
    scan.
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
    """Return the sum of rows and the sum of their outer products."""
    values: npt.NDArray[Any] = rows.astype(precision, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        # A product with ones is the sum, several times faster than sum(axis=0).
        ones: npt.NDArray[Any] = np.ones(len(values), precision)
        return ones @ values, values.T @ values
