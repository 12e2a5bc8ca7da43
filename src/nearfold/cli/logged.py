"""`--log`: what a command was asked for and by which versions, what it did, how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

__all__ = ["log_of", "log_to", "logged"]

_LOG: ContextVar[Path | None] = ContextVar("log", default=None)


def log_of() -> Path | None:
    """Return the file that the command which runs is to be logged in."""
    return _LOG.get()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Have the command inside logged, once it is known that the log is no file of its."""
    token = _LOG.set(path)
    try:
        yield
    finally:
        _LOG.reset(token)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Log the command inside."""
    from nearfold._utils.logs import event, logging_to
    from nearfold.cli.console import one_line
    from nearfold.report.provenance import versions

    with logging_to(path):
        event("command", arguments=sys.argv[1:], **versions())
        began = time.perf_counter()
        try:
            yield
        except BaseException as error:
            event("end", error=one_line(error) or type(error).__name__, seconds=_since(began))
            raise
        event("end", error=None, seconds=_since(began))


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)
