"""The engine of this machine, which works with threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy.typing as npt

from nearfold._utils.arrays import Int64, check_metric
from nearfold._utils.threads import blas_threads, in_order
from nearfold.errors import ParameterError
from nearfold.io.base import Source
from nearfold.io.vectors import located_chunks
from nearfold.scan.budget import chunks_held, least_chunk, scan_bytes
from nearfold.scan.engine import Progress
from nearfold.scan.scan import Anchors, Scan, ScanSpec
from nearfold.scan.scanner import Scanner

__all__ = ["LocalEngine"]

T = TypeVar("T")
R = TypeVar("R")

_MAX_CHUNK = 16 << 20
_LEAST_ROWS = 256


class LocalEngine:
    """The engine of this machine, which works with threads of this process.

    Parameters
    ----------
    memory : int or None
        The bytes that the process may take, which limit the size of chunks. None if the rows are in memory
        already.
    """

    def __init__(self, memory: int | None) -> None:
        self._memory = memory

    @property
    def memory(self) -> int | None:
        """The bytes that the process may take, or None for no limit."""
        return self._memory

    def _chunk_bytes(self, rows: int, n_features: int, anchors: Anchors | None) -> int:
        """Return the bytes of a chunk that the budget allows beside what a scan holds, or refuse it."""
        # Chunks of this size or less are enough for all threads to get some.
        shared = 4 * n_features * max(_LEAST_ROWS, -(-rows // (4 * blas_threads())))
        if self._memory is None:
            return min(_MAX_CHUNK, shared)
        n_anchors, k, metric = 0, 0, check_metric("cosine")
        if anchors is not None:
            n_anchors, k, metric = len(anchors.vectors), anchors.k, anchors.metric
        held = scan_bytes(rows, n_features, n_anchors, k, blas_threads(), metric)
        if held > self._memory:
            needed = -(-held // 1_000_000)
            raise ParameterError(
                f"memory={self._memory / 1e6:.0f}MB is too little for this scan, which needs {needed}MB; "
                f"allow more, or ask for fewer anchors or neighbours"
            )
        more = (self._memory - held) // chunks_held(blas_threads())
        return min(_MAX_CHUNK, shared, least_chunk(n_features) + more)

    def take(self, source: Source, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers."""
        return source.take(rows)

    def scan(
        self,
        source: Source,
        request: ScanSpec,
        anchors: Anchors | None,
        first_row: int,
        start: Scan | None,
        number_from: int = 0,
    ) -> Iterator[Progress]:
        """Scan chunk by chunk, while the next chunk is read; see `Engine.scan`."""
        # From an array the vectors of neighbours can be taken after the scan.
        scanner = Scanner(request, anchors, start=start, carry=not source.in_memory)
        with scanner:
            rows = number_from + source.layout.rows
            nbytes = self._chunk_bytes(rows, source.layout.n_features, anchors)
            for chunk, path, row in located_chunks(source, first_row, nbytes=nbytes, finite=False):
                scanner.see(chunk.vectors, number_from + first_row, path, row)
                first_row += len(chunk.vectors)
                yield first_row, scanner.result

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, in order, with one more thread than cores."""
        # While one thread waits for the disk, the others compute.
        yield from in_order(function, items, blas_threads() + 1)
