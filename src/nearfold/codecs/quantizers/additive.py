"""Additive codes: a vector is the sum of one codeword from each of several codebooks.

Babenko and Lempitsky, "Additive Quantization for Extreme Vector Compression" (CVPR 2014). Where each
codebook is nonzero in dimensions of its own, this is product quantisation; letting codebooks overlap
spends the same bytes better. Inner products with a query cost the same: one table look-up a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, in_order
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    Codes,
    Quantizer,
    Score,
    Tensors,
    bytes_in,
    exact_tensors,
)
from nearfold.codecs.quantizers.product import product_index, product_lists_index
from nearfold.errors import ParameterError

__all__ = ["Additive", "decoded", "first_codes", "groups_of", "home_slices", "refine"]

_ROWS = 4096

# Sweeps over a vector's codes when it is encoded; few change after the third.
_SWEEPS = 4


def home_slices(n_codebooks: int, width: int) -> list[slice]:
    """Return the dimensions that each codebook has at the start, none shared: nearly equal shares."""
    bounds = [width * j // n_codebooks for j in range(n_codebooks + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]


def half_squares(codebooks: Float32) -> Float32:
    """Return half the squared norm of each codeword: shape (M, K) for codebooks (M, K, s)."""
    halves: Float32 = 0.5 * np.einsum("jks,jks->jk", codebooks, codebooks)
    return halves


def first_codes(vectors: Float32, codebooks: Float32) -> Codes:
    """Return each codebook's nearest codeword within its home dimensions: shape (n, M) for (n, s)."""
    codes = np.empty((len(vectors), len(codebooks)), np.uint8)
    for j, home in enumerate(home_slices(len(codebooks), vectors.shape[1])):
        words = np.ascontiguousarray(codebooks[j][:, home])
        half = 0.5 * np.einsum("ks,ks->k", words, words)
        for start in range(0, len(vectors), _ROWS):
            scores = vectors[start : start + _ROWS, home] @ words.T
            scores -= half
            codes[start : start + _ROWS, j] = scores.argmax(axis=1)
    return codes


def decoded(codes: Codes, codebooks: Float32) -> Float32:
    """Return the sums of the codewords that codes name: shape (n, s)."""
    total: Float32 = codebooks[0][codes[:, 0]]
    for book, chosen in zip(codebooks[1:], codes.T[1:], strict=True):
        total += book[chosen]
    return total


def refine(vectors: Float32, codebooks: Float32, codes: Codes, sweeps: int) -> Float32:
    """Improve codes in place, and return what they leave of the vectors: shape (n, s).

    One codeword of a vector at a time becomes the best one, the others being what they are (iterated
    conditional modes), until a sweep over all codebooks changes nothing.
    """
    halves = half_squares(codebooks)
    left = vectors - decoded(codes, codebooks)
    for _ in range(sweeps):
        changed = False
        for j, book in enumerate(codebooks):
            old = codes[:, j]
            left += book[old]
            scores = left @ book.T
            scores -= halves[j]
            new = scores.argmax(axis=1).astype(np.uint8)
            changed = changed or not np.array_equal(new, old)
            left -= book[new]
            codes[:, j] = new
        if not changed:
            break
    return left


class Additive(Quantizer):
    """Trained additive codes of one byte a codebook, in groups of dimensions.

    Parameters
    ----------
    name
        AQ24 and the like.
    codebooks
        Shape (groups, books, 256, width / groups), float32.
    """

    kind = "additive"

    def __init__(self, name: str, codebooks: Float32) -> None:
        self.name, self._codebooks = name, codebooks
        self.width = codebooks.shape[0] * codebooks.shape[3]

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

    def lists_index(self, lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        return product_lists_index(self._as_product(), lists, score)

    def _as_product(self) -> Float32:
        """Return the codebooks as those of a product quantiser of repeated queries: (books, 256, s)."""
        return self._codebooks.reshape(-1, *self._codebooks.shape[2:])

    def prepare_queries(self, queries: Float32) -> Float32:
        """Return queries (q, width) repeated as an index searches with them."""
        groups, books, _, each = self._codebooks.shape
        wide = np.repeat(queries.reshape(-1, groups, 1, each), books, axis=2)
        return np.ascontiguousarray(wide.reshape(len(queries), -1))


def groups_of(codebooks: Float32) -> Iterator[tuple[slice, slice, Float32]]:
    """Yield each group's dimensions, its codes' columns and its codebooks (books, 256, s)."""
    groups, books, _, each = codebooks.shape
    for g in range(groups):
        yield slice(g * each, (g + 1) * each), slice(g * books, (g + 1) * books), codebooks[g]
