"""The databases that folded vectors can be migrated into, by the scheme that names them."""

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
    where : str
        The database: postgresql://USER@HOST/NAME, lancedb:FOLDER, duckdb:FILE or qdrant:FOLDER.
    fold : Fold
        The fold whose results are stored.
    table : str
        The table that holds the vectors. For Qdrant it is the folder of the shard below FOLDER.
    column : str, optional
        The column of the vectors. By default there is only one such column.
    key : str, optional
        The column that tells rows apart. The default is the primary key.
    name : str, optional
        The name of what is made: a table, a column (LanceDB) or a shard (Qdrant). The default is that of the
        table, column or shard with `_folded` or `-folded` behind it.
    dtype : {"float16", "float32"}, default="float16"
        The type of the folded vectors. DuckDB stores float32 only.

    Returns
    -------
    Store
        The open database, which is a context manager.

    Raises
    ------
    ParameterError
        The scheme or the dtype is unknown.
    DatabaseError
        The database can't be reached, or does not hold what was asked for.
    MissingExtraError
        The driver of the database is not installed; the message names the extra.
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
