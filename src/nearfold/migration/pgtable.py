"""The table of full vectors, as PostgreSQL's catalog knows it."""

from __future__ import annotations

from typing import Any, NamedTuple

from nearfold.errors import DatabaseError
from nearfold.export.sql import quoted
from nearfold.migration.base import chosen_column

__all__ = ["Table", "find_table"]


class Table(NamedTuple):
    """A table with a column of vectors, and a column that tells its rows apart.

    Parameters
    ----------
    oid, schema, name
        Of the table.
    id, id_type, id_bytes
        The column that tells rows apart, its type, and the length of its binary form, None where that varies.
    column, width
        Of the vectors, and their dimensions, None where the type doesn't say.
    """

    oid: int
    schema: str
    name: str
    id: str
    id_type: str
    id_bytes: int | None
    column: str
    width: int | None

    @property
    def sql(self) -> str:
        """The name as SQL has it."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def find_table(connection: Any, table: str, column: str | None, key: str | None) -> Table:
    """Return a table by its name as in SQL; `column` and `key` as for `open_store`.

    Raises
    ------
    DatabaseError
        It is missing, or it isn't clear which column holds the vectors, or none tells rows apart.
    """
    found = connection.execute(
        "SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(%s)",
        (table,),
    ).fetchone()
    if found is None:
        raise DatabaseError(f"{table}: no such table; name it as in SQL, with its schema if need be")
    oid, schema, name = found
    columns = connection.execute(
        "SELECT attname, atttypmod FROM pg_attribute WHERE attrelid = %s AND attnum > 0 "
        "AND NOT attisdropped AND atttypid::regtype::text IN ('vector', 'halfvec') ORDER BY attnum",
        (oid,),
    ).fetchall()
    widths = dict(columns)
    column = chosen_column(list(widths), column, table)
    keys = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typlen FROM pg_index i "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE i.indrelid = %s AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL "
        "AND a.attnotnull ORDER BY i.indisprimary DESC",
        (oid,),
    ).fetchall()
    fitting = [entry for entry in keys if key in (None, entry[0])]
    if not fitting:
        raise DatabaseError(
            f"{table}: {'no column' if key is None else key} tells rows apart (NOT NULL, with a unique index "
            f"of its own); choose one with --id"
        )
    key, key_type, key_bytes = fitting[0]
    width = widths[column]
    return Table(
        oid,
        schema,
        name,
        key,
        key_type,
        key_bytes if key_bytes > 0 else None,
        column,
        width if width > 0 else None,
    )
