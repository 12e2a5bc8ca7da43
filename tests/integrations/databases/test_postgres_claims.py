"""PostgreSQL: what has nearfold's names, or a copy of its mark, stays as it is; kinds of columns."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from nearfold import Encoder, MLPEncoder
from nearfold.errors import DatabaseError, NearfoldError
from nearfold.integrations.databases.migrating import migrate
from nearfold.integrations.databases.stores import open_store

from .conftest import SCHEMA, Vectors

pytestmark = [pytest.mark.databases, pytest.mark.filterwarnings("ignore")]

D, M, N = 8, 3, 40
FOLD = Encoder(np.eye(M, D, dtype=np.float32) + 0.25)
DOCS, FOLDED = f"{SCHEMA}.docs", f"{SCHEMA}.docs_folded"


@pytest.fixture
def rows() -> Vectors:
    return np.random.default_rng(5).standard_normal((N, D)).astype(np.float32)


@pytest.fixture
def docs(db: Any, rows: Vectors) -> str:
    make(db, DOCS, rows)
    return DOCS


def make(db: Any, table: str, rows: Vectors, kind: str = f"vector({D})", how: str = "TABLE") -> None:
    db.execute(f"CREATE {how} {table} (id int PRIMARY KEY, v {kind})")
    insert(db, table, rows)


def insert(db: Any, table: str, rows: Vectors, first: int = 0) -> None:
    table = table.replace("%", "%%")
    values = [(first + i, row.tolist()) for i, row in enumerate(rows)]
    with db.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s::real[])", values)


def run(server: str, table: str = DOCS, fold: Encoder = FOLD, **known: Any) -> Any:
    with open_store(server, fold, table=table, **known) as store:
        return migrate(fold, store, k=3, recall=0, n_queries=5)


def everything(db: Any) -> dict[str, Any]:
    """All that the schema holds: entries of the catalog with the transactions that wrote them, and rows."""
    inside = f"'{SCHEMA}'::regnamespace"
    of = f"IN (SELECT oid FROM pg_class WHERE relnamespace = {inside})"
    catalogs = {
        "pg_class": f"relnamespace = {inside}",
        "pg_type": f"typnamespace = {inside}",
        "pg_proc": f"pronamespace = {inside}",
        "pg_constraint": f"connamespace = {inside}",
        "pg_attribute": f"attrelid {of}",
        "pg_index": f"indexrelid {of}",
        "pg_trigger": f"tgrelid {of}",
        "pg_policy": f"polrelid {of}",
        "pg_rewrite": f"ev_class {of}",
        "pg_description": f"objoid {of} OR objoid IN (SELECT oid FROM pg_proc WHERE pronamespace = {inside})",
    }
    found = {
        name: db.execute(f"SELECT c.xmin::text, c::text FROM {name} c WHERE {which} ORDER BY 2").fetchall()
        for name, which in catalogs.items()
    }
    # What the planner knows of a table's size changes by reading.
    found["pg_class"] = db.execute(
        "SELECT xmin::text, oid, relname, relkind, relfilenode, relrowsecurity, reloptions FROM pg_class "
        f"WHERE relnamespace = {inside} ORDER BY oid"
    ).fetchall()
    tables = db.execute(
        f"SELECT oid::regclass::text FROM pg_class WHERE relnamespace = {inside} AND relkind = 'r'"
    ).fetchall()
    for (table,) in tables:
        name = table.replace("%", "%%")
        found[table] = db.execute(
            f"SELECT ctid::text, xmin::text, t::text FROM {name} t ORDER BY 1", ()
        ).fetchall()
    return found


def mark_of(db: Any, table: str = FOLDED) -> dict[str, Any]:
    return json.loads(db.execute("SELECT obj_description(%s::regclass)", (table,)).fetchone()[0])


def marked(db: Any, what: str, mark: dict[str, Any]) -> None:
    db.execute(f"COMMENT ON {what} IS '{json.dumps(mark)}'".replace("%", "%%"), ())


LIKE_OURS = f"(id int PRIMARY KEY, folded halfvec({M}), digest bytea)"
TAKEN = {
    "table": f"CREATE TABLE {FOLDED} (id int)",
    "table like ours": f"CREATE TABLE {FOLDED} {LIKE_OURS}",
    "a user's comment": f"CREATE TABLE {FOLDED} {LIKE_OURS}; COMMENT ON TABLE {FOLDED} IS 'mine'",
    "unlogged table": f"CREATE UNLOGGED TABLE {FOLDED} {LIKE_OURS}",
    "partitioned table": f"CREATE TABLE {FOLDED} (id int, folded halfvec({M})) PARTITION BY HASH (id)",
    "view": f"CREATE VIEW {FOLDED} AS SELECT 1 AS id",
    "materialized view": f"CREATE MATERIALIZED VIEW {FOLDED} AS SELECT 1 AS id",
    "sequence": f"CREATE SEQUENCE {FOLDED}",
    "index": f"CREATE INDEX docs_folded ON {DOCS} (id)",
    "row type": f"CREATE TYPE {FOLDED} AS (id int)",
    "enum": f"CREATE TYPE {FOLDED} AS ENUM ('a')",
    "domain": f"CREATE DOMAIN {FOLDED} AS int",
    "function": f"CREATE FUNCTION {SCHEMA}.fold_docs(vector) RETURNS vector LANGUAGE sql AS 'SELECT $1'",
    "function of more": f"CREATE FUNCTION {SCHEMA}.fold_docs(vector, int = 1) RETURNS int LANGUAGE sql "
    "AS 'SELECT 1'",
    "procedure": f"CREATE PROCEDURE {SCHEMA}.fold_docs() LANGUAGE sql AS 'SELECT 1'",
    "aggregate": f"CREATE AGGREGATE {SCHEMA}.fold_docs(int) (SFUNC = int4pl, STYPE = int)",
    "weights": f"CREATE TABLE {SCHEMA}.fold_docs_weights (axis int, weight vector, bias real)",
    "weights as a view": f"CREATE VIEW {SCHEMA}.fold_docs_weights AS SELECT 1 AS axis",
    "weights as a sequence": f"CREATE SEQUENCE {SCHEMA}.fold_docs_weights",
    "weights as an index": f"CREATE INDEX fold_docs_weights ON {DOCS} (id)",
    "weights as a type": f"CREATE TYPE {SCHEMA}.fold_docs_weights AS (a int)",
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_has_a_name_of_ours_stays(server: str, db: Any, docs: str, what: str) -> None:
    db.execute(TAKEN[what])
    before = everything(db)
    with pytest.raises(DatabaseError) as refused:
        run(server)
    assert "\n" not in str(refused.value)
    assert "choose another --name" in str(refused.value)
    assert everything(db) == before
    assert run(server, name="other").written == N
    assert docs == DOCS


def test_names_of_indexes_and_triggers_may_be_taken(server: str, db: Any, docs: str) -> None:
    db.execute(
        f"CREATE INDEX docs_folded_pkey ON {docs} (id); CREATE INDEX docs_folded_folded_idx ON {docs} (id); "
        f"CREATE FUNCTION {SCHEMA}.fold_docs_follow() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'; "
        f"CREATE TRIGGER fold_docs_follow AFTER TRUNCATE ON {docs} EXECUTE FUNCTION "
        f"{SCHEMA}.fold_docs_follow()"
    )
    listed = (
        "SELECT oid, tgfoid FROM pg_trigger UNION ALL SELECT oid, 0 FROM pg_proc WHERE proname ~ 'follow'"
    )
    before = db.execute(listed).fetchall()
    done = run(server)
    assert done.written == N
    # What is printed replaces no function.
    with pytest.raises(Exception, match="already exists"):
        db.execute(done.recipe.partition("-- To keep")[2].partition("\n")[2])
    assert db.execute(listed).fetchall() == before


@pytest.mark.parametrize("how", ["TABLE", "UNLOGGED TABLE"])
def test_a_copied_mark_claims_nothing(server: str, db: Any, docs: str, rows: Vectors, how: str) -> None:
    run(server)
    mark = mark_of(db)
    db.execute(
        f"CREATE {how} {SCHEMA}.mine (LIKE {FOLDED} INCLUDING ALL); INSERT INTO {SCHEMA}.mine TABLE {FOLDED}"
    )
    marked(db, f"TABLE {SCHEMA}.mine", mark)
    make(db, f"{SCHEMA}.more", rows[:9])
    before = everything(db)
    with pytest.raises(DatabaseError, match="a target named docs_folded, not mine"):
        run(server, name="mine")
    # Another table's folds, by the name that they have.
    with pytest.raises(DatabaseError, match="choose another --name"):
        run(server, f"{SCHEMA}.more", name="docs_folded")
    # A network makes no function, so nothing but the mark tells.
    network = MLPEncoder([(np.eye(M, D, dtype=np.float32), np.zeros(M))])
    with pytest.raises(DatabaseError, match="a source named"):
        run(server, f"{SCHEMA}.more", network, name="docs_folded")
    assert everything(db) == before
    for change in ("ADD COLUMN mine int", "RENAME COLUMN digest TO mine", "DROP COLUMN digest"):
        db.execute(f"ALTER TABLE {FOLDED} {change}")
        changed = everything(db)
        with pytest.raises(DatabaseError, match="other columns than nearfold gave it"):
            run(server)
        assert everything(db) == changed
        db.execute(f"DROP TABLE {FOLDED}")
        run(server)
    assert docs == DOCS


def test_a_copied_mark_on_functions_and_weights_claims_nothing(server: str, db: Any, docs: str) -> None:
    run(server)
    function, weights = f"{SCHEMA}.fold_docs(vector)", f"{SCHEMA}.fold_docs_weights"
    (mark,) = db.execute(
        f"SELECT obj_description('{function}'::regprocedure)".replace("%", "%%"), ()
    ).fetchone()
    db.execute(f"DROP FUNCTION {function}; DROP TABLE {weights}, {FOLDED}")
    db.execute(f"CREATE FUNCTION {function} RETURNS vector LANGUAGE sql AS 'SELECT $1'")
    db.execute(f"COMMENT ON FUNCTION {function} IS '{mark}'")
    before = everything(db)
    with pytest.raises(DatabaseError, match="choose another --name"):
        run(server)
    assert everything(db) == before
    assert docs == DOCS


def test_rows_of_others_among_the_folds_stay(server: str, db: Any, docs: str) -> None:
    run(server)
    db.execute(f"INSERT INTO {FOLDED} (id, folded) VALUES (7000, '[1,2,3]'); DELETE FROM {docs} WHERE id = 4")
    with pytest.raises(DatabaseError, match="1 rows there have no vector"):
        run(server)
    kept = db.execute(f"SELECT id, folded::text FROM {FOLDED} WHERE id IN (4, 7000)").fetchall()
    assert kept == [(7000, "[1,2,3]")]


ODD = '"We""ird %s ? $1 $follow$ ${x} \'q\' \\ é"'


def test_names_with_placeholders_and_tags(server: str, db: Any, rows: Vectors) -> None:
    table = f"{SCHEMA}.{ODD}"
    free = f'CREATE TABLE {table} ("i%d $1" text COLLATE "C" PRIMARY KEY, "v $fold$ %s" vector({D}))'
    db.execute(free)
    insert(db, table, rows)
    done = run(server, table)
    assert (done.written, run(server, table).refreshed) == (N, 0)
    search, _, follow = done.recipe.partition("-- To keep")
    db.execute(search.partition(";\n")[0])
    asked = db.cursor()
    query = search.partition(";\n")[2].replace("$1::vector", f"'{rows[5].tolist()}'::vector")
    assert asked.execute(query).fetchone() == ("5",)
    db.execute("-- To keep" + follow)
    db.execute(f"DELETE FROM {table} WHERE ctid = '(0,1)'")
    again = run(server, table)
    assert (again.written, again.refreshed, again.removed, again.survey.folded) == (0, 0, 0, N - 1)


def test_tables_of_earlier_versions_get_digests_and_marks(server: str, db: Any, docs: str) -> None:
    run(server)
    function, weights = f"{SCHEMA}.fold_docs(vector)", f"{SCHEMA}.fold_docs_weights"
    mark = mark_of(db)
    for name in ("source", "target"):
        del mark["nearfold"][name]
    db.execute(
        f"ALTER TABLE {FOLDED} DROP COLUMN digest; COMMENT ON FUNCTION {function} IS NULL; "
        f"COMMENT ON TABLE {weights} IS NULL; UPDATE {docs} SET v = '[9,8,7,6,5,4,3,2]' WHERE id = 2"
    )
    marked(db, f"TABLE {FOLDED}", mark)
    done = run(server)
    assert (done.written, done.refreshed) == (0, N)
    assert "earlier nearfold" in done.survey.remark
    again = run(server)
    assert (again.refreshed, again.survey.remark) == (0, None)
    assert mark_of(db)["nearfold"]["target"] == "docs_folded"
    # Without the marks, and with other weights than the encoder's, the function is somebody else's.
    marked(db, f"TABLE {FOLDED}", mark)
    db.execute(
        f"COMMENT ON FUNCTION {function} IS NULL; COMMENT ON TABLE {weights} IS NULL; "
        f"UPDATE {weights} SET bias = 5"
    )
    before = everything(db)
    with pytest.raises(DatabaseError, match="such a function"):
        run(server)
    assert everything(db) == before


READ = {
    "vector": "vector",
    "halfvec": f"halfvec({D})",
    "real[]": "real[]",
    "double precision[]": "double precision[]",
    "real[8]": "real[8]",
    "generated": f"vector({D}) GENERATED ALWAYS AS (source::vector) STORED",
}


@pytest.mark.parametrize("kind", READ)
def test_kinds_of_columns_that_are_read(server: str, db: Any, rows: Vectors, kind: str) -> None:
    if kind == "generated":
        db.execute(f"CREATE TABLE {DOCS} (id int PRIMARY KEY, source text, v {READ[kind]})")
        for i, row in enumerate(rows):
            db.execute(f"INSERT INTO {DOCS} VALUES (%s, %s)", (i, str(row.tolist())))
    else:
        make(db, DOCS, rows, READ[kind])
    done = run(server)
    assert done.written == N
    query = done.recipe.partition(";\n")[2].partition("-- To keep")[0]
    assert db.execute(query.replace("$1", f"'{rows[3].tolist()}'")).fetchone() == (3,)
    db.execute(f"DELETE FROM {DOCS} WHERE id = 1")
    if kind != "generated":
        insert(db, DOCS, rows[:1], 99)
        db.execute(f"UPDATE {DOCS} SET v = (SELECT v FROM {DOCS} WHERE id = 3) WHERE id = 2")
        again = run(server)
        assert (again.written, again.refreshed, again.removed) == (1, 1, 1)


UNREAD = {
    "sparsevec": ("'{1:1}/8'", "sparse"),
    "bit(8)": ("B'10101010'", "bits"),
    "bit varying": ("B'10101010'", "bits"),
    "json": ("'[1,2]'", "make it a column"),
    "jsonb": ("'[1,2]'", "make it a column"),
    "bytea": ("'abc'", "make it a column"),
    "text": ("'[1,2]'", "make it a column"),
    "int[]": ("'{1,2}'", "arrays of another type"),
    "numeric[]": ("'{1,2}'", "arrays of another type"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_kinds_of_columns_that_are_refused(server: str, db: Any, kind: str) -> None:
    value, told = UNREAD[kind]
    db.execute(f"CREATE TABLE {DOCS} (id int PRIMARY KEY, v {kind}); INSERT INTO {DOCS} VALUES (1, {value})")
    before = everything(db)
    for column in ("v", None) if kind != "text" else ("v",):
        with pytest.raises(DatabaseError, match=f"column v is .*{told}"):
            run(server, column=column)
    assert everything(db) == before


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        ("'{1,NULL,3,4,5,6,7,8}'", "real[]"),
        ("'{1,NaN,3,4,5,6,7,8}'", "real[]"),
        ("'{1,-Infinity,3,4,5,6,7,8}'", "double precision[]"),
        ("'{1,1e39,3,4,5,6,7,8}'", "double precision[]"),
        ("'{{1,2,3,4},{5,6,7,8}}'", "real[]"),
        ("'{}'", "real[]"),
    ],
)
def test_arrays_that_are_no_vectors(server: str, db: Any, rows: Vectors, array: str, kind: str) -> None:
    make(db, DOCS, rows, kind)
    db.execute(f"INSERT INTO {DOCS} VALUES (777, {array})")
    before = everything(db)
    with pytest.raises(NearfoldError, match="'777'") as refused:
        run(server)
    assert "\n" not in str(refused.value)
    assert everything(db) == before


@pytest.mark.parametrize("how", ["UNLOGGED TABLE", "partitioned", "inherited"])
def test_kinds_of_tables_that_are_read(server: str, db: Any, rows: Vectors, how: str) -> None:
    if how == "partitioned":
        db.execute(
            f"CREATE TABLE {DOCS} (id int PRIMARY KEY, v vector({D})) PARTITION BY HASH (id); "
            f"CREATE TABLE {SCHEMA}.a PARTITION OF {DOCS} FOR VALUES WITH (MODULUS 2, REMAINDER 0); "
            f"CREATE TABLE {SCHEMA}.b PARTITION OF {DOCS} FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
        )
        insert(db, DOCS, rows)
    elif how == "inherited":
        make(db, DOCS, rows[:20])
        db.execute(f"CREATE TABLE {SCHEMA}.heir (more int) INHERITS ({DOCS})")
        insert(db, f"{SCHEMA}.heir (id, v)", rows[20:], 20)
    else:
        make(db, DOCS, rows, how=how)
    assert run(server).written == N
    if how == "inherited":
        insert(db, f"{SCHEMA}.heir (id, v)", rows[:1], 3)
        before = everything(db)
        with pytest.raises(DatabaseError, match="'3' is there twice"):
            run(server)
        assert everything(db) == before


@pytest.mark.parametrize(
    "what",
    [
        f"CREATE VIEW {SCHEMA}.x AS TABLE {DOCS}",
        f"CREATE MATERIALIZED VIEW {SCHEMA}.x AS TABLE {DOCS}",
        f"CREATE TABLE {SCHEMA}.x AS TABLE {DOCS}",
        f"CREATE TEMP TABLE x AS TABLE {DOCS}",
    ],
)
def test_kinds_of_tables_that_are_refused(server: str, db: Any, docs: str, what: str) -> None:
    db.execute(what)
    before = everything(db)
    with pytest.raises(DatabaseError, match=r"tells rows apart|no such table") as refused:
        run(server, f"{SCHEMA}.x" if "TEMP" not in what else "x")
    assert "\n" not in str(refused.value)
    assert everything(db) == before
    assert docs == DOCS


def test_rows_that_a_policy_hides_lose_no_fold(server: str, db: Any, docs: str) -> None:
    db.execute("DROP ROLE IF EXISTS nearfold_reader")
    db.execute("CREATE ROLE nearfold_reader LOGIN")
    try:
        db.execute(f"GRANT ALL ON SCHEMA {SCHEMA} TO nearfold_reader")
        db.execute(f"GRANT SELECT ON {docs} TO nearfold_reader")
        where = server.replace("postgres:@", "nearfold_reader:@")
        assert where != server
        run(where)
        db.execute(f"ALTER TABLE {docs} ENABLE ROW LEVEL SECURITY")
        db.execute(f"CREATE POLICY half ON {docs} USING (id % 2 = 0)")
        before = everything(db)
        with pytest.raises(DatabaseError, match="row-level security"):
            run(where)
        assert everything(db) == before
        db.execute(f"ALTER TABLE {docs} DISABLE ROW LEVEL SECURITY")
        # Nor is anything made where one may not.
        db.execute(f"REVOKE CREATE ON SCHEMA {SCHEMA} FROM nearfold_reader")
        before = everything(db)
        with pytest.raises(DatabaseError, match="permission denied"):
            run(where, name="more")
        assert everything(db) == before
    finally:
        db.execute("DROP OWNED BY nearfold_reader CASCADE")
        db.execute("DROP ROLE nearfold_reader")


def test_two_at_once_do_it_once(server: str, db: Any, docs: str) -> None:
    done, failed = [], []

    def work() -> None:
        try:
            done.append(run(server))
        except NearfoldError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(each.written for each in done) == [0, 0, N]
    assert db.execute(f"SELECT count(*), count(DISTINCT id) FROM {FOLDED}").fetchone() == (N, N)
    assert docs == DOCS
