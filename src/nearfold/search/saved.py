"""An index in a folder: written beside, then switched to by one rename.

The manifest names the files of one generation, with checksums. A writer makes the next generation's
files, replaces the manifest, and removes the last generation's. A reader that meets files being removed
reads the manifest again. Full vectors are never written twice: segments keep their files.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from nearfold.errors import FileError
from nearfold.files import cause, checksum, held, remove_beside, replacing
from nearfold.fold import read_safetensors, safetensors_bytes
from nearfold.pipeline.pipeline import Pipeline
from nearfold.search.full import Segment

__all__ = ["SavedIndex", "read_index", "write_index"]

_MANIFEST = "index.json"
_FORMAT, _VERSION = "nearfold.index", 1
_TRIES = 5

_PARTS = ("pipeline.safetensors", "index.faiss", "rows.safetensors")

# The names of what `write_index` writes beside the manifest.
_OWN = re.compile(r"(\d{6,})\.[^/\\]+|vectors-(\d{6,})-\d+\.npy")


class SavedIndex(NamedTuple):
    """What a folder holds: a pipeline, settings, arrays, the faiss index and segments of full vectors."""

    pipeline: Pipeline
    settings: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    index: Any
    segments: list[Segment]


def write_index(
    folder: str | os.PathLike[str],
    pipeline: Pipeline,
    settings: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    index: Any,
    segments: list[Segment],
) -> list[Segment]:
    """Write an index and return its segments, all of which are files then.

    Parameters
    ----------
    folder
        Made if missing; an index there is replaced.
    pipeline
        What makes the codes.
    settings
        Anything JSON can hold.
    arrays
        By name.
    index
        A faiss index.
    segments
        Of full vectors; those in memory are written, those in files are named.

    Raises
    ------
    FileError
        Another process writes there, or the disk is full, or the folder can't be written.
    """
    home = Path(folder)
    with held(home):
        remove_beside(home)
        before: dict[str, Any] = {"generation": 0, "files": {}}
        if (home / _MANIFEST).exists():
            before = _manifest(home)
        generation = int(before["generation"]) + 1
        try:
            kept, files = _write_generation(home, generation, pipeline, settings, arrays, index, segments)
        except BaseException:
            for path in home.iterdir():
                if _generation_of(path.name) == generation and path.name not in before["files"]:
                    path.unlink(missing_ok=True)
            raise
        for name in before["files"].keys() - files.keys():
            # A file that somebody else put here, to be read from, is theirs to remove.
            if _generation_of(name) is not None:
                (home / name).unlink(missing_ok=True)
    return kept


def _generation_of(name: str) -> int | None:
    """Return the generation that wrote a file of this name, None for files of others."""
    found = _OWN.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def _write_generation(
    home: Path,
    generation: int,
    pipeline: Pipeline,
    settings: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    index: Any,
    segments: list[Segment],
) -> tuple[list[Segment], dict[str, list[Any]]]:
    """Write the files of a generation, the manifest last; return its segments and all of its files."""
    files: dict[str, list[Any]] = {}
    kept = [_segment_file(home, segment, generation, i, files) for i, segment in enumerate(segments)]
    names = {part: f"{generation:06}.{part}" for part in _PARTS}
    pipeline.save(home / names["pipeline.safetensors"])
    with replacing(home / names["index.faiss"]) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    with replacing(home / names["rows.safetensors"]) as file:
        file.write(safetensors_bytes({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {}))
    for name in names.values():
        files[name] = list(checksum(home / name))
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "generation": generation,
        "settings": settings,
        "parts": names,
        "segments": [{"path": _named(home, segment), "rows": segment.rows} for segment in kept],
        "files": files,
    }
    with replacing(home / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode())
    return kept, files


def _named(home: Path, segment: Segment) -> str:
    """Return a segment's path, from the folder where it is inside."""
    path = Path(segment.path or "").absolute()
    return path.name if path.parent == home.absolute() else str(path)


def _segment_file(
    home: Path, segment: Segment, generation: int, number: int, files: dict[str, list[Any]]
) -> Segment:
    """Return a segment as a file; files inside the folder are listed, their size alone."""
    gone = segment.path is not None and segment.array is not None and not Path(segment.path).exists()
    if segment.path is None or gone:
        # Another index saved here may have removed the file; what is mapped can still be read.
        assert segment.array is not None
        path = home / f"vectors-{generation:06}-{number}.npy"
        with replacing(path) as file:
            np.lib.format.write_array(file, np.ascontiguousarray(segment.array), allow_pickle=False)
        segment = Segment.of_file(str(path))
    path = Path(segment.path or "")
    if path.absolute().parent == home.absolute():
        files[path.name] = [path.stat().st_size, ""]
    return segment


def _manifest(home: Path) -> dict[str, Any]:
    path = home / _MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        known = manifest["format"] == _FORMAT and manifest["version"] <= _VERSION
        manifest["generation"] + 0, manifest["files"].keys()
        manifest["parts"] = {part: str(manifest["parts"][part]) for part in _PARTS}
        manifest["segments"] = [
            {"path": str(each["path"]), "rows": int(each["rows"])} for each in manifest["segments"]
        ]
    except OSError as error:
        raise FileError(f"{home}: not an index: {_MANIFEST} can't be read: {cause(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path}: damaged, or not an index of nearfold") from error
    if not known:
        raise FileError(f"{path}: made by a later nearfold, or not an index; upgrade nearfold")
    return dict(manifest)


def read_index(folder: str | os.PathLike[str]) -> SavedIndex:
    """Read an index that `write_index` wrote.

    Raises
    ------
    FileError
        There is none, or a file is missing, damaged or changed, full vectors included.
    """
    home = Path(folder)
    for attempt in range(_TRIES):
        manifest = _manifest(home)
        try:
            return _read(home, manifest)
        except FileError:
            # A writer may have replaced the index meanwhile.
            if attempt == _TRIES - 1 or _manifest(home)["generation"] == manifest["generation"]:
                raise
    raise AssertionError


def _read(home: Path, manifest: dict[str, Any]) -> SavedIndex:
    parts = manifest["parts"]
    for name in parts.values():
        # The name is checked too: a manifest from elsewhere must not lead out of its folder.
        if Path(name).name != name or list(checksum(home / name)) != manifest["files"].get(name):
            raise FileError(
                f"{home / name}: damaged: not what the index's manifest says; build the index again"
            )
    _, arrays = read_safetensors(home / parts["rows.safetensors"])
    try:
        index = faiss.read_index(str(home / parts["index.faiss"]))
    except RuntimeError as error:
        raise FileError(f"{home / parts['index.faiss']}: can't be read: {error}") from error
    segments = []
    for entry in manifest["segments"]:
        path = home / entry["path"]
        segment = Segment.of_file(str(path))
        if segment.rows != entry["rows"]:
            raise FileError(
                f"{path}: has {segment.rows} vectors where the index was made with {entry['rows']}; put the "
                f"file back or build the index again"
            )
        segments.append(segment)
    pipeline = Pipeline.load(home / parts["pipeline.safetensors"])
    return SavedIndex(pipeline, manifest["settings"], arrays, index, segments)
