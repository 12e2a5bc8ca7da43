"""An index in a folder: written beside, then switched to by one rename.

The manifest names the files of one generation, with checksums. A writer makes the next generation's
files under names that nothing has, replaces the manifest, and removes those of the last generation that are
as it was recorded when they were written. A reader that meets files being removed reads the manifest again.
Vectors are never written twice: segments keep their files.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import faiss
import msgspec
import numpy as np
import numpy.typing as npt

from nearfold._utils.files import cause, checksum, held, open_regular, os_errors, remove_beside, replacing
from nearfold._utils.schema import Count, FileName, Positive, checked_json, encoded
from nearfold.codecs.codec import Codec
from nearfold.errors import FileError
from nearfold.folds.fold import other_kind, read_metadata, read_safetensors, safetensors_bytes
from nearfold.search.candidates import CandidateIndex, candidate_index_from
from nearfold.search.consistency import check_fits, check_sample
from nearfold.search.faiss_file import first_stage
from nearfold.search.fingerprint import Fingerprint, check_fingerprint, fingerprint, stamp
from nearfold.search.vectors import Segment

__all__ = ["MANIFEST", "Place", "StoredIndex", "VerifiedIndex", "read_index", "verify_index", "write_index"]

MANIFEST = "index.json"
_FORMAT, _VERSION = "nearfold.index", 2
_TRIES = 5
_TODO = "build the index again"

_PARTS = ("pipeline.safetensors", "index.faiss", "rows.safetensors")

# The names of what `write_index` writes beside the manifest.
_OWN = re.compile(r"\d{6,}\.(?:pipeline\.safetensors|index\.faiss|rows\.safetensors)|vectors-\d{6,}-\d+\.npy")

# What other tables in a folder are known by: a folded folder's manifest, a Lance table's versions.
_OTHERS = ("_manifest.json", "_versions")


class _Settings(msgspec.Struct):
    kind: Literal["flat", "ivf", "hnsw"]
    fetched: bool = False


class _Parts(msgspec.Struct, rename={"codec": _PARTS[0], "faiss": _PARTS[1], "rows": _PARTS[2]}):
    codec: FileName
    faiss: FileName
    rows: FileName


class _SegmentEntry(msgspec.Struct):
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    rows: Count
    known: Fingerprint | None = None


class _Manifest(msgspec.Struct):
    format: Literal["nearfold.index"]
    version: Positive
    generation: Positive
    settings: _Settings
    parts: _Parts
    segments: list[_SegmentEntry]
    files: dict[str, tuple[Count, Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]]]


class _Version(msgspec.Struct):
    format: Literal["nearfold.index"]
    version: Positive


class Place(NamedTuple):
    """Where an index was read from or written to, and what its manifest was then."""

    folder: Path
    digest: str


class StoredIndex(NamedTuple):
    """What a folder holds: a codec, settings, arrays, the first stage and segments of vectors."""

    codec: Codec
    settings: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    candidates: CandidateIndex
    segments: list[Segment]
    place: Place


class VerifiedIndex(NamedTuple):
    """An index in a folder, every byte of which was compared with the checksums of its manifest.

    Parameters
    ----------
    vectors : int
        How many vectors can be found.
    files : int
        How many files were read in full.
    bytes : int
        The size of those files.
    unverified : int
        How many files of vectors an earlier nearfold recorded no checksum of.
    """

    vectors: int
    files: int
    bytes: int
    unverified: int


def write_index(
    folder: str | os.PathLike[str],
    codec: Codec,
    settings: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    index: Any,
    segments: list[Segment],
    since: Place | None = None,
) -> tuple[list[Segment], Place]:
    """Write an index and return its segments, all of which are files then, and where it is.

    Parameters
    ----------
    folder : str or path
        The folder, which is made if it is missing; an index there is replaced.
    codec : Codec
        What makes the codes.
    settings : dict
        The settings of the index; anything that JSON can hold.
    arrays : dict of ndarrays
        The arrays of the index, by name.
    index : faiss.Index
        The codes.
    segments : list of Segment
        The vectors; those in memory are written, those in files are named.
    since : Place, optional
        Where the index was read from or last written to: it must not have changed there meanwhile.

    Raises
    ------
    FileError
        Another process writes there, or another has written there since, the folder is that of another
        table, a file of vectors has changed, the disk is full, or the folder can't be written.
    """
    home = Path(folder)
    for name in _OTHERS:
        if os.path.lexists(home / name):
            raise FileError(f"{home}: holds a table already ({name}); name another folder for the index")
    with held(home):
        remove_beside(home)
        before, digest = None, ""
        if os.path.lexists(home / MANIFEST):
            before, digest = _manifest(home)
        if since is not None and since.folder == home.resolve() and since.digest != digest:
            raise FileError(
                f"{home}: another run has saved the index since it was loaded here, and would lose its "
                f"changes; load it again, make the changes again and save"
            )
        made: list[Path] = []
        try:
            kept, files, digest = _write_generation(
                home, before, made, codec, settings, arrays, index, segments
            )
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        if before is not None:
            _remove_old(home, before, files.keys())
        return kept, Place(home.resolve(), digest)


def _remove_old(home: Path, before: _Manifest, kept: Any) -> None:
    """Remove the files of an earlier generation that are still what was written then."""
    for name, (size, digest) in before.files.items():
        if name in kept or not _OWN.fullmatch(name):
            continue
        path = home / name
        try:
            if path.is_symlink() or path.lstat().st_size != size or checksum(path) != (size, digest):
                continue
            path.unlink()
        except (OSError, FileError):
            # What can't be looked at can't be proven ours.
            continue


def _free_generation(home: Path, before: _Manifest | None) -> int:
    """Return the number of the next generation, none of whose names is taken by anybody."""
    generation = 1 if before is None else before.generation + 1
    names = os.listdir(home)  # noqa: PTH208
    while any(name.startswith((f"{generation:06}.", f"vectors-{generation:06}-")) for name in names):
        generation += 1
    return generation


def _write_generation(
    home: Path,
    before: _Manifest | None,
    made: list[Path],
    codec: Codec,
    settings: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    index: Any,
    segments: list[Segment],
) -> tuple[list[Segment], dict[str, tuple[int, str]], str]:
    """Write the files of a generation, the manifest last; return segments, files and the manifest's digest.

    `made` is told each file before it is written.
    """
    generation = _free_generation(home, before)
    files: dict[str, tuple[int, str]] = {}
    kept = []
    for i, segment in enumerate(segments):
        named = _segment_file(segment, home / f"vectors-{generation:06}-{i}.npy", made)
        known = named.known
        assert known is not None
        path = Path(named.path or "")
        # An earlier nearfold listed a user's file here like its own, without a digest.
        recorded = None if before is None else before.files.get(path.name)
        if path in made or (recorded == (known.stamp.bytes, known.sha256) and _own(home, path)):
            files[path.name] = (known.stamp.bytes, known.sha256)
        kept.append(named)
    names = {part: f"{generation:06}.{part}" for part in _PARTS}
    made += [home / name for name in names.values()]
    codec.save(home / names["pipeline.safetensors"])
    with replacing(home / names["index.faiss"]) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    with replacing(home / names["rows.safetensors"]) as file:
        file.write(safetensors_bytes({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {}))
    for name in names.values():
        files[name] = checksum(home / name)
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "generation": generation,
        "settings": settings,
        "parts": names,
        "segments": [
            {"path": _named(home, segment), "rows": segment.rows, "known": segment.known} for segment in kept
        ],
        "files": files,
    }
    content = encoded(manifest)
    with replacing(home / MANIFEST) as file:
        file.write(content)
    return kept, files, hashlib.sha256(content).hexdigest()


def _own(home: Path, path: Path) -> bool:
    """Return whether a file lies in the folder itself, and not by a link."""
    return path.resolve().parent == home.resolve() and not path.is_symlink()


def _named(home: Path, segment: Segment) -> str:
    """Return a segment's path, from the folder where it is inside."""
    path = Path(segment.path or "")
    return path.name if _own(home, path) else str(path.resolve())


def _segment_file(segment: Segment, target: Path, made: list[Path]) -> Segment:
    """Return a segment as a file whose fingerprint is known; one in memory is written to `target`."""
    path = None if segment.path is None else Path(segment.path)
    if path is None or not path.exists():
        # Another index saved here may have removed the file; what is open can still be read.
        made.append(target)
        with replacing(target) as file:
            for array in _pieces(segment):
                file.write(array)
        path, seen = target, None
    else:
        seen = segment.seen
    now = stamp(path)
    if seen is not None and now != seen:
        raise FileError(f"{path}: has changed since the index was made of it; build the index again")
    known = segment.known
    if known is None or path == target or known.stamp != now:
        known = fingerprint(path)
    return Segment.of_file(str(path), known).first(segment.rows)


def _pieces(segment: Segment) -> Iterator[bytes | memoryview]:
    """Yield the bytes of an .npy file of a segment's vectors."""
    some = segment.take(np.arange(min(1, segment.rows)))
    header = io.BytesIO()
    shape = (segment.rows, segment.width)
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(some.dtype), "fortran_order": False, "shape": shape}
    )
    yield header.getvalue()
    step = max(1, (16 << 20) // max(1, some.dtype.itemsize * segment.width))
    for start in range(0, segment.rows, step):
        rows = np.arange(start, min(segment.rows, start + step))
        yield np.ascontiguousarray(segment.take(rows)).reshape(-1).view(np.uint8).data


def _manifest(home: Path) -> tuple[_Manifest, str]:
    """Return the manifest of an index, and its digest."""
    if home.is_file():
        held = read_metadata(home).get("format", "")
        raise other_kind(home, held, "the folder of an index")
    path = home / MANIFEST
    try:
        with _open_own(path) as file:
            content = file.read()
    except OSError as error:
        raise FileError(f"{home}: not an index: {MANIFEST} can't be read: {cause(error)}") from error
    except FileError as error:
        raise FileError(f"{home}: not an index: {error}") from error
    if checked_json(content, _Version, str(path), _TODO).version > _VERSION:
        raise FileError(f"{path}: made by a later nearfold; upgrade nearfold")
    return checked_json(content, _Manifest, str(path), _TODO), hashlib.sha256(content).hexdigest()


def _open_own(path: Path) -> Any:
    """Open a file of the index's own folder, which is never a link to another place."""
    if path.is_symlink():
        raise FileError(f"{path}: is a link; an index's own files are none: put the file itself there")
    return open_regular(path)


def read_index(
    folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, *, fetched: bool = False
) -> StoredIndex:
    """Read an index that `write_index` wrote.

    Parameters
    ----------
    folder : str or path
        The folder of the index.
    base : str or path, optional
        Where the file of vectors that is not in the folder is now.
    fetched : bool, default=False
        Whether vectors come from a function: then no files of them are opened.

    Raises
    ------
    FileError
        There is none, or a file is missing, damaged or changed, vectors included; or the manifest
        names a file outside of the folder that is not the one it was made of.
    """
    home = Path(folder)
    for attempt in range(_TRIES):
        manifest, digest = _manifest(home)
        try:
            return _read(home, manifest, digest, base, fetched=fetched)
        except FileError:
            # A writer may have replaced the index meanwhile.
            if attempt == _TRIES - 1 or _manifest(home)[1] == digest:
                raise
    raise AssertionError


def _part(home: Path, manifest: _Manifest, name: str) -> bytes:
    """Return the content of a part of an index, which must be as the manifest says."""
    path = home / name
    with os_errors(path), _open_own(path) as file:
        content: bytes = file.read()
    if (len(content), hashlib.sha256(content).hexdigest()) != manifest.files.get(name):
        raise FileError(f"{path}: damaged: not what the index's manifest says; {_TODO}")
    return content


def _read(
    home: Path, manifest: _Manifest, digest: str, base: str | os.PathLike[str] | None, *, fetched: bool
) -> StoredIndex:
    parts = manifest.parts
    for name in (parts.codec, parts.rows):
        _part(home, manifest, name)
    content = _part(home, manifest, parts.faiss)
    codec = Codec.load(home / parts.codec)
    _, arrays = read_safetensors(home / parts.rows)
    segments = [] if fetched else _segments(home, manifest, base)
    kind, centroids = manifest.settings.kind, arrays.get("centroids", np.empty(0))
    known = None if fetched or manifest.settings.fetched else segments
    with _naming(home / parts.faiss):
        index = first_stage(kind, codec, content, len(centroids) if centroids.ndim == 2 else 0)
    with _naming(home / parts.rows):
        check_fits(codec, kind, arrays, int(index.ntotal), known)
        candidates = candidate_index_from(codec, kind, index, arrays.get("centroids"))
        if known is not None:
            check_sample(codec, candidates, arrays, known)
    settings = msgspec.to_builtins(manifest.settings)
    return StoredIndex(codec, settings, arrays, candidates, segments, Place(home.resolve(), digest))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file whose content doesn't fit the rest."""
    try:
        yield
    except ValueError as error:
        raise FileError(f"{path}: does not fit the rest of the index: {error}; {_TODO}") from error


def _segments(home: Path, manifest: _Manifest, base: str | os.PathLike[str] | None) -> list[Segment]:
    """Open the files of vectors."""
    outside = [entry for entry in manifest.segments if Path(entry.path).name != entry.path]
    if base is not None and len(outside) != 1:
        raise FileError(f"{home}: names {len(outside)} files outside of it, so that base can't stand for one")
    segments = []
    for entry in manifest.segments:
        path = _segment_path(home, entry, base)
        if entry.known is not None:
            check_fingerprint(path, entry.known)
        segment = Segment.of_file(str(path), entry.known)
        if segment.rows != entry.rows and not (entry.known is not None and segment.rows > entry.rows):
            raise FileError(
                f"{path}: has {segment.rows} vectors where the index was made with {entry.rows}; put the "
                f"file back or build the index again"
            )
        segments.append(segment.first(entry.rows))
    return segments


def _segment_path(home: Path, entry: _SegmentEntry, base: str | os.PathLike[str] | None) -> Path:
    """Return where a segment's file is; one outside of the folder must be the user's, or be given.

    What an index names outside of its folder is not even opened unless its size and its time, to the
    nanosecond, are known to the index: who sends one can't know those of another's file.
    """
    path = home / entry.path
    if Path(entry.path).name == entry.path:
        if path.is_symlink():
            raise FileError(f"{path}: is a link; an index's own files are none: put the file itself there")
        return path
    if base is not None:
        return Path(base)
    now = None if entry.known is None else stamp(path)
    if entry.known is not None and now is not None and now.bytes != entry.known.stamp.bytes:
        raise FileError(
            f"{path}: has changed since the index was made of it, {entry.rows} vectors then; put the file "
            f"back or build the index again"
        )
    if entry.known is None or now != entry.known.stamp:
        raise FileError(
            f"{path}: the index's vectors lie outside of its folder and were moved, touched or "
            f"changed since it was made; say that this is the file, by base=... or --base"
        )
    return path


def verify_index(folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> VerifiedIndex:
    """Check every file of an index by its full digest, files of vectors included.

    Parameters
    ----------
    folder : str or path
        The folder of the index.
    base : str or path, optional
        As for `read_index`.

    Raises
    ------
    FileError
        A file is missing, damaged or changed, and is named; or the parts don't fit each other.
    """
    home = Path(folder)
    manifest, _ = _manifest(home)
    stored = read_index(home, base, fetched=manifest.settings.fetched)
    files, size, unverified = 1 + len(_PARTS), (home / MANIFEST).stat().st_size, 0
    size += sum(manifest.files[name][0] for name in msgspec.to_builtins(manifest.parts).values())
    for segment in stored.segments:
        if segment.known is None:
            unverified += 1
            continue
        check_fingerprint(Path(segment.path or ""), segment.known, full=True)
        files, size = files + 1, size + segment.known.stamp.bytes
    return VerifiedIndex(int((~stored.arrays["removed"]).sum()), files, size, unverified)
