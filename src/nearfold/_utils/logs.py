"""Events of nearfold's work, logged with Python's own logging under the logger "nearfold".

An event has a name and fields: `stage` (label, seconds, steps), `wrote` (path, bytes), `command`, `end`.
Nothing is shown without a handler. The command line's `--log FILE` writes one JSON object for each event.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfold._utils.warned import warn
from nearfold.errors import FileError
from nearfold.errors.credentials import redacted_values

__all__ = ["event", "logging_to"]

_LOGGER = logging.getLogger("nearfold")
_LOGGER.addHandler(logging.NullHandler())


def event(name: str, **fields: Any) -> None:
    """Log an event with its fields, from which passwords are removed."""
    if _LOGGER.isEnabledFor(logging.INFO):
        _LOGGER.info(name, extra={"nearfold": redacted_values(fields)})


class _JsonLines(logging.Formatter):
    """Formats an event as one line of JSON: the time (UTC), the level, the event, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{at}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "nearfold", {})}
        return json.dumps(line, default=str)


class _Appending(logging.FileHandler):
    """A handler of a log file that warns once if the file can't be written any more, and never raises."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        if not self._failed:
            self._failed = True
            warn(f"{self.baseFilename}: can't be written any more")


def _check_log(path: Path) -> None:
    """Refuse to append to a pipe, a folder, or a file whose first line is not an event."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return
    with os.fdopen(handle, "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            try:
                first = file.readline(1 << 20)
                if not first or {"time", "event"} <= json.loads(first).keys():
                    return
            except (ValueError, AttributeError, RecursionError):
                pass
    raise FileError(f"{path}: exists and is no log of nearfold; name another file for the log")


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append the events of the `with` block to a file, which is new or holds such events already.

    Raises
    ------
    FileError
        The file can't be written to, or holds something else.
    """
    try:
        _check_log(path)
        handler = _Appending(path, encoding="utf-8")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FileError(f"{path}: can't be written: {said}") from error
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
