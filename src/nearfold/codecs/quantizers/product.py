"""One byte for each of several groups of dimensions: product quantisation, rotated before or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    Candidate,
    CodeTables,
    FaissQuantizer,
    QuantizerSpec,
    Training,
    bytes_in,
    check_codebooks,
    faiss_metric,
    faiss_ready,
    own_lists,
)
from nearfold.codecs.rotations import balanced_rotation
from nearfold.codecs.tensors import Score, Tensors, exact_tensors
from nearfold.errors import DataError, ParameterError

__all__ = [
    "Product",
    "centroids_of",
    "nearest_centroids",
    "opq_rotation",
    "product_index",
    "product_lists_index",
    "widths_for",
]

# faiss's k-means is several times slower in four dimensions or fewer than in five.
_KMEANS_DIMENSIONS = 5
_KMEANS_ROUNDS = 20
_KMEANS_ROWS_A_WORD = 128

# Rounds of OPQ: from a balanced start the codes change little after these.
_OPQ_ROUNDS = 25
# More rows than these don't change the rotation; faiss takes as many.
_OPQ_ROWS = 1 << 16

# Dimensions a byte that the planner tries.
_DIMENSIONS = (4, 8)


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


def product_lists_index(codebooks: Float32, n_lists: int, score: Score) -> Any:
    """Return an empty faiss index of inverted lists of product codes, as `product_index`."""
    groups, _, each = codebooks.shape
    index = own_lists(faiss.IndexIVFPQ, groups * each, n_lists, score, groups, 8, faiss_metric(score))
    faiss.copy_array_to_vector(codebooks.ravel(), index.pq.centroids)
    return index


class Product(FaissQuantizer):
    """Product quantisation (Jegou, Douze, Schmid, 2011): consecutive dimensions share a codebook.

    Parameters
    ----------
    name : str
        "PQ24" or "OPQ24"; the rotation of OPQ is the codec's.
    codebooks : ndarray of shape (groups, 256, width / groups), float32
        The codewords of each group of dimensions.
    """

    names: ClassVar = {
        "PQ<bytes>": "product quantisation",
        "OPQ<bytes>": "the same after a learned rotation, to fewer dimensions as OPQ<bytes>_<dimensions>",
    }
    kind = "product"

    def __init__(self, name: str, codebooks: Float32) -> None:
        self.name, self._codebooks = name, codebooks
        self.width = codebooks.shape[0] * codebooks.shape[2]

    @classmethod
    def parse(cls, text: str) -> QuantizerSpec | None:
        """Return what a name such as PQ24, OPQ24 or OPQ24_96 says; None where it is none."""
        sized, _, width = text.partition("_")
        spec = super().parse(sized)
        if spec is None or "_" not in text:
            return spec
        if spec.name == "OPQ" and re.fullmatch("[0-9]{1,6}", width):
            return spec._replace(width=int(width))
        return None

    @classmethod
    def check(cls, spec: QuantizerSpec, width: int, n_rows: int) -> None:
        """Refuse bytes that don't divide the dimensions, and too few rows."""
        if spec.width is not None and not 0 < spec.width <= width:
            raise ParameterError(f"OPQ can't rotate {width} dimensions to {spec.width}")
        width = spec.width or width
        if width % spec.n_bytes:
            raise ParameterError(
                f"{spec.n_bytes} bytes don't divide {width} dimensions evenly; "
                f"fold to a multiple of {spec.n_bytes}"
            )
        check_codebooks(spec, width, n_rows)

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield OPQ of all dimensions, and of fewer by its own rotation or by a fold before."""
        if n_bytes <= n_features and n_features % n_bytes == 0:
            yield Candidate(QuantizerSpec("OPQ", n_bytes))
        for width in widths_for(n_bytes, _DIMENSIONS, n_features):
            yield Candidate(QuantizerSpec("OPQ", n_bytes, width))
            yield Candidate(QuantizerSpec("OPQ", n_bytes), width)

    @classmethod
    def rotation(cls, spec: QuantizerSpec, vectors: Float32, how: Training) -> Float32 | None:
        """Return the rotation of OPQ; None for PQ."""
        if spec.name != "OPQ":
            return None
        return opq_rotation(vectors, spec.n_bytes, spec.width or vectors.shape[1], how.seed, how.budget)

    @classmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:
        """Return the quantiser whose codebooks are k-means of vectors (n, width); its bytes divide width."""
        how = how or Training()
        with stage("codebooks", spec.n_bytes, "codebooks") as advance:
            codebooks = []
            for j, part in enumerate(np.split(vectors, spec.n_bytes, axis=1)):
                codebooks.append(centroids_of(part, how.seed + j, how.budget))
                advance(1)
        return cls(spec.stored, np.stack(codebooks))

    def tensors(self) -> Tensors:
        """Return the codebooks."""
        return {"codebooks": self._codebooks}

    def tables(self) -> CodeTables:
        """Return the codebooks, each for dimensions of its own."""
        dims = np.arange(self.width, dtype=np.int32).reshape(len(self._codebooks), -1)
        return CodeTables(8, self._codebooks, dims)

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        groups = cls._groups(name, width)
        if groups == 0 or width % groups:
            raise ValueError(f"{name}: {groups} bytes don't divide {width} dimensions")
        shape = (groups, CODEWORDS, width // groups)
        return cls(name, *exact_tensors(name, tensors, {"codebooks": shape}))

    @staticmethod
    def _groups(name: str, width: int) -> int:  # noqa: ARG004
        """Return the groups of dimensions of a quantiser's name."""
        return bytes_in(name, "PQ|OPQ")

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        return product_index(self._codebooks, score)

    def graph_index(self, M: int, score: Score) -> Any:
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
        return super().graph_index(M, score)

    def lists_index(self, n_lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        return product_lists_index(self._codebooks, n_lists, score)


def widths_for(n_bytes: int, dimensions: tuple[int, ...], n_features: int) -> list[int]:
    """Return the widths of codes of `n_bytes` that the planner tries, for so many `dimensions` a byte.

    Fewer are taken where there are not so many; one a byte is left to SQ8, which is as good.
    """
    each = {min(wanted, (n_features - 1) // n_bytes) for wanted in dimensions}
    return [n_bytes * dimensions for dimensions in sorted(each) if dimensions > 1]


def opq_rotation(vectors: Float32, groups: int, width: int, seed: int = 0, budget: float = 1.0) -> Float32:
    """Return the rotation (width, m) of vectors (n, m) that product codes of `groups` bytes lose least by.

    Ge, He, Ke, Sun, CVPR 2013: from the parametric solution, one step of k-means in each group and one
    orthogonal Procrustes problem in turn. faiss's OPQMatrix takes several steps of k-means a round, which in
    four dimensions are slow there. `budget` is the share of the rounds that are done.
    """
    n = len(vectors)
    rows = np.ascontiguousarray(vectors[sampled_rows(n, _OPQ_ROWS, seed)] if n > _OPQ_ROWS else vectors)
    each = width // groups
    rotation = balanced_rotation(rows, [each] * groups)
    codebooks: list[Float32] = []
    rounds = max(1, round(budget * _OPQ_ROUNDS))
    with stage("rotation", rounds, "rounds") as advance:
        for _ in range(rounds):
            images = rows @ rotation.T
            for g in range(groups):
                part = slice(g * each, (g + 1) * each)
                own = images[:, part]
                if len(codebooks) == g:
                    codebooks.append(centroids_of(own, seed + g, budget))
                codes = nearest_centroids(own, codebooks[g])
                codebooks[g] = _means(own, codes, codebooks[g])
                images[:, part] = codebooks[g][codes]
            left, _, right = np.linalg.svd(np.asarray(rows.T @ images, np.float64), full_matrices=False)
            rotation = np.ascontiguousarray((left @ right).T, np.float32)
            advance(1)
    return rotation


def _means(vectors: Float32, codes: npt.NDArray[np.int64], before: Float32) -> Float32:
    """Return the mean of each code's vectors, shape (k, s); what was there before where it has none."""
    counts = np.bincount(codes, minlength=len(before))
    sums = np.stack([np.bincount(codes, column, len(before)) for column in vectors.T], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, before).astype(np.float32)
