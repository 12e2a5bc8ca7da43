"""What the database examples share: the sample, recall, and the table that each prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from nearfold import Encoder, NearFold, load_sample

Vectors = npt.NDArray[np.float32]

K = 10
CANDIDATES = 100
"""Number of candidates that the full vectors re-rank."""
DIMENSIONS = 96


class Search(NamedTuple):
    """A way to search: the ids that it found for each query, and the bytes of its index."""

    name: str
    found: Sequence[Sequence[int]]
    index_bytes: int


def sample() -> tuple[Vectors, Vectors]:
    """Return 4,700 sentence embeddings as base, with ids 0, 1, ..., and 300 as queries."""
    vectors = load_sample().vectors.astype(np.float32)
    return vectors[:-300], vectors[-300:]


def fitted(base: Vectors) -> Encoder:
    """Return a fold to a quarter of the dimensions."""
    return NearFold(n_components=DIMENSIONS, metric="cosine").fit(base).encoder_


def reranked(query: Vectors, ids: Sequence[int], vectors: Vectors) -> list[int]:
    """Return the K of the ids whose full vectors, shape (c, d), are nearest a query by cosine."""
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)
    return [int(ids[place]) for place in np.argsort(-scores)[:K]]


def recall(search: Search, ground_truth: Search) -> float:
    """Return the share of the ground truth's neighbours that a search found."""
    pairs = zip(search.found, ground_truth.found, strict=True)
    return float(np.mean([len(set(found) & set(true)) / K for found, true in pairs]))


def show(title: str, full: Search, folded: Search) -> None:
    """Print recall and bytes before and after."""
    table = Table(title=f"{title}: {len(full.found)} queries, recall@{K} of {full.name}")
    for heading in ("search", "recall", "index bytes", "share"):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for search in (full, folded):
        share = f"{search.index_bytes / full.index_bytes:.0%}"
        table.add_row(search.name, f"{recall(search, full):.3f}", f"{search.index_bytes:,}", share)
    Console().print(table)
