"""The databases by the beginning of what names them."""

from __future__ import annotations

import importlib

from nearfold.errors import ParameterError
from nearfold.fold import Fold
from nearfold.migration.base import Store

__all__ = ["DATABASES", "open_store"]

# By scheme: the module of this package, imported when first needed.
DATABASES = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "lancedb": "lancedb",
    "qdrant": "qdrant",
}

# Those whose connection strings are URLs; before others the scheme is ours.
_URLS = ("postgresql", "postgres")


def open_store(
    where: str,
    fold: Fold,
    *,
    table: str,
    column: str | None = None,
    key: str | None = None,
    name: str | None = None,
    dtype: str = "float16",
) -> Store:
    """Open the database that holds full vectors.

    Parameters
    ----------
    where
        postgresql://..., lancedb:FOLDER or qdrant:FOLDER.
    fold
        Whose results go in.
    table
        That holds the vectors; of Qdrant the shard's folder below FOLDER.
    column
        Of the vectors; None where there is only one such.
    key
        The column that tells rows apart; None for the primary key.
    name
        Of what is made: a table, a column or a shard.
    dtype
        Of folded vectors, "float16" or "float32".

    Raises
    ------
    ParameterError
        The scheme or dtype is unknown.
    DatabaseError
        The database can't be reached, or doesn't hold what was asked for.
    MissingExtraError
        Its driver is not installed; the message names the extra.
    """
    scheme, colon, rest = where.partition(":")
    if not colon or scheme not in DATABASES:
        raise ParameterError(
            f"{where!r} names no database; use postgresql://USER@HOST/NAME, lancedb:FOLDER or qdrant:FOLDER"
        )
    if dtype not in ("float16", "float32"):
        raise ParameterError(f"dtype={dtype!r} must be float16 or float32")
    module = importlib.import_module(f"nearfold.migration.{DATABASES[scheme]}")
    store: Store = module.open_store(
        where if scheme in _URLS else rest, fold, table=table, column=column, key=key, name=name, dtype=dtype
    )
    return store
