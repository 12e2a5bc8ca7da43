"""The engine of a cluster: Dask distributed. Each worker opens the shards that it is sent by name."""

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

# A shard's share of the moments to send back is small against its own size.
_SHARD_BYTES = 256 << 20
# Tasks sent ahead of each worker's thread.
_AHEAD = 3

# Neighbourhoods are larger than a graph should be; they are sent to the scheduler once.
_LARGE = "distributed.admin.large-graph-warning-threshold"
# How long a scheduler may take to answer.
_CONNECT = "10s"

_EXTRA = "dask"

# Clients of this process by the addresses that they were made for: each call would connect anew.
_clients: dict[str, Any] = {}


class DaskEngine:
    """A Dask cluster.

    Parameters
    ----------
    client
        A `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._shard_bytes = _SHARD_BYTES

    @classmethod
    def at(cls, scheduler: Any) -> DaskEngine:
        """Return the engine of the cluster that a scheduler's address, or a client of it, names.

        Raises
        ------
        MissingExtraError
            Dask is not installed.
        FileError
            Nobody answers there.
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
        """None: rows are held by the workers."""

    def _window(self) -> int:
        return _AHEAD * max(1, sum(int(n) for n in self._client.nthreads().values()))

    def _results(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Send (function, arguments...) ahead and yield results in order; a lost worker's are done again."""
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

        It is a task's result and not scattered data: what is scattered is lost for good with the workers that
        hold it, and every task that waits for it with it; a result is made again.
        """
        with import_extra("dask.config", _EXTRA, "a cluster").set({_LARGE: "1TB"}):
            return self._client.submit(_identity, value, pure=False)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Run on the workers, some tasks sent ahead."""
        yield from self._results((function, item) for item in items)

    def take(self, source: Source, rows: Int64) -> npt.NDArray[Any]:
        """Return the rows of these numbers, each shard's read where it lies best."""
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
        """Scan shard by shard on the workers and merge here, in order.

        Parts come back without the rows that are neighbours, which would be most of the bytes sent;
        the few that are left in the end are read again.
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
