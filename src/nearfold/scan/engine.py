"""What the engines have in common, that of one machine and that of a cluster."""

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
"""How many rows from the first on are scanned, and what gives the scan of them."""


class Engine(Protocol):
    """Does work on shards."""

    @property
    def memory(self) -> int | None:
        """The bytes that work on this machine may take; None where others do it."""
        ...

    def take(self, source: Source, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers (rising), shape (len(rows), d)."""
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
        """Scan the rows from `first_row` on, behind what `start` holds; yield now and then how far it is.

        The source's first row has number `number_from`.
        """
        ...

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, in order; several are under way at a time."""
        ...
