"""RaBitQ (Gao and Long, arXiv 2405.12497; more bits: arXiv 2409.09913), by faiss."""

from __future__ import annotations

from typing import Any, Self

import faiss
import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import (
    Codes,
    FaissQuantizer,
    Score,
    Tensors,
    exact_tensors,
    faiss_metric,
    faiss_ready,
)
from nearfold.errors import ParameterError

__all__ = ["RABITQ", "RaBitQ", "rabitq_bytes"]

RABITQ = {f"RaBitQ{bits}": bits for bits in (1, 2, 3, 4)}
"""Bits of a dimension by name."""


class RaBitQ(FaissQuantizer):
    """A few bits a dimension after a random rotation (the codec's), and factors that undo the bias.

    The factors depend on how codes will be compared, so encoding needs to know the score.

    Parameters
    ----------
    name
        RaBitQ1 to RaBitQ4.
    center
        What vectors are seen from, shape (width,).
    score
        How codes will be compared.
    """

    kind = "rabitq"

    def __init__(self, name: str, center: Float32, score: Score) -> None:
        self.name, self.width = name, len(center)
        self._center, self._score = center, score

    @classmethod
    def train(cls, name: str, vectors: Float32, score: Score) -> Self:
        """Return the quantiser centred on the mean of vectors (n, width)."""
        return cls(name, vectors.mean(axis=0, dtype=np.float64).astype(np.float32), score)

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        codes: Codes = self.index(self._score).sa_encode(faiss_ready(vectors))
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that one-bit codes stand for; faiss has no inverse of more bits.

        Raises
        ------
        ParameterError
            There are more bits.
        """
        if self.name != "RaBitQ1":
            raise ParameterError(f"{self.name} codes can be searched, but not turned back into vectors")
        vectors: Float32 = self.index(self._score).sa_decode(np.ascontiguousarray(codes))
        return vectors

    def tensors(self) -> Tensors:
        """Return the centre, and a mark of the score."""
        return {"center": self._center, "l2": np.array([self._score == "l2"], np.float32)}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        if name not in RABITQ:
            raise ValueError(f"{name!r:.60} is none of {', '.join(RABITQ)}")
        center, l2 = exact_tensors(name, tensors, {"center": (width,), "l2": (1,)})
        if l2[0] not in (0, 1):
            raise ValueError(f"{name} marks its score by {l2[0]}, which is neither 0 nor 1")
        return cls(name, center, "l2" if l2[0] else "ip")

    @property
    def score(self) -> Score:
        """How its codes are made to be compared."""
        return self._score

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        index = faiss.IndexRaBitQ(self.width, faiss_metric(score), RABITQ[self.name])
        faiss.copy_array_to_vector(self._center, index.center)
        # 0: queries keep their precision.
        index.qb = 0
        index.is_trained = True
        return index

    def graph_index(self, links: int, score: Score) -> Any:  # noqa: ARG002
        """Refuse: codes are made to be compared with queries, not with each other.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(f"{self.name} codes can't be linked in a graph; use index kind flat")


def rabitq_bytes(name: str, width: int) -> int:
    """Return the bytes of a code of so many dimensions."""
    return int(faiss.IndexRaBitQ(width, faiss.METRIC_L2, RABITQ[name]).sa_code_size())
