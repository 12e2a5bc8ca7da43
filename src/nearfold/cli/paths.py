"""What commands read and write: declared with their parameters, and checked in one place before they begin.

Every parameter that names a file or folder carries one of the marks below. `guarded` wraps every command:
no output may be an input, or lie in an input folder, and no two outputs may be one file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from nearfold._utils.files import check_distinct, check_kept, check_name, keeping
from nearfold.errors import ParameterError
from nearfold.errors.credentials import remember

__all__ = ["Mark", "guarded", "marks"]

Command = TypeVar("Command", bound=Callable[..., None])


class Mark(Enum):
    """What a command does with the file or folder that a parameter names."""

    reads = "reads"
    writes = "writes"
    changes = "changes"
    """Reads and writes: a scan that goes on, a database."""


def marks(command: Callable[..., Any]) -> dict[str, Mark]:
    """Return what a command does with the files that its parameters name, by parameter.

    Raises
    ------
    TypeError
        A parameter that is a path has no mark.
    """
    found = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        said = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Mark)]
        if said:
            found[name] = said[0]
        elif Path in _types(hint):
            raise TypeError(f"{command.__name__}: {name} is a path: say whether it is read or written")
    return found


def _types(hint: Any) -> Iterator[Any]:
    """Yield the types that a hint is made of."""
    yield hint
    for part in get_args(hint) if get_origin(hint) is not None else ():
        yield from _types(part)


def guarded(command: Command) -> Command:
    """Return a command that refuses outputs which would change what it reads, and then keeps that safe."""
    declared = marks(command)
    signature = inspect.signature(command)

    @wraps(command)
    def checked(*arguments: Any, **options: Any) -> None:
        from nearfold.cli.logged import log_of, logged

        given = signature.bind(*arguments, **options)
        given.apply_defaults()
        named = {name: given.arguments[name] for name in declared if given.arguments[name] is not None}
        for value in named.values():
            _check(str(value))
        log = log_of()
        inputs = [path for name in named if declared[name] is Mark.reads for path in _local(named[name])]
        changed = [path for name in named if declared[name] is Mark.changes for path in _local(named[name])]
        outputs = [Path(named[name]) for name in named if declared[name] is Mark.writes]
        if log is not None:
            _check(str(log))
            outputs.append(log)
        with keeping(inputs):
            for path in (*changed, *outputs):
                check_kept(path)
            with keeping(changed):
                for path in outputs:
                    check_kept(path)
            check_distinct([*changed, *outputs])
            with ExitStack() as stack:
                if log is not None:
                    stack.enter_context(logged(log))
                command(*arguments, **options)

    return checked  # type: ignore[return-value]


def _check(name: str) -> None:
    remember(name)
    if name == "-":
        raise ParameterError(
            "-: standard input and output hold no vectors; name a file (./- is a file of that name)"
        )
    check_name(name)


def _local(value: str | Path) -> list[Path]:
    """Return where a parameter leads to on this machine; nowhere for URLs."""
    name = str(value)
    scheme, colon, rest = name.partition(":")
    if name.startswith("file://"):
        from nearfold.io.location import Location

        local = Location.of(name).local
        return [] if local is None else [local]
    if "://" in name:
        return []
    # A database is a scheme and a path, without slashes between.
    in_database = isinstance(value, str) and colon and scheme in ("lancedb", "duckdb", "qdrant")
    return [Path(rest if in_database else name)]
