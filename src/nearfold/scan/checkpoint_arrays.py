"""The arrays of a scan's file, which are checked against each other before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.errors import DataError
from nearfold.scan.copies import NO_MARK, row_marks
from nearfold.scan.moments import Moments
from nearfold.scan.neighbors import Neighbors
from nearfold.scan.scan import Anchors, Kept, Scan, ScanSpec, numbers_of

__all__ = ["ScanArrays"]

Array = npt.NDArray[Any]

# The largest relative difference by rounding between numbers that are equal in exact arithmetic.
_ROUNDING = 1e-3


class ScanArrays:
    """The anchors, the scan and the sample of rows that the arrays of a file hold.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        The arrays that `ScanCheckpoint.save` wrote, by name.
    request : ScanSpec
        What the scan looked for.
    k : int
        The number of neighbours of each anchor.
    rows, done : int
        The number of all rows, and of those scanned.
    queries : bool, default=False
        Whether some anchors are queries.

    Raises
    ------
    DataError
        An array is missing, unknown, of another dtype or shape, or contradicts the others.
    """

    def __init__(
        self,
        tensors: Mapping[str, Array],
        request: ScanSpec,
        k: int,
        rows: int,
        done: int,
        *,
        queries: bool = False,
    ) -> None:
        self._left = dict(tensors)
        self._request, self._rows, self._done, self._queries = request, rows, done, queries
        if done > rows:
            raise DataError(f"{done} of {rows} rows are scanned")
        if not {"anchors", "sample", "total"} & tensors.keys():
            raise DataError("it has neither anchors nor a sample")
        first = next(tensors[name] for name in ("anchors", "sample", "total") if name in tensors)
        self._width = first.shape[-1] if first.ndim else 0
        self.anchors = self._read_anchors(k) if "anchors" in self._left else None
        if self.anchors is None and (k or request.n_anchors):
            raise DataError("its anchors are missing")
        self.scan = self._read_scan() if "count" in self._left else None
        if (self.scan is None) != (done == 0):
            raise DataError(f"{done} rows are scanned, and their results are {'' if done else 'not '}missing")
        self.sample = self._read_rows("sample_rows", "sample") if "sample" in self._left else None
        if self._left:
            raise DataError(f"it has arrays that don't belong to it: {', '.join(sorted(self._left))}")

    def _take(self, name: str, dtype: type, *shape: int | None) -> Array:
        """Return an array, or refuse it if its dtype or shape differs or it is not finite."""
        array = self._left.pop(name, None)
        if array is None:
            raise DataError(f"{name} is missing")
        fits = array.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            wanted = tuple("any" if size is None else size for size in shape)
            raise DataError(
                f"{name} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {wanted}"
            )
        if name != "scores" and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name} holds NaN or infinity")
        return array

    def _numbers(self, name: str) -> Array:
        """Return row numbers, after a check that they are in ascending order and below the number of rows."""
        numbers = self._take(name, np.int64, None)
        if len(numbers) and (numbers[0] < 0 or numbers[-1] >= self._rows or (np.diff(numbers) <= 0).any()):
            raise DataError(f"{name} are not ascending numbers of the {self._rows} rows")
        return numbers

    def _read_rows(self, numbers: str, vectors: str) -> Kept:
        ids = self._numbers(numbers)
        return Kept(ids, self._take(vectors, np.float32, len(ids), self._width))

    def _read_anchors(self, k: int) -> Anchors:
        request = self._request
        vectors = self._take("anchors", np.float32, None, self._width)
        if self._queries and "anchor_rows" not in self._left:
            raise DataError("its anchors are queries alone, as earlier versions scanned for; fit again")
        numbers = self._numbers("anchor_rows")
        n_queries = len(vectors) - len(numbers)
        if not len(numbers) or (n_queries < 1 if self._queries else n_queries):
            raise DataError(f"it has {len(vectors)} anchors, and numbers of other ones")
        if max(len(numbers), n_queries) > request.n_anchors or not 1 <= k <= self._rows:
            raise DataError(
                f"it has {len(vectors)} anchors of {k} rows each where {request.n_anchors} were asked for, "
                f"among {self._rows} rows"
            )
        shift = self._take("shift", np.float32, self._width) if request.metric == "l2" else None
        self._check_norms("anchors", vectors)
        return Anchors(vectors, numbers, k, request.metric, shift)

    def _check_norms(self, name: str, vectors: Array) -> None:
        """Refuse rows that the scan should have scaled to norm 1 and that have another norm."""
        if not self._request.normalize or not len(vectors):
            return
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        if np.abs(squares - 1).max() > _ROUNDING:
            raise DataError(f"{name} has rows whose norm is not 1")

    def _read_scan(self) -> Scan:
        moments = self._read_moments()
        if self.anchors is None:
            return Scan(self._done, moments)
        neighbors = self._read_neighbors(self.anchors)
        kept = self._read_rows("kept_ids", "kept") if "kept" in self._left else None
        needed = numbers_of(neighbors)
        if kept is not None:
            self._check_norms("kept", kept.vectors)
            if not np.isin(needed, kept.ids).all():
                raise DataError("rows that are neighbours are missing from kept")
        elif self._done == self._rows and len(needed):
            raise DataError("the rows that are neighbours are missing")
        neighbors = neighbors._replace(marks=self._read_marks(neighbors, kept))
        return Scan(self._done, moments, neighbors, kept, self.anchors.shift)

    def _read_marks(self, neighbors: Neighbors, kept: Kept | None) -> Array:
        """Return the marks of the neighbours, computed from the kept rows or, without those, as written."""
        known = neighbors.ids >= 0
        if kept is not None:
            marks = np.full(neighbors.ids.shape, NO_MARK, np.int64)
            marks[known] = row_marks(kept.vectors)[np.searchsorted(kept.ids, neighbors.ids[known])]
            return marks
        if "marks" not in self._left:
            # Scans of earlier versions have no marks, so each row counts as distinct.
            return neighbors.ids + 1
        marks = self._take("marks", np.int64, *neighbors.ids.shape)
        if ((marks != NO_MARK) != known).any():
            raise DataError("marks are not those of the neighbours")
        return marks

    def _read_moments(self) -> Moments:
        d = self._width
        count = int(self._take("count", np.int64, 1)[0])
        total, second = self._take("total", np.float64, d), self._take("second", np.float64, d, d)
        if not 0 < count <= self._done:
            raise DataError(f"its moments are of {count} rows where {self._done} are scanned")
        squares = second.diagonal()
        if (squares < 0).any():
            raise DataError("second has a negative sum of squares")
        # Rows are compared one at a time, as a transposed copy would be as large as the matrix.
        largest = np.sqrt(squares.max(initial=0.0)) * np.sqrt(squares)
        for i, row in enumerate(second):
            if (np.abs(row - second[:, i]) > _ROUNDING * largest[i] + 1e-300).any():
                raise DataError("second is not symmetric")
        if (np.abs(total) > np.sqrt(count * squares) * (1 + _ROUNDING) + 1e-300).any():
            raise DataError("total and second are not sums over the same rows")
        if self._request.normalize and abs(squares.sum() / count - 1) > _ROUNDING:
            raise DataError("second is not the sum over rows of norm 1")
        return Moments(count, total, second)

    def _read_neighbors(self, anchors: Anchors) -> Neighbors:
        shape = len(anchors.vectors), anchors.k
        scores, ids = self._take("scores", np.float32, *shape), self._take("ids", np.int64, *shape)
        known = ids >= 0
        if (ids < -1).any() or (ids >= self._rows).any():
            raise DataError(f"ids holds numbers of none of the {self._rows} rows")
        if not np.isfinite(scores[known]).all() or not np.isneginf(scores[~known]).all():
            raise DataError("scores are not finite where ids has a row, or finite where it has none")
        ordered = np.sort(ids, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise DataError("ids has a row twice among one anchor's neighbours")
        return Neighbors(scores, ids)
