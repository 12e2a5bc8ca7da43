"""Progress of long work, shown by whoever asked for it.

The library only says how far it is. Nothing is shown unless a caller installs a
reporter with `reporting`; the command line installs one that draws bars.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from nearfold._utils.logs import event

__all__ = ["Reporter", "reporting", "stage", "track"]


class Reporter(Protocol):
    """Opens one bar: `start(label, total)` returns `advance(steps)` and `finish()`."""

    def start(self, label: str, total: int, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
        """Begin a stage of `total` steps; return what advances and what ends it."""
        ...


T = TypeVar("T")

_reporters: ContextVar[tuple[Reporter, ...]] = ContextVar("nearfold_progress", default=())


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Send the progress of everything inside to `reporter` too (None: to nobody)."""
    token = _reporters.set(() if reporter is None else (*_reporters.get(), reporter))
    try:
        yield
    finally:
        _reporters.reset(token)


@contextmanager
def stage(label: str, total: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Yield `advance(steps)` for a stage of `total` steps."""
    bars = [reporter.start(label, total, unit) for reporter in _reporters.get()]
    began, done = time.perf_counter(), 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        for moved, _ in bars:
            moved(steps)

    try:
        yield advance
    finally:
        for _, finish in bars:
            finish()
        event("stage", label=label, seconds=round(time.perf_counter() - began, 6), steps=done, unit=unit)


def track(items: Iterable[T], label: str, total: int, unit: str = "steps") -> Iterator[T]:
    """Iterate over `items`, advancing one step after each."""
    with stage(label, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
