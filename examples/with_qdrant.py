"""Qdrant (its edge engine): a second named vector, and both stages in one query by a prefetch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import qdrant_edge as qdrant
from frame import CANDIDATES, DIMENSIONS, K, Search, fitted, sample, show


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    vectors = {
        name: qdrant.EdgeVectorParams(width, qdrant.Distance.Cosine)
        for name, width in (("full", base.shape[1]), ("folded", DIMENSIONS))
    }
    shard = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors=vectors))
    points = [qdrant.Point(number, {"full": row.tolist()}) for number, row in enumerate(base)]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    found = [ids(shard, qdrant.QueryRequest(K, query=nearest(query, "full"))) for query in queries]

    # Read vectors out, fit, and write folded ones beside them.
    records, _ = shard.scroll(qdrant.ScrollRequest(limit=len(base), with_vector=True))
    fold = fitted(np.array([record.vector["full"] for record in records], np.float32))
    folded = fold.transform([record.vector["full"] for record in records])
    added = [
        qdrant.PointVectors(record.id, {"folded": row.tolist()})
        for record, row in zip(records, folded, strict=True)
    ]
    shard.update(qdrant.UpdateOperation.update_vectors(added))
    shard.flush()
    full = Search("full vectors", found, size(folder, "full"))
    found = []
    for query, z in zip(queries, fold.transform(queries), strict=True):
        first = qdrant.Prefetch(CANDIDATES, query=nearest(z, "folded"))
        found.append(ids(shard, qdrant.QueryRequest(K, query=nearest(query, "full"), prefetches=[first])))
    shard.close()
    return full, Search("folded, re-ranked", found, size(folder, "folded"))


def nearest(vector: np.ndarray, name: str) -> qdrant.Query:
    return qdrant.Query.Nearest(vector.tolist(), using=name)


def ids(shard: qdrant.EdgeShard, request: qdrant.QueryRequest) -> list[int]:
    return [point.id for point in shard.query(request)]


def size(folder: Path, name: str) -> int:
    """Return the bytes on disk of one named vector; its files are longer than what is written in them."""
    files = folder.glob(f"segments/*/vector_storage-{name}/vectors/*")
    return sum(512 * file.stat().st_blocks for file in files)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("Qdrant", *run(Path(folder) / "shard"))
