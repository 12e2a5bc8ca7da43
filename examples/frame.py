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
DEPTH = 100
"""Candidates that full vectors put in order."""
DIMENSIONS = 96


class Side(NamedTuple):
    """One way to search: the ids that it found for each query, and what its index takes."""

    name: str
    found: Sequence[Sequence[int]]
    index_bytes: int


def sample() -> tuple[Vectors, Vectors]:
    """Return 4,700 sentence embeddings to search in, under ids 0, 1, ..., and 300 to ask with."""
    vectors = load_sample().vectors.astype(np.float32)
    return vectors[:-300], vectors[-300:]


def fitted(base: Vectors) -> Encoder:
    """Return a fold to a quarter of the dimensions."""
    return NearFold(n_components=DIMENSIONS, metric="cosine").fit(base).encoder_


def reranked(query: Vectors, ids: Sequence[int], vectors: Vectors) -> list[int]:
    """Return the K of the ids whose full vectors, shape (c, d), are nearest a query by cosine."""
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)
    return [int(ids[place]) for place in np.argsort(-scores)[:K]]


def recall(side: Side, truth: Side) -> float:
    """Return the share of truth's neighbours that a side found."""
    pairs = zip(side.found, truth.found, strict=True)
    return float(np.mean([len(set(found) & set(true)) / K for found, true in pairs]))


def show(title: str, full: Side, folded: Side) -> None:
    """Print recall and bytes before and after."""
    table = Table(title=f"{title}: {len(full.found)} queries, recall@{K} of {full.name}")
    for heading in ("search", "recall", "index bytes", "share"):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for side in (full, folded):
        share = f"{side.index_bytes / full.index_bytes:.0%}"
        table.add_row(side.name, f"{recall(side, full):.3f}", f"{side.index_bytes:,}", share)
    Console().print(table)
