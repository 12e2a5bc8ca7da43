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

# The most sampled rows for each inverted list, and the least; and the least default of nprobe.
_ROWS_A_LIST = 64
_LEAST_A_LIST = 8
_LEAST_PROBES = 32

# Costs of searches among allowed codes, in comparisons of a query with a code of a flat index: a copy of a
# code, a step of ef_search, and, in a list, a code that is compared. See docs/findings.md, "Filters".
_COPY, _STEP, _LISTED = 6, 64, 3

# The share of codes, for each query, up to which a copy of them takes less time than faiss's selector, which
# is slower than a search in which all codes may be found.
_COPIED_A_QUERY = 0.1

# The most codes that lists are rebuilt from, and the number of codes that are decoded at a time.
_SAMPLE = 1 << 16


class CandidateIndex(ABC):
    """An index of codes, which have the numbers 0, 1, ... in the order of their addition.

    Each code should be added only once; see `Groups`.

    Parameters
    ----------
    codec : Codec
        The codec that makes the codes.
    index : faiss.Index
        The faiss index that holds the codes.
    """

    kind: ClassVar[IndexKind]

    def __init__(self, codec: Codec, index: Any) -> None:
        self._codec, self.index = codec, index

    def __len__(self) -> int:
        """Return the number of codes."""
        return int(self.index.ntotal)

    @abstractmethod
    def add(self, images: Float32, codes: Codes) -> None:
        """Add codes (n, bytes), with the projections (n, width) of the base vectors that they stand for."""

    @abstractmethod
    def codes(self) -> Codes:
        """Return all codes, shape (n, bytes), possibly as a view that is valid until codes are added."""

    @abstractmethod
    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:
        """Return the numbers of each query's nearest codes, nearest first.

        Parameters
        ----------
        images : ndarray of shape (q, width), float32
            The projections of the queries.
        n_candidates : int
            The number of codes to return for each query, at least 1.
        breadth : int
            The nprobe of inverted lists or the ef_search of a graph. A flat index ignores it.

        Returns
        -------
        ndarray of shape (q, n_candidates), int64
            The numbers of codes, filled up with -1.
        """

    @abstractmethod
    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return the same as `search`, by comparison with every code."""

    @abstractmethod
    def search_allowed(
        self, images: Float32, allowed: npt.NDArray[np.bool_], n_candidates: int, breadth: int | None
    ) -> Int64:
        """Return the numbers of each query's nearest allowed codes, nearest first.

        A flat index is exact. Others search as broadly as it takes to see as many allowed codes as a search
        without a filter sees codes, or compare with every allowed code if that takes less time.

        Parameters
        ----------
        images : ndarray of shape (q, width), float32
            The projections of the queries.
        allowed : ndarray of shape (n,), bool
            Whether each code may be found; one is at least.
        n_candidates : int
            The number of codes to return for each query, at least 1.
        breadth : int or None
            The breadth, as for `search`, of a search without a filter. None stands for the default.

        Returns
        -------
        ndarray of shape (q, min(n_candidates, allowed codes)), int64
            The numbers of codes.
        """

    def _copied(self, images: Float32, allowed: npt.NDArray[np.bool_], n_candidates: int) -> Int64:
        """Return what `search_allowed` does, by comparison with a copy of all allowed codes."""
        numbers = np.flatnonzero(allowed)
        copied = self._codec.index()
        copied.add_sa_codes(np.ascontiguousarray(self.codes()[numbers]))
        asked = self._codec.quantizer.prepare_queries(images)
        found: Int64 = numbers[copied.search(asked, min(n_candidates, len(numbers)))[1]]
        return found

    def default_breadth(self, n_candidates: int) -> int:
        """Return the breadth of a search if the caller gives none."""
        return n_candidates

    @property
    def full_breadth(self) -> int:
        """The breadth from which on comparison with every code is better."""
        return len(self)

    @property
    def outgrown(self) -> bool:
        """Whether the index has grown so much that it should be rebuilt."""
        return False

    @abstractmethod
    def rebuilt(self, numbers: Int64) -> CandidateIndex:
        """Return a new index of the same kind that holds some of the codes, numbered anew."""


def _viewed(index: Any) -> Codes:
    """Return a view of the codes in a flat faiss index, shape (n, bytes)."""
    n, size = int(index.ntotal), int(index.code_size)
    if not n:
        return np.empty((0, size), np.uint8)
    codes: Codes = faiss.rev_swig_ptr(index.codes.data(), n * size).reshape(n, size)
    return codes


class Flat(CandidateIndex):
    """A flat index, which compares each query with every code."""

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

    def search_allowed(
        self,
        images: Float32,
        allowed: npt.NDArray[np.bool_],
        n_candidates: int,
        breadth: int | None,  # noqa: ARG002
    ) -> Int64:
        """Return each query's nearest allowed numbers, exactly; see the base class."""
        n, total = int(allowed.sum()), len(allowed)
        few = n <= total * min(0.5, _COPIED_A_QUERY * len(images))
        # faiss's flat index of product codes takes no selector.
        if few or isinstance(self.index, faiss.IndexPQ):
            return self._copied(images, allowed, n_candidates)
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        asked = self._codec.quantizer.prepare_queries(images)
        params = faiss.SearchParameters(sel=selector)
        numbers: Int64 = self.index.search(asked, min(n_candidates, n), params=params)[1]
        return numbers

    @property
    def full_breadth(self) -> int:
        """The breadth 0, as every search compares with every code."""
        return 0

    def rebuilt(self, numbers: Int64) -> Flat:
        """Return a flat index of some of the codes; see the base class."""
        fresh = Flat(self._codec, self._codec.index())
        kept = self.codes()[numbers]
        fresh.add(np.empty((0, 0), np.float32), kept)
        return fresh


class InvertedLists(CandidateIndex):
    """Inverted lists: codes in lists by their nearest centroid, of which a search visits the nearest."""

    kind = "ivf"

    def __init__(self, codec: Codec, index: Any, centroids: Float32) -> None:
        super().__init__(codec, index)
        self.centroids = centroids
        # A query's projection is compared with centroids by the same score as with codes.
        self._coarse = faiss.IndexFlat(centroids.shape[1], faiss_metric(codec.projection.score))
        self._coarse.add(faiss_ready(centroids, "centroids of lists"))
        self._lists_of_all = np.empty(0, np.int64)

    @classmethod
    def of_sample(cls, codec: Codec, images: Float32, rows: int) -> InvertedLists:
        """Return empty lists for `rows` rows, with centroids trained on distinct projections of a sample."""
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
        """Add codes to the lists nearest to their projections; see the base class."""
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
        """Return the number of the list that holds each code, shape (len(numbers),)."""
        lists = self._lists_of_all
        if len(lists) != len(self):
            held, lists = self.index.invlists, np.empty(len(self), np.int64)
            for chosen in range(int(self.index.nlist)):
                n = int(held.list_size(chosen))
                if n:
                    lists[faiss.rev_swig_ptr(held.get_ids(chosen), n)] = chosen
            self._lists_of_all = lists
        return lists[numbers]

    def search(self, images: Float32, n_candidates: int, breadth: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        nprobe = min(breadth, len(self.centroids))
        distances, lists = self._coarse.search(np.ascontiguousarray(images), nprobe)
        return self._search_lists(images, lists, distances, n_candidates)

    def _search_lists(
        self, images: Float32, lists: Int64, distances: Float32, n_candidates: int, selector: Any = None
    ) -> Int64:
        """Return each query's nearest numbers in some lists.

        Parameters
        ----------
        images : ndarray of shape (q, width), float32
            The projections of the queries.
        lists, distances : ndarrays of shape (q, nprobe), int64 and float32
            The lists to visit for each query, -1 for none, and the distances of their centroids.
        n_candidates : int
            The number of codes to return for each query.
        selector : faiss.IDSelector, optional
            What selects the codes that may be found. By default all may.

        Returns
        -------
        ndarray of shape (q, n_candidates), int64
            The numbers of codes, filled up with -1.
        """
        asked = np.ascontiguousarray(self._codec.quantizer.prepare_queries(images))
        numbers = np.empty((len(images), n_candidates), np.int64)
        scores = np.empty((len(images), n_candidates), np.float32)
        # faiss's Python wrapper of this function takes no search parameters, and parameters set on the index
        # would change searches in other threads.
        self.index.search_preassigned_c(
            len(images),
            faiss.swig_ptr(asked),
            n_candidates,
            *(faiss.swig_ptr(array) for array in (lists, distances, scores, numbers)),
            False,
            faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=selector),
        )
        return numbers

    def search_allowed(
        self, images: Float32, allowed: npt.NDArray[np.bool_], n_candidates: int, breadth: int | None
    ) -> Int64:
        """Return each query's nearest allowed numbers; see the base class.

        The nearest lists are visited until they hold as many allowed codes as `breadth` lists hold codes.
        """
        n = int(allowed.sum())
        wanted = min(n_candidates, n)
        breadth = self.default_breadth(n_candidates) if breadth is None else breadth
        enough = max(wanted, min(breadth, len(self.centroids)) * len(self) / len(self.centroids))
        # All codes are gathered from the lists before the allowed ones are copied.
        if n + _COPY * len(self) / len(images) <= _LISTED * enough:
            return self._copied(images, allowed, wanted)
        held = np.bincount(self.lists_of(np.flatnonzero(allowed)), minlength=len(self.centroids))
        distances, lists = self._coarse.search(np.ascontiguousarray(images), len(self.centroids))
        before = np.cumsum(held[lists], axis=1) - held[lists]
        visited = (before < enough) & (held[lists] > 0)
        # The lists to visit go first, in the order of their distances; the width of the table is the most
        # that a query visits.
        first = np.argsort(~visited, axis=1, kind="stable")[:, : int(visited.sum(axis=1).max())]
        visited, lists, distances = (np.take_along_axis(a, first, 1) for a in (visited, lists, distances))
        bits = np.packbits(allowed, bitorder="little")
        return self._search_lists(
            images,
            np.ascontiguousarray(np.where(visited, lists, -1)),
            np.ascontiguousarray(distances),
            wanted,
            faiss.IDSelectorBitmap(bits),
        )

    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return each query's nearest numbers in all lists; see the base class."""
        return self.search(images, n_candidates, len(self.centroids))

    def default_breadth(self, n_candidates: int) -> int:  # noqa: ARG002
        """Return a sixteenth of the number of lists, at least 32."""
        return max(_LEAST_PROBES, len(self.centroids) // 16)

    @property
    def full_breadth(self) -> int:
        """The number of lists."""
        return len(self.centroids)

    @property
    def outgrown(self) -> bool:
        """Whether there are fewer than half of the lists that a new index of these codes would have."""
        return 2 * len(self.centroids) < _list_count(len(self), min(len(self), _SAMPLE))

    def rebuilt(self, numbers: Int64) -> InvertedLists:
        """Return new lists of some of the codes; see the base class."""
        codes = self.codes()[numbers]
        decode = self._codec.quantizer.decode
        sample = codes[sampled_rows(len(codes), _SAMPLE, 0)]
        fresh = InvertedLists.of_sample(self._codec, decode(sample), len(codes))
        for part in _parts(len(codes)):
            fresh.add(decode(codes[part]), codes[part])
        return fresh


def _list_count(rows: int, sample: int) -> int:
    """Return the number of lists for `rows` rows, of which a sample of size `sample` trains the centroids."""
    return max(1, min(round(4 * math.sqrt(rows)), sample // _LEAST_A_LIST))


def _parts(rows: int) -> Iterator[slice]:
    """Yield the slices in which `rows` codes are processed."""
    return (slice(start, start + _SAMPLE) for start in range(0, rows, _SAMPLE))


class Graph(CandidateIndex):
    """A hierarchical navigable small world graph over codes (Malkov and Yashunin, arXiv 1603.09320)."""

    kind = "hnsw"

    def __init__(self, codec: Codec, index: Any) -> None:
        super().__init__(codec, index)
        self._storage = faiss.downcast_index(index.storage)
        if isinstance(codec.quantizer, Product):
            # Links are made by distances between codes, and files do not hold the table of those.
            self._storage.pq.compute_sdc_table()

    def add(self, images: Float32, codes: Codes) -> None:  # noqa: ARG002
        """Add projections, which the graph encodes itself; see the base class."""
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

    def search_allowed(
        self, images: Float32, allowed: npt.NDArray[np.bool_], n_candidates: int, breadth: int | None
    ) -> Int64:
        """Return each query's nearest allowed numbers; see the base class.

        The graph is searched without regard to the filter, for as many codes as probably hold enough allowed
        ones, and for twice as many where they do not. A search by faiss's selectors stops after as many
        steps, but fills up its results with what it happened to see, so that it looks complete where it is
        not.
        """
        total, n = len(allowed), int(allowed.sum())
        wanted = min(n_candidates, n)
        breadth = max(wanted, self.default_breadth(n_candidates) if breadth is None else breadth)
        nearest = np.full((len(images), wanted), -1, np.int64)
        pending, share = np.arange(len(images)), n / total
        while len(pending):
            more = min(total, _enough(wanted, share))
            steps = max(more, math.ceil(breadth / share))
            if _cost_of_copy(n, len(pending)) <= _STEP * steps or more == total:
                nearest[pending] = self._copied(images[pending], allowed, wanted)
                break
            nearest[pending] = _only(allowed, self.search(images[pending], more, steps), wanted)
            pending, share = pending[nearest[pending, -1] < 0], share / 2
        return nearest

    def search_all(self, images: Float32, n_candidates: int) -> Int64:
        """Return each query's nearest numbers, found without the graph; see the base class."""
        numbers: Int64 = self._storage.search(self._codec.quantizer.prepare_queries(images), n_candidates)[1]
        return numbers

    def rebuilt(self, numbers: Int64) -> Graph:
        """Return a new graph of some of the codes; see the base class."""
        hnsw = self.index.hnsw
        fresh = _graph(self._codec, hnsw.nb_neighbors(1), hnsw.efConstruction)
        codes = self.codes()
        for part in _parts(len(numbers)):
            kept = codes[numbers[part]]
            fresh.add(self._codec.quantizer.decode(kept), kept)
        return fresh


def add_to_lists(index: Any, lists: Int64, numbers: Int64, codes: Codes) -> None:
    """Add codes (n, bytes) with numbers (n,) to the lists (n,) of a faiss index of inverted lists."""
    # faiss expects each code after the number of its list, which takes as few bytes as necessary.
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
    """Return an empty index of codes.

    Parameters
    ----------
    codec : Codec
        The codec that makes the codes.
    kind : {"flat", "ivf", "hnsw"}
        The kind of index.
    sample : ndarray of shape (s, d), float32
        A sample of the base vectors, on which the centroids of inverted lists are trained.
    rows : int
        The expected number of vectors, for which about 4 sqrt(rows) lists are made.
    M : int
        The number of links of each vertex of a graph on each level; the lowest level has twice as many.
    ef_construction : int
        The number of candidates among which the links of a vertex are chosen.

    Returns
    -------
    CandidateIndex

    Raises
    ------
    ParameterError
        The kind is unknown or doesn't go with the codec's quantiser.
    """
    if kind == "flat":
        return Flat(codec, codec.index())
    if kind == "ivf":
        # If the quantiser has no inverted lists, this refuses the kind before anything is computed.
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
    """Return the numbers of each query's nearest codes that are not hidden, nearest first.

    Parameters
    ----------
    index : CandidateIndex
        The index, whose own searches find hidden codes too.
    hidden : ndarray of shape (n,), bool
        Whether each code is hidden.
    images : ndarray of shape (q, width), float32
        The projections of the queries.
    n_candidates : int
        The number of codes to return for each query.
    breadth : int or None
        The breadth, as for `CandidateIndex.search`. None stands for the default, which is raised until
        `n_candidates` codes are found.
    least : int
        The number of codes that must be found: a given breadth is raised for queries that find fewer.

    Returns
    -------
    ndarray of shape (q, min(n_candidates, codes not hidden)), int64
        The numbers of codes, filled up with -1.
    """
    n_hidden = int(hidden.sum())
    total, there = len(hidden), len(hidden) - n_hidden
    wanted = min(n_candidates, there)
    least = wanted if breadth is None else min(least, there)
    nearest = np.full((len(images), wanted), -1, np.int64)
    pending = np.arange(len(images) if wanted else 0)
    # More codes are asked for in proportion to the hidden ones, and twice as many if that does not suffice.
    more = min(total, _enough(wanted, there / total)) if n_hidden else wanted
    tried = index.default_breadth(more) if breadth is None else breadth
    while len(pending):
        everything = tried >= index.full_breadth
        asked = images[pending]
        numbers = index.search_all(asked, more) if everything else index.search(asked, more, tried)
        if n_hidden:
            numbers = _only(~hidden, numbers, wanted)
        nearest[pending] = numbers
        lacking = (numbers[:, :least] < 0).any(axis=1)
        if everything and (more == total or not n_hidden):
            break
        pending = pending[lacking]
        more, tried = min(total, 2 * more) if n_hidden else more, 2 * tried
    return nearest


def _only(allowed: npt.NDArray[np.bool_], numbers: Int64, most: int) -> Int64:
    """Return the first `most` allowed numbers of each query, in their order, filled up with -1."""
    numbers = np.where(allowed[np.maximum(numbers, 0)], numbers, -1)
    order = np.argsort(numbers < 0, axis=1, kind="stable")
    return np.take_along_axis(numbers, order, 1)[:, :most]


def _enough(wanted: int, share: float) -> int:
    """Return how many codes most probably hold `wanted` allowed ones, if a share of codes is allowed."""
    return math.ceil((wanted + 3 * math.sqrt(wanted * (1 - share))) / share)


def _cost_of_copy(n: int, n_queries: int) -> float:
    """Return the cost for each query of copying n codes and comparing all queries with the copy."""
    return n * (1 + _COPY / n_queries)


def candidate_index_from(codec: Codec, kind: str, index: Any, centroids: Float32 | None) -> CandidateIndex:
    """Return the index of codes that holds a faiss index, as read from a file.

    Parameters
    ----------
    codec : Codec
        The codec that made the codes.
    kind : {"flat", "ivf", "hnsw"}
        The kind of index.
    index : faiss.Index
        The faiss index.
    centroids : ndarray of shape (lists, width), float32, or None
        The centroids of inverted lists; None for other kinds.

    Raises
    ------
    ValueError
        The kind is unknown, or inverted lists have no centroids.
    """
    if kind == "flat":
        return Flat(codec, index)
    if kind == "hnsw":
        return Graph(codec, index)
    if kind == "ivf" and centroids is not None:
        return InvertedLists(codec, index, centroids)
    raise ValueError(f"{kind} is no kind of index")
