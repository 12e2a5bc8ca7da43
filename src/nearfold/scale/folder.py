"""Fold vectors shard by shard into a folder; a run that was killed is gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError, NearfoldError
from nearfold.files import checksum, held
from nearfold.io.base import Source
from nearfold.io.location import Location
from nearfold.io.vectors import WRITABLE, as_source, open_sink, open_source
from nearfold.pipeline.pipeline import Applied
from nearfold.progress import stage
from nearfold.scale.engine import Engine
from nearfold.scale.engines import engine_for
from nearfold.scale.ledger import Entry, Ledger
from nearfold.scale.shards import absolute
from nearfold.scale.transform import check_output, folded_chunks, folded_layout

__all__ = ["Folded", "fold_folder"]

# float32 bytes of input that make one output file, where the input is one file.
_SHARD_BYTES = 128 << 20


class Folded(NamedTuple):
    """What a run into a folder came to.

    Parameters
    ----------
    rows
        Folded rows in the folder.
    shards
        Its files.
    written
        How many of them this run wrote; the others were there.
    set_aside
        Inputs that could not be read, with the reason.
    """

    rows: int
    shards: int
    written: int
    set_aside: tuple[Entry, ...]


class _Task(NamedTuple):
    """A shard to fold, wherever that is done."""

    encoder: Applied
    path: str
    column: str | None
    start: int
    stop: int
    out: str
    dtype: str
    entry: Entry


class _BadInputError(Exception):
    """A shard could not be read or folded; its output was not at fault."""


def fold_folder(
    encoder: Applied,
    source: str | os.PathLike[str] | Source,
    out: str | os.PathLike[str],
    engine: Engine | None = None,
    *,
    column: str | None = None,
    suffix: str | None = None,
    dtype: npt.DTypeLike = np.float32,
    skip_bad: bool = False,
    unreadable: Sequence[tuple[str, NearfoldError]] = (),
) -> Folded:
    """Fold a source shard by shard into a folder; a run that was killed is gone on with.

    A folder's files keep their names; one file becomes part-00000, part-00001, ... Order and other
    columns are kept. The folder has a manifest with a checksum a file. Only one run at a time can
    write to it, and a finished one is left as it is.

    Parameters
    ----------
    encoder
        Of the source's d dimensions.
    source
        A file, a folder of files, a URL, or what `open_source` made of one.
    column
        The column of vectors, where there are several.
    out
        The folder; missing, empty, or of an earlier run of the same.
    engine
        From `engine_for`; None for this machine with half of its memory.
    suffix
        The format of the files, such as ".parquet"; None for the input's own, or Parquet where that
        can't be written.
    dtype
        Of the folded vectors: float32, float16 or float64.
    skip_bad
        Set inputs aside that can't be read or folded, and count them, instead of stopping.
    unreadable
        Inputs that could not even be opened, to be noted.

    Raises
    ------
    DataError
        The source's width is not the encoder's, or a row is not finite.
    FileError
        An input can't be read, the folder is held by another run or has something else in it, or
        can't be written.
    """
    source, engine = as_source(source, column), engine or engine_for()
    folder = Path(out)
    suffix = suffix or _suffix_of(source)
    if suffix not in WRITABLE:
        raise FileError(f"{folder}: {suffix} can't be written; use {', '.join(WRITABLE)}")
    check_output(encoder, source, os.fspath(out), suffix)
    tasks = _tasks(encoder, source, column, folder, suffix, dtype)
    plan = {
        "encoder": _identity(encoder),
        "dimensions": [encoder.n_features, encoder.n_components],
        "dtype": np.dtype(dtype).name,
        "cut": [[t.entry.source, t.entry.start, t.entry.stop, t.entry.file] for t in tasks],
    }
    with held(folder):
        ledger = Ledger(folder, {**plan, "cut": _sha256(plan["cut"])}, _state_of(source))
        if not ledger.complete:
            written = _write_missing(tasks, ledger, engine, skip_bad=skip_bad)
            noted = [Entry(_name(source, name), 0, 0, None, error=str(error)) for name, error in unreadable]
            ledger.finish([(t.entry.source, t.entry.start) for t in tasks], noted)
        else:
            written = 0
    entries = list(ledger.entries.values())
    kept = [entry for entry in entries if entry.file is not None]
    return Folded(
        rows=sum(entry.stop - entry.start for entry in kept),
        shards=len(kept),
        written=written,
        set_aside=tuple(ledger.set_aside),
    )


def _write_missing(tasks: list[_Task], ledger: Ledger, engine: Engine, *, skip_bad: bool) -> int:
    """Fold the shards that are not there yet; return how many files that made."""
    todo = [task for task in tasks if (task.entry.source, task.entry.start) not in ledger.entries]
    written = 0
    with stage("fold", sum(task.stop - task.start for task in tasks)) as advance:
        advance(sum(entry.stop - entry.start for entry in ledger.entries.values()))
        for entry in engine.map(_fold_shard, todo):
            if entry.error is not None and not skip_bad:
                raise FileError(f"{entry.error} (--skip-bad sets such input aside)")
            ledger.add(entry)
            written += entry.file is not None
            advance(entry.stop - entry.start)
    return written


def _fold_shard(task: _Task) -> Entry:
    """Fold one shard into its file; return its entry, or why it is to be set aside."""
    out = Path(task.out)
    try:
        try:
            source = open_source(task.path, task.column)
        except NearfoldError as error:
            raise _BadInputError(str(error)) from error
        layout = folded_layout(
            task.encoder, source.layout, task.stop - task.start, out.suffix.lower(), task.dtype
        )
        chunks = folded_chunks(
            task.encoder, source, task.start, task.stop, others=layout.others is not None, dtype=task.dtype
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        with open_sink(out, layout) as sink:
            while True:
                try:
                    chunk = next(chunks, None)
                except NearfoldError as error:
                    raise _BadInputError(str(error)) from error
                if chunk is None:
                    break
                sink.write(chunk)
    except _BadInputError as error:
        return task.entry._replace(file=None, error=str(error))
    size, digest = checksum(out)
    return task.entry._replace(bytes=size, sha256=digest)


def _tasks(
    encoder: Applied,
    source: Source,
    column: str | None,
    folder: Path,
    suffix: str,
    dtype: npt.DTypeLike,
) -> list[_Task]:
    """Return a task for each output file."""
    pieces: list[tuple[Source, str, int, int, str]] = []
    if source.parts[0] is source:
        rows = max(1, _SHARD_BYTES // (4 * source.layout.n_features))
        name = _name(source, source.path)
        pieces = [
            (source, name, start, stop, f"part-{i:05d}{suffix}")
            for i, (start, stop) in enumerate(source.pieces(rows))
        ]
    else:
        names = [_name(source, part.path) for part in source.parts]
        outs = [str(Path(name).with_suffix(suffix)) for name in names]
        # Files that differ in their ending alone keep it.
        doubled = {out for out, count in Counter(outs).items() if count > 1}
        for part, name, out in zip(source.parts, names, outs, strict=True):
            pieces.append((part, name, 0, part.layout.rows, name + suffix if out in doubled else out))
    return [
        _Task(
            encoder,
            absolute(part.path),
            column,
            start,
            stop,
            str(folder.absolute() / out),
            np.dtype(dtype).name,
            Entry(name, start, stop, out),
        )
        for part, name, start, stop, out in pieces
    ]


def _name(source: Source, path: str) -> str:
    """Return a file's name seen from the source's folder, or alone where the source is the file."""
    root = source.path.rstrip("/")
    return path[len(root) + 1 :] if path.startswith(f"{root}/") else Location.of(path).last


def _suffix_of(source: Source) -> str:
    suffix = Location.of(source.parts[0].path).suffix
    return suffix if suffix in (".npy", ".parquet", ".arrow", ".feather") else ".parquet"


def _identity(encoder: Applied) -> str:
    """Return a digest of all that an encoder's results depend on."""
    tensors = sorted(encoder.tensors().items())
    parts = b"".join(name.encode() + str(t.shape).encode() + t.tobytes() for name, t in tensors)
    return hashlib.sha256(encoder.format_name.encode() + parts).hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _state_of(source: Source) -> str:
    """Return a digest of the inputs' sizes and, on this machine, times of change."""
    states = []
    for part in source.parts:
        local = Location.of(part.path).local
        changed = local.stat().st_mtime_ns if local is not None and local.exists() else 0
        states.append([part.path, part.layout.rows, changed])
    return _sha256(states)
