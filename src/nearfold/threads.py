"""How many threads the numerical libraries of this process use, and work shared between threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import threadpoolctl

__all__ = ["Share", "blas_threads", "shared_work", "single_threaded_blas"]

Share: TypeAlias = Callable[[Callable[[int], None]], None]


def blas_threads() -> int:
    """Return the largest number of threads that a loaded BLAS would use, at least 1."""
    pools = threadpoolctl.threadpool_info()
    return max((int(p["num_threads"]) for p in pools if p["user_api"] == "blas"), default=1)


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Limit every BLAS of this process to one thread while inside."""
    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits


@contextmanager
def shared_work(n_threads: int) -> Iterator[Share]:
    """Yield `share(work)`, which calls work(0) .. work(n_threads - 1) at once and waits for all.

    BLAS has one thread while inside: where products are small or have other array work between
    them, whole shares of it side by side are faster than threads inside each product.
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
