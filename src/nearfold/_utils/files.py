"""Opening of untrusted files, and atomic writing: a reader never sees a half-written file.

A file is written inside a temporary folder beside its target, `.NAME.TOKEN.part/`. That folder holds a record
of its writer (`owner`, locked while the writer lives) and the `content`, which is renamed to the target. Only
folders whose record says that nearfold made them, and whose writer has ended, are ever removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from nearfold._utils.logs import event
from nearfold.errors import FileError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "cause",
    "check_distinct",
    "check_kept",
    "check_name",
    "check_regular",
    "check_replaceable",
    "checksum",
    "held",
    "held_file",
    "keeping",
    "new_folder",
    "one_line",
    "open_regular",
    "os_errors",
    "remove_beside",
    "replacing",
    "sync_folder",
]

# The suffix of temporary folders, and the names of the files in them.
_BESIDE = ".part"
_BESIDE_NAME = re.compile(r"\..*\.([0-9a-f]{16})\.part")
_OWNER, _CONTENT = "owner", "content"
_RECORD = "nearfold writes here: "

# The folders that this process has already cleared of what killed writers left.
_SWEPT: set[str] = set()

# The files and folders that must not be written to; see `keeping`.
_KEPT: ContextVar[tuple[Path, ...]] = ContextVar("kept", default=())

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device or terminal"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def cause(error: OSError) -> str:
    """Return the system's message for a failed file operation, without path and error number."""
    return error.strerror or str(error)


@contextmanager
def os_errors(name: object, what: str = "can't be read") -> Iterator[None]:
    """Make what the system says of a failed operation a `FileError` that begins with a name and `what`."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{name}: {what}: {cause(error)}") from error


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())


def _odd_kind(status: os.stat_result) -> str | None:
    """Return what kind of file a status belongs to, or None for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "no regular file")


def check_regular(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Refuse a path that exists and is not a regular file: opening a pipe waits, and a device may never end.

    Parameters
    ----------
    path : str or path
        The path to check. A missing file passes; opening it reports that.
    name : str, optional
        The name of the file in messages. The default is `path`.

    Raises
    ------
    FileError
        The path is a folder, a pipe, a device, a terminal or a socket.
    """
    try:
        kind = _odd_kind(os.stat(path))  # noqa: PTH116
    except (OSError, ValueError):
        return
    if kind is not None:
        raise FileError(f"{name or path}: is {kind}; nearfold reads regular files: write it to one first")


def open_regular(path: str | os.PathLike[str], name: str | None = None) -> BufferedReader:
    """Open a regular file for reading, and never wait for a pipe or a device.

    Parameters
    ----------
    path : str or path
        The file.
    name : str, optional
        The name of the file in messages. The default is `path`.

    Returns
    -------
    BufferedReader

    Raises
    ------
    FileError
        The file is missing, may not be read, or is not a regular file.
    """
    try:
        # With O_NONBLOCK a pipe opens at once, whether it has a writer or not.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        said = cause(error) if isinstance(error, OSError) else error
        raise FileError(f"{name or path}: can't be read: {said}") from error
    try:
        kind = _odd_kind(os.fstat(handle))
        if kind is None:
            return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    raise FileError(f"{name or path}: is {kind}; nearfold reads regular files: write it to one first")


def checksum(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and the SHA-256 of its content, in hexadecimal.

    Raises
    ------
    FileError
        The file can't be read.
    """
    with os_errors(path), open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


@contextmanager
def keeping(paths: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Refuse every write inside the `with` block to one of these files, or below one of these folders.

    Files are recognised by their identity, not by their names, so links and other spellings count too.
    """
    token = _KEPT.set((*_KEPT.get(), *(Path(path).absolute() for path in paths)))
    try:
        yield
    finally:
        _KEPT.reset(token)


def check_kept(path: str | os.PathLike[str]) -> None:
    """Refuse to write to a path, existing or not, that `keeping` protects.

    Raises
    ------
    FileError
        The path is a protected file or folder, lies in such a folder, or is linked to from one.
    """
    target, kept = Path(path), _KEPT.get()
    if not kept:
        return
    here = _status(target)
    # Both the folders in the path as it is written, and those that it resolves to.
    above = [_status(folder) for folder in (*target.absolute().parents, *_resolved(target).parents)]
    for each in kept:
        status = _status(each)
        if status is None:
            continue
        if _same(status, here):
            raise FileError(f"{target}: is the input itself, which would be lost; name another output")
        if stat.S_ISDIR(status.st_mode) and (
            any(_same(status, folder) for folder in above) or (here is not None and _names(each, here))
        ):
            raise FileError(
                f"{target}: is in the input folder {each}, of which a file would be lost or added; "
                f"name an output outside it"
            )


def _resolved(path: Path) -> Path:
    """Return a path with its links resolved, or the absolute path if that fails."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path.absolute()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(one, other)


def _names(folder: Path, status: os.stat_result) -> bool:
    """Return whether any name below a folder, links included, is the file of this status."""
    if not stat.S_ISREG(status.st_mode):
        return False
    below = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return any(_same(status, _status(path)) for path in below)


def check_distinct(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse output paths two of which are the same file.

    Names of new files that differ only in case or in Unicode composition count as the same, as they are on
    many systems.

    Raises
    ------
    FileError
        Two paths are the same file.
    """
    seen: dict[object, str | os.PathLike[str]] = {}
    for path in paths:
        there = _resolved(Path(path))
        status, folder = _status(there), _status(there.parent)
        marks: list[object] = [unicodedata.normalize("NFC", str(there)).casefold()]
        if folder is not None:
            name = unicodedata.normalize("NFC", there.name).casefold()
            marks.append((folder.st_dev, folder.st_ino, name))
        if status is not None:
            marks.append((status.st_dev, status.st_ino))
        for mark in marks:
            if mark in seen:
                raise FileError(f"{path}: is named for two outputs (as {seen[mark]}); give each its own")
        seen.update(dict.fromkeys(marks, path))


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can be written to.

    Raises
    ------
    FileError
        The path is not a valid name, is that of a folder, a pipe or a device, or is protected; see
        `check_kept`.
    """
    target = Path(path)
    check_name(path)
    status = _status(target)
    kind = None if status is None else _odd_kind(status)
    if kind is not None:
        raise FileError(f"{target}: is {kind}; name a file to write")
    check_kept(target)


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a path that is not a valid file name.

    Raises
    ------
    FileError
        The path holds a null character, or one that the system can't encode in file names.
    """
    name = os.fspath(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeError as error:
        raise FileError(f"{name!r}: can't be the name of a file: {error}") from error
    if b"\0" in encoded:
        raise FileError(f"{name!r}: can't be the name of a file: it holds a null character")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, which replaces `path` atomically on success.

    The data is synced to disk (fsync) before the rename. The new file takes over the permissions of the file
    that it replaces, and the owner if the system allows that. If anything fails inside the `with` block, an
    interrupt included, the temporary file is removed and `path` is left as it was.

    Parameters
    ----------
    path : str or path
        The file to write.

    Yields
    ------
    binary file
        The temporary file.

    Raises
    ------
    FileError
        The folder is missing or can't be written to, the disk is full, or the path is refused by
        `check_replaceable`.
    """
    target = Path(path)
    check_replaceable(target)
    with os_errors(target, "can't be written"):
        with _beside(target) as content:
            with content.open("xb") as file:
                _inherit(file, target)
                yield file
                file.flush()
                os.fsync(file.fileno())
                written = os.fstat(file.fileno()).st_size
            check_replaceable(target)
            content.replace(target)
            sync_folder(target.parent)
        event("wrote", path=str(target), bytes=written)


def _inherit(file: BinaryIO, target: Path) -> None:
    """Give a new file the permissions of the file that it will replace, before it has content."""
    if sys.platform == "win32":
        return
    try:
        before = target.lstat()
    except OSError:
        return
    if not stat.S_ISREG(before.st_mode):
        return
    now = os.fstat(file.fileno())
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        # Only root may give files away.
        with contextlib.suppress(OSError):
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode) & 0o777)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a temporary folder to be filled, which is synced and renamed to `path` on success.

    If anything fails inside the `with` block, an interrupt included, the temporary folder is removed.

    Parameters
    ----------
    path : str or path
        The folder to write.

    Yields
    ------
    Path
        The temporary folder.

    Raises
    ------
    FileError
        `path` exists already and is not an empty folder, or the folder can't be written.
    """
    target = Path(path)
    check_name(path)
    check_kept(target)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise FileError(f"{target}: exists already; name a folder that does not")
    with os_errors(target, "can't be written"), _beside(target) as content:
        content.mkdir()
        yield content
        for file in content.rglob("*"):
            _sync(file)
        content.replace(target)
        sync_folder(target.parent)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a free path for the content of `target`, and remove the temporary folder afterwards."""
    folder = str(target.parent)
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        _remove_abandoned(target.parent.glob(f".*{_BESIDE}"))
    with contextlib.ExitStack() as stack:
        yield _open_beside(target, stack) / _CONTENT


def _open_beside(target: Path, stack: contextlib.ExitStack) -> Path:
    """Make a temporary folder with a locked record beside `target`, which the stack's exit removes."""
    while True:
        # The removal is registered before the folder is made, so an interrupt at any moment leaves nothing.
        token = secrets.token_hex(8)
        home = target.with_name(f".{target.name}.{token}{_BESIDE}")
        stack.callback(_clear, home)
        home.mkdir(mode=0o700)
        # Until the record is locked and written, another writer may have removed it as abandoned.
        with contextlib.suppress(FileNotFoundError):
            owner = stack.enter_context((home / _OWNER).open("xb"))
            _lock(owner.fileno(), wait=True)
            owner.write((_RECORD + token).encode())
            owner.flush()
            if os.path.samestat((home / _OWNER).stat(), os.fstat(owner.fileno())):
                return home


def _clear(home: Path) -> None:
    """Remove a folder that `_beside` made; if it holds anything else, that and the folder stay."""
    with contextlib.suppress(OSError):
        content = home / _CONTENT
        if content.is_dir() and not content.is_symlink():
            shutil.rmtree(content)
        else:
            content.unlink(missing_ok=True)
        (home / _OWNER).unlink(missing_ok=True)
        home.rmdir()


def _remove_abandoned(homes: Iterable[Path]) -> None:
    """Remove those folders whose records say that nearfold made them and whose writers have ended."""
    # Listing the folders fails if their parent may not be read.
    with contextlib.suppress(OSError):
        for home in homes:
            named = _BESIDE_NAME.fullmatch(home.name)
            if named and not home.is_symlink():
                with contextlib.suppress(OSError, FileError):
                    _remove_if_abandoned(home, named[1])


def _remove_if_abandoned(home: Path, token: str) -> None:
    present = sorted(os.listdir(home))  # noqa: PTH208
    if not present:
        home.rmdir()
    elif _OWNER in present and not (home / _OWNER).is_symlink():
        with open_regular(home / _OWNER) as owner:
            if not _lock(owner.fileno(), wait=False):
                return
            record = owner.read(len(_RECORD) + 100)
            # An empty record is that of a writer killed before it wrote anything, so nothing is lost.
            if record == (_RECORD + token).encode() or (not record and present == [_OWNER]):
                _clear(home)


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file or folder exclusively; return whether it was free.

    The system releases the lock when its holder ends, however it ends. Windows has no such locks, so there
    the result is always False.
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
    """Make a folder if it is missing, and lock it against other processes inside the `with` block.

    Raises
    ------
    FileError
        Another process holds the folder, or it can't be made.
    """
    path = Path(folder)
    check_name(path)
    check_kept(path)
    with os_errors(path, "can't be made a folder"):
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    try:
        if not _lock(handle, wait=False):
            raise FileError(f"{path}: another run is writing here; wait for it or name another folder")
        yield
    finally:
        os.close(handle)


# The files that this run has locked; see `held_file`.
_HELD: ContextVar[tuple[Path, ...]] = ContextVar("held", default=())


@contextmanager
def held_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a file, which need not exist, against other runs inside the `with` block.

    The holder may lock it again inside. A file `.NAME.lock` lies beside it meanwhile.

    Raises
    ------
    FileError
        Another run holds the file, or its folder can't be written to.
    """
    target = Path(path).absolute()
    if target in _HELD.get():
        yield
        return
    with contextlib.ExitStack() as stack:
        with os_errors(path, "can't be written"):
            _hold_beside(target, stack)
        token = _HELD.set((*_HELD.get(), target))
        try:
            yield
        finally:
            _HELD.reset(token)


def _hold_beside(target: Path, stack: contextlib.ExitStack) -> None:
    """Make and lock the lock file of `target`, and register its removal with the stack."""
    # The resolved name is the same by whichever links the file is reached.
    home = target.resolve()
    lock = home.with_name(f".{home.name}.lock")
    record = f"nearfold holds {home.name}\n".encode("utf-8", "surrogateescape")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        owner = stack.enter_context(os.fdopen(handle, "r+b"))
        if not stat.S_ISREG(os.fstat(handle).st_mode) or owner.read(len(record) + 1) not in (b"", record):
            raise FileError(f"{lock}: is in the way and not of nearfold; move it")
        if not _lock(handle, wait=False):
            raise FileError(f"{target}: another run is changing it; wait for it, or name another file")
        # The last holder may have removed the lock file between its opening and its locking here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(lock.stat(), os.fstat(handle)):
                owner.seek(0)
                owner.write(record)
                owner.flush()
                stack.callback(lock.unlink, missing_ok=True)
                return


def remove_beside(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary folders that killed writers left in a folder and below it."""
    _remove_abandoned(
        Path(parent) / name
        for parent, names, _ in os.walk(folder)
        for name in names
        if name.startswith(".") and name.endswith(_BESIDE)
    )


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power cut, if the system can sync folders."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
