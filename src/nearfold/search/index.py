"""The search index: codes in memory, vectors in memory or in files, and ids that users choose."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Int64,
    Metric,
    as_vectors,
    check_positive,
    check_products,
    check_tiny,
    chunk_rows,
    normalize_rows,
)
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import faiss_ready
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.io.base import Source
from nearfold.io.vectors import as_source, read_source
from nearfold.search.bounds import UpperBounds, proven_candidates
from nearfold.search.candidates import CandidateIndex, InvertedLists, candidate_index, nearest_entries
from nearfold.search.consistency import bounds_in
from nearfold.search.filters import Scope, Where, allowed_rows
from nearfold.search.groups import Groups, Searchable
from nearfold.search.locking import ReadersOneWriter
from nearfold.search.rerank import best, exact_scores_of, norms_of, settled
from nearfold.search.results import SearchResult, empty_result, named
from nearfold.search.rows import Rows
from nearfold.search.storage import Place, read_index, write_index
from nearfold.search.vectors import Fetch, Segment, StoredVectors, segments_of

__all__ = ["SearchIndex", "SearchResult"]


_CHUNK_BYTES = 64 << 20
_SAMPLE = 1 << 16
_CANDIDATES_AT_ONCE = 1 << 22
_MOST_RESULTS = 1 << 30
_MOST_LINKS = 1 << 10

# Only vectors with larger numbers than this can have norms beyond float32.
_LARGE = 1e30


class SearchIndex:
    """An index that searches in two stages: codes give candidates, and the vectors themselves order them.

    Make one with `SearchIndex.build` or `SearchIndex.load`. Any number of threads may search it at once;
    `add`, `remove` and `save` wait for them and for each other.

    Parameters
    ----------
    codec : Codec
        The codec that makes the codes.
    candidates : CandidateIndex
        The first stage, which holds the codes.
    vectors : StoredVectors
        The vectors, for the second stage.
    rows : Rows
        The id of each row, whether it was removed, and its norm.
    bounds : UpperBounds, optional
        The bounds of scores, which a certified search needs.
    entry_of : ndarray of shape (n,), int64, optional
        The number of each row's code, if rows share codes.

    See Also
    --------
    SearchResult : What `search` returns.
    """

    def __init__(
        self,
        codec: Codec,
        candidates: CandidateIndex,
        vectors: StoredVectors,
        rows: Rows,
        *,
        bounds: UpperBounds | None = None,
        entry_of: Int64 | None = None,
    ) -> None:
        self.codec = codec
        self._candidates, self._vectors, self._rows, self._bounds = candidates, vectors, rows, bounds
        self._groups = Groups(len(rows), entry_of, len(candidates))
        self._known: Searchable | None = None
        self._lock = ReadersOneWriter()
        self._place: Place | None = None

    @classmethod
    def build(
        cls,
        codec: Codec,
        X: Any,
        *,
        ids: npt.ArrayLike | None = None,
        kind: str = "flat",
        fetch: Fetch | None = None,
        certify: bool = False,
        M: int = 16,
        ef_construction: int = 100,
    ) -> SearchIndex:
        """Encode vectors and make them searchable.

        Parameters
        ----------
        codec : Codec
            The codec that encodes the vectors, from `fit_codec`, `plan` or `Codec.load`.
        X : array-like, data frame, path, URL or Source
            The vectors to search in, of shape (n, d) and any real dtype. Local files in .npy, .fvecs, HDF5 or
            Lance, and folders of them, stay where they are and are read for re-ranking. Other files and
            URLs are read into memory, unless there is a `fetch`; `save` then writes the vectors.
        ids : array-like of shape (n,), int, optional
            The ids of the vectors, distinct whole numbers of at least 0. The default is 0, 1, ...
        kind : {"flat", "ivf", "hnsw"}, default="flat"
            The kind of index: "flat" compares a query with every code, "ivf" with the codes of the nearest
            of many lists, and "hnsw" follows a graph.
        fetch : callable, optional
            A function that takes ids (m,) and returns their vectors (m, d), as a database would. The index
            then keeps no vectors.
        certify : bool, default=False
            Whether to store 12 more bytes for each vector, with which `search` can prove its results. This
            needs the kind "flat".
        M : int, default=16
            The number of links of each vertex of the graph (hnsw), from 2 to 1,024; the lowest level has
            twice as many.
        ef_construction : int, default=100
            The number of candidates among which a vertex's links are chosen (hnsw). A larger number gives
            better links and takes longer.

        Returns
        -------
        SearchIndex

        Raises
        ------
        DataError
            The vectors don't fit the codec, or the ids don't fit the vectors.
        ParameterError
            A parameter is out of range, or the kind is unknown or doesn't go with the codec.
        FileError
            A file can't be read, or can't be read row by row and needs more than the memory budget.

        Examples
        --------
        >>> import nearfold as nf
        >>> X = nf.load_sample().vectors[:1000]
        >>> index = nf.SearchIndex.build(nf.fit_codec(X, "PCA32,SQ8"), X)
        >>> index.search(X[:2], k=3).ids[:, 0].tolist()
        [0, 1]
        """
        for name, value in (("M", M), ("ef_construction", ef_construction)):
            check_positive(name, value)
        if not 2 <= M <= _MOST_LINKS:
            raise ParameterError(f"M={M} must be from 2 to {_MOST_LINKS}")
        segments = segments_of(X, fetched=fetch is not None)
        samples = _samples(segments, codec.metric)
        sample = np.concatenate([vectors for *_, vectors in samples])
        total = sum(segment.rows for segment in segments)
        try:
            candidates = candidate_index(codec, kind, sample, total, M=M, ef_construction=ef_construction)
        except DataError:
            for segment, rows, vectors in samples:
                segment.check_directions(vectors, rows)
            raise
        if certify and kind != "flat":
            raise ParameterError(f"certify needs index kind flat: {kind} doesn't look at every code")
        norms = np.empty(0, np.float32) if codec.metric == "cosine" else None
        index = cls(
            codec,
            candidates,
            StoredVectors(codec.n_features, [], fetch),
            Rows(np.empty(0, np.int64), np.empty(0, bool), norms),
            bounds=UpperBounds.fit(codec, sample) if certify else None,
        )
        index._append(segments, ids)
        # The table of codes is needed again only if more vectors are added.
        index._groups.forget()
        return index

    def __len__(self) -> int:
        """Return the number of vectors that can be found."""
        return self._rows.n_alive

    @property
    def kind(self) -> str:
        """The kind of index: "flat", "ivf" or "hnsw"."""
        return self._candidates.kind

    @property
    def ids(self) -> Int64:
        """The ids of all vectors that can be found, shape (n,), int64, in the order of their addition."""
        return self._rows.ids[~self._rows.removed]

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        n_candidates: int | None = None,
        nprobe: int | None = None,
        ef_search: int | None = None,
        certified: bool = False,
        where: Where | None = None,
    ) -> SearchResult:
        """Return each query's k nearest vectors.

        Parameters
        ----------
        queries : array-like, data frame, path, URL or Source
            The queries, of shape (n_queries, d) and any real dtype.
        k : int, default=10
            The number of vectors to return for each query.
        n_candidates : int, optional
            The number of candidates from the codes, which are re-ranked by the vectors themselves. With 0
            the search uses codes alone and reads no vectors. The default is 5 k.
        nprobe : int, optional
            The number of lists to visit, for the kind "ivf" alone. The default is a sixteenth of the lists,
            at least 32. It is raised for queries that find fewer than k vectors.
        ef_search : int, optional
            The number of candidates to keep while following the graph, for the kind "hnsw" alone. The
            default is `n_candidates`. It is raised for queries that find fewer than k vectors.
        certified : bool, default=False
            Whether to read vectors until the k nearest are proven. The index must be built with `certify`,
            and `n_candidates`, `nprobe` and `ef_search` then have no effect.
        where : array-like of shape (m,), int; array-like of shape (n,), bool; or callable, optional
            The only vectors to find: their ids; or a mask with a boolean for each of the index's `ids`; or a
            function that takes these ids (n,) and returns such a mask, and must not change the index. A
            search passes through more lists or more of the graph if fewer vectors may be found, and compares
            with all of their codes if they are few, so that recall does not suffer.

        Returns
        -------
        SearchResult
            The arrays `ids`, `scores` and `n_read`.

        Raises
        ------
        DataError
            The queries don't fit the codec, or `where` names an id that the index does not hold, or its mask
            is of another length or dtype.
        ParameterError
            A parameter is out of range or belongs to another kind, or the index was built without
            `certify`.
        FileError
            A file of vectors has changed since the index was opened, or the queries can't be read.
        """
        check_positive("k", k)
        wanted = 5 * k if n_candidates is None else n_candidates
        check_positive("n_candidates", wanted, zero=True)
        breadth = self._breadth(nprobe, ef_search)
        asked = self._checked_queries(queries)
        if len(asked) * k > _MOST_RESULTS:
            raise ParameterError(
                f"k={k} of {len(asked)} queries are more results than memory holds; ask for fewer at a time"
            )
        with self._lock.reading():
            if certified and self._bounds is None:
                raise ParameterError("the index can't prove results; build it with certify=True")
            scope = self._scope(where)
            if not scope.n_rows or not len(asked):
                return empty_result(len(asked), k)
            if certified:
                return self._certified(asked, k, scope)
            step = max(1, _CANDIDATES_AT_ONCE // min(scope.n_rows, max(k, wanted)))
            parts = [
                self._nearest(asked[start : start + step], k, wanted, breadth, scope)
                for start in range(0, len(asked), step)
            ]
            if len(parts) == 1:
                return parts[0]
            return SearchResult(*map(np.concatenate, zip(*parts, strict=True)))

    def add(self, X: Any, ids: npt.ArrayLike | None = None) -> None:
        """Add vectors.

        Parameters
        ----------
        X : array-like, data frame, path, URL or Source
            The vectors, of shape (n, d), as for `build`. An array is copied.
        ids : array-like of shape (n,), int, optional
            The ids of the vectors. By default they count on from the largest id.

        Raises
        ------
        DataError
            The vectors don't fit the codec, or the index holds an id already. Nothing is added then.
        FileError
            A file can't be read. Nothing is added then.
        """
        segments = segments_of(X, fetched=self._vectors.fetch is not None, copy=True)
        with self._lock.writing():
            self._append(segments, ids)

    def remove(self, ids: npt.ArrayLike) -> None:
        """Remove vectors.

        Once more than half of the vectors are removed, the index is rebuilt from the others.

        Parameters
        ----------
        ids : array-like of shape (m,), int
            The ids of the vectors.

        Raises
        ------
        DataError
            The index does not hold an id. Nothing is removed then.
        """
        with self._lock.writing():
            self._rows.remove(self._rows.numbers_of(ids))
            self._known = None
            if 2 * len(self) < len(self._rows):
                self._compact()

    def _compact(self) -> None:
        """Rebuild the first stage from the codes that are left."""
        rows = np.flatnonzero(~self._rows.removed)
        groups, entries = self._groups.kept(rows)
        fresh = self._candidates.rebuilt(entries)
        if self._vectors.fetch is None:
            self._vectors.keep(rows)
        if self._bounds is not None:
            self._bounds.keep(rows)
        self._candidates, self._groups, self._known = fresh, groups, None
        self._rows = self._rows.kept(rows)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to a folder, atomically: readers see either the old index or the new one.

        Vectors in files stay there, and those in memory are written into the folder. If this index was
        loaded from the folder, or saved there before, it does not overwrite what others saved there since.

        Parameters
        ----------
        folder : str or path
            The folder, which is made if it is missing.

        Raises
        ------
        FileError
            Another process writes to the folder, or has saved there since (then load the index again); a file
            of vectors has changed; or the folder holds another table or can't be written.
        """
        with self._lock.writing():
            arrays: dict[str, npt.NDArray[Any]] = {"ids": self._rows.ids, "removed": self._rows.removed}
            if self._rows.norms is not None:
                arrays["norms"] = self._rows.norms
            if self._vectors.rows is not None:
                arrays["rows"] = self._vectors.rows
            if self._groups.entry_of is not None:
                arrays["entries"] = self._groups.entry_of
            if isinstance(self._candidates, InvertedLists):
                arrays["centroids"] = self._candidates.centroids
            if self._bounds is not None:
                arrays |= {f"certificates.{name}": a for name, a in self._bounds.arrays().items()}
            settings = {"kind": self.kind, "fetched": self._vectors.fetch is not None}
            index, segments = self._candidates.index, self._vectors.segments
            self._vectors.segments, self._place = write_index(
                folder, self.codec, settings, arrays, index, segments, self._place
            )

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        fetch: Fetch | None = None,
        base: str | os.PathLike[str] | None = None,
    ) -> SearchIndex:
        """Read an index that `save` wrote.

        Parameters
        ----------
        folder : str or path
            The folder of the index.
        fetch : callable, optional
            The function that fetches vectors, if the index was built with one.
        base : str or path, optional
            The file of vectors that the index was built with, if it is outside of the folder and was moved
            or touched since. Otherwise such a file is opened only if its size and time are unchanged, so that
            an index from a stranger opens no file of yours.

        Returns
        -------
        SearchIndex

        Raises
        ------
        FileError
            The folder holds no index, or a file is missing, damaged or changed.
        ParameterError
            The index was built with `fetch`, and none is given.
        """
        stored = read_index(folder, base, fetched=fetch is not None)
        codec, arrays = stored.codec, stored.arrays
        if stored.settings.get("fetched") and fetch is None:
            raise ParameterError(f"{folder}: was built with fetch; give the function that fetches vectors")
        try:
            loaded = cls(
                codec,
                stored.candidates,
                StoredVectors(codec.n_features, stored.segments, fetch, arrays.get("rows")),
                Rows(arrays["ids"], arrays["removed"], arrays.get("norms")),
                bounds=bounds_in(codec, arrays),
                entry_of=arrays.get("entries"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{folder}: not a usable index: {error}") from error
        loaded._place = stored.place
        return loaded

    def _breadth(self, nprobe: int | None, ef_search: int | None) -> int | None:
        """Return the search parameter of the index's kind, or None; refuse a parameter of another kind."""
        breadth = None
        for name, value, kind in (("nprobe", nprobe, "ivf"), ("ef_search", ef_search, "hnsw")):
            if value is None:
                continue
            check_positive(name, value)
            if kind != self.kind:
                raise ParameterError(f"{name} is for indexes of kind {kind}; this one is of kind {self.kind}")
            breadth = value
        return breadth

    def _checked_queries(self, queries: Any) -> Float32:
        """Return queries as float32 (n_queries, d), or refuse those that don't fit the codec."""
        if isinstance(queries, str | os.PathLike | Source):
            return self._fitting(read_source(as_source(queries)), "queries")
        return self._fitting(as_vectors(queries, "queries", min_rows=0), "queries")

    def _fitting(self, checked: Float32, name: str, rows: Int64 | None = None) -> Float32:
        """Return finite vectors, numbered by `rows`, or refuse those that don't fit the codec."""
        if checked.shape[1] != self.codec.n_features:
            raise DataError(
                f"{name} has {checked.shape[1]} dimensions, the index holds vectors of "
                f"{self.codec.n_features}"
            )
        _check_numbers(checked, self.codec.metric, name, rows)
        return checked

    def _append(self, segments: list[Segment], ids: npt.ArrayLike | None) -> None:
        """Add the vectors of all segments, or none if a vector is refused."""
        total = sum(segment.rows for segment in segments)
        numbers = self._rows.new_ids(total, ids)
        before = len(self._rows)
        kept: list[Segment] = []
        try:
            with stage("index", total) as advance:
                for segment in segments:
                    first = len(self._rows) - before
                    try:
                        for rows, vectors in segment.chunks(chunk_rows(self.codec.n_features, _CHUNK_BYTES)):
                            self._append_chunk(segment, rows, vectors, numbers[first + rows], total)
                            advance(len(rows))
                    finally:
                        if done := len(self._rows) - before - first:
                            kept.append(segment.first(done))
        finally:
            if len(self._rows) < before + total:
                # Codes can't be taken out again, so the rows before the refused one count as removed.
                self._rows.drop_from(before)
                self._groups.skip_to(len(self._candidates))
            self._known = None
            if self._vectors.fetch is None:
                for segment in kept:
                    self._vectors.append(segment)
        if self._candidates.outgrown:
            self._candidates = self._candidates.rebuilt(np.arange(len(self._candidates)))

    def _append_chunk(self, segment: Segment, rows: Int64, vectors: Float32, ids: Int64, total: int) -> None:
        """Add some rows of a segment; `total` rows are expected in all."""
        vectors = self._fitting(vectors, segment.name, rows)
        try:
            images = self.codec.projection.project(vectors)
        except DataError:
            # This error names the row by its number in the user's data instead of that in the chunk.
            segment.check_directions(vectors, rows)
            raise
        codes = self.codec.quantizer.encode(images)
        norms = norms_of(vectors, segment.name) if self.codec.metric == "cosine" else None
        numbers = None if self._bounds is None else self._bounds.of(vectors, codes)
        held = None if self._groups.knows_codes else self._candidates.codes()
        entries, fresh = self._groups.matched(codes, held, total)
        if len(fresh) < len(codes):
            images, codes = images[fresh], codes[fresh]
        self._candidates.add(images, codes)
        self._groups.append(entries, len(fresh))
        self._rows.append(ids, norms)
        if self._bounds is not None and numbers is not None:
            self._bounds.append(numbers)

    def _searchable(self) -> Searchable:
        """Return what a search can find, which is computed again after each change of the index."""
        known = self._known
        if known is None:
            known = self._known = self._groups.searchable(self._rows.removed)
        return known

    def _scope(self, where: Where | None) -> Scope:
        """Return what a search with the filter `where` may find."""
        known = self._searchable()
        if where is None:
            return Scope(self._rows.removed, len(self), known, filtered=False)
        allowed = allowed_rows(where, self._rows)
        return Scope(~allowed, int(allowed.sum()), known.among(allowed), filtered=True)

    def _nearest(
        self, queries: Float32, k: int, n_candidates: int, breadth: int | None, scope: Scope
    ) -> SearchResult:
        """Return the result of a search in two stages, which may find a row at least."""
        directed = self._directed(queries)
        if n_candidates and max(k, n_candidates) >= scope.n_rows:
            # All rows are candidates, so the codes are not needed.
            rows = np.flatnonzero(~scope.hidden)
            candidates = np.broadcast_to(rows, (len(queries), len(rows)))
            return self._best(queries, candidates, self._exact(directed, candidates), k)
        known, most = scope.entries, max(k, n_candidates)
        images = faiss_ready(self.codec.projection.project_queries(directed), "queries")
        if scope.filtered:
            entries = self._candidates.search_allowed(images, ~known.hidden, most, breadth)
        else:
            entries = nearest_entries(self._candidates, known.hidden, images, most, breadth, k)
        if not n_candidates:
            return self._by_codes(known.expanded(entries, k), k)
        candidates = known.first(entries)
        scores = self._exact(directed, candidates)
        if (known.sizes(entries) > 1).any():
            # Further rows are read of the entries whose first rows are nearest.
            nearest, _ = best(entries, scores, entries.shape[1])
            others = known.expanded(nearest, most, skip=1)
            candidates = np.concatenate([candidates, others], axis=1)
            scores = np.concatenate([scores, self._exact(directed, others)], axis=1)
        return self._best(queries, candidates, scores, k)

    def _directed(self, queries: Float32) -> Float32:
        """Return queries as scores are computed from them: of norm 1 for cosine."""
        return normalize_rows(queries, "queries") if self.codec.metric == "cosine" else queries

    def _exact(self, directed: Float32, candidates: Int64) -> Float32:
        return exact_scores_of(
            directed, candidates, self._vectors, self._rows.ids, self._rows.norms, self.codec.metric
        )

    def _best(self, queries: Float32, candidates: Int64, scores: Float32, k: int) -> SearchResult:
        """Return the k best of the candidates whose vectors were read."""
        rows, top = settled(queries, candidates, scores, k, self._vectors, self._rows.ids, self.codec.metric)
        return named(self._rows.ids, rows, top, k, (candidates >= 0).sum(axis=1))

    def _by_codes(self, rows: Int64, k: int) -> SearchResult:
        """Return the first k rows as they are ordered by codes, with 0, -1, -2, ... in place of scores."""
        ranks = -np.arange(rows.shape[1], dtype=np.float32)
        scores = np.where(rows < 0, -np.inf, ranks[None]).astype(np.float32)
        return named(self._rows.ids, rows, scores, k, np.zeros(len(rows), np.int64))

    def _certified(self, queries: Float32, k: int, scope: Scope) -> SearchResult:
        assert self._bounds is not None
        directed = self._directed(queries)
        candidates, scores = proven_candidates(
            directed,
            k,
            self._bounds,
            self._candidates.codes(),
            self._groups.entry_of,
            lambda part, chosen: self._exact(directed[part], chosen),
            scope.hidden,
        )
        return self._best(queries, candidates, scores, k)


def _samples(segments: list[Segment], metric: Metric) -> list[tuple[Segment, Int64, Float32]]:
    """Return, for each segment, the row numbers and checked vectors of a sample drawn from all segments."""
    starts = np.cumsum([0, *(segment.rows for segment in segments)])
    chosen = sampled_rows(int(starts[-1]), _SAMPLE, 0)
    parts = []
    for segment, first, last in zip(segments, starts, starts[1:], strict=False):
        rows = chosen[(chosen >= first) & (chosen < last)] - first
        part = segment.checked(rows)
        check_tiny(part, metric, segment.name)
        _check_numbers(part, metric, segment.name, rows)
        parts.append((segment, rows, part))
    return parts


def _check_numbers(vectors: Float32, metric: Metric, name: str, rows: Int64 | None = None) -> None:
    """Refuse vectors whose norms or products leave float32's range."""
    check_products(vectors, metric, name, rows=rows, alone=False)
    if metric == "cosine" and vectors.size and max(vectors.max(), -vectors.min()) > _LARGE:
        norms_of(vectors, name)
