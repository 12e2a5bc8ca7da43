"""Where a file or folder is: a path of this machine, or a URL that pyarrow or fsspec can open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from nearfold.credentials import remember
from nearfold.errors import FileError
from nearfold.extras import import_extra
from nearfold.files import cause, check_name

__all__ = ["Location"]


@dataclass(frozen=True)
class Location:
    """A file or folder, local or not.

    Parameters
    ----------
    name
        As the user wrote it; messages use it.
    filesystem
        A pyarrow.fs.FileSystem; None for this machine's own files.
    path
        The path within `filesystem`.
    """

    name: str
    filesystem: Any
    path: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Location:
        """Return the location that a path or URL names.

        Raises
        ------
        FileError
            A URL that can't be understood.
        MissingExtraError
            A URL of a kind that needs fsspec, which is not installed.
        """
        name = os.fspath(path)
        check_name(name)
        if "://" not in name:
            return cls(name, None, name)
        # What pyarrow and the stores behind it say of a URL may hold a part of its password.
        remember(name)
        import pyarrow as pa
        from pyarrow import fs

        try:
            filesystem, inner = fs.FileSystem.from_uri(name)
        except pa.ArrowInvalid:
            core = import_extra("fsspec.core", "remote", f"{name}: a URL of this kind")
            try:
                opened, inner = core.url_to_fs(name)
            except (ImportError, ValueError, OSError) as error:
                raise FileError(f"{name}: can't be opened: {error}") from error
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(opened))
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{name}: can't be opened: {error}") from error
        if isinstance(filesystem, fs.LocalFileSystem):
            return cls(name, None, inner)
        return cls(name, filesystem, inner)

    @property
    def local(self) -> Path | None:
        """The path, where it is this machine's own."""
        return Path(self.path) if self.filesystem is None else None

    @property
    def suffix(self) -> str:
        """The ending of the name, in lower case, with its dot."""
        return PurePosixPath(self.path).suffix.lower()

    @property
    def last(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.path.rstrip("/")).name

    def is_folder(self) -> bool:
        """Return whether it is there and is a folder."""
        if self.filesystem is None:
            return Path(self.path).is_dir()
        from pyarrow import fs

        return bool(self._info().type == fs.FileType.Directory)

    def _info(self) -> Any:
        try:
            return self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise FileError(f"{self.name}: can't be read: {cause(error)}") from error

    def size(self) -> int:
        """Return the file's size in bytes.

        Raises
        ------
        FileError
            It is missing, not a file, or not to be read.
        """
        try:
            with self.open() as file:
                return int(file.seek(0, os.SEEK_END))
        except OSError as error:
            raise FileError(f"{self.name}: can't be read: {cause(error)}") from error

    def open(self) -> IO[bytes]:
        """Open for reading; it can seek. Raises OSError as `open` does."""
        if self.filesystem is None:
            return Path(self.path).open("rb", buffering=0)
        if self.is_folder():
            raise IsADirectoryError(21, "Is a directory")
        opened: IO[bytes] = self.filesystem.open_input_file(self.path)
        return opened

    def files(self) -> list[Location]:
        """Return the files below a folder, sorted by name, without those whose names start with . or _.

        Raises
        ------
        FileError
            The folder can't be listed.
        """
        root = self.name.rstrip("/")
        try:
            if self.filesystem is None:
                folder = Path(self.path)
                found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
            else:
                from pyarrow import fs

                base = self.path.strip("/")
                infos = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
                found = [
                    info.path.strip("/")[len(base) + 1 :] for info in infos if info.type == fs.FileType.File
                ]
        except OSError as error:
            raise FileError(f"{self.name}: can't be listed: {cause(error)}") from error
        data = [name for name in found if not any(part[0] in "._" for part in PurePosixPath(name).parts)]
        return [
            Location(f"{root}/{name}", self.filesystem, f"{self.path.rstrip('/')}/{name}")
            for name in sorted(data)
        ]

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the local `path` is this file or folder itself."""
        mine, other = self.local, Path(path)
        return mine is not None and mine.exists() and other.exists() and mine.samefile(other)
