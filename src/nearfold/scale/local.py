"""The engine of this machine: threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nearfold.errors import ParameterError
from nearfold.io.base import Source
from nearfold.io.vectors import located_chunks
from nearfold.scale.engine import Progress
from nearfold.scan import Anchors, Request, Scan
from nearfold.scanner import Scanner
from nearfold.threads import PENDING, blas_threads, in_order

__all__ = ["LocalEngine"]

T = TypeVar("T")
R = TypeVar("R")
Int64 = npt.NDArray[np.int64]

# What Python and the libraries take before any row is read.
_INTERPRETER = 250 << 20
# Chunks in memory at a time: for each thread those waiting and a prepared copy, and one being read.
_CHUNKS_A_THREAD = PENDING + 1
_MIN_CHUNK, _MAX_CHUNK = 1 << 20, 16 << 20


class LocalEngine:
    """Threads of this process.

    Parameters
    ----------
    memory
        Bytes that the process may take; chunks are cut to it.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory

    def _chunk_bytes(self, anchors: Anchors | None) -> int:
        """Return how large chunks may be beside the neighbours carried along, or refuse the budget."""
        blocks = 0
        if anchors is not None:
            # Rows carried along reach twice those needed, and are then copied once.
            blocks = int(3 * len(anchors.vectors) * anchors.k * anchors.vectors.shape[1] * 4)
        chunks = _CHUNKS_A_THREAD * blas_threads() + 1
        left = self._memory - _INTERPRETER - blocks
        if left < chunks * _MIN_CHUNK:
            needed = -(-(_INTERPRETER + blocks + chunks * _MIN_CHUNK) // 1_000_000)
            raise ParameterError(
                f"memory={self._memory / 1e6:.0f}MB is too little for this scan, which needs {needed}MB; "
                f"allow more, or ask for fewer anchors or neighbours"
            )
        return min(_MAX_CHUNK, left // chunks)

    def take(self, source: Source, column: str | None, rows: Int64) -> npt.NDArray[Any]:  # noqa: ARG002
        """Return the rows of these numbers."""
        return source.take(rows)

    def scan(
        self,
        source: Source,
        column: str | None,  # noqa: ARG002
        request: Request,
        anchors: Anchors | None,
        first_row: int,
        start: Scan | None,
        number_from: int = 0,
    ) -> Iterator[Progress]:
        """Scan chunk by chunk, the next being read meanwhile."""
        scanner = Scanner(request, anchors, start=start)
        with scanner:
            nbytes = self._chunk_bytes(anchors)
            for chunk, path, row in located_chunks(source, first_row, nbytes=nbytes, finite=False):
                scanner.see(chunk.vectors, number_from + first_row, path, row)
                first_row += len(chunk.vectors)
                yield first_row, scanner.result

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Run one more at a time than there are cores: while it waits for the disk, others compute."""
        yield from in_order(function, items, blas_threads() + 1)
