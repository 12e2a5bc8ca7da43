"""PostgreSQL: a table of folds beside the table of vectors, in a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold.errors import DatabaseError, DataError
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

from .conftest import SCHEMA, postgres_table

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]

TARGET = f'{SCHEMA}."Items_folded"'


def checksum(db: Any, table: str) -> str:
    row = db.execute(f"SELECT md5(string_agg(t::text, '|' ORDER BY \"the id\")) FROM {table} t").fetchone()
    return row[0]


def folds(db: Any) -> dict[str, Vectors]:
    rows = db.execute(f'SELECT "the id"::text, folded::text FROM {TARGET}').fetchall()
    found = {key: np.array(text.strip("[]").split(","), np.float32) for key, text in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("bigint", int),
        ("int", int),
        ("text", lambda i: f"key {i}, {'é' * (i % 5)}"),
        ("uuid", lambda i: uuid.UUID(int=i)),
    ],
)
def test_every_vector_gets_its_fold(
    server: str, db: Any, vectors: Vectors, fold: Encoder, id_type: str, ids: Callable[[int], Any]
) -> None:
    table = postgres_table(db, vectors, id_type=id_type, ids=ids)
    before = checksum(db, table)
    with open_store(server, fold, table=table) as store:
        done = migrate(fold, store)
    assert (done.written, done.survey.rows) == (len(vectors), len(vectors))
    assert done.recall.mean >= 0.95
    found = folds(db)
    assert found.keys() == {str(ids(i)) for i in range(len(vectors))}
    wanted = fold.transform(vectors, dtype=np.float16)
    for i in (0, 1, len(vectors) - 1):
        np.testing.assert_allclose(found[str(ids(i))], wanted[i].astype(np.float32), atol=1e-4)
    assert checksum(db, table) == before


def test_the_recipe_and_the_trigger_run_as_printed(
    server: str, db: Any, vectors: Vectors, fold: Encoder
) -> None:
    table = postgres_table(db, vectors[:-1], kind="halfvec(96)")
    with open_store(server, fold, table=table, dtype="float32") as store:
        recipe = migrate(fold, store).recipe
    search, _, follow = recipe.partition("-- To keep")
    setting, _, query = search.partition(";\n")
    db.execute(setting)
    text = str(vectors[3].tolist())
    found = db.execute(query.replace("$1", f"'{text}'")).fetchall()
    assert len(found) == 10
    assert found[0] == (3,)
    db.execute("-- To keep" + follow)
    db.execute(f"INSERT INTO {table} VALUES ('new', 5000, %s)", (str(vectors[-1].tolist()),))
    db.execute(f'UPDATE {table} SET embedding = %s WHERE "the id" = 0', (text,))
    db.execute(f'DELETE FROM {table} WHERE "the id" = 1')
    db.execute(f'UPDATE {table} SET embedding = NULL WHERE "the id" = 2')
    after = folds(db)
    assert after.keys() == {str(i) for i in [0, *range(3, len(vectors) - 1), 5000]}
    np.testing.assert_allclose(after["0"], after["3"], atol=1e-6)
    np.testing.assert_allclose(after["5000"], fold.transform(vectors[-1:])[0], atol=1e-5)


def test_a_dry_run_changes_nothing(server: str, db: Any, vectors: Vectors, fold: Encoder) -> None:
    table = postgres_table(db, vectors)
    count = f"SELECT count(*) FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace"
    before = db.execute(count).fetchone()
    with open_store(server, fold, table=table) as store:
        looked = migrate(fold, store, dry_run=True)
    assert (looked.written, looked.recall, len(looked.survey.makes)) == (0, None, 2)
    assert db.execute(count).fetchone() == before


def test_what_came_and_went_since_is_made_good(server: str, db: Any, vectors: Vectors, fold: Encoder) -> None:
    table = postgres_table(db, vectors[:-5])
    with open_store(server, fold, table=table) as store:
        migrate(fold, store, index=False)
    db.execute(f'DELETE FROM {table} WHERE "the id" < 3')
    for i, row in enumerate(vectors[-5:]):
        db.execute(f"INSERT INTO {table} VALUES ('late', %s, %s)", (9000 + i, str(row.tolist())))
    with open_store(server, fold, table=table) as store:
        again = migrate(fold, store)
    assert again.written == 5
    assert len(folds(db)) == len(vectors) - 3


def test_networks_are_asked_with_their_folds(
    server: str, db: Any, vectors: Vectors, rng: np.random.Generator
) -> None:
    layers = [(rng.standard_normal((m, d)).astype(np.float32), np.zeros(m)) for m, d in ((64, 96), (48, 64))]
    network = MLPEncoder(layers)
    table = postgres_table(db, vectors)
    with open_store(server, network, table=table) as store:
        done = migrate(network, store, n_candidates=1000, recall=0.5)
    assert "$2::vector" in done.recipe
    assert db.execute(
        f"SELECT count(*) FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace"
    ).fetchone() == (0,)


def test_what_can_not_be_done_is_refused(
    server: str, db: Any, vectors: Vectors, fold: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = postgres_table(db, vectors)

    def attempt(fold: Encoder = fold, table: str = table, dtype: str = "float16", **how: Any) -> None:
        known = {name: how.pop(name) for name in ("column", "key", "name") if name in how}
        with open_store(server, fold, table=table, dtype=dtype, **known) as store:
            migrate(fold, store, **how)

    with pytest.raises(DatabaseError, match="no such table"):
        attempt(table="nothing")
    with pytest.raises(DatabaseError, match="no column other"):
        attempt(column="other")
    with pytest.raises(DatabaseError, match="note tells rows apart"):
        attempt(key="note")
    with pytest.raises(DatabaseError, match="can't connect"):
        open_store("postgresql://nobody@127.0.0.1:1/none", fold, table=table)
    with pytest.raises(DataError, match="96 dimensions, the encoder takes 5"):
        attempt(fold=Encoder(np.ones((2, 5), np.float32)))
    with pytest.raises(DatabaseError, match="less than 1"):
        attempt(recall=1.0, n_candidates=10)
    # It was filled all the same; other folds are refused there.
    other = Encoder(np.ascontiguousarray(fold.weight[:, ::-1]))
    with pytest.raises(DatabaseError, match="another encoder"):
        attempt(fold=other)
    with pytest.raises(DatabaseError, match="another dtype"):
        attempt(dtype="float32")
    db.execute(f"CREATE FUNCTION {SCHEMA}.fold_else(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(DatabaseError, match="such a function"):
        attempt(name="else")
    db.execute(f'UPDATE {TARGET} SET folded = (SELECT folded FROM {TARGET} WHERE "the id" = 0)')
    with pytest.raises(DatabaseError, match="other folds than the encoder's"):
        attempt()
    db.execute(f"CREATE TABLE {SCHEMA}.mine (a int)")
    with pytest.raises(DatabaseError, match="holds no folded vectors"):
        attempt(name="mine")
    db.execute(f"INSERT INTO {table} VALUES ('x', 7777, '[1,2,3]')")
    with pytest.raises(DataError, match="has 3 dimensions"):
        attempt()
    db.execute(f'DELETE FROM {table} WHERE "the id" = 7777')
    monkeypatch.setattr("nearfold.integrations.databases.postgres._WAIT", "100ms")
    with open_store(server, fold, table=table) as store:
        store.prepare(store.survey().note)
        with pytest.raises(DatabaseError, match="lock"):
            attempt()
