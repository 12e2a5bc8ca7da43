"""DuckDB: a table of folded vectors beside the table of full ones, in the same file.

Its own vector index needs an extension that is downloaded when first used, so both stages scan; folded
vectors are the fewer bytes to scan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold._utils.arrays import Float32, Metric, chunk_rows
from nearfold._utils.extras import import_extra
from nearfold.errors import DatabaseError
from nearfold.folds.fold import Fold
from nearfold.integrations.databases.base import (
    OLDER,
    Advance,
    Filled,
    FoldRows,
    Note,
    Sample,
    Store,
    Survey,
    chosen_column,
    digests,
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
# Columns of the folded table beside the key.
_FOLDED, _DIGEST = "folded", "digest"


class Place(NamedTuple):
    """A table of full vectors, as DuckDB's catalog knows it.

    Parameters
    ----------
    schema, table
        Its names.
    column, kind, width
        Of the vectors: their column, its type, and their dimensions.
    key, key_kind
        The column that tells rows apart, and its type.
    """

    schema: str
    table: str
    column: str
    kind: str
    width: int
    key: str
    key_kind: str


def _sql(*names: str) -> str:
    return quoted(*names, longest=_LONGEST_NAME)


def _same(first: str, second: str) -> bool:
    """Return whether two names are one to DuckDB, which tells no case apart in ASCII and all beyond."""
    return first.encode(errors="replace").lower() == second.encode(errors="replace").lower()


def _named(names: Mapping[str, str], wanted: str | None) -> str | None:
    """Return the column that DuckDB would find by a name, or the name."""
    return next((name for name in names if wanted is not None and _same(name, wanted)), wanted)


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> DuckStore:
    """Open a database file.

    Raises
    ------
    DatabaseError
        The file, table or column is missing or unfit, or another process has the file open.
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
    if any(_same(told, own) for own in (_FOLDED, _DIGEST)):
        raise DatabaseError(
            f"{table}: the id is named {told}, as a column of the folded table will be; choose "
            "another with --id"
        )
    return Place(schema, named, chosen, kinds[chosen], width, told, kinds[told])


def _unfit(kind: str) -> str:
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


class DuckStore(Store):
    """A table of folded vectors beside a table of full ones.

    Parameters
    ----------
    db
        Open; closed by `close`.
    fold
        Whose results go in.
    place
        The table of full vectors.
    name
        Of the new table, which goes into the same schema; None for that of `place` and `_folded`.
    """

    def __init__(self, db: Any, fold: Fold, place: Place, name: str | None) -> None:
        super().__init__(fold, "float32")
        self._db, self._place = db, place
        wanted = f"{place.table}_folded" if name is None else name
        # A table that is there is known by the name that the catalog has for it.
        self._name = next((each for each in self._taken() if _same(each, wanted)), wanted)
        self.source_mark, self.target_mark = f"{place.table}.{place.column} by {place.key}", self._name
        self.failures = (import_extra("duckdb", "duckdb", "migrating in DuckDB").Error,)
        self._source, self._target = self._qualified(place.table), self._qualified(self._name)
        self._key, self._column = _sql(place.key), _sql(place.column)
        self._kind = f"FLOAT[{place.width}]"
        self._distance = _FUNCTIONS[self.metric]
        self._note: Note | None = None
        self._missing = (
            f"FROM {self._source} s WHERE s.{self._column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {self._target} f WHERE f.{self._key} = s.{self._key})"
        )
        self._orphans = (
            f"FROM {self._target} f WHERE NOT EXISTS (SELECT 1 FROM {self._source} s "
            f"WHERE s.{self._key} = f.{self._key} AND s.{self._column} IS NOT NULL)"
        )

    def _qualified(self, name: str) -> str:
        schema = self._place.schema
        return _sql(name) if schema == self._value("SELECT current_schema()") else _sql(schema, name)

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._db.execute(sql, list(parameters)).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Begin a transaction that writes, after the table was seen to be nearfold's own within it."""
        with self._transaction():
            found = self._found()
            if found is None or self._note is None:
                raise DatabaseError(f"table {self._name}: is gone; run it again")
            self._note.check_same(found, f"table {self._name}")
            yield

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
        where = f"table {self._name}"
        note = Note.loads(taken[self._name], where)
        kinds = self._kinds()
        wanted = {
            self._place.key: self._place.key_kind,
            _FOLDED: f"FLOAT[{note.n_components}]",
            _DIGEST: "BLOB",
        }
        if kinds != wanted and not (note.source is None and {**kinds, _DIGEST: "BLOB"} == wanted):
            raise DatabaseError(f"{where}: has other columns than nearfold gave it; choose another --name")
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
        rows, without, doubled = self._db.execute(
            f"SELECT count(*), count(*) - count({self._key}), count({self._key}) - count(DISTINCT "
            f"{self._key}) "
            f"FROM {self._source} WHERE {self._column} IS NOT NULL"
        ).fetchone()
        if without or doubled:
            raise DatabaseError(
                f"{place.table}: column {place.key} doesn't tell rows apart: {without} rows have none, "
                f"{doubled} another row's; choose another with --id"
            )
        note = self._found()
        folded = 0 if note is None else self._value(f"SELECT count(*) FROM {self._target}")
        made = f"table {self._name} ({place.key_kind}, FLOAT[{self.n_components}])"
        older = None if note is None or _DIGEST in self._kinds() else f"table {self._name} {OLDER}"
        return Survey(place.table, self._name, rows, folded, place.width, note, [made], older)

    def prepare(self, note: Note) -> None:
        """Make the table, and its note with it."""
        self._note = note
        with self._transaction():
            found = self._found()
            if found is None:
                self._db.execute(
                    f"CREATE TABLE {self._target} ({self._key} {self._place.key_kind} PRIMARY KEY, "
                    f"{_FOLDED} FLOAT[{self.n_components}] NOT NULL, {_DIGEST} BLOB)"
                )
            else:
                note.check_same(found, f"table {self._name}")
                if _DIGEST not in self._kinds():
                    self._db.execute(f"ALTER TABLE {self._target} ADD COLUMN {_DIGEST} BLOB")
            self._comment(note)

    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Compare each vector with the digest that was kept of it; write batch by batch."""
        plain = _PLAIN_KEYS.fullmatch(self._place.key_kind)
        key = f"s.{self._key}" if plain else f"s.{self._key}::VARCHAR"
        # Another connection reads, as things were when it began, while this one writes.
        with self._db.cursor() as reading:
            found = reading.sql(
                f"SELECT {key} AS id, {self._full} AS vector, f.{self._key} IS NOT NULL AS there, "
                f"f.{_DIGEST} AS "
                f"digest FROM {self._source} s LEFT JOIN {self._target} f ON f.{self._key} = s.{self._key} "
                f"WHERE s.{self._column} IS NOT NULL"
            )
            rows = chunk_rows(self._place.width, _BATCH_BYTES)
            # The name before DuckDB 1.4.
            read = getattr(found, "to_arrow_reader", None) or found.fetch_arrow_reader
            total = Filled(0, 0)
            for batch in read(rows):
                done = self._written(batch, fold)
                advance(done.written)
                total = Filled(total.written + done.written, total.refreshed + done.refreshed)
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
                _FOLDED: fixed_lists(fold(vectors[chosen])),
                _DIGEST: pa.array([fresh[place] for place in chosen], pa.binary()),
                "there": there[chosen],
            }
        )
        key = f"b.id::{self._place.key_kind}"
        self._db.register("nearfold_batch", kept)
        try:
            with self._claimed():
                self._db.execute(
                    f"UPDATE {self._target} SET {_FOLDED} = b.{_FOLDED}, {_DIGEST} = b.{_DIGEST} "
                    f"FROM nearfold_batch b WHERE b.there AND {self._target}.{self._key} = {key}"
                )
                self._db.execute(
                    f"INSERT INTO {self._target} ({self._key}, {_FOLDED}, {_DIGEST}) "
                    f"SELECT {key}, b.{_FOLDED}, b.{_DIGEST} FROM nearfold_batch b WHERE NOT b.there"
                )
        finally:
            self._db.unregister("nearfold_batch")
        refreshed = int(there[chosen].sum())
        return Filled(len(chosen) - refreshed, refreshed)

    @property
    def _full(self) -> str:
        """The full vector as SQL has it, of one width whatever the column's type."""
        column = f"s.{self._column}"
        return column if self._place.kind == self._kind else f"{column}::{self._kind}"

    def finish(self, *, index: bool) -> int:  # noqa: ARG002
        """Remove orphans that have a digest, so were written here; there is no index to build."""
        with self._claimed():
            return int(self._value(f"DELETE {self._orphans} AND f.{_DIGEST} IS NOT NULL"))

    def gaps(self) -> tuple[int, int]:
        """Count: the primary key lets nothing be doubled."""
        return self._value(f"SELECT count(*) {self._missing}"), self._value(
            f"SELECT count(*) {self._orphans}"
        )

    def sample(self, count: int, seed: int) -> Sample:
        """Return the rows whose hashes are lowest."""
        rows = self._db.execute(
            f"SELECT {self._full}, f.folded FROM {self._source} s "
            f"JOIN {self._target} f USING ({self._key}) WHERE s.{self._column} IS NOT NULL "
            f"ORDER BY hash(concat(s.{self._key}, ?)) LIMIT {count}",
            [str(seed)],
        ).fetchall()
        full, folded = (np.array(side, np.float32) for side in zip(*rows, strict=True))
        return Sample(full, folded)

    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Scan the full vectors."""
        distance = f"{self._distance}({self._full}, ?::{self._kind})"
        rows = self._db.execute(
            f"SELECT {distance} AS distance FROM {self._source} s WHERE s.{self._column} IS NOT NULL "
            f"ORDER BY distance LIMIT {k}",
            [vector.tolist()],
        ).fetchall()
        return np.array([row[0] for row in rows])

    def two_stage(
        self, vector: Float32, folded: Float32, k: int, n_candidates: int
    ) -> npt.NDArray[np.float64]:
        """Run the query of `recipe`."""
        sql = self._search(k, n_candidates, "distance")
        rows = self._db.execute(sql, [folded.tolist(), vector.tolist()]).fetchall()
        return np.array([row[0] for row in rows])

    def _search(self, k: int, n_candidates: int, result: str) -> str:
        distance = f"{self._distance}({self._full}, ?::{self._kind})"
        return (
            f"WITH candidates AS (\n"
            f"    SELECT {self._key} FROM {self._target}\n"
            f"    ORDER BY {self._distance}(folded, ?::FLOAT[{self.n_components}]) LIMIT {n_candidates}\n"
            f")\n"
            f"SELECT {result} FROM (\n"
            f"    SELECT s.{self._key}, {distance} AS distance\n"
            f"    FROM candidates JOIN {self._source} s USING ({self._key})\n"
            f") ORDER BY distance LIMIT {k}"
        )

    def mark(self, note: Note) -> None:
        """Replace the comment on the table."""
        with self._claimed():
            self._comment(note)

    def _comment(self, note: Note) -> None:
        text = note.dumps().replace("'", "''")
        self._db.execute(f"COMMENT ON TABLE {self._target} IS '{text}'")

    def recipe(self, k: int, n_candidates: int) -> str:
        """Return SQL, whose parameters are a query's fold and the query."""
        return f"{self._search(k, n_candidates, self._key)};\n"
