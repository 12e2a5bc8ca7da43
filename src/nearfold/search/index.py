"""What users search with: codes in memory, full vectors on disk, ids of their own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
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
from nearfold.search.bounds import Certificates, certified_candidates
from nearfold.search.candidates import InvertedLists, Reduced, living, reduced_index
from nearfold.search.fits import certificates_in
from nearfold.search.groups import Groups, Living
from nearfold.search.locking import ReadersOneWriter
from nearfold.search.rerank import best, exact_scores_of, norms_of, settled
from nearfold.search.results import Found, named, nothing, whole_numbers
from nearfold.search.storage import Place, read_index, write_index
from nearfold.search.vectors import Fetch, FullVectors, Segment

__all__ = ["Found", "SearchIndex"]

Int64 = npt.NDArray[np.int64]

_CHUNK_BYTES = 64 << 20
_SAMPLE = 1 << 16
_CANDIDATES_AT_ONCE = 1 << 22
_MOST_RESULTS = 1 << 30
_MOST_LINKS = 1 << 10

# Norms of vectors with larger numbers may be beyond float32.
_LARGE = 1e30


class SearchIndex:
    """Two-stage search; make one with `build` or `load`.

    Any number of threads may search at once; `add`, `remove` and `save` wait for them and for each other.
    """

    def __init__(
        self,
        codec: Codec,
        reduced: Reduced,
        full: FullVectors,
        ids: Int64,
        *,
        norms: Float32 | None = None,
        certificates: Certificates | None = None,
        removed: npt.NDArray[np.bool_] | None = None,
        entry_of: Int64 | None = None,
    ) -> None:
        self.codec = codec
        self._reduced, self._full, self._ids = reduced, full, ids
        self._norms, self._certificates = norms, certificates
        self._removed = np.zeros(len(ids), bool) if removed is None else removed
        self._groups = Groups(len(ids), entry_of, len(reduced))
        self._known: Living | None = None
        self._lock = ReadersOneWriter()
        self._place: Place | None = None

    @classmethod
    def build(
        cls,
        codec: Codec,
        vectors: npt.ArrayLike | str | os.PathLike[str],
        *,
        ids: npt.ArrayLike | None = None,
        kind: str = "flat",
        fetch: Fetch | None = None,
        certify: bool = False,
        links: int = 16,
    ) -> SearchIndex:
        """Encode vectors and make them searchable.

        Parameters
        ----------
        codec
            From `fit_codec`, `plan` or `Codec.load`.
        vectors
            Shape (n, d), any real dtype; or the path of a file, which is then read for re-ranking and
            never copied.
        ids
            Whole numbers, one a vector, each once; None for 0, 1, ...
        kind
            "flat" looks at every code, "ivf" at some lists of them, "hnsw" follows a graph.
        fetch
            Called with ids, returns their vectors: full vectors are then not kept here. None to keep
            the array, or to read the file.
        certify
            Keep 12 more bytes a vector, with which `search` can prove its results.
        links
            Of hnsw.

        Raises
        ------
        DataError
            Vectors don't fit the codec, or ids don't fit the vectors.
        ParameterError
            The kind is unknown or doesn't go with the codec.
        FileError
            A file can't be read, or not row by row.
        """
        if isinstance(vectors, str | os.PathLike):
            segment = Segment.of_file(os.fspath(vectors))
        else:
            array = np.asarray(vectors)
            if array.ndim != 2:
                array = as_vectors(vectors)
            segment = Segment(len(array), array)
        check_positive("links", links)
        if not 2 <= links <= _MOST_LINKS:
            raise ParameterError(f"links={links} must be from 2 to {_MOST_LINKS}")
        sample_rows = sampled_rows(segment.rows, _SAMPLE, 0)
        sample = segment.checked(sample_rows)
        check_tiny(sample, codec.metric, segment.path or "vectors")
        _check_numbers(sample, codec.metric, segment.path or "vectors", sample_rows)
        try:
            reduced = reduced_index(codec, kind, sample, segment.rows, links=links)
        except DataError:
            segment.check_directions(sample, sample_rows)
            raise
        if certify and kind != "flat":
            raise ParameterError(f"certify needs index kind flat: {kind} doesn't look at every code")
        certificates = Certificates.fit(codec, sample) if certify else None
        cosine = codec.metric == "cosine"
        full = FullVectors(codec.n_features, [], fetch)
        empty = np.empty(0, np.int64)
        norms = np.empty(0, np.float32) if cosine else None
        index = cls(codec, reduced, full, empty, norms=norms, certificates=certificates)
        index._append(segment, ids)
        # Codes are looked for by their keys again only where more are added.
        index._groups.forget()
        return index

    def __len__(self) -> int:
        """Return how many vectors can be found."""
        return int(len(self._ids) - self._removed.sum())

    @property
    def kind(self) -> str:
        """Flat, ivf or hnsw."""
        return self._reduced.kind

    @property
    def ids(self) -> Int64:
        """The ids of all vectors that can be found, in the order added."""
        return self._ids[~self._removed]

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        depth: int | None = None,
        effort: int | None = None,
        certified: bool = False,
    ) -> Found:
        """Return each query's k nearest vectors.

        Parameters
        ----------
        queries
            Shape (q, d), any real dtype.
        k
            Neighbours.
        depth
            Candidates that the reduced index gives and that are put in order by full vectors; 0 to
            search by codes alone, without reading any. None for 5 k.
        effort
            Lists to look into (ivf) or candidates kept while following the graph (hnsw).
        certified
            Read full vectors until the k nearest are proven; needs an index built with `certify`.

        Raises
        ------
        DataError
            Queries don't fit the codec.
        ParameterError
            A parameter is out of range, or the index holds no certificates.
        """
        check_positive("k", k)
        wanted = 5 * k if depth is None else depth
        check_positive("depth", wanted, zero=True)
        if effort is not None:
            check_positive("effort", effort)
        asked = self._checked(queries, "queries")
        if len(asked) * k > _MOST_RESULTS:
            raise ParameterError(
                f"k={k} of {len(asked)} queries are more results than memory holds; ask for fewer at a time"
            )
        with self._lock.reading():
            if certified and self._certificates is None:
                raise ParameterError("the index holds no certificates; build it with certify=True")
            known = self._living()
            if not known.alive or not len(asked):
                return nothing(len(asked), k)
            if certified:
                return self._certified(asked, k)
            step = max(1, _CANDIDATES_AT_ONCE // min(known.alive, max(k, wanted)))
            parts = [
                self._found(asked[start : start + step], k, wanted, effort, known)
                for start in range(0, len(asked), step)
            ]
            return parts[0] if len(parts) == 1 else Found(*map(np.concatenate, zip(*parts, strict=True)))

    def add(self, vectors: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> None:
        """Add vectors (n, d), under ids of their own (None: from one past the largest on).

        Raises
        ------
        DataError
            They don't fit the codec, or an id is there already.
        """
        array = self._checked(vectors, "vectors")
        with self._lock.writing():
            self._append(Segment(len(array), array), ids)

    def remove(self, ids: npt.ArrayLike) -> None:
        """Remove vectors by id.

        Once half of what the index holds is removed, it is made anew from what is left.

        Raises
        ------
        DataError
            An id is not there; nothing is removed then.
        """
        wanted = np.unique(whole_numbers(ids))
        with self._lock.writing():
            held = np.flatnonzero(~self._removed)
            rows = held[np.isin(self._ids[held], wanted)]
            if len(rows) < len(wanted):
                absent = np.setdiff1d(wanted, self._ids[rows])
                raise DataError(f"id {absent[0]} is not in the index; remove ids that it holds")
            self._removed[rows] = True
            self._known = None
            if 2 * self._removed.sum() > len(self._ids):
                self._compact()

    def _compact(self) -> None:
        """Make the reduced index anew from the codes that are left."""
        rows = np.flatnonzero(~self._removed)
        groups, entries = self._groups.kept(rows)
        fresh = self._reduced.rebuilt(entries)
        if self._full.fetch is None:
            self._full.keep(rows)
        if self._norms is not None:
            self._norms = self._norms[rows]
        if self._certificates is not None:
            self._certificates.rows = self._certificates.rows[rows]
        self._reduced, self._groups, self._known = fresh, groups, None
        self._ids, self._removed = self._ids[rows], np.zeros(len(rows), bool)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write to a folder, atomically: who loads it sees the old index or the new one.

        Full vectors in files stay there; those in memory are written into the folder. An index that was
        loaded from the folder, or saved there before, is only written over what it was then.

        Raises
        ------
        FileError
            Another process writes there, or has saved there since: load the index again. Or a file of full
            vectors has changed, the folder holds another table, the disk is full, or it can't be written.
        """
        with self._lock.writing():
            arrays: dict[str, npt.NDArray[Any]] = {"ids": self._ids, "removed": self._removed}
            if self._norms is not None:
                arrays["norms"] = self._norms
            if self._full.rows is not None:
                arrays["rows"] = self._full.rows
            if self._groups.entry_of is not None:
                arrays["entries"] = self._groups.entry_of
            if isinstance(self._reduced, InvertedLists):
                arrays["centroids"] = self._reduced.centroids
            if self._certificates is not None:
                arrays |= {f"certificates.{name}": a for name, a in self._certificates.arrays().items()}
            settings = {"kind": self.kind, "fetched": self._full.fetch is not None}
            index, segments = self._reduced.index, self._full.segments
            self._full.segments, self._place = write_index(
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
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            Of the index.
        fetch
            As for `build`; needed where the index was built with one.
        base
            The file of full vectors that the index was built with, where it is not in the folder and was
            moved or touched since. A file outside of the folder that is not given is only opened where its
            size and time are those of then, so that an index from a stranger opens no file of yours.

        Raises
        ------
        FileError
            There is no index, or a file is missing, damaged or changed.
        ParameterError
            The index was built with `fetch`, and none is given.
        """
        saved = read_index(folder, base, fetched=fetch is not None)
        codec = saved.codec
        if saved.settings.get("fetched") and fetch is None:
            raise ParameterError(f"{folder}: was built with fetch; give the function that fetches vectors")
        try:
            arrays = saved.arrays
            full = FullVectors(codec.n_features, saved.segments, fetch, arrays.get("rows"))
            loaded = cls(
                codec,
                saved.reduced,
                full,
                arrays["ids"],
                norms=arrays.get("norms"),
                certificates=certificates_in(codec, arrays),
                removed=arrays["removed"],
                entry_of=arrays.get("entries"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{folder}: not a usable index: {error}") from error
        loaded._place = saved.place
        return loaded

    def _checked(self, vectors: npt.ArrayLike, name: str) -> Float32:
        """Return vectors (n, d) if the index can take them or search for them."""
        checked = as_vectors(vectors, name, min_rows=0)
        return self._fitting(checked, name)

    def _fitting(self, checked: Float32, name: str, rows: Int64 | None = None) -> Float32:
        """Return finite vectors if the index can take them or search for them; `rows` are their numbers."""
        if checked.shape[1] != self.codec.n_features:
            raise DataError(
                f"{name} has {checked.shape[1]} dimensions, the index holds vectors of "
                f"{self.codec.n_features}"
            )
        _check_numbers(checked, self.codec.metric, name, rows)
        return checked

    def _numbers(self, n: int, ids: npt.ArrayLike | None) -> Int64:
        """Return the ids of n new vectors."""
        if ids is None and n:
            last = int(self._ids.max(initial=-1))
            if last + n > np.iinfo(np.int64).max:
                raise DataError("the largest id is too near 2^63 to count on from it; give ids")
            return last + 1 + np.arange(n)
        numbers = whole_numbers(() if ids is None else ids)
        if numbers.shape != (n,):
            raise DataError(f"ids has shape {numbers.shape} for {n} vectors; give one id for each")
        if len(np.unique(numbers)) < n or np.isin(numbers, self.ids).any():
            raise DataError("ids has an id that is there already; give each vector an id of its own")
        return numbers

    def _append(self, segment: Segment, ids: npt.ArrayLike | None) -> None:
        """Add a segment's vectors."""
        n = segment.rows
        numbers = self._numbers(n, ids)
        step = chunk_rows(self.codec.n_features, _CHUNK_BYTES)
        pieces: list[Float32] = []
        proofs: list[Float32] = []
        groups = self._groups
        before = groups.rows
        held = None if groups.knows_codes else self._reduced.codes()
        try:
            with stage("index", n) as advance:
                for start in range(0, n, step):
                    rows = np.arange(start, min(n, start + step))
                    vectors = self._fitting(segment.checked(rows), segment.path or "vectors", rows)
                    try:
                        images = self.codec.projection.project(vectors)
                    except DataError:
                        # Named by the user's number, not by that in this piece.
                        segment.check_directions(vectors, rows)
                        raise
                    codes = self.codec.quantizer.encode(images)
                    if self.codec.metric == "cosine":
                        pieces.append(norms_of(vectors, "vectors"))
                    if self._certificates is not None:
                        proofs.append(self._certificates.of(vectors, self.codec.decode(codes)))
                    entries, fresh = groups.matched(codes, held, n)
                    if len(fresh) < len(codes):
                        images, codes = images[fresh], codes[fresh]
                    self._reduced.add(images, codes)
                    groups.append(entries, len(fresh))
                    advance(len(rows))
        finally:
            # Codes can't be taken out again: where a later row was refused, those before it are removed ones.
            done = groups.rows - before
            if done < n:
                groups.skip_to(len(self._reduced))
            self._known = None
            self._ids = np.concatenate([self._ids, numbers if done == n else np.full(done, -1)])
            self._removed = np.concatenate([self._removed, np.full(done, done < n)])
            if self._norms is not None:
                self._norms = np.concatenate([self._norms, *pieces])[: len(self._ids)]
            if self._certificates is not None:
                self._certificates.append(proofs, len(self._ids))
            if self._full.fetch is None and done:
                self._full.append(segment.first(done))
        if self._reduced.outgrown:
            self._reduced = self._reduced.rebuilt(np.arange(len(self._reduced)))

    def _living(self) -> Living:
        """Return what can be found; writers forget it, and readers make it again."""
        known = self._known
        if known is None:
            known = self._known = self._groups.living(self._removed)
        return known

    def _found(self, queries: Float32, k: int, depth: int, effort: int | None, known: Living) -> Found:
        """Return what a search finds in two stages; at least one vector is there."""
        directed = self._directed(queries)
        if depth and max(k, depth) >= known.alive:
            # All are candidates: no look at codes can add any.
            rows = np.flatnonzero(~self._removed)
            candidates = np.broadcast_to(rows, (len(queries), len(rows)))
            return self._best(queries, candidates, self._exact(directed, candidates), k)
        images = faiss_ready(self.codec.projection.project_queries(directed), "queries")
        entries = living(self._reduced, known.dead, images, max(k, depth), effort, k)
        if not depth:
            return self._by_codes(known.expanded(entries, k), k)
        candidates = known.first(entries)
        scores = self._exact(directed, candidates)
        if (known.sizes(entries) > 1).any():
            # The nearest entries are opened, as judged by one row of each.
            nearest, _ = best(entries, scores, entries.shape[1])
            others = known.expanded(nearest, max(k, depth), skip=1)
            candidates = np.concatenate([candidates, others], axis=1)
            scores = np.concatenate([scores, self._exact(directed, others)], axis=1)
        return self._best(queries, candidates, scores, k)

    def _directed(self, queries: Float32) -> Float32:
        """Return queries as scores are computed: of norm 1 for cosine."""
        return normalize_rows(queries, "queries") if self.codec.metric == "cosine" else queries

    def _exact(self, directed: Float32, candidates: Int64) -> Float32:
        return exact_scores_of(directed, candidates, self._full, self._ids, self._norms, self.codec.metric)

    def _best(self, queries: Float32, candidates: Int64, scores: Float32, k: int) -> Found:
        """Return the k best of candidates that were read."""
        rows, top = settled(queries, candidates, scores, k, self._full, self._ids, self.codec.metric)
        return named(self._ids, rows, top, k, (candidates >= 0).sum(axis=1))

    def _by_codes(self, rows: Int64, k: int) -> Found:
        """Return rows in the order of their codes, with scores falling by rank alone."""
        ranks = -np.arange(rows.shape[1], dtype=np.float32)
        scores = np.where(rows < 0, -np.inf, ranks[None]).astype(np.float32)
        return named(self._ids, rows, scores, k, np.zeros(len(rows), np.int64))

    def _certified(self, queries: Float32, k: int) -> Found:
        assert self._certificates is not None
        directed = self._directed(queries)
        candidates, scores = certified_candidates(
            directed,
            k,
            self._certificates,
            self.codec.decode(self._reduced.codes()),
            self._groups.entry_of,
            lambda part, chosen: self._exact(directed[part], chosen),
            self._removed,
        )
        return self._best(queries, candidates, scores, k)


def _check_numbers(vectors: Float32, metric: Metric, name: str, rows: Int64 | None = None) -> None:
    """Refuse vectors whose norms or products leave float32's range."""
    check_products(vectors, metric, name, rows=rows, alone=False)
    if metric == "cosine" and vectors.size and max(vectors.max(), -vectors.min()) > _LARGE:
        norms_of(vectors, name)
