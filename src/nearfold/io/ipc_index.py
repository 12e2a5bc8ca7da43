"""The places and sizes of the record batches of an Arrow stream or file, found before any batch is read.

Arrow's own reader decompresses a batch to tell its number of rows, and trusts the size that it declares. This
module reads only the short headers of messages; Arrow then reads their content. The layout is described at
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from nearfold.errors import FileError
from nearfold.io.base import HELD_BYTES

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["MAGIC", "Batch", "Index", "Joined", "index_of"]

MAGIC = b"ARROW1"
# The bytes before the stream of a file, and those after it: a length and the magic.
_HEAD, _TAIL = 8, 10

# The kinds of messages.
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3

# A compressed batch may decompress to this many times its size, or to HELD_BYTES if that is more.
_PLAUSIBLE = 16


class Batch(NamedTuple):
    """The place of a record batch in a file, in bytes, and its size."""

    start: int
    stop: int
    rows: int
    nbytes: int
    """The size in memory, decompressed."""


class Index(NamedTuple):
    """The places of the messages of a file or stream, as ranges of bytes."""

    schema: bytes
    """The schema message itself."""
    in_order: bool
    """Whether a dictionary holds for the batches after it, as in streams; in files it holds for all."""
    dictionaries: tuple[tuple[int, int], ...]
    batches: tuple[Batch, ...]

    def stream(self, batch: int) -> list[bytes | tuple[int, int]]:
        """Return the parts of a stream that begins with a batch, with the schema and all dictionaries."""
        start = self.batches[batch].start
        # A dictionary between the batches of a stream replaces an earlier one.
        before = [span for span in self.dictionaries if span[0] < start or not self.in_order]
        behind = [span for span in self.dictionaries if span not in before]
        return [self.schema, *before, *sorted([*behind, *(each[:2] for each in self.batches[batch:])])]


class _Table:
    """A table of a flatbuffer, whose fields are read by number."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._fields = place - self._at("<i", place)
        self._end = self._fields + self._at("<H", self._fields)

    def _at(self, form: str, place: int) -> int:
        if place < 0:
            raise struct.error("a place before the beginning")
        value: int = struct.unpack_from(form, self._content, place)[0]
        return value

    def _field(self, number: int) -> int:
        """Return the place of a field, or 0 if it has its default."""
        entry = self._fields + 4 + 2 * number
        offset = self._at("<H", entry) if entry < self._end else 0
        return self._place + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        place = self._field(number)
        return self._at(form, place) if place else 0

    def place(self, number: int) -> int:
        """Return the place of the table or vector that a field points to."""
        field = self._field(number)
        if not field:
            raise struct.error("a field is missing")
        return field + self._at("<I", field)

    def table(self, number: int) -> _Table | None:
        return _Table(self._content, self.place(number)) if self._field(number) else None

    def entries(self, number: int, size: int, offset: int = 0) -> list[int]:
        """Return one int64 of each entry of a vector of structs of `size` bytes, at `offset` in each."""
        if not self._field(number):
            return []
        place = self.place(number)
        count = self._at("<I", place)
        if count * size > len(self._content):
            raise struct.error("a vector that is longer than its message")
        return [self._at("<q", place + 4 + size * i + offset) for i in range(count)]

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the entries of a vector of structs of two int64."""
        return zip(self.entries(number, 16), self.entries(number, 16, 8), strict=True)


def index_of(name: str, file: IO[bytes]) -> Index:
    """Return the places of the messages of an Arrow file or stream.

    Parameters
    ----------
    name : str
        The name of the file in messages.
    file : binary file
        The opened file, at any position.

    Returns
    -------
    Index

    Raises
    ------
    FileError
        The file is truncated, is not an Arrow file or stream, or its messages declare more than it holds.
    """
    try:
        return _index_of(name, file)
    except (struct.error, OverflowError) as error:
        raise FileError(f"{name}: truncated or not an Arrow file: a message of it is damaged") from error


def _index_of(name: str, file: IO[bytes]) -> Index:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    in_order = file.read(len(MAGIC)) != MAGIC
    if in_order:
        messages, schema = _messages(name, file, size), b""
    else:
        schema, blocks = _footer(name, file, size)
        messages = (_message(name, file, place, size) for place in blocks)
    dictionaries, batches, packed = [], [], 0
    for place, content, body, after in messages:
        message = _Table(content, struct.unpack_from("<I", content)[0])
        kind, head = message.number(1, "<B"), message.table(2)
        if head is None or (not schema) != (kind == _SCHEMA):
            raise FileError(f"{name}: truncated or not an Arrow file: its messages are out of order")
        if kind == _SCHEMA:
            file.seek(place)
            schema = file.read(after - place)
            continue
        records = head.table(1) if kind == _DICTIONARY else head
        if kind not in (_DICTIONARY, _BATCH) or records is None:
            raise FileError(f"{name}: truncated or not an Arrow file: it has a message of kind {kind}")
        nbytes = _unpacked(file, records, body, after)
        if nbytes > max(HELD_BYTES, _PLAUSIBLE * (after - body)):
            raise FileError(
                f"{name}: a record batch of {after - body} bytes unpacks to {nbytes / 1e6:,.0f} MB, more "
                f"than vectors do; write it uncompressed, or in smaller batches"
            )
        if kind == _BATCH:
            rows = records.number(0, "<q")
            if rows < 0:
                raise FileError(f"{name}: truncated or not an Arrow file: a batch has {rows} rows")
            batches.append(Batch(place, after, rows, nbytes))
        else:
            dictionaries.append((place, after))
            packed += nbytes
    if not schema:
        raise FileError(f"{name}: truncated or not an Arrow file: it has no schema")
    if packed > max(HELD_BYTES, _PLAUSIBLE * sum(stop - start for start, stop in dictionaries)):
        raise FileError(f"{name}: its dictionaries unpack to {packed / 1e6:,.0f} MB; write it uncompressed")
    return Index(schema, in_order, tuple(dictionaries), tuple(batches))


def _footer(name: str, file: IO[bytes], size: int) -> tuple[bytes, list[int]]:
    """Return the schema as a message, and the places of a file's dictionaries and batches.

    By the format's definition a file is a stream between a magic and a footer. But polars omits the schema of
    that stream, and other readers use only the footer.
    """
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length > size - _HEAD - _TAIL:
        raise FileError(f"{name}: truncated: it ends without the footer of an Arrow file")
    file.seek(size - _TAIL - length)
    content = file.read(length)
    footer = _Table(content, struct.unpack_from("<I", content)[0])
    schema = footer.place(1)
    # The table of a message takes 32 bytes. The footer, with the schema's table, follows it, as the places in
    # that table are relative.
    root = struct.pack(
        "<IHHHHHxxiIhBxxxxx", 16, 10, 12, 8, 10, 4, 12, 32 - 20 + schema, footer.number(0, "<h"), _SCHEMA
    )
    message = root + content + bytes(-len(content) % 8)
    blocks = [*footer.entries(2, 24), *footer.entries(3, 24)]
    return struct.pack("<iI", -1, len(message)) + message, blocks


def _messages(name: str, file: IO[bytes], end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield the messages of a stream up to its end or its end mark."""
    place = 0
    while end - place >= 4:
        file.seek(place)
        first, length = struct.unpack("<iI", file.read(8).ljust(8, b"\0"))
        if first == 0 or (first == -1 and length == 0):
            return
        message = _message(name, file, place, end)
        yield message
        place = message[3]


def _message(name: str, file: IO[bytes], place: int, end: int) -> tuple[int, bytes, int, int]:
    """Return a message's place, its header, and the places where its body begins and ends."""
    if not 0 <= place <= end - 8:
        raise FileError(f"{name}: truncated or not an Arrow file: a message goes beyond its end")
    file.seek(place)
    first, length = struct.unpack("<iI", file.read(8))
    # Early versions of the format have no mark before the length.
    body, length = (place + 8, length) if first == -1 else (place + 4, first)
    if not 0 < length <= end - body:
        raise FileError(f"{name}: truncated or not an Arrow file: a message goes beyond its end")
    file.seek(body)
    content, body = file.read(length), body + length
    nbytes = _Table(content, struct.unpack_from("<I", content)[0]).number(3, "<q")
    if not 0 <= nbytes <= end - body:
        raise FileError(f"{name}: truncated: a record batch goes beyond its end")
    return place, content, body, body + nbytes


def _unpacked(file: IO[bytes], records: _Table, body: int, after: int) -> int:
    """Return the bytes that the buffers of a batch take in memory, decompressed."""
    packed, total = records.table(3) is not None, 0
    for offset, length in records.pairs(2):
        if offset < 0 or length < 0 or offset + length > after - body:
            raise struct.error("a buffer outside its batch")
        if packed and length >= 8:
            file.seek(body + offset)
            (unpacked,) = struct.unpack("<q", file.read(8))
            # -1 marks a buffer that is not compressed.
            if unpacked < -1:
                raise struct.error("a buffer of negative size")
            total += length - 8 if unpacked == -1 else unpacked
        else:
            total += length
    return total


class Joined(io.RawIOBase):
    """A readable stream of bytes and of parts of a file, joined without gaps; it can't seek."""

    def __init__(self, file: IO[bytes], parts: list[bytes | tuple[int, int]]) -> None:
        self._file, self._parts = file, parts[::-1]
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of bytes read so far."""
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer as far as bytes are left, and return how many were read."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def read(self, size: int = -1, /) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        read = []
        while self._parts and size:
            part = self._parts.pop()
            whole = len(part) if isinstance(part, bytes) else part[1] - part[0]
            wanted = whole if size < 0 else min(size, whole)
            rest: bytes | tuple[int, int]
            if isinstance(part, bytes):
                content, rest = part[:wanted], part[wanted:]
            else:
                self._file.seek(part[0])
                content, rest = self._file.read(wanted), (part[0] + wanted, part[1])
            read.append(content)
            self._place += len(content)
            size -= wanted if size > 0 else 0
            if wanted < whole:
                self._parts.append(rest)
        return read[0] if len(read) == 1 else b"".join(read)
