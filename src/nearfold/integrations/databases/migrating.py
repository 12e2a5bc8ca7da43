"""Fill, verify, and tell how to query: the same for every database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    """What was done, or with `dry_run` what would be.

    Parameters
    ----------
    survey
        What was there before.
    written
        Rows folded now that had no fold.
    refreshed
        Folds made anew, because their vectors changed since, or because nothing tells whether they did.
    removed
        Folds removed, because their vectors are gone.
    recall
        Of the search in two stages, by the exact search of full vectors; None where nothing was done.
    queries
        How many rows were asked with.
    recipe
        How to search.
    """

    survey: Survey
    written: int
    refreshed: int
    removed: int
    recall: Estimate | None
    queries: int
    recipe: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
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
    """How recall is verified."""

    k: int
    n_candidates: int
    count: int
    least: float
    seed: int


def note_of(fold: Fold, dtype: str) -> Note:
    """Return what a database is to keep of a migration."""
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
    """Put folded vectors beside the full ones of a database, and verify that they find these.

    Batches are there whole or not at all, so a run that is killed is gone on with by another one. Vectors
    that came since are folded too, those that changed are folded anew, and folds whose vectors are gone are
    removed. Full vectors are only read.

    Parameters
    ----------
    fold
        That `store` was opened for.
    store
        From `open_store`.
    k, n_candidates
        The search that is verified: the k best of `n_candidates` candidates, put in order by full vectors.
    recall
        The share of the true k nearest that must be found.
    n_queries
        Rows to ask with.
    index
        Build an index over folded vectors.
    dry_run
        Only look.
    seed
        Of the rows drawn.

    Raises
    ------
    DataError
        The vectors have other dimensions than the fold takes, or there are too few.
    DatabaseError
        The database refuses, another run is at work or used another fold, or what was written is not what
        was to be: rows are missing, folds differ, or too little is found.
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
        store.mark(note.with_recall(found.mean))
        recipe = store.recipe(k, n_candidates)
        return Migration(survey, *filled, removed, found, min(n_queries, survey.rows), recipe)


@contextmanager
def _told(store: Store) -> Iterator[None]:
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
    """Compare folds with the fold's own, and the search in two stages with the exact one."""
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
    """Refuse folds that are not this fold's: some databases store directions alone, so those are compared."""
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
