"""The interface of engines, which do work on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.io.base import Source
from nearfold.scan.scan import Anchors, Scan, ScanSpec

__all__ = ["Engine", "Progress"]

T = TypeVar("T")
R = TypeVar("R")

Progress = tuple[int, Callable[[], Scan]]
"""The number of rows scanned so far, from the first on, and a function that returns the scan of them."""


class Engine(Protocol):
    """Does the work on sources: an implementation for one machine, or for a cluster."""

    @property
    def memory(self) -> int | None:
        """The bytes that work on this machine may take, or None for no limit."""
        ...

    def take(self, source: Source, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers, in ascending order, shape (len(rows), d)."""
        ...

    def scan(
        self,
        source: Source,
        request: ScanSpec,
        anchors: Anchors | None,
        first_row: int,
        start: Scan | None,
        number_from: int = 0,
    ) -> Iterator[Progress]:
        """Scan a source, and yield the progress from time to time.

        Parameters
        ----------
        source : Source
            The rows to scan.
        request : ScanSpec
            What to look for.
        anchors : Anchors or None
            The anchors whose neighbours are searched; None for moments alone.
        first_row : int
            The first row of the source to scan.
        start : Scan or None
            The scan of the rows before it, to which the result is added.
        number_from : int, default=0
            The number of the source's first row.
        """
        ...

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, in order; several are computed at a time."""
        ...
