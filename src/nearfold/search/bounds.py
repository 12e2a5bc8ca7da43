"""Upper bounds of exact scores, by which a search proves that it has found the nearest vectors.

Let g be the decoded code of a row b, A the linear map from g to d dimensions that reconstructs b best, and P
a matrix whose orthonormal rows span the columns of A. With the error rho = b - A g,

    <q, b> = <q, A g> + <Pq, P rho> + <q - P^T P q, rho - P^T P rho>
           <= <A^T q, g> + |Pq| |P rho| + |q - P^T P q| |rho - P^T P rho|.

Two norms stored with each code thus bound every score from above, whatever the fold and the quantiser are.
For l2, -|q - b|^2 / 2 = <q, b> - |b|^2 / 2 - |q|^2 / 2, and |b|^2 / 2 is stored as a third number.
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


# The ridge penalty, which keeps A small in dimensions of codes that hardly vary.
_RIDGE = 1e-6
# Margins for the rounding of sums in float32, as a share of the largest terms, and for underflow.
_ROUNDING, _UNDERFLOW = 1e-5, 1e-30
# The bounds of queries that are answered together should fit the processor's cache. But decoded codes that
# are not kept in memory are made anew for each such group, so it has a least number of queries.
_BYTES, _LEAST_QUERIES = 4 << 20, 16
# The number of codes that are decoded at a time.
_BLOCK = 1 << 14
# Decoded codes stay in memory up to the memory budget divided by this, as each search needs all of them.
_KEPT_SHARE = 8


class UpperBounds:
    """Upper bounds of the scores of rows, from their codes, two shared maps, and three numbers of each row.

    Parameters
    ----------
    codec : Codec
        The codec that made the codes.
    back : ndarray of shape (width, d), float32
        The matrix A^T.
    plane : ndarray of shape (r, d), float32
        The matrix P.
    center : ndarray of shape (d,), float32
        The point that is subtracted from rows: zero unless the metric is l2.
    rows : ndarray of shape (n, 3), float32
        The numbers |P rho|, |rho - P^T P rho| and |b|^2 / 2 of each row.
    """

    def __init__(self, codec: Codec, back: Float32, plane: Float32, center: Float32, rows: Float32) -> None:
        self._codec, self.metric = codec, codec.metric
        self.back, self.plane, self.center = back, plane, center
        self._rows = Growing(rows)
        self._decoded: dict[int, Float32] = {}

    @classmethod
    def fit(cls, codec: Codec, sample: Float32) -> Self:
        """Return bounds without rows, with the maps that fit a sample of vectors (s, d) best.

        Raises
        ------
        ParameterError
            The codec's codes can't be decoded.
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
        """Return the three numbers of vectors (n, d) with the codes (n, bytes), shape (n, 3)."""
        seen = self.seen(vectors)
        error = seen - self._codec.decode(codes) @ self.back
        inside = error @ self.plane.T
        outside = error - inside @ self.plane
        half = 0.5 * np.einsum("ij,ij->i", seen, seen)
        return np.column_stack(
            [np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1), half]
        ).astype(np.float32)

    def arrays(self) -> dict[str, Float32]:
        """Return the arrays of the bounds by name, as `__init__` takes them."""
        return {"back": self.back, "plane": self.plane, "center": self.center, "rows": self.rows}

    def append(self, numbers: Float32) -> None:
        """Append the numbers (n, 3) of further rows."""
        self._rows.append(numbers)

    def keep(self, rows: Int64) -> None:
        """Keep only some rows, whose codes are then numbered anew."""
        self._rows = Growing(self.rows[rows])
        self._decoded.clear()

    def upper(self, queries: Float32, codes: Codes, entry_of: Int64 | None = None) -> Float32:
        """Return upper bounds of the scores <q, b>, minus |b|^2 / 2 for l2.

        Parameters
        ----------
        queries : ndarray of shape (q, d), float32
            The queries, as `seen` returns them.
        codes : ndarray of shape (entries, bytes), uint8
            All codes, beginning with those of earlier calls.
        entry_of : ndarray of shape (n,), int64, optional
            The number of each row's code. By default row i has code i.

        Returns
        -------
        ndarray of shape (q, n), float32
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
        """Yield slices of the codes, and the decoded codes.

        The first blocks stay in memory as far as the budget allows. Codes never change, so a block is decoded
        again only if it has grown. Threads may do the same work twice, with the same result.
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
        """Return vectors as the bounds take them: of norm 1 for cosine, centred for l2."""
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
    hidden: npt.NDArray[np.bool_],
) -> tuple[Int64, Float32]:
    """Return candidates that are proven to contain each query's k nearest rows, and their exact scores.

    Parameters
    ----------
    queries : ndarray of shape (q, d), float32
        The queries, of norm 1 for cosine.
    k : int
        The number of neighbours.
    bounds : UpperBounds
        The bounds of the n rows.
    codes : ndarray of shape (entries, bytes), uint8
        All codes.
    entry_of : ndarray of shape (n,), int64, or None
        The number of each row's code. None if row i has code i.
    exact : callable
        A function of a slice of one query and row numbers (1, c) that returns their exact scores (1, c).
    hidden : ndarray of shape (n,), bool
        Whether each row must not be found, as it was removed or a filter leaves it out.

    Returns
    -------
    rows, scores : ndarrays of shape (q, c), int64 and float32
        All rows that were read and their scores, filled up with -1 and -inf.
    """
    alive = int(len(hidden) - hidden.sum())
    k = min(k, alive)
    read: list[tuple[Int64, Float32]] = []
    step = max(_LEAST_QUERIES, _BYTES // (4 * max(1, len(hidden))))
    for start in range(0, len(queries), step):
        seen = bounds.seen(queries[start : start + step])
        upper = bounds.upper(seen, codes, entry_of)
        upper[:, hidden] = -np.inf
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
    """Read rows in descending order of their bounds (n,) until no unread row can be among the k best.

    `bound` is -inf for hidden rows, and is set to -inf here for rows that were read.
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
    """Return the rows of the `count` highest bounds in ascending order, in which files are read fastest."""
    if count == len(bound):
        return np.arange(count)
    return np.sort(np.argpartition(bound, len(bound) - count)[len(bound) - count :])
