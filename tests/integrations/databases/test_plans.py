"""The queries that `migrate` prints, run as the command line prints them, by their plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nearfold import Encoder
from nearfold.cli.app import app

from .conftest import Vectors, lance_database, postgres_table, qdrant_shard

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]

Index = dict[str, Any]


def printed(folder: Path, fold: Encoder, where: str, table: str, *how: str) -> str:
    """Return what the command prints behind "To search"."""
    fold.save(folder / "fold.safetensors")
    asked = ["migrate", str(folder / "fold.safetensors"), where, "--table", table, "--n-queries", "3", *how]
    done = CliRunner().invoke(app, asked, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "To search:" in done.stdout, done.stdout
    return done.stdout.partition("To search:\n\n")[2]


def entries(plan: Index) -> list[Index]:
    return [plan, *(inner for each in plan.get("Plans", []) for inner in entries(each))]


@pytest.mark.parametrize(
    ("metric", "dtype", "kind"),
    [("cosine", "float16", "vector"), ("l2", "float32", "halfvec(96)"), ("ip", "float16", "real[]")],
)
def test_postgres_folds_once_and_asks_the_index(
    server: str, db: Any, vectors: Vectors, fold: Encoder, tmp_path: Path, metric: Any, dtype: str, kind: str
) -> None:
    table = postgres_table(db, vectors, kind="text")
    db.execute(f"ALTER TABLE {table} ALTER embedding TYPE {kind} USING embedding::vector::{kind}")
    encoder = Encoder(fold.weight, metric=metric)
    text = printed(tmp_path, encoder, server, table, "--dtype", dtype, "--recall", "0")
    setting, _, query = text.partition("-- To keep")[0].partition(";\n")
    db.execute(setting)
    # So few rows would be scanned.
    db.execute("SET enable_seqscan = off")
    db.execute(f"ANALYZE {table}")
    db.execute("PREPARE printed (vector) AS " + query.strip().rstrip(";"))
    try:
        asked = f"EXECUTE printed ('{vectors[3].tolist()}')"
        found = [row[0] for row in db.execute(asked).fetchall()]
        assert len(found) == len(set(found)) == 10
        for mode in ("force_custom_plan", "force_generic_plan"):
            db.execute(f"SET plan_cache_mode = {mode}")
            plan = db.execute(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {asked}").fetchone()[0][0]["Plan"]
            every = entries(plan)
            scans = [each for each in every if each.get("Relation Name") == "Items_folded"]
            assert [each["Node Type"] for each in scans] == ["Index Scan"]
            assert "folded_idx" in scans[0]["Index Name"]
            # The function stands in the plan that is run once, before the scan, and nowhere else.
            once = [each for each in every if each.get("Parent Relationship") == "InitPlan"]
            folding = [each for each in every if "fold_Items" in json.dumps({**each, "Plans": None})]
            assert folding
            assert all(each in once and each["Actual Loops"] == 1 for each in folding)
    finally:
        db.execute("DEALLOCATE printed; RESET plan_cache_mode; RESET enable_seqscan")


def test_postgres_with_a_network_asks_the_index(
    server: str, db: Any, vectors: Vectors, tmp_path: Path, rng: np.random.Generator
) -> None:
    from nearfold import MLPEncoder

    table = postgres_table(db, vectors)
    network = MLPEncoder([(rng.standard_normal((32, 96)).astype(np.float32), np.zeros(32))])
    text = printed(tmp_path, network, server, table, "--recall", "0")
    setting, _, query = text.partition(";\n")
    db.execute(setting)
    # So few rows would be scanned.
    db.execute("SET enable_seqscan = off")
    db.execute("PREPARE printed (vector, vector) AS " + query.strip().rstrip(";"))
    try:
        given = f"('{vectors[3].tolist()}', '{network.transform(vectors[3:4])[0].tolist()}')"
        assert (3,) in db.execute(f"EXECUTE printed {given}").fetchall()
        plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN EXECUTE printed {given}").fetchall())
        assert 'Index Scan using "Items_folded_folded_idx"' in plan
    finally:
        db.execute("DEALLOCATE printed; RESET enable_seqscan")


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_duckdb_sorts_a_few(fold: Encoder, vectors: Vectors, tmp_path: Path, metric: Any) -> None:
    import duckdb

    file = tmp_path / "d"
    with duckdb.connect(str(file)) as db:
        db.execute("CREATE TABLE items (id INT, v FLOAT[96])")
        db.executemany(
            "INSERT INTO items VALUES (?, ?)", [[i, row.tolist()] for i, row in enumerate(vectors[:300])]
        )
    encoder = Encoder(fold.weight, metric=metric)
    how = ("--id", "id", "--dtype", "float32", "--recall", "0")
    query = printed(tmp_path, encoder, f"duckdb:{file}", "items", *how)
    with duckdb.connect(str(file)) as db:
        asked = [encoder.transform(vectors[3:4])[0].tolist(), vectors[3].tolist()]
        assert len(db.execute(query, asked).fetchall()) == 10
        plan = db.execute("EXPLAIN " + query, asked).fetchall()[0][1].replace("_", "").replace(" ", "")
        # Neither stage sorts a whole table.
        assert plan.upper().count("TOPN") == 2


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_lancedb_asks_the_index(
    fold: Encoder, vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any
) -> None:
    import lancedb

    import nearfold
    from nearfold.integrations.databases.migrating import migrate
    from nearfold.integrations.databases.stores import open_store

    lance_database(tmp_path / "db", vectors)
    # In this process, for few rows are scanned.
    monkeypatch.setattr("nearfold.integrations.databases.lancedb._INDEXED_ROWS", 100)
    encoder = Encoder(fold.weight, metric=metric)
    with open_store(f"lancedb:{tmp_path / 'db'}", encoder, table="items") as store:
        migrate(encoder, store, recall=0, n_queries=5)
    monkeypatch.chdir(tmp_path)
    text = printed(tmp_path, encoder, "lancedb:db", "items", "--recall", "0")
    names: Index = {"lancedb": lancedb, "nearfold": nearfold, "np": np, "query": vectors[3]}
    exec(text.replace("load(...)", "load('fold.safetensors')"), names)
    assert len(names["best"]) == 10
    assert "ANNSubIndex" in names["search"].limit(100).explain_plan(True)


def test_qdrant_asks_among_the_candidates(fold: Encoder, vectors: Vectors, tmp_path: Path) -> None:
    import qdrant_edge

    import nearfold

    qdrant_shard(tmp_path / "items", vectors[:400])
    text = printed(tmp_path, fold, f"qdrant:{tmp_path}", "items", "--recall", "0")
    names: Index = {"qdrant_edge": qdrant_edge, "nearfold": nearfold, "query": vectors[3]}
    exec(text.replace("load(...)", f"load({str(tmp_path / 'fold.safetensors')!r})"), names)
    assert len(names["best"]) == 10
    assert len(names["ids"]) == 100
    assert {point.id for point in names["best"]} <= names["ids"]
    assert names["best"][0].id == 3
