"""The first stage: a faiss index of codes, flat, in inverted lists, or as a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import faiss
import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32
from nearfold.errors import ParameterError
from nearfold.pipeline.pipeline import Pipeline
from nearfold.quantizers.base import Codes, faiss_metric
from nearfold.quantizers.product import Product, nearest_centroids

__all__ = ["KINDS", "IndexKind", "Reduced", "living", "reduced_from", "reduced_index"]

Int64 = npt.NDArray[np.int64]

IndexKind: TypeAlias = Literal["flat", "ivf", "hnsw"]

KINDS: tuple[str, ...] = get_args(IndexKind)

# Rows of the sample that inverted lists are made from, for each list.
_ROWS_A_LIST = 64
_LINKS = 16
_BUILD_EFFORT = 100


class Reduced(ABC):
    """Codes under numbers 0, 1, ... in the order added.

    Parameters
    ----------
    pipeline
        What turns vectors into codes.
    index
        The faiss index that holds them.
    """

    kind: ClassVar[IndexKind]

    def __init__(self, pipeline: Pipeline, index: Any) -> None:
        self._pipeline, self.index = pipeline, index

    def __len__(self) -> int:
        """Return how many codes there are."""
        return int(self.index.ntotal)

    @abstractmethod
    def add(self, vectors: Float32) -> None:
        """Add vectors (n, d)."""

    @abstractmethod
    def search(self, queries: Float32, depth: int, effort: int) -> Int64:
        """Return each query's `depth` nearest numbers, nearest first, -1 where there are fewer.

        Parameters
        ----------
        queries
            Shape (q, d).
        depth
            At least 1.
        effort
            Lists to look into, or candidates to keep in the graph; no matter for flat.
        """

    def default_effort(self, depth: int) -> int:
        """Return the effort where the caller names none."""
        return depth

    @abstractmethod
    def emptied(self) -> Reduced:
        """Return the same with no codes in it."""


class Flat(Reduced):
    """Every code is looked at."""

    kind = "flat"

    def codes(self) -> Codes:
        """Return all codes, shape (n, bytes)."""
        codes: Codes = faiss.vector_to_array(self.index.codes).reshape(len(self), -1)
        return codes

    def add(self, vectors: Float32) -> None:
        """Add vectors (n, d)."""
        self.add_codes(self._pipeline.encode(vectors))

    def add_codes(self, codes: Codes) -> None:
        """Add vectors by their codes (n, bytes)."""
        self.index.add_sa_codes(codes)

    def search(self, queries: Float32, depth: int, effort: int) -> Int64:  # noqa: ARG002
        """Return each query's nearest numbers; see the base class."""
        found: Int64 = self.index.search(self._pipeline.queries(queries), depth)[1]
        return found

    def emptied(self) -> Flat:
        """Return the same with no codes in it."""
        return Flat(self._pipeline, self._pipeline.index())


class InvertedLists(Reduced):
    """Codes in lists by their nearest centroid; the lists nearest a query are looked into."""

    kind = "ivf"

    def __init__(self, pipeline: Pipeline, index: Any, centroids: Float32) -> None:
        super().__init__(pipeline, index)
        self.centroids = centroids
        # The query image is compared with centroids as it will be with codes.
        self._coarse = faiss.IndexFlat(centroids.shape[1], faiss_metric(pipeline.sides.score))
        self._coarse.add(centroids)

    def add(self, vectors: Float32) -> None:
        """Add vectors (n, d)."""
        if not len(vectors):
            return
        images = np.ascontiguousarray(self._pipeline.sides.base(vectors))
        lists = nearest_centroids(images, self.centroids)
        codes = self._pipeline.quantizer.encode(images)
        first = len(self)
        for chosen in np.unique(lists):
            rows = np.flatnonzero(lists == chosen)
            numbers, own = (first + rows).astype(np.int64), np.ascontiguousarray(codes[rows])
            self.index.invlists.add_entries(
                int(chosen), len(rows), faiss.swig_ptr(numbers), faiss.swig_ptr(own)
            )
        self.index.ntotal += len(vectors)

    def search(self, queries: Float32, depth: int, effort: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        images = self._pipeline.sides.queries(queries)
        probes = min(effort, len(self.centroids))
        distances, lists = self._coarse.search(np.ascontiguousarray(images), probes)
        asked = np.ascontiguousarray(self._pipeline.quantizer.asked(images))
        found = np.empty((len(queries), depth), np.int64)
        scores = np.empty((len(queries), depth), np.float32)
        # faiss's wrapper in Python has no parameters here; setting them on the index would be seen by
        # searches in other threads.
        self.index.search_preassigned_c(
            len(queries),
            faiss.swig_ptr(asked),
            depth,
            *(faiss.swig_ptr(array) for array in (lists, distances, scores, found)),
            False,
            faiss.SearchParametersIVF(nprobe=probes),
        )
        return found

    def emptied(self) -> InvertedLists:
        """Return the same with no codes in it."""
        score = self._pipeline.sides.score
        index = self._pipeline.quantizer.lists_index(len(self.centroids), score)
        return InvertedLists(self._pipeline, index, self.centroids)

    def default_effort(self, depth: int) -> int:  # noqa: ARG002
        """Return the number of lists that holds a sixteenth of the codes."""
        return max(1, len(self.centroids) // 16)


class Graph(Reduced):
    """A hierarchical navigable small world over codes (Malkov and Yashunin, arXiv 1603.09320)."""

    kind = "hnsw"

    def __init__(self, pipeline: Pipeline, index: Any) -> None:
        super().__init__(pipeline, index)
        if isinstance(pipeline.quantizer, Product):
            # Links are made by distances between codes, whose table files don't hold.
            faiss.downcast_index(index.storage).pq.compute_sdc_table()

    def add(self, vectors: Float32) -> None:
        """Add vectors (n, d)."""
        if len(vectors):
            self.index.add(np.ascontiguousarray(self._pipeline.sides.base(vectors)))

    def search(self, queries: Float32, depth: int, effort: int) -> Int64:
        """Return each query's nearest numbers; see the base class."""
        asked = self._pipeline.queries(queries)
        params = faiss.SearchParametersHNSW(efSearch=max(effort, depth))
        found: Int64 = self.index.search(asked, depth, params=params)[1]
        return found

    def emptied(self) -> Graph:
        """Return the same with no codes in it."""
        links = self.index.hnsw.nb_neighbors(1)
        return _graph(self._pipeline, links)


def _graph(pipeline: Pipeline, links: int) -> Graph:
    index = pipeline.quantizer.graph_index(links, pipeline.sides.score)
    index.hnsw.efConstruction = _BUILD_EFFORT
    return Graph(pipeline, index)


def reduced_index(
    pipeline: Pipeline, kind: str, sample: Float32, rows: int, *, links: int = _LINKS, seed: int = 0
) -> Reduced:
    """Return an empty first stage.

    Parameters
    ----------
    pipeline
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
        The kind is unknown or doesn't go with the pipeline's quantiser.
    """
    if kind == "flat":
        return Flat(pipeline, pipeline.index())
    if kind == "ivf":
        images = np.ascontiguousarray(pipeline.sides.base(sample))
        lists = max(1, min(round(4 * rows**0.5), len(images) // 8))
        index = pipeline.quantizer.lists_index(lists, pipeline.sides.score)
        kmeans = faiss.Kmeans(
            images.shape[1],
            lists,
            niter=10,
            seed=seed + 1,
            max_points_per_centroid=_ROWS_A_LIST,
            min_points_per_centroid=1,
        )
        kmeans.train(images)
        return InvertedLists(pipeline, index, kmeans.centroids)
    if kind == "hnsw":
        return _graph(pipeline, links)
    raise ParameterError(f"index kind {kind!r} is unknown; use one of {', '.join(KINDS)}")


def living(
    reduced: Reduced, removed: npt.NDArray[np.bool_], queries: Float32, depth: int, effort: int | None
) -> Int64:
    """Return each query's nearest numbers among those that are not removed, nearest first.

    Parameters
    ----------
    reduced
        The first stage, which still finds removed ones.
    removed
        Whether each number is, shape (n,).
    queries
        Shape (q, d).
    depth
        How many to return.
    effort
        As for `Reduced.search`; None for the usual.

    Returns
    -------
    ndarray of shape (q, depth), or (q, n) where n is less; -1 where there are fewer.
    """
    total, gone = len(removed), int(removed.sum())
    wanted = more = min(depth, total)
    while True:
        # Look deeper by the share of removed ones, and further where that falls short.
        more = min(total, more if not gone else more + gone * more // total + 8)
        found = reduced.search(queries, more, reduced.default_effort(more) if effort is None else effort)
        if not gone:
            return found
        found[removed[np.maximum(found, 0)]] = -1
        order = np.argsort(found < 0, axis=1, kind="stable")
        found = np.take_along_axis(found, order, 1)
        if more == total or (found[:, :wanted] >= 0).all():
            return found[:, :wanted]
        more *= 2


def reduced_from(pipeline: Pipeline, kind: str, index: Any, centroids: Float32 | None) -> Reduced:
    """Return the first stage around a faiss index that was read; raises ValueError where it is none."""
    if kind == "flat":
        return Flat(pipeline, index)
    if kind == "hnsw":
        return Graph(pipeline, index)
    if kind == "ivf" and centroids is not None:
        return InvertedLists(pipeline, index, centroids)
    raise ValueError(f"{kind} is no kind of index")
