"""What a database must be able to do to take folded vectors beside its full ones."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nearfold._utils.arrays import Float32, Float64, Metric
from nearfold.errors import DatabaseError, DataError
from nearfold.folds.fold import Fold
from nearfold.io.lists import first_line, matrix_of

__all__ = [
    "DIGEST",
    "FOLDED",
    "OLDER",
    "PARTS",
    "Advance",
    "Filled",
    "FoldRows",
    "Note",
    "Sample",
    "SqlStore",
    "Store",
    "Survey",
    "check_columns",
    "check_sound",
    "chosen_column",
    "digests",
    "key_taken",
    "sound_matrix",
    "told_panic",
]

FOLDED, DIGEST = "folded", "digest"
"""The columns of a table of folds beside its key."""

PARTS = {
    "missing": "FROM {source} s WHERE s.{column} IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM {target} f WHERE f.{key} = s.{key})",
    "orphans": "FROM {target} f WHERE NOT EXISTS "
    "(SELECT 1 FROM {source} s WHERE s.{key} = f.{key} AND s.{column} IS NOT NULL)",
}
"""The FROM clauses of vectors that have no fold, and of folds that have no vector, by name."""

OLDER = "was filled by an earlier nearfold, which kept no digests of vectors: each fold is made anew"
"""What is said of folds without digests."""

FoldRows: TypeAlias = Callable[[Float32], npt.NDArray[Any]]
"""From vectors (n, d) to folded ones (n, m), of the type that is stored."""

Advance: TypeAlias = Callable[[int], None]
"""Told of rows done."""


class Filled(NamedTuple):
    """How many vectors got their first fold, and how many folds were made anew: their vectors had changed."""

    written: int
    refreshed: int

    def plus(self, other: Filled) -> Filled:
        """Return the sums of both."""
        return Filled(self.written + other.written, self.refreshed + other.refreshed)


@dataclass(frozen=True)
class Note:
    """What the database keeps of a migration: the mark by which nearfold knows its own.

    It holds who wrote and where, so that no other encoder goes on with it, and that a copy of it on
    somebody else's table claims nothing.

    Parameters
    ----------
    encoder
        SHA-256 of the encoder's file.
    method, metric, n_components, dtype
        Of the folded vectors.
    recall
        As verified when it was last complete; None before.
    source, target
        Names of what holds the full vectors and of what holds the folded ones, in the words of the
        database; None as earlier versions left it.
    """

    encoder: str
    method: str
    metric: str
    n_components: int
    dtype: str
    recall: float | None = None
    source: str | None = None
    target: str | None = None

    def placed(self, source: str, target: str) -> Note:
        """Return the note of a migration from one place to another."""
        return replace(self, source=source, target=target)

    def with_recall(self, recall: float) -> Note:
        """Return the note of a migration that was verified."""
        return replace(self, recall=recall)

    def dumps(self) -> str:
        """Return the note as a line of JSON."""
        return json.dumps({"nearfold": asdict(self)})

    @classmethod
    def loads(cls, text: str | None, where: str) -> Note:
        """Return the note that a text holds.

        Raises
        ------
        DatabaseError
            It holds none: what is at `where` is not nearfold's.
        """
        try:
            return msgspec.json.decode(text or "", type=dict[str, Note])["nearfold"]
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError) as error:
            raise _foreign(where) from error

    def check_same(self, other: Note, where: str) -> None:
        """Refuse to go on with folded vectors of another encoder, or by a note for another place.

        Raises
        ------
        DatabaseError
            `other`, which was found at `where`, is not of this migration.
        """
        for name in ("source", "target"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and mine != theirs:
                raise DatabaseError(
                    f"{where}: its mark is that of a {name} named {theirs}, not {mine}, so it can't be shown "
                    "to be nearfold's; choose another --name, or remove it first"
                )
        for name in ("encoder", "dtype"):
            if getattr(self, name) != getattr(other, name):
                raise DatabaseError(
                    f"{where}: was filled with another {name} ({getattr(other, name)[:12]}, not "
                    f"{getattr(self, name)[:12]}); choose another --name, or remove it first"
                )


class Survey(NamedTuple):
    """What is there before anything is done.

    Parameters
    ----------
    source, target
        Where full vectors are, and where folded ones go, as a user knows them.
    rows, folded
        Vectors, and how many of them have a folded one.
    n_features
        d.
    note
        Of a migration begun earlier.
    makes
        What will be made, a line each.
    remark
        What a user should know of what is there.
    """

    source: str
    target: str
    rows: int
    folded: int
    n_features: int
    note: Note | None
    makes: list[str]
    remark: str | None = None


def _foreign(where: str) -> DatabaseError:
    return DatabaseError(f"{where}: is there already and holds no folded vectors; choose another --name")


def check_columns(note: Note, found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a table whose columns, by name with their types, are not those that nearfold gave it.

    Raises
    ------
    DatabaseError
        They are others. The digest may be missing where an earlier version left the note.
    """
    if found != wanted and not (note.source is None and {**found, DIGEST: wanted[DIGEST]} == wanted):
        raise DatabaseError(f"{where}: has other columns than nearfold gave it; choose another --name")


def key_taken(where: str, key: str) -> DatabaseError:
    """Return the error of a key that has the name of another column of the folded table."""
    return DatabaseError(
        f"{where}: the id is named {key}, as a column of the folded table will be; choose another with --id"
    )


def chosen_column(
    found: Sequence[str],
    wanted: str | None,
    where: str,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the column of full vectors: the wanted one, or the only one there is.

    Parameters
    ----------
    found
        Columns that can be read.
    wanted
        By the user.
    where
        Begins messages.
    unfit
        Other columns, with what each of them is and what to do about it.

    Raises
    ------
    DatabaseError
        There is none such, or it is not clear which.
    """
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted is not None and wanted in unfit:
        raise DatabaseError(f"{where}: column {wanted} is {unfit[wanted]}")
    if wanted is None and not found and unfit:
        listed = "; ".join(f"column {name} is {what}" for name, what in unfit.items())
        raise DatabaseError(f"{where}: no column of vectors of one width: {listed}")
    said = f"no column {wanted}" if wanted else "several columns" if found else "no column"
    listed = f": {', '.join(found)}" if found else ""
    raise DatabaseError(f"{where}: {said} of vectors of one width{listed}; choose one with --column")


def sound_matrix(where: str, lists: pa.Array, width: int, ids: Sequence[Any]) -> Float32:
    """Return Arrow's lists of numbers as float32 of shape (n, width).

    Parameters
    ----------
    where
        Begins messages.
    lists
        One a row, none of them null.
    width
        Of each.
    ids
        Of the rows, for messages.

    Raises
    ------
    DataError
        A number is missing, NaN, infinite or beyond float32.
    """
    flat = lists.flatten()
    if flat.null_count:
        row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise DataError(f"{where}: the vector of {ids[row]!r} has a null in it; mend or remove it")
    with np.errstate(over="ignore"):
        vectors = matrix_of(where, lists, width, 0).astype(np.float32)
    check_sound(where, vectors, ids)
    return vectors


def check_sound(where: str, vectors: Float32, ids: Sequence[Any]) -> None:
    """Refuse vectors that can't be folded, by the ids that the database has for them.

    Raises
    ------
    DataError
        One holds NaN or infinity.
    """
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if odd.size:
        raise DataError(
            f"{where}: the vector of {ids[int(odd[0])]!r} holds NaN, inf or a number beyond float32; mend or "
            f"remove it"
        )


def digests(vectors: Float32) -> list[bytes]:
    """Return 16 bytes of each vector, by which it is seen later whether it changed."""
    rows = np.ascontiguousarray(vectors, "<f4")
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def told_panic(error: BaseException, where: str) -> DatabaseError | None:
    """Return what to say of a library in Rust that gave up, which is no `Exception` in Python, or None."""
    if type(error).__name__ != "PanicException":
        return None
    return DatabaseError(f"{where}: the database's own library gave up on it: {first_line(error)}")


class Sample(NamedTuple):
    """Vectors (n, d) and what the database holds as their folds (n, m), as float32."""

    vectors: Float32
    folded: Float32


class Store(ABC):
    """Full vectors in a database, and a place beside them; nothing ever writes to the full ones.

    It is a context manager. Its methods are called in the order written here.

    Parameters
    ----------
    fold
        Whose results go in.
    dtype
        Of stored folds: "float16" or "float32".
    """

    failures: tuple[type[Exception], ...]
    """What the database raises."""

    source_mark: str
    target_mark: str
    """The names that the note holds; see `Note`."""

    def __init__(self, fold: Fold, dtype: str) -> None:
        self._fold = fold
        self.metric: Metric = fold.metric
        self.n_components = fold.n_components
        self.dtype = dtype
        self._note: Note | None = None

    @abstractmethod
    def close(self) -> None:
        """Release the database."""

    def _check_ours(self, found: Note | None, where: str) -> None:
        """Refuse to write where the note of this migration is not found."""
        if found is None or self._note is None:
            raise DatabaseError(f"{where}: is gone; run it again")
        self._note.check_same(found, where)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def survey(self) -> Survey:
        """Look at what is there; change nothing."""

    @abstractmethod
    def prepare(self, note: Note) -> None:
        """Make the place for folded vectors, with its note, unless it is there."""

    @abstractmethod
    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Write the fold of each vector that has none, and anew that of each vector that changed since.

        This is done in batches that are each there whole or not at all, each after the note was read back
        from the place that is written to.
        """

    @abstractmethod
    def finish(self, *, index: bool) -> int:
        """Remove folds whose vectors are gone; build the index where one is wanted and missing.

        Returns how many were removed: of those alone that nearfold is shown to have written.
        """

    @abstractmethod
    def gaps(self) -> tuple[int, int]:
        """Return how many vectors lack a fold, and how many folds are doubled or lack a vector."""

    @abstractmethod
    def sample(self, count: int, seed: int) -> Sample:
        """Return vectors drawn at random, with their folds."""

    @abstractmethod
    def exact(self, vector: Float32, k: int) -> Float64:
        """Return the distances to the k nearest full vectors, by a search without an index."""

    @abstractmethod
    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Return the same of the k best candidates, searched as `recipe` tells to."""

    @abstractmethod
    def mark(self, note: Note) -> None:
        """Replace the note."""

    @abstractmethod
    def recipe(self, k: int, n_candidates: int) -> str:
        """Return how to search in two stages, as text to be copied."""


class SqlStore(Store):
    """A table of folded vectors beside one of full ones, in a database that is asked in SQL."""

    _at: str
    """The table of folds, as messages call it."""

    @abstractmethod
    def _run(self, sql: str, *parameters: Any, **parts: Any) -> Any:
        """Execute a template of a statement, with names and parts put in, and return its cursor."""

    def _value(self, sql: str, *parameters: Any, **parts: Any) -> Any:
        return self._run(sql, *parameters, **parts).fetchone()[0]

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Any]:
        """Begin a transaction, which ends with the block."""

    @abstractmethod
    def _found(self) -> Note | None:
        """Return the note of the table, if there is one; refuse anything else of its name."""

    def _hold(self) -> None:
        """Keep others from replacing the table, where the database would let them."""

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Begin a transaction that writes, after the table was seen to be nearfold's own within it."""
        with self._transaction():
            self._hold()
            self._check_ours(self._found(), self._at)
            yield

    @abstractmethod
    def _comment(self, note: Note) -> None:
        """Replace the comment on the table of folds."""

    def mark(self, note: Note) -> None:
        """Replace the comment on the table."""
        with self._claimed():
            self._comment(note)

    def gaps(self) -> tuple[int, int]:
        """Count by anti-joins."""
        return self._value("SELECT count(*) {missing}"), self._value("SELECT count(*) {orphans}")
