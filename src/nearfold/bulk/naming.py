"""What the files of an output folder are called, and that no two of them are one."""

from __future__ import annotations

import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nearfold._utils.files import os_errors
from nearfold.bulk.manifest import Entry
from nearfold.errors import FileError

__all__ = ["Piece", "check_distinct", "check_names", "output_names"]


class Piece(NamedTuple):
    """The rows of an input that become one output file.

    Attributes
    ----------
    path : str
        The input, as `open_source` takes it.
    column : str, optional
        The name of its column of vectors, as `open_source` takes it.
    shard : Entry
        The rows, and the name of the output file.
    """

    path: str
    column: str | None
    shard: Entry


def output_names(names: Sequence[str], suffix: str) -> list[str]:
    """Return the names that inputs get when they are written with another ending.

    Parameters
    ----------
    names : sequence of str
        The names of the inputs.
    suffix : str
        The ending of the outputs, such as ".npy". Inputs that differ in their ending alone keep theirs before
        it.

    Returns
    -------
    list of str
    """
    outs = [str(PurePosixPath(name).with_suffix(suffix)) for name in names]
    # Files that differ in their ending alone keep it.
    doubled = {out for out, count in Counter(outs).items() if count > 1}
    return [name + suffix if out in doubled else out for name, out in zip(names, outs, strict=True)]


def check_names(pieces: Iterable[Piece]) -> None:
    """Refuse inputs if two would become one file, or one would become the folder of another.

    Parameters
    ----------
    pieces : iterable of Piece
        The inputs and their outputs.

    Raises
    ------
    FileError
        There are two such inputs, which the message names.
    """
    taken: dict[str, str] = {}
    for piece in pieces:
        name = str(piece.shard.file)
        if name in taken:
            raise _clash(taken[name], piece.path, name)
        taken[name] = piece.path
    for name, path in taken.items():
        for parent in PurePosixPath(name).parents:
            if str(parent) in taken:
                raise _clash(taken[str(parent)], path, str(parent))


def _clash(first: str, second: str, name: str) -> FileError:
    return FileError(f"{second}: would become {name} in the output, as {first} would; rename one of them")


def check_distinct(folder: Path, pieces: Iterable[Piece]) -> None:
    """Refuse inputs if the disk of the output folder takes two of their output names for one.

    Some disks take names that differ in case alone, or in how an accent is written, for the same.

    Parameters
    ----------
    folder : pathlib.Path
        The output folder, which exists.
    pieces : iterable of Piece
        The inputs and their outputs.

    Raises
    ------
    FileError
        There are two such inputs, which the message names, or the folder can't be written.
    """
    alike: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        alike[_folded(str(piece.shard.file))].append(piece)
    doubtful = [group for group in alike.values() if len(group) > 1]
    if not doubtful:
        return
    # Asked of the disk itself, in a folder that is gone before anything is written.
    with (
        os_errors(folder, "can't be written"),
        tempfile.TemporaryDirectory(prefix=".nearfold-", dir=folder) as probe,
    ):
        for number, group in enumerate(doubtful):
            first = group[0]
            home = Path(probe) / str(number)
            _touched(home / str(first.shard.file))
            for other in group[1:]:
                path = home / str(other.shard.file)
                if path.exists():
                    raise _clash(first.path, other.path, str(other.shard.file))
                _touched(path)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _touched(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
