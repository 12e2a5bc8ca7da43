"""Linear folds as SQL for PostgreSQL with pgvector: a table of weights and a function over it."""

from __future__ import annotations

import os

from nearfold.errors import ParameterError
from nearfold.export.linear import linear_only
from nearfold.files import replacing
from nearfold.fold import Fold

__all__ = ["fold_sql", "quoted", "write_sql"]

# What names are cut off at by PostgreSQL.
_LONGEST_NAME = 63
# pgvector's limit for `vector`.
_MOST_DIMENSIONS = 16_000


def quoted(name: str) -> str:
    """Return an SQL identifier in quotes.

    Raises
    ------
    ParameterError
        It is empty, too long, or holds a null character.
    """
    if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise ParameterError(f"name={name!r} can't name anything in SQL; use 1 to {_LONGEST_NAME} bytes")
    return '"' + name.replace('"', '""') + '"'


def fold_sql(
    fold: Fold, name: str = "fold", *, normalize: bool | None = None, schema: str | None = None
) -> str:
    """Return statements that make a function `name(vector(d)) -> vector(m)` in PostgreSQL.

    The weights go to a table beside it, `name_weights`, one row an axis. Run it again to put another fold
    in its place; everything happens in one transaction.

    Parameters
    ----------
    fold
        An `Encoder`.
    name
        Of the function.
    normalize
        Scale folded vectors to norm 1; None not to: pgvector's cosine distance does it itself.
    schema
        Where both go; None for the one that comes first in the search path.

    Raises
    ------
    ParameterError
        The fold is a network or too wide, or the name is none.
    """
    encoder = linear_only(fold, "SQL")
    d, m = encoder.n_features, encoder.n_components
    if d > _MOST_DIMENSIONS:
        raise ParameterError(f"pgvector's vectors have at most {_MOST_DIMENSIONS} dimensions, this fold {d}")
    within = "" if schema is None else f"{quoted(schema)}."
    function, table = within + quoted(name), within + quoted(f"{name}_weights")
    rows = ",\n".join(
        f"({axis}, '[{','.join(map(str, row))}]', {0 if encoder.bias is None else encoder.bias[axis]})"
        for axis, row in enumerate(encoder.weight)
    )
    # <#> is the negative inner product.
    folded = f"array_agg((bias - (weight <#> v))::real ORDER BY axis)::vector({m})"
    result = f"l2_normalize({folded})" if normalize else folded
    # As a string in quotes: a name could hold any dollar sign's tag.
    body = "'" + f"SELECT {result} FROM {table}".replace("'", "''") + "'"
    return f"""\
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector;
DROP FUNCTION IF EXISTS {function}(vector);
DROP TABLE IF EXISTS {table};
CREATE TABLE {table} (axis int PRIMARY KEY, weight vector({d}) NOT NULL, bias double precision NOT NULL);
INSERT INTO {table} VALUES
{rows};
CREATE FUNCTION {function}(v vector) RETURNS vector
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS {body};
COMMIT;
"""


def write_sql(
    fold: Fold, path: str | os.PathLike[str], name: str = "fold", *, normalize: bool | None = None
) -> None:
    """Write the statements of `fold_sql` to a file, atomically.

    Raises
    ------
    ParameterError
        As `fold_sql`.
    FileError
        The file can't be written.
    """
    content = fold_sql(fold, name, normalize=normalize)
    with replacing(path) as file:
        file.write(content.encode())
