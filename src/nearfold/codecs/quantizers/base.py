"""What every quantiser is: a small immutable value between vectors and their bytes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, check_finite, check_products
from nearfold.errors import ParameterError

__all__ = [
    "CODEWORDS",
    "Codes",
    "FaissQuantizer",
    "Quantizer",
    "Score",
    "Tensors",
    "bytes_in",
    "exact_tensors",
    "faiss_metric",
    "faiss_ready",
    "filled",
    "own_lists",
]

Codes: TypeAlias = npt.NDArray[np.uint8]
Tensors: TypeAlias = dict[str, npt.NDArray[Any]]

CODEWORDS = 256
"""Codewords of a codebook: a code is one byte."""

Score: TypeAlias = Literal["ip", "l2"]
"""How a query is compared with what codes stand for: by inner product or by Euclidean distance."""


def exact_tensors(name: str, tensors: Tensors, shapes: dict[str, tuple[int | None, ...]]) -> list[Float32]:
    """Return tensors in the order of `shapes`, or refuse others than those.

    Parameters
    ----------
    name
        The quantiser's, for messages.
    tensors
        What a file holds; that the numbers are finite was checked when it was read.
    shapes
        The shape of each tensor by name; None for what may be any number.

    Raises
    ------
    ValueError
        One is missing, too many, or of another shape.
    """
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if found.keys() != shapes.keys():
        raise ValueError(f"{name} has tensors {sorted(found)}, not {sorted(shapes)}")
    for key, shape in shapes.items():
        fits = len(shape) == len(found[key]) and all(
            a in (b, None) for a, b in zip(shape, found[key], strict=True)
        )
        if not fits:
            wanted = tuple("any" if size is None else size for size in shape)
            raise ValueError(f"{name} has {key} of shape {found[key]}, not {wanted}")
        # faiss doesn't come back from some products that overflow.
        check_products(tensors[key].reshape(1, -1), "l2", f"{name}: {key}", alone=False)
    return [tensors[key] for key in shapes]


def bytes_in(name: str, kinds: str) -> int:
    """Return the bytes that a quantiser's name says, such as 24 for PQ24; `kinds` is PQ, or PQ|OPQ.

    Raises
    ------
    ValueError
        It is no such name.
    """
    match = re.fullmatch(rf"(?:{kinds})([1-9][0-9]{{0,5}})", name)
    if match is None:
        raise ValueError(f"{name!r:.60} is no name of such a quantiser")
    return int(match[1])


def faiss_metric(score: Score) -> int:
    """Return faiss's number of a score."""
    return int(faiss.METRIC_L2 if score == "l2" else faiss.METRIC_INNER_PRODUCT)


def faiss_ready(vectors: Float32, name: str = "the vectors to encode") -> Float32:
    """Return vectors (n, width) as faiss takes them, or refuse those that it would end the process over.

    Every vector that goes to faiss comes through here: distances that are NaN or infinite fail an
    assertion of its k-means in a thread of its own, where nothing can catch it.

    Raises
    ------
    DataError
        A number is not finite, or products of vectors leave float32's range.
    """
    ready = np.ascontiguousarray(vectors, np.float32)
    check_finite(ready, name)
    check_products(ready, "l2", name, alone=False)
    return ready


class Quantizer(ABC):
    """A trained quantiser.

    Subclasses have `name`, as codecs write it ("SQ8", "PQ24"), and `width`, the dimensions they take.
    """

    kind: ClassVar[str]
    """What its tensors are marked with in files."""

    name: str
    width: int

    @property
    @abstractmethod
    def code_size(self) -> int:
        """The bytes of one vector, all of them: norms and factors stored beside the codes count."""

    @abstractmethod
    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return what was learned, by name."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Quantizer:
        """Return the quantiser that `tensors` describes; raises ValueError or KeyError where none."""

    @abstractmethod
    def index(self, score: Score) -> Any:
        """Return an empty faiss index to which codes can be added (`add_sa_codes`)."""

    def lists_index(self, lists: int, score: Score) -> Any:  # noqa: ARG002
        """Return an empty faiss index of inverted lists; which list a code is in is the caller's to say.

        Raises
        ------
        ParameterError
            faiss has none for this quantiser.
        """
        raise ParameterError(f"{self.name} has no inverted lists; use index kind flat")

    def graph_index(self, links: int, score: Score) -> Any:  # noqa: ARG002
        """Return an empty faiss graph, to which vectors (n, width) are added.

        Raises
        ------
        ParameterError
            Codes of this kind can't be compared with each other.
        """
        raise ParameterError(f"{self.name} codes can't be linked in a graph; use index kind flat or ivf")

    def prepare_queries(self, queries: Float32) -> Float32:
        """Return queries (q, width) as an index searches with them."""
        return queries


def own_lists(make: Any, width: int, lists: int, score: Score, *more: Any) -> Any:
    """Return make(coarse index, width, lists, *more): a faiss index of lists, and what it must not lose."""
    coarse = faiss.IndexFlat(width, faiss_metric(score))
    index = make(coarse, width, lists, *more)
    # Lists are searched by number: the coarse index only has to be there.
    index.referenced_objects = [coarse]
    index.by_residual = False
    index.is_trained = True
    return index


class FaissQuantizer(Quantizer):
    """Base of those that encode as the faiss index that searches them does."""

    @property
    def code_size(self) -> int:
        """The bytes of one vector."""
        return int(self.index("ip").sa_code_size())

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        codes: Codes = self.index("ip").sa_encode(faiss_ready(vectors))
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""
        vectors: Float32 = self.index("ip").sa_decode(np.ascontiguousarray(codes))
        return vectors

    def graph_index(self, links: int, score: Score) -> Any:
        """Return an empty faiss graph, to which vectors (n, width) are added."""
        storage = self.index(score)
        graph = faiss.IndexHNSW(storage, links)
        graph.metric_type = storage.metric_type
        graph.is_trained = True
        graph.referenced_objects = [storage]
        return graph


def filled(index: Any, codes: Codes) -> Any:
    """Return a faiss index with codes added."""
    index.add_sa_codes(np.ascontiguousarray(codes))
    return index
