"""Numbers one by one, in 8, 6 or 4 bits over each dimension's range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import faiss
import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import (
    Candidate,
    CodeTables,
    FaissQuantizer,
    QuantizerSpec,
    Training,
    candidates_by_width,
    faiss_metric,
    faiss_ready,
    own_lists,
)
from nearfold.codecs.rotations import random_rotation
from nearfold.codecs.tensors import Score, Tensors, exact_tensors

__all__ = ["SCALARS", "Scalar"]

SCALARS = {"SQ8": 8, "SQ6": 6, "SQ4": 4}
"""The bits of a dimension by name."""


def _bits(name: str) -> int:
    """Return faiss's number of a quantiser."""
    return int(getattr(faiss.ScalarQuantizer, f"QT_{SCALARS[name]}bit"))


class Scalar(FaissQuantizer):
    """Each dimension in 2^bits equal steps between its least and largest value.

    Parameters
    ----------
    name : {"SQ8", "SQ6", "SQ4"}
        The number is that of the bits.
    width : int
        The dimensions.
    ranges : ndarray of shape (2 * width,), float32
        The least values, then the differences to the largest, as faiss keeps them.
    """

    names: ClassVar = {
        "SQ8": "8 bits a dimension",
        "SQ6": "6 bits a dimension",
        "SQ4": "4 bits a dimension, after a random rotation",
    }
    kind = "scalar"

    def __init__(self, name: str, width: int, ranges: Float32) -> None:
        self.name, self.width, self._ranges = name, width, ranges

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield as many dimensions as fit."""
        fitting = [(name, 8 * n_bytes // bits) for name, bits in SCALARS.items()]
        return candidates_by_width(fitting, n_features, by_variance="SQ8")

    @classmethod
    def rotation(cls, spec: QuantizerSpec, vectors: Float32, how: Training) -> Float32 | None:
        """Return a random rotation for SQ4: 16 steps don't do for dimensions of long-tailed values."""
        return random_rotation(vectors.shape[1], how.seed) if spec.name == "SQ4" else None

    @classmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:  # noqa: ARG003
        """Return the quantiser whose ranges are those of vectors (n, width)."""
        index = cls._untrained(spec.name, vectors.shape[1], "ip")
        index.train(faiss_ready(vectors))
        return cls(spec.name, vectors.shape[1], faiss.vector_to_array(index.sq.trained))

    @staticmethod
    def _untrained(name: str, width: int, score: Score) -> Any:
        return faiss.IndexScalarQuantizer(width, _bits(name), faiss_metric(score))

    def lists_index(self, n_lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        kind = faiss.IndexIVFScalarQuantizer
        index = own_lists(kind, self.width, n_lists, score, _bits(self.name), faiss_metric(score), False)
        faiss.copy_array_to_vector(self._ranges, index.sq.trained)
        return index

    def tensors(self) -> Tensors:
        """Return the ranges."""
        return {"ranges": self._ranges}

    def tables(self) -> CodeTables:
        """Return what each number of steps stands for in each dimension."""
        bits = SCALARS[self.name]
        # Decoded, so that a version of faiss that places its levels otherwise is followed.
        each = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
        levels = self.decode(np.packbits(np.tile(each, (1, self.width)), axis=1, bitorder="little"))
        dims = np.arange(self.width, dtype=np.int32)[:, None]
        return CodeTables(bits, np.ascontiguousarray(levels.T)[:, :, None], dims)

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
