"""The engine of a Dask cluster, whose workers open the files of their shards by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold._utils.extras import import_extra
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import Source
from nearfold.io.vectors import checked_chunks, open_source
from nearfold.scan.engine import Progress
from nearfold.scan.scan import Anchors, Scan, ScanSpec
from nearfold.scan.scanner import Scanner
from nearfold.scan.shards import Shard, plan_shards

__all__ = ["DaskEngine"]

T = TypeVar("T")
R = TypeVar("R")

# The bytes of a shard, large against the moments that are sent back.
_SHARD_BYTES = 256 << 20
# The number of tasks that are sent ahead for each thread of the workers.
_AHEAD = 3

# Anchors are larger than Dask's warning allows for a graph, but are sent to the scheduler only once.
_LARGE = "distributed.admin.large-graph-warning-threshold"
# The time in which a scheduler must answer.
_CONNECT = "10s"

_EXTRA = "dask"

# The clients of this process by address, so that calls do not connect anew each time.
_clients: dict[str, Any] = {}


class DaskEngine:
    """The engine of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._shard_bytes = _SHARD_BYTES

    @classmethod
    def at(cls, scheduler: Any) -> DaskEngine:
        """Return the engine of a cluster.

        Parameters
        ----------
        scheduler : str or distributed.Client
            The address of the cluster's scheduler, or a client of it.

        Raises
        ------
        MissingExtraError
            Dask is not installed.
        FileError
            No scheduler answers at the address.
        """
        distributed = import_extra("distributed", _EXTRA, "a cluster")
        if isinstance(scheduler, distributed.Client):
            return cls(scheduler)
        known = _clients.get(scheduler)
        if known is not None and known.status == "running":
            return cls(known)
        try:
            _clients[scheduler] = distributed.Client(scheduler, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise FileError(f"{scheduler}: no Dask scheduler answers there ({error})") from error
        return cls(_clients[scheduler])

    @property
    def memory(self) -> None:
        """The bytes that work on this machine may take: None, as the workers hold the rows."""

    def _window(self) -> int:
        return _AHEAD * max(1, sum(int(n) for n in self._client.nthreads().values()))

    def _results(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of calls (function, arguments...) in order; a lost worker's are repeated."""
        waiting: deque[Any] = deque()
        try:
            for call in calls:
                waiting.append(self._client.submit(*call, pure=False))
                if len(waiting) >= self._window():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except (NearfoldError, GeneratorExit, KeyboardInterrupt):
            raise
        except Exception as error:
            raise FileError(f"the cluster failed: {type(error).__name__}: {error}") from error
        finally:
            for future in waiting:
                future.cancel()

    def _sent(self, value: T) -> Any:
        """Return a future of a value that tasks share.

        The value is the result of a task, which Dask computes again if its workers are lost. Scattered data
        would be lost for good, together with all tasks that wait for it.
        """
        with import_extra("dask.config", _EXTRA, "a cluster").set({_LARGE: "1TB"}):
            return self._client.submit(_identity, value, pure=False)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, in order, computed by the workers."""
        yield from self._results((function, item) for item in items)

    def take(self, source: Source, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows with the given numbers; without random access the workers read the shards."""
        if source.random_access:
            return source.take(rows)
        tasks = []
        for shard in plan_shards(source, self._shard_bytes):
            low, high = np.searchsorted(rows, [shard.first_row, shard.first_row + shard.rows])
            if high > low:
                tasks.append((shard, rows[low:high] - shard.first_row + shard.start))
        return np.concatenate(list(self.map(_take_rows, tasks)))

    def scan(
        self,
        source: Source,
        request: ScanSpec,
        anchors: Anchors | None,
        first_row: int,
        start: Scan | None,
        number_from: int = 0,
    ) -> Iterator[Progress]:
        """Scan shard by shard on the workers, and merge the results here in order; see `Engine.scan`.

        Results come back without the vectors of the neighbours, which would be most of the bytes sent. The
        few that remain in the end are read again.
        """
        shards = [s for s in plan_shards(source, self._shard_bytes) if s.first_row >= first_row]
        sent = self._sent((request, anchors))
        merged = start
        parts = self._results((_scan_shard, shard, sent, number_from) for shard in shards)
        for shard, part in zip(shards, parts, strict=True):
            merged = part if merged is None else merged + part
            yield shard.first_row + shard.rows, partial(_identity, merged)


def _identity(value: T) -> T:
    return value


def _take_rows(task: tuple[Shard, Int64]) -> npt.NDArray[Any]:
    shard, rows = task
    return open_source(shard.path, shard.column).take(rows)


def _scan_shard(shard: Shard, sent: tuple[ScanSpec, Anchors | None], number_from: int) -> Scan:
    request, anchors = sent
    scanner, row = Scanner(request, anchors, carry=False), shard.start
    number_from += shard.first_row - shard.start
    with scanner:
        source = open_source(shard.path, shard.column)
        for chunk in checked_chunks(source, shard.start, shard.stop, others=False, finite=False):
            scanner.see(chunk.vectors, number_from + row, shard.path, row)
            row += len(chunk.vectors)
    return scanner.result()
