"""Linear folds as SQL for PostgreSQL with pgvector: a table of weights and a function over it."""

from __future__ import annotations

import os

from nearfold._utils.files import replacing
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.integrations.linear import linear_only

__all__ = ["check_name", "dollar_quoted", "fold_body", "fold_sql", "fold_statements", "quoted", "write_sql"]

# What names are cut off at by PostgreSQL.
_LONGEST_NAME = 63
# pgvector's limit for `vector`.
_MOST_DIMENSIONS = 16_000


def check_name(name: str, longest: int = _LONGEST_NAME) -> None:
    """Refuse what can't name anything in SQL.

    Parameters
    ----------
    name : str
        The identifier, without quotes.
    longest : int, default=63
        Number of bytes that the database allows. PostgreSQL cuts off what is longer without saying so.

    Raises
    ------
    ParameterError
        The name is empty, is too long, or holds a null character.
    """
    if not name or "\0" in name or len(name.encode(errors="replace")) > longest:
        raise ParameterError(f"name={name!r} can't name anything in SQL; use 1 to {longest} bytes")


def quoted(*names: str, longest: int = _LONGEST_NAME) -> str:
    """Return an SQL identifier in quotes, behind the quoted names of what it lies in.

    Parameters
    ----------
    *names : str
        The names of a schema, a table and so on, from the outermost to the innermost, without quotes.
    longest : int, default=63
        As for `check_name`.

    Returns
    -------
    str
        The quoted names with dots between them.

    Raises
    ------
    ParameterError
        As `check_name` raises it.
    """
    for name in names:
        check_name(name, longest)
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _string(text: str) -> str:
    """Return a text as a string constant of PostgreSQL, whatever a session takes backslashes for."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else "E'" + escaped.replace("\\", "\\\\") + "'"


def dollar_quoted(text: str, tag: str) -> str:
    """Return a text between dollar signs and a tag that the text does not hold.

    Parameters
    ----------
    text : str
        The text.
    tag : str
        The tag, which gets underscores behind it until the text does not hold it.

    Returns
    -------
    str
        A string constant of PostgreSQL.
    """
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


def fold_sql(
    fold: Fold, name: str = "fold", *, normalize: bool | None = None, schema: str | None = None
) -> str:
    """Return statements that make a function `name(vector(d)) -> vector(m)` in PostgreSQL with pgvector.

    The weights go to a table beside the function, `name_weights`, with one row for each axis. Running the
    statements of another fold puts that fold in place of the first. Everything happens in one transaction,
    which fails without a change where there is a function or table of that name that such statements did not
    make.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold from d to m dimensions.
    name : str, default="fold"
        The name of the function, of at most 55 bytes.
    normalize : bool, optional
        Whether the function scales folded vectors to norm 1. By default it does not, for the cosine distance
        of pgvector divides by norms itself.
    schema : str, optional
        The schema of both. The default is the one that comes first in the search path.

    Returns
    -------
    str
        The statements, to be run as one script.

    Raises
    ------
    ParameterError
        The fold is a network or takes more than 16,000 dimensions, or the name can't name anything.
    """
    mark = f"nearfold: fold of {linear_only(fold, 'SQL').n_features} dimensions"
    return f"BEGIN;\n{fold_statements(fold, name, mark, normalize=normalize, schema=schema)}COMMIT;\n"


def fold_body(
    name: str, n_components: int, *, normalize: bool | None = None, schema: str | None = None
) -> str:
    """Return the body of the function that `fold_sql` makes.

    Parameters
    ----------
    name : str
        As for `fold_sql`.
    n_components : int
        The number m of reduced dimensions.
    normalize, schema
        As for `fold_sql`.

    Returns
    -------
    str
        A SELECT statement, in which `v` is the vector to fold.
    """
    # <#> is the negative inner product.
    folded = f"array_agg((bias - (weight <#> v))::real ORDER BY axis)::vector({n_components})"
    result = f"l2_normalize({folded})" if normalize else folded
    return f"SELECT {result} FROM {_within(schema, f'{name}_weights')}"


def _within(schema: str | None, name: str) -> str:
    """Return the quoted name of something in a schema, or in the first of the search path."""
    return quoted(name) if schema is None else quoted(schema, name)


def fold_statements(
    fold: Fold, name: str, mark: str, *, normalize: bool | None = None, schema: str | None = None
) -> str:
    """Return the statements of `fold_sql` without their transaction.

    Parameters
    ----------
    fold, name, normalize, schema
        As for `fold_sql`.
    mark : str
        The comment that the function and its table get. The statements fail where something is there whose
        comment has another beginning, which is what stands before its first colon: it is somebody else's.

    Returns
    -------
    str

    Raises
    ------
    ParameterError
        As `fold_sql` raises it.
    """
    encoder = linear_only(fold, "SQL")
    d, m = encoder.n_features, encoder.n_components
    if d > _MOST_DIMENSIONS:
        raise ParameterError(f"pgvector's vectors have at most {_MOST_DIMENSIONS} dimensions, this fold {d}")
    function, table = _within(schema, name), _within(schema, f"{name}_weights")
    rows = ",\n".join(
        f"({axis}, '[{','.join(map(str, row))}]', {0 if encoder.bias is None else encoder.bias[axis]})"
        for axis, row in enumerate(encoder.weight)
    )
    # As a string in quotes: a name could hold any dollar sign's tag.
    body = _string(fold_body(name, m, normalize=normalize, schema=schema))
    begins = _string(mark.partition(":")[0] + ":%")
    taken = _string(f"{name}: such a function or its table of weights is there, not made by nearfold")
    check = f"""
BEGIN
    IF EXISTS (
        SELECT FROM (VALUES
            (to_regclass({_string(table)})::oid, 'pg_class'),
            (to_regprocedure({_string(f"{function}(vector)")})::oid, 'pg_proc')
        ) taken (oid, catalog)
        WHERE oid IS NOT NULL AND coalesce(obj_description(oid, catalog), '') NOT LIKE {begins}
    ) THEN
        RAISE EXCEPTION USING MESSAGE = {taken};
    END IF;
END """
    return f"""\
CREATE EXTENSION IF NOT EXISTS vector;
DO {dollar_quoted(check, "nearfold")};
DROP FUNCTION IF EXISTS {function}(vector);
DROP TABLE IF EXISTS {table};
CREATE TABLE {table} (axis int PRIMARY KEY, weight vector({d}) NOT NULL, bias double precision NOT NULL);
COMMENT ON TABLE {table} IS {_string(mark)};
INSERT INTO {table} VALUES
{rows};
CREATE FUNCTION {function}(v vector) RETURNS vector
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS {body};
COMMENT ON FUNCTION {function}(vector) IS {_string(mark)};
"""


def write_sql(
    fold: Fold, path: str | os.PathLike[str], name: str = "fold", *, normalize: bool | None = None
) -> None:
    """Write the statements of `fold_sql` to a file, atomically.

    Parameters
    ----------
    fold : Encoder
        A fitted linear fold.
    path : path
        The file to write.
    name : str, default="fold"
        As for `fold_sql`.
    normalize : bool, optional
        As for `fold_sql`.

    Raises
    ------
    ParameterError
        As `fold_sql` raises it.
    FileError
        The file can't be written.
    """
    content = fold_sql(fold, name, normalize=normalize)
    with replacing(path) as file:
        file.write(content.encode())
