"""Fit to files of any size: one scan by an engine, then what every fit does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from nearfold.arrays import Float32, check_metric, resolve_components
from nearfold.encoder import Encoder
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.io.base import Source
from nearfold.methods.base import FoldEstimator
from nearfold.methods.nearfold import NearFold
from nearfold.methods.scanned import ScanFold
from nearfold.progress import stage
from nearfold.sampling import sampled_rows
from nearfold.scale.engine import Engine
from nearfold.scale.state import ScanState, read_state, write_state
from nearfold.scan import Request, Scan, anchors_of

__all__ = ["fit_files", "scans"]

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
    source: Source,
    engine: Engine,
    *,
    column: str | None = None,
    queries: Float32 | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Encoder:
    """Fit an estimator to files, and return its encoder.

    The rows are read once where single rows can be read (.npy, vecs, HDF5, Lance). In Parquet and
    Arrow files the anchors are drawn by a reading before; a cluster reads the neighbours found once
    more behind it.

    Parameters
    ----------
    estimator
        One that can learn from a scan: NearFold, PCA, or RAE(solver="exact").
    source
        From `open_source`.
    engine
        From `engine_for`.
    column
        What `source` was opened with.
    queries
        A sample of queries, shape (q, d), where they differ in kind (NearFold alone).
    state
        A file that holds the scan as it goes: an interrupted fit goes on from it, and a finished
        one's can be updated.

    Raises
    ------
    ParameterError
        The estimator needs all rows in memory, a parameter is out of range, or memory is too little.
    DataError
        A row is not finite, or zero under cosine.
    FileError
        A file can't be read, or the state belongs to other data or parameters.
    """
    layout = source.layout
    check_metric(estimator.metric)
    if layout.rows < 2:
        raise DataError(f"{source.path}: has 1 row; a fold is learned from at least 2")
    request = _request(estimator, source, queries)
    if request is None or not isinstance(estimator, ScanFold):
        raise ParameterError(f"{type(estimator).__name__} needs all rows in memory: fit it to an array")
    anchors = None
    if request.n_anchors:
        if request.queries is None:
            rows = sampled_rows(layout.rows, request.n_anchors, request.seed)
            drawn = engine.take(source, column, rows)
        else:
            rows, drawn = (
                None,
                request.queries[sampled_rows(len(request.queries), request.n_anchors, request.seed)],
            )
        with np.errstate(over="ignore"):
            anchors = anchors_of(np.ascontiguousarray(drawn, np.float32), rows, request)
    finished = _scanned(source, column, engine, ScanState(request, anchors, layout.rows, 0, None), state)
    assert finished.scan is not None
    n_components = resolve_components(estimator.n_components, layout.n_features)
    encoder = estimator.learn_from_scan(finished.scan, finished.anchors, n_components, request)
    estimator.n_features_in_ = layout.n_features
    estimator.encoder_ = encoder
    return encoder


def _reached(begun: ScanState, done: int, finish: Callable[[], Scan]) -> ScanState:
    return begun._replace(done=done, scan=finish())


def _scanned(
    source: Source,
    column: str | None,
    engine: Engine,
    begun: ScanState,
    path: str | os.PathLike[str] | None,
) -> ScanState:
    """Scan what is left to scan, keeping the state in a file."""
    if path is not None and os.path.exists(path):  # noqa: PTH110
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
    if len(needed := scan.needed()):
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(engine.take(source, column, needed), np.float32)
        scan = scan.filled(vectors, begun.request)
    finished = begun._replace(done=rows, scan=scan)
    if path is not None:
        write_state(path, finished)
    return finished
