"""How many threads the numerical libraries of this process use."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import threadpoolctl

__all__ = ["blas_threads", "single_threaded_blas"]


def blas_threads() -> int:
    """Return the largest number of threads that a loaded BLAS would use, at least 1."""
    pools = threadpoolctl.threadpool_info()
    return max((int(p["num_threads"]) for p in pools if p["user_api"] == "blas"), default=1)


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Limit every BLAS of this process to one thread while inside."""
    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits
