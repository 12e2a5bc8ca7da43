"""Cutting vectors into shards: pieces of work that a machine can be sent by name."""

from __future__ import annotations

import os
from typing import NamedTuple

from nearfold.io.base import Source

__all__ = ["Shard", "absolute", "plan_shards"]


class Shard(NamedTuple):
    """Some rows of a file.

    Parameters
    ----------
    path, column
        What `open_source` takes, wherever the work is done.
    start, stop
        The rows within the file.
    first_row
        The number of the first of them among all the data.
    """

    path: str
    column: str | None
    start: int
    stop: int
    first_row: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


def absolute(path: str) -> str:
    """Return a path that means the same from another working folder; URLs do already."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100  (a Path would lose what follows ://)


def plan_shards(source: Source, nbytes: int) -> list[Shard]:
    """Cut the files of a source where they can be cut, into shards of about `nbytes` of float32."""
    shards, first_row = [], 0
    for part in source.parts:
        rows = max(1, nbytes // (4 * part.layout.n_features))
        for start, stop in part.pieces(rows):
            shards.append(Shard(absolute(part.path), part.column_name, start, stop, first_row + start))
        first_row += part.layout.rows
    return shards
