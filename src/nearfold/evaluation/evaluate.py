"""Evaluate a fold on vectors of any size: one reading, and nothing held but the queries' neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Int64,
    Metric,
    check_metric,
    check_positive,
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
from nearfold.evaluation.ground_truth import GroundTruth, candidates, warn_of_copies
from nearfold.evaluation.labels import LabelledQueries, asked_labels, search_depth
from nearfold.evaluation.recall import (
    DEFAULT_KS,
    DEFAULT_N_CANDIDATES,
    EvaluationResult,
    candidate_counts,
    check_counts,
    images,
    recall_of_neighbors,
)
from nearfold.evaluation.split import query_count
from nearfold.folds.fold import Fold, as_fold
from nearfold.io.base import Source
from nearfold.io.held import held_rows
from nearfold.io.vectors import as_source, check_directions, checked_rows, located_chunks
from nearfold.scan.exact import are_blurred, searched_again
from nearfold.scan.neighbors import Neighbors, NeighborSearch

__all__ = ["evaluate"]


def evaluate(
    fold: Any,
    base: Any,
    queries: Any = None,
    *,
    n_queries: int | None = None,
    seed: int = 0,
    metric: Metric | None = None,
    k: Sequence[int] = DEFAULT_KS,
    n_candidates: Sequence[int] = DEFAULT_N_CANDIDATES,
    qrels: Any = None,
) -> EvaluationResult:
    """Measure how well a fold keeps the nearest neighbours of queries.

    The true neighbours come from an exact search in all d dimensions, in which equally near rows are all
    right answers. The base may be of any size: it is read once, and searched before and after folding
    chunk by chunk. Files that can't be read by row, such as Parquet, are read once more for the rows found.

    Parameters
    ----------
    fold : Fold or estimator
        A fitted fold, such as `NearFold(96).fit(X).encoder_` or what `nearfold.load` returns.
    base : array-like of shape (n, d), data frame, path, URL or Source
        The vectors that are searched.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, optional
        The vectors that are searched for. They should be neither in the base nor among those that the fold
        was fitted to. By default, rows of the base that are drawn at random are held out of it.
    n_queries : int, optional
        The number of rows to hold out where no queries are given. The default is a tenth of the base, at
        most 1,000.
    seed : int, default=0
        The seed of that draw, which does not depend on how the base is cut into files.
    metric : {"cosine", "l2", "ip"}, optional
        The metric that says what near means, before and after folding. The default is the fold's own.
    k : sequence of int, default=(1, 5, 10)
        The k of recall@k: the share of the true top k among the reduced top k.
    n_candidates : sequence of int, default=(20, 50, 100)
        The R of k-recall@R for the largest k: the share of the true top k among the reduced top R, which
        an exact re-rank of R candidates recovers. Those that are not above k, or above the number of base
        rows, are left out.
    qrels : Qrels, mapping, str or path-like, optional
        Relevance labels of the queries, which must be given: a mapping {query: {document: grade}} or a file,
        by row numbers; or a `Qrels`, which may name other ids. The result's `labels` then say what the
        queries find of what they look for, after folding and before: nDCG, recall, MRR and MAP. This needs
        the extra `labels`.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    DataError
        Vectors are not finite or not as wide as the fold expects, a row is zero under cosine, there are
        too few rows to hold queries out, or a labelled query or document doesn't exist.
    FileError
        A file can't be read.
    ParameterError
        A k is larger than the base, a count is not positive, the metric is unknown, or qrels are given
        without queries.
    MissingExtraError
        `qrels` need the extra `labels`.

    Warns
    -----
    NearfoldWarning
        Two or more queries, and at least one in a hundred, are rows of the base. Each finds itself first,
        which flatters every share.

    Examples
    --------
    >>> import nearfold as nf
    >>> vectors = nf.load_sample().vectors.astype("float32")
    >>> fold = nf.PCA(96).fit(vectors[:4000]).encoder_
    >>> result = nf.evaluate(fold, vectors[:4000], vectors[4000:])
    >>> bool(result.recall[10].mean > 0.7)
    True
    """
    fold = as_fold(fold)
    near = fold.metric if metric is None else check_metric(metric)
    directions = near == "cosine"
    source = as_source(base, name="base")
    check_width(source.path, source.layout.n_features, fold.n_features)
    if queries is None:
        asked, held = _held_out(source, n_queries, seed, directions=directions)
    else:
        asked, held = held_rows(queries, directions=directions, name="queries"), np.empty(0, np.int64)
        check_width("queries", asked.shape[1], fold.n_features)
    rows = _Base(source, held, directions=directions)
    check_counts(k, n_candidates, len(rows))
    labels = asked_labels(qrels, source, queries, len(rows), len(asked))
    ks, k_max = sorted(set(k)), max(k)
    deep = candidate_counts(n_candidates, k_max, len(rows))
    k_exact = k_max if labels is None else search_depth(ks, len(rows))
    exact, folded = _search_both(
        fold, rows, asked, candidates(k_exact, len(rows)), max([k_exact, *deep]), near
    )
    ground_truth = GroundTruth.of_candidates(
        rows,
        asked,
        exact,
        k_exact,
        near,
        lambda: ((vectors, first) for vectors, first, _, _ in rows.chunks()),
        asked.mean(axis=0, dtype=np.float64) if near == "l2" else None,
    )
    warn_of_copies(ground_truth)
    result = recall_of_neighbors(ground_truth, folded, ks, deep)
    if labels is None:
        return result
    labelled = LabelledQueries.of(labels, ground_truth, ks)
    small = _Folded(fold, rows, near), images(fold, asked, near)
    return replace(result, labels=labelled.result_of_found(folded, *small, near))


def _held_out(source: Source, n_queries: int | None, seed: int, *, directions: bool) -> tuple[Float32, Int64]:
    """Return rows of a source to hold out as queries, shape (n_queries, d), and their numbers, rising."""
    if n_queries is not None:
        check_positive("n_queries", n_queries)
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


class _Folded:
    """The rows of a base, folded where they are fetched.

    Parameters
    ----------
    fold
        The fold.
    base
        The base.
    metric
        The metric that folded vectors are compared by.
    """

    def __init__(self, fold: Fold, base: _Base, metric: Metric) -> None:
        self._fold, self._base, self._metric = fold, base, metric

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[Any]:
        own, place = np.unique(rows, return_inverse=True)
        return images(self._fold, self._base[own], self._metric)[place.reshape(rows.shape)]


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


def _search_both(
    fold: Fold, base: _Base, queries: Float32, k_exact: int, k_folded: int, metric: Metric
) -> tuple[Int64, Int64]:
    """Return the nearest base rows of each query before and after folding, nearest first."""
    n_threads = blas_threads()
    small = images(fold, queries, metric)
    exact = _Search(queries, k_exact, metric, n_threads, folded=False)
    reduced = _Search(small, k_folded, metric, n_threads, folded=True)

    def look(thread: int, vectors: Float32, first: int, path: str, row: int) -> None:
        exact.look(thread, vectors, first, path, row)
        reduced.look(thread, images(fold, vectors, metric), first, path, row)

    with stage("search", len(base)) as advance, dealt_work(n_threads) as deal:
        for vectors, first, path, row in _not_tiny(base.chunks(), metric):
            deal(partial(look, vectors=vectors, first=first, path=path, row=row))
            advance(len(vectors))

    def folded_again() -> Iterator[tuple[Float32, int]]:
        for vectors, first, _, _ in base.chunks():
            yield images(fold, vectors, metric), first

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
