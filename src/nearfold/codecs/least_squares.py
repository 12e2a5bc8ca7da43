"""Codebooks by least squares: the codewords whose sums are nearest the vectors, for codes as they are."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse

from nearfold._utils.arrays import Float32
from nearfold.codecs.quantizers.base import CODEWORDS, Codes
from nearfold.codecs.quantizers.codewords import decoded

__all__ = ["codeword_sums", "fitted_codebooks"]


def fitted_codebooks(vectors: Float32, codebooks: Float32, codes: Codes, prior: float) -> Float32:
    """Return codebooks that leave less of the vectors, by ridge regression towards those that are given.

    With B the 0/1 matrix of which row has which codeword, and R what the codes leave of the vectors, the
    change D of the codewords minimises |R - B D|^2 + prior |D|^2. Without the second term codewords fit the
    rows that they are learned from, and lose as much on others as they gain on these: there are not many
    more rows than codewords times codebooks.

    Parameters
    ----------
    vectors : ndarray of shape (n, s), float32
        Vectors that the codes stand for.
    codebooks : ndarray of shape (M, 256, s), float32
        Codewords.
    codes : ndarray of shape (n, M), uint8
        Codes of the vectors.
    prior : float
        As how many rows the present codeword counts, above 0.

    Returns
    -------
    ndarray of shape (M, 256, s), float32

    References
    ----------
    Babenko, Lempitsky, "Additive Quantization for Extreme Vector Compression" (CVPR 2014), section 3.2.
    """
    gram = _shared_rows(codes)
    gram[np.diag_indices_from(gram)] += np.float32(prior)
    wanted = codeword_sums(codes, vectors - decoded(codes, codebooks))
    change = scipy.linalg.solve(
        gram, wanted, assume_a="pos", overwrite_a=True, overwrite_b=True, check_finite=False
    )
    return np.ascontiguousarray(codebooks + change.reshape(codebooks.shape), np.float32)


def codeword_sums(codes: Codes, rows: Float32) -> Float32:
    """Return the sums of rows (n, s) over those that have each codeword: shape (M * 256, s)."""
    sums: Float32 = _memberships(codes).T @ np.ascontiguousarray(rows)
    return sums


def _shared_rows(codes: Codes) -> Float32:
    """Return how many rows have two codewords, for each two: shape (M * 256, M * 256).

    It is B^T B, of which nearly no number is zero: a product of sparse arrays would take three times as much.
    """
    books = codes.shape[1]
    counts = np.empty((books, CODEWORDS, books, CODEWORDS), np.float32)
    columns = np.ascontiguousarray(codes.T).astype(np.int64)
    for i in range(books):
        for j in range(i + 1):
            both = np.bincount(columns[i] * CODEWORDS + columns[j], minlength=CODEWORDS**2)
            counts[i, :, j] = both.reshape(CODEWORDS, CODEWORDS)
            counts[j, :, i] = counts[i, :, j].T
    return counts.reshape(books * CODEWORDS, -1)


def _memberships(codes: Codes) -> scipy.sparse.csr_array:
    """Return which row has which codeword: ones in shape (n, M * 256), float32."""
    n, books = codes.shape
    columns = codes.astype(np.int32) + CODEWORDS * np.arange(books, dtype=np.int32)
    ones = np.ones(n * books, np.float32)
    return scipy.sparse.csr_array(
        (ones, columns.ravel(), books * np.arange(n + 1)), shape=(n, books * CODEWORDS)
    )
