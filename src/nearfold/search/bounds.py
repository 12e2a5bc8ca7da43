"""Upper bounds of exact scores, by which a search proves that it has found the nearest vectors.

Let g be the vector that a row's code stands for, A the linear map that brings it back to d dimensions best,
and P a matrix of orthonormal rows that span A's columns. With the error rho = b - A g,

    <q, b> = <q, A g> + <Pq, P rho> + <q - P^T P q, rho - P^T P rho>
           <= <A^T q, g> + |Pq| |P rho| + |q - P^T P q| |rho - P^T P rho|.

Two norms kept beside each code thus bound every score from above, whatever the fold and the quantiser are.
For l2, -|q - b|^2 / 2 = <q, b> - |b|^2 / 2 - |q|^2 / 2, and |b|^2 / 2 is kept as a third number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Int64, Metric, normalize_rows
from nearfold._utils.config import memory_budget
from nearfold.codecs.codec import Codec
from nearfold.codecs.quantizers.base import Codes
from nearfold.search.growing import Growing
from nearfold.search.rerank import rounding

__all__ = ["UpperBounds", "proven_candidates"]


# Keeps A small where dimensions of codes hardly vary.
_RIDGE = 1e-6
# Room for the rounding of sums in float32, as a share of the largest terms, and for underflow.
_ROUNDING, _UNDERFLOW = 1e-5, 1e-30
# Bounds of the queries that are answered together should fit the processor's cache; but codes that are not
# in memory are decoded for each such group.
_BYTES, _LEAST_QUERIES = 4 << 20, 16
# Codes that are decoded at a time.
_BLOCK = 1 << 14
# Decoded codes stay in memory up to this share of the budget, as searches need all of them each time.
_KEPT_SHARE = 8


class UpperBounds:
    """What bounds the scores of rows by their codes: maps that all rows share, and three numbers of each.

    Parameters
    ----------
    codec : Codec
        What made the codes.
    back : ndarray of shape (width, d), float32
        A^T.
    plane : ndarray of shape (r, d), float32
        P.
    center : ndarray of shape (d,), float32
        The point that rows are seen from: zero unless the metric is l2.
    rows : ndarray of shape (n, 3), float32
        |P rho|, |rho - P^T P rho| and |b|^2 / 2 of each row.
    """

    def __init__(self, codec: Codec, back: Float32, plane: Float32, center: Float32, rows: Float32) -> None:
        self._codec, self.metric = codec, codec.metric
        self.back, self.plane, self.center = back, plane, center
        self._rows = Growing(rows)
        self._decoded: dict[int, Float32] = {}

    @classmethod
    def fit(cls, codec: Codec, sample: Float32) -> Self:
        """Return bounds of no rows yet, with the maps that suit a sample (s, d) best.

        Raises
        ------
        ParameterError
            The codec's codes can't be turned back into vectors.
        """
        center = np.zeros(sample.shape[1], np.float32)
        if codec.metric == "l2":
            center = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        seen = _seen(sample, codec.metric, center)
        codes = codec.decode(codec.encode(sample))
        gram = codes.T.astype(np.float64) @ codes
        gram[np.diag_indices(len(gram))] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)
        back = np.linalg.solve(gram, codes.T.astype(np.float64) @ seen)
        _, values, axes = np.linalg.svd(back, full_matrices=False)
        plane = axes[values > values[0] * 1e-6]
        none = np.empty((0, 3), np.float32)
        return cls(codec, back.astype(np.float32), plane.astype(np.float32), center, none)

    @property
    def rows(self) -> Float32:
        """The three numbers of each row, shape (n, 3)."""
        return self._rows.array

    def of(self, vectors: Float32, codes: Codes) -> Float32:
        """Return the numbers of vectors (n, d) that have the codes (n, bytes): shape (n, 3)."""
        seen = self.seen(vectors)
        error = seen - self._codec.decode(codes) @ self.back
        inside = error @ self.plane.T
        outside = error - inside @ self.plane
        half = 0.5 * np.einsum("ij,ij->i", seen, seen)
        return np.column_stack(
            [np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1), half]
        ).astype(np.float32)

    def arrays(self) -> dict[str, Float32]:
        """Return the arrays that they are made of, by name."""
        return {"back": self.back, "plane": self.plane, "center": self.center, "rows": self.rows}

    def append(self, numbers: Float32) -> None:
        """Add the numbers (n, 3) of further rows."""
        self._rows.append(numbers)

    def keep(self, rows: Int64) -> None:
        """Drop all rows but some, whose codes are numbered anew."""
        self._rows = Growing(self.rows[rows])
        self._decoded.clear()

    def upper(self, queries: Float32, codes: Codes, entry_of: Int64 | None = None) -> Float32:
        """Return an upper bound of each score <q, b> (minus |b|^2 / 2 for l2): shape (q, n).

        Parameters
        ----------
        queries : ndarray of shape (q, d), float32
            Queries as `seen` returns them.
        codes : ndarray of shape (entries, bytes), uint8
            All codes; those of an earlier call come first.
        entry_of : ndarray of shape (n,), int64, optional
            The code of each row. By default row i has code i.
        """
        inside = queries @ self.plane.T
        outside = queries - inside @ self.plane
        inner, outer = np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1)
        images = queries @ self.back.T
        bounds = np.empty((len(queries), len(codes)), np.float32)
        for part, decoded in self._blocks(codes):
            bounds[:, part] = images @ decoded.T
        if entry_of is not None:
            bounds = bounds[:, entry_of]
        lengths = np.linalg.norm(queries, axis=1)
        size = lengths * np.sqrt(2 * self.rows[:, 2].max(initial=0))
        bounds += inner[:, None] * self.rows[:, 0]
        bounds += outer[:, None] * self.rows[:, 1]
        if self.metric == "l2":
            bounds -= self.rows[:, 2]
            size = size + self.rows[:, 2].max(initial=0) + lengths**2 / 2
        share = max(_ROUNDING, rounding(queries.shape[1]))
        bounds += (share * size[:, None] + _UNDERFLOW).astype(np.float32)
        return bounds

    def _blocks(self, codes: Codes) -> Iterator[tuple[slice, Float32]]:
        """Yield slices of the codes and the vectors that they stand for.

        As many of the first blocks as the memory budget allows stay in memory. Codes never change, so only
        a block that has grown since is decoded again. Threads may do the same work twice, with one result.
        """
        room = memory_budget() // _KEPT_SHARE
        for number, start in enumerate(range(0, len(codes), _BLOCK)):
            part = slice(start, min(len(codes), start + _BLOCK))
            block = self._decoded.get(number)
            if block is None or len(block) < part.stop - start:
                block = self._codec.decode(codes[part])
                if 4 * block.shape[1] * part.stop <= room:
                    self._decoded[number] = block
            yield part, block

    def seen(self, vectors: Float32) -> Float32:
        """Return vectors as scores are bounded: of norm 1 for cosine, centred for l2."""
        return _seen(vectors, self.metric, self.center)


def _seen(vectors: Float32, metric: Metric, center: Float32) -> Float32:
    if metric == "cosine":
        return normalize_rows(vectors, keep_zero=True)
    return vectors - center if metric == "l2" else vectors


def proven_candidates(
    queries: Float32,
    k: int,
    bounds: UpperBounds,
    codes: Codes,
    entry_of: Int64 | None,
    exact: Callable[[slice, Int64], Float32],
    removed: npt.NDArray[np.bool_],
) -> tuple[Int64, Float32]:
    """Return rows that hold each query's k nearest for certain, and their exact scores.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
        Queries; of norm 1 for cosine.
    k : int
        Number of neighbours.
    bounds : UpperBounds
        Bounds of the n rows.
    codes : ndarray of shape (entries, bytes), uint8
        All codes.
    entry_of : ndarray of shape (n,), int64, or None
        The number of each row's code; None where row i has code i.
    exact : callable
        Returns exact scores of rows (1, c) for the query that a slice names.
    removed : ndarray of shape (n,), bool
        Rows that must not be found.

    Returns
    -------
    rows, scores : ndarrays of shape (q, c), int64 and float32
        All rows that were read, with -1 and -inf behind the last.
    """
    alive = int(len(removed) - removed.sum())
    k = min(k, alive)
    read: list[tuple[Int64, Float32]] = []
    step = max(_LEAST_QUERIES, _BYTES // (4 * max(1, len(removed))))
    for start in range(0, len(queries), step):
        seen = bounds.seen(queries[start : start + step])
        upper = bounds.upper(seen, codes, entry_of)
        upper[:, removed] = -np.inf
        for i, bound in enumerate(upper, start):
            read.append(_proven(i, k, bound, alive, seen[i - start], bounds.metric, exact))
    width = max(len(rows) for rows, _ in read)
    candidates = np.full((len(queries), width), -1, np.int64)
    exact_scores = np.full((len(queries), width), -np.inf, np.float32)
    for i, (rows, scores) in enumerate(read):
        candidates[i, : len(rows)], exact_scores[i, : len(rows)] = rows, scores
    return candidates, exact_scores


def _proven(
    i: int,
    k: int,
    bound: Float32,
    alive: int,
    query: Float32,
    metric: Metric,
    exact: Callable[[slice, Int64], Float32],
) -> tuple[Int64, Float32]:
    """Read rows in the order of their bounds (n,) until no unread one can be among the k best.

    `bound` is -inf for removed rows, and is set to it here for those that were read.
    """
    # Exact l2 scores are -|q - b|^2; bounds are of half that, without the query's own norm.
    half_query = 0.5 * float(query @ query) if metric == "l2" else 0.0
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    more = _highest(bound, min(alive, 4 * k))
    while len(more):
        rows = np.concatenate([rows, more])
        scores = np.concatenate([scores, exact(slice(i, i + 1), more[None])[0]])
        if len(rows) == alive:
            break
        bound[more] = -np.inf
        worst = float(np.partition(scores, len(scores) - k)[len(scores) - k])
        bar = 0.5 * worst + half_query if metric == "l2" else worst
        unread = np.flatnonzero(bound >= bar)
        more = unread[_highest(bound[unread], min(len(unread), len(rows)))]
    return rows, scores


def _highest(bound: Float32, count: int) -> Int64:
    """Return the places of the `count` highest bounds, rising, as rows of a file are read fastest so."""
    if count == len(bound):
        return np.arange(count)
    return np.sort(np.argpartition(bound, len(bound) - count)[len(bound) - count :])
