"""usearch: a graph over folded vectors in memory, full vectors in a mapped file for re-ranking."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from frame import CANDIDATES, K, Search, Vectors, fitted, reranked, sample, show
from usearch.index import Index


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    whole = graph(base)
    full = Search("full vectors", whole.search(queries, K).keys.tolist(), whole.serialized_length)

    # Read vectors out, fit, and search folded ones first.
    fold = fitted(np.asarray(whole.get(np.arange(len(base))), np.float32))
    np.save(folder / "full.npy", base)
    vectors = np.load(folder / "full.npy", mmap_mode="r")
    folded = graph(fold.transform(base))
    found = []
    candidates = folded.search(fold.transform(queries), CANDIDATES).keys
    for query, ids in zip(queries, candidates, strict=True):
        found.append(reranked(query, ids, vectors[ids]))
    return full, Search("folded, re-ranked", found, folded.serialized_length)


def graph(vectors: Vectors) -> Index:
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32", expansion_add=200, expansion_search=300)
    index.add(np.arange(len(vectors)), vectors)
    return index


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("usearch", *run(Path(folder)))
