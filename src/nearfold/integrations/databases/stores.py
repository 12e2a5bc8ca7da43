"""The databases by the beginning of what names them."""

from __future__ import annotations

from nearfold.errors import ParameterError
from nearfold.errors.credentials import remember
from nearfold.folds.fold import Fold
from nearfold.integrations.databases import duckdb, lancedb, postgres, qdrant
from nearfold.integrations.databases.base import Store

__all__ = ["DATABASES", "open_store"]

DATABASES = {scheme: module for module in (duckdb, lancedb, postgres, qdrant) for scheme in module.SCHEMES}
"""By what stands before the first colon: the module of this package that opens such a database."""


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
    # What a driver says of a connection string may hold a part of its password.
    remember(where)
    scheme, colon, rest = where.partition(":")
    if not colon or scheme not in DATABASES:
        named = " or ".join(module.NAMED for module in dict.fromkeys(DATABASES.values()))
        # No more of it than its beginning: there may be a password behind.
        said = repr(scheme) if colon else "what was given"
        raise ParameterError(f"{said} names no database; use {named}")
    if dtype not in ("float16", "float32"):
        raise ParameterError(f"dtype={dtype!r} must be float16 or float32")
    module = DATABASES[scheme]
    place = where if rest.startswith("//") else rest
    store: Store = module.open_store(place, fold, table=table, column=column, key=key, name=name, dtype=dtype)
    return store
