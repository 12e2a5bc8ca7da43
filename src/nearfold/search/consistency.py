"""Checks that the parts of an index that was read from a folder belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import Codes
from nearfold.codecs.quantizers.product import nearest_centroids
from nearfold.errors import DataError
from nearfold.search.bounds import UpperBounds
from nearfold.search.candidates import CandidateIndex, InvertedLists
from nearfold.search.rerank import norms_of
from nearfold.search.vectors import Segment, StoredVectors

__all__ = ["bounds_in", "check_fits", "check_sample"]

Arrays = dict[str, npt.NDArray[Any]]

_BOUNDS = ("back", "plane", "center", "rows")

# The number of rows whose codes, norms and bounds are computed again at each load.
_SAMPLED = 16

# The largest relative difference from numbers that another processor computed.
_CLOSE = 1e-2


def check_fits(codec: Codec, kind: str, arrays: Arrays, codes: int, segments: list[Segment] | None) -> None:
    """Refuse parts of an index that don't belong together.

    Parameters
    ----------
    codec : Codec
        The codec that made the codes.
    kind : {"flat", "ivf", "hnsw"}
        The kind of index.
    arrays : dict of str to ndarray
        The arrays that `SearchIndex.save` wrote, by name.
    codes : int
        The number of codes.
    segments : list of Segment, or None
        The vectors. None if a function fetches them.

    Raises
    ------
    ValueError
        The parts don't belong together; the message says which.
    """
    ids = _array(arrays, "ids", np.int64, (None,))
    n = len(ids)
    removed = _array(arrays, "removed", np.bool_, (n,))
    known = {"ids", "removed"}
    _check_ids(ids[~removed])
    known |= _check_entries(arrays, n, codes)
    if codec.metric == "cosine":
        known.add("norms")
        if (_array(arrays, "norms", np.float32, (n,)) <= 0).any():
            raise ValueError("norms has a norm of zero or less")
    if kind == "ivf":
        known.add("centroids")
        centroids = _array(arrays, "centroids", np.float32, (None, codec.projection.width))
        if not len(centroids):
            raise ValueError("centroids is empty")
    known |= _check_bounds(codec, kind, arrays, n)
    known |= _check_rows(codec, arrays, n, segments)
    if unknown := sorted(arrays.keys() - known):
        raise ValueError(f"{unknown[0]} does not belong to an index of kind {kind}, {codec.metric}")


def _array(
    arrays: Arrays, name: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """Return a finite array of the given dtype and shape, in which None allows any length; refuse others."""
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        wanted in (None, there) for wanted, there in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, which is not what the rest needs")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} has numbers that are not finite")
    return array


def _check_ids(ids: npt.NDArray[Any]) -> None:
    ordered = np.sort(ids)
    if len(ids) and (int(ordered[0]) < 0 or (ordered[1:] == ordered[:-1]).any()):
        raise ValueError("ids has an id twice, or one below 0")


def _check_entries(arrays: Arrays, n: int, codes: int) -> set[str]:
    """Check the array `entries` of each row's code; without it row i has code i."""
    if "entries" not in arrays:
        if codes != n:
            raise ValueError(f"there are {codes} codes of {n} rows")
        return set()
    entries = _array(arrays, "entries", np.int64, (n,))
    if n and not 0 <= int(entries.min()) <= int(entries.max()) < codes:
        raise ValueError("entries names codes that are not there")
    return {"entries"}


def _check_bounds(codec: Codec, kind: str, arrays: Arrays, n: int) -> set[str]:
    names = {f"certificates.{name}" for name in _BOUNDS}
    if not any(name.startswith("certificates.") for name in arrays):
        return set()
    if kind != "flat":
        raise ValueError(f"an index of kind {kind} has no certificates")
    d = codec.n_features
    _array(arrays, "certificates.back", np.float32, (codec.projection.width, d))
    _array(arrays, "certificates.plane", np.float32, (None, d))
    _array(arrays, "certificates.center", np.float32, (d,))
    if (_array(arrays, "certificates.rows", np.float32, (n, 3)) < 0).any():
        raise ValueError("certificates.rows has a norm below 0")
    return names


def _check_rows(codec: Codec, arrays: Arrays, n: int, segments: list[Segment] | None) -> set[str]:
    """Check that the vectors are as many and as wide as the rows need."""
    if segments is None:
        return {"rows"} if "rows" in arrays else set()
    for segment in segments:
        if segment.width != codec.n_features:
            raise ValueError(
                f"{segment.path} has {segment.width} dimensions where the codec takes {codec.n_features}"
            )
    there = sum(segment.rows for segment in segments)
    if "rows" not in arrays:
        if there != n:
            raise ValueError(f"there are {there} vectors of {n} rows")
        return set()
    rows = _array(arrays, "rows", np.int64, (n,))
    if n and (not 0 <= int(rows.min()) <= int(rows.max()) < there or len(np.unique(rows)) < n):
        raise ValueError("rows names vectors that are not there, or one twice")
    return {"rows"}


def bounds_in(codec: Codec, arrays: Arrays) -> UpperBounds | None:
    """Return the bounds that an index's arrays hold, or None."""
    held = {name: arrays[f"certificates.{name}"] for name in _BOUNDS if f"certificates.{name}" in arrays}
    return UpperBounds(codec, **held) if held else None


def check_sample(codec: Codec, candidates: CandidateIndex, arrays: Arrays, segments: list[Segment]) -> None:
    """Refuse parts of the right form that were made from other vectors than those of the index.

    The codes, norms and bounds of some rows are computed again and compared with the stored ones. As other
    processors may round differently, a code counts as a row's own if at most an eighth of its bits differ, or
    fewer than for other rows' codes; and up to a quarter of the rows may fail.

    Parameters
    ----------
    codec, arrays, segments
        The parts, which must have passed `check_fits`.
    candidates : CandidateIndex
        The index of codes.

    Raises
    ------
    ValueError
        A part was made from other vectors; the message says which.
    """
    alive = np.flatnonzero(~arrays["removed"])
    if not len(alive):
        return
    rows = alive[np.unique(np.linspace(0, len(alive) - 1, _SAMPLED).astype(np.int64))]
    stored = StoredVectors(codec.n_features, segments, None, arrays.get("rows"))
    vectors = stored.take(rows, arrays["ids"][rows])
    entries = arrays["entries"][rows] if "entries" in arrays else rows
    held = candidates.codes()[entries]
    try:
        images = codec.projection.project(vectors)
        made = codec.encode(vectors)
        norms = norms_of(vectors, "vectors")
    except DataError as error:
        raise ValueError(f"vectors can't be those that the codes were made of: {error}") from error
    bits = np.bitwise_count(held[:, None] ^ made[None]).sum(axis=2)
    own = bits.diagonal()
    _check_most((own <= bits.min(axis=1)) | (own <= held.shape[1]), "the codes")
    if "norms" in arrays:
        _check_most(np.abs(norms - arrays["norms"][rows]) <= _CLOSE * norms, "norms")
    if isinstance(candidates, InvertedLists):
        there = candidates.lists_of(entries)
        near = [nearest_centroids(each, candidates.centroids) for each in (images, codec.decode(held))]
        _check_most((there == near[0]) | (there == near[1]), "centroids")
    if (bounds := bounds_in(codec, arrays)) is not None:
        _check_rows_bounds(bounds, vectors, held, rows)


def _check_rows_bounds(bounds: UpperBounds, vectors: Float32, codes: Codes, rows: Int64) -> None:
    made, held = bounds.of(vectors, codes), bounds.rows[rows]
    size = np.sqrt(2 * made[:, 2:])
    close = np.abs(made - held) <= _CLOSE * np.concatenate([size, size, made[:, 2:]], axis=1)
    _check_most(close.all(axis=1), "certificates")


def _check_most(right: npt.NDArray[np.bool_], name: str) -> None:
    if 4 * int(right.sum()) < 3 * len(right):
        raise ValueError(f"{name} belong to other vectors than the index's")
