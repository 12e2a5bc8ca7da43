"""Validation of JSON and metadata in files against declared types.

A reader of a manifest, a journal or metadata declares a `msgspec.Struct` (or `TypedDict`) with the bounds of
each field. It gets a value of that type, or a `FileError` that names the file and the field.
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
"""A number of things, which may be 0."""

Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=1 << 48)]
"""A number of things, at least 1."""

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 digest in hexadecimal."""

FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^/\\\x00-\x1f]{1,255}$")]
"""The name of a file directly in the folder; `..` is refused by `inside`."""


def checked_json(content: bytes | str, kind: type[T], name: str, todo: str) -> T:
    """Return the value of a declared type that JSON text holds.

    Parameters
    ----------
    content : bytes or str
        The JSON text, as UTF-8.
    kind : type
        A type that msgspec knows. Fields that it doesn't name are ignored.
    name : str
        The name of the file in messages.
    todo : str
        Advice in messages on what to do about a wrong file.

    Returns
    -------
    object
        A value of type `kind`.

    Raises
    ------
    FileError
        The text is not JSON, does not match `kind`, or names a field twice; the message says where.
    """
    try:
        value = msgspec.json.decode(content, type=kind)
        # Readers differ in which of two fields of one name they take, so such files are refused.
        json.loads(content, object_pairs_hook=_once, parse_int=_unread, parse_float=_unread)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise _refused(name, error, todo) from error
    return value


def checked_values(
    values: Mapping[str, Any], kind: type[T], name: str, todo: str, *, strict: bool = False
) -> T:
    """Return a mapping's values as a value of a declared type; see `checked_json`.

    Parameters
    ----------
    values : mapping of str to object
        The values by name.
    kind, name, todo
        See `checked_json`.
    strict : bool, default=False
        Whether numbers that are written as text are refused.

    Raises
    ------
    FileError
        The values do not match `kind`; the message says where.
    """
    try:
        return msgspec.convert(dict(values), type=kind, strict=strict)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
        raise _refused(name, error, todo) from error


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse the fields of a JSON object if two have the same name."""
    if len({name for name, _ in pairs}) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice")


def _unread(number: str) -> None:
    """Ignore a number in JSON, whatever its length."""


def _refused(name: str, error: Exception, todo: str) -> FileError:
    said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return FileError(f"{name}: damaged, or not made by nearfold: {said}; {todo}")


def encoded(value: Any) -> bytes:
    """Return a value as indented JSON, in UTF-8, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def inside(name: str) -> bool:
    """Return whether a path with / between its parts is relative and stays below its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
