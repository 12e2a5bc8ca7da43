"""Where the record batches of an Arrow stream or file lie, and how large they are, before any is read.

Arrow's own reader unpacks a compressed batch to tell how many rows it has, and believes what a batch says
of its size. Here only the short headers of messages are read; what they hold is then read by Arrow.
The layout is that of https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
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
# Before the stream of a file, and behind it: a length and the magic.
_HEAD, _TAIL = 8, 10

# Kinds of messages.
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3

# What is packed is believed to unpack to this many times its size; beyond, it must be small.
_PLAUSIBLE = 16


class Batch(NamedTuple):
    """A record batch in a file."""

    start: int
    stop: int
    rows: int
    nbytes: int
    """In memory, unpacked."""


class Index(NamedTuple):
    """Where the messages of a stream are, from byte to byte."""

    schema: tuple[int, int]
    dictionaries: tuple[tuple[int, int], ...]
    batches: tuple[Batch, ...]
    stop: int

    def spans(self, batch: int) -> list[tuple[int, int]]:
        """Return what makes a stream that begins with a batch: all that it needs, and itself."""
        start = self.batches[batch].start
        before = [span for span in self.dictionaries if span[0] < start]
        return [self.schema, *before, (start, self.stop)]


class _Table:
    """A table of a flatbuffer, whose fields are looked up by number."""

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
        """Return where a field is, 0 where it has its default."""
        entry = self._fields + 4 + 2 * number
        offset = self._at("<H", entry) if entry < self._end else 0
        return self._place + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        place = self._field(number)
        return self._at(form, place) if place else 0

    def table(self, number: int) -> _Table | None:
        place = self._field(number)
        return _Table(self._content, place + self._at("<I", place)) if place else None

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the entries of a vector of structs of two long numbers."""
        place = self._field(number)
        if place:
            place += self._at("<I", place)
            count = self._at("<I", place)
            for i in range(count):
                yield self._at("<q", place + 4 + 16 * i), self._at("<q", place + 12 + 16 * i)


def index_of(name: str, file: IO[bytes]) -> Index:
    """Return where the batches of an Arrow file or stream are.

    Parameters
    ----------
    name
        The file, for messages.
    file
        Opened, at any place.

    Raises
    ------
    FileError
        It is truncated, no Arrow file or stream, or its messages promise more than it can hold.
    """
    try:
        return _index_of(name, file)
    except (struct.error, OverflowError) as error:
        raise FileError(f"{name}: truncated or not an Arrow file: a message of it is damaged") from error


def _index_of(name: str, file: IO[bytes]) -> Index:
    start, end = _stream_bounds(name, file)
    schema, dictionaries, batches, packed = None, [], [], 0
    for place, content, body, after in _messages(name, file, start, end):
        message = _Table(content, struct.unpack_from("<I", content)[0])
        kind, head = message.number(1, "<B"), message.table(2)
        if head is None or (schema is None) != (kind == _SCHEMA):
            raise FileError(f"{name}: truncated or not an Arrow file: its messages are out of order")
        if kind == _SCHEMA:
            schema = (place, after)
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
    if schema is None:
        raise FileError(f"{name}: truncated or not an Arrow file: it has no schema")
    if packed > max(HELD_BYTES, _PLAUSIBLE * sum(stop - start for start, stop in dictionaries)):
        raise FileError(f"{name}: its dictionaries unpack to {packed / 1e6:,.0f} MB; write it uncompressed")
    stop = max([schema[1], *(span[1] for span in dictionaries), *(batch.stop for batch in batches)])
    return Index(schema, tuple(dictionaries), tuple(batches), stop)


def _stream_bounds(name: str, file: IO[bytes]) -> tuple[int, int]:
    """Return where the messages begin and end: a file is a stream between a magic and a footer."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        return 0, size
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    footer = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or footer > size - _HEAD - _TAIL:
        raise FileError(f"{name}: truncated: it ends without the footer of an Arrow file")
    return _HEAD, size - _TAIL - footer


def _messages(name: str, file: IO[bytes], place: int, end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield each message's place, its header, where its body begins and where it ends."""
    while end - place >= 4:
        file.seek(place)
        first, length = struct.unpack("<iI", file.read(8).ljust(8, b"\0"))
        # Early writers put no mark before the length.
        body = place + 8 if first == -1 else place + 4
        length = length if first == -1 else first
        if length == 0:
            return
        body += length
        if not 0 < length <= end - place or body > end:
            raise FileError(f"{name}: truncated or not an Arrow file: a message goes beyond its end")
        file.seek(body - length)
        content = file.read(length)
        message = _Table(content, struct.unpack_from("<I", content)[0])
        nbytes = message.number(3, "<q")
        if not 0 <= nbytes <= end - body:
            raise FileError(f"{name}: truncated: a record batch goes beyond its end")
        yield place, content, body, body + nbytes
        place = body + nbytes


def _unpacked(file: IO[bytes], records: _Table, body: int, after: int) -> int:
    """Return how many bytes the buffers of a batch take in memory."""
    packed, total = records.table(3) is not None, 0
    for offset, length in records.pairs(2):
        if offset < 0 or length < 0 or offset + length > after - body:
            raise struct.error("a buffer outside its batch")
        if packed and length >= 8:
            file.seek(body + offset)
            (unpacked,) = struct.unpack("<q", file.read(8))
            # -1: this one is not packed.
            if unpacked < -1:
                raise struct.error("a buffer of negative size")
            total += length - 8 if unpacked == -1 else unpacked
        else:
            total += length
    return total


class Joined(io.RawIOBase):
    """Parts of a file, one behind another as if there were nothing between them; read forward alone."""

    def __init__(self, file: IO[bytes], spans: list[tuple[int, int]]) -> None:
        self._file, self._spans = file, [span for span in reversed(spans) if span[1] > span[0]]
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        parts = []
        while self._spans and size:
            start, stop = self._spans.pop()
            wanted = stop - start if size < 0 else min(size, stop - start)
            self._file.seek(start)
            part = self._file.read(wanted)
            parts.append(part)
            self._place += len(part)
            size = size if size < 0 else size - wanted
            if start + wanted < stop:
                self._spans.append((start + wanted, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)
