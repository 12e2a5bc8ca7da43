"""What tells whether a file of vectors is the same as before: its size and time, some bytes, all of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from nearfold._utils.files import cause, checksum, open_regular, os_errors
from nearfold._utils.schema import Count, Sha256
from nearfold.errors import FileError

__all__ = ["Fingerprint", "Stamp", "check_fingerprint", "fingerprint", "stamp"]

# Pieces of a file that are looked at whenever it is opened, spread over it.
_PIECES, _PIECE_BYTES = 64, 4096

# What is read within about a tenth of a second.
_SMALL = 64 << 20


class Stamp(msgspec.Struct, frozen=True):
    """What can be told of a file, or of the files below a folder, without opening any."""

    bytes: Count
    changed_ns: int


class Fingerprint(msgspec.Struct, frozen=True):
    """What a file was when an index was made of it."""

    stamp: Stamp
    sample: Sha256
    sha256: Sha256


def _files(path: Path) -> list[Path]:
    """Return a file, or the files below a folder."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def stamp(path: Path) -> Stamp:
    """Return a file's stamp, without opening it.

    Raises
    ------
    FileError
        It is missing or can't be looked at.
    """
    try:
        seen = [each.stat() for each in _files(path)]
    except OSError as error:
        raise FileError(f"{path}: can't be read: {cause(error)}; put the file back") from error
    return Stamp(sum(each.st_size for each in seen), max((each.st_mtime_ns for each in seen), default=0))


def _sampled(path: Path) -> str:
    """Return the digest of some pieces of a file, its beginning and end among them."""
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
    """Return the digest of a file, or of the digests of a folder's files."""
    if not path.is_dir():
        return checksum(path)[1]
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(f"{each.relative_to(path).as_posix()}\0{checksum(each)[1]}\n".encode())
    return digest.hexdigest()


def fingerprint(path: Path) -> Fingerprint:
    """Return what a file is now, which reads all of it."""
    return Fingerprint(stamp(path), _sampled(path), _whole(path))


def check_fingerprint(path: Path, known: Fingerprint, *, full: bool = False) -> None:
    """Refuse a file that is not what it was.

    It is looked at in some places; one whose time is another, as that of a copy is, and that is not large,
    is read in full. `full` reads any.

    Raises
    ------
    FileError
        It has changed, or can't be read.
    """
    now = stamp(path)
    same = now.bytes == known.stamp.bytes and _sampled(path) == known.sample
    if same and (full or (now.changed_ns != known.stamp.changed_ns and now.bytes <= _SMALL)):
        same = _whole(path) == known.sha256
    if not same:
        raise FileError(
            f"{path}: has changed since the index was made of it; put the file back or build the index again"
        )
