"""A folder of files of vectors, which are read as one source in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.errors import FileError
from nearfold.io.base import Chunk, Source
from nearfold.io.columns import columns_as, common_columns

__all__ = ["FolderSource"]


class FolderSource(Source):
    """The concatenation of several sources.

    Parameters
    ----------
    path : str
        The folder, as the user wrote it.
    parts : sequence of Source
        Its opened files, in order; at least one.

    Raises
    ------
    FileError
        The files differ in their numbers of dimensions.
    """

    def __init__(self, path: str, parts: Sequence[Source]) -> None:
        self.path = path
        self._parts = tuple(parts)
        first = parts[0].layout
        for part in parts:
            if part.layout.n_features != first.n_features:
                raise FileError(
                    f"{part.path}: has {part.layout.n_features} dimensions where {parts[0].path} has "
                    f"{first.n_features}; a folder must hold vectors of one kind"
                )
        self._starts = np.cumsum([0, *(part.layout.rows for part in parts)])
        dtype = np.result_type(*{part.layout.dtype for part in parts})
        self.layout = first._replace(rows=int(self._starts[-1]), dtype=dtype, others=common_columns(parts))

    @property
    def parts(self) -> Sequence[Source]:
        """The files, in order."""
        return self._parts

    @property
    def random_access(self) -> bool:  # type: ignore[override]
        """Whether single rows can be read from every file."""
        return all(part.random_access for part in self._parts)

    def _overlapping(self, start: int, stop: int) -> Iterator[tuple[Source, int, int, int]]:
        """Yield each file that overlaps a range of rows, its first row, and the range within the file."""
        for part, (low, high) in zip(self._parts, pairwise(self._starts.tolist()), strict=True):
            if low < stop and high > start:
                yield part, low, max(start, low) - low, min(stop, high) - low

    def _chunks(self, rows: int, start: int, stop: int, others: bool) -> Iterator[Chunk]:
        """Yield the rows of one file after another, with the common columns of all files."""
        schema = self.layout.others if others else None
        for part, _, low, high in self._overlapping(start, stop):
            for chunk in part.chunks(rows, low, high, others=others):
                if schema is None:
                    yield chunk
                else:
                    columns = columns_as(chunk.others, len(chunk.vectors), schema, part.path)
                    yield Chunk(chunk.vectors, columns)

    def take(self, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers, taken file by file."""
        taken = np.empty((len(rows), self.layout.n_features), self.layout.dtype)
        for part, (low, high) in zip(self._parts, pairwise(self._starts.tolist()), strict=True):
            first, last = np.searchsorted(rows, [low, high])
            if last > first:
                taken[first:last] = part.take(rows[first:last] - low)
        return taken
