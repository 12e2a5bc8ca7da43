"""What the referee of codes says of one codec, whoever made it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import faiss
import numpy as np
import numpy.typing as npt
from data import Float32

from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.recall import recall_of_neighbors

Int64 = npt.NDArray[np.int64]

# The depth of 10-recall@100.
DEPTH = 100

Codes = TypeVar("Codes")


class Entry(NamedTuple):
    """One codec's result: its shares by query, and what it took."""

    label: str
    family: str
    n_bytes: int
    shares: dict[str, npt.NDArray[np.float64]]
    learn_seconds: float
    rows_a_second: float
    shared_megabytes: float


class Peer(NamedTuple):
    """Another's codec: what `--peers` matches, and how it is measured (None where it is refused)."""

    family: str
    label: str
    measure: Callable[[Float32, Float32, GroundTruth], Entry | None]


class Learned(Protocol[Codes]):
    """A peer's codes that are written here: what it has learned from the base."""

    n_bytes: int
    shared_bytes: int

    def encode(self, base: Float32) -> Codes:
        """Return the codes of all rows."""

    def search(self, codes: Codes, queries: Float32) -> Int64:
        """Return the rows nearest to each query, nearest first: shape (n_queries, DEPTH)."""


def shares(truth: GroundTruth, found: Int64) -> dict[str, npt.NDArray[np.float64]]:
    """Return recall@10 and 10-recall@100 by query."""
    return dict(recall_of_neighbors(truth, found, [10], [DEPTH]).per_query)


def measured(
    family: str,
    label: str,
    learn: Callable[[Float32], Learned[Codes]],
    base: Float32,
    queries: Float32,
    truth: GroundTruth,
) -> Entry:
    """Return what a peer that is written here keeps."""
    began = time.perf_counter()
    peer = learn(base)
    learned = time.perf_counter()
    codes = peer.encode(base)
    encoded = time.perf_counter()
    return Entry(
        label,
        family,
        peer.n_bytes,
        shares(truth, peer.search(codes, queries)),
        learned - began,
        len(base) / (encoded - learned),
        peer.shared_bytes / 1e6,
    )


def largest_products(vectors: Float32, queries: Float32, count: int = DEPTH) -> Int64:
    """Return the rows of the largest inner products, largest first."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    found: Int64 = index.search(np.ascontiguousarray(queries), count)[1]
    return found
