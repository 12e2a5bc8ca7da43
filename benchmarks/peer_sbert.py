"""sentence-transformers' int8 and binary codes, with its rescoring, as peers of codes.

Written in numpy from that library's public documentation (`quantize_embeddings`, `semantic_search_faiss` and
`semantic_search_usearch`), because the package needs torch; codes and rescored rows equal those of release
6.2.0.

- "binary": the bit of a dimension says whether it is above 0. The nearest by Hamming distance, `MULTIPLIER`
  times as many as are asked for, are ranked anew by the product of the whole query and the bits, which ranks
  as a product with -1 and 1 does.
- "int8": 255 steps from the smallest to the largest number of each dimension in a calibration set, here the
  base. As many candidates by products of the integers are ranked anew by the product of the whole query and
  what the integers stand for. The candidates lose nothing: ranking every row anew keeps the same.

Bytes come from fewer dimensions: the first ones of PCA or of the vectors, as those trained by Matryoshka are
cut. The library knows products alone, so there is nothing for l2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import faiss
import numpy as np
import numpy.typing as npt
from code_entries import DEPTH, Int64, Peer, largest_products, measured
from data import Float32

from nearfold._utils.arrays import Metric
from nearfold.folds.encoder import Encoder
from nearfold.methods.pca import PCA

Stored = npt.NDArray[np.uint8] | npt.NDArray[np.int8]
Kind = Literal["binary", "int8"]
Cut = Literal["PCA", "centred PCA", "first"]

# What the documentation advises; the functions' own default is 2.
MULTIPLIER = 4


def binary_codes(vectors: Float32) -> npt.NDArray[np.uint8]:
    """Return the signs of vectors as the package's "ubinary" does, the first dimension in the highest bit."""
    return np.packbits(vectors > 0, axis=1)


def int8_codes(vectors: Float32, ranges: Float32) -> npt.NDArray[np.int8]:
    """Return the steps of vectors within ranges (2, m), the smallest and the largest of each dimension."""
    parts = np.floor((vectors - ranges[0]) / _steps(ranges))
    return np.asarray(np.clip(parts, 0, 255) - 128).astype(np.int8)


def _steps(ranges: Float32) -> Float32:
    steps = (ranges[1] - ranges[0]) / 255
    return np.where(steps == 0, np.float32(1), steps)


class Sbert:
    """The cut, the ranges of a calibration set, and codes by them."""

    def __init__(self, base: Float32, kind: Kind, cut: Cut, width: int) -> None:
        self.kind, self.width = kind, width
        self.fold: Encoder | None = None
        if cut != "first" and width < base.shape[1]:
            self.fold = PCA(width, center=cut == "centred PCA").fit(base).encoder_
        self.n_bytes = width // 8 if kind == "binary" else width
        self.shared_bytes = 4 * self.fold.weight.size if self.fold else 0
        self.ranges = np.empty((2, 0), np.float32)
        if kind != "binary":
            images = self._images(base)
            self.ranges = np.vstack([images.min(axis=0), images.max(axis=0)])
            self.shared_bytes += self.ranges.nbytes

    def encode(self, base: Float32) -> Stored:
        """Return the codes of all rows."""
        images = self._images(base)
        return binary_codes(images) if self.kind == "binary" else int8_codes(images, self.ranges)

    def search(self, codes: Stored, queries: Float32) -> Int64:
        """Return the nearest of as many candidates as DEPTH gets: also recall@10 is of all of those."""
        asked = self._images(queries)
        count = min(MULTIPLIER * DEPTH, len(codes))
        if self.kind == "binary":
            index = faiss.IndexBinaryFlat(self.width)
            index.add(codes)
            found: Int64 = index.search(binary_codes(asked), count)[1]
            whole = np.unpackbits(codes.view(np.uint8), axis=1).astype(np.float32)
        else:
            whole = codes.astype(np.float32)
            coded = int8_codes(asked, self.ranges).astype(np.float32)
            meant = (whole + 128) * _steps(self.ranges) + self.ranges[0]
            found, whole = largest_products(whole, coded, count), meant
        nearest = np.empty((len(asked), DEPTH), np.int64)
        for row, (query, candidates) in enumerate(zip(asked, found, strict=True)):
            scores = whole[candidates] @ query
            nearest[row] = candidates[np.argsort(-scores)[:DEPTH]]
        return nearest

    def _images(self, vectors: Float32) -> Float32:
        if self.fold is not None:
            return np.asarray(self.fold.transform(vectors), np.float32)
        return vectors[:, : self.width].copy()


def sbert_peers(n_bytes: int, d: int, metric: Metric) -> Iterator[Peer]:
    """Yield the codes that fill the bytes, each behind every cut."""
    if metric == "l2":
        return
    kinds: tuple[tuple[Kind, int], ...] = (
        ("binary", min(8 * n_bytes, d) // 8 * 8),
        ("int8", min(n_bytes, d)),
    )
    cuts: tuple[Cut, ...] = ("PCA", "centred PCA", "first")
    for kind, width in kinds:
        for cut in cuts if width < d else ("first",):
            family = f"sentence-transformers {kind}"
            label = f"{cut}{width},{family}" if width < d else family
            learn = partial(Sbert, kind=kind, cut=cut, width=width)
            yield Peer(family, label, partial(measured, family, label, learn))
