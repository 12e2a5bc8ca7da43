"""What a file format offers: a source of chunks to read, a sink of chunks to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError

__all__ = ["Chunk", "Format", "Layout", "Sink", "Source", "check_layout"]


class Chunk(NamedTuple):
    """Some rows of a file.

    Parameters
    ----------
    vectors
        Shape (rows, d), any real dtype.
    others
        The file's other columns for these rows (a pyarrow.Table), None where it has none.
    """

    vectors: npt.NDArray[Any]
    others: Any = None


class Layout(NamedTuple):
    """What is known of a file's vectors before they are read."""

    rows: int
    n_features: int
    dtype: np.dtype[Any]
    name: str
    others: Any = None
    """The schema of the other columns (a pyarrow.Schema), None where there are none."""


class Source(Protocol):
    """A file of vectors, opened."""

    path: Path
    layout: Layout

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield all rows in order, at most about `rows` at a time."""
        ...


class Sink(Protocol):
    """A file of vectors being written."""

    def write(self, chunk: Chunk) -> None:
        """Append rows."""
        ...


class Format(Protocol):
    """A module of this package that reads and writes one format."""

    def read(self, path: Path, column: str | None) -> Source:
        """Open for reading; `column` names the vectors where a file holds several."""
        ...

    def write(self, path: str | os.PathLike[str], layout: Layout) -> AbstractContextManager[Sink]:
        """Open for writing exactly `layout.rows` rows; the file appears whole or not at all."""
        ...


def check_layout(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Layout:
    """Return the layout of an array in a file, or refuse it.

    Raises
    ------
    FileError
        It is not a table of real numbers, or has no rows or dimensions.
    """
    if dtype.kind not in "fiu":
        raise FileError(f"{path}: {name} has dtype {dtype}, which holds no real numbers; save it as float32")
    if len(shape) != 2:
        raise FileError(f"{path}: {name} has shape {shape}; vectors are a table of rows and dimensions")
    if min(shape) <= 0:
        raise FileError(f"{path}: {name} is empty, its shape is {shape}")
    return Layout(shape[0], shape[1], dtype, name)
