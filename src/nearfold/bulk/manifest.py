"""What is done of a folder being written: a journal while it grows, a manifest when it is whole.

A shard is written under a hidden name that holds the run's token; then a line of the journal tells its
checksum; then it gets its own name. So whatever a run leaves when it is killed, a file under its own
name is known to be the run's by its digest, and any other belongs to somebody else and is left alone.
When all shards are there the manifest takes the journal's place. Where the inputs have grown since, a
journal that lists the shards of the manifest takes its place in turn, until the new shards are there too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from nearfold._utils.files import checksum, open_regular, os_errors, remove_beside, replacing, sync_folder
from nearfold._utils.progress import stage
from nearfold._utils.schema import Count, Positive, Sha256, checked_json, encoded, inside
from nearfold._utils.threads import blas_threads, in_order
from nearfold._utils.warned import warn
from nearfold.errors import FileError
from nearfold.io.base import listed
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
    input : str
        The SHA-256 of the state of the input file: its rows, columns and time of change. Empty in what
        earlier versions wrote.
    """

    source: _Name
    start: Count
    stop: Count
    file: _Name | None = None
    bytes: Count = 0
    sha256: Sha256 | Literal[""] = ""
    error: str | None = None
    input: Sha256 | Literal[""] = ""

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
    """The first line of a journal: which run on which inputs, and the token of its hidden names.

    `work` is the digest of the plan without its inputs. Journals of earlier versions don't have it.
    """

    format: Literal["nearfold.journal"]
    plan: Sha256
    inputs: Sha256
    token: _Token
    work: Sha256 | None = None


class Ledger:
    """The record of a folder, which the caller holds (see `files.held`).

    Parameters
    ----------
    folder : pathlib.Path
        The output folder.
    plan : dict
        What is to be written, as values of JSON. A folder of a plan that differs in more than its inputs,
        which "cut" tells, is refused.
    states : mapping of str to object
        The present state of each input (rows, columns, time of change) by its name, as values of JSON.
    inputs : str
        A digest of all states.
    shards : sequence of Entry
        All shards that are to be written, in order, each with the digest of its input's state. Those that
        an earlier run has written must be among them and unchanged; there may be more than it knew.

    Raises
    ------
    FileError
        The folder holds something else, or a shard that is not as its checksum says, or it can't be
        read or written; or the input of a shard that is in the folder has changed or is gone.

    Warns
    -----
    NearfoldWarning
        A new input comes before others of a finished run, so that their rows get other numbers.
    """

    def __init__(
        self,
        folder: Path,
        plan: dict[str, Any],
        states: Mapping[str, Any],
        inputs: str,
        shards: Sequence[Entry],
    ) -> None:
        self._folder, self._states, self._inputs = folder, states, inputs
        self._plan = {"format": _FORMAT, "format_version": _VERSION, **plan}
        self._shards = {shard.key: shard for shard in shards}
        self._token = secrets.token_hex(4)
        self.entries: dict[tuple[str, int], Entry] = {}
        self.set_aside: list[Entry] = []
        remove_beside(folder)
        manifest = read_manifest(folder)
        self.complete = manifest is not None and self._is_whole(manifest)
        if self.complete:
            self._remove_journal()
        elif manifest is not None:
            self._grow(manifest)
        elif not self._read_journal():
            self._begin()
        self._check_free()

    @property
    def _work(self) -> str:
        return _digest(_without_inputs(self._plan))

    @property
    def _journal(self) -> Path:
        return self._folder / _JOURNAL

    def _error(self, what: str) -> FileError:
        return FileError(f"{self._folder}: {what}; {_TODO}")

    def _check_free(self) -> None:
        """Refuse the folder if a file that is not of this run has the name of a shard to be written."""
        for shard in self._shards.values():
            if shard.key not in self.entries and os.path.lexists(path_inside(self._folder, str(shard.file))):
                raise self._error(f"{shard.file} is in the way and not of this run; move it")

    def _is_whole(self, manifest: Manifest) -> bool:
        """Take up the result of a finished run; return False if its inputs are not all that there are now."""
        if manifest.plan != self._plan or manifest.inputs not in (None, self._inputs):
            return False
        if [_place(shard) for shard in self._shards.values()] != [
            _place(shard, self._shards.get(shard.key)) for shard in manifest.shards
        ]:
            raise self._error(f"its {MANIFEST} lists other shards than there are")
        check_shards(self._folder, manifest.shards)
        self.entries = {shard.key: shard for shard in manifest.shards}
        self.set_aside = manifest.set_aside
        return True

    def _grow(self, manifest: Manifest) -> None:
        """Take up the shards of a finished run whose inputs are among those that there are now.

        Inputs that were set aside have no shard, so they may have changed; they are looked at again.
        """
        if _without_inputs(manifest.plan) != _without_inputs(self._plan):
            raise self._error("holds the result of another run")
        done = [entry for entry in manifest.shards if entry.file is not None]
        self._check_kept(done, "holds the result of")
        if not all(entry.input for entry in done):
            # A manifest of an earlier version has one digest of all its inputs.
            known = {entry.source for entry in manifest.shards}
            states = [state for name, state in self._states.items() if name in known]
            if manifest.inputs not in (None, _digest(states)):
                raise self._error("holds the result of inputs that have changed since")
        if self._journal_content() is not None and not self._owns_journal(manifest):
            raise self._error(f"its {_JOURNAL} is in the way and not of this run; move it")
        check_shards(self._folder, done)
        self.entries = {
            entry.key: msgspec.structs.replace(entry, input=self._shards[entry.key].input) for entry in done
        }
        self._check_free()
        self._warn_of_order(manifest)
        # A folder has a manifest only when it is whole. If this run is killed between the two steps, the
        # next one finds both files and does the same again.
        self._write_journal()
        with os_errors(self._folder, "can't be written"):
            (self._folder / MANIFEST).unlink()
        sync_folder(self._folder)

    def _warn_of_order(self, manifest: Manifest) -> None:
        """Warn of new inputs whose names come before those of shards that a finished run has written."""
        aside = {entry.key: entry.input for entry in manifest.shards if entry.file is None}
        new: list[str] = []
        for shard in self._shards.values():
            if shard.key not in self.entries and aside.get(shard.key) != shard.input:
                new.append(shard.source)
            elif shard.key in self.entries and new:
                warn(
                    f"{self._folder}: rows are in the order of the inputs' names, so new ones of "
                    f"{listed(new)} come before those of {shard.source}, which were there: row numbers from "
                    f"there on are higher than they were, as in the input"
                )
                return

    def _check_kept(self, entries: Iterable[Entry], found: str) -> None:
        """Refuse inputs if one whose shard an earlier run has written is gone, or gives another shard now.

        `found` begins the messages, which name these inputs.
        """
        present = {shard.source for shard in self._shards.values()}
        gone: dict[str, None] = {}
        changed: dict[str, None] = {}
        moved: list[tuple[Entry, Entry]] = []
        for entry in entries:
            shard = self._shards.get(entry.key)
            if entry.source not in present:
                gone[entry.source] = None
            elif shard is None or shard.stop != entry.stop or entry.input not in ("", shard.input):
                changed[entry.source] = None
            elif shard.file != entry.file:
                moved.append((entry, shard))
        for names, what in ((gone, "are gone or can't be read any more"), (changed, "have changed since")):
            if names:
                raise FileError(
                    f"{self._folder}: {found} inputs that {what}: {listed(names)}; "
                    f"put back what was there, or {_AGAIN}"
                )
        if moved:
            raise self._moved(*moved[0], found)

    def _moved(self, entry: Entry, shard: Entry, found: str) -> FileError:
        """Return the error for a shard that would get another name because of new inputs."""
        suffix = PurePosixPath(str(entry.file)).suffix
        same = PurePosixPath(str(shard.file)).suffix == suffix
        todo = "rename the new input" if same else f"give the format {suffix.removeprefix('.')} (--format)"
        return FileError(
            f"{self._folder}: {found} {entry.source}, which was written to {entry.file} and would become "
            f"{shard.file} with the inputs that there are now; {todo}, or {_AGAIN}"
        )

    def _read_journal(self) -> bool:
        """Take up the journal of a run that was interrupted, if there is one."""
        content = self._journal_content()
        if content is None:
            return False
        # What follows the last line's end was being written when the run was killed.
        header, *lines = content.split(b"\n")[:-1] or [b""]
        found = checked_json(header, _Header, str(self._journal), _TODO)
        same = found.plan == _digest(self._plan) and found.inputs == self._inputs
        if not same and found.work != self._work:
            other = found.plan != _digest(self._plan)
            raise self._error(
                "was begun by another run" if other else "was begun on inputs that have changed since"
            )
        self._token = found.token
        entries = [checked_json(line, Entry, str(self._journal), _TODO) for line in lines]
        # Inputs set aside are looked at again: somebody may have mended them.
        known = {entry.key: entry for entry in entries if entry.file is not None}
        if not same:
            # What has no shard yet may have changed, and there may be more of it.
            self._check_kept(known.values(), "was begun on")
        for entry in entries if same else known.values():
            shard = self._shards.get(entry.key)
            if shard is None or _place(entry, shard) != _place(shard):
                raise self._error(f"its {_JOURNAL} names a shard that is none of this run's")
        there = [entry for entry in known.values() if self._in_place(entry)]
        check_shards(self._folder, there, f"remove it, or {_TODO}")
        self.entries = {entry.key: entry for entry in there}
        if same:
            # A torn line is cut off, so that the next one starts on its own.
            self._append(b"", size=sum(len(line) + 1 for line in (header, *lines)))
        else:
            self._check_free()
            self._write_journal()
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
        self._write_journal()

    def _write_journal(self) -> None:
        """Write a journal of the shards that there are, in place of any earlier one."""
        header = _Header(_JOURNAL_FORMAT, _digest(self._plan), self._inputs, self._token, self._work)  # type: ignore[arg-type]
        # Whole or not at all: a journal without a header is nobody's of ours.
        with replacing(self._journal) as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.writelines(_line(entry) for entry in self.entries.values())

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
        if self._owns_journal():
            with contextlib.suppress(OSError):
                self._journal.unlink()

    def _owns_journal(self, manifest: Manifest | None = None) -> bool:
        """Return whether there is a journal of this run, or of the one that wrote a manifest."""
        content = self._journal_content()
        if content is None:
            return False
        try:
            header = checked_json(content.split(b"\n")[0], _Header, str(self._journal), _TODO)
        except FileError:
            return False
        plan = self._plan if manifest is None else manifest.plan
        return header.work == self._work or header.plan == _digest(plan)

    @property
    def unopened(self) -> list[Entry]:
        """The inputs that were set aside because they could not even be opened."""
        return [entry for entry in self.set_aside if entry.key not in self.entries]

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
        self._append(_line(entry))
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


def _line(entry: Entry) -> bytes:
    return msgspec.json.encode(entry.as_dict()) + b"\n"


def _without_inputs(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name != "cut"}


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
