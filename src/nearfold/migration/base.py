"""What a database must be able to do to take folded vectors beside its full ones."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric
from nearfold.errors import DatabaseError
from nearfold.fold import Fold

__all__ = ["Advance", "FoldRows", "Note", "Sample", "Store", "Survey", "chosen_column"]

FoldRows: TypeAlias = Callable[[Float32], npt.NDArray[Any]]
"""From vectors (n, d) to folded ones (n, m), of the type that is stored."""

Advance: TypeAlias = Callable[[int], None]
"""Told of rows done."""


@dataclass(frozen=True)
class Note:
    """What the database keeps of a migration, so that no other encoder goes on with it.

    Parameters
    ----------
    encoder
        SHA-256 of the encoder's file.
    method, metric, n_components, dtype
        Of the folded vectors.
    recall
        As verified when it was last complete; None before.
    """

    encoder: str
    method: str
    metric: str
    n_components: int
    dtype: str
    recall: float | None = None

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
            return cls(**json.loads(text or "")["nearfold"])
        except (ValueError, TypeError, KeyError) as error:
            raise DatabaseError(
                f"{where}: is there already and holds no folded vectors; choose another --name"
            ) from error

    def check_same(self, other: Note, where: str) -> None:
        """Refuse to go on with folded vectors of another encoder."""
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
    """

    source: str
    target: str
    rows: int
    folded: int
    n_features: int
    note: Note | None
    makes: list[str]


def chosen_column(found: Sequence[str], wanted: str | None, where: str) -> str:
    """Return the column of full vectors: the wanted one, or the only one there is.

    Raises
    ------
    DatabaseError
        There is none such, or it is not clear which.
    """
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    said = f"no column {wanted}" if wanted else "several columns" if found else "no column"
    listed = f": {', '.join(found)}" if found else ""
    raise DatabaseError(f"{where}: {said} of vectors of one width{listed}; choose one with --column")


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

    def __init__(self, fold: Fold, dtype: str) -> None:
        self._fold = fold
        self.metric: Metric = fold.metric
        self.n_components = fold.n_components
        self.dtype = dtype

    @abstractmethod
    def close(self) -> None:
        """Release the database."""

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
    def fill(self, fold: FoldRows, advance: Advance) -> int:
        """Write the fold of each vector that has none, in batches that are each there whole or not at all.

        Returns how many.
        """

    @abstractmethod
    def finish(self, *, index: bool) -> None:
        """Remove folds whose vectors are gone; build the index where one is wanted and missing."""

    @abstractmethod
    def gaps(self) -> tuple[int, int]:
        """Return how many vectors lack a fold, and how many folds are doubled or lack a vector."""

    @abstractmethod
    def sample(self, count: int, seed: int) -> Sample:
        """Return vectors drawn at random, with their folds."""

    @abstractmethod
    def exact(self, vector: Float32, k: int) -> npt.NDArray[np.float64]:
        """Return the distances to the k nearest full vectors, by a search without an index."""

    @abstractmethod
    def two_stage(self, vector: Float32, folded: Float32, k: int, depth: int) -> npt.NDArray[np.float64]:
        """Return the same of the k best of `depth` candidates, searched as `recipe` tells to."""

    @abstractmethod
    def mark(self, note: Note) -> None:
        """Replace the note."""

    @abstractmethod
    def recipe(self, k: int, depth: int) -> str:
        """Return how to search in two stages, as text to be copied."""
