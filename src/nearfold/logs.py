"""What nearfold does, as events of Python's own logging: who wants them adds a handler to "nearfold".

An event has a name and fields: `stage` (label, seconds, steps), `wrote` (path, bytes), `command`, `end`.
Nothing is shown unless somebody asks; the command line writes them with `--log FILE`, a JSON object a line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfold.errors import FileError

__all__ = ["event", "logging_to"]

_LOGGER = logging.getLogger("nearfold")
_LOGGER.addHandler(logging.NullHandler())


def event(name: str, **fields: Any) -> None:
    """Tell of something that happened."""
    if _LOGGER.isEnabledFor(logging.INFO):
        _LOGGER.info(name, extra={"nearfold": fields})


class _JsonLines(logging.Formatter):
    """An event as a line: time (UTC), level, event, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{at}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "nearfold", {})}
        return json.dumps(line, default=str)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append the events of everything inside to a file.

    Raises
    ------
    FileError
        It can't be written to.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or error}") from error
    handler.setFormatter(_JsonLines())
    before = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.setLevel(before)
        _LOGGER.removeHandler(handler)
        handler.close()
