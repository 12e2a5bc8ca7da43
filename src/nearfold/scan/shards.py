"""Shards of sources: ranges of rows that can be sent to another machine as the name of a file."""

from __future__ import annotations

import os
from typing import NamedTuple

from nearfold.io.base import Source

__all__ = ["Shard", "absolute", "plan_shards"]


class Shard(NamedTuple):
    """A range of rows of a file.

    Attributes
    ----------
    path : str
        The path or URL of the file, as any machine can open it.
    column : str or None
        The name of the column of vectors, if the user gave one.
    start, stop : int
        The first row within the file, and one past the last.
    first_row : int
        The number of the first row in the whole data.
    """

    path: str
    column: str | None
    start: int
    stop: int
    first_row: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


def absolute(path: str) -> str:
    """Return the absolute path of a file or folder, and a URL as it is."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  (a Path would lose what follows ://)


def plan_shards(source: Source, nbytes: int) -> list[Shard]:
    """Return the shards of a source, of about `nbytes` bytes of float32 each, cut where files allow it."""
    shards, first_row = [], 0
    for part in source.parts:
        rows = max(1, nbytes // (4 * part.layout.n_features))
        for start, stop in part.pieces(rows):
            shards.append(Shard(absolute(part.path), part.column_name, start, stop, first_row + start))
        first_row += part.layout.rows
    return shards
