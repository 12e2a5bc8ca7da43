"""The sign of each dimension alone: one bit, eight to a byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    Candidate,
    QuantizerSpec,
    Training,
    candidates_by_width,
)
from nearfold.codecs.quantizers.product import Product
from nearfold.codecs.rotations import random_rotation
from nearfold.errors import ParameterError

__all__ = ["Binary", "sign_codebooks"]


class Binary(Product):
    """Signs, as a product quantiser whose codewords are the 256 combinations of eight of them."""

    names: ClassVar = {"Binary": "the sign of each dimension, after a random rotation"}

    @classmethod
    def check(cls, spec: QuantizerSpec, width: int, n_rows: int) -> None:  # noqa: ARG003
        """Refuse dimensions that eight doesn't divide."""
        if width % 8:
            raise ParameterError(f"Binary needs dimensions that 8 divides, not {width}")

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield as many dimensions as fit."""
        return candidates_by_width([("Binary", 8 * n_bytes)], n_features)

    @classmethod
    def rotation(cls, spec: QuantizerSpec, vectors: Float32, how: Training) -> Float32:  # noqa: ARG003
        """Return a random rotation, behind which all signs say as much."""
        return random_rotation(vectors.shape[1], how.seed)

    @classmethod
    def train(cls, spec: QuantizerSpec, vectors: Float32, how: Training | None = None) -> Self:  # noqa: ARG003
        """Return the quantiser whose signs stand for means of vectors (n, width); 8 divides width."""
        return cls(spec.name, sign_codebooks(vectors))

    @staticmethod
    def _groups(name: str, width: int) -> int:  # noqa: ARG004
        return width // 8


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
