"""The errors that nearfold raises: one tree, so that one `except` catches them all.

Their messages never hold a password: neither what a user named nor what a library said of it.
"""

from __future__ import annotations

from nearfold.errors.credentials import redacted_values


class NearfoldError(Exception):
    """Base of every error that nearfold raises about its input; the message says what to do."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(redacted_values, args))


class DataError(NearfoldError, ValueError):
    """Vectors that can't be used: wrong shape, not finite, too few rows."""


class DataTypeError(DataError, TypeError):
    """Vectors of a type that has no numbers in it: text, objects, complex, sparse."""


class ParameterError(NearfoldError, ValueError):
    """A parameter outside what the method or the data allow."""


class FileError(NearfoldError):
    """A file that can't be read or written: missing, truncated, corrupt, of another format."""


class DatabaseError(NearfoldError):
    """A database that can't be reached, refuses, or doesn't hold what was asked for."""


class MissingExtraError(NearfoldError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class NearfoldWarning(UserWarning):
    """Something that the user should know of and that does not stop the work."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(redacted_values, args))
