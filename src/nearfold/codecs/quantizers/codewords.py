"""Sums of codewords: how vectors are written as them, and improved.

Codebooks have shape (M, 256, s): a code of M bytes names one codeword of each, whose sum stands for a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import Codes

__all__ = ["decoded", "first_codes", "groups_of", "home_slices", "refine"]

_ROWS = 4096


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


def groups_of(codebooks: Float32) -> Iterator[tuple[slice, slice, Float32]]:
    """Yield each group's dimensions, its codes' columns and its codebooks (books, 256, s)."""
    groups, books, _, each = codebooks.shape
    for g in range(groups):
        yield slice(g * each, (g + 1) * each), slice(g * books, (g + 1) * books), codebooks[g]
