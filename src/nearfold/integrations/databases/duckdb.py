"""DuckDB: a table of folded vectors beside the table of full ones, in the same file.

The vector index of DuckDB needs an extension that is downloaded when it is first used. So both stages scan,
and the first gains by having fewer bytes to scan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nearfold._utils.arrays import Float32, Float64, Metric, chunk_rows
from nearfold._utils.extras import import_extra
from nearfold.errors import DatabaseError
from nearfold.folds.fold import Fold
from nearfold.integrations.databases.base import (
    DIGEST,
    FOLDED,
    OLDER,
    PARTS,
    Advance,
    Filled,
    FoldRows,
    Note,
    Sample,
    SqlStore,
    Survey,
    check_columns,
    chosen_column,
    digests,
    key_taken,
    sound_matrix,
    told_panic,
)
from nearfold.integrations.sql import check_name, quoted
from nearfold.io.lists import first_line, fixed_lists

__all__ = ["NAMED", "SCHEMES", "DuckStore", "Place", "open_store"]

SCHEMES = ("duckdb",)
NAMED = "duckdb:FILE"

_FUNCTIONS: dict[Metric, str] = {
    "cosine": "array_cosine_distance",
    "l2": "array_distance",
    "ip": "array_negative_inner_product",
}
_BATCH_BYTES = 16 << 20
# DuckDB sets none.
_LONGEST_NAME = 1 << 16
_VECTORS = re.compile(r"(?:FLOAT|DOUBLE)\[(\d*)\]")
# Types that Arrow hands back as they came; the others travel as text.
_PLAIN_KEYS = re.compile(r"U?(?:TINYINT|SMALLINT|INTEGER|BIGINT)|VARCHAR")
_SEARCH = """\
WITH candidates AS (
    SELECT {key} FROM {target}
    ORDER BY {function}(folded, ?::{folded_kind}) LIMIT {n_candidates}
)
SELECT {result} FROM (
    SELECT s.{key}, {distance} AS distance
    FROM candidates JOIN {source} s USING ({key})
) ORDER BY distance LIMIT {k}"""


class Place(NamedTuple):
    """A table of full vectors, as the catalog of DuckDB knows it.

    Attributes
    ----------
    schema, table : str
        The schema of the table, and its name.
    column : str
        The column of the vectors.
    kind : str
        The type of that column.
    width : int
        The dimensions of the vectors.
    key : str
        The column that tells rows apart.
    key_kind : str
        The type of that column.
    """

    schema: str
    table: str
    column: str
    kind: str
    width: int
    key: str
    key_kind: str


def _sql(*names: str) -> str:
    """Return names as SQL has them, with dots between."""
    return quoted(*names, longest=_LONGEST_NAME)


def _same(first: str, second: str) -> bool:
    """Return whether two names are one to DuckDB, which ignores case in ASCII and nowhere else."""
    return first.encode(errors="replace").lower() == second.encode(errors="replace").lower()


def _named(names: Mapping[str, str], wanted: str | None) -> str | None:
    """Return the column that DuckDB would find by a name, or the name."""
    return next((name for name in names if wanted is not None and _same(name, wanted)), wanted)


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> DuckStore:
    """Open a database file.

    Parameters
    ----------
    where : str
        The file.
    fold : Fold
        The fold whose results are stored.
    table, column, key, name, dtype
        As for `stores.open_store`.

    Returns
    -------
    DuckStore

    Raises
    ------
    DatabaseError
        The file, table or column is missing or unfit, or another process has the file open.
    MissingExtraError
        duckdb is not installed.
    """
    duckdb = import_extra("duckdb", "duckdb", "migrating in DuckDB")
    if not Path(where).is_file():
        raise DatabaseError(f"{where}: no such file; give that of a DuckDB database")
    if dtype != "float32":
        raise DatabaseError("DuckDB has no 16-bit numbers; use --dtype float32")
    if name is not None:
        check_name(name, _LONGEST_NAME)
    try:
        db = duckdb.connect(where)
    except duckdb.Error as error:
        raise DatabaseError(f"{where}: {first_line(error)}") from error
    try:
        return DuckStore(db, fold, _find_place(db, table, column, key), name)
    except duckdb.Error as error:
        db.close()
        raise DatabaseError(f"{where}: {first_line(error)}") from error
    except BaseException as error:
        db.close()
        raise told_panic(error, where) or error from error


def _find_place(db: Any, table: str, column: str | None, key: str | None) -> Place:
    """Return the table that a user names, by DuckDB's own rules for names."""
    entries = db.execute(
        "SELECT schema_name, table_name, schema_name = current_schema() FROM duckdb_tables() "
        "WHERE database_name = current_database() UNION ALL "
        "SELECT schema_name, view_name, schema_name = current_schema() FROM duckdb_views() "
        "WHERE database_name = current_database() AND NOT internal"
    ).fetchall()
    found = [entry for entry in entries if entry[2] and _same(entry[1], table)] or [
        entry for entry in entries if _same(f"{entry[0]}.{entry[1]}", table)
    ]
    if len(found) != 1:
        listed = ", ".join(
            sorted(each if current else f"{schema}.{each}" for schema, each, current in entries)
        )
        raise DatabaseError(f"{table}: no such table; the file has: {listed or 'none'}")
    schema, named, _ = found[0]
    kinds = dict(
        db.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
            "AND schema_name = ? AND table_name = ? ORDER BY column_index",
            [schema, named],
        ).fetchall()
    )
    vectors = {each: fitting for each, kind in kinds.items() if (fitting := _VECTORS.fullmatch(kind))}
    chosen = chosen_column(
        list(vectors),
        _named(kinds, column),
        table,
        {each: _unfit(kind) for each, kind in kinds.items() if "[" in kind},
    )
    width = int(vectors[chosen][1] or 0) or _measured(db, _sql(schema, named), chosen, table)
    told = _named(kinds, key)
    if told is None or told not in kinds:
        raise DatabaseError(f"{table}: name the column that tells rows apart with --id: {', '.join(kinds)}")
    if any(_same(told, own) for own in (FOLDED, DIGEST)):
        raise key_taken(table, told)
    return Place(schema, named, chosen, kinds[chosen], width, told, kinds[told])


def _unfit(kind: str) -> str:
    """Return what to say of a column of another type."""
    return f"{kind}, not floats of one width; nearfold reads FLOAT[n], DOUBLE[n], FLOAT[] and DOUBLE[]"


def _measured(db: Any, source: str, column: str, table: str) -> int:
    """Return the length that all lists of a column have."""
    least, most = db.execute(
        f"SELECT min(len({_sql(column)})), max(len({_sql(column)})) FROM {source}"
    ).fetchone()
    if least is None:
        raise DatabaseError(f"{table}: column {column} holds no vector")
    if least != most:
        raise DatabaseError(
            f"{table}: column {column} holds lists of {least} to {most} numbers; vectors of one width are "
            "folded: remove the others, or name a view without them"
        )
    return int(least)


class DuckStore(SqlStore):
    """A table of folded vectors beside a table of full ones, in DuckDB.

    Parameters
    ----------
    db : duckdb.DuckDBPyConnection
        The open database. `close` closes it.
    fold : Fold
        The fold whose results are stored, as float32.
    place : Place
        The table of full vectors.
    name : str or None
        The name of the new table, which goes into the same schema. None stands for that of `place` with
        `_folded` behind it.
    """

    def __init__(self, db: Any, fold: Fold, place: Place, name: str | None) -> None:
        super().__init__(fold, "float32")
        self._db, self._place = db, place
        self._names: dict[str, str] = {}
        wanted = f"{place.table}_folded" if name is None else name
        # A table that is there is known by the name that the catalog has for it.
        self._name = next((each for each in self._taken() if _same(each, wanted)), wanted)
        self.source_mark, self.target_mark = f"{place.table}.{place.column} by {place.key}", self._name
        self.failures = (import_extra("duckdb", "duckdb", "migrating in DuckDB").Error,)
        self._at = f"table {self._name}"
        kind, column = f"FLOAT[{place.width}]", f"s.{_sql(place.column)}"
        self._names = {
            "source": self._qualified(place.table),
            "target": self._qualified(self._name),
            "key": _sql(place.key),
            "column": _sql(place.column),
            "function": _FUNCTIONS[self.metric],
            "folded_kind": f"FLOAT[{self.n_components}]",
            # Of one width whatever the column's type.
            "full": column if place.kind == kind else f"{column}::{kind}",
        }
        self._names["distance"] = f"{{function}}({{full}}, ?::{kind})".format(**self._names)
        for each, part in PARTS.items():
            self._names[each] = part.format(**self._names)

    def _qualified(self, name: str) -> str:
        schema = self._place.schema
        return _sql(name) if schema == self._value("SELECT current_schema()") else _sql(schema, name)

    def _run(self, sql: str, *parameters: Any, **parts: Any) -> Any:
        """Execute a template of a statement, with names and parts put in, and return its cursor."""
        return self._db.execute(sql.format(**self._names, **parts), list(parameters))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _taken(self) -> dict[str, str | None]:
        """Return what has a name in the schema, and the comments of tables; views have none here."""
        return dict(
            self._db.execute(
                "SELECT table_name, comment FROM duckdb_tables() "
                "WHERE database_name = current_database() AND schema_name = ? UNION ALL "
                "SELECT view_name, NULL FROM duckdb_views() "
                "WHERE database_name = current_database() AND schema_name = ? AND NOT internal",
                [self._place.schema, self._place.schema],
            ).fetchall()
        )

    def _found(self) -> Note | None:
        """Return the note of the table, if there is one; refuse any other table of its name."""
        taken = self._taken()
        if self._name not in taken:
            return None
        note = Note.loads(taken[self._name], self._at)
        key, folded = {self._place.key: self._place.key_kind}, f"FLOAT[{note.n_components}]"
        check_columns(note, self._kinds(), {**key, FOLDED: folded, DIGEST: "BLOB"}, self._at)
        return note

    def _kinds(self) -> dict[str, str]:
        return dict(
            self._db.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = "
                "current_database() "
                "AND schema_name = ? AND table_name = ?",
                [self._place.schema, self._name],
            ).fetchall()
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def survey(self) -> Survey:
        """Look at what is there."""
        place = self._place
        rows, without, doubled = self._run(
            "SELECT count(*), count(*) - count({key}), count({key}) - count(DISTINCT {key}) "
            "FROM {source} WHERE {column} IS NOT NULL"
        ).fetchone()
        if without or doubled:
            raise DatabaseError(
                f"{place.table}: column {place.key} doesn't tell rows apart: {without} rows have none, "
                f"{doubled} another row's; choose another with --id"
            )
        note = self._found()
        folded = 0 if note is None else self._value("SELECT count(*) FROM {target}")
        made = f"table {self._name} ({place.key_kind}, FLOAT[{self.n_components}])"
        older = None if note is None or DIGEST in self._kinds() else f"table {self._name} {OLDER}"
        return Survey(place.table, self._name, rows, folded, place.width, note, [made], older)

    def prepare(self, note: Note) -> None:
        """Make the table, and its note with it."""
        self._note = note
        with self._transaction():
            found = self._found()
            if found is None:
                self._run(
                    "CREATE TABLE {target} ({key} {kind} PRIMARY KEY, "
                    "folded {folded_kind} NOT NULL, digest BLOB)",
                    kind=self._place.key_kind,
                )
            else:
                self._check_ours(found, self._at)
                if DIGEST not in self._kinds():
                    self._run("ALTER TABLE {target} ADD COLUMN digest BLOB")
            self._comment(note)

    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Compare each vector with the digest that was kept of it; write batch by batch."""
        plain = _PLAIN_KEYS.fullmatch(self._place.key_kind)
        sql = (
            "SELECT s.{key}{text} AS id, {full} AS vector, f.{key} IS NOT NULL AS there, f.digest AS digest "
            "FROM {source} s LEFT JOIN {target} f ON f.{key} = s.{key} WHERE s.{column} IS NOT NULL"
        ).format(text="" if plain else "::VARCHAR", **self._names)
        # Another connection reads, as things were when it began, while this one writes.
        with self._db.cursor() as reading:
            found = reading.sql(sql)
            rows = chunk_rows(self._place.width, _BATCH_BYTES)
            # The name before DuckDB 1.4.
            read = getattr(found, "to_arrow_reader", None) or found.fetch_arrow_reader
            total = Filled(0, 0)
            for batch in read(rows):
                done = self._written(batch, fold)
                advance(done.written)
                total = total.plus(done)
            return total

    def _written(self, batch: pa.RecordBatch, fold: FoldRows) -> Filled:
        ids = batch["id"]
        vectors = sound_matrix(self._place.table, batch["vector"], self._place.width, ids.to_pylist())
        there = batch["there"].to_numpy(zero_copy_only=False)
        fresh = digests(vectors)
        changed = np.array([a != b for a, b in zip(fresh, batch["digest"].to_pylist(), strict=True)], bool)
        chosen = np.flatnonzero(changed | ~there)
        if not chosen.size:
            return Filled(0, 0)
        kept = pa.table(
            {
                "id": ids.take(pa.array(chosen)),
                FOLDED: fixed_lists(fold(vectors[chosen])),
                DIGEST: pa.array([fresh[place] for place in chosen], pa.binary()),
                "there": there[chosen],
            }
        )
        key = f"b.id::{self._place.key_kind}"
        self._db.register("nearfold_batch", kept)
        try:
            with self._claimed():
                self._run(
                    "UPDATE {target} SET folded = b.folded, digest = b.digest "
                    "FROM nearfold_batch b WHERE b.there AND {target}.{key} = {id}",
                    id=key,
                )
                self._run(
                    "INSERT INTO {target} ({key}, folded, digest) "
                    "SELECT {id}, b.folded, b.digest FROM nearfold_batch b WHERE NOT b.there",
                    id=key,
                )
        finally:
            self._db.unregister("nearfold_batch")
        refreshed = int(there[chosen].sum())
        return Filled(len(chosen) - refreshed, refreshed)

    def finish(self, *, index: bool) -> int:  # noqa: ARG002
        """Remove orphans that have a digest, so were written here; there is no index to build."""
        with self._claimed():
            return int(self._value("DELETE {orphans} AND f.digest IS NOT NULL"))

    def sample(self, count: int, seed: int) -> Sample:
        """Return the rows whose hashes are lowest."""
        rows = self._run(
            "SELECT {full}, f.folded FROM {source} s JOIN {target} f USING ({key}) "
            "WHERE s.{column} IS NOT NULL ORDER BY hash(concat(s.{key}, ?)) LIMIT {count}",
            str(seed),
            count=count,
        ).fetchall()
        full, folded = (np.array(side, np.float32) for side in zip(*rows, strict=True))
        return Sample(full, folded)

    def exact(self, vector: Float32, k: int) -> Float64:
        """Scan the full vectors."""
        rows = self._run(
            "SELECT {distance} AS distance FROM {source} s WHERE s.{column} IS NOT NULL "
            "ORDER BY distance LIMIT {k}",
            vector.tolist(),
            k=k,
        ).fetchall()
        return np.array([row[0] for row in rows])

    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Run the query of `recipe`."""
        asked = {"k": k, "n_candidates": n_candidates, "result": "distance"}
        rows = self._run(_SEARCH, folded.tolist(), vector.tolist(), **asked).fetchall()
        return np.array([row[0] for row in rows])

    def _comment(self, note: Note) -> None:
        # Text is doubled quotes and nothing else to DuckDB.
        text = note.dumps().replace("'", "''")
        self._run("COMMENT ON TABLE {target} IS '{text}'", text=text)

    def recipe(self, k: int, n_candidates: int) -> str:
        """Return SQL, whose parameters are a query's fold and the query."""
        key = self._names["key"]
        return _SEARCH.format(k=k, n_candidates=n_candidates, result=key, **self._names) + ";\n"
