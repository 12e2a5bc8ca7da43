"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nearfold.errors import FileError
from nearfold.logs import event

if sys.platform != "win32":
    import fcntl

__all__ = ["cause", "checksum", "held", "new_folder", "remove_beside", "replacing", "sync_folder"]

# The ending of files that are being written.
_BESIDE = ".part"


def cause(error: OSError) -> str:
    """Return what the system said of a failed file operation, without path or number."""
    return error.strerror or str(error)


def checksum(path: Path) -> tuple[int, str]:
    """Return a file's size and the SHA-256 of its content, in hexadecimal."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}") from error


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
    # Unlike Path.is_dir, this takes a folder that may not be looked into for none.
    if os.path.isdir(target):  # noqa: PTH112
        raise FileError(f"{target}: is a folder; name a file to write")
    _remove_abandoned(target)
    # The name is known before the file is, so an interrupt at any moment finds it below.
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_BESIDE}")
    try:
        with _open_held(beside) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            written = os.fstat(file.fileno()).st_size
        beside.replace(target)
        sync_folder(target.parent)
        event("wrote", path=str(target), bytes=written)
    except OSError as error:
        raise FileError(f"{target}: can't be written: {cause(error)}") from error
    finally:
        # After a successful rename there is nothing left under this name.
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder beside `path` to be filled; on success it gets that name, files synced.

    When anything fails inside, an interrupt included, it is removed.

    Raises
    ------
    FileError
        There is something at `path` already, or the folder can't be written.
    """
    target = Path(path)
    if os.path.exists(target) and not (target.is_dir() and not any(target.iterdir())):  # noqa: PTH110
        raise FileError(f"{target}: is there already; name a folder that is not")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_BESIDE}")
    try:
        beside.mkdir()
        yield beside
        for file in beside.rglob("*"):
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        beside.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise FileError(f"{target}: can't be written: {cause(error)}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _open_held(path: Path) -> BinaryIO:
    """Open a new file, held under a lock as long as it is open."""
    while True:
        file = path.open("xb")
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(file.close)
            _lock(file.fileno(), wait=True)
            # Before the line above the file had no holder, and may have been taken for abandoned.
            with contextlib.suppress(OSError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    unless_held.pop_all()
                    return file


def _remove_abandoned(target: Path) -> None:
    """Remove files beside `target` whose writers were killed: nobody holds their lock."""
    # The glob fails where the folder may not be looked into.
    with contextlib.suppress(OSError):
        for beside in target.parent.glob(f".{glob.escape(target.name)}.*{_BESIDE}"):
            with contextlib.suppress(OSError), beside.open("rb") as file:
                if _lock(file.fileno(), wait=False):
                    beside.unlink()


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file or folder for its holder alone; return whether it was free.

    The system gives the lock back when its holder ends, however it ends. Windows has no such locks:
    nothing is ever free there.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder if it is missing, and hold it: nobody else can while inside.

    Raises
    ------
    FileError
        Another process holds it, or it can't be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise FileError(f"{path}: can't be made a folder: {cause(error)}") from error
    try:
        if not _lock(handle, wait=False):
            raise FileError(f"{path}: another run is writing here; wait for it or name another folder")
        yield
    finally:
        os.close(handle)


def remove_beside(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left in a folder and below, whose only user the caller is (see `held`)."""
    for beside in Path(folder).rglob(f".*{_BESIDE}"):
        with contextlib.suppress(OSError):
            beside.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
