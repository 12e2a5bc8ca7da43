"""What users search with: codes in memory, full vectors on disk, ids of their own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Float32, as_vectors, check_positive, chunk_rows, normalize_rows
from nearfold.errors import DataError, FileError, ParameterError
from nearfold.pipeline.pipeline import Pipeline
from nearfold.progress import stage
from nearfold.sampling import sampled_rows
from nearfold.search.certified import Certificates, certified_top
from nearfold.search.found import Found, named, whole_numbers
from nearfold.search.full import Fetch, FullVectors, Segment
from nearfold.search.locking import ReadersOneWriter
from nearfold.search.reduced import Flat, InvertedLists, Reduced, living, reduced_from, reduced_index
from nearfold.search.rerank import best, exact_scores_of, norms_of
from nearfold.search.saved import Place, read_index, write_index

__all__ = ["Found", "SearchIndex"]

Int64 = npt.NDArray[np.int64]

_CHUNK_BYTES = 64 << 20
_SAMPLE = 1 << 16


class SearchIndex:
    """Two-stage search; make one with `build` or `load`.

    Any number of threads may search at once; `add`, `remove` and `save` wait for them and for each other.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        reduced: Reduced,
        full: FullVectors,
        ids: Int64,
        *,
        norms: Float32 | None = None,
        certificates: Certificates | None = None,
        removed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._reduced, self._full, self._ids = reduced, full, ids
        self._norms, self._certificates = norms, certificates
        self._removed = np.zeros(len(ids), bool) if removed is None else removed
        self._lock = ReadersOneWriter()
        self._place: Place | None = None

    @classmethod
    def build(
        cls,
        pipeline: Pipeline,
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
        pipeline
            From `fit_pipeline`, `plan` or `Pipeline.load`.
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
            Vectors don't fit the pipeline, or ids don't fit the vectors.
        ParameterError
            The kind is unknown or doesn't go with the pipeline.
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
        sample_rows = sampled_rows(segment.rows, _SAMPLE, 0)
        sample = as_vectors(segment.take(sample_rows), "vectors")
        reduced = reduced_index(pipeline, kind, sample, segment.rows, links=links)
        if certify and kind != "flat":
            raise ParameterError(f"certify needs index kind flat: {kind} doesn't look at every code")
        certificates = Certificates.fit(pipeline, sample) if certify else None
        cosine = pipeline.metric == "cosine"
        full = FullVectors(pipeline.n_features, [], fetch)
        empty = np.empty(0, np.int64)
        norms = np.empty(0, np.float32) if cosine else None
        index = cls(pipeline, reduced, full, empty, norms=norms, certificates=certificates)
        index._append(segment, ids)
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
            Queries don't fit the pipeline.
        ParameterError
            A parameter is out of range, or the index holds no certificates.
        """
        check_positive("k", k)
        asked = as_vectors(queries, "queries")
        if asked.shape[1] != self.pipeline.n_features:
            raise DataError(
                f"queries has {asked.shape[1]} dimensions, the index holds vectors of "
                f"{self.pipeline.n_features}"
            )
        if self.pipeline.metric == "cosine":
            asked = normalize_rows(asked, "queries")
        wanted = 5 * k if depth is None else depth
        check_positive("depth", wanted, zero=True)
        if effort is not None:
            check_positive("effort", effort)
        with self._lock.reading():
            if certified:
                return self._certified(asked, k)
            candidates = living(self._reduced, self._removed, asked, max(k, wanted), effort)
            if not wanted:
                return self._by_codes(asked, candidates[:, :k])
            scores = self._exact(asked, candidates)
            read = (candidates >= 0).sum(axis=1)
            return named(self._ids, *best(candidates, scores, k), k, read)

    def add(self, vectors: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> None:
        """Add vectors (n, d), under ids of their own (None: from one past the largest on).

        Raises
        ------
        DataError
            They don't fit the pipeline, or an id is there already.
        """
        array = as_vectors(vectors, "vectors")
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
            if 2 * self._removed.sum() > len(self._ids):
                self._compact()

    def _compact(self) -> None:
        """Make the reduced index anew from the vectors that are left."""
        rows = np.flatnonzero(~self._removed)
        ids = self._ids[rows]
        step = chunk_rows(self.pipeline.n_features, _CHUNK_BYTES)
        fresh = self._reduced.emptied()
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            fresh.add(self._full.take(rows[part], ids[part]))
        if self._full.fetch is None:
            self._full.keep(rows)
        self._reduced, self._ids, self._removed = fresh, ids, np.zeros(len(rows), bool)
        if self._norms is not None:
            self._norms = self._norms[rows]
        if self._certificates is not None:
            self._certificates.rows = self._certificates.rows[rows]

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
            if isinstance(self._reduced, InvertedLists):
                arrays["centroids"] = self._reduced.centroids
            if self._certificates is not None:
                arrays |= {f"certificates.{name}": a for name, a in self._certificates.arrays().items()}
            settings = {"kind": self.kind, "fetched": self._full.fetch is not None}
            index, segments = self._reduced.index, self._full.segments
            self._full.segments, self._place = write_index(
                folder, self.pipeline, settings, arrays, index, segments, self._place
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
        pipeline = saved.pipeline
        if saved.settings.get("fetched") and fetch is None:
            raise ParameterError(f"{folder}: was built with fetch; give the function that fetches vectors")
        try:
            arrays = saved.arrays
            reduced = reduced_from(pipeline, saved.settings["kind"], saved.index, arrays.get("centroids"))
            proofs = {
                name.removeprefix("certificates."): array
                for name, array in arrays.items()
                if name.startswith("certificates.")
            }
            full = FullVectors(pipeline.n_features, saved.segments, fetch, arrays.get("rows"))
            loaded = cls(
                pipeline,
                reduced,
                full,
                arrays["ids"],
                norms=arrays.get("norms"),
                certificates=Certificates(pipeline.metric, **proofs) if proofs else None,
                removed=arrays["removed"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{folder}: not a usable index: {error}") from error
        loaded._place = saved.place
        return loaded

    def _append(self, segment: Segment, ids: npt.ArrayLike | None) -> None:
        """Add a segment's vectors."""
        n = segment.rows
        if ids is None:
            numbers = (self._ids.max(initial=-1) + 1 + np.arange(n)).astype(np.int64)
        else:
            numbers = whole_numbers(ids)
        if numbers.shape != (n,):
            raise DataError(f"ids has shape {numbers.shape} for {n} vectors; give one id for each")
        if len(np.unique(numbers)) < n or np.isin(numbers, self.ids).any():
            raise DataError("ids has an id that is there already; give each vector an id of its own")
        step = chunk_rows(self.pipeline.n_features, _CHUNK_BYTES)
        pieces: list[Float32] = []
        proofs: list[Float32] = []
        codes_before = len(self._reduced)
        try:
            with stage("index", n) as advance:
                for start in range(0, n, step):
                    rows = np.arange(start, min(n, start + step))
                    vectors = as_vectors(segment.take(rows), "vectors")
                    if self.pipeline.metric == "cosine":
                        pieces.append(norms_of(vectors))
                    if self._certificates is None:
                        self._reduced.add(vectors)
                    else:
                        assert isinstance(self._reduced, Flat)
                        codes = self.pipeline.encode(vectors)
                        proofs.append(self._certificates.of(vectors, self.pipeline.decode(codes)))
                        self._reduced.add_codes(codes)
                    advance(len(rows))
        finally:
            # Codes can't be taken out again: where a later row was refused, those before it are removed ones.
            done = len(self._reduced) - codes_before
            self._ids = np.concatenate([self._ids, numbers if done == n else np.full(done, -1)])
            self._removed = np.concatenate([self._removed, np.full(done, done < n)])
            if self._norms is not None:
                self._norms = np.concatenate([self._norms, *pieces])[: len(self._ids)]
            if self._certificates is not None:
                self._certificates.append(proofs, len(self._ids))
            if self._full.fetch is None and done:
                self._full.append(segment.first(done))

    def _exact(self, asked: Float32, candidates: Int64) -> Float32:
        return exact_scores_of(asked, candidates, self._full, self._ids, self._norms, self.pipeline.metric)

    def _by_codes(self, asked: Float32, candidates: Int64) -> Found:
        """Return candidates in the order of their codes, with scores falling by rank alone."""
        ranks = -np.arange(candidates.shape[1], dtype=np.float32)
        scores = np.where(candidates < 0, -np.inf, ranks[None]).astype(np.float32)
        return named(self._ids, candidates, scores, candidates.shape[1], np.zeros(len(asked), np.int64))

    def _certified(self, asked: Float32, k: int) -> Found:
        if self._certificates is None:
            raise ParameterError("the index holds no certificates; build it with certify=True")
        rows, scores, read = certified_top(
            asked,
            k,
            self._certificates,
            self._decoded(),
            lambda part, chosen: self._exact(asked[part], chosen),
            self._removed,
        )
        return named(self._ids, rows, scores, k, read)

    def _decoded(self) -> Float32:
        assert isinstance(self._reduced, Flat)
        return self.pipeline.decode(self._reduced.codes())
