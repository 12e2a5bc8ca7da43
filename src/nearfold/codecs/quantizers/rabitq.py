"""RaBitQ (Gao and Long, arXiv 2405.12497; more bits: arXiv 2409.09913), by faiss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import faiss
import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import (
    Candidate,
    Codes,
    FaissQuantizer,
    QuantizerSpec,
    Training,
    candidates_by_width,
    faiss_metric,
    faiss_ready,
)
from nearfold.codecs.rotations import random_rotation
from nearfold.codecs.tensors import Score, Tensors, exact_tensors
from nearfold.errors import ParameterError

__all__ = ["RABITQ", "RaBitQ", "rabitq_bytes"]

RABITQ = {f"RaBitQ{bits}": bits for bits in (1, 2, 3, 4)}
"""The bits of a dimension by name."""


class RaBitQ(FaissQuantizer):
    """A few bits a dimension after a random rotation (the codec's), and factors that undo the bias.

    The factors depend on how codes will be compared, so encoding needs to know the score.

    Parameters
    ----------
    name : {"RaBitQ1", "RaBitQ2", "RaBitQ3", "RaBitQ4"}
        The number is that of the bits.
    center : ndarray of shape (width,), float32
        The point from which vectors are seen: their mean.
    score : {"ip", "l2"}
        How codes will be compared with queries.
    """

    names: ClassVar = {
        name: f"{bits} {'bit' if bits == 1 else 'bits'} a dimension after a random rotation, and factors of "
        f"8 or more bytes"
        for name, bits in RABITQ.items()
    }
    kind = "rabitq"
    score: Score

    def __init__(self, name: str, center: Float32, score: Score) -> None:
        self.name, self.width = name, len(center)
        self._center, self.score = center, score

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield as many dimensions, in eights, as fit."""
        fitting = []
        for name in RABITQ:
            widths = [width for width in range(8, 8 * n_bytes + 1, 8) if rabitq_bytes(name, width) <= n_bytes]
            fitting += [(name, widths[-1])] if widths else []
        return candidates_by_width(fitting, n_features)

    @classmethod
    def rotation(cls, spec: QuantizerSpec, vectors: Float32, how: Training) -> Float32:  # noqa: ARG003
        """Return a random rotation: the bounds of RaBitQ's error hold for one."""
        return random_rotation(vectors.shape[1], how.seed)

    @classmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:
        """Return the quantiser centred on the mean of vectors (n, width), for the score of `how`."""
        center = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(spec.name, center, (how or Training()).score)

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        codes: Codes = self.index(self.score).sa_encode(faiss_ready(vectors))
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
        vectors: Float32 = self.index(self.score).sa_decode(np.ascontiguousarray(codes))
        return vectors

    def tensors(self) -> Tensors:
        """Return the centre, and a mark of the score."""
        return {"center": self._center, "l2": np.array([self.score == "l2"], np.float32)}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        if name not in RABITQ:
            raise ValueError(f"{name!r:.60} is none of {', '.join(RABITQ)}")
        center, l2 = exact_tensors(name, tensors, {"center": (width,), "l2": (1,)})
        if l2[0] not in (0, 1):
            raise ValueError(f"{name} marks its score by {l2[0]}, which is neither 0 nor 1")
        return cls(name, center, "l2" if l2[0] else "ip")

    def index(self, score: Score) -> Any:
        """Return an empty faiss index."""
        index = faiss.IndexRaBitQ(self.width, faiss_metric(score), RABITQ[self.name])
        faiss.copy_array_to_vector(self._center, index.center)
        # 0: queries keep their precision.
        index.qb = 0
        index.is_trained = True
        return index

    def graph_index(self, M: int, score: Score) -> Any:  # noqa: ARG002
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
