"""PostgreSQL with pgvector: a table of folded vectors beside the table of full ones.

The table of full vectors is only read. An UPDATE that added a column to it would write each full vector
anew; a table beside is filled by COPY. Beside each fold stands a digest of its vector, by which the server
tells which vectors changed, without sending them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Metric
from nearfold._utils.extras import import_extra
from nearfold._utils.threads import in_order
from nearfold.errors import DatabaseError, DataError
from nearfold.folds.encoder import Encoder
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
    key_taken,
)
from nearfold.integrations.databases.pgcopy import HEADER, TRAILER, Batch, batches, pack, unpack
from nearfold.integrations.databases.pgtable import Table, find_table
from nearfold.integrations.sql import check_name, dollar_quoted, fold_body, fold_statements
from nearfold.io.lists import first_line

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
# What the whole session relies on: backslashes are plain, and rows that a policy hides are an error, for
# their folds would look as if their vectors were gone.
_SESSION = "SET standard_conforming_strings = on; SET row_security = off"
# The greatest float32.
_MOST = float(np.finfo(np.float32).max)
# Parts of statements by their names in others, each behind those that it holds: 16 bytes of a vector, by
# which the server sees later whether it changed; the FROM clause of vectors that changed since they were
# folded; how far a vector is from a query.
_PARTS = PARTS | {
    "fresh": "substr(sha256(vector_send(s.{column}::vector)), 1, 16)",
    "stale": "FROM {source} s JOIN {target} f ON f.{key} = s.{key} "
    "WHERE s.{column} IS NOT NULL AND f.digest IS DISTINCT FROM {fresh}",
    "distance": "{full} {operator} $1::vector",
}
# The fold stands in a subquery, so that it is computed once, before the index is asked, and not for each row.
_SEARCH = """\
WITH candidates AS MATERIALIZED (
    SELECT {key} FROM {target}
    ORDER BY folded {operator} (SELECT {asked}::{type}) LIMIT {n_candidates}
)
SELECT {result} FROM candidates JOIN {source} s USING ({key})
ORDER BY {distance} LIMIT {k}"""
# What keeps folds in step with vectors that come, change and go.
_FOLLOW = """
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM {target} WHERE {key} = OLD.{key};
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.{column} IS NOT NULL THEN
        INSERT INTO {target} ({key}, folded, digest)
        VALUES (
            NEW.{key},
            {function}(NEW.{column}::vector),
            substr(sha256(vector_send(NEW.{column}::vector)), 1, 16)
        );
    END IF;
    RETURN NULL;
END """
_TRIGGER = """
-- To keep folded vectors in step with {told} from now on (else run migrate again):
CREATE FUNCTION {follow}() RETURNS trigger LANGUAGE plpgsql AS {body};
CREATE TRIGGER {trigger}
AFTER INSERT OR DELETE OR UPDATE OF {key}, {column} ON {source}
FOR EACH ROW EXECUTE FUNCTION {follow}();
"""


def open_store(
    where: str, fold: Fold, *, table: str, column: str | None, key: str | None, name: str | None, dtype: str
) -> PostgresStore:
    """Connect to a server.

    Parameters
    ----------
    where : str
        A connection string, postgresql://...
    fold : Fold
        The fold whose results are stored.
    table, column, key, name, dtype
        As for `stores.open_store`.

    Returns
    -------
    PostgresStore

    Raises
    ------
    DatabaseError
        The server can't be reached, or the table or column is missing or unfit.
    MissingExtraError
        psycopg is not installed.
    """
    psycopg = import_extra("psycopg", "pgvector", "migrating in PostgreSQL")
    connection = _connected(where)
    try:
        connection.execute(_SESSION)
        found = find_table(connection, table, column, key)
        named = f"{found.name}_folded" if name is None else name
        return PostgresStore(connection, where, fold, found, named, dtype)
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise DatabaseError(f"{table}: {first_line(error)}") from error
        raise


def _connected(where: str) -> Any:
    """Connect, with parameters as the server numbers them, so that a percent sign in a name means nothing.

    What the client library says of a string that it can't read may repeat its password, so the error says it
    in other words.
    """
    psycopg = import_extra("psycopg", "pgvector", "migrating in PostgreSQL")
    try:
        known = psycopg.conninfo.conninfo_to_dict(where)
    except psycopg.Error:
        known = {}
    if not known or "@" in str(known.get("host", "")):
        raise DatabaseError(
            f"the database's URL can't be read; write {NAMED}, with @ : / ? # and % in a user's name or "
            "password as %40 %3A %2F %3F %23 and %25"
        )
    try:
        return psycopg.connect(
            where, autocommit=True, application_name="nearfold", cursor_factory=psycopg.RawCursor
        )
    except psycopg.Error as error:
        said = first_line(error)
        password = str(known.get("password") or "")
        said = said.replace(password, "***") if password else said
        raise DatabaseError(f"can't connect to PostgreSQL: {said}") from None


class PostgresStore(SqlStore):
    """A table of folded vectors beside a table of full ones, in PostgreSQL with pgvector.

    Parameters
    ----------
    connection : psycopg.Connection
        An open connection in autocommit mode, with raw cursors. `close` closes it.
    where : str
        The connection string, by which a second connection is opened.
    fold : Fold
        The fold whose results are stored.
    table : Table
        The table of full vectors.
    name : str
        The name of the new table, which goes into the same schema.
    dtype : {"float16", "float32"}
        The type of the folded vectors: halfvec or vector.

    Raises
    ------
    ParameterError
        A name is too long for PostgreSQL.
    DatabaseError
        The id has the name of another column of the folded table.
    """

    def __init__(self, connection: Any, where: str, fold: Fold, table: Table, name: str, dtype: str) -> None:
        super().__init__(fold, dtype)
        psycopg = import_extra("psycopg", "pgvector", "migrating in PostgreSQL")
        self.failures = (psycopg.Error,)
        self._sql = import_extra("psycopg.sql", "pgvector", "migrating in PostgreSQL")
        self._db = connection
        self._where = where
        self._table = table
        self._name = name
        self._type = _TYPES[dtype]
        self._linear = fold if isinstance(fold, Encoder) else None
        self._function = f"fold_{name.removesuffix('_folded')}"
        check_name(name)
        if self._linear is not None:
            # The longest name of those that are made: refused before anything is.
            check_name(f"{self._function}_weights")
        if table.id in (FOLDED, DIGEST):
            raise key_taken(table.name, table.id)
        operator, self._ops = _OPERATORS[self.metric]
        named, plain = self._sql.Identifier, self._sql.SQL
        self._names: dict[str, Any] = {
            "source": named(table.schema, table.name),
            "target": named(table.schema, name),
            "function": named(table.schema, self._function),
            "weights": named(table.schema, f"{self._function}_weights"),
            "key": named(table.id),
            "column": named(table.column),
            "full": plain("s.{}::vector" if table.is_array else "s.{}").format(named(table.column)),
            "type": plain(f"{self._type}({self.n_components})"),
            "operator": plain(operator),
        }
        for each, part in _PARTS.items():
            self._names[each] = self._composed(part)
        self._target = self._text("{target}")
        self._at = f"table {self._target}"
        self.source_mark = self._text("{}.{} by {}", named(table.name), named(table.column), named(table.id))
        self.target_mark = name
        self._mark_of_function = self._text("nearfold for {}: folds {}", named(name), plain(self.source_mark))

    def close(self) -> None:
        """End the session, and with it the lock."""
        self._db.close()

    def _composed(self, sql: str, *parts: Any, **others: Any) -> Any:
        """Return SQL with names and parts of statements put in; any other value becomes a literal."""
        return self._sql.SQL(sql).format(*parts, **self._names, **others)

    def _text(self, sql: str, *parts: Any, **others: Any) -> str:
        """Return the same as text."""
        text: str = self._composed(sql, *parts, **others).as_string(self._db)
        return text

    def _run(self, sql: str, *parameters: Any, **others: Any) -> Any:
        """Execute a statement, with names put in, and return its cursor."""
        return self._db.execute(self._composed(sql, **others), parameters or None)

    def _transaction(self) -> AbstractContextManager[Any]:
        transaction: AbstractContextManager[Any] = self._db.transaction()
        return transaction

    def survey(self) -> Survey:
        """Look at what the catalog holds."""
        table = self._table
        rows = self._value("SELECT count({column}) FROM {source}")
        if table.heirs:
            self._check_heirs()
        note = self._found()
        if self._linear is not None:
            self._function_there(self._linear, note)
        m = self.n_components
        makes = [f"table {self._target} ({table.id} {table.id_type}, folded {self._type}({m}))"]
        if self._linear is not None:
            makes.append(f"function {self._function}(vector), and its table of weights")
        older = note is not None and not self._has_digests()
        return Survey(
            f"{table.schema}.{table.name}.{table.column}",
            f"{table.schema}.{self._name}",
            rows,
            self._value("SELECT count(*) FROM {target}") if note is not None else 0,
            table.width or self._measured(),
            note,
            makes,
            f"table {self._target} {OLDER}" if older else None,
        )

    def _measured(self) -> int:
        """Return the dimensions of all vectors of a column whose type tells none."""
        wanted = self._fold.n_features
        if self._table.is_array:
            self._check_arrays()
        odd = self._run(
            "SELECT s.{key}::text, vector_dims({full}::vector) FROM {source} s "
            "WHERE vector_dims({full}::vector) <> $1 LIMIT 1",
            wanted,
        ).fetchone()
        if odd is not None:
            raise DataError(
                f"{self._table.name}: the vector of {odd[0]!r} has {odd[1]} dimensions, the encoder takes "
                f"{wanted}; use the vectors it was fitted for"
            )
        return wanted

    def _check_arrays(self) -> None:
        """Refuse arrays that are no vectors: pgvector would, without saying which row's."""
        odd = self._run(
            "SELECT s.{key}::text FROM {source} s WHERE s.{column} IS NOT NULL AND "
            "(array_ndims(s.{column}) IS DISTINCT FROM 1 OR array_position(s.{column}, NULL) IS NOT NULL OR "
            # NaN is greater than any number here.
            "EXISTS (SELECT FROM unnest(s.{column}) x WHERE abs(x::float8) > {most})) LIMIT 1",
            most=_MOST,
        ).fetchone()
        if odd is not None:
            raise DataError(
                f"{self._table.name}: the array of {odd[0]!r} is no vector: it is empty, has a null, NaN, "
                "inf or a number beyond float32 in it, or several dimensions; mend or remove it"
            )

    def _check_heirs(self) -> None:
        doubled = self._run(
            "SELECT {key}::text FROM {source} GROUP BY {key} HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if doubled is not None:
            raise DatabaseError(
                f"{self._table.name}: {self._table.id} {doubled[0]!r} is there twice, among the tables that "
                "inherit from it; migrate each of them by itself"
            )

    def _found(self) -> Note | None:
        """Return the note of the table, if there is one; refuse anything else of its name."""
        found = self._run(
            "SELECT c.relkind::text, obj_description(c.oid, 'pg_class') FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            self._table.schema,
            self._name,
        ).fetchone()
        where = self._at
        if found is None:
            if self._value(
                "SELECT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace "
                # Not the row type of a table that another run has made since.
                "WHERE n.nspname = $1 AND t.typname = $2 AND (t.typrelid = 0 OR "
                "(SELECT c.relkind FROM pg_class c WHERE c.oid = t.typrelid) = 'c'))",
                self._table.schema,
                self._name,
            ):
                raise DatabaseError(f"{where}: a type has that name already; choose another --name")
            return None
        kind, text = found
        note = Note.loads(text if kind == "r" else None, where)
        wanted = {
            self._table.id: None,
            FOLDED: f"{_TYPES.get(note.dtype)}({note.n_components})",
            DIGEST: "bytea",
        }
        kinds = {each: of if each != self._table.id else None for each, of in self._columns().items()}
        check_columns(note, kinds, wanted, where)
        return note

    def _columns(self) -> dict[str, str]:
        """Return the columns of the folded table, and their types without a schema."""
        rows = self._run(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            self._target,
        ).fetchall()
        return {name: kind.rpartition(".")[2] for name, kind in rows}

    def _has_digests(self) -> bool:
        return DIGEST in self._columns()

    def _function_there(self, encoder: Encoder, note: Note | None) -> bool:
        """Return whether the function is there, and does what it should.

        A function or table of weights of that name is refused unless it bears the mark of this very
        migration, or, from a version that put no marks there, holds what would be written anew.
        """
        schema = self._table.schema
        mark = self._mark_of_function
        # By one statement: another run may make them meanwhile.
        body, said, has_weights, marked, like = self._run(
            "SELECT (SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure($1)), "
            "obj_description(to_regprocedure($1), 'pg_proc'), "
            "to_regclass($2) IS NOT NULL, obj_description(to_regclass($2), 'pg_class'), "
            "EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = $3 AND p.proname = $4 AND p.oid IS DISTINCT FROM to_regprocedure($1))",
            self._text("{function}(vector)"),
            self._text("{weights}"),
            schema,
            self._function,
        ).fetchone()
        wanted = fold_body(self._function, encoder.n_components, schema=schema)
        if body is None and not has_weights and not like:
            return False
        if body in (None, wanted) and {said, marked} <= {None, mark} and mark in (said, marked):
            if body is not None and has_weights and said == marked:
                return self._holds(encoder)
            if (body is None or said == mark) and (not has_weights or marked == mark):
                return False
        if (
            note is not None
            and note.source is None
            and body == wanted
            and has_weights
            and said is None
            and marked is None
            and self._holds(encoder)
        ):
            return True
        raise DatabaseError(
            f"{schema}.{self._function}: such a function, or its table of weights, is there already; choose "
            "another --name"
        )

    def _holds(self, encoder: Encoder) -> bool:
        """Return whether the table of weights holds an encoder's."""
        try:
            rows = self._run("SELECT weight::text, bias FROM {weights} ORDER BY axis").fetchall()
        except self.failures:
            return False
        bias = np.zeros(len(encoder.weight)) if encoder.bias is None else encoder.bias
        found = _parsed(tuple(row[0] for row in rows), encoder.n_features)
        return np.array_equal(found, encoder.weight) and np.allclose([row[1] for row in rows], bias, atol=0)

    def prepare(self, note: Note) -> None:
        """Take the lock; make table and function."""
        self._note = note
        self._db.execute(f"SET lock_timeout = '{_WAIT}'")
        # As long as this session lasts: two runs at a time would fill in rows twice.
        self._db.execute("SELECT pg_advisory_lock($1::int, hashtext($2))", (0x6E66, self._target))
        with self._db.transaction():
            found = self._found()
            if found is None:
                self._run(
                    "CREATE TABLE {target} ({key} {kind} NOT NULL, folded {type} NOT NULL, digest bytea)",
                    kind=self._sql.SQL(self._table.id_type),
                )
            else:
                self._hold()
                self._check_ours(found, self._at)
                if not self._has_digests():
                    self._run("ALTER TABLE {target} ADD COLUMN digest bytea")
            if self._linear is not None:
                self._make_function(self._linear, found)
            # Last, for it says that all of this is there.
            self._comment(note)

    def _make_function(self, encoder: Encoder, note: Note | None) -> None:
        mark = self._mark_of_function
        if not self._function_there(encoder, note):
            self._db.execute(fold_statements(encoder, self._function, mark, schema=self._table.schema))
            return
        self._run(
            "COMMENT ON FUNCTION {function}(vector) IS {mark}; COMMENT ON TABLE {weights} IS {mark}",
            mark=mark,
        )

    def _comment(self, note: Note) -> None:
        self._run("COMMENT ON TABLE {target} IS {note}", note=note.dumps())

    def _hold(self) -> None:
        """Hold the table as it is named."""
        self._run("LOCK TABLE {target} IN ROW EXCLUSIVE MODE")

    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Write by COPY, in transactions of many rows."""
        written = sum(self._folded("missing", fold, advance, "{target}"))
        if not self._value("SELECT EXISTS (SELECT {stale})"):
            return Filled(written, 0)
        self._run("CREATE TEMP TABLE IF NOT EXISTS nearfold_changed AS SELECT * FROM {target} LIMIT 0")
        replace = (
            "UPDATE {target} f SET folded = c.folded, digest = c.digest FROM pg_temp.nearfold_changed c "
            "WHERE f.{key} = c.{key}; TRUNCATE pg_temp.nearfold_changed"
        )
        # Rows done are not those that were counted as to be folded.
        changed = self._folded("stale", fold, lambda _rows: None, "pg_temp.nearfold_changed", replace)
        return Filled(written, sum(changed))

    def _folded(
        self, which: str, fold: FoldRows, advance: Advance, into: str, then: str | None = None
    ) -> Iterator[int]:
        """Fold the vectors that are missing or stale, and yield how many each transaction wrote."""
        query = self._composed(
            f"COPY (SELECT s.{{key}}, {{full}}::vector, {{fresh}} {{{which}}}) TO STDOUT (FORMAT binary)"
        )
        # Results travel on one connection while vectors come on another.
        with _connected(self._where) as reading:
            reading.execute(_SESSION)
            with reading.cursor().copy(query) as rows:
                folded = in_order(lambda batch: self._packed(batch, fold), batches(rows, _BATCH_BYTES), 2)
                for group in _groups(folded, max(1, _COMMIT_BYTES // _BATCH_BYTES)):
                    with self._claimed():
                        done = self._copied(group, advance, into)
                        if then is not None:
                            self._run(then)
                    yield done

    def _copied(self, group: Iterator[tuple[int, bytes]], advance: Advance, into: str) -> int:
        copied = 0
        query = self._composed(f"COPY {into} ({{key}}, folded, digest) FROM STDIN (FORMAT binary)")
        with self._db.cursor().copy(query) as copy:
            copy.write(HEADER)
            for rows, content in group:
                copy.write(content)
                copied += rows
                advance(rows)
            copy.write(TRAILER)
        return copied

    def _packed(self, batch: Batch, fold: FoldRows) -> tuple[int, bytes]:
        rows = unpack(batch, self._fold.n_features, self._table.id_bytes, self._table.name)
        return batch.rows, pack(rows._replace(vectors=fold(rows.vectors)))

    def finish(self, *, index: bool) -> int:
        """Remove orphans that have a digest, so were written here; add primary key and HNSW index."""
        with self._claimed():
            removed = self._run("DELETE {orphans} AND f.digest IS NOT NULL").rowcount
            if not self._value(
                "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass($1) AND indisprimary)",
                self._target,
            ):
                self._run("ALTER TABLE {target} ADD PRIMARY KEY ({key})")
        if index and not self._indexed():
            most = _INDEXED[self._type]
            if self.n_components > most:
                raise DatabaseError(
                    f"{self._target}: an HNSW index of {self._type} takes {most} dimensions; fold to fewer, "
                    f"or use --no-index"
                )
            with self._claimed():
                operators = self._sql.SQL(f"{self._type}_{self._ops}")
                self._run("CREATE INDEX ON {target} USING hnsw (folded {operators})", operators=operators)
        self._run("ANALYZE {target}")
        return int(removed)

    def _indexed(self) -> bool:
        """Return whether an index answers searches of folds by the metric."""
        return bool(
            self._value(
                "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
                "AND a.attnum = i.indkey[0] JOIN pg_opclass o ON o.oid = i.indclass[0] "
                "WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND "
                "a.attname = $2 "
                "AND o.opcname = $3)",
                self._target,
                FOLDED,
                f"{self._type}_{self._ops}",
            )
        )

    def gaps(self) -> tuple[int, int]:
        """Count by anti-joins, and folds that are doubled: before the index nothing keeps them from it."""
        missing, orphans = super().gaps()
        return missing, orphans + self._value("SELECT count(*) - count(DISTINCT {key}) FROM {target}")

    def sample(self, count: int, seed: int) -> Sample:
        """Return the rows whose hashes are lowest."""
        rows = self._run(
            "SELECT {full}::vector::text, f.folded::text FROM {source} s JOIN {target} f USING ({key}) "
            'WHERE s.{column} IS NOT NULL ORDER BY hashtextextended(s.{key}::text COLLATE "C", $1) LIMIT $2',
            seed,
            count,
        ).fetchall()
        vectors, folded = zip(*rows, strict=True) if rows else ((), ())
        return Sample(_parsed(vectors, self._fold.n_features), _parsed(folded, self.n_components))

    def exact(self, vector: Float32, k: int) -> Float64:
        """Scan the table."""
        with self._db.transaction():
            self._run("SET LOCAL enable_indexscan = off")
            rows = self._run(
                "SELECT {distance} FROM {source} s WHERE s.{column} IS NOT NULL "
                "ORDER BY {distance} LIMIT {k}",
                str(vector.tolist()),
                k=k,
            ).fetchall()
        return np.array([row[0] for row in rows])

    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Run the query of `recipe`."""
        given = [str(vector.tolist()), str(folded.tolist())][: 1 if self._linear is not None else 2]
        with self._db.transaction():
            self._run("SET LOCAL hnsw.ef_search = {width}", width=_width(n_candidates))
            rows = self._db.execute(self._search(k, n_candidates, "{distance}"), given).fetchall()
        return np.array([row[0] for row in rows])

    def _search(self, k: int, n_candidates: int, result: str) -> Any:
        asked = self._composed("$2::vector" if self._linear is None else "{function}($1::vector)")
        result = self._composed(result)
        return self._composed(_SEARCH, asked=asked, result=result, k=k, n_candidates=n_candidates)

    def recipe(self, k: int, n_candidates: int) -> str:
        """Return SQL: the query, and a trigger that keeps folds in step."""
        given = "a query vector" + (", $2 its fold" if self._linear is None else "")
        text = (
            f"-- Once a session, so that the index finds as many candidates as are asked for:\n"
            f"SET hnsw.ef_search = {_width(n_candidates)};\n"
            f"-- $1 is {given}:\n"
            f"{self._search(k, n_candidates, 's.{key}').as_string(self._db)};\n"
        )
        if self._linear is None:
            return text
        name = f"{self._function}_follow"
        return text + self._text(
            _TRIGGER,
            # A name may hold a line's end, which would end the comment.
            told=self._sql.SQL(" ".join(self._table.name.split())),
            body=self._sql.SQL(dollar_quoted(self._text(_FOLLOW), "follow")),
            follow=self._sql.Identifier(self._table.schema, name),
            trigger=self._sql.Identifier(name),
        )


def _width(n_candidates: int) -> int:
    """Return pgvector's ef_search for so many candidates; it takes at most 1,000."""
    return min(1000, max(40, 2 * n_candidates))


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
    """Return vectors, which pgvector writes as text, as float32 of shape (n, width)."""
    rows = [np.fromstring(text.strip("[]"), np.float32, sep=",") for text in texts]
    return np.stack(rows) if rows else np.empty((0, width), np.float32)
