"""Add new rows to what an encoder was learned from, and learn again only where that helps."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nearfold._utils.arrays import check_width
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold.errors import FileError, ParameterError
from nearfold.evaluation.bounds import null_space_energy, row_space
from nearfold.evaluation.drift import IN_SAMPLE_ROWS, drift_stats, with_drift_stats
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import as_fold
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, checked_rows
from nearfold.methods.objective import check_told_apart, loss_of_fold, score_spread
from nearfold.methods.registry import make
from nearfold.methods.scanned import ScanFold
from nearfold.scan.budget import SAMPLED_ROWS
from nearfold.scan.checkpoint import ScanCheckpoint, input_digests
from nearfold.scan.engine import Engine
from nearfold.scan.engines import engine_for
from nearfold.scan.neighbors import Neighbors, nearest
from nearfold.scan.scan import Anchors, Kept, Scan, prepared
from nearfold.scan.scanning import with_neighbors

__all__ = ["Update", "update"]


# One block in so many is held back to judge by.
_HELD_OUT = 5


class Update(NamedTuple):
    """What `update` has made of new rows.

    Attributes
    ----------
    fold : Encoder
        The fold that was given, or one that was learned again from all rows.
    checkpoint : ScanCheckpoint
        The scan of all rows, to be saved.
    refitted : bool
        Whether the fold was learned again.
    rows : int
        The number of rows that were added.
    loss_before, loss_after : float
        The held-out loss over all rows, of the fold that was given and of one learned again. For NearFold
        it is the loss on blocks that are held out of learning; for others it is the share of the energy that
        is dropped.
    """

    fold: Encoder
    checkpoint: ScanCheckpoint
    refitted: bool
    rows: int
    loss_before: float
    loss_after: float


def update(
    fold: Any, checkpoint: ScanCheckpoint | str | os.PathLike[str], X: Any, *, min_gain: float = 0.05
) -> Update:
    """Add new rows to what a fold was learned from, and learn again where held-out loss falls enough.

    The old rows are not read: their moments and the anchors' neighbours among them are in the checkpoint.
    Anchors drawn from the new rows look for neighbours among those and the old rows that are kept.

    Parameters
    ----------
    fold : Encoder or estimator
        What was learned from the rows of the checkpoint.
    checkpoint : ScanCheckpoint or path
        The finished scan of those rows, which `fit(..., checkpoint=...)` keeps. It is not changed: save the
        result's own.
    X : array-like, path, URL or Source
        The new rows alone, shape (n, d).
    min_gain : float, default=0.05
        The share of itself by which held-out loss must fall for the fold to be replaced. Whoever replaces
        a fold has to fold everything again.

    Returns
    -------
    Update
        The fold, as it was or learned again, and the checkpoint of all rows.

    Raises
    ------
    DataError
        The new rows are not as wide, not finite, or zero under cosine.
    FileError
        The scan is unfinished or not that of this fold, or new files were counted before.
    ParameterError
        The fold's method can't learn from a scan.
    """
    encoder: Encoder = as_fold(fold)
    state = checkpoint if isinstance(checkpoint, ScanCheckpoint) else ScanCheckpoint.load(checkpoint)
    source = as_source(X)
    engine = engine_for(source)
    if state.scan is None or state.done < state.rows or state.sample is None:
        raise FileError("the scan is not finished; run the fit that began it to its end")
    check_width(source.path, source.layout.n_features, encoder.n_features)
    if state.scan.moments.n_features != encoder.n_features or state.request.metric != encoder.metric:
        raise FileError("the scan is not that of this encoder; give the checkpoint that its fit wrote")
    estimator = make(encoder.method, encoder.n_components, **_parameters(encoder))
    if not isinstance(estimator, ScanFold):
        raise ParameterError(f"method {encoder.method} can't be updated: it needs all rows at once")
    _check_asked(estimator, encoder, state)
    digests = input_digests(source)
    if doubled := [part.path for part, d in zip(source.parts, digests, strict=True) if d in state.inputs]:
        raise FileError(f"{doubled[0]}: is in the scan already; give new rows alone")
    total = state.rows + source.layout.rows
    anchors, start, sample = _grown(state, source, engine, total)
    scan = _scan_new_rows(state, source, engine, anchors, start)
    grown = ScanCheckpoint(state.request, anchors, total, total, scan, sample, state.inputs + digests)
    before, after = _held_out_losses(encoder, estimator, grown)
    if not after < before * (1 - min_gain):
        return Update(encoder, grown, False, source.layout.rows, before, after)
    learned = estimator.learn_from_scan(scan, anchors, encoder.n_components, state.request)
    learned = learned.with_facts(rows_before_update=state.rows)
    if total >= IN_SAMPLE_ROWS:
        learned = with_drift_stats(learned, drift_stats(learned, sample.vectors))
    return Update(learned, grown, True, source.layout.rows, before, after)


def _check_asked(estimator: ScanFold, encoder: Encoder, state: ScanCheckpoint) -> None:
    """Refuse a scan in which an encoder's method does not find what it learns from."""
    asked, have = estimator.scan_spec(state.rows, encoder.n_components), state.request
    if (
        asked is None
        or asked.normalize != have.normalize
        or (asked.n_anchors > 0) != (state.anchors is not None)
    ):
        raise FileError("the scan is not that of this encoder; give the checkpoint that its fit wrote")


def _parameters(encoder: Encoder) -> dict[str, object]:
    """Return the parameters that an encoder was fitted with, as its method takes them."""
    skipped = {"n_components", "solver"} if encoder.method == "rae-exact" else {"n_components"}
    if encoder.method == "pca-uncentred":
        skipped.add("center")
    return {name: value for name, value in encoder.parameters.items() if name not in skipped}


def _grown(
    state: ScanCheckpoint, source: Source, engine: Engine, total: int
) -> tuple[Anchors | None, Scan, Kept]:
    """Return anchors and drift sample of the grown whole, and what is known of the anchors' neighbours.

    A sample of the whole is made of old sampled rows and new rows: see `sampled_rows`.
    """
    assert state.scan is not None
    assert state.sample is not None
    seed, old = state.request.seed, state.anchors
    drift_rows = sampled_rows(total, SAMPLED_ROWS, seed + 1)
    rows = np.empty(0, np.int64) if old is None else sampled_rows(total, state.request.n_anchors, seed)
    wanted = np.union1d(rows, drift_rows)
    wanted = wanted[wanted >= state.rows]
    numbers = wanted - state.rows
    drawn = checked_rows(engine.take(source, numbers), numbers, source, directions=state.request.normalize)
    fresh = Kept(wanted, drawn)
    width = source.layout.n_features
    sample = Kept.gathered([state.sample, fresh], drift_rows, width)
    if old is None or state.scan.neighbors is None:
        return old, state.scan, sample
    staying = np.flatnonzero(np.isin(old.rows, rows))
    new_rows = rows[rows >= state.rows]
    vectors = prepared(Kept.gathered([fresh], new_rows, width).vectors, state.request, old.shift)
    known, asked = (state.scan.of_anchors(which).neighbors for which in (staying, old.of_queries))
    assert known is not None
    assert asked is not None
    assert state.scan.kept is not None
    kept = state.scan.kept
    found = _nearest_kept(vectors, kept, old)
    anchors = replace(
        old,
        vectors=np.concatenate([old.vectors[staying], vectors, old.vectors[old.of_queries]]),
        rows=np.concatenate([old.rows[staying], new_rows]),
        floor=None,
    )
    once = anchors.distinct()
    start = replace(state.scan, neighbors=known.joined(found, axis=0).joined(asked, axis=0))
    return anchors.chosen(once), start.of_anchors(once), sample


def _nearest_kept(vectors: np.typing.NDArray[np.float32], kept: Kept, anchors: Anchors) -> Neighbors:
    """Return new anchors' neighbours among the old rows that are kept."""
    if not len(vectors):
        return Neighbors.empty(0, anchors.k, distinct=True)
    found = nearest(vectors, [kept.vectors], anchors.k, anchors.metric, len(kept.ids), distinct=True)
    return found._replace(ids=np.where(found.ids < 0, -1, kept.ids[found.ids]))


def _scan_new_rows(
    state: ScanCheckpoint, source: Source, engine: Engine, anchors: Anchors | None, start: Scan
) -> Scan:
    before, finish = 0, None
    with stage("scan", source.layout.rows) as advance:
        for progress in engine.scan(source, state.request, anchors, 0, start, state.rows):
            done, finish = progress
            advance(done - before)
            before = done
    assert finish is not None
    return with_neighbors(finish(), source, engine, state.request, start.kept, state.rows)


def _held_out_losses(encoder: Encoder, estimator: ScanFold, state: ScanCheckpoint) -> tuple[float, float]:
    """Return the loss of the encoder as it is and of one learned again, where neither was fitted."""
    assert state.scan is not None
    scan, anchors, request = state.scan, state.anchors, state.request
    if anchors is None:
        moments = scan.moments
        second = moments.covariance if encoder.bias is not None else moments.uncentered
        again = estimator.learn_from_scan(scan, None, encoder.n_components, request)
        losses = [null_space_energy(second, row_space(e.weight)) for e in (encoder, again)]
        return losses[0], losses[1]
    # Where there are queries, what they find is what counts.
    counting = anchors.of_queries if len(anchors.of_queries) else anchors.of_rows
    held = counting[::_HELD_OUT]
    trained = np.setdiff1d(np.arange(len(anchors.vectors)), held)
    again = estimator.learn_from_scan(
        scan.of_anchors(trained), anchors.chosen(trained), encoder.n_components, request
    )
    blocks = scan.of_anchors(held).blocks(anchors.chosen(held))
    rows = blocks.vectors[blocks.index]
    # Loss is a matter of who is nearer: refused where that can't be told.
    check_told_apart(rows, score_spread(rows, encoder.metric), "to compare by")
    values = [
        loss_of_fold(e.weight, rows, encoder.metric, anchors_only=blocks.foreign) for e in (encoder, again)
    ]
    assert values[0] is not None
    assert values[1] is not None
    return values[0], values[1]
