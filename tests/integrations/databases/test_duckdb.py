"""DuckDB: a table of folds beside the table of vectors, in the real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder
from nearfold.errors import DatabaseError
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def file(tmp_path: Path, vectors: Vectors) -> Path:
    import duckdb

    with duckdb.connect(str(tmp_path / "db.duckdb")) as db:
        db.execute("CREATE TABLE items (id BIGINT, embedding FLOAT[96])")
        db.executemany(
            "INSERT INTO items VALUES (?, ?)", [[i, row.tolist()] for i, row in enumerate(vectors[:400])]
        )
        db.execute("INSERT INTO items VALUES (9999, NULL)")
    return tmp_path / "db.duckdb"


def run(file: Path, fold: Encoder, **known: Any) -> Any:
    asked = {"table": "items", "key": "id", "dtype": "float32", **known}
    with open_store(f"duckdb:{file}", fold, **asked) as store:
        return migrate(fold, store, n_queries=50)


def test_every_vector_gets_its_fold(file: Path, vectors: Vectors, fold: Encoder) -> None:
    import duckdb

    done = run(file, fold)
    assert (done.written, done.survey.rows) == (400, 400)
    with duckdb.connect(str(file)) as db:
        rows = db.execute("SELECT id, folded FROM items_folded ORDER BY id").fetchall()
        assert [row[0] for row in rows] == list(range(400))
        np.testing.assert_allclose([row[1] for row in rows], fold.transform(vectors[:400]), atol=1e-5)
        asked = [fold.transform(vectors[3:4])[0].tolist(), vectors[3].tolist()]
        assert db.execute(done.recipe, asked).fetchone() == (3,)
        db.execute("DELETE FROM items WHERE id < 2")
        db.execute("INSERT INTO items VALUES (5000, ?)", [vectors[500].tolist()])
    assert run(file, fold).written == 1


def test_what_can_not_be_done_is_refused(file: Path, fold: Encoder, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no such file"):
        run(tmp_path / "none", fold)
    with pytest.raises(DatabaseError, match="--id"):
        run(file, fold, key=None)
    with pytest.raises(DatabaseError, match="--dtype float32"):
        run(file, fold, dtype="float16")
    with pytest.raises(DatabaseError, match="no column"):
        run(file, fold, column="other")
