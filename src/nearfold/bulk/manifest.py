"""What is done of a folder being written: a journal while it grows, a manifest when it is whole.

A shard is written under a hidden name that holds the run's token; then a line of the journal tells its
checksum; then it gets its own name. So whatever a run leaves when it is killed, a file under its own
name is known to be the run's by its digest, and any other belongs to somebody else and is left alone.
When all shards are there the manifest takes the journal's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from nearfold._utils.files import checksum, open_regular, os_errors, remove_beside, replacing, sync_folder
from nearfold._utils.progress import stage
from nearfold._utils.schema import Count, Positive, Sha256, checked_json, encoded, inside
from nearfold._utils.threads import blas_threads, in_order
from nearfold.errors import FileError
from nearfold.version import __version__

__all__ = ["MANIFEST", "Entry", "Ledger", "Manifest", "check_shards", "path_inside", "read_manifest"]

# Readers of folders of Parquet files pass over names that start so.
MANIFEST = "_manifest.json"
_JOURNAL = ".journal.jsonl"
_FORMAT, _VERSION = "nearfold.folded", 1
_JOURNAL_FORMAT = "nearfold.journal"
_TODO = "name an empty folder"
_AGAIN = f"{_TODO}, to fold again"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_Token = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]


class Entry(msgspec.Struct, frozen=True):
    """A shard, which is a range of rows of an input, and what became of it.

    Attributes
    ----------
    source : str
        The input file, named from the input folder.
    start, stop : int
        Its first row, and one past its last.
    file : str, optional
        The output file, named from the output folder. None if the input was set aside.
    bytes : int
        The size of the output file, in bytes.
    sha256 : str
        The SHA-256 of the output file, in hexadecimal.
    error : str, optional
        Why the input was set aside. None if it was not.
    """

    source: _Name
    start: Count
    stop: Count
    file: _Name | None = None
    bytes: Count = 0
    sha256: Sha256 | Literal[""] = ""
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other shards."""
        return self.source, self.start

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are set as values of JSON.

        Returns
        -------
        dict of str to object
        """
        return {name: v for name, v in msgspec.structs.asdict(self).items() if v not in (None, "")}


class Manifest(msgspec.Struct, frozen=True):
    """The content of a folder's manifest: what was done, with which inputs, and each shard.

    Attributes
    ----------
    format : str
        Always "nearfold.folded".
    format_version : int
        The version of the format.
    encoder : str
        The SHA-256 that tells the encoder from others.
    dimensions : tuple of (int, int)
        The dimensions before and after folding.
    dtype : str
        The dtype of the folded vectors.
    cut : str
        The SHA-256 of how the inputs are cut into shards.
    rows : int
        The number of folded rows.
    shards : list of Entry
        All shards, in order.
    set_aside : list of Entry
        The inputs that could not be read.
    inputs : str, optional
        The SHA-256 of the state of the inputs. Manifests of earlier versions don't have it.
    """

    format: Literal["nearfold.folded"]
    format_version: Annotated[int, msgspec.Meta(ge=1, le=_VERSION)]
    encoder: Sha256
    dimensions: tuple[Positive, Positive]
    dtype: Literal["float16", "float32", "float64", "uint8"]
    cut: Sha256
    rows: Count
    shards: list[Entry]
    set_aside: list[Entry]
    inputs: Sha256 | None = None

    @property
    def plan(self) -> dict[str, Any]:
        """What it was made by."""
        return {
            "format": self.format,
            "format_version": self.format_version,
            "encoder": self.encoder,
            "dimensions": list(self.dimensions),
            "dtype": self.dtype,
            "cut": self.cut,
        }


class _Header(msgspec.Struct, frozen=True):
    """The first line of a journal: which run on which inputs, and the token of its hidden names."""

    format: Literal["nearfold.journal"]
    plan: Sha256
    inputs: Sha256
    token: _Token


class Ledger:
    """The record of a folder, which the caller holds (see `files.held`).

    Parameters
    ----------
    folder : pathlib.Path
        The output folder.
    plan : dict
        What is to be written, as values of JSON. A folder of another plan is refused.
    inputs : str
        A digest of the inputs' present state (sizes, times). A run that was begun on inputs in another state
        is refused.
    shards : sequence of Entry
        All shards that are to be written.

    Raises
    ------
    FileError
        The folder holds something else, or a shard that is not as its checksum says, or it can't be
        read or written.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], inputs: str, shards: Sequence[Entry]) -> None:
        self._folder, self._inputs = folder, inputs
        self._plan = {"format": _FORMAT, "format_version": _VERSION, **plan}
        self._shards = {shard.key: shard for shard in shards}
        self._token = secrets.token_hex(4)
        self.entries: dict[tuple[str, int], Entry] = {}
        self.set_aside: list[Entry] = []
        remove_beside(folder)
        self.complete = self._read_manifest()
        if self.complete:
            self._remove_journal()
        elif not self._read_journal():
            self._begin()
        for shard in shards:
            # Whatever has a shard's name and is not in the journal is not of this run.
            if shard.key not in self.entries and os.path.lexists(path_inside(folder, str(shard.file))):
                raise self._error(f"{shard.file} is in the way and not of this run; move it")

    @property
    def _journal(self) -> Path:
        return self._folder / _JOURNAL

    def _error(self, what: str) -> FileError:
        return FileError(f"{self._folder}: {what}; {_TODO}")

    def _read_manifest(self) -> bool:
        manifest = read_manifest(self._folder)
        if manifest is None:
            return False
        if manifest.plan != self._plan:
            raise self._error("holds the result of another run")
        if manifest.inputs is not None and manifest.inputs != self._inputs:
            raise self._error("holds the result of inputs that have changed since")
        if [_place(shard) for shard in self._shards.values()] != [
            _place(shard, self._shards.get(shard.key)) for shard in manifest.shards
        ]:
            raise self._error(f"its {MANIFEST} lists other shards than there are")
        check_shards(self._folder, manifest.shards)
        self.entries = {shard.key: shard for shard in manifest.shards}
        self.set_aside = manifest.set_aside
        return True

    def _read_journal(self) -> bool:
        """Take up the journal of a run that was interrupted, if there is one."""
        content = self._journal_content()
        if content is None:
            return False
        # What follows the last line's end was being written when the run was killed.
        header, *lines = content.split(b"\n")[:-1] or [b""]
        found = checked_json(header, _Header, str(self._journal), _TODO)
        if found.plan != _digest(self._plan):
            raise self._error("was begun by another run")
        if found.inputs != self._inputs:
            raise self._error("was begun on inputs that have changed since")
        self._token = found.token
        known: dict[tuple[str, int], Entry] = {}
        for line in lines:
            entry = checked_json(line, Entry, str(self._journal), _TODO)
            shard = self._shards.get(entry.key)
            if shard is None or _place(entry, shard) != _place(shard):
                raise self._error(f"its {_JOURNAL} names a shard that is none of this run's")
            # Inputs set aside are looked at again: somebody may have mended them.
            if entry.file is not None:
                known[entry.key] = entry
        there = [entry for entry in known.values() if self._in_place(entry)]
        check_shards(self._folder, there, f"remove it, or {_TODO}")
        self.entries = {entry.key: entry for entry in there}
        # A torn line is cut off, so that the next one starts on its own.
        self._append(b"", size=sum(len(line) + 1 for line in (header, *lines)))
        return True

    def _journal_content(self) -> bytes | None:
        """Return what the journal holds; None where there is none."""
        if not os.path.lexists(self._journal):
            return None
        if self._journal.is_symlink():
            raise self._error(f"its {_JOURNAL} is a link")
        with os_errors(self._folder), open_regular(self._journal) as file:
            return file.read()

    def _in_place(self, entry: Entry) -> bool:
        """Return whether a shard that has its line has its name too; it gets it where that was left to do."""
        final, hidden = path_inside(self._folder, str(entry.file)), self.hidden(entry)
        if os.path.lexists(final):
            return True
        if hidden.is_symlink() or not hidden.is_file() or checksum(hidden) != (entry.bytes, entry.sha256):
            return False
        self._name(hidden, final)
        return True

    def _begin(self) -> None:
        if others := [path.name for path in self._folder.iterdir()]:
            raise self._error(f"is not empty (it has {min(others)})")
        header = _Header(_JOURNAL_FORMAT, _digest(self._plan), self._inputs, self._token)  # type: ignore[arg-type]
        # Whole or not at all: a journal without a header is nobody's of ours.
        with replacing(self._journal) as file:
            file.write(msgspec.json.encode(header) + b"\n")

    def _append(self, line: bytes, size: int | None = None) -> None:
        with os_errors(self._folder, "can't be written"):
            handle = os.open(self._journal, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(handle, "ab") as file:
                if size is not None:
                    file.truncate(size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def _name(self, hidden: Path, final: Path) -> None:
        if os.path.lexists(final):
            raise self._error(f"{final.name} is in the way and not of this run; move it")
        with os_errors(final, "can't be written"):
            hidden.rename(final)
        sync_folder(final.parent)

    def _remove_journal(self) -> None:
        """Remove the journal of this run, once the manifest has its place; a file of others stays."""
        content = self._journal_content()
        with contextlib.suppress(FileError, OSError):
            if content is not None:
                header = checked_json(content.split(b"\n")[0], _Header, str(self._journal), _TODO)
                if header.plan == _digest(self._plan):
                    self._journal.unlink()

    def hidden(self, shard: Entry) -> Path:
        """Return the path at which a shard is written, before `add` gives the file its name.

        Parameters
        ----------
        shard : Entry
            The shard.

        Returns
        -------
        pathlib.Path
        """
        final = path_inside(self._folder, str(shard.file))
        return final.with_name(f".{self._token}.{final.name}")

    def add(self, entry: Entry) -> None:
        """Note a shard and give its file its name, or note that it was set aside.

        Parameters
        ----------
        entry : Entry
            The shard, with the size and digest of its file.

        Raises
        ------
        FileError
            The folder can't be written, or another file has the name.
        """
        self._append(msgspec.json.encode(entry.as_dict()) + b"\n")
        if entry.file is not None:
            self._name(self.hidden(entry), path_inside(self._folder, entry.file))
        self.entries[entry.key] = entry

    def finish(self, set_aside: list[Entry]) -> None:
        """Write the manifest, with the shards in their order.

        Parameters
        ----------
        set_aside : list of Entry
            The inputs that were set aside before any was read.

        Raises
        ------
        FileError
            The folder can't be written.
        """
        entries = [self.entries[key] for key in self._shards]
        self.set_aside = [*set_aside, *(entry for entry in entries if entry.file is None)]
        content = {
            "nearfold": __version__,
            **self._plan,
            "inputs": self._inputs,
            "rows": _rows(entries),
            "shards": [entry.as_dict() for entry in entries],
            "set_aside": [entry.as_dict() for entry in self.set_aside],
        }
        with replacing(self._folder / MANIFEST) as file:
            file.write(encoded(content))
        self._remove_journal()
        self.complete = True


def _place(entry: Entry, shard: Entry | None = None) -> tuple[str, int, int, str | None]:
    """Return which rows a shard has and where it goes; where it was set aside, where `shard` would go."""
    file = shard.file if entry.file is None and shard is not None else entry.file
    return entry.source, entry.start, entry.stop, file


def _rows(entries: Iterable[Entry]) -> int:
    return sum(entry.stop - entry.start for entry in entries if entry.file is not None)


def path_inside(folder: Path, name: str) -> Path:
    """Return the path of a file that is named from its folder, or refuse a path that leads out of the folder.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.
    name : str
        The name of the file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileError
        The name is absolute or has `..` in it, or it or a folder on the way is a link.
    """
    path = folder / name
    if not inside(name) or path.is_symlink() or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise FileError(f"{folder}: {name} leads out of the folder; {_TODO}")
    return path


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, after a check that it doesn't contradict itself.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.

    Returns
    -------
    Manifest or None
        None if the folder has no manifest.

    Raises
    ------
    FileError
        The manifest can't be read, is not what nearfold writes, or names files outside the folder.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise FileError(f"{path}: is a link; {_TODO}")
    with open_regular(path) as file:
        manifest = checked_json(file.read(), Manifest, str(path), _TODO)
    if said := next(_contradictions(manifest), None):
        raise FileError(f"{path}: damaged, or not made by nearfold: {said}; {_TODO}")
    for shard in manifest.shards:
        if shard.file is not None:
            path_inside(folder, shard.file)
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what can't be in a manifest."""
    stops: dict[str, int] = {}
    files: set[str] = set()
    for shard in manifest.shards:
        if shard.start != stops.get(shard.source, 0) or shard.stop <= shard.start:
            yield f"rows {shard.start} to {shard.stop} of {shard.source} overlap, or some are missing"
        stops[shard.source] = shard.stop
        if (shard.file is None) != (shard.error is not None) or (shard.file is None) != (not shard.sha256):
            yield f"{shard.source} was neither written nor set aside"
        if shard.file in files or shard.file in (MANIFEST, _JOURNAL):
            yield f"{shard.file} is there twice"
        if shard.file is not None:
            files.add(shard.file)
    if any(entry.file is not None or entry.error is None for entry in manifest.set_aside):
        yield "an input that was set aside has a file, or no reason"
    aside = {entry.key for entry in manifest.set_aside}
    if any(shard.file is None and shard.key not in aside for shard in manifest.shards):
        yield "an input without a file was not set aside"
    if _rows(manifest.shards) != manifest.rows:
        yield f"its shards have {_rows(manifest.shards)} rows, not {manifest.rows}"


def check_shards(folder: Path, entries: Sequence[Entry], todo: str = _AGAIN) -> None:
    """Refuse a folder in which a shard is missing or not what its checksum says; all bytes are read.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.
    entries : sequence of Entry
        The shards. Those that were set aside have no file, and pass.
    todo : str, optional
        What messages tell the user to do, which is by default to fold again.

    Raises
    ------
    FileError
        A shard is missing or has changed; the first such shard is named.
    """
    written = [entry for entry in entries if entry.file is not None]
    with stage("check", sum(entry.bytes for entry in written), "bytes") as advance:
        for read in in_order(partial(_check_shard, folder, todo), written, max(1, blas_threads())):
            advance(read)


def _check_shard(folder: Path, todo: str, entry: Entry) -> int:
    path = path_inside(folder, str(entry.file))
    if not os.path.lexists(path):
        raise FileError(f"{folder}: {entry.file} is missing; {todo}")
    # The size first: a file of another one need not be read.
    if path.stat().st_size != entry.bytes or checksum(path) != (entry.bytes, entry.sha256):
        raise FileError(f"{folder}: {entry.file} has changed since it was written; {todo}")
    return entry.bytes


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
