"""Judge a fold on files of any size: one reading, and nothing held but the queries' neighbours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, Metric, as_vectors, check_metric, check_width, normalize_rows
from nearfold.evaluation.judge import (
    DEFAULT_DEPTHS,
    DEFAULT_KS,
    Judgement,
    check_counts,
    judge_found,
)
from nearfold.evaluation.split import query_count
from nearfold.evaluation.truth import Truth, candidates
from nearfold.fold import Fold
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, check_directions, checked_rows, located_chunks
from nearfold.neighbors import NeighborSearch
from nearfold.progress import stage
from nearfold.sampling import sampled_rows
from nearfold.threads import blas_threads, dealt_work

__all__ = ["evaluate_source", "hold_out_rows"]

Int64 = npt.NDArray[np.int64]


def hold_out_rows(
    source: Source, n_queries: int | None = None, seed: int = 0, *, directions: bool = False
) -> tuple[Float32, Int64]:
    """Draw rows of a source to hold out as queries.

    Parameters
    ----------
    source
        From `open_source`.
    n_queries
        None for a tenth of the rows, at most 1,000.
    seed
        Of the draw, which does not depend on how the source is cut into files.
    directions
        Refuse zero rows, for cosine.

    Returns
    -------
    queries, rows
        Shape (q, d), float32, and their numbers, rising.

    Raises
    ------
    DataError
        Fewer than two rows would be left in the base.
    """
    total = source.layout.rows
    rows = sampled_rows(total, query_count(total, n_queries), seed)
    return checked_rows(source.take(rows), rows, source, directions=directions), rows


class _Base:
    """A source without the rows held out, numbered without gaps; fetched by number.

    Parameters
    ----------
    source
        The source.
    held
        The numbers held out, rising.
    directions
        Refuse zero rows, for cosine.
    """

    def __init__(self, source: Source, held: Int64, *, directions: bool) -> None:
        self.source, self._held, self._directions = source, held, directions
        # How many rows stand before each held one without those held: numbers from there on shift.
        self._shift_at = held - np.arange(len(held))

    def __len__(self) -> int:
        return self.source.layout.rows - len(self._held)

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[Any]:
        own, place = np.unique(rows, return_inverse=True)
        numbers = own + np.searchsorted(self._shift_at, own, "right")
        vectors = checked_rows(self.source.take(numbers), numbers, self.source)
        return vectors[place.reshape(rows.shape)]

    def chunks(self) -> Iterator[tuple[Float32, int, str, int]]:
        """Yield rows with the number of the first, and their file and first row there."""
        first = 0
        for chunk, path, row in located_chunks(self.source):
            if self._directions:
                # Before rows held out are left out, which would shift the numbers.
                check_directions(chunk.vectors, path, row)
            low, high = np.searchsorted(self._held, [first, first + len(chunk.vectors)])
            vectors = np.delete(chunk.vectors, self._held[low:high] - first, axis=0)
            if len(vectors):
                yield vectors, first - int(low), path, row
            first += len(chunk.vectors)


def evaluate_source(
    encoder: Fold,
    source: str | os.PathLike[str] | Source,
    queries: npt.ArrayLike,
    *,
    held_out: Int64 | None = None,
    metric: Metric | None = None,
    k: Sequence[int] = DEFAULT_KS,
    depths: Sequence[int] = DEFAULT_DEPTHS,
) -> Judgement:
    """Tell how well an encoder keeps the nearest neighbours of queries among rows of any number.

    The rows are read once, folded and searched with both kinds of queries chunk by chunk; then the
    candidates of the exact search are fetched to be put in order (a second reading for Parquet and
    Arrow files).

    Parameters
    ----------
    encoder
        A fitted encoder.
    source
        The base: a file, a folder of files, a URL, or what `open_source` made of one.
    queries
        Shape (q, d).
    held_out
        The rows of the source that the queries are, to be left out of the base; see `hold_out_rows`.
    metric, k, depths
        As for `evaluate`.

    Raises
    ------
    DataError, ParameterError
        As `evaluate`.
    FileError
        The source can't be read.
    """
    source = as_source(source)
    held = np.empty(0, np.int64) if held_out is None else held_out
    asked = as_vectors(queries, "queries")
    for name, width in ((source.path, source.layout.n_features), ("queries", asked.shape[1])):
        check_width(name, width, encoder.n_features)
    near = check_metric(metric or encoder.metric)
    base = _Base(source, held, directions=near == "cosine")
    check_counts(k, depths, len(base))
    ks, k_max = sorted(set(k)), max(k)
    deep = sorted({r for r in depths if k_max < r <= len(base)})
    exact, folded = _search_both(
        encoder, base, asked, candidates(k_max, len(base)), max([k_max, *deep]), near
    )
    truth = Truth.of_candidates(base, asked, exact, k_max, near)
    return judge_found(truth, folded, ks, deep)


def _search_both(
    encoder: Fold, base: _Base, queries: Float32, k_exact: int, k_folded: int, metric: Metric
) -> tuple[Int64, Int64]:
    """Return the nearest base rows of each query before and after folding, nearest first."""
    center = queries.mean(axis=0, dtype=np.float64).astype(np.float32)

    def prepared(rows: Float32, name: str, first_row: int, *, folded: bool) -> Float32:
        if metric == "cosine":
            return normalize_rows(rows, name, keep_zero=folded, first_row=first_row)
        # Distances don't change, but float32 loses less near the origin.
        origin = encoder.transform(center[None, :])[0] if folded else center
        return rows - origin if metric == "l2" else rows

    n_threads = blas_threads()
    exact = NeighborSearch(prepared(queries, "queries", 0, folded=False), k_exact, metric, n_threads)
    small = prepared(encoder.transform(queries), "queries", 0, folded=True)
    reduced = NeighborSearch(small, k_folded, metric, n_threads)

    def look(thread: int, vectors: Float32, first: int, path: str, row: int) -> None:
        exact.look(thread, prepared(vectors, path, row, folded=False), first)
        reduced.look(thread, prepared(encoder.transform(vectors), path, row, folded=True), first)

    with stage("search", len(base)) as advance, dealt_work(n_threads) as deal:
        for vectors, first, path, row in base.chunks():
            deal(partial(look, vectors=vectors, first=first, path=path, row=row))
            advance(len(vectors))
    return exact.found.sorted().ids, reduced.found.sorted().ids
