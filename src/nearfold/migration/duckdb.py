"""DuckDB: a table of folded vectors beside the table of full ones, in the same file.

Its own vector index needs an extension that is downloaded when first used, so both stages scan; folded
vectors are the fewer bytes to scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, chunk_rows
from nearfold.errors import DatabaseError
from nearfold.export.sql import quoted
from nearfold.extras import import_extra
from nearfold.fold import Fold
from nearfold.migration.base import Advance, FoldRows, Note, Sample, Store, Survey, chosen_column

__all__ = ["NAMED", "SCHEMES", "DuckStore", "open_store"]

SCHEMES = ("duckdb",)
NAMED = "duckdb:FILE"

_FUNCTIONS: dict[Metric, str] = {
    "cosine": "array_cosine_distance",
    "l2": "array_distance",
    "ip": "array_negative_inner_product",
}
_BATCH_BYTES = 16 << 20


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
    try:
        db = duckdb.connect(where)
        columns = db.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [table]
        ).fetchall()
    except duckdb.Error as error:
        raise DatabaseError(f"{where}: {error}") from error
    widths = {
        each: int(kind.removeprefix("FLOAT[")[:-1])
        for each, kind in columns
        if kind.startswith("FLOAT[") and kind != "FLOAT[]"
    }
    chosen = chosen_column(list(widths), column, table)
    kinds = dict(columns)
    if key is None or key not in kinds:
        raise DatabaseError(f"{table}: name the column that tells rows apart with --id: {', '.join(kinds)}")
    return DuckStore(db, fold, table, chosen, widths[chosen], key, kinds[key], name or f"{table}_folded")


class DuckStore(Store):
    """A table of folded vectors beside a table of full ones; parameters as `open_store` found them."""

    def __init__(
        self, db: Any, fold: Fold, table: str, column: str, width: int, key: str, kind: str, name: str
    ) -> None:
        super().__init__(fold, "float32")
        self._db, self._width = db, width
        self._table, self._name, self._kind = table, name, kind
        self._source, self._target = quoted(table), quoted(name)
        self._key, self._column = quoted(key), quoted(column)
        self.failures = (import_extra("duckdb", "duckdb", "migrating in DuckDB").Error,)
        self._distance = _FUNCTIONS[self.metric]
        self._missing = (
            f"FROM {self._source} s WHERE s.{self._column} IS NOT NULL AND NOT EXISTS "
            f"(SELECT 1 FROM {self._target} f WHERE f.{self._key} = s.{self._key})"
        )
        self._orphans = (
            f"FROM {self._target} f WHERE NOT EXISTS (SELECT 1 FROM {self._source} s "
            f"WHERE s.{self._key} = f.{self._key} AND s.{self._column} IS NOT NULL)"
        )

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._db.execute(sql, list(parameters)).fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def survey(self) -> Survey:
        """Look at what is there."""
        rows = self._value(f"SELECT count({self._column}) FROM {self._source}")
        found = self._db.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = ?", [self._name]
        ).fetchone()
        note = None if found is None else Note.loads(found[0], f"table {self._name}")
        folded = 0 if found is None else self._value(f"SELECT count(*) FROM {self._target}")
        made = f"table {self._name} ({self._kind}, FLOAT[{self.n_components}])"
        return Survey(self._table, self._name, rows, folded, self._width, note, [made])

    def prepare(self, note: Note) -> None:
        """Make the table, and its note with it."""
        self._db.execute("BEGIN")
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {self._target} "
            f"({self._key} {self._kind} PRIMARY KEY, folded FLOAT[{self.n_components}] NOT NULL)"
        )
        self.mark(note)
        self._db.execute("COMMIT")

    def fill(self, fold: FoldRows, advance: Advance) -> int:
        """Insert batch by batch, each by one statement."""
        import pyarrow as pa

        from nearfold.io.lists import fixed_lists, matrix_of

        rows, done = chunk_rows(self._width, _BATCH_BYTES), 0
        while True:
            sql = f"SELECT s.{self._key} AS id, s.{self._column} AS vector {self._missing} LIMIT {rows}"
            found = self._db.execute(sql).to_arrow_table()
            if not len(found):
                return done
            lists = found["vector"].combine_chunks()
            vectors = matrix_of(self._table, lists, self._width, 0).astype(np.float32)
            batch = pa.table({"id": found["id"], "folded": fixed_lists(fold(vectors))})
            self._db.register("nearfold_batch", batch)
            self._db.execute(f"INSERT INTO {self._target} SELECT id, folded FROM nearfold_batch")
            self._db.unregister("nearfold_batch")
            advance(len(batch))
            done += len(batch)

    def finish(self, *, index: bool) -> None:  # noqa: ARG002
        """Remove orphans; there is no index to build."""
        self._db.execute(f"DELETE {self._orphans}")

    def gaps(self) -> tuple[int, int]:
        """Count: the primary key lets nothing be doubled."""
        return self._value(f"SELECT count(*) {self._missing}"), self._value(
            f"SELECT count(*) {self._orphans}"
        )

    def sample(self, count: int, seed: int) -> Sample:
        """Return the rows whose hashes are lowest."""
        rows = self._db.execute(
            f"SELECT s.{self._column}, f.folded FROM {self._source} s "
            f"JOIN {self._target} f USING ({self._key}) "
            f"ORDER BY hash(concat(s.{self._key}, ?)) LIMIT {count}",
            [str(seed)],
        ).fetchall()
        full, folded = (np.array(side, np.float32) for side in zip(*rows, strict=True))
        return Sample(full, folded)

    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Scan the full vectors."""
        distance = f"{self._distance}({self._column}, ?::FLOAT[{self._width}])"
        rows = self._db.execute(
            f"SELECT {distance} AS distance FROM {self._source} ORDER BY distance LIMIT {k}",
            [vector.tolist()],
        ).fetchall()
        return np.array([row[0] for row in rows])

    def two_stage(self, vector: Float32, folded: Float32, k: int, depth: int) -> npt.NDArray[np.float64]:
        """Run the query of `recipe`."""
        sql = self._search(k, depth, "distance")
        rows = self._db.execute(sql, [folded.tolist(), vector.tolist()]).fetchall()
        return np.array([row[0] for row in rows])

    def _search(self, k: int, depth: int, result: str) -> str:
        distance = f"{self._distance}(s.{self._column}, ?::FLOAT[{self._width}])"
        return (
            f"WITH candidates AS (\n"
            f"    SELECT {self._key} FROM {self._target}\n"
            f"    ORDER BY {self._distance}(folded, ?::FLOAT[{self.n_components}]) LIMIT {depth}\n"
            f")\n"
            f"SELECT {result} FROM (\n"
            f"    SELECT s.{self._key}, {distance} AS distance\n"
            f"    FROM candidates JOIN {self._source} s USING ({self._key})\n"
            f") ORDER BY distance LIMIT {k}"
        )

    def mark(self, note: Note) -> None:
        """Replace the comment on the table."""
        text = note.dumps().replace("'", "''")
        self._db.execute(f"COMMENT ON TABLE {self._target} IS '{text}'")

    def recipe(self, k: int, depth: int) -> str:
        """Return SQL, whose parameters are a query's fold and the query."""
        return f"{self._search(k, depth, self._key)};\n"
