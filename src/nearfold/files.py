"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nearfold.errors import FileError

__all__ = ["cause", "replacing"]


def cause(error: OSError) -> str:
    """Return what the system said of a failed file operation, without path or number."""
    return error.strerror or str(error)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing; on success it replaces `path` atomically.

    The data reaches the disk (fsync) before the name does. When anything fails inside, an
    interrupt included, the file beside is removed and `path` is left as it was.

    Raises
    ------
    FileError
        The folder is missing or can't be written, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"{target}: is a folder; name a file to write")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise FileError(f"{target}: can't be written: {cause(error)}") from error
    finally:
        # After a successful rename there is nothing left under this name.
        with contextlib.suppress(OSError):
            beside.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
