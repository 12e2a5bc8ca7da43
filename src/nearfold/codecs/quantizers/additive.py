"""Additive codes: a vector is the sum of one codeword from each of several codebooks.

Babenko and Lempitsky, "Additive Quantization for Extreme Vector Compression" (CVPR 2014). Where each
codebook is nonzero in dimensions of its own, this is product quantisation; letting codebooks overlap
spends the same bytes better. Inner products with a query cost the same: one table look-up a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    CodeTables,
    Images,
    JointQuantizer,
    QuantizerSpec,
    Training,
    bytes_in,
    check_codebooks,
)
from nearfold.codecs.quantizers.codewords import (
    decoded,
    first_codes,
    groups_of,
    home_slices,
    refine,
)
from nearfold.codecs.quantizers.product import product_index, product_lists_index, widths_for
from nearfold.codecs.tensors import Score, Tensors, exact_tensors
from nearfold.errors import ParameterError
from nearfold.methods.training import WeightedBlocks

__all__ = ["SWEEPS", "Additive"]

_ROWS = 1024

SWEEPS = 2
"""Sweeps over a vector's codes when it is encoded: two more keep .002 more neighbours, in twice the time."""

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
    starts : ndarray of shape (256, width), float32, optional
        Product codewords that choosing a code starts from. By default those parts of the codewords that lie
        in each codebook's home dimensions.
    norms : ndarray of shape (256,), float32, optional
        What the last codebook has in the last dimension, rising: -1/2 of the squared norm of what the other
        bytes stand for, so that inner products rank as Euclidean distances do. Needs `starts`. None where
        all codebooks stand for vectors.

    Attributes
    ----------
    groups : list of CodebookGroup
        The codebooks as encoding takes them, without that of norms.
    norms : ndarray of shape (256,), float32, or None
        The parameter.
    """

    names: ClassVar = {"AQ<bytes>": "additive codes learned with the fold, from neighbourhoods"}
    kind = "additive"

    def __init__(
        self, name: str, codebooks: Float32, starts: Float32 | None = None, norms: Float32 | None = None
    ) -> None:
        self.name, self._codebooks, self.norms = name, codebooks, norms
        self._starts = starts
        self.width = codebooks.shape[0] * codebooks.shape[3]
        if norms is not None:
            self._codebooks = codebooks.copy()
            self._codebooks[-1, -1], self._codebooks[-1, :-1, :, -1] = 0, 0
            self._codebooks[-1, -1, :, -1] = norms
        begin = _home_codewords(codebooks) if starts is None else starts
        self.groups = groups_of(self._codebooks, begin, norms=norms is not None)

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
        images: Images,
        parts: Sequence[WeightedBlocks],
        metric: Metric,
        center: Float32 | None,
        how: Training,
    ) -> tuple[DualProjection, Self]:
        """Return projection and quantiser, learned together as `learn_codes` says."""
        if metric == "l2" and spec.n_bytes < 2:
            raise ParameterError(f"{spec}: l2 needs 2 bytes or more, as one is for the norm; use AQ2")
        usual = CodeLearning()
        steps, rounds = (max(1, round(how.budget * full)) for full in (usual.n_steps, usual.n_rounds))
        learning = CodeLearning(n_rounds=rounds, n_steps=steps)
        learned = learn_codes(weight, images, parts, metric, spec.n_bytes, how.seed, learning)
        quantizer = cls(spec.stored, learned.codebooks, learned.starts, learned.norms)
        maps = learned.base_weight, learned.query_weight
        return DualProjection(*maps, metric, quantizer.width, center), quantizer

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
            halves = np.zeros(len(codes[part]), np.float32)
            for group in self.groups:
                rows = np.ascontiguousarray(vectors[part, group.dims])
                found = first_codes(rows, group.starts, len(group.codebooks))
                left = refine(rows, group.codebooks, found, SWEEPS)
                codes[part, group.books] = found
                if self.norms is not None:
                    rows -= left
                    halves -= 0.5 * np.einsum("ij,ij->i", rows, rows)
            if self.norms is not None:
                codes[part, -1] = nearest_values(halves, self.norms)
            return len(halves)

        with stage("encode", len(vectors)) as advance:
            for done in in_order(encode_rows, starts, min(blas_threads(), max(1, len(starts)))):
                advance(done)
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""
        vectors = np.zeros((len(codes), self.width), np.float32)
        for group in self.groups:
            vectors[:, group.dims] = decoded(codes[:, group.books], group.codebooks)
        if self.norms is not None:
            vectors[:, -1] = self.norms[codes[:, -1]]
        return vectors

    def tensors(self) -> Tensors:
        """Return the codebooks, what choosing codes starts from, and the values of norms."""
        tensors = {"codebooks": self._codebooks, "starts": self._starts, "norms": self.norms}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def indexed_tensors(self) -> Tensors:
        """Return the codebooks, which hold the norms: choosing a code needs more than searching does."""
        return {"codebooks": self._codebooks}

    def tables(self) -> CodeTables:
        """Return the codebooks; those of a group share its dimensions."""
        groups, books, _, each = self._codebooks.shape
        dims = np.arange(self.width, dtype=np.int32).reshape(groups, each)
        return CodeTables(8, self._as_product(), np.repeat(dims, books, axis=0))

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        shapes: dict[str, tuple[int | None, ...]] = {"codebooks": (None, None, CODEWORDS, None)}
        # Files of the first version have neither.
        if "starts" in tensors:
            shapes["starts"] = (CODEWORDS, width)
        if "norms" in tensors:
            shapes["starts"] = (CODEWORDS, width)
            shapes["norms"] = (CODEWORDS,)
        found = dict(zip(shapes, exact_tensors(name, tensors, shapes), strict=True))
        codebooks, norms = found["codebooks"], found.get("norms")
        groups, books, _, each = codebooks.shape
        if groups * each != width or groups * books != bytes_in(name, "AQ"):
            raise ValueError(f"{name} of {width} dimensions has codebooks {codebooks.shape}")
        if norms is not None and (min(books, each) < 2 or (np.diff(norms) < 0).any()):
            raise ValueError(f"{name} has norms that do not rise, or no codebook beside them")
        return cls(name, codebooks, found.get("starts"), norms)

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


def nearest_values(values: Float32, levels: Float32) -> Codes:
    """Return the number of the nearest of 256 rising levels for each of n values: shape (n,), uint8."""
    between = (levels[1:] + levels[:-1]) / 2
    return np.searchsorted(between, values).astype(np.uint8)


def _home_codewords(codebooks: Float32) -> Float32:
    """Return the part of each codeword in its codebook's home dimensions: shape (256, width)."""
    starts = [
        codebooks[g, j, :, home]
        for g in range(len(codebooks))
        for j, home in enumerate(home_slices(codebooks.shape[1], codebooks.shape[3]))
    ]
    return np.concatenate(starts, axis=1)
