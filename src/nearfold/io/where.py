"""Rows of a table by a condition on its columns, such as `price < 10 and language in ("en", "de")`.

Conditions are written in Python's grammar, which the standard library parses; nothing of them is run. They
become expressions of Arrow, which reads only the columns that they name.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from nearfold._utils.arrays import Int64
from nearfold.errors import FileError, ParameterError
from nearfold.io.base import listed
from nearfold.io.lists import first_line, reading
from nearfold.io.location import Location

__all__ = ["Matches", "condition", "matching_rows", "read_ids"]

_FORMATS = {".parquet": ds.ParquetFileFormat, ".arrow": ds.IpcFileFormat, ".feather": ds.IpcFileFormat}

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

_GRAMMAR = (
    "compare columns with numbers, texts and each other (==, !=, <, <=, >, >=, in, is None), join with and, "
    'or and not, and write a name that is no word as field("the name"), as in: price < 10 and language in '
    '("en", "de")'
)


class Matches(NamedTuple):
    """The rows of a table that meet a condition.

    Attributes
    ----------
    rows : int
        The number of rows of the table.
    ids : ndarray of shape (m,), int64
        The ids of the rows that meet the condition: row numbers, if the table has no ids.
    """

    rows: int
    ids: Int64


def condition(text: str, schema: pa.Schema) -> pc.Expression:
    """Return a condition on the columns of a table as an expression of Arrow.

    Parameters
    ----------
    text : str
        The condition. Where a column is null, comparisons with it are not met.
    schema : pyarrow.Schema
        The columns of the table.

    Raises
    ------
    ParameterError
        The text is no such condition, or names a column that the table lacks.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _Reader(text, schema).test(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ParameterError):
            raise
        raise _refused(text, "is no condition") from error


def _refused(text: str, said: str) -> ParameterError:
    return ParameterError(f"where {text!r:.200}: {said}; {_GRAMMAR}")


class _Reader:
    """Turns the syntax tree of a condition into an expression."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema

    def test(self, node: ast.expr) -> pc.Expression:
        """Return what is true or false of a row."""
        if isinstance(node, ast.BoolOp):
            joined = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            tests = [self.test(value) for value in node.values]
            whole = tests[0]
            for test in tests[1:]:
                whole = joined(whole, test)
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.test(node.operand)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            whole = self._comparison(sides[0], node.ops[0], sides[1])
            for left, op, right in zip(sides[1:], node.ops[1:], sides[2:], strict=False):
                whole = whole & self._comparison(left, op, right)
            return whole
        if (path := _path(node)) is not None:
            if not pa.types.is_boolean(self._type(path)):
                raise _refused(self._text, f"column {'.'.join(path)} alone is neither true nor false")
            return pc.field(*path) if len(path) == 1 else pc.field(path)
        raise _refused(self._text, f"{ast.unparse(node):.60} is no comparison")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise _refused(self._text, "`is` compares with None alone")
            missing = self._value(left, None).is_null()
            return missing if isinstance(op, ast.Is) else ~missing
        kinds = [None if path is None else self._type(path) for path in map(_path, (left, right))]
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
                raise _refused(self._text, "`in` needs a list of values, such as (1, 2)")
            values = [self._constant(each, kinds[0]).as_py() for each in right.elts]
            asked = self._value(left, None)
            try:
                found = asked.isin(pa.array(values))
            except (pa.ArrowException, OverflowError) as error:
                raise _refused(self._text, "the values of `in` are of several types") from error
            # A null is neither in the list nor not in it.
            return found & asked.is_valid() if isinstance(op, ast.In) else ~found & asked.is_valid()
        return _COMPARISONS[type(op)](self._value(left, kinds[1]), self._value(right, kinds[0]))

    def _value(self, node: ast.expr, kind: pa.DataType | None) -> pc.Expression:
        """Return a column or a constant; `kind` is the type of the column that it is compared with."""
        path = _path(node)
        if path is None:
            return pc.scalar(self._constant(node, kind))
        self._type(path)
        return pc.field(*path) if len(path) == 1 else pc.field(path)

    def _constant(self, node: ast.expr, kind: pa.DataType | None) -> pa.Scalar:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node, sign = node.operand, -1
        value = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(value, int | float | str) or (sign < 0 and isinstance(value, bool | str)):
            raise _refused(self._text, f"{ast.unparse(node):.60} is no column, number or text")
        try:
            scalar = pa.scalar(value if isinstance(value, str) or sign > 0 else -value)
            # Times and decimals are written as texts; Arrow itself widens numbers to each other's types.
            named = kind is not None and isinstance(value, str) and not pa.types.is_dictionary(kind)
            return scalar.cast(kind) if named else scalar
        except (pa.ArrowException, OverflowError) as error:
            raise _refused(self._text, f"{value!r:.60} is no {kind or 'number of 64 bits'}") from error

    def _type(self, path: tuple[str, ...]) -> pa.DataType:
        """Return the type of a column, or refuse one that is not there."""
        fields, kind = {field.name: field.type for field in self._schema}, None
        for name in path:
            if name not in fields:
                raise ParameterError(
                    f"where {self._text!r:.200}: there is no column {'.'.join(path):.60}; there are "
                    f"{listed(self._schema.names)}"
                )
            kind = fields[name]
            fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        return kind


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """Return the column, and fields of it, that a node names, or None if it names none."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return None if before is None else (*before, node.attr)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "field":
        names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if names and len(names) == len(node.args) and not node.keywords:
            return tuple(map(str, names))
    return None


def matching_rows(path: str | os.PathLike[str], text: str, ids: str | None = None) -> Matches:
    """Return the rows of a file, or of a folder of files, that meet a condition.

    Parameters
    ----------
    path : str or path
        The Parquet or Arrow file, folder or URL.
    text : str
        The condition; see `condition`.
    ids : str, optional
        The column of ids. By default they are row numbers.

    Raises
    ------
    ParameterError
        The text is no condition on the file's columns.
    FileError
        The file can't be read, is of another format, or has no such column of ids.
    """
    location = Location.of(path)
    found, rows = [], 0
    for file in location.files() if location.is_folder() else [location]:
        made = _FORMATS.get(file.suffix)
        if made is None:
            raise FileError(f"{file.name}: conditions need columns; name a Parquet or Arrow file of them")
        with reading(file.name, "truncated or damaged"), file.open() as handle:
            part = made().make_fragment(handle)
            wanted = {"met": condition(text, part.physical_schema)}
            if ids is not None:
                _check_column(file.name, part.physical_schema, ids)
                wanted["id"] = pc.field(ids)
            try:
                table = part.to_table(columns=wanted)
            except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise _refused(text, f"columns can't be compared so ({first_line(error)})") from error
        met = np.flatnonzero(pc.fill_null(table["met"], fill_value=False).to_numpy())
        found.append(rows + met if ids is None else _whole(file.name, ids, table["id"])[met])
        rows += len(table)
    return Matches(rows, np.concatenate([np.empty(0, np.int64), *found]))


def read_ids(path: str | os.PathLike[str], column: str | None = None) -> Int64:
    """Return the ids that a Parquet file holds.

    Parameters
    ----------
    path : str or path
        The file or URL.
    column : str, optional
        The column of ids. The default is the only column, or else the column `id`.

    Returns
    -------
    ndarray of shape (m,), int64

    Raises
    ------
    FileError
        The file can't be read, has no such column, or the column holds something else than whole numbers.
    """
    location = Location.of(path)
    with reading(location.name, "truncated or no Parquet file"), location.open() as handle:
        part = ds.ParquetFileFormat().make_fragment(handle)
        names = part.physical_schema.names
        column = column or (names[0] if len(names) == 1 else "id")
        _check_column(location.name, part.physical_schema, column)
        return _whole(location.name, column, part.to_table(columns=[column])[column])


def _check_column(name: str, schema: pa.Schema, column: str) -> None:
    if schema.names.count(column) != 1:
        raise FileError(
            f"{name}: has no column {column!r} of ids; name one by --ids: its columns are "
            f"{listed(schema.names)}"
        )


def _whole(name: str, column: str, values: pa.ChunkedArray) -> Int64:
    if not pa.types.is_integer(values.type) or values.null_count:
        raise FileError(
            f"{name}: column {column!r} is {values.type} with {values.null_count} nulls; ids are whole "
            f"numbers"
        )
    with reading(name, f"column {column!r} has ids beyond 2^63"):
        numbers: npt.NDArray[np.int64] = values.cast(pa.int64()).to_numpy()
    return numbers
