"""A scan in a file: what an interrupted fit is resumed from, and what `update` adds to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from nearfold._utils.arrays import Metric
from nearfold._utils.files import held_file, replacing
from nearfold._utils.schema import Count, Positive, Sha256, checked_json, checked_values
from nearfold.errors import DataError, FileError
from nearfold.folds.fold import other_kind, read_metadata, read_safetensors, safetensors_bytes
from nearfold.folds.origin import sealed
from nearfold.io.base import Source
from nearfold.io.vectors import checked_chunks
from nearfold.scan.checkpoint_arrays import ScanArrays
from nearfold.scan.scan import Anchors, Kept, Scan, ScanSpec
from nearfold.version import __version__

__all__ = ["SCAN_FORMAT", "ScanCheckpoint", "input_digests"]

# Rows that tell a file from others.
_DIGESTED = 64

SCAN_FORMAT, _VERSION = "nearfold.scan", 1
"""What the file of a scan is marked with."""
_TODO = "give one that `fit --checkpoint` wrote"


class ScanCheckpoint(NamedTuple):
    """A scan under way or done.

    Parameters
    ----------
    request, anchors
        What was scanned for.
    rows
        How many rows there were to scan.
    done
        How many were scanned, from the first on.
    scan
        What they gave; None before the first.
    sample
        A sample of the rows as they are in the data, to watch drift by.
    inputs
        What tells the files from others, so that none is counted twice; see `input_digests`.
    """

    request: ScanSpec
    anchors: Anchors | None
    rows: int
    done: int
    scan: Scan | None
    sample: Kept | None = None
    inputs: tuple[str, ...] = ()

    def continues(self, other: ScanCheckpoint) -> str | None:
        """Return why work for `other` can't go on from here, or None where it can."""
        if _asked(self.request) != _asked(other.request):
            return "other parameters"
        if self.rows != other.rows:
            return f"{self.rows} rows, not {other.rows}"
        if _fingerprint(self) != _fingerprint(other):
            return "other vectors"
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint as safetensors, atomically, over an earlier one of the same data or a part.

        Raises
        ------
        FileError
            The file can't be written, or is held by another run; or what is there is no scan, or holds rows
            that this one lacks, because somebody has added them since it was read.
        """
        tensors: dict[str, Any] = {}
        if self.anchors is not None:
            tensors["anchors"] = self.anchors.vectors
            tensors["anchor_rows"] = self.anchors.rows
            tensors["shift"] = self.anchors.shift
        if (scan := self.scan) is not None:
            tensors |= {"total": scan.moments.total, "second": scan.moments.second}
            tensors["count"] = np.array([scan.moments.count])
            if scan.neighbors is not None:
                tensors |= {"scores": scan.neighbors.scores, "ids": scan.neighbors.ids}
                if scan.kept is None:
                    # Of rows that are not at hand; those of others are made anew.
                    tensors["marks"] = scan.neighbors.marks
            if scan.kept is not None:
                tensors |= {"kept_ids": scan.kept.ids, "kept": scan.kept.vectors}
        if self.sample is not None:
            tensors |= {"sample_rows": self.sample.ids, "sample": self.sample.vectors}
        metadata = {
            "format": SCAN_FORMAT,
            "format_version": str(_VERSION),
            "nearfold": __version__,
            "request": json.dumps(_asked(self.request), sort_keys=True),
            "k": str(0 if self.anchors is None else self.anchors.k),
            "rows": str(self.rows),
            "done": str(self.done),
            "inputs": json.dumps(self.inputs),
        }
        present = {name: np.ascontiguousarray(t) for name, t in tensors.items() if t is not None}
        content = safetensors_bytes(present, sealed(present, metadata))
        with held_file(path):
            _check_continues(Path(path), self)
            with replacing(path) as file:
                file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScanCheckpoint:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        FileError
            Missing, truncated, corrupt, not a scan, written by a later format version, or arrays that
            don't fit each other.
        """
        metadata, tensors = read_safetensors(Path(path))
        said, request = _checked_metadata(Path(path), metadata)
        inputs = checked_json(said.inputs, list[Sha256], str(path), _TODO)
        try:
            checked = ScanArrays(tensors, request, said.k, said.rows, said.done)
        except DataError as error:
            raise FileError(f"{path}: not a usable scan: {error}; {_TODO}") from error
        if checked.anchors is not None and checked.anchors.rows is None:
            request = request._replace(queries=checked.anchors.vectors)
        return cls(
            request, checked.anchors, said.rows, said.done, checked.scan, checked.sample, tuple(inputs)
        )


def _asked(request: ScanSpec) -> dict[str, Any]:
    """Return a request as JSON holds it; queries are part of the anchors."""
    return {
        **request._asdict(),
        "products": np.dtype(request.products).name,
        "queries": request.queries is not None,
    }


def _fingerprint(checkpoint: ScanCheckpoint) -> str:
    """Return a digest of what tells one data set from another: rows from all over it, and its files."""
    digest = hashlib.sha256(repr(checkpoint.inputs).encode())
    if (anchors := checkpoint.anchors) is not None:
        digest.update(b"" if anchors.rows is None else anchors.rows.tobytes())
        digest.update(anchors.vectors.tobytes())
    if (sample := checkpoint.sample) is not None:
        digest.update(sample.ids.tobytes() + sample.vectors.tobytes())
    return digest.hexdigest()


def _check_continues(path: Path, checkpoint: ScanCheckpoint) -> None:
    """Refuse to write over a file that is no scan, or a scan of rows that `checkpoint` lacks."""
    if not os.path.lexists(path):
        return
    said, _ = _checked_metadata(path, read_metadata(path))
    before = checked_json(said.inputs, list[Sha256], str(path), _TODO)
    if tuple(before) != checkpoint.inputs[: len(before)]:
        raise FileError(
            f"{path}: holds rows that this scan lacks: it was changed since it was read, or is of other "
            f"data; read it again and add the new rows to it, or name another file"
        )


class _Metadata(msgspec.Struct, frozen=True):
    """What a scan's file says beside its arrays."""

    request: str
    k: Count
    rows: Positive
    done: Count
    inputs: str


class _Asked(msgspec.Struct, frozen=True):
    """A request as the file holds it."""

    metric: Metric
    normalize: bool
    products: Literal["float32", "float64"]
    n_anchors: Count
    k: Count
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    stride: Positive
    queries: bool


def _checked_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[_Metadata, ScanSpec]:
    if metadata.get("format") != SCAN_FORMAT:
        held = metadata.get("format", "")
        if held.startswith("nearfold."):
            raise other_kind(path, held, "the checkpoint of a scan")
        raise FileError(f"{path}: a safetensors file, but not a scan; give one that `fit --checkpoint` wrote")
    if metadata.get("format_version") != str(_VERSION):
        raise FileError(f"{path}: a scan of another format version; upgrade nearfold")
    said = checked_values(metadata, _Metadata, str(path), _TODO)
    asked = checked_json(said.request, _Asked, str(path), _TODO)
    products = np.float32 if asked.products == "float32" else np.float64
    values = {**msgspec.structs.asdict(asked), "products": products, "queries": None}
    return said, ScanSpec(**values)


def input_digests(source: Source) -> tuple[str, ...]:
    """Return a digest of each file of a source: its rows, their width, and the first few of them."""
    digests = []
    for part in source.parts:
        stop = min(_DIGESTED, part.layout.rows)
        first = next(checked_chunks(part, 0, stop, others=False, finite=False)).vectors
        shape = f"{part.layout.rows} {part.layout.n_features} ".encode()
        digests.append(hashlib.sha256(shape + first.tobytes()).hexdigest())
    return tuple(digests)
