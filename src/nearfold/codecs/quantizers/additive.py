"""Additive codes: a vector is the sum of one codeword from each of several codebooks.

Babenko and Lempitsky, "Additive Quantization for Extreme Vector Compression" (CVPR 2014). Where each
codebook is nonzero in dimensions of its own, this is product quantisation; letting codebooks overlap
spends the same bytes better. Inner products with a query cost the same: one table look-up a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, in_order
from nearfold.codecs.learning import CodeLearning, learn_codes
from nearfold.codecs.projections import DualProjection
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    Candidate,
    Codes,
    JointQuantizer,
    QuantizerSpec,
    Training,
    bytes_in,
    check_codebooks,
)
from nearfold.codecs.quantizers.codewords import decoded, first_codes, groups_of, refine
from nearfold.codecs.quantizers.product import product_index, product_lists_index, widths_for
from nearfold.codecs.tensors import Score, Tensors, exact_tensors
from nearfold.errors import ParameterError
from nearfold.scan.scan import Blocks

__all__ = ["Additive"]

_ROWS = 4096

# Sweeps over a vector's codes when it is encoded; few change after the third.
_SWEEPS = 4

# Dimensions a byte that the planner tries; bytes share dimensions, so they are more than product codes have.
_DIMENSIONS = (8, 14)

# Codes of more bytes keep hardly more than 8 bits a dimension, and take long to learn.
_MOST_BYTES = 128


class Additive(JointQuantizer):
    """Additive codes of one byte a codebook, in groups of dimensions.

    Parameters
    ----------
    name : str
        "AQ24" for 24 bytes.
    codebooks : ndarray of shape (groups, books, 256, width / groups), float32
        The codewords.
    """

    names: ClassVar = {"AQ<bytes>": "additive codes learned with the fold, from neighbourhoods"}
    kind = "additive"

    def __init__(self, name: str, codebooks: Float32) -> None:
        self.name, self._codebooks = name, codebooks
        self.width = codebooks.shape[0] * codebooks.shape[3]

    @classmethod
    def check(cls, spec: QuantizerSpec, width: int, n_rows: int) -> None:
        """Refuse more bytes than dimensions, and too few rows."""
        check_codebooks(spec, width, n_rows)

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield folds to some dimensions a byte."""
        if n_bytes <= _MOST_BYTES:
            for width in widths_for(n_bytes, _DIMENSIONS, n_features):
                yield Candidate(QuantizerSpec("AQ", n_bytes), width)

    @classmethod
    def learn(
        cls,
        spec: QuantizerSpec,
        weight: Float32,
        blocks: Blocks,
        metric: Metric,
        center: Float32 | None,
        how: Training,
    ) -> tuple[DualProjection, Self]:
        """Return projection and quantiser, learned together as `learn_codes` says."""
        steps = max(1, round(how.budget * CodeLearning.n_steps))
        learned = learn_codes(weight, blocks, metric, spec.n_bytes, how.seed, CodeLearning(steps))
        projection = DualProjection(
            learned.base_weight, learned.query_weight, metric, learned.width, center, learned.constant
        )
        return projection, cls(spec.stored, learned.codebooks)

    @property
    def code_size(self) -> int:
        """The bytes of one vector."""
        return int(self._codebooks.shape[0] * self._codebooks.shape[1])

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        codes = np.empty((len(vectors), self.code_size), np.uint8)
        starts = range(0, len(vectors), _ROWS)

        def encode_rows(start: int) -> int:
            part = slice(start, start + _ROWS)
            for dims, books, codebooks in groups_of(self._codebooks):
                rows = np.ascontiguousarray(vectors[part, dims])
                found = first_codes(rows, codebooks)
                refine(rows, codebooks, found, _SWEEPS)
                codes[part, books] = found
            return min(_ROWS, len(vectors) - start)

        with stage("encode", len(vectors)) as advance:
            for done in in_order(encode_rows, starts, min(blas_threads(), max(1, len(starts)))):
                advance(done)
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""
        parts = [decoded(codes[:, books], codebooks) for _, books, codebooks in groups_of(self._codebooks)]
        return np.concatenate(parts, axis=1)

    def tensors(self) -> Tensors:
        """Return the codebooks."""
        return {"codebooks": self._codebooks}

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        shape = (None, None, CODEWORDS, None)
        (codebooks,) = exact_tensors(name, tensors, {"codebooks": shape})
        groups, books, _, each = codebooks.shape
        if groups * each != width or groups * books != bytes_in(name, "AQ"):
            raise ValueError(f"{name} of {width} dimensions has codebooks {codebooks.shape}")
        return cls(name, codebooks)

    def index(self, score: Score) -> Any:
        """Return an empty faiss index.

        A sum of codewords has the inner product of a product quantiser's codeword with the query
        repeated once a codebook: so faiss's product quantiser, the fastest there is, searches it.

        Raises
        ------
        ParameterError
            The score is not "ip": the norm of a sum is not the sum of its codewords' norms.
        """
        if score != "ip":
            raise ParameterError("additive codes are compared by inner product")
        return product_index(self._as_product(), score)

    def lists_index(self, n_lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        return product_lists_index(self._as_product(), n_lists, score)

    def _as_product(self) -> Float32:
        """Return the codebooks as those of a product quantiser of repeated queries: (books, 256, s)."""
        return self._codebooks.reshape(-1, *self._codebooks.shape[2:])

    def prepare_queries(self, queries: Float32) -> Float32:
        """Return queries (q, width) repeated as an index searches with them."""
        groups, books, _, each = self._codebooks.shape
        wide = np.repeat(queries.reshape(-1, groups, 1, each), books, axis=2)
        return np.ascontiguousarray(wide.reshape(len(queries), -1))
