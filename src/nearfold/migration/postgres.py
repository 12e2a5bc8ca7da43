"""PostgreSQL with pgvector: a table of folded vectors beside the table of full ones.

The table of full vectors is only read. An UPDATE that added a column to it would write each full vector
anew; a table beside is filled by COPY.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric
from nearfold.encoder import Encoder
from nearfold.errors import DatabaseError
from nearfold.export.sql import fold_sql, quoted
from nearfold.extras import import_extra
from nearfold.fold import Fold
from nearfold.migration.base import Advance, FoldRows, Note, Sample, Store, Survey
from nearfold.migration.pgcopy import HEADER, TRAILER, Batch, Rows, batches, pack, unpack
from nearfold.migration.pgtable import Table, find_table
from nearfold.threads import in_order

__all__ = ["NAMED", "SCHEMES", "PostgresStore", "open_store"]

SCHEMES = ("postgresql", "postgres")
NAMED = "postgresql://USER@HOST/NAME"

_OPERATORS: dict[Metric, tuple[str, str]] = {
    "cosine": ("<=>", "cosine_ops"),
    "l2": ("<->", "l2_ops"),
    "ip": ("<#>", "ip_ops"),
}
_TYPES = {"float16": "halfvec", "float32": "vector"}
# Dimensions that an HNSW index of pgvector takes.
_INDEXED = {"halfvec": 4000, "vector": 2000}
# Full vectors read and folded at a time, and those whose folds are committed together.
_BATCH_BYTES = 8 << 20
_COMMIT_BYTES = 128 << 20
# A killed run's session ends as soon as the server notices.
_WAIT = "30s"


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> PostgresStore:
    """Connect to a server; `where` is a connection string (postgresql://...).

    Raises
    ------
    DatabaseError
        It can't be reached, or the table or column is missing or unfit.
    """
    psycopg = import_extra("psycopg", "pgvector", "migrating in PostgreSQL")
    try:
        connection = psycopg.connect(where, autocommit=True, application_name="nearfold")
    except psycopg.Error as error:
        raise DatabaseError(f"can't connect to PostgreSQL: {error}") from error
    try:
        found = find_table(connection, table, column, key)
        return PostgresStore(connection, where, fold, found, name or f"{found.name}_folded", dtype)
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise DatabaseError(f"{table}: {error}") from error
        raise


class PostgresStore(Store):
    """A table of folded vectors beside a table of full ones.

    Parameters
    ----------
    connection
        Open, in autocommit mode; closed by `close`.
    where
        The connection string, for a second connection.
    fold
        Whose results go in.
    table
        The table of full vectors.
    name
        Of the new table, which goes into the same schema.
    dtype
        "float16" or "float32".
    """

    def __init__(self, connection: Any, where: str, fold: Fold, table: Table, name: str, dtype: str) -> None:
        super().__init__(fold, dtype)
        self._db = connection
        self._where = where
        self._table = table
        self._name = name
        self._type = _TYPES[dtype]
        self._target = f"{quoted(table.schema)}.{quoted(name)}"
        self._function = f"fold_{name.removesuffix('_folded')}"
        self._key, self._column = quoted(table.id), quoted(table.column)
        self._operator, self._ops = _OPERATORS[self.metric]
        self.failures = (import_extra("psycopg", "pgvector", "migrating in PostgreSQL").Error,)

    def close(self) -> None:
        """End the session, and with it the lock."""
        self._db.close()

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._db.execute(sql, parameters or None).fetchone()[0]

    @property
    def _missing(self) -> str:
        """The FROM clause of vectors that have no fold."""
        return (
            f"FROM {self._table.sql} s WHERE s.{self._column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT FROM {self._target} f WHERE f.{self._key} = s.{self._key})"
        )

    @property
    def _orphans(self) -> str:
        """The FROM clause of folds that have no vector."""
        return (
            f"FROM {self._target} f WHERE NOT EXISTS (SELECT FROM {self._table.sql} s "
            f"WHERE s.{self._key} = f.{self._key} AND s.{self._column} IS NOT NULL)"
        )

    def survey(self) -> Survey:
        """Look at what the catalog holds."""
        table = self._table
        rows = self._value(f"SELECT count({self._column}) FROM {table.sql}")
        width = table.width
        if width is None and rows:
            width = self._value(
                f"SELECT vector_dims({self._column}) FROM {table.sql} "
                f"WHERE {self._column} IS NOT NULL LIMIT 1"
            )
        there = self._value("SELECT to_regclass(%s) IS NOT NULL", self._target)
        note = self._note() if there else None
        if not there and isinstance(self._fold, Encoder):
            self._check_free()
        m = self.n_components
        makes = [f"table {self._target} ({table.id} {table.id_type}, folded {self._type}({m}))"]
        if isinstance(self._fold, Encoder):
            makes.append(f"function {self._function}(vector), and its table of weights")
        return Survey(
            f"{table.schema}.{table.name}.{table.column}",
            f"{table.schema}.{self._name}",
            rows,
            self._value(f"SELECT count(*) FROM {self._target}") if there else 0,
            width or self._fold.n_features,
            note,
            makes,
        )

    def _note(self) -> Note:
        text = self._value("SELECT obj_description(to_regclass(%s), 'pg_class')", self._target)
        return Note.loads(text, f"table {self._target}")

    def _check_free(self) -> None:
        taken = self._value(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relname = %s AND relnamespace = n.oid) "
            "OR EXISTS (SELECT FROM pg_proc WHERE proname = %s AND pronamespace = n.oid) "
            "FROM pg_namespace n WHERE nspname = %s",
            f"{self._function}_weights",
            self._function,
            self._table.schema,
        )
        if taken:
            raise DatabaseError(
                f"{self._table.schema}.{self._function}: such a function, or its table of weights, is there "
                f"already; choose another --name"
            )

    def prepare(self, note: Note) -> None:
        """Take the lock; make table and function."""
        self._db.execute(f"SET lock_timeout = '{_WAIT}'")
        # As long as this session lasts: two runs at a time would fill in rows twice.
        self._db.execute("SELECT pg_advisory_lock(%s, %s)", (0x6E66, self._table.oid & 0x7FFFFFFF))
        if self._value("SELECT to_regclass(%s) IS NULL", self._target):
            with self._db.transaction():
                self._db.execute(
                    f"CREATE TABLE {self._target} ({self._key} {self._table.id_type} NOT NULL, "
                    f"folded {self._type}({self.n_components}) NOT NULL)"
                )
                self._comment(note)
        if isinstance(self._fold, Encoder):
            self._db.execute(fold_sql(self._fold, self._function, schema=self._table.schema))

    def _comment(self, note: Note) -> None:
        text = note.dumps().replace("'", "''")
        self._db.execute(f"COMMENT ON TABLE {self._target} IS '{text}'")

    def fill(self, fold: FoldRows, advance: Advance) -> int:
        """Write by COPY, in transactions of many rows."""
        # Results travel on one connection while vectors come on another.
        with (
            type(self._db).connect(self._where, autocommit=True, application_name="nearfold") as reading,
            reading.cursor().copy(
                f"COPY (SELECT s.{self._key}, s.{self._column}::vector {self._missing}) "
                f"TO STDOUT (FORMAT binary)"
            ) as source,
        ):
            folded = in_order(lambda rows: self._packed(rows, fold), batches(source, _BATCH_BYTES), 2)
            done = 0
            for group in _groups(folded, max(1, _COMMIT_BYTES // _BATCH_BYTES)):
                copied = 0
                with self._db.cursor().copy(f"COPY {self._target} FROM STDIN (FORMAT binary)") as copy:
                    copy.write(HEADER)
                    for rows, content in group:
                        copy.write(content)
                        copied += rows
                        advance(rows)
                    copy.write(TRAILER)
                done += copied
        return done

    def _packed(self, batch: Batch, fold: FoldRows) -> tuple[int, bytes]:
        rows = unpack(batch, self._fold.n_features, self._table.id_bytes, self._table.name)
        return batch.rows, pack(Rows(rows.ids, fold(rows.vectors)))

    def finish(self, *, index: bool) -> None:
        """Remove orphans; add primary key and HNSW index."""
        self._db.execute(f"DELETE {self._orphans}")
        if not self._value(
            "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass(%s) AND indisprimary)",
            self._target,
        ):
            self._db.execute(f"ALTER TABLE {self._target} ADD PRIMARY KEY ({self._key})")
        indexed = self._value(
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
            "AND a.attnum = i.indkey[0] WHERE i.indrelid = to_regclass(%s) AND a.attname = 'folded')",
            self._target,
        )
        if index and not indexed:
            most = _INDEXED[self._type]
            if self.n_components > most:
                raise DatabaseError(
                    f"{self._target}: an HNSW index of {self._type} takes {most} dimensions; fold to fewer, "
                    f"or use --no-index"
                )
            self._db.execute(f"CREATE INDEX ON {self._target} USING hnsw (folded {self._type}_{self._ops})")
        self._db.execute(f"ANALYZE {self._target}")

    def gaps(self) -> tuple[int, int]:
        """Count by anti-joins."""
        doubled = self._value(f"SELECT count(*) - count(DISTINCT {self._key}) FROM {self._target}")
        orphans = self._value(f"SELECT count(*) {self._orphans}")
        return self._value(f"SELECT count(*) {self._missing}"), doubled + orphans

    def sample(self, count: int, seed: int) -> Sample:
        """Return the rows whose hashes are lowest."""
        rows = self._db.execute(
            f"SELECT s.{self._column}::vector::text, f.folded::text FROM {self._table.sql} s "
            f"JOIN {self._target} f USING ({self._key}) "
            f"ORDER BY hashtextextended(s.{self._key}::text, %s) LIMIT %s",
            (seed, count),
        ).fetchall()
        vectors, folded = zip(*rows, strict=True) if rows else ((), ())
        return Sample(_parsed(vectors, self._fold.n_features), _parsed(folded, self.n_components))

    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Scan the table."""
        distance = f"{self._column} {self._operator} %(asked)s::vector"
        with self._db.transaction():
            self._db.execute("SET LOCAL enable_indexscan = off")
            rows = self._db.execute(
                f"SELECT {distance} FROM {self._table.sql} WHERE {self._column} IS NOT NULL "
                f"ORDER BY {distance} LIMIT {k}",
                {"asked": str(vector.tolist())},
            ).fetchall()
        return np.array([row[0] for row in rows])

    def two_stage(self, vector: Float32, folded: Float32, k: int, depth: int) -> npt.NDArray[np.float64]:
        """Run the query of `recipe`."""
        distance = f"s.{self._column} {self._operator} %(asked)s::vector"
        with self._db.transaction():
            self._db.execute(f"SET LOCAL hnsw.ef_search = {_width(depth)}")
            rows = self._db.execute(
                self._search(k, depth, "%(asked)s", "%(folded)s", distance, f"s.{self._column}"),
                {"asked": str(vector.tolist()), "folded": str(folded.tolist())},
            ).fetchall()
        return np.array([row[0] for row in rows])

    def _search(self, k: int, depth: int, asked: str, folded: str, result: str, column: str) -> str:
        if isinstance(self._fold, Encoder):
            folded = f"{quoted(self._table.schema)}.{quoted(self._function)}({asked}::vector)"
        small = f"{folded}::{self._type}({self.n_components})"
        return (
            f"WITH candidates AS MATERIALIZED (\n"
            f"    SELECT {self._key} FROM {self._target}\n"
            f"    ORDER BY folded {self._operator} {small} LIMIT {depth}\n"
            f")\n"
            f"SELECT {result} FROM candidates JOIN {self._table.sql} s USING ({self._key})\n"
            f"ORDER BY {column} {self._operator} {asked}::vector LIMIT {k}"
        )

    def mark(self, note: Note) -> None:
        """Replace the comment on the table."""
        self._comment(note)

    def recipe(self, k: int, depth: int) -> str:
        """Return SQL: the query, and a trigger that keeps folds in step."""
        given = "a query vector" + ("" if isinstance(self._fold, Encoder) else ", $2 its fold")
        text = (
            f"-- Once a session, so that the index finds as many candidates as are asked for:\n"
            f"SET hnsw.ef_search = {_width(depth)};\n"
            f"-- $1 is {given}:\n"
            f"{self._search(k, depth, '$1', '$2::vector', f's.{self._key}', f's.{self._column}')};\n"
        )
        return text + (self._follow() if isinstance(self._fold, Encoder) else "")

    def _follow(self) -> str:
        """Return what keeps folds in step with vectors that come, change and go."""
        schema, source = quoted(self._table.schema), self._table.sql
        trigger = f"{schema}.{quoted(f'{self._function}_follow')}"
        fold = f"{schema}.{quoted(self._function)}(NEW.{self._column}::vector)"
        return f"""
-- To keep folded vectors in step with {self._table.name} from now on (else run migrate again):
CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS $follow$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM {self._target} WHERE {self._key} = OLD.{self._key};
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.{self._column} IS NOT NULL THEN
        INSERT INTO {self._target} VALUES (NEW.{self._key}, {fold});
    END IF;
    RETURN NULL;
END $follow$;
CREATE TRIGGER {quoted(f"{self._function}_follow")}
AFTER INSERT OR DELETE OR UPDATE OF {self._key}, {self._column} ON {source}
FOR EACH ROW EXECUTE FUNCTION {trigger}();
"""


def _width(depth: int) -> int:
    """Return pgvector's ef_search for so many candidates; it takes at most 1,000."""
    return min(1000, max(40, 2 * depth))


def _groups(items: Iterator[Any], count: int) -> Iterator[Iterator[Any]]:
    """Yield iterators over `count` items each."""
    for first in items:

        def group(item: Any = first) -> Iterator[Any]:
            yield item
            for _ in range(count - 1):
                following = next(items, None)
                if following is None:
                    return
                yield following

        yield group()


def _parsed(texts: tuple[str, ...], width: int) -> Float32:
    rows = [np.fromstring(text.strip("[]"), np.float32, sep=",") for text in texts]
    return np.stack(rows) if rows else np.empty((0, width), np.float32)
