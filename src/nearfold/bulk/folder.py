"""Fold vectors shard by shard into a folder; a run that was killed is resumed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from nearfold._utils.files import checksum, held
from nearfold._utils.progress import stage
from nearfold.bulk.file import check_output, folded_chunks, folded_layout, keeps_columns
from nearfold.bulk.manifest import MANIFEST, Entry, Ledger, check_shards, read_manifest
from nearfold.bulk.naming import Piece, check_distinct, check_names, output_names
from nearfold.codecs.codec import Applied
from nearfold.errors import FileError, NearfoldError
from nearfold.io.base import Source
from nearfold.io.location import Location
from nearfold.io.npy import HeldSource
from nearfold.io.vectors import WRITABLE, as_source, open_sink
from nearfold.scan.engine import Engine
from nearfold.scan.engines import engine_for
from nearfold.scan.shards import absolute

__all__ = ["VerifiedFolder", "Written", "apply_to_folder", "verify_folder"]

# float32 bytes of input that make one output file, where the input is one file.
_SHARD_BYTES = 128 << 20


class Written(NamedTuple):
    """What `apply` has written.

    Attributes
    ----------
    rows : int
        The number of folded rows in the output.
    files : int
        The number of files of the output.
    new_files : int
        The number of files that this run wrote; an earlier run wrote the others.
    set_aside : tuple of Entry
        The inputs that could not be read, each with the reason.
    """

    rows: int
    files: int
    new_files: int
    set_aside: tuple[Entry, ...] = ()


class VerifiedFolder(NamedTuple):
    """What a folded folder holds, after every byte was compared with the checksums of its manifest.

    Attributes
    ----------
    rows : int
        The number of folded rows.
    shards : int
        The number of files that hold them.
    bytes : int
        The size of those files, in bytes.
    set_aside : int
        The number of inputs that could not be read when the folder was written.
    unlisted : int
        The number of further files, which the manifest doesn't name but a reader of the folder would take.
    """

    rows: int
    shards: int
    bytes: int
    set_aside: int
    unlisted: int


class _Task(NamedTuple):
    """A shard to fold, wherever that is done."""

    encoder: Applied
    source: str | Source
    column: str | None
    shard: Entry
    out: str
    dtype: str


class _BadInputError(Exception):
    """A shard could not be read or folded; its output was not at fault."""


def apply_to_folder(
    encoder: Applied,
    source: Source,
    folder: Path,
    *,
    suffix: str | None,
    dtype: npt.DTypeLike,
    skip_bad: bool,
) -> Written:
    """Fold a source shard by shard into a folder; a run that was killed is resumed. See `apply`.

    A folder's files keep their names; one file becomes part-00000, part-00001, ... The folder has a manifest
    with a checksum for each file. Inputs that could not even be opened are noted in it. Where the source has
    files that an earlier run did not know, these are folded, and the others are left as they are.

    Parameters
    ----------
    encoder : Applied
        The fold or codec.
    source : Source
        The vectors.
    folder : pathlib.Path
        The output folder, which must be empty, or what an earlier run with the same arguments left. The
        source may have got more files since.
    suffix : str or None
        The ending of the files. None stands for that of the first input if it is .npy, Parquet or Arrow and
        can hold the columns of all, and otherwise for .parquet.
    dtype : dtype-like
        The dtype of the folded vectors.
    skip_bad : bool
        Whether inputs that can't be read are skipped, and noted in the manifest.

    Returns
    -------
    Written

    Raises
    ------
    DataError
        Vectors are not as wide as the encoder takes them, or a row can't be folded.
    FileError
        An input can't be read, the folder holds something else or can't be written, or lies in the input;
        or an input that was folded into it has changed since or is gone.

    Warns
    -----
    NearfoldWarning
        A new file comes before one that a finished run has folded, so that row numbers are higher from there.
    """
    engine = engine_for(source)
    suffix = suffix or _suffix_of(source)
    if suffix not in WRITABLE:
        raise FileError(f"{folder}: {suffix} can't be written; use {', '.join(WRITABLE)}")
    check_output(encoder, source, os.fspath(folder), suffix)
    _check_apart(source, folder)
    states = _states_of(source)
    pieces = _pieces(source, suffix, states)
    check_names(pieces)
    shards = [piece.shard for piece in pieces]
    plan = {
        "encoder": _identity(encoder),
        "dimensions": [encoder.n_features, encoder.n_components],
        "dtype": np.dtype(dtype).name,
        "cut": _sha256([[s.source, s.start, s.stop, s.file] for s in shards]),
    }
    with held(folder):
        check_distinct(folder, pieces)
        ledger = Ledger(folder, plan, states, _state_of(source, states), shards)
        noted = [Entry(_name(source, name), 0, 0, None, error=str(error)) for name, error in source.skipped]
        written = 0
        if not ledger.complete:
            tasks = [
                _Task(
                    encoder,
                    source if source.in_memory else absolute(piece.path),
                    piece.column,
                    piece.shard,
                    str(ledger.hidden(piece.shard).absolute()),
                    np.dtype(dtype).name,
                )
                for piece in pieces
            ]
            written = _write_missing(tasks, ledger, engine, skip_bad=skip_bad)
            ledger.finish(noted)
        elif {entry.source for entry in noted} != {entry.source for entry in ledger.unopened}:
            # The shards are the same, but other inputs than before can't even be opened.
            ledger.finish(noted)
    kept = [entry for entry in ledger.entries.values() if entry.file is not None]
    return Written(
        rows=sum(entry.stop - entry.start for entry in kept),
        files=len(kept),
        new_files=written,
        set_aside=tuple(replace(entry, input="") for entry in ledger.set_aside),
    )


def verify_folder(folder: str | os.PathLike[str]) -> VerifiedFolder:
    """Check that every shard of a folded folder is there as its manifest says, by its full digest.

    Parameters
    ----------
    folder : str or path-like
        A folder that `apply` wrote.

    Returns
    -------
    VerifiedFolder

    Raises
    ------
    FileError
        A shard is missing or has changed, and is named; the manifest is missing, damaged or
        contradicts itself; or the run that writes the folder has not finished.
    """
    home = Path(folder)
    manifest = read_manifest(home)
    if manifest is None:
        raise FileError(
            f"{home}: has no {MANIFEST}, so it can't be verified; give a folder that `apply` finished"
        )
    check_shards(home, manifest.shards)
    written = {entry.file: entry for entry in manifest.shards if entry.file is not None}
    return VerifiedFolder(
        rows=manifest.rows,
        shards=len(written),
        bytes=sum(entry.bytes for entry in written.values()),
        set_aside=len(manifest.set_aside),
        unlisted=sum(
            Path(file.path).relative_to(home).as_posix() not in written for file in Location.of(home).files()
        ),
    )


def _write_missing(tasks: list[_Task], ledger: Ledger, engine: Engine, *, skip_bad: bool) -> int:
    """Fold the shards that are not there yet; return how many files that made."""
    todo = [task for task in tasks if task.shard.key not in ledger.entries]
    written = 0
    with stage("fold", sum(task.shard.stop - task.shard.start for task in tasks)) as advance:
        advance(sum(entry.stop - entry.start for entry in ledger.entries.values()))
        for entry in engine.map(_fold_shard, todo):
            if entry.error is not None and not skip_bad:
                raise FileError(f"{entry.error} (--skip-bad sets such input aside)")
            ledger.add(entry)
            written += entry.file is not None
            advance(entry.stop - entry.start)
    return written


def _fold_shard(task: _Task) -> Entry:
    """Fold one shard into its hidden file; return its entry, or why it is to be set aside."""
    out, start, stop = Path(task.out), task.shard.start, task.shard.stop
    try:
        try:
            source = as_source(task.source, task.column)
        except NearfoldError as error:
            raise _BadInputError(str(error)) from error
        layout = folded_layout(task.encoder, source, stop - start, out.suffix.lower(), task.dtype)
        chunks = folded_chunks(task.encoder, source, start, stop, columns=layout.others, dtype=task.dtype)
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
        return replace(task.shard, file=None, error=str(error))
    size, digest = checksum(out)
    return replace(task.shard, bytes=size, sha256=digest)


def _pieces(source: Source, suffix: str, states: dict[str, Any]) -> list[Piece]:
    """Return a piece for each output file."""
    digests = {name: _sha256(state) for name, state in states.items()}
    if source.parts[0] is source:
        rows = max(1, _SHARD_BYTES // (4 * source.layout.n_features))
        name = _name(source, source.path)
        return [
            Piece(
                source.path,
                source.column_name,
                Entry(name, start, stop, f"part-{i:05d}{suffix}", input=digests[name]),
            )
            for i, (start, stop) in enumerate(source.pieces(rows))
        ]
    names = [_name(source, part.path) for part in source.parts]
    return [
        Piece(part.path, part.column_name, Entry(name, 0, part.layout.rows, out, input=digests[name]))
        for part, name, out in zip(source.parts, names, output_names(names, suffix), strict=True)
    ]


def _name(source: Source, path: str) -> str:
    """Return a file's name seen from the source's folder, or alone where the source is the file."""
    root = source.path.rstrip("/")
    return path[len(root) + 1 :] if path.startswith(f"{root}/") else Location.of(path).last


def _suffix_of(source: Source) -> str:
    suffix = ".npy" if source.in_memory else Location.of(source.parts[0].path).suffix
    if suffix not in (".npy", ".parquet", ".arrow", ".feather"):
        return ".parquet"
    # In a folder of several formats, what holds the columns of all.
    return ".parquet" if source.layout.others is not None and not keeps_columns(suffix) else suffix


def _check_apart(source: Source, folder: Path) -> None:
    """Refuse a folder for the output that lies in the input's, or around it: its files would be read too."""
    mine = None if source.in_memory else Location.of(source.path).local
    if mine is None or not mine.is_dir():
        return
    inner, outer = folder.resolve(), mine.resolve()
    if inner.is_relative_to(outer):
        raise FileError(f"{folder}: lies in the input folder {source.path}; name a folder beside it")
    if outer.is_relative_to(inner):
        raise FileError(f"{folder}: has the input folder {source.path} in it; name an empty folder")


def _identity(encoder: Applied) -> str:
    """Return a digest of all that an encoder's results depend on."""
    tensors = sorted(encoder.tensors().items())
    parts = b"".join(name.encode() + str(t.shape).encode() + t.tobytes() for name, t in tensors)
    return hashlib.sha256(encoder.format_name.encode() + parts).hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _states_of(source: Source) -> dict[str, Any]:
    """Return each input's size, columns and, on this machine, time of change, by name; an array's digest."""
    if isinstance(source, HeldSource):
        return {_name(source, source.path): hashlib.sha256(source.array.data).hexdigest()}
    states: dict[str, Any] = {}
    for part in source.parts:
        local = Location.of(part.path).local
        changed = local.stat().st_mtime_ns if local is not None and local.exists() else 0
        columns = "" if part.layout.others is None else str(part.layout.others)
        name = _name(source, part.path)
        states[name] = [name, part.layout.rows, changed, columns]
    return states


def _state_of(source: Source, states: dict[str, Any]) -> str:
    """Return the digest of all states that a manifest keeps."""
    whole = list(states.values())
    return str(whole[0]) if isinstance(source, HeldSource) else _sha256(whole)
