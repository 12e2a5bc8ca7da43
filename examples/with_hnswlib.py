"""hnswlib: a graph over folded vectors in memory, full vectors in a mapped file for re-ranking."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hnswlib
import numpy as np
from frame import CANDIDATES, K, Search, Vectors, fitted, reranked, sample, show


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    whole = graph(base)
    full = Search("full vectors", whole.knn_query(queries, K)[0].tolist(), whole.index_file_size())

    # Read vectors out, fit, and search folded ones first.
    fold = fitted(np.asarray(whole.get_items(np.arange(len(base))), np.float32))
    np.save(folder / "full.npy", base)
    vectors = np.load(folder / "full.npy", mmap_mode="r")
    folded = graph(fold.transform(base))
    found = []
    candidates = folded.knn_query(fold.transform(queries), CANDIDATES)[0].astype(np.int64)
    for query, ids in zip(queries, candidates, strict=True):
        found.append(reranked(query, ids, vectors[ids]))
    return full, Search("folded, re-ranked", found, folded.index_file_size())


def graph(vectors: Vectors) -> hnswlib.Index:
    index = hnswlib.Index("cosine", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200)
    index.add_items(vectors)
    index.set_ef(300)
    return index


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("hnswlib", *run(Path(folder)))
