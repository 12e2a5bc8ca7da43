"""Progress of long work, shown by whoever asked for it.

The library only says how far it is. Nothing is shown unless a caller installs a
reporter with `reporting`; the command line installs one that draws bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

__all__ = ["Reporter", "reporting", "stage", "track"]


class Reporter(Protocol):
    """Opens one bar: `start(label, total)` returns `advance(steps)` and `finish()`."""

    def start(self, label: str, total: int, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
        """Begin a stage of `total` steps; return what advances and what ends it."""
        ...


T = TypeVar("T")

_reporter: ContextVar[Reporter | None] = ContextVar("nearfold_progress", default=None)


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Send the progress of everything inside to `reporter` (None: to nobody)."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def stage(label: str, total: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Yield `advance(steps)` for a stage of `total` steps."""
    reporter = _reporter.get()
    if reporter is None:
        yield lambda _steps: None
        return
    advance, finish = reporter.start(label, total, unit)
    try:
        yield advance
    finally:
        finish()


def track(items: Iterable[T], label: str, total: int, unit: str = "steps") -> Iterator[T]:
    """Iterate over `items`, advancing one step after each."""
    with stage(label, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
