"""One byte for each of several groups of dimensions: product quantisation, and signs alone."""

from __future__ import annotations

from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.progress import stage
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    FaissQuantizer,
    Score,
    Tensors,
    bytes_in,
    exact_tensors,
    faiss_metric,
    faiss_ready,
    own_lists,
)
from nearfold.errors import DataError, ParameterError

__all__ = [
    "Product",
    "centroids_of",
    "nearest_centroids",
    "product_index",
    "product_lists_index",
    "sign_codebooks",
]

# faiss's k-means is several times slower in four dimensions or fewer than in five.
_KMEANS_DIMENSIONS = 5
_KMEANS_ROUNDS = 20
_KMEANS_ROWS_A_WORD = 128


def centroids_of(vectors: Float32, seed: int, budget: float = 1.0) -> Float32:
    """Return 256 centroids of vectors (n, s) by k-means, in a share of its rounds: shape (256, s).

    Raises
    ------
    DataError
        There are fewer than 256 vectors, or as `faiss_ready`.
    """
    width = vectors.shape[1]
    if len(vectors) < CODEWORDS:
        raise DataError(
            f"codebooks need at least {CODEWORDS} different rows, there are {len(vectors)}; use SQ8"
        )
    wide = _widened(vectors)
    kmeans = faiss.Kmeans(
        wide.shape[1],
        CODEWORDS,
        niter=max(1, round(budget * _KMEANS_ROUNDS)),
        seed=seed,
        max_points_per_centroid=_KMEANS_ROWS_A_WORD,
        min_points_per_centroid=1,
    )
    kmeans.train(wide)
    centroids: Float32 = np.ascontiguousarray(np.asarray(kmeans.centroids)[:, :width])
    return centroids


def nearest_centroids(vectors: Float32, centroids: Float32) -> npt.NDArray[np.int64]:
    """Return the number of the centroid (k, s) nearest each vector (n, s)."""
    wide = _widened(centroids)
    index = faiss.IndexFlatL2(wide.shape[1])
    index.add(wide)
    nearest: npt.NDArray[np.int64] = index.search(_widened(vectors), 1)[1][:, 0]
    return nearest


def _widened(vectors: Float32) -> Float32:
    """Return vectors as faiss takes them, zeros behind, up to as many dimensions as it is fast in."""
    wide = np.zeros((len(vectors), max(vectors.shape[1], _KMEANS_DIMENSIONS)), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return faiss_ready(wide)


def product_index(codebooks: Float32, score: Score) -> Any:
    """Return an empty faiss index of product codes; codebooks (groups, 256, s) for groups s dimensions."""
    groups, _, each = codebooks.shape
    index = faiss.IndexPQ(groups * each, groups, 8, faiss_metric(score))
    faiss.copy_array_to_vector(codebooks.ravel(), index.pq.centroids)
    index.is_trained = True
    return index


def product_lists_index(codebooks: Float32, lists: int, score: Score) -> Any:
    """Return an empty faiss index of inverted lists of product codes, as `product_index`."""
    groups, _, each = codebooks.shape
    index = own_lists(faiss.IndexIVFPQ, groups * each, lists, score, groups, 8, faiss_metric(score))
    faiss.copy_array_to_vector(codebooks.ravel(), index.pq.centroids)
    return index


class Product(FaissQuantizer):
    """Product quantisation (Jegou, Douze, Schmid, 2011): consecutive dimensions share a codebook.

    Parameters
    ----------
    name
        PQ24, OPQ24 (after a rotation that is the codec's), or Binary.
    codebooks
        Shape (groups, 256, width / groups), float32.
    """

    kind = "product"

    def __init__(self, name: str, codebooks: Float32) -> None:
        self.name, self._codebooks = name, codebooks
        self.width = codebooks.shape[0] * codebooks.shape[2]

    @classmethod
    def train(cls, name: str, vectors: Float32, groups: int, seed: int, budget: float = 1.0) -> Self:
        """Return the quantiser whose codebooks are k-means of vectors (n, width); groups divides width.

        `budget` is the share of the rounds of k-means that are done.
        """
        parts = np.split(vectors, groups, axis=1)
        with stage("codebooks", groups, "codebooks") as advance:
            codebooks = []
            for j, part in enumerate(parts):
                codebooks.append(centroids_of(part, seed + j, budget))
                advance(1)
        return cls(name, np.stack(codebooks))

    def tensors(self) -> Tensors:
        """Return the codebooks."""
        return {"codebooks": self._codebooks}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        # A byte holds the signs of eight dimensions.
        groups = width // 8 if name == "Binary" else bytes_in(name, "PQ|OPQ")
        if groups == 0 or width % groups:
            raise ValueError(f"{name}: {groups} bytes don't divide {width} dimensions")
        shape = (groups, CODEWORDS, width // groups)
        return cls(name, *exact_tensors(name, tensors, {"codebooks": shape}))

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        return product_index(self._codebooks, score)

    def graph_index(self, links: int, score: Score) -> Any:
        """Return an empty faiss graph, to which vectors (n, width) are added.

        Raises
        ------
        ParameterError
            The score is not "l2": faiss compares two product codes by distance alone.
        """
        if score != "l2":
            raise ParameterError(
                f"{self.name} codes can't be linked in a graph by inner product; use index kind flat or ivf"
            )
        return super().graph_index(links, score)

    def lists_index(self, lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        return product_lists_index(self._codebooks, lists, score)


def sign_codebooks(vectors: Float32) -> Float32:
    """Return the codebooks that keep each dimension's sign about its mean, eight to a byte.

    Each sign stands for the mean of the values on its side, of vectors (n, 8 g): shape (g, 256, 8).
    """
    above = vectors > 0
    counts = np.maximum(above.sum(axis=0), 1), np.maximum((~above).sum(axis=0), 1)
    high = np.where(above, vectors, 0).sum(axis=0, dtype=np.float64) / counts[0]
    low = np.where(above, 0, vectors).sum(axis=0, dtype=np.float64) / counts[1]
    bits = (np.arange(CODEWORDS)[:, None] >> np.arange(8)) & 1
    values = np.where(bits[None], high.reshape(-1, 1, 8), low.reshape(-1, 1, 8))
    return np.ascontiguousarray(values, np.float32)
