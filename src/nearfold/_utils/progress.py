"""Progress of long work.

The library reports its progress, and nothing is shown unless a caller installs a reporter with `reporting`.
The command line installs one that draws bars.
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
    """Shows the progress of stages of work."""

    def start(self, label: str, total: int, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
        """Begin a stage of `total` steps; return the functions `advance(steps)` and `finish()`."""
        ...


T = TypeVar("T")

_reporters: ContextVar[tuple[Reporter, ...]] = ContextVar("nearfold_progress", default=())


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Send the progress of the `with` block to `reporter` as well, or with None to no reporter at all."""
    token = _reporters.set(() if reporter is None else (*_reporters.get(), reporter))
    try:
        yield
    finally:
        _reporters.reset(token)


@contextmanager
def stage(label: str, total: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Report a stage of work, and yield the function `advance(steps)`.

    Parameters
    ----------
    label : str
        The name of the stage.
    total : int
        The number of its steps.
    unit : str, default="rows"
        What the steps count.
    """
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
    """Yield items, and report one step of a stage after each.

    Parameters
    ----------
    items : iterable
        The items.
    label, total, unit
        The name, the number of steps and the unit of the stage; see `stage`.
    """
    with stage(label, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
