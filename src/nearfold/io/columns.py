"""Common columns of files whose columns beside the vectors differ, unified as Arrow and polars do.

A column is null in the files that lack it, and its type is widened to one that holds the values of all files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nearfold.errors import FileError
from nearfold.io.base import Source

__all__ = ["check_columns", "columns_as", "common_columns", "without_dictionaries"]


def common_columns(parts: Sequence[Source]) -> pa.Schema | None:
    """Return the unified schema of the files' other columns, in order of appearance; None if there are none.

    If the types of a column can't be unified, the first stays; `check_columns` refuses such files.
    """
    fields: dict[str, pa.Field] = {}
    everywhere: set[str] | None = None
    seen: list[pa.Schema] = []
    for part in parts:
        schema = part.layout.others
        names = set() if schema is None else set(schema.names)
        everywhere = names if everywhere is None else everywhere & names
        # The files of a folder, of which there may be thousands, mostly have one schema.
        if schema is None or any(schema.equals(other, check_metadata=True) for other in seen):
            continue
        seen.append(schema)
        for field in schema:
            known = fields.setdefault(field.name, field)
            kind = _common_type(known.type, field.type)
            nullable = known.nullable or field.nullable
            if kind is not None and (kind != known.type or nullable != known.nullable):
                fields[field.name] = known.with_type(kind).with_nullable(nullable)
    if not fields:
        return None
    common = [f if f.name in (everywhere or ()) else f.with_nullable(True) for f in fields.values()]
    return pa.schema(common)


def check_columns(parts: Sequence[Source], name: str) -> None:
    """Refuse files whose other columns don't fit into one table.

    Parameters
    ----------
    parts : sequence of Source
        The opened files.
    name : str
        The name of the column of vectors in that table.

    Raises
    ------
    FileError
        The types of a column conflict, or a column has the vectors' name or occurs twice in a file; the
        message names the file and the column.
    """
    common = common_columns(parts)
    first: dict[str, tuple[str, pa.DataType]] = {}
    checked: list[pa.Schema] = []
    for part in parts:
        schema = part.layout.others
        if schema is None or any(schema.equals(other) for other in checked):
            continue
        checked.append(schema)
        assert common is not None
        for field in schema:
            if field.name == name or schema.get_field_index(field.name) < 0:
                what = "has the name of the vectors" if field.name == name else "is there twice"
                raise FileError(f"{part.path}: column {field.name!r} {what}; rename it")
            path, kind = first.setdefault(field.name, (part.path, field.type))
            if _common_type(field.type, common.field(field.name).type) != common.field(field.name).type:
                raise _conflict(part.path, field.name, field.type, f"{kind} in {path}")


def _conflict(path: str, name: str, kind: pa.DataType, other: str) -> FileError:
    return FileError(
        f"{path}: column {name!r} is {kind} where it is {other}; make them one type, or fold into a folder, "
        f"where each file keeps its own"
    )


def columns_as(others: Any, rows: int, schema: pa.Schema, path: str) -> Any:
    """Return the other columns of some rows of a file as a table of the common schema.

    Parameters
    ----------
    others : pyarrow.Table or None
        The other columns of the rows. None if the file has none.
    rows : int
        The number of rows.
    schema : pyarrow.Schema
        The schema from `common_columns`.
    path : str
        The file, as messages name it.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    FileError
        A value doesn't fit the common type.
    """
    if others is not None and others.schema.equals(schema):
        return others
    arrays = []
    for field in schema:
        column = None if others is None else others.schema.get_field_index(field.name)
        if column is None or column < 0:
            arrays.append(_nulls(rows, field.type))
            continue
        array = others.column(column)
        if _common_type(array.type, field.type) != field.type:
            raise _conflict(path, field.name, array.type, f"{field.type} in other files")
        try:
            arrays.append(_cast(array, field.type))
        except (pa.ArrowException, NotImplementedError) as error:
            said = str(error).strip().split("\n")[0]
            raise FileError(
                f"{path}: column {field.name!r} can't be made {field.type}, as all files together need it "
                f"({said}); give the files one type"
            ) from error
    return pa.Table.from_arrays(arrays, schema=schema)


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which dictionary-encoded columns have the type of their values."""
    return pa.schema([field.with_type(_plain(field.type)) for field in schema])


def _nulls(rows: int, kind: pa.DataType) -> Any:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(pa.nulls(rows, kind.storage_type))
    return pa.nulls(rows, kind)


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return a type that holds every value of both types, or None if there is none."""
    if first == second:
        return first
    # Types that differ only in how they encode the same values.
    plain = [_plain(kind) for kind in (first, second)]
    if plain[0] == plain[1]:
        return plain[0]
    if pa.types.is_null(first) or pa.types.is_null(second):
        return second if pa.types.is_null(first) else first
    if any(map(pa.types.is_decimal, plain)) and any(map(pa.types.is_floating, plain)):
        return None
    try:
        schemas = [pa.schema([pa.field("column", kind)]) for kind in plain]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, TypeError):
        return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's or a view's values, and any other type as it is."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    views = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}
    return views.get(str(kind), kind)


def _cast(array: Any, kind: pa.DataType) -> Any:
    """Return an array cast to a wider type; a value that would change is an error."""
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return _nulls(len(array), kind)
    if pa.types.is_dictionary(array.type):
        return _cast(array.cast(array.type.value_type), kind)
    if pa.types.is_struct(array.type) and pa.types.is_struct(kind):
        whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        have = {whole.type.field(i).name: whole.field(i) for i in range(whole.type.num_fields)}
        fields = [kind.field(i) for i in range(kind.num_fields)]
        parts = [
            _cast(have[f.name], f.type) if f.name in have else _nulls(len(whole), f.type) for f in fields
        ]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=whole.is_null())
    return array.cast(kind, safe=True)
