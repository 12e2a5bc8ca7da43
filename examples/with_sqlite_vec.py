"""sqlite-vec: a folded virtual table beside the full one, and both stages in one query.

Through apsw, because the sqlite3 module of many Pythons can't load extensions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import apsw
import numpy as np
import sqlite_vec
from frame import CANDIDATES, K, Search, Vectors, fitted, sample, show

ONE_STAGE = f"SELECT id FROM items WHERE vector MATCH :query AND k = {K} ORDER BY distance"
TWO_STAGES = f"""
WITH candidates AS (SELECT id FROM folded WHERE vector MATCH :folded AND k = {CANDIDATES})
SELECT id FROM items WHERE id IN (SELECT id FROM candidates)
ORDER BY vec_distance_cosine(vector, :query) LIMIT {K}
"""


def run(path: Path) -> tuple[Search, Search]:
    base, queries = sample()
    db = apsw.Connection(str(path))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.enable_load_extension(False)
    size = fill(db, "items", base)
    full = Search("full vectors", [ids(db, ONE_STAGE, query=q) for q in queries], size)

    # Read vectors out, fit, and write folded ones beside them.
    rows = db.execute("SELECT vector FROM items ORDER BY id").fetchall()
    fold = fitted(np.frombuffer(b"".join(row[0] for row in rows), np.float32).reshape(len(rows), -1))
    size = fill(db, "folded", fold.transform(base))
    pairs = zip(queries, fold.transform(queries), strict=True)
    found = [ids(db, TWO_STAGES, query=q, folded=z) for q, z in pairs]
    db.close()
    return full, Search("folded, re-ranked", found, size)


def fill(db: apsw.Connection, name: str, vectors: Vectors) -> int:
    """Return the bytes that the table takes."""
    before = pages(db)
    db.execute(
        f"CREATE VIRTUAL TABLE {name} USING "
        f"vec0(id integer primary key, vector float[{vectors.shape[1]}] distance_metric=cosine)"
    )
    with db:
        rows = ((number, row.tobytes()) for number, row in enumerate(vectors))
        db.executemany(f"INSERT INTO {name} VALUES (?, ?)", rows)
    return pages(db) - before


def pages(db: apsw.Connection) -> int:
    return db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchall()[0][
        0
    ]


def ids(db: apsw.Connection, sql: str, **vectors: np.ndarray) -> list[int]:
    return [row[0] for row in db.execute(sql, {name: v.tobytes() for name, v in vectors.items()})]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show("sqlite-vec", *run(Path(folder) / "items.db"))
