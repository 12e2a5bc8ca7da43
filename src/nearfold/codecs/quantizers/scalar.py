"""Numbers one by one: float32, float16, and 8, 6 or 4 bits over each dimension's range."""

from __future__ import annotations

from typing import Any, Self

import faiss

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import (
    FaissQuantizer,
    Score,
    Tensors,
    exact_tensors,
    faiss_metric,
    faiss_ready,
    own_lists,
)

__all__ = ["FLOATS", "SCALARS", "Floats", "Scalar"]

FLOATS = {"F32": 4, "F16": 2}
"""Bytes of a number by name."""

SCALARS = {"SQ8": 8, "SQ6": 6, "SQ4": 4}
"""Bits of a number by name."""


_HALF = faiss.ScalarQuantizer.QT_fp16


class Floats(FaissQuantizer):
    """Vectors as they are, in float32 (F32) or float16 (F16); nothing is learned."""

    kind = "floats"

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width

    def tensors(self) -> Tensors:
        """Return nothing."""
        return {}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser of this name."""
        if name not in FLOATS:
            raise ValueError(f"{name!r:.60} is none of {', '.join(FLOATS)}")
        exact_tensors(name, tensors, {})
        return cls(name, width)

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        if self.name == "F32":
            return faiss.IndexFlat(self.width, faiss_metric(score))
        index = faiss.IndexScalarQuantizer(self.width, _HALF, faiss_metric(score))
        index.is_trained = True
        return index

    def lists_index(self, lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        metric = faiss_metric(score)
        if self.name == "F32":
            return own_lists(faiss.IndexIVFFlat, self.width, lists, score, metric)
        return own_lists(faiss.IndexIVFScalarQuantizer, self.width, lists, score, _HALF, metric, False)


def _bits(name: str) -> int:
    """Return faiss's number of a quantiser."""
    return int(getattr(faiss.ScalarQuantizer, f"QT_{SCALARS[name]}bit"))


class Scalar(FaissQuantizer):
    """Each dimension in 2^bits equal steps between its least and largest value.

    Parameters
    ----------
    name
        SQ8, SQ6 or SQ4.
    width
        Dimensions.
    ranges
        As faiss keeps them: the least values, then the differences to the largest, shape (2 width,).
    """

    kind = "scalar"

    def __init__(self, name: str, width: int, ranges: Float32) -> None:
        self.name, self.width, self._ranges = name, width, ranges

    @classmethod
    def train(cls, name: str, vectors: Float32) -> Self:
        """Return the quantiser whose ranges are those of vectors (n, width)."""
        index = cls._untrained(name, vectors.shape[1], "ip")
        index.train(faiss_ready(vectors))
        return cls(name, vectors.shape[1], faiss.vector_to_array(index.sq.trained))

    @staticmethod
    def _untrained(name: str, width: int, score: Score) -> Any:
        return faiss.IndexScalarQuantizer(width, _bits(name), faiss_metric(score))

    def lists_index(self, lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        kind = faiss.IndexIVFScalarQuantizer
        index = own_lists(kind, self.width, lists, score, _bits(self.name), faiss_metric(score), False)
        faiss.copy_array_to_vector(self._ranges, index.sq.trained)
        return index

    def tensors(self) -> Tensors:
        """Return the ranges."""
        return {"ranges": self._ranges}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        if name not in SCALARS:
            raise ValueError(f"{name!r:.60} is none of {', '.join(SCALARS)}")
        (ranges,) = exact_tensors(name, tensors, {"ranges": (2 * width,)})
        if (ranges[width:] < 0).any():
            raise ValueError(f"{name} has a range whose largest value is below its least")
        return cls(name, width, ranges)

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        index = self._untrained(self.name, self.width, score)
        faiss.copy_array_to_vector(self._ranges, index.sq.trained)
        index.is_trained = True
        return index
