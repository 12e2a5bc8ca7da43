"""Judge a fold on files of any size: one reading, and nothing held but the queries' neighbours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_vectors,
    check_metric,
    check_products,
    check_tiny,
    check_width,
    common_part,
    normalize_rows,
)
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold._utils.threads import blas_threads, dealt_work
from nearfold.errors import DataError
from nearfold.evaluation.ground_truth import Truth, are_blurred, candidates, searched_again, warn_of_copies
from nearfold.evaluation.recall import (
    DEFAULT_DEPTHS,
    DEFAULT_KS,
    Judgement,
    check_counts,
    images,
    judge_found,
)
from nearfold.evaluation.split import query_count
from nearfold.folds.fold import Fold
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, check_directions, checked_rows, located_chunks
from nearfold.scan.neighbors import Neighbors, NeighborSearch

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


def _not_tiny(
    chunks: Iterator[tuple[Float32, int, str, int]], metric: Metric
) -> Iterator[tuple[Float32, int, str, int]]:
    """Yield chunks, and refuse them behind the last where all are too small for float32's products."""
    refused, fine = None, metric == "cosine"
    for chunk in chunks:
        if not fine:
            try:
                check_tiny(chunk[0], metric, chunk[2])
                fine = bool(chunk[0].any())
            except DataError as error:
                refused = refused or error
        yield chunk
    if refused is not None and not fine:
        raise refused


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
    truth = Truth.of_candidates(
        base,
        asked,
        exact,
        k_max,
        near,
        lambda: ((vectors, first) for vectors, first, _, _ in base.chunks()),
        asked.mean(axis=0, dtype=np.float64) if near == "l2" else None,
    )
    warn_of_copies(truth)
    return judge_found(truth, folded, ks, deep)


def _search_both(
    encoder: Fold, base: _Base, queries: Float32, k_exact: int, k_folded: int, metric: Metric
) -> tuple[Int64, Int64]:
    """Return the nearest base rows of each query before and after folding, nearest first."""
    n_threads = blas_threads()
    small = images(encoder, queries, metric)
    exact = _Search(queries, k_exact, metric, n_threads, folded=False)
    reduced = _Search(small, k_folded, metric, n_threads, folded=True)

    def look(thread: int, vectors: Float32, first: int, path: str, row: int) -> None:
        exact.look(thread, vectors, first, path, row)
        reduced.look(thread, images(encoder, vectors, metric), first, path, row)

    with stage("search", len(base)) as advance, dealt_work(n_threads) as deal:
        for vectors, first, path, row in _not_tiny(base.chunks(), metric):
            deal(partial(look, vectors=vectors, first=first, path=path, row=row))
            advance(len(vectors))

    def folded_again() -> Iterator[tuple[Float32, int]]:
        for vectors, first, _, _ in base.chunks():
            yield images(encoder, vectors, metric), first

    return exact.found.ids, reduced.settled(folded_again)


class _Search:
    """A search of queries' neighbours among rows that come in chunks, both whole or both folded."""

    def __init__(self, queries: Float32, k: int, metric: Metric, n_threads: int, *, folded: bool) -> None:
        self._queries, self._metric, self._folded, self._k = queries, metric, folded, k
        check_products(queries, metric, "queries", alone=False)
        asked = self._directed(queries, "queries", 0)
        # What is subtracted from all rows changes no order, and float32 loses less near the origin.
        if metric == "l2":
            self._origin: Float32 | None = asked.mean(axis=0, dtype=np.float64).astype(np.float32)
            asked = asked - self._origin
        else:
            self._origin = common_part(asked)
        self._asked = asked
        self._search = NeighborSearch(asked, k, metric, n_threads)

    def _directed(self, rows: Float32, name: str, first_row: int) -> Float32:
        if self._metric != "cosine":
            return rows
        return normalize_rows(rows, name, keep_zero=self._folded, first_row=first_row)

    def look(self, thread: int, rows: Float32, first: int, name: str, named_row: int) -> None:
        """Let a thread see rows numbered from `first`, which errors call by name and `named_row`."""
        self._search.look(thread, self.prepared(rows, name, named_row), first)

    def prepared(self, rows: Float32, name: str, named_row: int) -> Float32:
        """Return rows as they are compared."""
        check_products(rows, self._metric, name, alone=False)
        rows = self._directed(rows, name, named_row)
        return rows if self._origin is None else rows - self._origin

    @property
    def found(self) -> Neighbors:
        """What was found, nearest first."""
        return self._search.found.sorted()

    def settled(self, chunks: Callable[[], Iterable[tuple[Float32, int]]]) -> Int64:
        """Return the nearest rows, looked for once more in the chunks of all where float32 blurs them."""
        found = self.found
        squares = np.einsum("ij,ij->i", self._asked, self._asked, dtype=np.float64)
        blurred = are_blurred(found.scores, np.maximum(squares, np.abs(found.scores[:, 0])))
        if len(blurred):
            found.ids[blurred] = searched_again(chunks(), self._queries[blurred], self._k, self._metric)
        return found.ids
