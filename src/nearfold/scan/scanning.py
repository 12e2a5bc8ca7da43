"""Scan a source of any size: draw anchors, look at every row once, keep what was found in a file."""

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

# Rows that anchors are compared with first, so that most others need no second look.
_FIRST_ROWS = 2048

# A checkpoint is written when this many times what the last writing took has passed, at least.
_WRITE_SHARE, _WRITE_SECONDS = 50, 20.0

Path = str | os.PathLike[str]


class Scanned(NamedTuple):
    """What a scan gave, and what it was for.

    Parameters
    ----------
    scan, anchors
        Moments, and the anchors' neighbours; no anchors where moments alone were asked for.
    request
        What was asked, with as many anchors as the memory budget allowed.
    fingerprint
        What tells this data from other data.
    """

    scan: Scan
    anchors: Anchors | None
    request: ScanSpec
    fingerprint: str


def scan_source(
    source: Source, request: ScanSpec, *, fewer_anchors: bool = False, checkpoint: Path | None = None
) -> Scanned:
    """Scan a source by the engine that the settings name.

    The rows are read once where single rows can be read (arrays, .npy, vecs, HDF5, Lance). Parquet and
    Arrow files are read once before, for the anchors; a cluster reads them once more behind the scan, for
    the neighbours found.

    Parameters
    ----------
    source
        At least two rows.
    request
        What to look for.
    fewer_anchors
        Whether there may be fewer of them where the memory budget is too small for all; a warning says so.
    checkpoint
        A file that holds the scan as it goes: an interrupted scan is resumed from it, and a finished one's
        can be added to.

    Raises
    ------
    ParameterError
        The memory budget is too small.
    DataError
        A row is not finite, or zero where rows are normalised.
    FileError
        A file can't be read, or the checkpoint belongs to other data or parameters, or another run holds it.
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
    return Scanned(finished.scan, finished.anchors, request, fingerprint)


def _drawn(
    source: Source, request: ScanSpec, engine: Engine, checkpoint: Path | None
) -> tuple[ScanCheckpoint, str]:
    """Return a scan that is yet to begin, with its anchors, and the data's fingerprint."""
    total = source.layout.rows
    rows = np.empty(0, np.int64)
    if request.queries is None:
        rows = sampled_rows(total, request.n_anchors, request.seed)
    # Only those of a checkpoint are ever looked at again.
    count = _FIRST_ROWS if checkpoint is None else SAMPLED_ROWS
    sampled, marks = sampled_rows(total, count, request.seed + 1), fingerprint_rows(total)
    # All samples by one reading, where files can only be read through.
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
    if request.queries is not None:
        chosen = request.queries[sampled_rows(len(request.queries), request.n_anchors, request.seed)]
        anchors = anchors_of(chosen, None, request, first)
    elif request.n_anchors:
        anchors = anchors_of(taken(rows), rows, request, first)
    if checkpoint is None:
        return ScanCheckpoint(request, anchors, total, 0, None), fingerprint
    sample = Kept(sampled, taken(sampled))
    return ScanCheckpoint(request, anchors, total, 0, None, sample, input_digests(source)), fingerprint


def _affordable(request: ScanSpec, source: Source, engine: Engine) -> ScanSpec:
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
    """Return a scan with the rows that are neighbours, where the engine did not carry them along.

    Those not `known` are fetched from the source, whose first row has number `number_from`.
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
    """When to write a checkpoint."""

    due: float
    path: Path | None

    def maybe(self, checkpoint: Callable[[], ScanCheckpoint]) -> _Writer:
        """Write the checkpoint if it is time to, and return when the next is due."""
        if self.path is None or time.monotonic() < self.due:
            return self
        started = time.monotonic()
        checkpoint().save(self.path)
        now = time.monotonic()
        return self._replace(due=now + max(_WRITE_SECONDS, _WRITE_SHARE * (now - started)))


def _reached(begun: ScanCheckpoint, done: int, finish: Callable[[], Scan]) -> ScanCheckpoint:
    return begun._replace(done=done, scan=finish())


def _scanned(source: Source, engine: Engine, begun: ScanCheckpoint, path: Path | None) -> ScanCheckpoint:
    """Scan what is left to scan, keeping the checkpoint in a file, which the caller holds."""
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
