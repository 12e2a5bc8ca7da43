"""The first stage of a search: a faiss index of codes, flat, in inverted lists, or as a graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import Codes, faiss_metric, faiss_ready
from nearfold.codecs.quantizers.product import Product, nearest_centroids
from nearfold.errors import ParameterError
from nearfold.search.groups import distinct_rows

__all__ = [
    "KINDS",
    "CandidateIndex",
    "IndexKind",
    "InvertedLists",
    "add_to_lists",
    "candidate_index",
    "candidate_index_from",
    "nearest_entries",
]


IndexKind: TypeAlias = Literal["flat", "ivf", "hnsw"]

KINDS: tuple[str, ...] = get_args(IndexKind)

# Rows of the sample that inverted lists are made from, for each list.
_ROWS_A_LIST = 64
_LEAST_A_LIST = 8
_LEAST_PROBES = 32

# Codes that lists are made anew from, at most, and that are decoded at a time.
_SAMPLE = 1 << 16


class CandidateIndex(ABC):
    """Codes under the numbers 0, 1, ... in the order in which they are added; each code should be there once.

    Parameters
    ----------
    codec : Codec
        What turns vectors into codes.
    index : faiss.Index
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
        """Add the projections of base vectors (n, width) and their codes (n, bytes)."""

    @abstractmethod
    def codes(self) -> Codes:
        """Return all codes, shape (n, bytes); to be read while nothing is added."""

    @abstractmethod
    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:
        """Return the numbers of each query's nearest codes, nearest first, -1 where there are fewer.

        Parameters
        ----------
        images : ndarray of shape (q, width), float32
            The projections of the queries.
        n_candidates : int
            How many numbers to return, at least 1.
        breadth : int
            nprobe of inverted lists, or ef_search of a graph; a flat index has no use for it.

        Returns
        -------
        ndarray of shape (q, n_candidates), int64
        """

    @abstractmethod
    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return the same as `search`, after a look at every code."""

    def default_breadth(self, n_candidates: int) -> int:
        """Return the breadth of a search for which the caller names none."""
        return n_candidates

    @property
    def full_breadth(self) -> int:
        """The breadth from which on a look at every code is better."""
        return len(self)

    @property
    def outgrown(self) -> bool:
        """Whether it should be made anew, for what it holds by now."""
        return False

    @abstractmethod
    def rebuilt(self, numbers: Int64) -> CandidateIndex:
        """Return one of the same kind that holds some of the codes, numbered anew."""


def _viewed(index: Any) -> Codes:
    """Return the codes that a flat faiss index holds, where they lie: shape (n, bytes)."""
    n, size = int(index.ntotal), int(index.code_size)
    if not n:
        return np.empty((0, size), np.uint8)
    codes: Codes = faiss.rev_swig_ptr(index.codes.data(), n * size).reshape(n, size)
    return codes


class Flat(CandidateIndex):
    """Every code is looked at."""

    kind = "flat"

    def codes(self) -> Codes:
        """Return all codes; see the base class."""
        return _viewed(self.index)

    def add(self, images: Float32, codes: Codes) -> None:  # noqa: ARG002
        """Add codes; see the base class."""
        if len(codes):
            self.index.add_sa_codes(np.ascontiguousarray(codes))

    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:  # noqa: ARG002
        """Return each query's nearest numbers; see the base class."""
        return self.search_all(images, n_candidates)

    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        numbers: Int64 = self.index.search(self._codec.quantizer.prepare_queries(images), n_candidates)[1]
        return numbers

    @property
    def full_breadth(self) -> int:
        """Zero: every search looks at every code."""
        return 0

    def rebuilt(self, numbers: Int64) -> Flat:
        """Return one that holds some of the codes; see the base class."""
        fresh = Flat(self._codec, self._codec.index())
        kept = self.codes()[numbers]
        fresh.add(np.empty((0, 0), np.float32), kept)
        return fresh


class InvertedLists(CandidateIndex):
    """Codes in lists by their nearest centroid; the lists nearest a query are looked into."""

    kind = "ivf"

    def __init__(self, codec: Codec, index: Any, centroids: Float32) -> None:
        super().__init__(codec, index)
        self.centroids = centroids
        # The query image is compared with centroids as it will be with codes.
        self._coarse = faiss.IndexFlat(centroids.shape[1], faiss_metric(codec.projection.score))
        self._coarse.add(faiss_ready(centroids, "centroids of lists"))

    @classmethod
    def of_sample(cls, codec: Codec, images: Float32, rows: int) -> InvertedLists:
        """Return empty lists for so many rows, made from images of some of them, all different."""
        lists = _list_count(rows, len(images))
        if lists > 1:
            kmeans = faiss.Kmeans(
                images.shape[1],
                lists,
                niter=10,
                seed=1,
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
        add_to_lists(self.index, lists, first + np.arange(len(codes)), codes)

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

    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        nprobe = min(breadth, len(self.centroids))
        distances, lists = self._coarse.search(np.ascontiguousarray(images), nprobe)
        asked = np.ascontiguousarray(self._codec.quantizer.prepare_queries(images))
        numbers = np.empty((len(images), n_candidates), np.int64)
        scores = np.empty((len(images), n_candidates), np.float32)
        # faiss's wrapper in Python has no parameters here; setting them on the index would be seen by
        # searches in other threads.
        self.index.search_preassigned_c(
            len(images),
            faiss.swig_ptr(asked),
            n_candidates,
            *(faiss.swig_ptr(array) for array in (lists, distances, scores, numbers)),
            False,
            faiss.SearchParametersIVF(nprobe=nprobe),
        )
        return numbers

    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return each query's nearest numbers in all lists; see the base class."""
        return self.search(images, n_candidates, len(self.centroids))

    def default_breadth(self, n_candidates: int) -> int:  # noqa: ARG002
        """Return the number of lists that holds a sixteenth of the codes, or more where lists are few."""
        return max(_LEAST_PROBES, len(self.centroids) // 16)

    @property
    def full_breadth(self) -> int:
        """The number of all lists."""
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


class Graph(CandidateIndex):
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

    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        asked = self._codec.quantizer.prepare_queries(images)
        params = faiss.SearchParametersHNSW(efSearch=max(breadth, n_candidates))
        numbers: Int64 = self.index.search(asked, n_candidates, params=params)[1]
        return numbers

    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return each query's nearest numbers without the graph; see the base class."""
        numbers: Int64 = self._storage.search(self._codec.quantizer.prepare_queries(images), n_candidates)[1]
        return numbers

    def rebuilt(self, numbers: Int64) -> Graph:
        """Return a graph made anew, of some of the codes; see the base class."""
        hnsw = self.index.hnsw
        fresh = _graph(self._codec, hnsw.nb_neighbors(1), hnsw.efConstruction)
        codes = self.codes()
        for part in _parts(len(numbers)):
            kept = codes[numbers[part]]
            fresh.add(self._codec.quantizer.decode(kept), kept)
        return fresh


def add_to_lists(index: Any, lists: Int64, numbers: Int64, codes: Codes) -> None:
    """Add codes (n, bytes) under numbers (n,) to the lists (n,) of a faiss index of inverted lists."""
    # faiss's own form of such codes: the number of the list in as few bytes as do, and the code behind it.
    size = int(index.coarse_code_size())
    prefixed = np.empty((len(codes), size + codes.shape[1]), np.uint8)
    prefixed[:, :size] = lists.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :size]
    prefixed[:, size:] = codes
    index.add_sa_codes(prefixed, numbers)


def _graph(codec: Codec, M: int, ef_construction: int) -> Graph:
    index = codec.quantizer.graph_index(M, codec.projection.score)
    index.hnsw.efConstruction = ef_construction
    return Graph(codec, index)


def candidate_index(
    codec: Codec, kind: str, sample: Float32, rows: int, *, M: int, ef_construction: int
) -> CandidateIndex:
    """Return an empty first stage.

    Parameters
    ----------
    codec : Codec
        What turns vectors into codes.
    kind : {"flat", "ivf", "hnsw"}
        How codes are searched.
    sample : ndarray of shape (s, d), float32
        Some base vectors: inverted lists are made from them.
    rows : int
        How many vectors are expected; about 4 sqrt(rows) lists are made.
    M : int
        How many links a vertex of a graph has on each level; on the lowest it has twice as many.
    ef_construction : int
        How many candidates are kept while the links of a vertex are chosen.

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
        return InvertedLists.of_sample(codec, different, rows)
    if kind == "hnsw":
        return _graph(codec, M, ef_construction)
    raise ParameterError(f"index kind {kind!r} is unknown; use one of {', '.join(KINDS)}")


def nearest_entries(
    index: CandidateIndex,
    hidden: npt.NDArray[np.bool_],
    images: Float32,
    n_candidates: int,
    breadth: int | None,
    least: int,
) -> Int64:
    """Return each query's nearest numbers among those that are not hidden, nearest first.

    Parameters
    ----------
    index : CandidateIndex
        The first stage, which still finds hidden ones.
    hidden : ndarray of shape (n,), bool
        Whether each number must not be found.
    images : ndarray of shape (q, width), float32
        The projections of the queries.
    n_candidates : int
        How many numbers to return.
    breadth : int or None
        As for `CandidateIndex.search`; None for the default, which is raised until enough are found.
    least : int
        How many must be found in any case: a breadth that was given is raised for queries that find fewer.

    Returns
    -------
    ndarray of shape (q, min(n_candidates, those not hidden)), int64
        With -1 where fewer were found.
    """
    n_hidden = int(hidden.sum())
    total, there = len(hidden), len(hidden) - n_hidden
    wanted = min(n_candidates, there)
    least = wanted if breadth is None else min(least, there)
    nearest = np.full((len(images), wanted), -1, np.int64)
    pending = np.arange(len(images) if wanted else 0)
    # Ask for more by the share of hidden ones, and for more again where that falls short.
    more = min(total, wanted + n_hidden * wanted // total + 8) if n_hidden else wanted
    tried = index.default_breadth(more) if breadth is None else breadth
    while len(pending):
        everything = tried >= index.full_breadth
        asked = images[pending]
        numbers = index.search_all(asked, more) if everything else index.search(asked, more, tried)
        if n_hidden:
            numbers[hidden[np.maximum(numbers, 0)]] = -1
            order = np.argsort(numbers < 0, axis=1, kind="stable")
            numbers = np.take_along_axis(numbers, order, 1)[:, :wanted]
        nearest[pending] = numbers
        lacking = (numbers[:, :least] < 0).any(axis=1)
        if everything and (more == total or not n_hidden):
            break
        pending = pending[lacking]
        more, tried = min(total, 2 * more) if n_hidden else more, 2 * tried
    return nearest


def candidate_index_from(codec: Codec, kind: str, index: Any, centroids: Float32 | None) -> CandidateIndex:
    """Return the first stage around a faiss index that was read.

    Raises
    ------
    ValueError
        The kind is unknown, or lists have no centroids.
    """
    if kind == "flat":
        return Flat(codec, index)
    if kind == "hnsw":
        return Graph(codec, index)
    if kind == "ivf" and centroids is not None:
        return InvertedLists(codec, index, centroids)
    raise ValueError(f"{kind} is no kind of index")
