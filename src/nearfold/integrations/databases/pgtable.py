"""The table of full vectors, as the catalog of PostgreSQL knows it."""

from __future__ import annotations

from typing import Any, NamedTuple

from nearfold.errors import DatabaseError
from nearfold.integrations.databases.base import chosen_column

__all__ = ["Table", "find_table"]

# Types that are read, and whether they have to be made pgvector's vector first.
_READ = {"vector": False, "halfvec": False, "real[]": True, "double precision[]": True}
# Types in which people keep vectors too.
_UNFIT = {
    "sparsevec": "sparse vectors; nearfold folds dense ones",
    "bit": "bits; nearfold folds the floats that they were made from",
    "bit varying": "bits; nearfold folds the floats that they were made from",
    "json": "text; make it a column of vector(n): ALTER TABLE ... ADD COLUMN, then SET it to "
    "json::text::vector",
    "jsonb": "text; make it a column of vector(n): ALTER TABLE ... ADD COLUMN, then SET it to "
    "jsonb::text::vector",
    "text": "text; make it a column of vector(n): ALTER TABLE ... ADD COLUMN, then SET it to text::vector",
    "bytea": "bytes; make it a column of vector(n)",
}
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


class Table(NamedTuple):
    """A table with a column of vectors, and a column that tells its rows apart.

    Attributes
    ----------
    oid : int
        The number of the table in the catalog.
    schema, name : str
        The schema of the table, and its name.
    id : str
        The column that tells rows apart.
    id_type : str
        The type of that column as SQL has it.
    id_bytes : int or None
        The length of an id in binary form; None where the length varies.
    column : str
        The column of the vectors.
    width : int or None
        The dimensions of the vectors; None where the type does not tell them.
    is_array : bool
        Whether the vectors are arrays of PostgreSQL's own.
    heirs : bool
        Whether other tables inherit from it. A unique index does not cover the rows of those.
    """

    oid: int
    schema: str
    name: str
    id: str
    id_type: str
    id_bytes: int | None
    column: str
    width: int | None
    is_array: bool
    heirs: bool


def find_table(connection: Any, table: str, column: str | None, key: str | None) -> Table:
    """Return a table of full vectors by its name as SQL has it.

    Parameters
    ----------
    connection : psycopg.Connection
        An open connection with raw cursors.
    table : str
        The name of the table, with its schema where that is not in the search path.
    column, key : str or None
        As for `open_store`.

    Returns
    -------
    Table

    Raises
    ------
    DatabaseError
        The table is missing, it is not clear which column holds the vectors, or no column tells rows apart.
    """
    found = connection.execute(
        "SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relkind = 'r' AND EXISTS "
        "(SELECT FROM pg_inherits WHERE inhparent = c.oid) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
        (table,),
    ).fetchone()
    if found is None:
        raise DatabaseError(f"{table}: no such table; name it as in SQL, with its schema if need be")
    oid, schema, name, kind, heirs = found
    columns = connection.execute(
        "SELECT attname, format_type(atttypid, NULL), atttypmod FROM pg_attribute "
        "WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (oid,),
    ).fetchall()
    # An extension's types have their schema before them where that is not in the search path.
    types = {each: of.rpartition(".")[2] for each, of, _ in columns}
    widths = {each: width for each, _, width in columns if types[each] in _READ}
    column = chosen_column(
        list(widths),
        column,
        table,
        {
            each: f"{of}: {_UNFIT.get(of) or 'arrays of another type than real and double precision'}"
            for each, of in types.items()
            if of in _UNFIT or (of.endswith("[]") and of not in _READ)
        },
    )
    keys = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typlen, "
        "CASE WHEN a.attcollation NOT IN (0, t.typcollation) "
        "THEN quote_ident(cn.nspname) || '.' || quote_ident(c.collname) END "
        "FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation "
        "LEFT JOIN pg_namespace cn ON cn.oid = c.collnamespace "
        "WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND "
        "i.indpred IS NULL "
        "AND a.attnotnull ORDER BY i.indisprimary DESC",
        (oid,),
    ).fetchall()
    fitting = [entry for entry in keys if key in (None, entry[0])]
    if not fitting:
        what = f" is {_KINDS[kind]}:" if kind in _KINDS else ""
        raise DatabaseError(
            f"{table}:{what} {'no column' if key is None else key} tells rows apart (NOT NULL, with a unique "
            "index of its own); choose one with --id"
        )
    key, key_type, key_bytes, collation = fitting[0]
    return Table(
        oid,
        schema,
        name,
        key,
        key_type if collation is None else f"{key_type} COLLATE {collation}",
        key_bytes if key_bytes > 0 else None,
        column,
        widths[column] if widths[column] > 0 else None,
        _READ[types[column]],
        heirs,
    )
