"""Scans of sources of any size: anchors are drawn, every row is read, and a checkpoint is kept in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Int64, check_directions, check_row_count, check_tiny
from nearfold._utils.files import held_file
from nearfold._utils.memory import release_unused
from nearfold._utils.progress import stage
from nearfold._utils.sampling import fingerprint_of, fingerprint_rows, sampled_rows
from nearfold._utils.threads import blas_threads
from nearfold._utils.warned import warn
from nearfold.errors import FileError
from nearfold.io.base import Source
from nearfold.io.vectors import checked_rows
from nearfold.scan.budget import LEAST_ANCHORS, SAMPLED_ROWS, affordable_anchors, scan_bytes
from nearfold.scan.checkpoint import ScanCheckpoint, input_digests
from nearfold.scan.engine import Engine
from nearfold.scan.engines import engine_for
from nearfold.scan.scan import Anchors, Kept, Scan, ScanSpec, anchors_of, prepared

__all__ = ["Scanned", "scan_source", "with_neighbors"]

# The number of sampled rows that anchors are compared with first, so that most others can be dropped at once.
_FIRST_ROWS = 2048

# A checkpoint is written after this many times the duration of the last writing, and after this many seconds.
_WRITE_SHARE, _WRITE_SECONDS = 50, 20.0

Path = str | os.PathLike[str]


class Scanned(NamedTuple):
    """The result of a scan, and what it looked for.

    Attributes
    ----------
    scan : Scan
        The moments, and the neighbours of the anchors.
    anchors : Anchors or None
        The anchors. None if only moments were asked for.
    request : ScanSpec
        The specification, with the number of anchors that the memory budget allowed.
    fingerprint : str
        A hash of sampled rows, which identifies the data.
    """

    scan: Scan
    anchors: Anchors | None
    request: ScanSpec
    fingerprint: str


def scan_source(
    source: Source, request: ScanSpec, *, fewer_anchors: bool = False, checkpoint: Path | None = None
) -> Scanned:
    """Scan a source, by the engine that the settings name.

    The rows are read once if single rows can be read (arrays, .npy, vecs, HDF5, Lance). Parquet and Arrow
    files are read once before for the anchors, and by a cluster once more for the neighbours found.

    Parameters
    ----------
    source : Source
        The rows, at least two.
    request : ScanSpec
        What to look for.
    fewer_anchors : bool, default=False
        Whether to use fewer anchors, with a warning, if the memory budget is too small for all.
    checkpoint : str or path, optional
        A file in which the progress of the scan is kept. An interrupted scan resumes from it, and `update`
        can add to a finished one.

    Returns
    -------
    Scanned

    Raises
    ------
    ParameterError
        The memory budget is too small.
    DataError
        A row is not finite, or zero if rows are normalised, or there are fewer than two rows.
    FileError
        A file can't be read, the checkpoint belongs to other data or parameters, or another run holds it.
    """
    engine, rows = engine_for(source), source.layout.rows
    check_row_count(rows, 2, source.path)
    # From reading to writing, so that nobody else changes it meanwhile.
    with nullcontext() if checkpoint is None else held_file(checkpoint):
        there = checkpoint is not None and os.path.lexists(checkpoint)
        known = ScanCheckpoint.load(checkpoint) if checkpoint is not None and there else None
        if fewer_anchors:
            if known is not None:
                # No more than what was begun has, whatever the budget allows now.
                request = request._replace(n_anchors=min(request.n_anchors, known.request.n_anchors))
            request = _affordable(request, source, engine)
        if request.queries is not None and request.normalize:
            check_directions(request.queries, "queries")
        begun, fingerprint = _drawn(source, request, engine, checkpoint)
        if known is not None and (difference := known.continues(begun)):
            raise FileError(f"{checkpoint}: holds the scan of {difference}; name another file or remove it")
        finished = _scanned(source, engine, known or begun, checkpoint)
    assert finished.scan is not None
    if not source.in_memory:
        release_unused()
    return Scanned(finished.scan, finished.anchors, request, fingerprint)


def _drawn(
    source: Source, request: ScanSpec, engine: Engine, checkpoint: Path | None
) -> tuple[ScanCheckpoint, str]:
    """Return the checkpoint of a scan before its first row, with the anchors, and the data's fingerprint."""
    total = source.layout.rows
    rows = sampled_rows(total, request.n_anchors, request.seed)
    # The full sample is needed only for a checkpoint.
    count = _FIRST_ROWS if checkpoint is None else SAMPLED_ROWS
    sampled, marks = sampled_rows(total, count, request.seed + 1), fingerprint_rows(total)
    # All samples are read together, as some files must be read from end to end for that.
    together = np.union1d(np.union1d(rows, sampled), marks)
    drawn = checked_rows(engine.take(source, together), together, source, directions=request.normalize)
    if not source.in_memory:
        check_tiny(drawn, request.metric, source.path)

    def taken(numbers: Int64) -> np.typing.NDArray[np.float32]:
        same = len(numbers) == len(together)
        return drawn if same else drawn[np.searchsorted(together, numbers)]

    fingerprint = fingerprint_of(taken(marks), total)
    anchors = None
    first = taken(sampled_rows(total, _FIRST_ROWS, request.seed + 1))
    if request.n_anchors:
        queries = request.queries
        if queries is not None:
            queries = queries[sampled_rows(len(queries), request.n_anchors, request.seed)]
        anchors = anchors_of(taken(rows), rows, request, first, queries)
    if checkpoint is None:
        return ScanCheckpoint(request, anchors, total, 0, None), fingerprint
    sample = Kept(sampled, taken(sampled))
    return ScanCheckpoint(request, anchors, total, 0, None, sample, input_digests(source)), fingerprint


def _affordable(request: ScanSpec, source: Source, engine: Engine) -> ScanSpec:
    """Return a request for as many anchors as the engine's memory allows; warn if those are fewer."""
    if engine.memory is None:
        return request
    layout, k = source.layout, request.k + 1
    sizes = layout.rows, layout.n_features
    asked = 0 if request.queries is None else len(request.queries)
    wanted = request.n_anchors + min(request.n_anchors, asked)
    held = affordable_anchors(*sizes, wanted, k, blas_threads(), engine.memory, request.metric)
    # So many rows, and as many queries if there are so many, are no more anchors than are held.
    n_anchors = min(request.n_anchors, max(held - asked, held // 2))
    if n_anchors == 0:
        # The scan will fail with a message that says how much memory it needs.
        return request._replace(n_anchors=min(LEAST_ANCHORS, request.n_anchors))
    if n_anchors < request.n_anchors:
        needed = scan_bytes(*sizes, wanted, k, blas_threads(), request.metric)
        warn(
            f"memory={engine.memory / 1e6:.0f}MB holds the neighbourhoods of {n_anchors} anchors, not of "
            f"{request.n_anchors}: the fold may keep a little less; allow "
            f"{-(-needed // 1_000_000)}MB for all of them"
        )
    return request._replace(n_anchors=n_anchors)


def with_neighbors(
    scan: Scan,
    source: Source,
    engine: Engine,
    request: ScanSpec,
    known: Kept | None = None,
    number_from: int = 0,
) -> Scan:
    """Return a scan with the vectors of the neighbours, which are read if the engine did not keep them.

    Parameters
    ----------
    scan : Scan
        The scan.
    source : Source
        The source that the rows are read from.
    engine : Engine
        The engine that reads them.
    request : ScanSpec
        What the scan looked for.
    known : Kept, optional
        Prepared rows from before `number_from`, which are not read.
    number_from : int, default=0
        The number of the source's first row.
    """
    rows = [] if known is None else [known]
    missing = scan.needed()
    if not len(missing):
        return scan
    missing = missing[missing >= number_from]
    numbers = missing - number_from
    vectors = checked_rows(engine.take(source, numbers), numbers, source)
    return scan.filled([*rows, Kept(missing, prepared(vectors, request, scan.shift))])


class _Writer(NamedTuple):
    """The path of a checkpoint's file, and the time when it is next due."""

    due: float
    path: Path | None

    def maybe(self, checkpoint: Callable[[], ScanCheckpoint]) -> _Writer:
        """Write the checkpoint if it is due, and return the writer with the next time."""
        if self.path is None or time.monotonic() < self.due:
            return self
        started = time.monotonic()
        checkpoint().save(self.path)
        now = time.monotonic()
        return self._replace(due=now + max(_WRITE_SECONDS, _WRITE_SHARE * (now - started)))


def _reached(begun: ScanCheckpoint, done: int, finish: Callable[[], Scan]) -> ScanCheckpoint:
    return begun._replace(done=done, scan=finish())


def _scanned(source: Source, engine: Engine, begun: ScanCheckpoint, path: Path | None) -> ScanCheckpoint:
    """Scan the remaining rows, with the checkpoint in a file that the caller has locked."""
    writer = _Writer(time.monotonic() + _WRITE_SECONDS, path)
    rows, scan = source.layout.rows, begun.scan
    if begun.done < rows:
        finish = None
        with stage("scan", rows) as advance:
            advance(begun.done)
            before = begun.done
            for done, finish in engine.scan(source, begun.request, begun.anchors, begun.done, begun.scan):
                advance(done - before)
                before = done
                writer = writer.maybe(partial(_reached, begun, done, finish))
        assert finish is not None
        scan = finish()
    assert scan is not None
    scan = with_neighbors(scan, source, engine, begun.request)
    finished = begun._replace(done=rows, scan=scan)
    if path is not None:
        finished.save(path)
    return finished
