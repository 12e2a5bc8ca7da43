"""Fingerprints that show whether a file of vectors has changed, by its size, its time and digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from nearfold._utils.files import cause, checksum, open_regular, os_errors
from nearfold._utils.schema import Count, Sha256
from nearfold.errors import FileError

__all__ = ["Fingerprint", "Stamp", "check_fingerprint", "fingerprint", "stamp"]

# The number and size of the pieces, spread over the file, that are read whenever it is opened.
_PIECES, _PIECE_BYTES = 64, 4096

# The largest file that may be read in full at opening, which takes about a tenth of a second.
_SMALL = 64 << 20


class Stamp(msgspec.Struct, frozen=True):
    """The size of a file, or of all files below a folder, and the time of the last change in nanoseconds."""

    bytes: Count
    changed_ns: int


class Fingerprint(msgspec.Struct, frozen=True):
    """The state of a file when an index was made from it.

    Attributes
    ----------
    stamp : Stamp
        The size and the time of the last change.
    sample : str
        The SHA-256 of some pieces of the file.
    sha256 : str
        The SHA-256 of the whole file.
    """

    stamp: Stamp
    sample: Sha256
    sha256: Sha256


def _files(path: Path) -> list[Path]:
    """Return a file itself, or the files below a folder."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file or folder, without opening it.

    Raises
    ------
    FileError
        The file is missing, or its status can't be read.
    """
    try:
        seen = [each.stat() for each in _files(path)]
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}; put the file back") from error
    return Stamp(sum(each.st_size for each in seen), max((each.st_mtime_ns for each in seen), default=0))


def _sampled(path: Path) -> str:
    """Return the digest of pieces of a file, including its beginning and its end."""
    digest = hashlib.sha256()
    for each in _files(path):
        with os_errors(each), open_regular(each) as file:
            size = file.seek(0, os.SEEK_END)
            last = max(0, size - _PIECE_BYTES)
            for place in sorted({last * i // (_PIECES - 1) for i in range(_PIECES)}):
                file.seek(place)
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _whole(path: Path) -> str:
    """Return the digest of a file, or of the names and digests of a folder's files."""
    if not path.is_dir():
        return checksum(path)[1]
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(f"{each.relative_to(path).as_posix()}\0{checksum(each)[1]}\n".encode())
    return digest.hexdigest()


def fingerprint(path: Path) -> Fingerprint:
    """Return the present fingerprint of a file or folder, for which it is read in full.

    Raises
    ------
    FileError
        The file can't be read.
    """
    return Fingerprint(stamp(path), _sampled(path), _whole(path))


def check_fingerprint(path: Path, known: Fingerprint, *, full: bool = False) -> None:
    """Refuse a file that has changed since its fingerprint was taken.

    Pieces of the file are read. If its time of change differs, as that of a copy does, and it is small, all
    of it is read.

    Parameters
    ----------
    path : Path
        The file or folder.
    known : Fingerprint
        The earlier fingerprint.
    full : bool, default=False
        Whether to read all of the file in any case.

    Raises
    ------
    FileError
        The file has changed, or can't be read.
    """
    now = stamp(path)
    same = now.bytes == known.stamp.bytes and _sampled(path) == known.sample
    if same and (full or (now.changed_ns != known.stamp.changed_ns and now.bytes <= _SMALL)):
        same = _whole(path) == known.sha256
    if not same:
        raise FileError(
            f"{path}: has changed since the index was made of it; put the file back or build the index again"
        )
