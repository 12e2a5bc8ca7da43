"""LanceDB: a folded column in the same table, in the real engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder
from nearfold.errors import DatabaseError, DataError
from nearfold.integrations.databases import lancedb as module
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

from .conftest import lance_database

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, vectors: Vectors) -> Path:
    folder = tmp_path_factory.mktemp("made") / "db"
    lance_database(folder, vectors)
    return folder


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "db"))


def table_of(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(folder).open_table("items")


def check_folds(folder: Path, vectors: Vectors, fold: Encoder) -> None:
    """Every vector has its fold, and is as it was."""
    rows = {row["name"]: row for row in table_of(folder).to_arrow().to_pylist()}
    assert rows.keys() == {"none", *(f"n{i}" for i in range(len(vectors)) if i != 7)}
    none = rows.pop("none")
    assert none["vector"] is none["vector_folded"] is None
    places = [int(name[1:]) for name in rows]
    assert np.array_equal(np.array([row["vector"] for row in rows.values()], np.float32), vectors[places])
    folds = np.array([row["vector_folded"] for row in rows.values()], np.float32)
    np.testing.assert_allclose(folds, fold.transform(vectors[places]), atol=1e-3)


@pytest.mark.parametrize("indexed", [False, True])
def test_every_vector_gets_its_fold(
    database: Path, vectors: Vectors, fold: Encoder, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if indexed:
        monkeypatch.setattr(module, "_INDEXED_ROWS", 100)
    with open_store(f"lancedb:{database}", fold, table="items") as store:
        done = migrate(fold, store)
    assert done.written == len(vectors) - 1
    assert done.recall.mean >= 0.95
    check_folds(database, vectors, fold)
    assert len(list(table_of(database).list_indices())) == indexed
    with open_store(f"lancedb:{database}", fold, table="items") as store:
        again = migrate(fold, store)
    assert (again.written, again.survey.folded) == (0, len(vectors) - 1)
    assert again.survey.note.recall == done.recall.mean


def test_the_recipe_runs_as_printed(database: Path, vectors: Vectors, fold: Encoder, tmp_path: Path) -> None:
    import lancedb

    import nearfold

    fold.save(tmp_path / "fold.safetensors")
    with open_store(f"lancedb:{database}", fold, table="items") as store:
        recipe = migrate(fold, store).recipe
    names: dict[str, Any] = {"lancedb": lancedb, "nearfold": nearfold, "np": np, "query": vectors[3]}
    exec(recipe.replace("load(...)", f"load({str(tmp_path / 'fold.safetensors')!r})"), names)
    assert len(names["best"]) == 10
    assert names["best"]["name"].iloc[0] == "n3"


def test_rows_that_came_since_are_folded(database: Path, vectors: Vectors, fold: Encoder) -> None:
    import pyarrow as pa

    with open_store(f"lancedb:{database}", fold, table="items") as store:
        migrate(fold, store)
    late = pa.array([row.tolist() for row in vectors[:5]], pa.list_(pa.float32(), 96))
    table_of(database).add(pa.table({"name": [f"late {i}" for i in range(5)], "vector": late}))
    with open_store(f"lancedb:{database}", fold, table="items") as store:
        assert migrate(fold, store).written == 5
    assert table_of(database).count_rows("vector_folded IS NULL") == 1


def test_a_dry_run_changes_nothing(database: Path, fold: Encoder) -> None:
    before = table_of(database).version
    with open_store(f"lancedb:{database}", fold, table="items") as store:
        looked = migrate(fold, store, dry_run=True)
    assert looked.recipe.count("vector_folded") == 1
    assert table_of(database).version == before


def test_what_can_not_be_done_is_refused(database: Path, vectors: Vectors, fold: Encoder) -> None:
    def attempt(where: Path = database, fold: Encoder = fold, table: str = "items", **known: Any) -> None:
        with open_store(f"lancedb:{where}", fold, table=table, **known) as store:
            migrate(fold, store)

    with pytest.raises(DatabaseError, match="no such folder"):
        attempt(database / "none")
    with pytest.raises(DatabaseError, match="can't open the table"):
        attempt(table="none")
    with pytest.raises(DatabaseError, match="no column other"):
        attempt(column="other")
    with pytest.raises(DatabaseError, match="leave --id out"):
        attempt(key="name")
    with pytest.raises(DatabaseError, match="holds no folded vectors"):
        attempt(name="name")
    with pytest.raises(DataError, match="96 dimensions, the encoder takes 5"):
        attempt(fold=Encoder(np.ones((2, 5), np.float32)))
    attempt()
    with pytest.raises(DatabaseError, match="another encoder"):
        attempt(fold=Encoder(np.ascontiguousarray(fold.weight[:, ::-1])))
