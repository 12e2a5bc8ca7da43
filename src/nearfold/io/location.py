"""The location of a file or folder: a local path, or a URL that pyarrow or fsspec can open."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from nearfold._utils.extras import import_extra
from nearfold._utils.files import cause, check_name, check_regular, open_regular, os_errors
from nearfold.errors import FileError
from nearfold.errors.credentials import remember

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Location", "Stamp"]

# The prefixes of fsspec's URLs of local files.
_LOCAL_URLS = ("file://", "local://")


def _check_openable(path: str, name: str) -> None:
    """Refuse a pipe or a device; see `check_regular`."""
    if not Path(path).is_dir():
        check_regular(path, name)


class Stamp(NamedTuple):
    """The size and the modification time of a file, which show whether it was changed or replaced.

    Attributes
    ----------
    size : int
        The size in bytes.
    changed : int
        The time of the last change in nanoseconds; 0 if the file system doesn't tell.
    """

    size: int
    changed: int


class _SteadyFile(io.RawIOBase):
    """A local file whose reading fails if the file has changed since it was opened.

    Files are read and never mapped, as truncation of a mapped file ends the process.
    """

    def __init__(self, raw: io.FileIO, name: str) -> None:
        self._raw, self._name = raw, name
        self._stamp = self.stamp()

    def stamp(self) -> Stamp:
        status = os.fstat(self._raw.fileno())
        return Stamp(status.st_size, status.st_mtime_ns)

    def _check(self) -> None:
        if self.stamp() != self._stamp:
            raise FileError(
                f"{self._name}: changed while it was read; run again when nothing writes to it any more"
            )

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        have = 0
        # One call of the system reads 2 GB at most.
        while have < len(view):
            got = self._raw.readinto(view[have:])
            if not got:
                break
            have += got
        self._check()
        return have

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        parts = [self._raw.read(size) or b""]
        while (have := sum(map(len, parts))) < size and parts[-1]:
            parts.append(self._raw.read(size - have) or b"")
        self._check()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()


@dataclass(frozen=True)
class Location:
    """A local or remote file or folder.

    Parameters
    ----------
    name : str
        The path or URL as the user wrote it, which messages use.
    filesystem : pyarrow.fs.FileSystem or None
        The file system; None for local files.
    path : str
        The path within `filesystem`.
    since : Stamp, optional
        The stamp that the file must still have when it is opened; see `seen`.
    """

    name: str
    filesystem: Any
    path: str
    since: Stamp | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Location:
        """Return the location that a path or URL names.

        Raises
        ------
        FileError
            The path is not a valid name, or the URL can't be understood.
        MissingExtraError
            The URL needs fsspec, which is not installed.
        """
        name = os.fspath(path)
        check_name(name)
        if "://" not in name:
            return cls(name, None, name)
        # Errors of pyarrow and of the stores behind it may quote a part of the URL's password.
        remember(name)
        import pyarrow as pa
        from pyarrow import fs

        try:
            filesystem, inner = fs.FileSystem.from_uri(name)
        except pa.ArrowInvalid:
            core = import_extra("fsspec.core", "remote", f"{name}: a URL of this kind")
            # Some of fsspec's file systems open a local file, such as an archive, when they are made.
            for part in name.split("::"):
                if part.startswith(_LOCAL_URLS):
                    _check_openable(part.split("://", 1)[1], name)
            try:
                opened, inner = core.url_to_fs(name)
            except (ImportError, ValueError, OSError) as error:
                raise FileError(f"{name}: can't be opened: {error}") from error
            if "file" in ([opened.protocol] if isinstance(opened.protocol, str) else opened.protocol):
                return cls(name, None, inner)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(opened))
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{name}: can't be opened: {error}") from error
        if isinstance(filesystem, fs.LocalFileSystem):
            return cls(name, None, inner)
        return cls(name, filesystem, inner)

    @property
    def local(self) -> Path | None:
        """The path of a local file or folder, None for a remote one."""
        return Path(self.path) if self.filesystem is None else None

    @property
    def suffix(self) -> str:
        """The suffix of the name in lower case, with its dot."""
        return PurePosixPath(self.path).suffix.lower()

    @property
    def last(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.path.rstrip("/")).name

    def is_folder(self) -> bool:
        """Return whether it exists and is a folder."""
        if self.filesystem is None:
            return Path(self.path).is_dir()
        from pyarrow import fs

        return bool(self._info().type == fs.FileType.Directory)

    def _info(self) -> Any:
        with os_errors(self.name):
            return self.filesystem.get_file_info(self.path)

    def stamp(self) -> Stamp:
        """Return the file's size and the time of its last change.

        Raises
        ------
        FileError
            The file is missing, is not a regular file, or may not be read.
        """
        if self.filesystem is None:
            try:
                status = os.stat(self.path)  # noqa: PTH116
            except (OSError, ValueError) as error:
                said = cause(error) if isinstance(error, OSError) else error
                raise FileError(f"{self.name}: can't be read: {said}") from error
            check_regular(self.path, self.name)
            return Stamp(status.st_size, status.st_mtime_ns)
        from pyarrow import fs

        info = self._info()
        if info.type != fs.FileType.File:
            missing = info.type == fs.FileType.NotFound
            said = "No such file or directory" if missing else "it is no file"
            raise FileError(f"{self.name}: can't be read: {said}")
        return Stamp(info.size or 0, info.mtime_ns or 0)

    def seen(self) -> Location:
        """Return this location with the file's present stamp, so that it refuses to open a changed file.

        Raises
        ------
        FileError
            The file is refused by `stamp`.
        """
        return replace(self, since=self.stamp())

    def size(self) -> int:
        """Return the file's size in bytes; errors are those of `stamp`."""
        return (self.since or self.stamp()).size

    def open(self, *, grown: bool = False) -> IO[bytes]:
        """Open the file for reading and seeking; it is never mapped into memory.

        Parameters
        ----------
        grown : bool, default=False
            Whether to open a file that has grown since it was `seen`.

        Raises
        ------
        FileError
            The file is missing, may not be read, is not a regular file, or has changed since it was `seen`.
        OSError
            A remote file system failed.
        """
        if self.filesystem is None:
            steady = _SteadyFile(cast(io.FileIO, open_regular(self.path, self.name).detach()), self.name)
            try:
                self._check_seen(steady.stamp(), grown=grown)
            except FileError:
                steady.close()
                raise
            return cast(IO[bytes], steady)
        self._check_seen(self.stamp(), grown=grown)
        opened: IO[bytes] = self.filesystem.open_input_file(self.path)
        return opened

    def _check_seen(self, stamp: Stamp, *, grown: bool) -> None:
        if self.since is not None and stamp != self.since and not (grown and stamp.size > self.since.size):
            raise FileError(
                f"{self.name}: changed since it was opened ({self.since.size} bytes then, {stamp.size} now); "
                f"open it again, when nothing writes to it any more"
            )

    def files(self) -> list[Location]:
        """Return the files below a folder, sorted by name, without names that start with . or _.

        Pipes, devices and broken links are included: they are refused when they are opened, as skipping them
        silently could lose rows.

        Raises
        ------
        FileError
            The folder can't be listed.
        """
        root = self.name.rstrip("/")
        with os_errors(self.name, "can't be listed"):
            if self.filesystem is None:
                folder = Path(self.path)
                found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()]
            else:
                from pyarrow import fs

                base = self.path.strip("/")
                infos = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
                found = [
                    info.path.strip("/")[len(base) + 1 :] for info in infos if info.type == fs.FileType.File
                ]
        data = [name for name in found if not any(part[0] in "._" for part in PurePosixPath(name).parts)]
        return [
            Location(f"{root}/{name}", self.filesystem, f"{self.path.rstrip('/')}/{name}")
            for name in sorted(data)
        ]

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the local `path` is this same file or folder."""
        mine, other = self.local, Path(path)
        return mine is not None and mine.exists() and other.exists() and mine.samefile(other)
