"""Names that are taken, marks that are copied, rows of somebody else's: nothing of a user's is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder
from nearfold.errors import DatabaseError, DataError, NearfoldError, ParameterError
from nearfold.integrations.databases.base import Note
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]

D, M = 8, 3
FOLD = Encoder(np.eye(M, D, dtype=np.float32))
OLD_NOTE = ("source", "target")


@pytest.fixture
def rows() -> Vectors:
    return np.random.default_rng(3).standard_normal((60, D)).astype(np.float32)


def run(where: str, table: str, fold: Encoder = FOLD, **known: Any) -> Any:
    with open_store(where, fold, table=table, **known) as store:
        return migrate(fold, store, k=3, recall=0, n_queries=5)


def duck(
    file: Path, rows: Vectors, table: str = "Docs", kind: str = f"FLOAT[{D}]", column: str = "v"
) -> None:
    import duckdb

    with duckdb.connect(str(file)) as db:
        db.execute(f'CREATE TABLE {table} (id INT, "{column}" {kind})')
        db.executemany(
            f"INSERT INTO {table} VALUES (?, ?)", [[i, row.tolist()] for i, row in enumerate(rows)]
        )


def run_duck(file: Path, table: str = "Docs", **known: Any) -> Any:
    return run(f"duckdb:{file}", table, **{"key": "id", "dtype": "float32", **known})


def contents(file: Path, skip: str = "") -> dict[str, Any]:
    """Everything in a DuckDB file but one table."""
    import duckdb

    with duckdb.connect(str(file)) as db:
        tables = db.execute("SELECT schema_name, table_name, comment FROM duckdb_tables()").fetchall()
        found = {}
        for schema, name, comment in tables:
            if name != skip:
                quoted = name.replace('"', '""')
                rows = db.execute(f'SELECT * FROM "{schema}"."{quoted}" ORDER BY ALL').fetchall()
                found[f"{schema}.{name}"] = (comment, rows)
        return found


@pytest.mark.parametrize(
    "taken",
    [
        "CREATE TABLE docs_FOLDED AS SELECT range AS id, [1, 2, 3]::FLOAT[3] AS folded FROM range(900, 905)",
        "CREATE VIEW DOCS_folded AS SELECT 1 AS id",
        # The mark of another migration, on a table that looks like ours.
        "CREATE TABLE Docs_folded (id INT PRIMARY KEY, folded FLOAT[3], digest BLOB); "
        "COMMENT ON TABLE Docs_folded IS '{mark}'",
    ],
)
def test_duckdb_leaves_what_has_the_name(tmp_path: Path, rows: Vectors, taken: str) -> None:
    import duckdb

    file = tmp_path / "d"
    duck(file, rows)
    mark = Note("0" * 64, "made", "cosine", M, "float32").placed("Else.v by id", "Docs_folded").dumps()
    with duckdb.connect(str(file)) as db:
        db.execute(taken.replace("{mark}", mark))
    before = contents(file)
    with pytest.raises(DatabaseError, match="choose another --name"):
        run_duck(file)
    assert contents(file) == before
    assert run_duck(file, name="other").written == len(rows)


def test_duckdb_names_are_duckdbs(tmp_path: Path, rows: Vectors) -> None:
    import duckdb

    file = tmp_path / "d"
    name = '"a""; DROP TABLE Docs; -- %s ? $1 é"'
    with duckdb.connect(str(file)) as db:
        db.execute("CREATE SCHEMA other; CREATE TABLE other.Docs (id INT, v FLOAT[2])")
    duck(file, rows)
    duck(file, rows, name, column="%s ? $1")
    duck(file, rows, "other.deep")
    assert run_duck(file, "dOCS", column="V", key="ID").survey.source == "Docs"
    assert run_duck(file, 'a"; DROP TABLE Docs; -- %s ? $1 é').written == len(rows)
    assert run_duck(file, "other.deep").written == len(rows)
    assert "other.deep_folded" in contents(file)
    with pytest.raises(DatabaseError, match=r"no such table; the file has: .*other\.Docs"):
        run_duck(file, "deep")
    with pytest.raises(ParameterError):
        run_duck(file, name="")


def test_rows_that_others_put_there_stay(tmp_path: Path, rows: Vectors) -> None:
    import duckdb

    file = tmp_path / "d"
    duck(file, rows)
    run_duck(file)
    with duckdb.connect(str(file)) as db:
        db.execute("INSERT INTO Docs_folded (id, folded) VALUES (5000, [1, 2, 3])")
        db.execute("DELETE FROM Docs WHERE id = 4")
    with pytest.raises(DatabaseError, match="1 rows there have no vector"):
        run_duck(file)
    found = contents(file)["main.Docs_folded"][1]
    assert found[-1][:2] == (5000, (1.0, 2.0, 3.0))
    assert 4 not in [row[0] for row in found]


def test_ids_that_tell_nothing_apart_are_refused(tmp_path: Path, rows: Vectors) -> None:
    import duckdb

    file = tmp_path / "d"
    duck(file, rows)
    with duckdb.connect(str(file)) as db:
        db.execute("ALTER TABLE Docs ADD COLUMN folded INT")
        db.execute("CREATE TABLE twice AS SELECT 1 AS id, v FROM Docs")
        db.execute("CREATE TABLE odd AS SELECT id, v FROM Docs")
    before = contents(file)
    with pytest.raises(DatabaseError, match="59 another row's"):
        run_duck(file, "twice")
    with pytest.raises(DatabaseError, match="named folded"):
        run_duck(file, key="folded")
    assert contents(file) == before
    # NaN is not equal to itself, so it comes after the comparison.
    with duckdb.connect(str(file)) as db:
        db.execute("UPDATE odd SET v = [1, 2, 3, 4, 5, 6, 7, 'nan'::FLOAT] WHERE id = 7")
    with pytest.raises(DataError, match="odd: the vector of 7 holds NaN"):
        run_duck(file, "odd")


def test_tables_of_earlier_versions_get_digests(tmp_path: Path, rows: Vectors) -> None:
    import duckdb

    file = tmp_path / "d"
    duck(file, rows)
    run_duck(file)
    with duckdb.connect(str(file)) as db:
        comment = json.loads(contents_comment(db))
        for name in OLD_NOTE:
            del comment["nearfold"][name]
        db.execute("ALTER TABLE Docs_folded DROP COLUMN digest")
        db.execute(f"COMMENT ON TABLE Docs_folded IS '{json.dumps(comment)}'")
        db.execute("UPDATE Docs SET v = (SELECT v FROM Docs WHERE id = 1) WHERE id = 2")
    done = run_duck(file)
    assert (done.written, done.refreshed) == (0, len(rows))
    assert "earlier nearfold" in done.survey.remark
    again = run_duck(file)
    assert (again.refreshed, again.survey.remark) == (0, None)


def contents_comment(db: Any) -> str:
    return db.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'Docs_folded'").fetchone()[0]


DUCK_KINDS = {
    f"FLOAT[{D}]": None,
    f"DOUBLE[{D}]": None,
    "FLOAT[]": None,
    "DOUBLE[]": None,
    "INTEGER[]": "column v is INTEGER",
    "VARCHAR[]": "column v is VARCHAR",
}


@pytest.mark.parametrize("kind", DUCK_KINDS)
def test_kinds_of_columns_in_duckdb(tmp_path: Path, rows: Vectors, kind: str) -> None:
    import duckdb

    file, refused = tmp_path / "d", DUCK_KINDS[kind]
    duck(file, rows, kind=kind)
    if refused:
        with pytest.raises(DatabaseError, match=refused):
            run_duck(file)
        return
    done = run_duck(file)
    with duckdb.connect(str(file)) as db:
        asked = [FOLD.transform(rows[3:4])[0].tolist(), rows[3].tolist()]
        assert db.execute(done.recipe, asked).fetchone() == (3,)
        plan = db.execute("EXPLAIN " + done.recipe, asked).fetchall()[0][1]
        assert "topn" in plan.lower().replace("_", "").replace(" ", "")
        db.execute("INSERT INTO Docs VALUES (99, [1, 2])" if kind.endswith("[]") else "SELECT 1")
    if kind.endswith("[]"):
        with pytest.raises(DatabaseError, match="2 to 8 numbers"):
            run_duck(file)


def lance_kinds(rows: Vectors) -> dict[str, tuple[Any, str | None]]:
    import pyarrow as pa

    lists = rows.tolist()
    return {
        "float16": (pa.array(lists, pa.list_(pa.float16(), D)), None),
        "float32": (pa.array(lists, pa.list_(pa.float32(), D)), None),
        "float64": (pa.array(lists, pa.list_(pa.float64(), D)), None),
        "lists": (pa.array(lists, pa.list_(pa.float32())), "lists of any length"),
        "large lists": (pa.array(lists, pa.large_list(pa.float32())), "lists of any length"),
        "uint8": (pa.array(abs(rows).astype(np.uint8).tolist(), pa.list_(pa.uint8(), D)), "not floats"),
        "multivectors": (
            pa.array([[row, row] for row in lists], pa.list_(pa.list_(pa.float32(), D))),
            "multivectors",
        ),
    }


@pytest.mark.parametrize(
    "kind", ["float16", "float32", "float64", "lists", "large lists", "uint8", "multivectors"]
)
def test_kinds_of_columns_in_lance(tmp_path: Path, rows: Vectors, kind: str) -> None:
    import lancedb
    import pyarrow as pa

    lists, refused = lance_kinds(rows)[kind]
    lancedb.connect(tmp_path).create_table("t", pa.table({"v": lists}))
    if refused:
        with pytest.raises(DatabaseError, match=f"column v is .*{refused}"):
            run(f"lancedb:{tmp_path}", "t")
    else:
        assert run(f"lancedb:{tmp_path}", "t").written == len(rows)


@pytest.mark.parametrize("name", ["a`b", "a.b", "", "V_FOLDED", "V", "id"])
def test_names_of_lance_columns(tmp_path: Path, rows: Vectors, name: str) -> None:
    import lancedb
    import pyarrow as pa

    full = pa.array(rows.tolist(), pa.list_(pa.float32(), D))
    ids = pa.array(range(len(rows)))
    table = lancedb.connect(tmp_path).create_table("t", pa.table({"v": full, "id": ids, "v_folded": ids}))
    with pytest.raises(NearfoldError, match=r"--name|choose another"):
        run(f"lancedb:{tmp_path}", "t", name=name)
    assert table.version == lancedb.connect(tmp_path).open_table("t").version


def test_a_lance_index_is_kept_and_so_are_versions(
    tmp_path: Path, rows: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lancedb
    import pyarrow as pa

    monkeypatch.setattr("nearfold.integrations.databases.lancedb._INDEXED_ROWS", 10)
    full = pa.array(rows.tolist(), pa.list_(pa.float32(), D))
    table = lancedb.connect(tmp_path).create_table("t", pa.table({"v": full, "id": range(len(rows))}))
    run(f"lancedb:{tmp_path}", "t")
    table.checkout_latest()
    versions = len(table.list_versions())
    table.update(where="id = 5", values={"v": rows[9].tolist()})
    table.update(where="id = 6", values={"v": None})
    done = run(f"lancedb:{tmp_path}", "t")
    assert (done.written, done.refreshed, done.removed) == (0, 1, 1)
    table.checkout_latest()
    assert len(table.list_versions()) > versions
    found = table.to_lance().to_table(filter="id = 5")["v_folded"][0].as_py()
    np.testing.assert_allclose(found, FOLD.transform(rows[9:10])[0], atol=1e-3)
    plan = table.search(FOLD.transform(rows[:1])[0], vector_column_name="v_folded").explain_plan(True)
    assert "ANN" in plan


def shard(folder: Path, rows: Vectors, **more: Any) -> None:
    import qdrant_edge as qdrant

    params = qdrant.EdgeVectorParams(D, qdrant.Distance.Cosine)
    vectors = {"full": params, **more} if more else params
    made = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors=vectors))
    points = [
        qdrant.Point(i, {"full": row.tolist()} if more else row.tolist(), {"user": i})
        for i, row in enumerate(rows)
    ]
    made.update(qdrant.UpdateOperation.upsert_points(points))
    made.close()


@pytest.mark.parametrize("name", ["../out", "/tmp/nearfold-never", "..", ".", "", "s", "a/b", "a\\b", "a\0b"])
def test_names_of_shards_lead_nowhere(tmp_path: Path, rows: Vectors, name: str) -> None:
    (tmp_path / "q").mkdir()
    shard(tmp_path / "q" / "s", rows)
    with pytest.raises(ParameterError, match="another folder beside"):
        run(f"qdrant:{tmp_path / 'q'}", "s", name=name)
    with pytest.raises(ParameterError, match="a folder below"):
        run(f"qdrant:{tmp_path / 'q'}", "../q/s")
    assert sorted(each.name for each in tmp_path.rglob("*") if each.parent in (tmp_path, tmp_path / "q")) == [
        "q",
        "s",
    ]


def test_points_that_changed_and_points_of_others(tmp_path: Path, rows: Vectors) -> None:
    import qdrant_edge as qdrant

    multi = qdrant.EdgeVectorParams(
        D,
        qdrant.Distance.Cosine,
        multivector_config=qdrant.MultiVectorConfig(qdrant.MultiVectorComparator.MaxSim),
    )
    shard(tmp_path / "s", rows, many=multi)
    with pytest.raises(DatabaseError, match="many is several vectors a point"):
        run(f"qdrant:{tmp_path}", "s", column="many")
    run(f"qdrant:{tmp_path}", "s")
    operation = qdrant.UpdateOperation
    source, folds = (qdrant.EdgeShard.load(str(tmp_path / each)) for each in ("s", "s-folded"))
    source.update(operation.update_vectors([qdrant.PointVectors(2, {"full": rows[9].tolist()})]))
    source.update(operation.delete_points([3]))
    folds.update(operation.set_payload([2], {"mine": 1}))
    folds.update(operation.upsert_points([qdrant.Point(777, [1.0, 2.0, 3.0], {"mine": 1})]))
    source.close()
    folds.close()
    with pytest.raises(DatabaseError, match="1 rows there have no vector"):
        run(f"qdrant:{tmp_path}", "s")
    folds = qdrant.EdgeShard.load(str(tmp_path / "s-folded"))
    kept = {each.id: each for each in folds.retrieve([2, 3, 777, 9], with_payload=True, with_vector=True)}
    folds.update(operation.delete_points([777]))
    folds.close()
    assert sorted(kept) == [2, 9, 777]
    np.testing.assert_allclose(kept[2].vector, kept[9].vector, atol=1e-3)
    assert kept[2].payload["mine"] == kept[777].payload["mine"] == 1
    assert run(f"qdrant:{tmp_path}", "s").refreshed == 0


@pytest.mark.parametrize(
    "where",
    [
        "mysql://me:pass-word@host/db",
        "postgresql://me:pass-word@ss@127.0.0.1:1/db",
        "postgresql://me:pass/word@127.0.0.1/db",
        "postgresql://me:pass-word@127.0.0.1:1/db",
        "lancedb:s3://me:pass-word@bucket/x?key=pass-word",
    ],
)
def test_passwords_are_in_no_message(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "s3" in where:
        # What the library would ask of the network.
        def refuse(place: str) -> None:
            raise OSError(f"no bucket at {place}: pass-word is wrong")

        monkeypatch.setattr("lancedb.connect", refuse)
    with pytest.raises(NearfoldError) as refused:
        open_store(where, FOLD, table="t")
    assert "pass" not in str(refused.value).replace("password as", "")
    assert "word@" not in str(refused.value)
