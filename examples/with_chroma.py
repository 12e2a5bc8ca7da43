"""Chroma: a collection of folded vectors beside the full one, whose vectors re-rank what it finds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import chromadb
import numpy as np
from frame import CANDIDATES, K, Search, Vectors, fitted, reranked, sample, show


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    client = chromadb.PersistentClient(str(folder))
    items, size = filled(client, folder, "items", base)
    found = items.query(query_embeddings=queries, n_results=K, include=[])["ids"]
    full = Search("full vectors", [list(map(int, ids)) for ids in found], size)

    # Read vectors out, fit, and write folded ones to a collection of their own.
    rows = items.get(include=["embeddings"])
    order = np.argsort(np.array(rows["ids"], int))
    fold = fitted(np.asarray(rows["embeddings"], np.float32)[order])
    folded, size = filled(client, folder, "folded", fold.transform(base))
    nearest = folded.query(query_embeddings=fold.transform(queries), n_results=CANDIDATES, include=[])
    found = []
    for query, ids in zip(queries, nearest["ids"], strict=True):
        rows = items.get(ids=ids, include=["embeddings"])
        vectors = np.asarray(rows["embeddings"], np.float32)
        found.append(reranked(query, rows["ids"], vectors))
    return full, Search("folded, re-ranked", found, size)


def filled(
    client: chromadb.ClientAPI, folder: Path, name: str, vectors: Vectors
) -> tuple[chromadb.Collection, int]:
    """Return a collection of vectors, and the bytes of its graph on disk."""
    before = set(folder.glob("*/data_level0.bin"))
    hnsw = {"space": "cosine", "ef_construction": 200, "ef_search": 300, "sync_threshold": len(vectors)}
    collection = client.create_collection(name, configuration={"hnsw": hnsw})
    for start in range(0, len(vectors), 1000):
        part = vectors[start : start + 1000]
        collection.add(ids=[str(start + row) for row in range(len(part))], embeddings=part)
    collection.query(query_embeddings=vectors[:1], n_results=1)
    (graph,) = set(folder.glob("*/data_level0.bin")) - before
    return collection, graph.stat().st_size


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("Chroma", *run(Path(folder)))
