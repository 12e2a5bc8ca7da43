"""The file of a scan, from which an interrupted fit resumes, and to which `update` adds."""

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

# The number of first rows that the digest of a file is computed from.
_DIGESTED = 64

SCAN_FORMAT, _VERSION = "nearfold.scan", 1
"""The name of the format in the metadata of a scan's file."""
_TODO = "give one that `fit --checkpoint` wrote"


class ScanCheckpoint(NamedTuple):
    """A scan that is under way or finished, as it is kept in a file.

    Attributes
    ----------
    request : ScanSpec
        What the scan looks for.
    anchors : Anchors or None
        The anchors whose neighbours are searched; None for moments alone.
    rows : int
        The number of rows to scan.
    done : int
        The number of rows scanned so far, from the first on.
    scan : Scan or None
        The result for these rows; None if there are none.
    sample : Kept, optional
        A sample of the rows, as they are in the data, on which drift statistics are computed.
    inputs : tuple of str, default=()
        A digest of each input file, by which no file is counted twice; see `input_digests`.
    """

    request: ScanSpec
    anchors: Anchors | None
    rows: int
    done: int
    scan: Scan | None
    sample: Kept | None = None
    inputs: tuple[str, ...] = ()

    def continues(self, other: ScanCheckpoint) -> str | None:
        """Return why another scan can't resume from this checkpoint, or None if it can.

        Parameters
        ----------
        other : ScanCheckpoint
            The other scan, before its first row.

        Returns
        -------
        str or None
            What differs, such as "other parameters".
        """
        if _asked(self.request) != _asked(other.request):
            return "other parameters"
        if self.rows != other.rows:
            return f"{self.rows} rows, not {other.rows}"
        if _fingerprint(self) != _fingerprint(other):
            return "other vectors"
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint to a safetensors file, atomically.

        The file may hold an earlier checkpoint of the same data or of its first files, which is replaced.

        Parameters
        ----------
        path : str or path
            The file to write.

        Raises
        ------
        FileError
            The file can't be written, another run holds it, it is not a scan, or it holds rows that this
            checkpoint lacks, as another run has added them since.
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
                    # The marks of kept rows are computed again when they are read.
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
        """Read a checkpoint that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path : str or path
            The safetensors file.

        Returns
        -------
        ScanCheckpoint

        Raises
        ------
        FileError
            The file is missing, truncated, damaged, not a scan, or written by a later format version, or its
            arrays don't fit each other.
        """
        metadata, tensors = read_safetensors(Path(path))
        said, request, asked = _checked_metadata(Path(path), metadata)
        inputs = checked_json(said.inputs, list[Sha256], str(path), _TODO)
        try:
            checked = ScanArrays(tensors, request, said.k, said.rows, said.done, queries=asked)
        except DataError as error:
            raise FileError(f"{path}: not a usable scan: {error}; {_TODO}") from error
        if checked.anchors is not None and asked:
            request = request._replace(queries=checked.anchors.vectors[checked.anchors.of_queries])
        return cls(
            request, checked.anchors, said.rows, said.done, checked.scan, checked.sample, tuple(inputs)
        )


def _asked(request: ScanSpec) -> dict[str, Any]:
    """Return a request as values of JSON; for the queries, only whether there are any."""
    return {
        **request._asdict(),
        "products": np.dtype(request.products).name,
        "queries": request.queries is not None,
    }


def _fingerprint(checkpoint: ScanCheckpoint) -> str:
    """Return a digest that identifies the data, from sampled rows and the digests of its files."""
    digest = hashlib.sha256(repr(checkpoint.inputs).encode())
    if (anchors := checkpoint.anchors) is not None:
        digest.update(anchors.rows.tobytes())
        digest.update(anchors.vectors.tobytes())
    if (sample := checkpoint.sample) is not None:
        digest.update(sample.ids.tobytes() + sample.vectors.tobytes())
    return digest.hexdigest()


def _check_continues(path: Path, checkpoint: ScanCheckpoint) -> None:
    """Refuse to overwrite a file that is not a scan, or a scan of rows that `checkpoint` lacks."""
    if not os.path.lexists(path):
        return
    said, _, _ = _checked_metadata(path, read_metadata(path))
    before = checked_json(said.inputs, list[Sha256], str(path), _TODO)
    if tuple(before) != checkpoint.inputs[: len(before)]:
        raise FileError(
            f"{path}: holds rows that this scan lacks: it was changed since it was read, or is of other "
            f"data; read it again and add the new rows to it, or name another file"
        )


class _Metadata(msgspec.Struct, frozen=True):
    """The metadata of a scan's file."""

    request: str
    k: Count
    rows: Positive
    done: Count
    inputs: str


class _Asked(msgspec.Struct, frozen=True):
    """A request in the metadata of a scan's file."""

    metric: Metric
    normalize: bool
    products: Literal["float32", "float64"]
    n_anchors: Count
    k: Count
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    stride: Positive
    queries: bool


def _checked_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[_Metadata, ScanSpec, bool]:
    """Return the metadata, and the request without its queries but with whether it has any."""
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
    return said, ScanSpec(**values), asked.queries


def input_digests(source: Source) -> tuple[str, ...]:
    """Return the SHA-256 of each file of a source, from its shape and its first 64 rows, in hexadecimal."""
    digests = []
    for part in source.parts:
        stop = min(_DIGESTED, part.layout.rows)
        first = next(checked_chunks(part, 0, stop, others=False, finite=False)).vectors
        shape = f"{part.layout.rows} {part.layout.n_features} ".encode()
        digests.append(hashlib.sha256(shape + first.tobytes()).hexdigest())
    return tuple(digests)
