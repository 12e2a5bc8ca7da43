"""The folder of an index, which a writer replaces atomically.

The manifest names the files of one generation, with checksums. A writer writes the files of the next
generation under free names, replaces the manifest by a rename, and removes the files of the last generation
that are unchanged since they were written. A reader whose files are being removed reads the manifest again.
Vectors are never written twice, as segments keep their files.
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

# The names of the files that `write_index` writes beside the manifest.
_OWN = re.compile(r"\d{6,}\.(?:pipeline\.safetensors|index\.faiss|rows\.safetensors)|vectors-\d{6,}-\d+\.npy")

# The names that mark a folder as another table: the manifest of folded files, the versions of a Lance table.
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
    """The folder that an index was read from or written to, and the digest of its manifest at that time."""

    folder: Path
    digest: str


class StoredIndex(NamedTuple):
    """The content of an index's folder.

    Attributes
    ----------
    codec : Codec
        The codec.
    settings : dict
        The settings of the index, by name.
    arrays : dict of str to ndarray
        The arrays that `SearchIndex.save` wrote, by name.
    candidates : CandidateIndex
        The first stage.
    segments : list of Segment
        The vectors; empty if a function fetches them.
    place : Place
        The folder, and the digest of its manifest.
    """

    codec: Codec
    settings: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    candidates: CandidateIndex
    segments: list[Segment]
    place: Place


class VerifiedIndex(NamedTuple):
    """The result of a full verification of an index against the checksums of its manifest.

    Attributes
    ----------
    vectors : int
        The number of vectors that can be found.
    files : int
        The number of files that were read in full.
    bytes : int
        The size of those files.
    unverified : int
        The number of files of vectors without a checksum, as earlier versions of nearfold recorded none.
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
    """Write an index to a folder.

    Parameters
    ----------
    folder : str or path
        The folder, which is made if it is missing. An index in it is replaced.
    codec : Codec
        The codec that makes the codes.
    settings : dict
        The settings of the index, as values that JSON can hold.
    arrays : dict of str to ndarray
        The arrays of the index, by name.
    index : faiss.Index
        The faiss index of the codes.
    segments : list of Segment
        The vectors. Those in memory are written to files, and those in files are referred to.
    since : Place, optional
        The place that the index was read from or last written to, which must not have changed since.

    Returns
    -------
    segments : list of Segment
        The same vectors, all of them in files.
    place : Place
        The folder, and the digest of the new manifest.

    Raises
    ------
    FileError
        Another process writes to the folder or has written there since, the folder holds another table, a
        file of vectors has changed, the disk is full, or the folder can't be written to.
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
    """Remove the files of an earlier generation that are unchanged since they were written."""
    for name, (size, digest) in before.files.items():
        if name in kept or not _OWN.fullmatch(name):
            continue
        path = home / name
        try:
            if path.is_symlink() or path.lstat().st_size != size or checksum(path) != (size, digest):
                continue
            path.unlink()
        except (OSError, FileError):
            # A file that can't be read may not be nearfold's, so it stays.
            continue


def _free_generation(home: Path, before: _Manifest | None) -> int:
    """Return the number of the next generation, skipping numbers whose file names are taken."""
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

    The path of each file is appended to `made` before the file is written.
    """
    generation = _free_generation(home, before)
    files: dict[str, tuple[int, str]] = {}
    kept = []
    for i, segment in enumerate(segments):
        named = _segment_file(segment, home / f"vectors-{generation:06}-{i}.npy", made)
        known = named.known
        assert known is not None
        path = Path(named.path or "")
        # Earlier versions of nearfold listed a user's file like their own, but without a digest.
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
    """Return whether a file lies directly in the folder and is not a link."""
    return path.resolve().parent == home.resolve() and not path.is_symlink()


def _named(home: Path, segment: Segment) -> str:
    """Return the name of a segment's file in the folder, or its absolute path if it lies elsewhere."""
    path = Path(segment.path or "")
    return path.name if _own(home, path) else str(path.resolve())


def _segment_file(segment: Segment, target: Path, made: list[Path]) -> Segment:
    """Return a segment in a file with its fingerprint; vectors in memory are written to `target`."""
    path = None if segment.path is None else Path(segment.path)
    if path is None or not path.exists():
        # Another index saved here may have removed the file, which can still be read while it is open.
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
    """Yield the content of an .npy file of a segment's vectors, in pieces."""
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
    """Return the manifest of an index and its digest."""
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
    """Open a file of the index's own folder; refuse a link to another place."""
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
        The present path of the file of vectors outside of the folder. The default is the recorded path.
    fetched : bool, default=False
        Whether a function fetches the vectors, so that no files of vectors are opened.

    Returns
    -------
    StoredIndex

    Raises
    ------
    FileError
        The folder holds no index, a file of it or of its vectors is missing, damaged or changed, or the
        manifest names a file outside of the folder that is not the one the index was made from.
    """
    home = Path(folder)
    for attempt in range(_TRIES):
        manifest, digest = _manifest(home)
        try:
            return _read(home, manifest, digest, base, fetched=fetched)
        except FileError:
            # If a writer has replaced the index meanwhile, the new one is read.
            if attempt == _TRIES - 1 or _manifest(home)[1] == digest:
                raise
    raise AssertionError


def _part(home: Path, manifest: _Manifest, name: str) -> bytes:
    """Return the content of a file of an index, after a check against the manifest."""
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
    """Turn a ValueError inside into a FileError that names the file."""
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
    """Return the path of a segment's file; outside of the folder it must be unchanged, or be given as `base`.

    A file outside of the folder is opened only if the index knows its size and its time to the nanosecond. A
    stranger who sends an index can't know these of the user's files.
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
    """Check every file of an index, including its files of vectors, by its full digest.

    Parameters
    ----------
    folder : str or path
        The folder of the index.
    base : str or path, optional
        The present path of the file of vectors outside of the folder; see `read_index`.

    Returns
    -------
    VerifiedIndex

    Raises
    ------
    FileError
        A file is missing, damaged or changed, which the message names, or the parts don't fit each other.
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
