"""Fit to files of any size: one scan by an engine, then what every fit does."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Float32, check_directions, check_metric, check_tiny, resolve_components
from nearfold._utils.files import held_file
from nearfold._utils.progress import stage
from nearfold._utils.sampling import fingerprint_of, fingerprint_rows, sampled_rows
from nearfold._utils.threads import blas_threads
from nearfold.errors import DataError, FileError, NearfoldWarning, ParameterError
from nearfold.evaluation.drift import (
    IN_SAMPLE_ROWS,
    SAMPLE_SIZES,
    drift_stats,
    held_out_drift_stats,
    with_drift_stats,
)
from nearfold.folds.encoder import Encoder
from nearfold.io.base import Layout, Source
from nearfold.io.vectors import as_source, checked_rows, read_source
from nearfold.methods.base import FoldEstimator
from nearfold.methods.nearfold import NearFold
from nearfold.methods.scanned import ScanFold
from nearfold.scan.budget import LEAST_ANCHORS, affordable_anchors, scan_bytes
from nearfold.scan.checkpoint import ScanState, input_digests, read_state, write_state
from nearfold.scan.engine import Engine
from nearfold.scan.engines import engine_for
from nearfold.scan.scan import Kept, Request, Scan, anchors_of, prepared

__all__ = ["fit_files", "scans", "with_neighbors"]

# A state is written when this many times what the last writing took has passed, at least.
_WRITE_SHARE, _WRITE_SECONDS = 50, 20.0


class _Writer(NamedTuple):
    """When to write a state."""

    due: float
    path: str | os.PathLike[str] | None

    def maybe(self, state: Callable[[], ScanState]) -> _Writer:
        """Write the state if it is time to, and return when the next is due."""
        if self.path is None or time.monotonic() < self.due:
            return self
        started = time.monotonic()
        write_state(self.path, state())
        now = time.monotonic()
        return self._replace(due=now + max(_WRITE_SECONDS, _WRITE_SHARE * (now - started)))


def scans(estimator: FoldEstimator, source: Source) -> bool:
    """Return whether an estimator can learn from a scan of `source`, or needs its rows in memory."""
    return _request(estimator, source, None) is not None


def _request(estimator: FoldEstimator, source: Source, queries: Float32 | None) -> Request | None:
    n_components = resolve_components(estimator.n_components, source.layout.n_features)
    if queries is None:
        return estimator.scan_request(source.layout.rows, n_components)
    if not isinstance(estimator, NearFold):
        raise ParameterError("queries are for NearFold; other methods learn from the base alone")
    if queries.shape[1] != source.layout.n_features:
        raise DataError(f"queries has {queries.shape[1]} dimensions where X has {source.layout.n_features}")
    return estimator.scan_request(source.layout.rows, n_components, queries)


def fit_files(
    estimator: FoldEstimator,
    source: str | os.PathLike[str] | Source,
    engine: Engine | None = None,
    *,
    column: str | None = None,
    queries: Float32 | None = None,
    state: str | os.PathLike[str] | None = None,
    watch: bool = False,
) -> Encoder:
    """Fit an estimator to files, and return its encoder.

    The rows are read once where single rows can be read (.npy, vecs, HDF5, Lance). Parquet and
    Arrow files are read once before, for the anchors and a sample to watch drift by; a cluster
    reads them once more behind the scan, for the neighbours found.

    Parameters
    ----------
    estimator
        One that can learn from a scan: NearFold, PCA, Whitening, or RAE(solver="exact").
    source
        A file, a folder of files, a URL, or what `open_source` made of one.
    engine
        From `engine_for`; None for this machine with half of its memory.
    column
        The column of vectors, where there are several.
    queries
        A sample of queries, shape (q, d), where they differ in kind (NearFold alone).
    state
        A file that holds the scan as it goes: an interrupted fit goes on from it, and a finished
        one's can be updated.
    watch
        Note in the encoder's facts what `drift` compares with; below 50,000 rows by a second fit.

    Raises
    ------
    ParameterError
        The estimator needs all rows in memory, a parameter is out of range, or memory is too little.
    DataError
        A row is not finite, or zero under cosine.
    FileError
        A file can't be read, or the state belongs to other data or parameters, or another run holds it.
    """
    source, engine = as_source(source, column), engine or engine_for()
    layout = source.layout
    check_metric(estimator.metric)
    if layout.rows < 2:
        raise DataError(f"{source.path}: has 1 row; a fold is learned from at least 2")
    request = _request(estimator, source, queries)
    if request is None or not isinstance(estimator, ScanFold):
        raise ParameterError(f"{type(estimator).__name__} needs all rows in memory: fit it to an array")
    earlier = read_state(state) if state is not None and os.path.exists(state) else None  # noqa: PTH110
    if isinstance(estimator, NearFold) and estimator.n_anchors is None:
        n_anchors = request.n_anchors
        if earlier is not None:
            # What was begun is gone on with, whatever the budget allows now.
            n_anchors = min(n_anchors, earlier.request.n_anchors)
        request = _affordable(request._replace(n_anchors=n_anchors), source, engine)
    rows = np.empty(0, np.int64)
    if request.queries is not None and request.normalize:
        check_directions(request.queries, "queries")
    if request.queries is None:
        rows = sampled_rows(layout.rows, request.n_anchors, request.seed)
    drift_rows = sampled_rows(layout.rows, SAMPLE_SIZES[-1], request.seed + 1)
    marks = fingerprint_rows(layout.rows)
    # All samples by one reading, where files can only be read through.
    together = np.union1d(np.union1d(rows, drift_rows), marks)
    drawn = checked_rows(
        engine.take(source, column, together), together, source, directions=request.normalize
    )
    check_tiny(drawn, estimator.metric, source.path)
    every = len(drift_rows) == len(together)
    sample = Kept(drift_rows, drawn if every else drawn[np.searchsorted(together, drift_rows)])
    fingerprint = fingerprint_of(drawn[np.searchsorted(together, marks)], layout.rows)
    anchors = None
    if request.queries is not None:
        asked = request.queries[sampled_rows(len(request.queries), request.n_anchors, request.seed)]
        anchors = anchors_of(asked, None, request, sample.vectors)
    elif request.n_anchors:
        anchors = anchors_of(drawn[np.searchsorted(together, rows)], rows, request, sample.vectors)
    del drawn
    inputs = () if state is None else input_digests(source)
    begun = ScanState(request, anchors, layout.rows, 0, None, sample, inputs)
    finished = _scanned(source, column, engine, begun, state)
    assert finished.scan is not None
    n_components = resolve_components(estimator.n_components, layout.n_features)
    encoder = estimator.learn_from_scan(finished.scan, finished.anchors, n_components, request)
    encoder = encoder.with_facts(fingerprint=fingerprint)
    if watch and layout.rows >= IN_SAMPLE_ROWS:
        encoder = with_drift_stats(encoder, drift_stats(encoder, sample.vectors))
    elif watch and not _second_fit_fits(layout, engine):
        warnings.warn(
            f"memory={(engine.memory or 0) / 1e6:.0f}MB is too little for the second fit that notes what "
            f"`drift` compares with; it is left out: allow "
            f"{-(-_second_fit_bytes(layout) // 1_000_000)}MB for it",
            NearfoldWarning,
            stacklevel=2,
        )
    elif watch:
        # What the first fit held is not kept through the second.
        del sample, anchors, begun, finished
        options = {} if queries is None else {"queries": queries}
        encoder = with_drift_stats(encoder, held_out_drift_stats(estimator, read_source(source), **options))
    estimator.n_features_in_ = layout.n_features
    estimator.encoder_ = encoder
    return encoder


def _second_fit_bytes(layout: Layout) -> int:
    """Return the bytes that a fit of most rows in memory takes: the rows, those learned from, neighbours."""
    return 3 * 4 * layout.rows * layout.n_features + scan_bytes(
        layout.rows, layout.n_features, 0, 0, blas_threads()
    )


def _second_fit_fits(layout: Layout, engine: Engine) -> bool:
    return engine.memory is None or _second_fit_bytes(layout) <= engine.memory


def _affordable(request: Request, source: Source, engine: Engine) -> Request:
    """Return a request for as many anchors as the engine's memory allows, and say where those are fewer."""
    if engine.memory is None:
        return request
    layout, k = source.layout, request.k + (request.queries is None)
    sizes = layout.rows, layout.n_features
    n_anchors = affordable_anchors(
        *sizes, request.n_anchors, k, blas_threads(), engine.memory, request.metric
    )
    if n_anchors == 0:
        # The scan says what it needs.
        return request._replace(n_anchors=min(LEAST_ANCHORS, request.n_anchors))
    if n_anchors < request.n_anchors:
        needed = scan_bytes(*sizes, request.n_anchors, k, blas_threads(), request.metric)
        warnings.warn(
            f"memory={engine.memory / 1e6:.0f}MB holds the neighbourhoods of {n_anchors} anchors, not of "
            f"{request.n_anchors}: the fold may keep a little less; allow "
            f"{-(-needed // 1_000_000)}MB for all of them",
            NearfoldWarning,
            stacklevel=3,
        )
    return request._replace(n_anchors=n_anchors)


def with_neighbors(
    scan: Scan,
    source: Source,
    column: str | None,
    engine: Engine,
    request: Request,
    known: Kept | None = None,
    number_from: int = 0,
) -> Scan:
    """Return a scan with the rows that are neighbours, where the engine did not carry them along.

    Those not `known` are fetched from the source, whose first row has number `number_from`.
    """
    rows = [] if known is None else [known]
    missing = scan.needed()
    if not len(missing):
        return scan
    missing = missing[missing >= number_from]
    numbers = missing - number_from
    vectors = checked_rows(engine.take(source, column, numbers), numbers, source)
    return scan.filled([*rows, Kept(missing, prepared(vectors, request, scan.shift))])


def _reached(begun: ScanState, done: int, finish: Callable[[], Scan]) -> ScanState:
    return begun._replace(done=done, scan=finish())


def _scanned(
    source: Source,
    column: str | None,
    engine: Engine,
    begun: ScanState,
    path: str | os.PathLike[str] | None,
) -> ScanState:
    """Scan what is left to scan, keeping the state in a file, which nobody else changes meanwhile."""
    with nullcontext() if path is None else held_file(path):
        return _scanned_on(source, column, engine, begun, path)


def _scanned_on(
    source: Source,
    column: str | None,
    engine: Engine,
    begun: ScanState,
    path: str | os.PathLike[str] | None,
) -> ScanState:
    if path is not None and os.path.lexists(path):
        earlier = read_state(path)
        if difference := earlier.continues(begun):
            raise FileError(f"{path}: holds the scan of {difference}; name another file or remove it")
        begun = earlier
    writer = _Writer(time.monotonic() + _WRITE_SECONDS, path)
    rows, scan = source.layout.rows, begun.scan
    if begun.done < rows:
        finish = None
        with stage("scan", rows) as advance:
            advance(begun.done)
            before = begun.done
            for done, finish in engine.scan(
                source, column, begun.request, begun.anchors, begun.done, begun.scan
            ):
                advance(done - before)
                before = done
                writer = writer.maybe(partial(_reached, begun, done, finish))
        assert finish is not None
        scan = finish()
    assert scan is not None
    scan = with_neighbors(scan, source, column, engine, begun.request)
    finished = begun._replace(done=rows, scan=scan)
    if path is not None:
        write_state(path, finished)
    return finished
