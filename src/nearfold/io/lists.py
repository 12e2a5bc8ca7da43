"""Vectors in Arrow tables: a column of lists, and the columns beside it."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nearfold._utils.files import cause, replacing
from nearfold.errors import DataError, FileError, NearfoldError
from nearfold.io.base import Chunk, Layout, Source, check_layout, listed
from nearfold.version import __version__

__all__ = [
    "TableSink",
    "TableSource",
    "VectorColumn",
    "checked",
    "find_vectors",
    "first_line",
    "fixed_lists",
    "is_fixed",
    "made_by",
    "matrix_of",
    "reading",
    "written",
]


# The bytes that a chunk may have in all columns, unless its vectors alone have more.
_LEAST_BYTES = 8 << 20


class VectorColumn(NamedTuple):
    """The column, or the field of a struct column, that holds the vectors of a table.

    Attributes
    ----------
    name : str
        The name as the user writes it, as in column.field.
    top : str
        The name of the column.
    fields : tuple of str
        The names of the nested struct fields; empty if the column itself holds the vectors.
    kind : pyarrow.DataType
        The type of the vectors, a list of numbers.
    """

    name: str
    top: str
    fields: tuple[str, ...]
    kind: pa.DataType


def find_vectors(path: str, schema: pa.Schema, column: str | None) -> VectorColumn:
    """Return the column of vectors of a table.

    Parameters
    ----------
    path : str
        The file, as messages name it.
    schema : pyarrow.Schema
        The schema of the table.
    column : str or None
        The name of the column, or of a struct's field as in column.field. None stands for the only column
        that is a list of numbers.

    Raises
    ------
    FileError
        There is no such column, it holds no vectors, or no column or several could be meant.
    """
    if column is not None:
        found = _at(schema, column)
        if found is None:
            raise FileError(f"{path}: has no column {column!r}; it has {listed(schema.names)}")
        if not _holds_vectors(found.kind):
            raise FileError(f"{path}: column {column!r} is {_told(found.kind)}")
        return _usable(path, schema, found)
    lists = [each for each in _candidates(schema) if _holds_vectors(each.kind)]
    # Fields of structs count only if no column holds vectors.
    lists = [each for each in lists if not each.fields] or lists
    if len(lists) == 1:
        return _usable(path, schema, lists[0])
    if lists:
        raise FileError(
            f"{path}: several columns are a list of numbers ({listed(each.name for each in lists)}); name "
            f"the vectors with --column"
        )
    raise FileError(f"{path}: {_told_of_none(schema)}")


def _candidates(schema: pa.Schema) -> Iterator[VectorColumn]:
    """Yield every column, and every field of structs."""

    def below(name: str, top: str, fields: tuple[str, ...], kind: pa.DataType) -> Iterator[VectorColumn]:
        yield VectorColumn(name, top, fields, _plain(kind))
        if pa.types.is_struct(kind) and len(fields) < _MAX_DEPTH:
            for field in kind.fields:
                yield from below(f"{name}.{field.name}", top, (*fields, field.name), field.type)

    for field in schema:
        yield from below(field.name, field.name, (), field.type)


# The deepest nesting of structs that is searched.
_MAX_DEPTH = 8


def _at(schema: pa.Schema, column: str) -> VectorColumn | None:
    """Return the column or field of a name; a column with dots in its name comes before a field."""
    found = [each for each in _candidates(schema) if each.name == column]
    return min(found, key=lambda each: len(each.fields), default=None)


def _usable(path: str, schema: pa.Schema, found: VectorColumn) -> VectorColumn:
    """Return a column, or refuse it if its name is ambiguous or damaged."""
    kinds, names = schema, (found.top, *found.fields)
    for name in names:
        # The index of a name that occurs twice is -1 as well.
        if kinds.get_field_index(name) < 0:
            raise FileError(f"{path}: column {name!r} is there twice, or its name is damaged; rename it")
        kinds = kinds.field(name).type if name is not names[-1] else kinds
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the storage type of an extension type, such as a tensor of fixed shape."""
    if isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) != 1:
        return kind
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
        or is_fixed(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _holds_vectors(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_number(kind.value_type)


def _told(kind: pa.DataType) -> str:
    """Return text that says what a column without vectors holds, and how to convert it."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return f"tensors of shape {tuple(kind.shape)}; vectors have one dimension: flatten them"
    if pa.types.is_struct(kind):
        return f"a struct of {listed(field.name for field in kind.fields)}; name its field as in column.field"
    if _is_list(kind) and _is_list(_plain(kind.value_type)):
        return f"{kind}, lists of lists; vectors are one list a row: flatten or average them"
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind):
        return "raw bytes; decode them to lists of float32, np.frombuffer(value, np.float32) say"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text; parse it to lists of float32, json.loads(value) say"
    short = str(kind) if len(str(kind)) < 100 else f"{str(kind)[:100]}..."
    return f"{short}, not a list of numbers"


def _told_of_none(schema: pa.Schema) -> str:
    """Return the message for a table in which no column is a list of numbers."""
    numbers = [field.name for field in schema if _is_number(field.type)]
    if len(numbers) > _WIDE:
        return (
            f"has one column a dimension ({listed(numbers, 3)}); nearfold reads vectors from one list "
            f"column: save pd.DataFrame({{'vector': list(df.to_numpy('float32'))}}), or np.save them"
        )
    odd = [field for field in schema if not _is_number(field.type)]
    told = f"; {odd[0].name!r} is {_told(_plain(odd[0].type))}" if len(odd) == 1 else ""
    return f"no column is a list of numbers (it has {listed(schema.names)}){told}"


# If a table has more columns of numbers than this, each seems to be one dimension of the vectors.
_WIDE = 8


def is_fixed(kind: pa.DataType) -> bool:
    """Return whether a type is a list of fixed length."""
    return bool(pa.types.is_fixed_size_list(kind))


def vector_schema(layout: Layout) -> pa.Schema:
    """Return the schema that a layout is written with: the vectors, then the other columns."""
    fields = [pa.field(layout.name, pa.list_(pa.from_numpy_dtype(layout.dtype), layout.n_features))]
    return pa.schema([*fields, *(layout.others or [])], metadata=made_by(layout.origin))


def made_by(origin: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str]:
    """Return the metadata of a table that nearfold writes: the version of nearfold, and `origin`."""
    return {"nearfold": json.dumps({"nearfold": __version__, **origin})}


def table_of(chunk: Chunk, layout: Layout) -> pa.Table:
    """Return a chunk as a table with the schema `vector_schema(layout)`."""
    columns: dict[str, Any] = {layout.name: fixed_lists(chunk.vectors.astype(layout.dtype, copy=False))}
    if chunk.others is not None:
        columns |= {name: chunk.others.column(name) for name in chunk.others.column_names}
    schema = vector_schema(layout)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def fixed_lists(vectors: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Return an array of shape (n, d) as an Arrow array of n lists of length d."""
    flat = np.ascontiguousarray(vectors).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


class TableSource(Source):
    """Vectors in a column of a table.

    Parameters
    ----------
    path : str
        The path as the user wrote it.
    schema : pyarrow.Schema
        The schema of the whole table.
    column : VectorColumn
        The column of vectors, from `find_vectors`.
    rows : int
        The number of rows of the table.

    Raises
    ------
    FileError
        The column holds no vectors of real numbers.
    """

    def __init__(self, path: str, schema: pa.Schema, column: VectorColumn, rows: int) -> None:
        self.path, self.schema, self.column = path, schema, column
        kind = column.kind
        # Arrow's own method for this, to_pandas_dtype, needs pandas in early releases.
        dtype = pa.array([], kind.value_type).to_numpy().dtype
        width = kind.list_size if is_fixed(kind) else self._first_width()
        if width is None and rows:
            raise FileError(
                f"{path}: column {column.name!r} has no vector in any row (null); nothing to read"
            )
        layout = check_layout(path, (rows, width or 0), dtype, f"column {column.name!r}")
        others = self._others(pa.Table.from_batches([], schema=schema))
        self.layout = layout._replace(name=column.name, others=None if others is None else others.schema)

    @abstractmethod
    def _first_lists(self) -> Iterator[pa.Array]:
        """Yield arrays of the lists of all rows, in order, beginning with few rows."""

    def _first_width(self) -> int | None:
        """Return the length of the first list that is not null; all others must have the same length."""
        for lists in self._first_lists():
            lengths = pc.list_value_length(lists.drop_null())
            if len(lengths):
                return int(lengths[0].as_py())
        return None

    def _lists(self, batch: pa.RecordBatch, first_row: int) -> pa.Array:
        """Return the lists of a batch, or refuse a damaged batch."""
        checked(self.path, batch, first_row)
        return self._lists_of(batch)

    def _lists_of(self, batch: pa.RecordBatch) -> pa.Array:
        array = batch.column(self.column.top)
        for field in self.column.fields:
            array = pc.struct_field(array, field)
        while isinstance(array, pa.ExtensionArray):
            array = array.storage
        return array

    def _others(self, table: pa.Table) -> pa.Table | None:
        """Return the columns beside the vectors; a struct column loses only the field of the vectors."""
        place = table.schema.get_field_index(self.column.top)
        if place < 0:
            return None
        if self.column.fields:
            rest = _without(_one_array(table.column(place)), self.column.fields)
            if rest is not None:
                return table.set_column(place, self.column.top, rest)
        others = table.remove_column(place)
        return others if others.num_columns else None

    def _pieces(self, batch: pa.RecordBatch, rows: int, low: int, high: int, origin: int) -> Iterator[Chunk]:
        """Yield some rows of a batch as chunks, of fewer rows if the other columns are large.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            The batch, of the columns that are wanted.
        rows : int
            The most rows of a chunk.
        low, high : int
            The range of rows of the batch.
        origin : int
            The number of the batch's first row in the table.
        """
        checked(self.path, batch, origin)
        for start, stop in _cut(batch, low, high, rows, self._chunk_bytes(rows)):
            piece = batch.slice(start, stop - start)
            lists = self._lists_of(piece)
            vectors = matrix_of(self.path, lists, self.layout.n_features, origin + start)
            yield Chunk(vectors, self._others(pa.Table.from_batches([piece])))

    def _chunk_bytes(self, rows: int) -> int:
        """Return the bytes that a chunk of `rows` rows may have in all columns."""
        return max(_LEAST_BYTES, rows * self.layout.n_features * self.layout.dtype.itemsize)


def _one_array(column: pa.ChunkedArray) -> pa.StructArray:
    """Return a column of structs as one array."""
    return pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)


def _without(array: pa.StructArray, fields: tuple[str, ...]) -> pa.StructArray | None:
    """Return structs without a nested field, or None if no field is left."""
    kept = []
    for i, field in enumerate(array.type.fields):
        values = array.field(i)
        if field.name == fields[0]:
            values = _without(values, fields[1:]) if len(fields) > 1 else None
        if values is not None:
            kept.append((field.with_type(values.type), values))
    if not kept:
        return None
    return pa.StructArray.from_arrays(
        [values for _, values in kept], fields=[field for field, _ in kept], mask=array.is_null()
    )


def _cut(batch: pa.RecordBatch, low: int, high: int, rows: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most `rows` rows and at most `nbytes` bytes, but of one row at least."""
    waiting = [(start, min(high, start + rows)) for start in range(low, high, rows)][::-1]
    while waiting:
        start, stop = waiting.pop()
        if stop - start > 1 and batch.slice(start, stop - start).nbytes > nbytes:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
        else:
            yield start, stop


def checked(path: str, batch: pa.RecordBatch, first_row: int) -> None:
    """Refuse a batch with damaged offsets or indices, before they are used to access memory.

    Raises
    ------
    FileError
        An offset, an index, a length or a text is damaged; the message names the column.
    """
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        try:
            array.validate(full=True)
        except (pa.ArrowException, ValueError) as error:
            raise FileError(
                f"{path}: column {name!r} is damaged between rows {first_row} and {first_row + len(batch)} "
                f"({first_line(error)}); write the file anew"
            ) from error


def matrix_of(path: str, lists: pa.Array, width: int, first_row: int) -> npt.NDArray[Any]:
    """Return lists of one length as an array.

    Parameters
    ----------
    path : str
        The file, as messages name it.
    lists : pyarrow.Array
        The lists.
    width : int
        The length that all must have.
    first_row : int
        The number of the first row in messages.

    Returns
    -------
    ndarray of shape (len(lists), width)

    Raises
    ------
    DataError
        A row is null, holds a null, or has another length; the message names it.
    """
    if lists.null_count:
        bad = first_row + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{path}: row {bad} has no vector (null); remove such rows")
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        bad = int(np.flatnonzero(lengths != width)[0])
        raise DataError(
            f"{path}: row {first_row + bad} has {lengths[bad]} dimensions where the first row has {width}"
        )
    flat = lists.flatten()
    if flat.null_count:
        bad = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"{path}: row {first_row + bad // width}, dimension {bad % width} is null; remove such rows"
        )
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), width)


class TableSink:
    """Appends chunks to an Arrow or Parquet writer, with the vectors as a fixed-size list column.

    Parameters
    ----------
    writer : pyarrow.RecordBatchFileWriter or pyarrow.parquet.ParquetWriter
        The writer.
    layout : Layout
        The layout of the file.
    """

    def __init__(self, writer: Any, layout: Layout) -> None:
        self._writer, self._layout = writer, layout

    def write(self, chunk: Chunk) -> None:
        """Append the rows of a chunk."""
        self._writer.write_table(table_of(chunk, self._layout))


@contextmanager
def reading(path: str, otherwise: str) -> Iterator[None]:
    """Turn errors of Arrow into a FileError, with the system's message, or `otherwise` and Arrow's.

    ValueError is turned into one too, as Arrow raises it for a name in a footer that is not UTF-8.
    """
    try:
        yield
    except NearfoldError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise FileError(f"{path}: can't be read: {cause(error)}") from error
        raise FileError(f"{path}: {otherwise} ({first_line(error)})") from error


@contextmanager
def written(
    path: str | os.PathLike[str], layout: Layout, writer: Callable[[IO[bytes], pa.Schema], Any]
) -> Iterator[TableSink]:
    """Open a file for writing by `writer`: the vectors, followed by the columns of `layout.others`."""
    try:
        with replacing(path) as file, writer(file, vector_schema(layout)) as opened:
            yield TableSink(opened, layout)
    except pa.ArrowException as error:
        raise FileError(f"{path}: can't be written ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]
