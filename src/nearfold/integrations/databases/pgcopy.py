"""Three columns, an id, a vector and its digest, between arrays and the binary COPY of PostgreSQL.

The format is that of the PostgreSQL manual (COPY, "Binary Format"). Vectors are as `vector_send` and
`halfvec_send` of pgvector write them: two int16 (the dimensions, and one that is unused), then the numbers,
all in network byte order. Whole batches are read and written as arrays: pgvector's own adapters for psycopg,
which take a row at a time, needed 1.4 times as long to write 20,000 vectors of 384 dimensions and 2.6 times
as long to read them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold.errors import DataError

__all__ = ["HEADER", "TRAILER", "Batch", "Rows", "batches", "pack", "unpack"]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_COLUMNS = 3
_DIGEST_BYTES = 16
_PREFIX = struct.Struct(">hi")
_LENGTH = struct.Struct(">i")
_VECTOR = struct.Struct(">ihh")


class Rows(NamedTuple):
    """Ids as the server sends them, with their vectors and digests.

    Attributes
    ----------
    ids : ndarray of shape (n,) of bytes, or list of bytes
        The ids; an array where all are equally long.
    vectors : ndarray of shape (n, d)
        The vectors, float32 when they were read; float16 or float32 when they are to be written.
    digests : ndarray of shape (n,) of 16 bytes each
        The digests, by which it is seen later whether a vector has changed.
    """

    ids: npt.NDArray[np.void] | list[bytes]
    vectors: Float32
    digests: npt.NDArray[np.void]


class Batch(NamedTuple):
    """Rows as COPY sends them, without header and trailer.

    Attributes
    ----------
    rows : int
        The number of rows.
    content : memoryview
        The rows, one behind another.
    """

    rows: int
    content: memoryview


def batches(copy: Any, nbytes: int) -> Iterator[Batch]:
    """Yield what COPY sends, some rows at a time.

    Parameters
    ----------
    copy : psycopg.Copy
        What `cursor.copy("COPY ... TO STDOUT (FORMAT binary)")` gives.
    nbytes : int
        The number of bytes that a batch holds, about.

    Yields
    ------
    Batch
    """
    # Each row is copied behind the last: thousands of small buffers, kept a while, cost more than reading.
    buffer, size, rows = memoryview(bytearray(nbytes)), 0, 0
    for message in _messages(copy):
        end = size + len(message)
        if end > len(buffer):
            if rows:
                yield Batch(rows, buffer[:size])
            buffer, size, rows = memoryview(bytearray(max(nbytes, len(message)))), 0, 0
            end = len(message)
        buffer[size:end] = message
        size, rows = end, rows + 1
    if rows:
        yield Batch(rows, buffer[:size])


def _messages(copy: Any) -> Iterator[memoryview]:
    """Yield one row after another."""
    arrived = copy.cursor.connection.pgconn.get_copy_data
    # The header may come alone, or with the first row behind it.
    message = memoryview(copy.read())[len(HEADER) :] or memoryview(copy.read())
    while message and message != TRAILER:
        yield message
        # What has come already is taken as it is; psycopg waits for what has not.
        length, message = arrived(1)
        if length <= 0:
            message = memoryview(copy.read())
    copy.read()


def _row_type(id_bytes: int, width: int, number: str) -> np.dtype[Any]:
    """Return the type of a row whose id has a fixed length."""
    return np.dtype(
        [
            ("columns", ">i2"),
            ("id_length", ">i4"),
            ("id", f"V{id_bytes}"),
            ("length", ">i4"),
            ("width", ">i2"),
            ("unused", ">i2"),
            ("vector", number, width),
            ("digest_length", ">i4"),
            ("digest", f"V{_DIGEST_BYTES}"),
        ]
    )


def unpack(batch: Batch, width: int, id_bytes: int | None, where: str) -> Rows:
    """Return the rows of a batch.

    Parameters
    ----------
    batch : Batch
        Rows from `batches`.
    width : int
        The dimensions that each vector must have.
    id_bytes : int or None
        The length of an id; None where it varies.
    where : str
        The table, which begins the message of the error.

    Returns
    -------
    Rows
        With float32 vectors of shape (n, width).

    Raises
    ------
    DataError
        A vector has other dimensions.
    """
    content = batch.content
    if id_bytes is not None:
        row = _row_type(id_bytes, width, ">f4")
        if len(content) == batch.rows * row.itemsize:
            table = np.frombuffer(content, row)
            if (table["width"] == width).all():
                return Rows(table["id"], table["vector"].astype(np.float32), table["digest"])
    ids, parts, ends, start = [], [], [], 0
    for _ in range(batch.rows):
        _, length = _PREFIX.unpack_from(content, start)
        start += _PREFIX.size
        ids.append(bytes(content[start : start + length]))
        start += length
        size, found, _ = _VECTOR.unpack_from(content, start)
        if found != width:
            raise DataError(f"{where}: a vector has {found} dimensions, the encoder takes {width}")
        parts.append(content[start + _VECTOR.size : start + _LENGTH.size + size])
        start += _LENGTH.size + size
        ends.append(content[start + _LENGTH.size : start + _LENGTH.size + _DIGEST_BYTES])
        start += _LENGTH.size + _DIGEST_BYTES
    vectors = np.frombuffer(b"".join(parts), ">f4").reshape(-1, width)
    return Rows(ids, vectors.astype(np.float32), np.frombuffer(b"".join(ends), f"V{_DIGEST_BYTES}"))


def pack(rows: Rows) -> bytes:
    """Return rows as COPY takes them.

    Parameters
    ----------
    rows : Rows
        Rows whose vectors are float16 for the type halfvec, or float32 for vector.

    Returns
    -------
    bytes
        The rows, without header and trailer.
    """
    number = ">f2" if rows.vectors.dtype == np.float16 else ">f4"
    n, width = rows.vectors.shape
    if not isinstance(rows.ids, list):
        table = np.empty(n, _row_type(rows.ids.dtype.itemsize, width, number))
        table["columns"], table["id_length"], table["id"] = _COLUMNS, rows.ids.dtype.itemsize, rows.ids
        table["length"], table["width"], table["unused"] = 4 + width * int(number[-1]), width, 0
        table["vector"] = rows.vectors
        table["digest_length"], table["digest"] = _DIGEST_BYTES, rows.digests
        return table.tobytes()
    head = _VECTOR.pack(4 + width * int(number[-1]), width, 0)
    ordered = rows.vectors.astype(number)
    length = _LENGTH.pack(_DIGEST_BYTES)
    return b"".join(
        _PREFIX.pack(_COLUMNS, len(name)) + name + head + vector.tobytes() + length + digest.tobytes()
        for name, vector, digest in zip(rows.ids, ordered, rows.digests, strict=True)
    )
