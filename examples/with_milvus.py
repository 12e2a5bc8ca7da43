"""Milvus Lite: a collection of folded vectors beside the full one, whose vectors re-rank what it finds.

The sample's vectors were rounded to float16, which its compressed files gain from; folded ones are rounded
alike.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from frame import CANDIDATES, K, Search, Vectors, fitted, reranked, sample, show
from pymilvus import DataType, MilvusClient


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    path = folder / "items.db"
    client = MilvusClient(str(path))
    fill(client, "items", base)
    found = [[hit["id"] for hit in hits] for hits in client.search("items", data=queries.tolist(), limit=K)]
    full = Search("full vectors", found, size(path, "items"))

    # Read vectors out, fit, and write folded ones to a collection of their own.
    rows = client.query("items", filter="id >= 0", output_fields=["id", "vector"])
    rows.sort(key=lambda row: row["id"])
    fold = fitted(np.array([row["vector"] for row in rows], np.float32))
    fill(client, "folded", fold.transform(base, dtype=np.float16).astype(np.float32))
    found = []
    folded = fold.transform(queries).tolist()
    for query, hits in zip(queries, client.search("folded", data=folded, limit=CANDIDATES), strict=True):
        rows = client.get("items", ids=[hit["id"] for hit in hits], output_fields=["id", "vector"])
        vectors = np.array([row["vector"] for row in rows], np.float32)
        found.append(reranked(query, [row["id"] for row in rows], vectors))
    client.close()
    return full, Search("folded, re-ranked", found, size(path, "folded"))


def fill(client: MilvusClient, name: str, vectors: Vectors) -> None:
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index(
        "vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200}
    )
    client.create_collection(name, schema=schema, index_params=index)
    client.insert(name, [{"id": number, "vector": row.tolist()} for number, row in enumerate(vectors)])
    client.flush(name)


def size(path: Path, name: str) -> int:
    files = (path / "collections" / name).rglob("*.parquet")
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("Milvus Lite", *run(Path(folder)))
