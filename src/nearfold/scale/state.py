"""A scan in a file: what an interrupted fit goes on from, and what `update` starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfold.errors import FileError, ParameterError
from nearfold.files import replacing
from nearfold.fold import read_safetensors, safetensors_bytes
from nearfold.io.base import Source
from nearfold.io.vectors import checked_chunks
from nearfold.moments import Moments
from nearfold.neighbors import Neighbors
from nearfold.scan import Anchors, Kept, Request, Scan
from nearfold.version import __version__

__all__ = ["ScanState", "input_digests", "read_state", "write_state"]

# Rows that tell a file from others.
_DIGESTED = 64

_FORMAT, _VERSION = "nearfold.scan", 1


class ScanState(NamedTuple):
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

    request: Request
    anchors: Anchors | None
    rows: int
    done: int
    scan: Scan | None
    sample: Kept | None = None
    inputs: tuple[str, ...] = ()

    def continues(self, other: ScanState) -> str | None:
        """Return why work for `other` can't go on from here, or None where it can."""
        if _asked(self.request) != _asked(other.request):
            return "other parameters"
        if self.rows != other.rows:
            return f"{self.rows} rows, not {other.rows}"
        if _fingerprint(self.anchors) != _fingerprint(other.anchors):
            return "other vectors"
        return None


def _asked(request: Request) -> dict[str, Any]:
    """Return a request as JSON holds it; queries are part of the anchors."""
    return {
        **request._asdict(),
        "products": np.dtype(request.products).name,
        "queries": request.queries is not None,
    }


def _fingerprint(anchors: Anchors | None) -> str:
    """Return a digest of the anchors, which are rows from all over the data."""
    if anchors is None:
        return ""
    rows = b"" if anchors.rows is None else anchors.rows.tobytes()
    return hashlib.sha256(rows + anchors.vectors.tobytes()).hexdigest()


def write_state(path: str | os.PathLike[str], state: ScanState) -> None:
    """Write a scan as safetensors, atomically.

    Raises
    ------
    FileError
        The file can't be written.
    """
    tensors: dict[str, Any] = {}
    if state.anchors is not None:
        tensors["anchors"] = state.anchors.vectors
        tensors["anchor_rows"] = state.anchors.rows
        tensors["shift"] = state.anchors.shift
    if (scan := state.scan) is not None:
        tensors |= {"total": scan.moments.total, "second": scan.moments.second}
        tensors["count"] = np.array([scan.moments.count])
        if scan.neighbors is not None:
            tensors |= {"scores": scan.neighbors.scores, "ids": scan.neighbors.ids}
        if scan.kept is not None:
            tensors |= {"kept_ids": scan.kept.ids, "kept": scan.kept.vectors}
    if state.sample is not None:
        tensors |= {"sample_rows": state.sample.ids, "sample": state.sample.vectors}
    metadata = {
        "format": _FORMAT,
        "format_version": str(_VERSION),
        "nearfold": __version__,
        "request": json.dumps(_asked(state.request), sort_keys=True),
        "k": str(0 if state.anchors is None else state.anchors.k),
        "rows": str(state.rows),
        "done": str(state.done),
        "inputs": json.dumps(state.inputs),
    }
    present = {name: np.ascontiguousarray(t) for name, t in tensors.items() if t is not None}
    with replacing(path) as file:
        file.write(safetensors_bytes(present, metadata))


def read_state(path: str | os.PathLike[str]) -> ScanState:
    """Read what `write_state` wrote; nothing in the file is executed.

    Raises
    ------
    FileError
        Missing, truncated, corrupt, not a scan, or written by a later format version.
    """
    metadata, tensors = read_safetensors(Path(path))
    if metadata.get("format") != _FORMAT:
        raise FileError(f"{path}: a safetensors file, but not a scan; give one that `fit --state` wrote")
    if metadata.get("format_version") != str(_VERSION):
        raise FileError(f"{path}: a scan of another format version; upgrade nearfold")
    try:
        return _state(metadata, tensors)
    except (KeyError, ValueError, TypeError, ParameterError) as error:
        raise FileError(f"{path}: not a usable scan: {error}") from error


def _state(metadata: dict[str, str], tensors: dict[str, Any]) -> ScanState:
    asked = json.loads(metadata["request"])
    asked |= {"products": {"float32": np.float32, "float64": np.float64}[asked["products"]], "queries": None}
    request = Request(**asked)
    anchors = None
    if "anchors" in tensors:
        anchors = Anchors(
            tensors["anchors"],
            tensors.get("anchor_rows"),
            int(metadata["k"]),
            request.metric,
            tensors.get("shift"),
        )
    if anchors is not None and anchors.rows is None:
        request = request._replace(queries=anchors.vectors)
    scan = None
    if "count" in tensors:
        moments = Moments(int(tensors["count"][0]), tensors["total"], tensors["second"])
        scan = Scan(int(metadata["done"]), moments)
    if scan is not None and anchors is not None:
        shape = (len(anchors.vectors), anchors.k)
        neighbors = Neighbors(tensors["scores"], tensors["ids"])
        if neighbors.scores.shape != shape or neighbors.ids.shape != shape:
            raise ValueError(f"neighbours have shape {neighbors.ids.shape}, not {shape}")
        kept = Kept(tensors["kept_ids"], tensors["kept"]) if "kept" in tensors else None
        scan = dataclasses.replace(scan, neighbors=neighbors, kept=kept, shift=anchors.shift)
    sample = Kept(tensors["sample_rows"], tensors["sample"]) if "sample" in tensors else None
    inputs = tuple(str(digest) for digest in json.loads(metadata["inputs"]))
    return ScanState(request, anchors, int(metadata["rows"]), int(metadata["done"]), scan, sample, inputs)


def input_digests(source: Source) -> tuple[str, ...]:
    """Return a digest of each file of a source: its rows, their width, and the first few of them."""
    digests = []
    for part in source.parts:
        stop = min(_DIGESTED, part.layout.rows)
        first = next(checked_chunks(part, 0, stop, others=False, finite=False)).vectors
        shape = f"{part.layout.rows} {part.layout.n_features} ".encode()
        digests.append(hashlib.sha256(shape + first.tobytes()).hexdigest())
    return tuple(digests)
