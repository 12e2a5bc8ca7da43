"""Threads: the number that the numerical libraries use, and work that is shared between threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, TypeVar

import threadpoolctl

from nearfold._utils.config import current

__all__ = [
    "PENDING",
    "Deal",
    "Share",
    "blas_threads",
    "dealt_work",
    "in_order",
    "shared_work",
    "single_threaded_blas",
]

T = TypeVar("T")
R = TypeVar("R")

# The number of pieces of work that may wait for a thread of a `Deal` or be under way there.
PENDING = 2

Share: TypeAlias = Callable[[Callable[[int], None]], None]


def blas_threads() -> int:
    """Return the largest number of threads that a loaded BLAS may use under the settings, at least 1."""
    pools = threadpoolctl.threadpool_info()
    most = max((int(p["num_threads"]) for p in pools if p["user_api"] == "blas"), default=1)
    return min(most, current().n_threads or most)


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Return a context in which every BLAS of this process uses one thread."""
    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits


class Deal:
    """Deals pieces of work to threads in turn, and waits if the next thread has enough pieces already.

    The thread of a piece depends only on the number of pieces dealt before, so each thread's sums are the
    same from run to run. The caller can prepare the next piece meanwhile.

    Parameters
    ----------
    n_threads : int
        The number of threads.
    """

    def __init__(self, n_threads: int) -> None:
        self.pools = [ThreadPoolExecutor(1) for _ in range(n_threads)]
        self._pending: list[deque[Future[None]]] = [deque() for _ in range(n_threads)]
        self._dealt = 0

    def __call__(self, work: Callable[[int], None]) -> None:
        """Let the next thread call `work` with its own number; errors of earlier work are raised here."""
        i = self._dealt % len(self.pools)
        self._dealt += 1
        if len(self._pending[i]) >= PENDING:
            self._pending[i].popleft().result()
        self._pending[i].append(self.pools[i].submit(work, i))

    def wait(self) -> None:
        """Wait for all work that was dealt; its errors are raised here."""
        for pending in self._pending:
            while pending:
                pending.popleft().result()


@contextmanager
def dealt_work(n_threads: int) -> Iterator[Deal]:
    """Yield a `Deal`, whose work is done when the block is left. Inside the block BLAS has one thread."""
    with single_threaded_blas():
        deal = Deal(n_threads)
        try:
            yield deal
            deal.wait()
        finally:
            # Work not begun is dropped where something failed.
            for pool in deal.pools:
                pool.shutdown(cancel_futures=True)


def in_order(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> Iterator[R]:
    """Yield function(item) for each item, in order, from parallel calls.

    The caller's thread draws the items and takes the results meanwhile. BLAS has one thread, as parallel
    calls use the cores better than threads inside each call.

    Parameters
    ----------
    function : callable
        A function of one item.
    items : iterable
        The items.
    n_threads : int
        The number of calls at a time.
    """
    waiting: deque[Future[R]] = deque()
    with single_threaded_blas():
        pool = ThreadPoolExecutor(n_threads)
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def shared_work(n_threads: int) -> Iterator[Share]:
    """Yield `share(work)`, which calls work(0), ..., work(n_threads - 1) in parallel and waits for all.

    Inside the block BLAS has one thread: if products are small, or alternate with other work on arrays,
    parallel shares of all the work are faster than threads inside each product.
    """
    if n_threads == 1:
        yield lambda work: work(0)
        return
    with single_threaded_blas(), ThreadPoolExecutor(n_threads - 1) as pool:

        def share(work: Callable[[int], None]) -> None:
            others = [pool.submit(work, i) for i in range(1, n_threads)]
            try:
                work(0)
            finally:
                for other in others:
                    other.result()

        yield share
