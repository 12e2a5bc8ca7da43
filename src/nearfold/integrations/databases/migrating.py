"""The migration itself, which fills and verifies, and is the same for every database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, check_positive, check_width
from nearfold._utils.progress import stage
from nearfold.errors import DatabaseError, DataError, NearfoldError
from nearfold.evaluation.intervals import Estimate, estimate
from nearfold.folds.fold import Fold
from nearfold.integrations.databases.base import Filled, Note, Sample, Store, Survey, told_panic
from nearfold.io.lists import first_line

__all__ = ["Migration", "migrate", "note_of"]

# Vectors that come while others are filled in are folded in another pass.
_PASSES = 5
# float16 keeps 11 bits.
_TOLERANCE = {"float16": 2e-3, "float32": 1e-4}


@dataclass(frozen=True)
class Migration:
    """What a migration did or, with `dry_run`, would do.

    Parameters
    ----------
    survey : Survey
        What was there before.
    written : int
        The number of rows folded now that had no fold.
    refreshed : int
        The number of folds that were made anew, because their vectors had changed since, or because nothing
        tells whether they had.
    removed : int
        The number of folds that were removed, because their vectors are gone.
    recall : Estimate or None
        The share of the true nearest neighbours, found by an exact search of full vectors, that the search
        in two stages finds. None where nothing was done.
    queries : int
        The number of rows that were searched for.
    recipe : str
        How to search in two stages, as text to be copied.
    """

    survey: Survey
    written: int
    refreshed: int
    removed: int
    recall: Estimate | None
    queries: int
    recipe: str

    def as_dict(self) -> dict[str, Any]:
        """Return the migration as JSON holds it.

        Returns
        -------
        dict
        """
        survey = self.survey
        return {
            "source": survey.source,
            "target": survey.target,
            "rows": survey.rows,
            "folded_before": survey.folded,
            "makes": [] if survey.note else survey.makes,
            "written": self.written,
            "refreshed": self.refreshed,
            "removed": self.removed,
            "remark": survey.remark,
            "recall": None if self.recall is None else self.recall._asdict(),
            "queries": self.queries,
            "recipe": self.recipe,
        }


@dataclass(frozen=True)
class _Asked:
    """How recall is verified: k of `n_candidates`, with `count` rows drawn by `seed`, at least `least`."""

    k: int
    n_candidates: int
    count: int
    least: float
    seed: int


def note_of(fold: Fold, dtype: str) -> Note:
    """Return the note that a database keeps of a migration.

    Parameters
    ----------
    fold : Fold
        The fold whose results are stored.
    dtype : {"float16", "float32"}
        The type of the folded vectors.

    Returns
    -------
    Note
        The note, without the places that it is for.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(fold.tensors().items()):
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return Note(digest.hexdigest(), fold.method, fold.metric, fold.n_components, dtype)


def migrate(
    fold: Fold,
    store: Store,
    *,
    k: int = 10,
    n_candidates: int = 100,
    recall: float = 0.95,
    n_queries: int = 200,
    index: bool = True,
    dry_run: bool = False,
    seed: int = 0,
) -> Migration:
    """Put folded vectors beside the full ones of a database, and verify that they find their neighbours.

    Batches are there whole or not at all, so a run that was killed is resumed by running it again. Vectors
    that have come since are folded too, those that have changed are folded anew, and folds whose vectors are
    gone are removed. Full vectors are only read.

    Parameters
    ----------
    fold : Fold
        The fold that `store` was opened for.
    store : Store
        The database, from `open_store`.
    k : int, default=10
        The number of neighbours that a search is to find.
    n_candidates : int, default=100
        The number of candidates that the first stage of a search gives, which full vectors put in order.
    recall : float, default=0.95
        The share of the true k nearest that the search in two stages must find, from 0 to 1.
    n_queries : int, default=200
        The number of stored rows to search for.
    index : bool, default=True
        Whether to build an index over the folded vectors.
    dry_run : bool, default=False
        Whether to look only, and to change nothing.
    seed : int, default=0
        The seed of the draw of those rows.

    Returns
    -------
    Migration

    Raises
    ------
    ParameterError
        `k`, `n_candidates` or `n_queries` is not a positive whole number.
    DataError
        The vectors have other dimensions than the fold takes, or there are too few of them.
    DatabaseError
        The database refuses, another run is at work or has used another fold, or what was written is not what
        was meant: rows are missing, folds differ, or too little is found.
    """
    for name, value in (("k", k), ("n_candidates", n_candidates), ("n_queries", n_queries)):
        check_positive(name, value)
    with _told(store):
        survey = store.survey()
        note = note_of(fold, store.dtype).placed(store.source_mark, store.target_mark)
        check_width(survey.source, survey.n_features, fold.n_features)
        if survey.note is not None:
            note.check_same(survey.note, survey.target)
        if survey.rows <= k:
            raise DataError(f"{survey.source}: has {survey.rows} vectors; a search for {k} needs more")
        if dry_run:
            return Migration(survey, 0, 0, 0, None, 0, store.recipe(k, n_candidates))
        store.prepare(note)
        filled = _filled(fold, store, survey)
        with stage("index", 1, "index") as advance:
            removed = store.finish(index=index)
            advance(1)
        missing, extra = store.gaps()
        if missing:
            raise DatabaseError(
                f"{survey.target}: {missing} vectors have no fold; they came meanwhile: run it again"
            )
        if extra:
            raise DatabaseError(
                f"{survey.target}: {extra} rows there have no vector of their own, or are doubled, and "
                "nothing shows that nearfold wrote them; they stay as they are: move them elsewhere, and run "
                "it again"
            )
        found = _verified(fold, store, survey, _Asked(k, n_candidates, n_queries, recall, seed))
        store.mark(replace(note, recall=found.mean))
        recipe = store.recipe(k, n_candidates)
        return Migration(survey, *filled, removed, found, min(n_queries, survey.rows), recipe)


@contextmanager
def _told(store: Store) -> Iterator[None]:
    """Make what a database raises a `DatabaseError`."""
    try:
        yield
    except NearfoldError:
        raise
    except store.failures as error:
        raise DatabaseError(f"the database refused: {first_line(error)}") from error
    except BaseException as error:
        panic = told_panic(error, store.source_mark)
        if panic is None:
            raise
        raise panic from error


def _filled(fold: Fold, store: Store, survey: Survey) -> Filled:
    """Fill until a pass finds nothing more to fold, for a few passes at most."""

    def folded(vectors: Float32) -> npt.NDArray[Any]:
        return fold.transform(vectors, dtype=np.dtype(store.dtype))

    total = Filled(0, 0)
    with stage("fold", max(0, survey.rows - survey.folded)) as advance:
        for _ in range(_PASSES):
            done = store.fill(folded, advance)
            total = total.plus(done)
            if not any(done):
                break
    return total


def _verified(fold: Fold, store: Store, survey: Survey, asked: _Asked) -> Estimate:
    """Compare stored folds with the results of the fold, and the search in two stages with the exact one."""
    sample = store.sample(asked.count, asked.seed)
    folded = fold.transform(sample.vectors)
    _check_folds(sample, folded, survey, _TOLERANCE[store.dtype])
    # A row is its own nearest by cosine and l2, whatever was done to it.
    own = 1 if store.metric != "ip" else 0
    shares = []
    with stage("verify", len(folded), "queries") as advance:
        for vector, z in zip(sample.vectors, folded, strict=True):
            if store.metric == "cosine" and not vector.any():
                # It has no direction, so nothing is nearest to it.
                advance(1)
                continue
            true = store.exact(vector, asked.k + own)[own:]
            found = store.two_stage(vector, z, asked.k + own, asked.n_candidates)[own:]
            # Equally near is as good: rows may be there twice.
            bound = true[-1] + 1e-5 * max(1.0, abs(true[-1]))
            shares.append(np.count_nonzero(found <= bound) / len(true))
            advance(1)
    if not shares:
        raise DataError(
            f"{survey.source}: its vectors are zero, which have no neighbours by cosine; remove them"
        )
    result = estimate(np.array(shares)[:, None])[0]
    if result.mean < asked.least:
        raise DatabaseError(
            f"{survey.target}: search in two stages finds {result.mean:.3f} of the true {asked.k} nearest, "
            f"less than {asked.least}; ask for more candidates (--n-candidates), or fold to more dimensions"
        )
    return result


def _check_folds(sample: Sample, folded: Float32, survey: Survey, tolerance: float) -> None:
    """Refuse folds that are not of this fold; directions are compared, for some databases keep no more."""
    first, second = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        for rows in (sample.folded.astype(np.float64), folded.astype(np.float64))
    )
    off = np.abs(first - second).max(axis=1, initial=0) > tolerance
    if off.any():
        raise DatabaseError(
            f"{survey.target}: {int(off.sum())} of {len(off)} rows looked at hold other folds than the "
            f"encoder's: vectors changed since they were folded, or somebody wrote there; remove it and run "
            f"it again"
        )
