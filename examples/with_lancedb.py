"""LanceDB: a folded column with an index of its own in the same table, and re-ranking by the full column."""

from __future__ import annotations

import tempfile
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from frame import CANDIDATES, K, Search, Vectors, fitted, reranked, sample, show
from lancedb.index import IvfFlat


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    rows = pa.table({"id": np.arange(len(base)), "vector": lists(base)})
    table = lancedb.connect(folder).create_table("items", rows)
    size = indexed(table, "vector")
    found = [nearest(table, query, "vector", K)["id"].to_pylist() for query in queries]
    full = Search("full vectors", found, size)

    # Read vectors out, fit, and write folded ones beside them.
    rows = table.to_arrow()
    vectors = matrix(rows["vector"])
    fold = fitted(vectors)
    table.add_columns(pa.field("folded", pa.list_(pa.float32(), fold.n_components)))
    folded = pa.table({"id": rows["id"], "folded": lists(fold.transform(vectors))})
    table.merge_insert("id").when_matched_update_all().execute(folded)
    size = indexed(table, "folded")
    found = []
    for query, z in zip(queries, fold.transform(queries), strict=True):
        candidates = nearest(table, z, "folded", CANDIDATES)
        found.append(reranked(query, candidates["id"].to_pylist(), matrix(candidates["vector"])))
    return full, Search("folded, re-ranked", found, size)


def indexed(table: lancedb.table.Table, column: str) -> int:
    """Index a column, and return the bytes that the index takes."""
    table.create_index(column, config=IvfFlat(distance_type="cosine", num_partitions=16))
    return next(index.size_bytes for index in table.list_indices() if index.columns == [column])


def nearest(table: lancedb.table.Table, query: Vectors, column: str, k: int) -> pa.Table:
    return table.search(query, vector_column_name=column).nprobes(16).limit(k).to_arrow()


def lists(vectors: Vectors) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def matrix(column: pa.ChunkedArray) -> Vectors:
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("LanceDB", *run(Path(folder)))
