"""Maps of base vectors and of queries into the space that is quantised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, as_vectors, normalize_rows
from nearfold.codecs.tensors import Score, exact_tensors
from nearfold.errors import DataError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold

__all__ = ["DualProjection", "Projection", "SharedProjection", "linear_transform", "widened"]

# How far the squared norms of a rotation's rows may be from 1.
_ROUNDING = 1e-3


class Projection(ABC):
    """Maps of base vectors and of queries from d dimensions to the quantiser's."""

    metric: Metric
    n_features: int
    width: int

    @property
    @abstractmethod
    def score(self) -> Score:
        """How the image of a query is compared with that of a base vector."""

    @abstractmethod
    def project(self, X: npt.ArrayLike) -> Float32:
        """Return the images of base vectors (n, d): shape (n, width)."""

    @abstractmethod
    def project_queries(self, X: npt.ArrayLike) -> Float32:
        """Return the images of queries (q, d): shape (q, width)."""

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return what it learned beside its fold, by name."""

    def _checked(self, X: npt.ArrayLike) -> Float32:
        vectors = as_vectors(X)
        if vectors.shape[1] != self.n_features:
            raise DataError(
                f"X has {vectors.shape[1]} features, but this codec is expecting {self.n_features}; give "
                f"vectors of the kind it was fitted on"
            )
        return vectors


class SharedProjection(Projection):
    """The same map for base and queries: a fold, norm 1 for cosine, then a rotation.

    Parameters
    ----------
    fold : Fold, optional
        The fold; None to leave vectors as they are.
    rotation : ndarray of shape (width, m), float32, optional
        Orthonormal rows; None for no rotation.
    metric : {"cosine", "l2", "ip"}
        The metric that vectors are searched with.
    n_features : int
        The dimensions d of the vectors.

    Raises
    ------
    ValueError
        The parts don't fit each other.
    """

    def __init__(self, fold: Fold | None, rotation: Float32 | None, metric: Metric, n_features: int) -> None:
        self.fold, self.rotation, self.metric, self.n_features = fold, rotation, metric, n_features
        folded = n_features if fold is None else fold.n_components
        self.width = folded if rotation is None else len(rotation)
        if rotation is not None:
            _check_rotation(rotation, folded)
        if fold is not None and fold.n_features != n_features:
            raise ValueError(f"a fold of {fold.n_features} dimensions for vectors of {n_features}")
        self._folded = _QueryMap(fold.weight, fold.bias) if isinstance(fold, Encoder) else None
        self._rotated = None if rotation is None else _QueryMap(rotation)

    @property
    def score(self) -> Score:
        """Euclidean distance for l2, inner product otherwise: rows have norm 1 for cosine."""
        return "l2" if self.metric == "l2" else "ip"

    def project(self, X: npt.ArrayLike) -> Float32:
        """Return the images of vectors (n, d): shape (n, width)."""
        vectors = self._checked(X)
        if self.fold is not None:
            vectors = self.fold.transform(vectors)
        if self.metric == "cosine":
            vectors = normalize_rows(vectors, keep_zero=self.fold is not None)
        return vectors if self.rotation is None else vectors @ self.rotation.T

    def project_queries(self, X: npt.ArrayLike) -> Float32:
        """Return the images of queries (q, d): those of `project`, but for rounding."""
        if self._folded is None:
            return self.project(X)
        folded = self._folded(self._checked(X))
        if self.metric == "cosine":
            folded = normalize_rows(folded, keep_zero=True)
        return folded if self._rotated is None else self._rotated(folded)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the rotation, where there is one."""
        return {} if self.rotation is None else {"rotation": self.rotation}


def _check_rotation(rotation: Float32, folded: int) -> None:
    """Refuse what is no rotation of `folded` dimensions, so far as can be seen in the time of reading it."""
    if rotation.ndim != 2 or rotation.shape[1] != folded or len(rotation) > folded:
        raise ValueError(f"a rotation of shape {rotation.shape} behind a fold to {folded}")
    squares = np.einsum("ij,ij->i", rotation, rotation, dtype=np.float64)
    if np.abs(squares - 1).max() > _ROUNDING:
        raise ValueError("a rotation whose rows don't have norm 1")


class DualProjection(Projection):
    """A linear map for base vectors and another for queries, learned together with the codes.

    Inner products of images stand for scores. For l2 a further dimension does what the base's norm does:
    -|q - b|^2 / 2 = <q, b> - |b|^2 / 2 - |q|^2 / 2, whose last term can't change the order of rows.

    Parameters
    ----------
    base_weight, query_weight : ndarray of shape (m, d), float32
        The maps.
    metric : {"cosine", "l2", "ip"}
        The metric that vectors are searched with.
    width : int
        The dimensions of the images: at least m, and m + 1 for l2; those behind are zero.
    center : ndarray of shape (d,), float32, optional
        What is subtracted from vectors for l2; None for other metrics.
    scale : float, default=1.0
        The number c: for l2 the image y of a base vector has -|y|^2 / (2 c) behind it, that of a query c.

    Raises
    ------
    ValueError
        The parts don't fit each other.
    """

    def __init__(
        self,
        base_weight: Float32,
        query_weight: Float32,
        metric: Metric,
        width: int,
        center: Float32 | None = None,
        scale: float = 1.0,
    ) -> None:
        self.base_weight, self.query_weight = base_weight, query_weight
        self.metric, self.width, self.center, self.scale = metric, width, center, scale
        m, self.n_features = base_weight.shape
        if query_weight.shape != base_weight.shape or width < m + (metric == "l2"):
            raise ValueError(
                f"maps of shapes {base_weight.shape} and {query_weight.shape} to {width} dimensions"
            )
        if (center is not None) != (metric == "l2") or (
            center is not None and center.shape != (self.n_features,)
        ):
            raise ValueError("a centre is for l2, and as wide as the vectors")
        self._query_map = _QueryMap(query_weight)

    @property
    def score(self) -> Score:
        """The inner product."""
        return "ip"

    def prepared(self, X: npt.ArrayLike) -> Float32:
        """Return vectors (n, d) as the maps take them: norm 1 for cosine, centred for l2."""
        vectors = self._checked(X)
        if self.metric == "cosine":
            return normalize_rows(vectors)
        return vectors if self.center is None else vectors - self.center

    def project(self, X: npt.ArrayLike) -> Float32:
        """Return the images of base vectors (n, d): shape (n, width)."""
        mapped = self.prepared(X) @ self.base_weight.T
        return widened(mapped, self.metric, self.width, self.scale, base=True)

    def project_queries(self, X: npt.ArrayLike) -> Float32:
        """Return the images of queries (q, d): shape (q, width)."""
        mapped = self._query_map(self.prepared(X))
        return widened(mapped, self.metric, self.width, self.scale, base=False)

    def query_map(self) -> tuple[Float32, Float32 | None]:
        """Return weight (width, d) and bias (width,) of the map of prepared queries; without l2 no bias."""
        weight = np.zeros((self.width, self.n_features), np.float32)
        weight[: len(self.query_weight)] = self.query_weight
        if self.metric != "l2":
            return weight, None
        bias = np.zeros(self.width, np.float32)
        bias[-1] = self.scale
        return weight, bias

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return both maps, and for l2 the centre and the scale."""
        tensors = {"base_weight": self.base_weight, "query_weight": self.query_weight}
        if self.center is not None:
            tensors |= {"center": self.center, "scale": np.array([self.scale], np.float32)}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[Any]], metric: Metric, width: int) -> DualProjection:
        """Return the projection that a file describes; raises ValueError or KeyError where there is none."""
        shapes: dict[str, tuple[int | None, ...]] = {
            "base_weight": (None, None),
            "query_weight": (None, None),
        }
        if metric == "l2":
            shapes |= {"center": (None,), "scale": (1,)}
        found = exact_tensors("this codec", tensors, shapes)
        scale = 1.0
        if metric == "l2":
            scale = float(found[3][0])
            if not scale > 0:
                raise ValueError(f"a scale of {scale:g}, which must be above 0")
        return cls(found[0], found[1], metric, width, found[2] if metric == "l2" else None, scale)


class _QueryMap:
    """The map X -> X weight^T + bias by faiss's BLAS.

    After a product numpy's BLAS keeps its threads spinning for some 20 ms, on the cores that a search by
    faiss needs next: that takes twice the time.
    """

    def __init__(self, weight: Float32, bias: Float32 | None = None) -> None:
        self._weight, self._bias = weight, bias
        # Made once: for a single query that takes longer than the search.
        self._transform = linear_transform(weight, bias)

    def __reduce__(self) -> tuple[Any, ...]:
        # faiss's objects can't be pickled.
        return type(self), (self._weight, self._bias)

    def __call__(self, X: Float32) -> Float32:
        mapped: Float32 = self._transform.apply(np.ascontiguousarray(X))
        return mapped


def widened(mapped: Float32, metric: Metric, width: int, scale: float, *, base: bool) -> Float32:
    """Return mapped vectors (n, m) with zeros behind, (n, width); for l2 with what stands for norms last.

    The last dimension makes inner products rank as distances do; see `DualProjection`.
    """
    m = mapped.shape[1]
    if m == width:
        return mapped
    wide = np.zeros((len(mapped), width), np.float32)
    wide[:, :m] = mapped
    if metric == "l2":
        wide[:, -1] = -np.einsum("ij,ij->i", mapped, mapped) / (2 * scale) if base else scale
    return wide


def linear_transform(weight: Float32, bias: Float32 | None = None) -> Any:
    """Return x -> weight x + bias as a faiss.LinearTransform; weight of shape (m, d), bias (m,)."""
    linear = faiss.LinearTransform(weight.shape[1], weight.shape[0], bias is not None)
    faiss.copy_array_to_vector(np.ascontiguousarray(weight).ravel(), linear.A)
    if bias is not None:
        faiss.copy_array_to_vector(np.ascontiguousarray(bias), linear.b)
    linear.is_trained = True
    return linear
