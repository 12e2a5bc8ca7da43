"""What a database must be able to do to hold folded vectors beside its full ones."""

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
    """What a pass over the vectors has written.

    Attributes
    ----------
    written : int
        The number of vectors that got their first fold.
    refreshed : int
        The number of folds that were made anew, because their vectors had changed.
    """

    written: int
    refreshed: int

    def plus(self, other: Filled) -> Filled:
        """Return the sums of both."""
        return Filled(self.written + other.written, self.refreshed + other.refreshed)


@dataclass(frozen=True)
class Note:
    """What a database keeps of a migration: the mark by which nearfold knows its own work.

    It holds what was written, and where. So no other fold continues the migration, and a copy of the note on
    somebody else's table claims nothing.

    Parameters
    ----------
    encoder : str
        SHA-256 of the weights of the fold, in hexadecimal.
    method, metric : str
        The method and the metric of the fold.
    n_components : int
        The number m of reduced dimensions.
    dtype : str
        The type of the folded vectors, "float16" or "float32".
    recall : float or None
        The recall that was verified when the migration was last complete; None before.
    source, target : str or None
        The names of what holds the full vectors and of what holds the folded ones, in the words of the
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

    def dumps(self) -> str:
        """Return the note as a line of JSON."""
        return json.dumps({"nearfold": asdict(self)})

    @classmethod
    def loads(cls, text: str | None, where: str) -> Note:
        """Return the note that a text holds.

        Parameters
        ----------
        text : str or None
            The text, None where there is none.
        where : str
            The place of the text, which begins the message of the error.

        Returns
        -------
        Note

        Raises
        ------
        DatabaseError
            The text holds no note: what is at `where` was not made by nearfold.
        """
        try:
            return msgspec.json.decode(text or "", type=dict[str, Note])["nearfold"]
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError) as error:
            raise _foreign(where) from error

    def check_same(self, other: Note, where: str) -> None:
        """Refuse to continue with folded vectors of another fold, or by a note for another place.

        Parameters
        ----------
        other : Note
            The note that was found.
        where : str
            The place where it was found, which begins the message of the error.

        Raises
        ------
        DatabaseError
            `other` is not of this migration.
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

    Attributes
    ----------
    source, target : str
        Where the full vectors are and where folded ones go, as a user knows these places.
    rows : int
        The number of vectors.
    folded : int
        The number of vectors that have a fold.
    n_features : int
        The number d of dimensions of the vectors.
    note : Note or None
        The note of a migration that was begun earlier.
    makes : list of str
        What will be made, a line for each thing.
    remark : str or None
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
    """Return the error of a place that is taken by something else than folded vectors."""
    return DatabaseError(f"{where}: is there already and holds no folded vectors; choose another --name")


def check_columns(note: Note, found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a table of folds whose columns are not those that nearfold gave it.

    Parameters
    ----------
    note : Note
        The note of the table. One of an earlier version has no places, and its table has no digests.
    found, wanted : mapping of str to Any
        The types of the columns by their names, as they are and as they should be.
    where : str
        The table, which begins the message of the error.

    Raises
    ------
    DatabaseError
        The columns are others.
    """
    if found != wanted and not (note.source is None and {**found, DIGEST: wanted[DIGEST]} == wanted):
        raise DatabaseError(f"{where}: has other columns than nearfold gave it; choose another --name")


def key_taken(where: str, key: str) -> DatabaseError:
    """Return the error of a key that has the name of another column of the folded table.

    Parameters
    ----------
    where : str
        The table, which begins the message.
    key : str
        The name of the key.

    Returns
    -------
    DatabaseError
    """
    return DatabaseError(
        f"{where}: the id is named {key}, as a column of the folded table will be; choose another with --id"
    )


def chosen_column(
    found: Sequence[str], wanted: str | None, where: str, unfit: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the column of full vectors: the wanted one, or the only one there is.

    Parameters
    ----------
    found : sequence of str
        The columns that can be read.
    wanted : str or None
        The column that the user names.
    where : str
        The table, which begins the messages of errors.
    unfit : mapping of str to str
        Other columns that look like vectors, with what each of them is and what to do about it.

    Returns
    -------
    str

    Raises
    ------
    DatabaseError
        There is no such column, or it is not clear which is meant.
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
    """Return lists of numbers of Arrow as float32.

    Parameters
    ----------
    where : str
        The table, which begins the messages of errors.
    lists : pyarrow.Array
        One list a row, none of them null.
    width : int
        The length that each list must have.
    ids : sequence
        The ids of the rows, by which errors name them.

    Returns
    -------
    ndarray of shape (n, width), float32

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

    Parameters
    ----------
    where : str
        The table, which begins the message of the error.
    vectors : ndarray of shape (n, d), float32
        The vectors.
    ids : sequence
        The ids of the rows.

    Raises
    ------
    DataError
        A vector holds NaN or infinity.
    """
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if odd.size:
        raise DataError(
            f"{where}: the vector of {ids[int(odd[0])]!r} holds NaN, inf or a number beyond float32; mend or "
            f"remove it"
        )


def digests(vectors: Float32) -> list[bytes]:
    """Return a digest of each vector, by which it is seen later whether the vector has changed.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        The vectors.

    Returns
    -------
    list of bytes
        BLAKE2b of the little-endian numbers, 16 bytes each.
    """
    rows = np.ascontiguousarray(vectors, "<f4")
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def told_panic(error: BaseException, where: str) -> DatabaseError | None:
    """Return what to say of a library in Rust that gave up, which raises no `Exception` of Python.

    Parameters
    ----------
    error : BaseException
        What was raised.
    where : str
        The database, which begins the message.

    Returns
    -------
    DatabaseError or None
        None where `error` is something else.
    """
    if type(error).__name__ != "PanicException":
        return None
    return DatabaseError(f"{where}: the database's own library gave up on it: {first_line(error)}")


class Sample(NamedTuple):
    """Some vectors, and what the database holds as their folds.

    Attributes
    ----------
    vectors : ndarray of shape (n, d), float32
        The vectors.
    folded : ndarray of shape (n, m), float32
        Their folds.
    """

    vectors: Float32
    folded: Float32


class Store(ABC):
    """Full vectors in a database, which are only ever read, and a place beside them for their folds.

    A store is a context manager. Its methods are called in the order in which they are written here.

    Parameters
    ----------
    fold : Fold
        The fold whose results are stored.
    dtype : {"float16", "float32"}
        The type of the folded vectors.
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
        """Look at what is there, and change nothing.

        Returns
        -------
        Survey
        """

    @abstractmethod
    def prepare(self, note: Note) -> None:
        """Make the place for folded vectors, with its note, unless it is there.

        Parameters
        ----------
        note : Note
            The note of this migration.
        """

    @abstractmethod
    def fill(self, fold: FoldRows, advance: Advance) -> Filled:
        """Write the fold of each vector that has none, and anew that of each vector that has changed since.

        This is done in batches that are each there whole or not at all. Before each of them the note is read
        back from the place that is written to.

        Parameters
        ----------
        fold : callable
            Takes vectors of shape (n, d) and returns their folds of shape (n, m), of the type that is stored.
        advance : callable
            Is told of the number of rows done.

        Returns
        -------
        Filled
        """

    @abstractmethod
    def finish(self, *, index: bool) -> int:
        """Remove folds whose vectors are gone, and build the index where one is wanted and missing.

        Parameters
        ----------
        index : bool
            Whether an index is wanted.

        Returns
        -------
        int
            The number of folds that were removed. Only those are that nearfold is shown to have written.
        """

    @abstractmethod
    def gaps(self) -> tuple[int, int]:
        """Return how many vectors lack a fold, and how many folds are doubled or lack a vector.

        Returns
        -------
        missing, extra : int
        """

    @abstractmethod
    def sample(self, count: int, seed: int) -> Sample:
        """Return vectors drawn at random, with their folds.

        Parameters
        ----------
        count : int
            The number of vectors, or all where there are fewer.
        seed : int
            The seed of the draw.

        Returns
        -------
        Sample
        """

    @abstractmethod
    def exact(self, vector: Float32, k: int) -> Float64:
        """Return the distances to the nearest full vectors, by a search without an index.

        Parameters
        ----------
        vector : ndarray of shape (d,), float32
            The query.
        k : int
            The number of neighbours.

        Returns
        -------
        ndarray of shape (k,), float64
            The distances as the database measures them, nearest first.
        """

    @abstractmethod
    def two_stage(self, vector: Float32, folded: Float32, k: int, n_candidates: int) -> Float64:
        """Return the distances to the best of some candidates, searched as `recipe` tells to.

        Parameters
        ----------
        vector : ndarray of shape (d,), float32
            The query.
        folded : ndarray of shape (m,), float32
            The fold of the query.
        k : int
            The number of neighbours.
        n_candidates : int
            The number of candidates that folded vectors give.

        Returns
        -------
        ndarray of shape (k,), float64
            As for `exact`.
        """

    @abstractmethod
    def mark(self, note: Note) -> None:
        """Replace the note.

        Parameters
        ----------
        note : Note
            The new note.
        """

    @abstractmethod
    def recipe(self, k: int, n_candidates: int) -> str:
        """Return how to search in two stages.

        Parameters
        ----------
        k, n_candidates : int
            As for `two_stage`.

        Returns
        -------
        str
            SQL or Python, to be copied.
        """


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
