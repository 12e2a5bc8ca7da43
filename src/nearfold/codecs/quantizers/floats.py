"""Vectors as they are, in float32 or float16."""

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
    faiss_metric,
    own_lists,
)
from nearfold.codecs.tensors import Score, Tensors, exact_tensors

__all__ = ["FLOATS", "Floats"]

FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
"""The types of the numbers by name."""

_HALF = faiss.ScalarQuantizer.QT_fp16


class Floats(FaissQuantizer):
    """Vectors as they are, in float32 (F32) or float16 (F16); nothing is learned.

    Parameters
    ----------
    name : {"F32", "F16"}
        The type.
    width : int
        The dimensions.
    """

    names: ClassVar = {"F32": "float32, 4 bytes a dimension", "F16": "float16, 2 bytes a dimension"}
    kind = "floats"

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield those that fit unfolded: behind a fold, 8 bits for more dimensions are always better."""
        for name, dtype in FLOATS.items():
            if n_bytes >= dtype.itemsize * n_features:
                yield Candidate(QuantizerSpec(name))

    @classmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:  # noqa: ARG003
        """Return the quantiser of so many dimensions as vectors (n, width) have."""
        return cls(spec.name, vectors.shape[1])

    def check_codes(self, codes: Codes) -> None:
        """Refuse codes (n, code_size) of numbers that are not finite."""
        if not np.isfinite(np.ascontiguousarray(codes).view(FLOATS[self.name])).all():
            raise ValueError("there are codes of vectors that are not finite")

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

    def lists_index(self, n_lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        metric = faiss_metric(score)
        if self.name == "F32":
            return own_lists(faiss.IndexIVFFlat, self.width, n_lists, score, metric)
        return own_lists(faiss.IndexIVFScalarQuantizer, self.width, n_lists, score, _HALF, metric, False)
