"""DuckDB: folded vectors in a column beside the full ones, and both stages in one query.

DuckDB searches without an index here, so its bytes are those of the blocks that hold the vectors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from frame import CANDIDATES, K, Search, Vectors, fitted, sample, show

TWO_STAGES = f"""
WITH candidates AS (
    SELECT id FROM folded.items
    ORDER BY array_cosine_distance(vector, $folded::FLOAT[{{m}}]) LIMIT {CANDIDATES}
)
SELECT id FROM full_.items JOIN candidates USING (id)
ORDER BY array_cosine_distance(vector, $query::FLOAT[{{d}}]) LIMIT {K}
"""


def run(folder: Path) -> tuple[Search, Search]:
    base, queries = sample()
    with duckdb.connect() as db:
        fill(db, folder, "full_", base)
        d = base.shape[1]
        one_stage = (
            f"SELECT id FROM full_.items ORDER BY array_cosine_distance(vector, $query::FLOAT[{d}]) LIMIT {K}"
        )
        found = [ids(db, one_stage, query=q.tolist()) for q in queries]
        full = Search("full vectors", found, size(db, "full_"))

        # Read vectors out and fit; a second file keeps the bytes of folded vectors apart.
        column = db.sql("SELECT vector FROM full_.items ORDER BY id").fetchnumpy()["vector"]
        fold = fitted(np.stack(column))
        fill(db, folder, "folded", fold.transform(base))
        both = TWO_STAGES.format(m=fold.n_components, d=d)
        pairs = zip(queries, fold.transform(queries), strict=True)
        found = [ids(db, both, query=q.tolist(), folded=z.tolist()) for q, z in pairs]
        return full, Search("folded, re-ranked", found, size(db, "folded"))


def fill(db: duckdb.DuckDBPyConnection, folder: Path, name: str, vectors: Vectors) -> None:
    db.execute(f"ATTACH '{folder / name}.duckdb' AS {name}")
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    rows = pa.table({"id": np.arange(len(vectors)), "vector": values})  # noqa: F841
    db.execute(
        f"CREATE TABLE {name}.items AS SELECT id, vector::FLOAT[{vectors.shape[1]}] AS vector FROM rows"
    )
    db.execute(f"CHECKPOINT {name}")


def ids(db: duckdb.DuckDBPyConnection, sql: str, **values: list[float]) -> list[int]:
    return [row[0] for row in db.execute(sql, values).fetchall()]


def size(db: duckdb.DuckDBPyConnection, name: str) -> int:
    query = "SELECT block_size * used_blocks FROM pragma_database_size() WHERE database_name = ?"
    return db.execute(query, [name]).fetchall()[0][0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("DuckDB", *run(Path(folder)))
