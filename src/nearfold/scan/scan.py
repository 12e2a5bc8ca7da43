"""One pass over rows of any number: their moments, and the neighbours of a few anchors among them.

What a scan finds is a value of megabytes that can be merged with another part's, written, and
gone on from; it is all that training reads. The rows that are neighbours are carried along, so
no second pass has to fetch them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, check_products, normalize_rows
from nearfold.scan.copies import NO_MARK, distinct_rows, row_marks
from nearfold.scan.moments import Moments, Precision
from nearfold.scan.neighbors import Neighbors, lowest_scores

__all__ = [
    "Anchors",
    "Blocks",
    "Kept",
    "Scan",
    "ScanSpec",
    "anchors_of",
    "numbers_of",
    "prepared",
]


# The share of blocks that may be left out for being smaller than others.
_SHORT = 0.1


class ScanSpec(NamedTuple):
    """What a method asks of a scan of its data.

    Parameters
    ----------
    metric
        What near means.
    normalize
        Whether rows are scaled to norm 1 first.
    products
        What products of rows are computed in; see `Moments.stream`.
    n_anchors, k
        How many rows' neighbours to look for, and how many each; 0 anchors for moments alone.
    seed
        Of the anchors.
    stride
        Sum the moments of one block of rows in so many.
    queries
        A sample of queries of another kind, shape (q, d): the anchors are drawn from them.
    """

    metric: Metric
    normalize: bool
    products: Precision
    n_anchors: int = 0
    k: int = 0
    seed: int = 0
    stride: int = 1
    queries: Float32 | None = None


@dataclass(frozen=True, eq=False)
class Anchors:
    """Rows, or queries of another kind, whose neighbours a scan looks for.

    Parameters
    ----------
    vectors
        Shape (a, d), prepared as the rows will be.
    rows
        Their row numbers, shape (a,), rising; None for queries.
    k
        The rows to find for each, itself included where it is one of them.
    metric
        What near means.
    shift
        What is subtracted from every row for "l2", shape (d,): near the mean, so that neither
        distances nor moments lose digits to an origin far away. None for other metrics.
    """

    vectors: Float32
    rows: Int64 | None
    k: int
    metric: Metric
    shift: Float32 | None = None
    floor: Float32 | None = None
    """A lower bound of the score of each anchor's k-th neighbour, shape (a,); None where none is known."""

    def chosen(self, which: Int64) -> Anchors:
        """Return some of the anchors."""
        rows = None if self.rows is None else self.rows[which]
        floor = None if self.floor is None else self.floor[which]
        return replace(self, vectors=self.vectors[which], rows=rows, floor=floor)


def anchors_of(vectors: Float32, rows: Int64 | None, request: ScanSpec, sample: Float32) -> Anchors:
    """Prepare anchors; copies of one are left out.

    Parameters
    ----------
    vectors, rows
        The anchors as they are in the data, shape (a, d), and the numbers of their rows.
    request
        What is asked.
    sample
        Some of the rows that will be scanned, as they are in the data, shape (s, d): the k-th neighbour
        among all is at least as near as that among them, so most rows need no second look.
    """
    k = request.k if rows is None else request.k + 1
    shift = None
    if request.metric == "l2":
        shift = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    name = "queries" if rows is None else "X"
    anchors = prepared(vectors, request, shift, name)
    check_products(anchors, request.metric, name)
    once = distinct_rows(anchors)
    anchors, rows = anchors[once], None if rows is None else rows[once]
    looked_at = prepared(sample, request, shift)
    floor = lowest_scores(anchors, looked_at[distinct_rows(looked_at)], k, request.metric)
    return Anchors(anchors, rows, k, request.metric, shift, floor)


def prepared(vectors: Float32, request: ScanSpec, shift: Float32 | None, name: str = "X") -> Float32:
    """Return rows as a scan looks at them: normalised or shifted, where that is asked."""
    if request.normalize:
        return normalize_rows(vectors, name)
    return vectors if shift is None else vectors - shift


@dataclass(frozen=True, eq=False)
class Kept:
    """Some rows and their numbers.

    Parameters
    ----------
    ids
        Shape (r,), int64, rising.
    vectors
        Shape (r, d), float32, prepared.
    """

    ids: Int64
    vectors: Float32

    @classmethod
    def gathered(cls, pieces: list[Kept], needed: Int64, n_features: int) -> Kept:
        """Return the rows `needed` (rising, each once) out of pieces, a list that is emptied meanwhile."""
        if len(pieces) == 1 and np.array_equal(pieces[0].ids, needed):
            return pieces.pop()
        vectors = np.empty((len(needed), n_features), np.float32)
        have = np.zeros(len(needed), bool)
        while pieces:
            piece = pieces.pop()
            places = np.searchsorted(needed, piece.ids)
            places[places == len(needed)] = 0
            wanted = needed[places] == piece.ids if len(needed) else np.zeros(len(piece.ids), bool)
            if wanted.all():
                vectors[places] = piece.vectors
            else:
                places = places[wanted]
                vectors[places] = piece.vectors[wanted]
            have[places] = True
        return cls(needed[have], vectors if have.all() else vectors[have])


@dataclass(frozen=True, eq=False)
class Blocks:
    """Anchors with their neighbours: all that NearFold's training reads.

    Parameters
    ----------
    vectors
        The rows that blocks are made of, shape (u, d), float32, as the metric wants them
        (norm 1 for cosine, mean subtracted for l2).
    index
        Shape (a, k + 1), int64: the numbers of each block's rows, the anchor first.
    foreign
        Whether anchors are queries of another kind than the rows they are blocked with.
    """

    vectors: Float32
    index: Int64
    foreign: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """What a pass over some rows found.

    Parameters
    ----------
    rows
        How many rows were seen.
    moments
        Of the prepared rows (about `Anchors.shift`, where there is one), or of every so many blocks
        of them.
    neighbors
        Of the anchors, in no particular order; None without anchors.
    kept
        The rows that are neighbours; None without anchors, or where they were not carried along.
    shift
        That of the anchors.
    """

    rows: int
    moments: Moments
    neighbors: Neighbors | None = None
    kept: Kept | None = None
    shift: Float32 | None = None

    def __add__(self, other: Scan) -> Scan:
        """Return what a pass over both parts' rows would have found."""
        moments = self.moments + other.moments
        if self.neighbors is None or other.neighbors is None:
            return replace(self, rows=self.rows + other.rows, moments=moments)
        neighbors = self.neighbors.merge(other.neighbors)
        kept = None
        if self.kept is not None and other.kept is not None:
            width = self.kept.vectors.shape[1]
            kept = Kept.gathered([self.kept, other.kept], numbers_of(neighbors), width)
        return replace(self, rows=self.rows + other.rows, moments=moments, neighbors=neighbors, kept=kept)

    def needed(self) -> Int64:
        """Return the numbers of the rows that are neighbours and were not carried along, rising."""
        if self.neighbors is None or self.kept is not None:
            return np.empty(0, np.int64)
        return numbers_of(self.neighbors)

    def filled(self, rows: list[Kept]) -> Scan:
        """Return this scan with the rows that `needed()` names, given among others, prepared."""
        needed, width = self.needed(), rows[0].vectors.shape[1]
        return replace(self, kept=Kept.gathered(rows, needed, width))

    def of_anchors(self, chosen: Int64) -> Scan:
        """Return this scan for some of its anchors."""
        assert self.neighbors is not None
        return replace(self, neighbors=self.neighbors.chosen(chosen))

    @property
    def mean(self) -> Float64:
        """The mean of the rows before they were shifted, shape (d,)."""
        return self.moments.mean + (0.0 if self.shift is None else self.shift.astype(np.float64))

    def blocks(self, anchors: Anchors) -> Blocks:
        """Return the anchors' blocks of different rows, centred on the mean where the scan shifted.

        Where there are fewer different rows than neighbours were asked for, blocks are smaller. Blocks
        are equally large, so a few that are smaller than others are left out.
        """
        assert self.neighbors is not None
        assert self.kept is not None
        found, own = self.neighbors.sorted(), anchors.rows
        assert found.marks is not None
        numbers, vectors = self.kept.ids, self.kept.vectors
        # An anchor is not among its own neighbours where a copy stands for it, or by inner product.
        if own is not None and len(missing := np.flatnonzero(~np.isin(own, numbers))):
            pieces = [self.kept, Kept(own[missing], anchors.vectors[missing])]
            numbers = np.union1d(numbers, own)
            vectors = Kept.gathered(pieces, numbers, vectors.shape[1]).vectors
        known = found.ids >= 0
        index = np.searchsorted(numbers, found.ids)
        marks = np.full(len(numbers), NO_MARK, np.int64)
        if own is not None:
            marks[np.searchsorted(numbers, own)] = row_marks(anchors.vectors)
        marks[index[known]] = found.marks[known]
        first, place = _first_places(marks)
        index, vectors, wanted = place[index], vectors if len(first) == len(marks) else vectors[first], known
        if own is None:
            # Queries have no row numbers: they stand behind the rows.
            own_places = len(vectors) + np.arange(len(anchors.vectors))
            vectors = np.concatenate([vectors, anchors.vectors])
        else:
            own_places = place[np.searchsorted(numbers, own)]
            wanted = known & (index != own_places[:, None])
        index, whole = _equally_long(index, wanted, index.shape[1] - (own is not None))
        if self.shift is not None:
            vectors = vectors - self.moments.mean.astype(np.float32)
        return Blocks(vectors, np.column_stack([own_places[whole], index]), foreign=own is None)


def _first_places(marks: Int64) -> tuple[Int64, Int64]:
    """Return the places of the first of each mark, rising, and for each row where among them its mark is."""
    _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
    rising = np.sort(first)
    return rising, np.searchsorted(rising, first)[inverse]


def _equally_long(index: Int64, wanted: npt.NDArray[np.bool_], most: int) -> tuple[Int64, Int64]:
    """Return the wanted entries of lists, shape (a, k), as lists of one length, and whose these are."""
    left = np.sort(np.where(wanted, np.arange(index.shape[1]), index.shape[1]), axis=1)
    counts = wanted.sum(axis=1)
    # Only a scan that was added to has lists of several lengths: a few short ones may not shorten all.
    length = min(most, int(np.quantile(counts, _SHORT, method="lower")))
    whole = np.flatnonzero(counts >= length)
    return np.take_along_axis(index[whole], left[whole, :length], 1), whole


def numbers_of(neighbors: Neighbors) -> Int64:
    """Return the numbers of all rows that are somebody's neighbour, rising."""
    numbers = np.unique(neighbors.ids)
    return numbers[np.searchsorted(numbers, 0) :]
