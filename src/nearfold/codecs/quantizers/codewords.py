"""Sums of codewords: how vectors are written as them, and how codes are improved.

Codebooks have shape (M, 256, s): a code of M bytes names one codeword of each, whose sum stands for a vector.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import Codes

__all__ = ["CodebookGroup", "decoded", "first_codes", "groups_of", "home_slices", "refine"]

_ROWS = 4096


class CodebookGroup(NamedTuple):
    """Codebooks whose sums stand for the same dimensions.

    Attributes
    ----------
    dims : slice
        Dimensions of the vectors that the group stands for.
    books : slice
        Bytes of a code that name the group's codewords.
    codebooks : ndarray of shape (M, 256, s), float32
        Codewords.
    starts : ndarray of shape (256, s), float32
        Product codewords that choosing a code starts from: those of each codebook in its home dimensions.
    """

    dims: slice
    books: slice
    codebooks: Float32
    starts: Float32


def groups_of(codebooks: Float32, starts: Float32, *, norms: bool = False) -> list[CodebookGroup]:
    """Return the groups of codebooks.

    Parameters
    ----------
    codebooks : ndarray of shape (groups, books, 256, s), float32
        Codewords of each group.
    starts : ndarray of shape (256, groups * s), float32
        Product codewords; see `CodebookGroup`.
    norms : bool, default=False
        Whether the last codebook stands for norms in the last dimension, which then belong to no group.

    Returns
    -------
    list of CodebookGroup
    """
    groups, books, _, each = codebooks.shape
    found = []
    for g in range(groups):
        less = int(norms and g == groups - 1)
        dims, own = slice(g * each, (g + 1) * each - less), slice(g * books, (g + 1) * books - less)
        kept = np.ascontiguousarray(codebooks[g, : books - less, :, : each - less])
        found.append(CodebookGroup(dims, own, kept, np.ascontiguousarray(starts[:, dims])))
    return found


def home_slices(n_codebooks: int, width: int) -> list[slice]:
    """Return the dimensions that each codebook has at the start, none shared: nearly equal shares."""
    bounds = [width * j // n_codebooks for j in range(n_codebooks + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]


def half_squares(codebooks: Float32) -> Float32:
    """Return half the squared norm of each codeword: shape (M, K) for codebooks (M, K, s)."""
    halves: Float32 = 0.5 * np.einsum("jks,jks->jk", codebooks, codebooks)
    return halves


def first_codes(vectors: Float32, starts: Float32, n_codebooks: int) -> Codes:
    """Return each codebook's nearest product codeword: shape (n, M) for vectors (n, s), starts (256, s)."""
    codes = np.empty((len(vectors), n_codebooks), np.uint8)
    for j, home in enumerate(home_slices(n_codebooks, vectors.shape[1])):
        words = np.ascontiguousarray(starts[:, home])
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
