"""ASH (arXiv 2606.07870, asymmetric scalar hashing with learned dimensionality reduction) as a peer of codes.

Written from public descriptions, the paper's abstract and what the comments of JVector's `AsymmetricHashing`
(github.com/datastax/jvector) say; none of their code is here. From those:

- landmarks, the mean or centres of k-means, and residuals r = x - landmark, learned from at norm 1;
- an orthonormal projection A = (P R)': P are the first principal axes of the residuals, R a rotation that
  starts at random and is the polar factor of (residuals P)'(their codes at norm 1), 25 times, on at most
  100 rows a dimension;
- codes of b bits a dimension, the levels -2^(b-1)+1/2 to 2^(b-1)-1/2, at the scale of each vector at which
  the angle between code and projection is least; signs at one bit;
- with each code, as float16, the scale |r| / |code| and the part of the product that needs no query, and a
  byte for the landmark;
- queries whole: <q, x> is taken to be <q, landmark + scale A' code> + that part.

Ours: the score under l2 (its part without the query is computed from the scale, so it takes no bytes), no
byte for a single landmark, and exact search over all scales at which a code changes. The number of bits and
of landmarks is the best on the queries themselves, which flatters ASH.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
from code_entries import Int64, Peer, largest_products, measured
from data import Float32

from nearfold._utils.arrays import Metric

ROUNDS, ROWS_A_DIMENSION = 25, 100
BITS, LANDMARKS = (1, 2, 3, 4), (1, 16, 64)

# Rows whose codes are searched for at once.
_ROWS = 2048


class Codes(NamedTuple):
    """What is stored: codes (n, m) as odd halves, and for each row its scale, its part and its landmark."""

    levels: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    parts: npt.NDArray[np.float16]
    landmarks: npt.NDArray[np.uint8]


class Ash:
    """The landmarks and the projection, and codes by them."""

    def __init__(self, base: Float32, bits: int, width: int, n_landmarks: int, metric: Metric) -> None:
        self.bits, self.metric = bits, metric
        self.landmarks = _landmarks(base, n_landmarks)
        self.shared_bytes = 4 * (width + n_landmarks) * base.shape[1]
        self.n_bytes = header_bytes(n_landmarks, metric) + -(-width * bits // 8)
        sample = base
        if len(base) > (most := ROWS_A_DIMENSION * base.shape[1]):
            sample = base[np.sort(np.random.default_rng(0).choice(len(base), most, replace=False))]
        self.projection = _projection(_unit(self._residuals(sample)[0]), bits, width)

    def encode(self, base: Float32) -> Codes:
        """Return the codes of all rows."""
        residuals, chosen = self._residuals(base)
        levels = quantized(residuals @ self.projection, self.bits)
        halves = levels.astype(np.float32) / 2
        norms = np.linalg.norm(residuals, axis=1)
        scales = (norms / np.linalg.norm(halves, axis=1)).astype(np.float16)
        landmarks = self.landmarks[chosen]
        parts = np.einsum("ij,ij->i", residuals, landmarks)
        parts -= scales * np.einsum("ij,ij->i", halves, landmarks @ self.projection)
        return Codes(levels, scales, parts.astype(np.float16), chosen.astype(np.uint8))

    def search(self, codes: Codes, queries: Float32) -> Int64:
        """Return the rows of the largest scores, which are products with a further dimension for the part."""
        landmarks = self.landmarks[codes.landmarks]
        scaled = codes.levels.astype(np.float32) / 2 * codes.scales.astype(np.float32)[:, None]
        steps = scaled @ self.projection.T
        parts = codes.parts.astype(np.float32)
        if self.metric == "l2":
            # -|q - x|^2 / 2 without |q|^2: what scale and code say of |x - landmark| is exact.
            parts = -(landmarks**2).sum(axis=1) / 2 - (landmarks * steps).sum(axis=1)
            parts -= (scaled**2).sum(axis=1) / 2
        asked = np.column_stack([queries, np.ones(len(queries), np.float32)])
        return largest_products(np.column_stack([landmarks + steps, parts]), asked)

    def _residuals(self, rows: Float32) -> tuple[Float32, Int64]:
        """Return what rows are beyond their nearest landmarks, and those landmarks' numbers."""
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(self.landmarks)
        chosen: Int64 = index.search(np.ascontiguousarray(rows), 1)[1][:, 0]
        return rows - self.landmarks[chosen], chosen


def header_bytes(n_landmarks: int, metric: Metric) -> int:
    """Return the bytes beside a code: scale, part and landmark, as far as they are needed."""
    return 2 + (0 if metric == "l2" else 2) + (n_landmarks > 1)


def quantized(projected: Float32, bits: int) -> npt.NDArray[np.int8]:
    """Return the codes at the least angle to vectors (n, m), doubled so that they are odd integers.

    At a scale t a magnitude a becomes floor(t a) + 1/2, so it changes where t is a whole number over a. At
    each such t, in rising order, the product grows by a and the squared norm by twice that number.
    """
    signs = np.where(projected >= 0, np.int8(1), np.int8(-1))
    top = (1 << (bits - 1)) - 1
    if not top:
        return signs
    codes = np.empty(projected.shape, np.int8)
    steps = np.arange(1, top + 1, dtype=np.float32)
    for start in range(0, len(projected), _ROWS):
        part = slice(start, start + _ROWS)
        sizes = np.maximum(np.abs(projected[part]), np.float32(1e-12))
        turns = (steps / sizes[:, :, None]).reshape(len(sizes), -1)
        order = np.argsort(turns, axis=1)
        products = sizes.sum(axis=1, keepdims=True) / 2 + np.pad(
            np.cumsum(np.take_along_axis(sizes, order // top, axis=1), axis=1), ((0, 0), (1, 0))
        )
        squares = sizes.shape[1] / 4 + np.pad(np.cumsum(2 * steps[order % top], axis=1), ((0, 0), (1, 0)))
        taken = np.argmax(products**2 / squares, axis=1)
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None, :], axis=1)
        below = (ranks < taken[:, None]).reshape(*sizes.shape, top).sum(axis=2)
        codes[part] = signs[part] * (2 * below + 1)
    return codes


def _landmarks(base: Float32, count: int) -> Float32:
    if count == 1:
        return np.asarray(base.mean(axis=0, keepdims=True, dtype=np.float64), np.float32)
    means = faiss.Kmeans(base.shape[1], count, niter=20, seed=0)
    means.train(np.ascontiguousarray(base))
    return np.asarray(means.centroids, np.float32)


def _unit(rows: Float32) -> Float32:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-20), np.float32)


def _projection(residuals: Float32, bits: int, width: int) -> Float32:
    """Return the orthonormal columns that residuals of norm 1 are projected by: shape (d, width)."""
    all_axes = np.linalg.eigh(residuals.T @ residuals)[1]
    axes = np.asarray(all_axes[:, ::-1][:, :width], np.float32)
    reduced: Float32 = residuals @ axes
    update = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    for _ in range(ROUNDS):
        update = reduced.T @ _unit(quantized(np.asarray(reduced @ _polar(update)), bits).astype(np.float32))
    return np.asarray(axes @ _polar(update), np.float32)


def _polar(matrix: Float32) -> Float32:
    """Return the orthonormal matrix nearest to one."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(left @ right, np.float32)


def ash_peers(n_bytes: int, d: int, metric: Metric) -> Iterator[Peer]:
    """Yield ASH at every number of bits and landmarks, at as many dimensions as fit."""
    for n_landmarks in LANDMARKS:
        for bits in BITS:
            width = min(8 * (n_bytes - header_bytes(n_landmarks, metric)) // bits, d)
            label = f"ASH{width}x{bits}" + (f",{n_landmarks} landmarks" if n_landmarks > 1 else "")
            learn = partial(Ash, bits=bits, width=width, n_landmarks=n_landmarks, metric=metric)
            yield Peer("ASH", label, partial(measured, "ASH", label, learn))
