"""Where full-precision vectors come from when candidates are put in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32
from nearfold.errors import DataError, FileError
from nearfold.io.base import Source
from nearfold.io.vectors import open_source

__all__ = ["Fetch", "FullVectors", "Segment"]

Int64 = npt.NDArray[np.int64]

Fetch: TypeAlias = Callable[[Int64], npt.ArrayLike]
"""Returns the vectors of the ids given, shape (n, d), in their order."""


class Segment(NamedTuple):
    """Full vectors that were added together.

    Parameters
    ----------
    rows
        How many.
    array
        The vectors, shape (rows, d), in memory or memory-mapped; None where a source reads them.
    source
        An open file that single rows can be read from.
    path
        Where they are on disk; None for an array in memory, which `save` writes into the index's folder.
    """

    rows: int
    array: npt.NDArray[Any] | None
    source: Source | None = None
    path: str | None = None

    @classmethod
    def of_file(cls, path: str) -> Segment:
        """Open a file of vectors: memory-mapped where it is .npy, else row by row.

        Raises
        ------
        FileError
            It can't be read, or its format has no single rows.
        """
        source = open_source(path)
        if Path(path).suffix == ".npy":
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise FileError(f"{path}: can't be memory-mapped: {error}") from error
            return cls(len(array), array, path=path)
        if not source.random_access:
            raise FileError(
                f"{path}: single rows can't be read from this format; full vectors need .npy, .fvecs, "
                f"HDF5 or Lance, or a function that fetches them"
            )
        return cls(source.layout.rows, None, source, path)

    def first(self, rows: int) -> Segment:
        """Return the first rows alone."""
        if rows == self.rows:
            return self
        return self._replace(rows=rows, array=None if self.array is None else self.array[:rows])

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return rows by number."""
        if self.array is not None:
            return self.array[rows]
        assert self.source is not None
        order = np.argsort(rows, kind="stable")
        taken = self.source.take(rows[order])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return taken[back]


class FullVectors:
    """Full vectors by row number: segments one behind another, or a function of ids.

    Parameters
    ----------
    n_features
        d.
    segments
        In the order added.
    fetch
        Asked for ids, in place of all segments.
    rows
        Which of the segments' rows are still wanted, by number; None for all.
    """

    def __init__(
        self, n_features: int, segments: list[Segment], fetch: Fetch | None = None, rows: Int64 | None = None
    ) -> None:
        self.n_features, self.segments, self.fetch, self.rows = n_features, segments, fetch, rows

    def append(self, segment: Segment) -> None:
        """Add vectors behind the others."""
        if self.rows is not None:
            first = sum(held.rows for held in self.segments)
            self.rows = np.concatenate([self.rows, np.arange(first, first + segment.rows)])
        self.segments.append(segment)

    def keep(self, rows: Int64) -> None:
        """Forget all rows but some, which are numbered anew in the order given."""
        self.rows = rows if self.rows is None else self.rows[rows]

    @property
    def lone_array(self) -> Float32 | None:
        """The vectors, where they are one float32 array that faiss can read rows of itself."""
        if self.fetch is None and self.rows is None and len(self.segments) == 1:
            array = self.segments[0].array
            if array is not None and array.dtype == np.float32 and array.flags.c_contiguous:
                return array
        return None

    def take(self, rows: Int64, ids: Int64) -> Float32:
        """Return the vectors of some rows, whose ids are `ids`: shape (n, d), float32.

        Raises
        ------
        DataError
            The function that fetches them returned something else.
        """
        if self.fetch is not None:
            fetched = np.asarray(self.fetch(ids), np.float32)
            if fetched.shape != (len(ids), self.n_features):
                raise DataError(
                    f"fetch returned shape {fetched.shape} for {len(ids)} ids; it must return one vector of "
                    f"{self.n_features} dimensions for each"
                )
            return fetched
        if self.rows is not None:
            rows = self.rows[rows]
        if len(self.segments) == 1:
            return np.asarray(self.segments[0].take(rows), np.float32)
        out = np.empty((len(rows), self.n_features), np.float32)
        first = 0
        for segment in self.segments:
            inside = np.flatnonzero((rows >= first) & (rows < first + segment.rows))
            if len(inside):
                out[inside] = segment.take(rows[inside] - first)
            first += segment.rows
        return out
