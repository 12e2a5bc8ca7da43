"""The result of one pass over any number of rows: their moments, and the neighbours of a few anchors.

A scan takes some megabytes, and is all that training reads. It can be merged with the scan of another part,
written, and resumed. It holds the vectors of the neighbours, so that no second pass is needed.
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


# The share of blocks that may be dropped because they are smaller than others.
_SHORT = 0.1


class ScanSpec(NamedTuple):
    """The specification of a scan, by which a method says what it needs from the data.

    Attributes
    ----------
    metric : {"cosine", "l2", "ip"}
        The metric of neighbours.
    normalize : bool
        Whether rows are scaled to norm 1 first.
    products : {numpy.float64, numpy.float32}
        The dtype of products of rows; see `Moments.stream`.
    n_anchors : int, default=0
        The number of rows that are anchors; 0 for moments alone. As many queries are anchors too.
    k : int, default=0
        The number of neighbours of each anchor.
    seed : int, default=0
        The seed by which anchors are drawn.
    stride : int, default=1
        The moments are summed over every stride-th block of rows.
    queries : ndarray of shape (q, d), float32, optional
        A sample of queries of another kind than the rows. Anchors are drawn from the rows, and from these
        if there are any.
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
    """The rows, and queries of another kind, whose neighbours a scan looks for.

    Parameters
    ----------
    vectors : ndarray of shape (a, d), float32
        The anchors, prepared as the rows of the scan are; first those that are rows, then the queries.
    rows : ndarray of shape (r,), int64
        The row numbers of the first r anchors in ascending order. The others are queries.
    k : int
        The number of rows to find for each anchor, which for a row includes itself.
    metric : {"cosine", "l2", "ip"}
        The metric of neighbours.
    shift : ndarray of shape (d,), float32, optional
        For "l2", a vector near the mean that is subtracted from every row, so that neither distances nor
        moments lose digits if rows are far from the origin. None for other metrics.
    floor : ndarray of shape (a,), float32, optional
        A lower bound of the score of each anchor's k-th neighbour, if one is known.
    """

    vectors: Float32
    rows: Int64
    k: int
    metric: Metric
    shift: Float32 | None = None
    floor: Float32 | None = None

    def chosen(self, which: Int64) -> Anchors:
        """Return the anchors of the given numbers, which are in ascending order."""
        rows = self.rows[which[which < len(self.rows)]]
        floor = None if self.floor is None else self.floor[which]
        return replace(self, vectors=self.vectors[which], rows=rows, floor=floor)

    @property
    def of_rows(self) -> Int64:
        """The numbers of the anchors that are rows."""
        return np.arange(len(self.rows))

    @property
    def of_queries(self) -> Int64:
        """The numbers of the anchors that are queries."""
        return np.arange(len(self.rows), len(self.vectors))

    def distinct(self) -> Int64:
        """Return the numbers of the anchors without copies. A query may be a copy of a row."""
        n = len(self.rows)
        return np.concatenate([distinct_rows(self.vectors[:n]), n + distinct_rows(self.vectors[n:])])


def anchors_of(
    vectors: Float32, rows: Int64, request: ScanSpec, sample: Float32, queries: Float32 | None = None
) -> Anchors:
    """Return prepared anchors, without copies.

    Parameters
    ----------
    vectors : ndarray of shape (r, d), float32
        The anchors that are rows, as they are in the data.
    rows : ndarray of shape (r,), int64
        Their row numbers.
    request : ScanSpec
        What the scan looks for.
    sample : ndarray of shape (s, d), float32
        Some of the rows that will be scanned, as they are in the data. Their k-th neighbours bound those
        among all rows, so that most rows can be dropped at once.
    queries : ndarray of shape (q, d), float32, optional
        The anchors that are queries.

    Raises
    ------
    DataError
        An anchor or a sampled row is zero under cosine, or products of anchors leave float32's range.
    """
    shift = None
    if request.metric == "l2":
        shift = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    parts = [prepared(vectors, request, shift)]
    check_products(parts[0], request.metric, "X")
    if queries is not None:
        parts.append(prepared(queries, request, shift, "queries"))
        check_products(parts[1], request.metric, "queries")
    anchors = Anchors(np.concatenate(parts), rows, request.k + 1, request.metric, shift)
    anchors = anchors.chosen(anchors.distinct())
    looked_at = prepared(sample, request, shift)
    distinct = looked_at[distinct_rows(looked_at)]
    floor = lowest_scores(anchors.vectors, distinct, anchors.k, request.metric)
    return replace(anchors, floor=floor)


def prepared(vectors: Float32, request: ScanSpec, shift: Float32 | None, name: str = "X") -> Float32:
    """Return rows as a scan compares them: of norm 1 if it normalises, and otherwise minus its shift.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        The rows.
    request : ScanSpec
        The specification of the scan.
    shift : ndarray of shape (d,), float32, or None
        The shift of the scan, if it has one.
    name : str, default="X"
        The name of the rows in messages.
    """
    if request.normalize:
        return normalize_rows(vectors, name)
    return vectors if shift is None else vectors - shift


@dataclass(frozen=True, eq=False)
class Kept:
    """Some rows with their numbers.

    Parameters
    ----------
    ids : ndarray of shape (r,), int64
        The row numbers in ascending order.
    vectors : ndarray of shape (r, d), float32
        The rows.
    """

    ids: Int64
    vectors: Float32

    @classmethod
    def gathered(cls, pieces: list[Kept], needed: Int64, n_features: int) -> Kept:
        """Return the needed rows from several pieces.

        Parameters
        ----------
        pieces : list of Kept
            The pieces. The list is emptied, to free memory.
        needed : ndarray of shape (r,), int64
            The row numbers, distinct and in ascending order. Those that no piece holds are omitted.
        n_features : int
            The number of dimensions d.
        """
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
    """The blocks of anchors and their neighbours, which are all that NearFold's training reads.

    Parameters
    ----------
    vectors : ndarray of shape (u, d), float32
        The rows that blocks consist of, of norm 1 for cosine, and with the mean subtracted for l2.
    index : ndarray of shape (a, k + 1), int64
        For each block the places of its rows in `vectors`, the anchor first.
    foreign : bool, default=False
        Whether the anchors are queries of another kind than their neighbours.
    """

    vectors: Float32
    index: Int64
    foreign: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of a pass over some rows.

    Parameters
    ----------
    rows : int
        The number of rows.
    moments : Moments
        The moments of the prepared rows, about `Anchors.shift` if there is one, or of every
        `ScanSpec.stride`-th block of them.
    neighbors : Neighbors, optional
        The neighbours of the anchors, in no particular order. None without anchors.
    kept : Kept, optional
        The rows that are neighbours. None without anchors, or if they were not kept.
    shift : ndarray of shape (d,), float32, optional
        The shift of the anchors.
    """

    rows: int
    moments: Moments
    neighbors: Neighbors | None = None
    kept: Kept | None = None
    shift: Float32 | None = None

    def __add__(self, other: Scan) -> Scan:
        """Return the result of a pass over the rows of both parts."""
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
        """Return the numbers of the neighbours if their vectors were not kept, in ascending order."""
        if self.neighbors is None or self.kept is not None:
            return np.empty(0, np.int64)
        return numbers_of(self.neighbors)

    def filled(self, rows: list[Kept]) -> Scan:
        """Return this scan with the vectors of `needed()`, from pieces that hold prepared rows."""
        needed, width = self.needed(), rows[0].vectors.shape[1]
        return replace(self, kept=Kept.gathered(rows, needed, width))

    def of_anchors(self, chosen: Int64) -> Scan:
        """Return this scan for the anchors of the given numbers."""
        assert self.neighbors is not None
        return replace(self, neighbors=self.neighbors.chosen(chosen))

    @property
    def mean(self) -> Float64:
        """The mean of the rows before they were shifted, shape (d,)."""
        return self.moments.mean + (0.0 if self.shift is None else self.shift.astype(np.float64))

    def blocks(self, anchors: Anchors) -> Blocks:
        """Return the anchors' blocks of distinct rows, centred on the mean if the scan has a shift.

        The blocks of rows and those of queries are made apart: see `of_anchors` and `Anchors.of_rows`.

        If there are fewer distinct rows than neighbours were asked for, blocks are smaller. As all blocks
        have the same size, the few that would be smaller than others are dropped.

        Parameters
        ----------
        anchors : Anchors
            The anchors of the scan, which are either all rows or all queries.
        """
        assert len(anchors.rows) in (0, len(anchors.vectors))
        assert self.neighbors is not None
        assert self.kept is not None
        found, own = self.neighbors.sorted(), anchors.rows if len(anchors.rows) else None
        assert found.marks is not None
        numbers, vectors = self.kept.ids, self.kept.vectors
        # An anchor may not be among its neighbours, as a copy stands for it or by the inner product.
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
            # Queries have no row numbers, so they follow the rows.
            own_places = len(vectors) + np.arange(len(anchors.vectors))
            vectors = np.concatenate([vectors, anchors.vectors])
        else:
            own_places = place[np.searchsorted(numbers, own)]
            wanted = known & (index != own_places[:, None])
        # Among the rows found there is one more than neighbours, as an anchor that is a row finds itself.
        index, whole = _equally_long(index, wanted, index.shape[1] - 1)
        if self.shift is not None:
            vectors = vectors - self.moments.mean.astype(np.float32)
        return Blocks(vectors, np.column_stack([own_places[whole], index]), foreign=own is None)


def _first_places(marks: Int64) -> tuple[Int64, Int64]:
    """Return the first place of each mark, in ascending order, and each row's index among these places."""
    _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
    rising = np.sort(first)
    return rising, np.searchsorted(rising, first)[inverse]


def _equally_long(index: Int64, wanted: npt.NDArray[np.bool_], most: int) -> tuple[Int64, Int64]:
    """Return the wanted entries of lists (a, k) as lists of one length, and the numbers of the lists kept."""
    left = np.sort(np.where(wanted, np.arange(index.shape[1]), index.shape[1]), axis=1)
    counts = wanted.sum(axis=1)
    # Only a scan that was added to has lists of several lengths. A few short lists should not shorten all.
    length = min(most, int(np.quantile(counts, _SHORT, method="lower")))
    whole = np.flatnonzero(counts >= length)
    return np.take_along_axis(index[whole], left[whole, :length], 1), whole


def numbers_of(neighbors: Neighbors) -> Int64:
    """Return the numbers of all rows that are neighbours of an anchor, in ascending order."""
    numbers = np.unique(neighbors.ids)
    return numbers[np.searchsorted(numbers, 0) :]
