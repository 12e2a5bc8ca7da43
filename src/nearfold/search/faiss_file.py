"""Safe reading of the codes of an index from a file that faiss wrote.

faiss itself never reads the file, since a malicious file can make faiss map or even write other files, and
can hold links or lists that lead out of its arrays. Only codes, lists and links are taken from the file, and
are checked; everything else comes from the codec.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Int64
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import Codes
from nearfold.errors import ParameterError
from nearfold.search.candidates import add_to_lists

__all__ = ["first_stage"]

# The header of every faiss file: the kind, the dimensions, the number of codes, two unused numbers, whether
# the index is trained, and the metric.
_HEAD = struct.Struct("<4siqqq?i")

# The most bytes of parameters after the codes of a flat index.
_TAIL = 1 << 20
_MOST_LINKS = 1 << 12


class _Head(NamedTuple):
    kind: bytes
    width: int
    codes: int
    metric: int


class _Reader:
    """Reads numbers and vectors of numbers from bytes, one after another."""

    def __init__(self, content: memoryview, at: int = 0) -> None:
        self.content, self.at = content, at

    def number(self, form: str) -> int:
        """Return the next number, in a format of the struct module."""
        (value,) = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return int(value)

    def take(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """Return the next `count` numbers."""
        size = np.dtype(dtype).itemsize * count
        if not 0 <= size <= len(self.content) - self.at:
            raise ValueError("it ends early")
        found = np.frombuffer(self.content, dtype, count, self.at)
        self.at += size
        return found

    def vector(self, dtype: str) -> npt.NDArray[Any]:
        """Return the numbers of a vector, which follow their count."""
        return self.take(dtype, self.number("Q"))


def first_stage(kind: str, codec: Codec, content: bytes, lists: int = 0) -> Any:
    """Return the faiss index that a file's content describes.

    Parameters
    ----------
    kind : {"flat", "ivf", "hnsw"}
        The kind of index.
    codec : Codec
        The codec that made the codes.
    content : bytes
        The content of the file that `faiss.write_index` wrote.
    lists : int, default=0
        The number of inverted lists, for the kind "ivf".

    Returns
    -------
    faiss.Index

    Raises
    ------
    ValueError
        The file is of another kind or codec, or its parts don't fit each other.
    """
    try:
        view = memoryview(content)
        if kind == "flat":
            return _flat(codec, view)
        if kind == "ivf":
            return _inverted(codec, view, lists)
        if kind == "hnsw":
            return _graph(codec, view)
    except (struct.error, ParameterError, OverflowError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"{kind} is no kind of index")


def _head(content: memoryview, empty: Any) -> _Head:
    """Return the header of a file, after a check that its kind, width and metric are those of `empty`."""
    kind, width, codes, _, _, _, metric = _HEAD.unpack_from(content)
    found = _Head(kind, width, codes, metric)
    wanted = faiss.serialize_index(empty)[:4].tobytes(), empty.d, empty.metric_type
    if (kind, width, metric) != wanted or codes < 0:
        raise ValueError("the faiss file is of another kind, width or metric than the codec's codes")
    return found


def _check_learned(codec: Codec, *parts: memoryview) -> None:
    """Refuse a file whose parameters of codes are not those of the codec."""
    around = b"".join(parts)
    for tensor in codec.quantizer.indexed_tensors().values():
        if tensor.size > 1 and np.ascontiguousarray(tensor).tobytes() not in around:
            raise ValueError("the faiss file holds codes of another codec")


def _codes(codec: Codec, content: memoryview) -> Codes:
    """Return the codes (n, bytes) of a flat index's file, after a check that the file holds nothing else."""
    empty = codec.index()
    n, size = _head(content, empty).codes, int(empty.sa_code_size())
    # For codes that are floats, faiss stores the count of floats instead of bytes.
    words = 4 if isinstance(empty, faiss.IndexFlat) else 1
    alone = faiss.serialize_index(empty).tobytes()
    tail = len(alone) - _HEAD.size - 8
    start = len(content) - n * size - min(tail, _TAIL)
    count = struct.pack("<Q", n * size // words)
    first = max(start - 8, 0)
    around = bytes(content[first : start + tail + 8]) if start >= _HEAD.size else b""
    # The same number may stand before, as a width or as the size of what was learned; of such places the
    # right one is where an empty index has its own count, 0.
    places = [first + found.start() for found in re.finditer(b"(?=" + re.escape(count) + b")", around)]
    places.sort(key=lambda at: alone[_HEAD.size : at] != content[_HEAD.size : at] or any(alone[at : at + 8]))
    problem = "the faiss file has another number of codes than it says"
    for at in places:
        before, after = content[_HEAD.size : at], content[at + 8 + n * size :]
        if len(before) + len(after) != tail:
            continue
        try:
            _check_learned(codec, before, after)
        except ValueError as error:
            problem = str(error)
        else:
            return np.frombuffer(content, np.uint8, n * size, at + 8).reshape(n, size)
    raise ValueError(problem)


def _flat(codec: Codec, content: memoryview) -> Any:
    codes = _codes(codec, content)
    codec.quantizer.check_codes(codes)
    index = codec.index()
    if len(codes):
        index.add_sa_codes(np.ascontiguousarray(codes))
    return index


def _inverted(codec: Codec, content: memoryview, lists: int) -> Any:
    index = codec.quantizer.lists_index(lists, codec.projection.score)
    n, size = _head(content, index).codes, int(index.code_size)
    mark = b"ilar" + struct.pack("<QQ", lists, size)
    at = bytes(content[: _TAIL + 4 * index.d * 2048]).find(mark)
    if at < 0:
        raise ValueError("the faiss file has no lists of the codec's codes in it")
    _check_learned(codec, content[_HEAD.size : at])
    reader = _Reader(content, at + len(mark))
    sizes = _list_sizes(reader, lists)
    if int(sizes.sum()) != n:
        raise ValueError("the faiss file's lists hold another number of codes than it says")
    codes, numbers, at = np.empty((n, size), np.uint8), np.empty(n, np.int64), 0
    for length in sizes[sizes > 0].tolist():
        codes[at : at + length] = reader.take("u1", length * size).reshape(-1, size)
        numbers[at : at + length] = reader.take("<i8", length)
        at += length
    if n and (numbers.min() < 0 or numbers.max() >= n):
        raise ValueError("the faiss file's lists name codes that are not there")
    seen = np.zeros(n, bool)
    seen[numbers] = True
    if reader.at != len(content) or not seen.all():
        raise ValueError("the faiss file's lists lack codes or hold some twice")
    codec.quantizer.check_codes(codes)
    add_to_lists(index, np.repeat(np.arange(lists), sizes), numbers, codes)
    return index


def _list_sizes(reader: _Reader, lists: int) -> Int64:
    """Return the number of codes in each list; if most lists are empty, faiss stores only the others."""
    how = bytes(reader.take("u1", 4))
    if how == b"full":
        sizes = reader.vector("<u8")
    elif how == b"sprs":
        pairs = reader.vector("<u8").reshape(-1, 2)
        if len(pairs) and int(pairs[:, 0].max()) >= lists:
            raise ValueError("the faiss file names lists that are not there")
        sizes = np.zeros(lists, np.uint64)
        sizes[pairs[:, 0].astype(np.int64)] = pairs[:, 1]
    else:
        raise ValueError("the faiss file's lists are of an unknown kind")
    if len(sizes) != lists or (sizes > len(reader.content)).any():
        raise ValueError("the faiss file's lists are not as many or as long as it says")
    return sizes.astype(np.int64)


def _graph(codec: Codec, content: memoryview) -> Any:
    reader = _Reader(content, _HEAD.size)
    reader.vector("<f8")
    per_level = reader.vector("<i4").astype(np.int64)
    levels = reader.vector("<i4")
    offsets = reader.vector("<u8")
    neighbors = reader.vector("<i4")
    entry, top = reader.number("i"), reader.number("i")
    ef_construction = reader.number("i")
    # These are ef_search and an unused number.
    reader.take("<i4", 2)
    M = int(per_level[1]) // 2 if len(per_level) > 1 else 0
    if not 1 <= M <= _MOST_LINKS or not np.array_equal(
        per_level, np.concatenate([[0], M * np.arange(2, len(per_level) + 1)])
    ):
        raise ValueError("the faiss file's graph has no rule for how many links there are")
    index = codec.quantizer.graph_index(M, codec.projection.score)
    n = _head(content, index).codes
    storage = content[reader.at :]
    codes = _codes(codec, storage)
    codec.quantizer.check_codes(codes)
    if len(levels) != n or len(codes) != n:
        raise ValueError("the faiss file's graph has another number of vertices than of codes")
    _check_links(n, per_level, levels, offsets, neighbors, entry, top)
    if n:
        faiss.downcast_index(index.storage).add_sa_codes(np.ascontiguousarray(codes))
        hnsw = index.hnsw
        for array, held in ((levels, hnsw.levels), (offsets, hnsw.offsets), (neighbors, hnsw.neighbors)):
            faiss.copy_array_to_vector(np.ascontiguousarray(array), held)
        hnsw.entry_point, hnsw.max_level = entry, top
    index.hnsw.efConstruction = min(max(ef_construction, 1), _MOST_LINKS)
    index.ntotal = n
    return index


def _check_links(
    n: int,
    per_level: Int64,
    levels: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.uint64],
    neighbors: npt.NDArray[np.int32],
    entry: int,
    top: int,
) -> None:
    """Refuse links that lead out of the graph, or to vertices that are not on the same level."""
    said = "the faiss file's links lead out of its graph"
    if not n:
        if len(offsets) > 1 or len(neighbors):
            raise ValueError(said)
        return
    if int(levels.min()) < 1 or int(levels.max()) >= len(per_level):
        raise ValueError(said)
    ends = np.concatenate([[0], np.cumsum(per_level[levels])])
    if not np.array_equal(offsets, ends) or len(neighbors) != ends[-1]:
        raise ValueError(said)
    if int(neighbors.min(initial=-1)) < -1 or int(neighbors.max(initial=-1)) >= n:
        raise ValueError(said)
    if not 0 <= entry < n or top != int(levels.max()) - 1 or int(levels[entry]) != top + 1:
        raise ValueError(said)
    for level in range(1, top + 1):
        here = np.flatnonzero(levels > level)
        slots = np.arange(per_level[level], per_level[level + 1])
        linked = neighbors[ends[here][:, None] + slots]
        if ((linked >= 0) & (levels[np.maximum(linked, 0)] <= level)).any():
            raise ValueError(said)
