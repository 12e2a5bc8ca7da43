"""What is done of a folder being written: a journal while it grows, a manifest when it is whole.

Every shard is one file, which appears whole or not at all; behind it a line of the journal says so,
with its checksum. A run that is killed leaves at most files without a line, which are written
again. When all shards are there the manifest takes the journal's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from nearfold.errors import FileError
from nearfold.files import cause, remove_beside, replacing
from nearfold.version import __version__

__all__ = ["MANIFEST", "Entry", "Ledger"]

# Readers of folders of Parquet files pass over names that start so.
MANIFEST = "_manifest.json"
_JOURNAL = ".journal.jsonl"
_FORMAT, _VERSION = "nearfold.folded", 1


class Entry(NamedTuple):
    """One shard that was dealt with.

    Parameters
    ----------
    source, start, stop
        The input file, named from the input folder, and its rows.
    file
        The output file, named from the output folder; None where the input was set aside.
    bytes, sha256
        Of the output file.
    error
        Why the input was set aside.
    """

    source: str
    start: int
    stop: int
    file: str | None
    bytes: int = 0
    sha256: str = ""
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return {name: value for name, value in self._asdict().items() if value not in (None, "")}


class Ledger:
    """The record of a folder, which the caller holds (see `files.held`).

    Parameters
    ----------
    folder
        The output folder.
    plan
        What is to be written, as JSON holds it: a run with another plan is refused.
    inputs
        What tells the inputs' present state from another (sizes, times): a run begun on others
        is not gone on with.

    Raises
    ------
    FileError
        The folder holds something else, or can't be read or written.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], inputs: str) -> None:
        self._folder = folder
        self._plan = {"format": _FORMAT, "format_version": _VERSION, **plan}
        self._header = {"plan": _digest(self._plan), "inputs": inputs}
        self.entries: dict[tuple[str, int], Entry] = {}
        self.set_aside: list[Entry] = []
        remove_beside(folder)
        self.complete = self._read_manifest()
        if self.complete:
            with contextlib.suppress(OSError):
                (folder / _JOURNAL).unlink(missing_ok=True)
            return
        if not self._read_journal():
            self._begin()

    def _error(self, what: str) -> FileError:
        return FileError(f"{self._folder}: {what}; name an empty folder")

    def _read_manifest(self) -> bool:
        path = self._folder / MANIFEST
        if not path.exists():
            return False
        try:
            found = json.loads(path.read_text())
            shards, aside = found.pop("shards"), found.pop("set_aside")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise self._error(f"its {MANIFEST} can't be read") from error
        # A later version may finish what an earlier one began.
        found = {name: value for name, value in found.items() if name not in ("nearfold", "rows")}
        if found != self._plan:
            raise self._error("holds the result of another run")
        for shard in shards:
            self._take(Entry(**{"file": None, **shard}))
        self.set_aside = [Entry(**{"file": None, **entry}) for entry in aside]
        return self._have_files()

    def _have_files(self) -> bool:
        for entry in self.entries.values():
            if entry.file is not None and not self._is_there(entry):
                raise self._error(f"{entry.file} is missing or not as {MANIFEST} says")
        return True

    def _is_there(self, entry: Entry) -> bool:
        path = self._folder / str(entry.file)
        return path.is_file() and path.stat().st_size == entry.bytes

    def _read_journal(self) -> bool:
        """Take up the journal of a run that was interrupted, if there is one."""
        try:
            lines = (self._folder / _JOURNAL).read_bytes().split(b"\n")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FileError(f"{self._folder}: can't be read: {cause(error)}") from error
        # What follows the last line's end was being written when the run was killed.
        whole = lines[:-1]
        if not whole:
            return False
        try:
            header, *entries = [json.loads(line) for line in whole]
            found = [Entry(**{"file": None, **entry}) for entry in entries]
        except (ValueError, TypeError) as error:
            raise self._error("the journal of an earlier run is damaged") from error
        if header != self._header:
            changed = header.get("plan") == self._header["plan"]
            raise self._error(
                "was begun on inputs that have changed since" if changed else "was begun by another run"
            )
        for entry in found:
            # Inputs set aside are looked at again: somebody may have mended them.
            if entry.file is not None and self._is_there(entry):
                self._take(entry)
        # A torn line is cut off, so that the next one starts on its own.
        self._append(b"", size=sum(len(line) + 1 for line in whole))
        return True

    def _begin(self) -> None:
        others = [path.name for path in self._folder.iterdir() if path.name != _JOURNAL]
        if others:
            raise self._error(f"is not empty (it has {min(others)})")
        self._append(json.dumps(self._header).encode() + b"\n", size=0)

    def _append(self, line: bytes, size: int | None = None) -> None:
        try:
            with (self._folder / _JOURNAL).open("ab") as file:
                if size is not None:
                    file.truncate(size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"{self._folder}: can't be written: {cause(error)}") from error

    def _take(self, entry: Entry) -> None:
        self.entries[entry.source, entry.start] = entry

    def add(self, entry: Entry) -> None:
        """Note a shard whose file is in its place, or that was set aside."""
        self._append(json.dumps(entry.as_dict()).encode() + b"\n")
        self._take(entry)

    def finish(self, order: list[tuple[str, int]], set_aside: list[Entry]) -> None:
        """Write the manifest: the shards in `order`, and inputs set aside before any was read."""
        entries = [self.entries[key] for key in order]
        self.set_aside = [*set_aside, *(entry for entry in entries if entry.file is None)]
        content = {
            "nearfold": __version__,
            **self._plan,
            "rows": sum(entry.stop - entry.start for entry in entries if entry.file is not None),
            "shards": [entry.as_dict() for entry in entries],
            "set_aside": [entry.as_dict() for entry in self.set_aside],
        }
        with replacing(self._folder / MANIFEST) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
        with contextlib.suppress(OSError):
            (self._folder / _JOURNAL).unlink(missing_ok=True)
        self.complete = True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
