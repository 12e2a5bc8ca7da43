"""What JSON and metadata in files must look like: declared once as types, checked in one place.

Whoever reads a manifest, a journal or metadata declares a `msgspec.Struct` (or `TypedDict`) with the
bounds of each field, and gets one back, or a `FileError` that names the file and the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from nearfold.errors import FileError

__all__ = ["Count", "FileName", "Positive", "Sha256", "checked_json", "checked_values", "encoded", "inside"]

T = TypeVar("T")

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
"""How many there are of something."""

Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=1 << 48)]
"""How many there are of something that there must be."""

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""A digest in hexadecimal."""

FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^/\\\x00-\x1f]{1,255}$")]
"""The name of a file in the folder itself; `..` is refused by `inside`."""


def checked_json(content: bytes | str, kind: type[T], name: str, todo: str) -> T:
    """Return what JSON holds as a value of `kind`.

    Parameters
    ----------
    content
        The JSON text, UTF-8.
    kind
        A type that msgspec knows; fields that it doesn't name are passed over.
    name
        The file, for messages.
    todo
        What the user can do about a file that is wrong.

    Raises
    ------
    FileError
        The text is no JSON, is not what `kind` says, or names a field twice; the message says where.
    """
    try:
        value = msgspec.json.decode(content, type=kind)
        # Of a name that is there twice one reader takes the first, another the last.
        json.loads(content, object_pairs_hook=_once, parse_int=_unread, parse_float=_unread)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise _refused(name, error, todo) from error
    return value


def checked_values(
    values: Mapping[str, Any], kind: type[T], name: str, todo: str, *, strict: bool = False
) -> T:
    """Return values by name as a value of `kind`, numbers as text among them unless `strict`.

    See `checked_json`.
    """
    try:
        return msgspec.convert(dict(values), type=kind, strict=strict)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise _refused(name, error, todo) from error


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse the fields of a JSON object where two have one name."""
    if len({name for name, _ in pairs}) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")


def _unread(number: str) -> None:
    """Pass over a number, of any length, in JSON."""


def _refused(name: str, error: Exception, todo: str) -> FileError:
    said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return FileError(f"{name}: damaged, or not made by nearfold: {said}; {todo}")


def encoded(value: Any) -> bytes:
    """Return a value as JSON, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def inside(name: str) -> bool:
    """Return whether a relative path, with / between its parts, stays below its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
