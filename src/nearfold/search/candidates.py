"""The first stage: a faiss index of codes, flat, in inverted lists, or as a graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import Codes, faiss_metric, faiss_ready
from nearfold.codecs.quantizers.product import Product, nearest_centroids
from nearfold.errors import ParameterError
from nearfold.search.groups import distinct_rows

__all__ = ["KINDS", "IndexKind", "Reduced", "living", "reduced_from", "reduced_index"]

Int64 = npt.NDArray[np.int64]

IndexKind: TypeAlias = Literal["flat", "ivf", "hnsw"]

KINDS: tuple[str, ...] = get_args(IndexKind)

# Rows of the sample that inverted lists are made from, for each list.
_ROWS_A_LIST = 64
_LEAST_A_LIST = 8
_LEAST_PROBES = 32
_LINKS = 16
_BUILD_EFFORT = 100

# Codes that lists are made anew from, at most, and that are decoded at a time.
_SAMPLE = 1 << 16


class Reduced(ABC):
    """Codes under numbers 0, 1, ... in the order added; each code should be there once.

    Parameters
    ----------
    codec
        What turns vectors into codes.
    index
        The faiss index that holds them.
    """

    kind: ClassVar[IndexKind]

    def __init__(self, codec: Codec, index: Any) -> None:
        self._codec, self.index = codec, index

    def __len__(self) -> int:
        """Return how many codes there are."""
        return int(self.index.ntotal)

    @abstractmethod
    def add(self, images: Float32, codes: Codes) -> None:
        """Add images of base vectors (n, width) and their codes (n, bytes)."""

    @abstractmethod
    def codes(self) -> Codes:
        """Return all codes, shape (n, bytes); to be read while nothing is added."""

    @abstractmethod
    def search(self, images: Float32, depth: int, effort: int) -> Int64:
        """Return each query's `depth` nearest numbers, nearest first, -1 where there are fewer.

        Parameters
        ----------
        images
            Of the queries, shape (q, width).
        depth
            At least 1.
        effort
            Lists to look into, or candidates to keep in the graph; no matter for flat.
        """

    @abstractmethod
    def search_all(self, images: Float32, depth: int) -> Int64:
        """Return the same from a look at every code."""

    def default_effort(self, depth: int) -> int:
        """Return the effort where the caller names none."""
        return depth

    @property
    def most_effort(self) -> int:
        """The effort from which on a look at every code is better."""
        return len(self)

    @property
    def outgrown(self) -> bool:
        """Whether it should be made anew, for what it holds by now."""
        return False

    @abstractmethod
    def rebuilt(self, numbers: Int64) -> Reduced:
        """Return one of the same kind that holds some of the codes, numbered anew."""


def _viewed(index: Any) -> Codes:
    """Return the codes that a flat faiss index holds, where they lie: shape (n, bytes)."""
    n, size = int(index.ntotal), int(index.code_size)
    if not n:
        return np.empty((0, size), np.uint8)
    codes: Codes = faiss.rev_swig_ptr(index.codes.data(), n * size).reshape(n, size)
    return codes


class Flat(Reduced):
    """Every code is looked at."""

    kind = "flat"

    def codes(self) -> Codes:
        """Return all codes; see the base class."""
        return _viewed(self.index)

    def add(self, images: Float32, codes: Codes) -> None:  # noqa: ARG002
        """Add codes; see the base class."""
        if len(codes):
            self.index.add_sa_codes(np.ascontiguousarray(codes))

    def search(self, images: Float32, depth: int, effort: int) -> Int64:  # noqa: ARG002
        """Return each query's nearest numbers; see the base class."""
        return self.search_all(images, depth)

    def search_all(self, images: Float32, depth: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        found: Int64 = self.index.search(self._codec.quantizer.prepare_queries(images), depth)[1]
        return found

    @property
    def most_effort(self) -> int:
        """No effort: every search looks at every code."""
        return 0

    def rebuilt(self, numbers: Int64) -> Flat:
        """Return one that holds some of the codes; see the base class."""
        fresh = Flat(self._codec, self._codec.index())
        kept = self.codes()[numbers]
        fresh.add(np.empty((0, 0), np.float32), kept)
        return fresh


class InvertedLists(Reduced):
    """Codes in lists by their nearest centroid; the lists nearest a query are looked into."""

    kind = "ivf"

    def __init__(self, codec: Codec, index: Any, centroids: Float32) -> None:
        super().__init__(codec, index)
        self.centroids = centroids
        # The query image is compared with centroids as it will be with codes.
        self._coarse = faiss.IndexFlat(centroids.shape[1], faiss_metric(codec.projection.score))
        self._coarse.add(faiss_ready(centroids, "centroids of lists"))

    @classmethod
    def of_sample(cls, codec: Codec, images: Float32, rows: int, seed: int = 0) -> InvertedLists:
        """Return empty lists for so many rows, made from images of some of them, all different."""
        lists = _list_count(rows, len(images))
        if lists > 1:
            kmeans = faiss.Kmeans(
                images.shape[1],
                lists,
                niter=10,
                seed=seed + 1,
                max_points_per_centroid=_ROWS_A_LIST,
                min_points_per_centroid=1,
            )
            kmeans.train(faiss_ready(images))
            centroids = kmeans.centroids
        else:
            centroids = np.zeros((1, codec.projection.width), np.float32)
        return cls(codec, codec.quantizer.lists_index(lists, codec.projection.score), centroids)

    def add(self, images: Float32, codes: Codes) -> None:
        """Add codes to the lists of their images; see the base class."""
        if not len(codes):
            return
        lists = nearest_centroids(np.ascontiguousarray(images), self.centroids)
        first = len(self)
        for chosen in np.unique(lists):
            rows = np.flatnonzero(lists == chosen)
            numbers, own = (first + rows).astype(np.int64), np.ascontiguousarray(codes[rows])
            self.index.invlists.add_entries(
                int(chosen), len(rows), faiss.swig_ptr(numbers), faiss.swig_ptr(own)
            )
        self.index.ntotal += len(codes)

    def codes(self) -> Codes:
        """Return all codes, gathered from the lists; see the base class."""
        held, size = self.index.invlists, int(self.index.code_size)
        codes = np.empty((len(self), size), np.uint8)
        for chosen in range(int(self.index.nlist)):
            n = int(held.list_size(chosen))
            if n:
                numbers = faiss.rev_swig_ptr(held.get_ids(chosen), n)
                codes[numbers] = faiss.rev_swig_ptr(held.get_codes(chosen), n * size).reshape(n, size)
        return codes

    def lists_of(self, numbers: Int64) -> Int64:
        """Return the list that each code is in."""
        held, lists = self.index.invlists, np.empty(len(self), np.int64)
        for chosen in range(int(self.index.nlist)):
            n = int(held.list_size(chosen))
            if n:
                lists[faiss.rev_swig_ptr(held.get_ids(chosen), n)] = chosen
        return lists[numbers]

    def search(self, images: Float32, depth: int, effort: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        probes = min(effort, len(self.centroids))
        distances, lists = self._coarse.search(np.ascontiguousarray(images), probes)
        asked = np.ascontiguousarray(self._codec.quantizer.prepare_queries(images))
        found = np.empty((len(images), depth), np.int64)
        scores = np.empty((len(images), depth), np.float32)
        # faiss's wrapper in Python has no parameters here; setting them on the index would be seen by
        # searches in other threads.
        self.index.search_preassigned_c(
            len(images),
            faiss.swig_ptr(asked),
            depth,
            *(faiss.swig_ptr(array) for array in (lists, distances, scores, found)),
            False,
            faiss.SearchParametersIVF(nprobe=probes),
        )
        return found

    def search_all(self, images: Float32, depth: int) -> Int64:
        """Return each query's nearest numbers in all lists; see the base class."""
        return self.search(images, depth, len(self.centroids))

    def default_effort(self, depth: int) -> int:  # noqa: ARG002
        """Return the number of lists that holds a sixteenth of the codes, or more where lists are few."""
        return max(_LEAST_PROBES, len(self.centroids) // 16)

    @property
    def most_effort(self) -> int:
        """All lists."""
        return len(self.centroids)

    @property
    def outgrown(self) -> bool:
        """Whether it has less than half of the lists that so many codes would get."""
        return 2 * len(self.centroids) < _list_count(len(self), min(len(self), _SAMPLE))

    def rebuilt(self, numbers: Int64) -> InvertedLists:
        """Return lists made anew, for some of the codes; see the base class."""
        codes = self.codes()[numbers]
        decode = self._codec.quantizer.decode
        sample = codes[sampled_rows(len(codes), _SAMPLE, 0)]
        fresh = InvertedLists.of_sample(self._codec, decode(sample), len(codes))
        for part in _parts(len(codes)):
            fresh.add(decode(codes[part]), codes[part])
        return fresh


def _list_count(rows: int, sample: int) -> int:
    """Return how many lists are made for so many rows, from a sample of so many."""
    return max(1, min(round(4 * math.sqrt(rows)), sample // _LEAST_A_LIST))


def _parts(rows: int) -> Iterator[slice]:
    """Yield the slices in which codes are taken."""
    return (slice(start, start + _SAMPLE) for start in range(0, rows, _SAMPLE))


class Graph(Reduced):
    """A hierarchical navigable small world over codes (Malkov and Yashunin, arXiv 1603.09320)."""

    kind = "hnsw"

    def __init__(self, codec: Codec, index: Any) -> None:
        super().__init__(codec, index)
        self._storage = faiss.downcast_index(index.storage)
        if isinstance(codec.quantizer, Product):
            # Links are made by distances between codes, whose table files don't hold.
            self._storage.pq.compute_sdc_table()

    def add(self, images: Float32, codes: Codes) -> None:  # noqa: ARG002
        """Add images, which the graph encodes itself; see the base class."""
        if len(images):
            self.index.add(faiss_ready(images))

    def codes(self) -> Codes:
        """Return all codes; see the base class."""
        return _viewed(self._storage)

    def search(self, images: Float32, depth: int, effort: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        asked = self._codec.quantizer.prepare_queries(images)
        params = faiss.SearchParametersHNSW(efSearch=max(effort, depth))
        found: Int64 = self.index.search(asked, depth, params=params)[1]
        return found

    def search_all(self, images: Float32, depth: int) -> Int64:
        """Return each query's nearest numbers without the graph; see the base class."""
        found: Int64 = self._storage.search(self._codec.quantizer.prepare_queries(images), depth)[1]
        return found

    def rebuilt(self, numbers: Int64) -> Graph:
        """Return a graph made anew, of some of the codes; see the base class."""
        links = self.index.hnsw.nb_neighbors(1)
        fresh = _graph(self._codec, links)
        codes = self.codes()
        for part in _parts(len(numbers)):
            kept = codes[numbers[part]]
            fresh.add(self._codec.quantizer.decode(kept), kept)
        return fresh


def _graph(codec: Codec, links: int) -> Graph:
    index = codec.quantizer.graph_index(links, codec.projection.score)
    index.hnsw.efConstruction = _BUILD_EFFORT
    return Graph(codec, index)


def reduced_index(
    codec: Codec, kind: str, sample: Float32, rows: int, *, links: int = _LINKS, seed: int = 0
) -> Reduced:
    """Return an empty first stage.

    Parameters
    ----------
    codec
        What turns vectors into codes.
    kind
        "flat", "ivf" or "hnsw".
    sample
        Some base vectors, shape (s, d): inverted lists are made from them.
    rows
        How many vectors are expected; about 4 sqrt(rows) lists are made.
    links
        Of a graph's vertices, half of them on the lowest level.
    seed
        Of the lists.

    Raises
    ------
    ParameterError
        The kind is unknown or doesn't go with the codec's quantiser.
    """
    if kind == "flat":
        return Flat(codec, codec.index())
    if kind == "ivf":
        # Refused, where there are no such lists, before anything is computed.
        codec.quantizer.lists_index(1, codec.projection.score)
        images = np.ascontiguousarray(codec.projection.project(sample))
        different = images[distinct_rows(codec.quantizer.encode(images))]
        return InvertedLists.of_sample(codec, different, rows, seed)
    if kind == "hnsw":
        return _graph(codec, links)
    raise ParameterError(f"index kind {kind!r} is unknown; use one of {', '.join(KINDS)}")


def living(
    reduced: Reduced,
    dead: npt.NDArray[np.bool_],
    images: Float32,
    depth: int,
    effort: int | None,
    least: int,
) -> Int64:
    """Return each query's nearest numbers among those that are not dead, nearest first.

    Parameters
    ----------
    reduced
        The first stage, which still finds dead ones.
    dead
        Whether each number is, shape (n,).
    images
        Of queries, shape (q, width).
    depth
        How many to return.
    effort
        As for `Reduced.search`; None for the usual, which is raised until `depth` are found.
    least
        How many must be found, whatever the effort: it is raised for queries that it doesn't do for.

    Returns
    -------
    ndarray of shape (q, depth), or (q, living) where those are less; -1 where there are fewer.
    """
    gone = int(dead.sum())
    total, alive = len(dead), len(dead) - gone
    wanted = min(depth, alive)
    least = wanted if effort is None else min(least, alive)
    found = np.full((len(images), wanted), -1, np.int64)
    pending = np.arange(len(images) if wanted else 0)
    # Look deeper by the share of dead ones, and further where that falls short.
    more = min(total, wanted + gone * wanted // total + 8) if gone else wanted
    tried = reduced.default_effort(more) if effort is None else effort
    while len(pending):
        everything = tried >= reduced.most_effort
        asked = images[pending]
        numbers = reduced.search_all(asked, more) if everything else reduced.search(asked, more, tried)
        if gone:
            numbers[dead[np.maximum(numbers, 0)]] = -1
            order = np.argsort(numbers < 0, axis=1, kind="stable")
            numbers = np.take_along_axis(numbers, order, 1)[:, :wanted]
        found[pending] = numbers
        lacking = (numbers[:, :least] < 0).any(axis=1)
        if everything and (more == total or not gone):
            break
        pending = pending[lacking]
        more, tried = min(total, 2 * more) if gone else more, 2 * tried
    return found


def reduced_from(codec: Codec, kind: str, index: Any, centroids: Float32 | None) -> Reduced:
    """Return the first stage around a faiss index that was read; raises ValueError where it is none."""
    if kind == "flat":
        return Flat(codec, index)
    if kind == "hnsw":
        return Graph(codec, index)
    if kind == "ivf" and centroids is not None:
        return InvertedLists(codec, index, centroids)
    raise ValueError(f"{kind} is no kind of index")
