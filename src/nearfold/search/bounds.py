"""Search that proves its results: full vectors are read until no other can be among the k nearest.

Let g be what a row's code stands for, A the linear map that brings it back to d dimensions best, and P
orthonormal rows that span A's columns. With the error rho = b - A g,

    <q, b> = <q, A g> + <Pq, P rho> + <q - P^T P q, rho - P^T P rho>
           <= <A^T q, g> + |Pq| |P rho| + |q - P^T P q| |rho - P^T P rho|.

Two norms beside each code thus bound every score from above, whatever the fold and the quantiser are.
For l2, -|q - b|^2 / 2 = <q, b> - |b|^2 / 2 - |q|^2 / 2, and |b|^2 / 2 is kept as a third number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, normalize_rows
from nearfold.codecs.codec import Codec
from nearfold.search.rerank import rounding

__all__ = ["Certificates", "certified_candidates"]

Int64 = npt.NDArray[np.int64]

# Keeps A small where dimensions of codes hardly vary.
_RIDGE = 1e-6
# Room for the rounding of sums in float32, as a share of the largest terms, and for underflow.
_ROUNDING, _UNDERFLOW = 1e-5, 1e-30
_QUERIES = 16


class Certificates:
    """What proves results: maps that all rows share, and three numbers of each.

    Parameters
    ----------
    metric
        What near means.
    back
        A^T, shape (width, d).
    plane
        P, shape (r, d).
    center
        What rows are seen from, shape (d,): zero unless the metric is l2.
    rows
        |P rho|, |rho - P^T P rho| and |b|^2 / 2 of each row, shape (n, 3).
    """

    def __init__(self, metric: Metric, back: Float32, plane: Float32, center: Float32, rows: Float32) -> None:
        self.metric, self.back, self.plane, self.center, self.rows = metric, back, plane, center, rows

    @classmethod
    def fit(cls, codec: Codec, sample: Float32) -> Self:
        """Return certificates of no rows yet, with the maps that suit a sample (s, d) best.

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
        return cls(codec.metric, back.astype(np.float32), plane.astype(np.float32), center, none)

    def of(self, vectors: Float32, decoded: Float32) -> Float32:
        """Return the numbers of vectors (n, d) whose codes stand for `decoded` (n, width): shape (n, 3)."""
        seen = self.seen(vectors)
        error = seen - decoded @ self.back
        inside = error @ self.plane.T
        outside = error - inside @ self.plane
        half = 0.5 * np.einsum("ij,ij->i", seen, seen)
        return np.column_stack(
            [np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1), half]
        ).astype(np.float32)

    def arrays(self) -> dict[str, Float32]:
        """Return what they are made of, by name."""
        return {"back": self.back, "plane": self.plane, "center": self.center, "rows": self.rows}

    def append(self, pieces: list[Float32], rows: int) -> None:
        """Add the numbers of further rows, up to so many in all."""
        self.rows = np.concatenate([self.rows, *pieces])[:rows]

    def upper(self, queries: Float32, decoded: Float32, entry_of: Int64 | None = None) -> Float32:
        """Return an upper bound of each score <q, b> (minus |b|^2 / 2 for l2): shape (q, n).

        `queries` (q, d) as `seen` gives them, `decoded` what the codes stand for (entries, width), and the
        entry of each row, where rows share some.
        """
        inside = queries @ self.plane.T
        outside = queries - inside @ self.plane
        inner, outer = np.linalg.norm(inside, axis=1), np.linalg.norm(outside, axis=1)
        bounds: Float32 = np.asarray((queries @ self.back.T) @ decoded.T, np.float32)
        if entry_of is not None:
            bounds = bounds[:, entry_of]
        lengths = np.linalg.norm(queries, axis=1)
        size = lengths * np.sqrt(2 * self.rows[:, 2].max(initial=0))
        bounds += inner[:, None] * self.rows[:, 0] + outer[:, None] * self.rows[:, 1]
        if self.metric == "l2":
            bounds -= self.rows[:, 2]
            size = size + self.rows[:, 2].max(initial=0) + lengths**2 / 2
        share = max(_ROUNDING, rounding(queries.shape[1]))
        bounds += (share * size[:, None] + _UNDERFLOW).astype(np.float32)
        return bounds

    def seen(self, vectors: Float32) -> Float32:
        """Return vectors as scores are bounded: norm 1 for cosine, centred for l2."""
        return _seen(vectors, self.metric, self.center)


def _seen(vectors: Float32, metric: Metric, center: Float32) -> Float32:
    if metric == "cosine":
        return normalize_rows(vectors, keep_zero=True)
    return vectors - center if metric == "l2" else vectors


def certified_candidates(
    queries: Float32,
    k: int,
    certificates: Certificates,
    decoded: Float32,
    entry_of: Int64 | None,
    exact: Callable[[slice, Int64], Float32],
    removed: npt.NDArray[np.bool_],
) -> tuple[Int64, Float32]:
    """Return rows that hold each query's k nearest, and their exact scores; all that were read for it.

    Parameters
    ----------
    queries
        Shape (q, d).
    k
        Neighbours.
    certificates
        Of the n rows.
    decoded
        What codes stand for, shape (entries, width).
    entry_of
        The number of each row's code, shape (n,); None where row i has code i.
    exact
        Returns exact scores of rows (1, c) for the query that a slice names.
    removed
        Rows that must not be found, shape (n,).

    Returns
    -------
    Row numbers and scores of shape (q, c), with -1 and -inf behind the last.
    """
    living = int(len(removed) - removed.sum())
    k = min(k, living)
    found: list[tuple[Int64, Float32]] = []
    for start in range(0, len(queries), _QUERIES):
        seen = certificates.seen(queries[start : start + _QUERIES])
        bounds = certificates.upper(seen, decoded, entry_of)
        bounds[:, removed] = -np.inf
        for i, bound in enumerate(bounds, start):
            # Removed rows are last, and are left out.
            order = np.argsort(-bound, kind="stable")[:living]
            rows, scores = _proven(i, k, order, bound[order], seen[i - start], certificates.metric, exact)
            found.append((rows, scores))
    width = max(len(rows) for rows, _ in found)
    candidates = np.full((len(queries), width), -1, np.int64)
    exact_scores = np.full((len(queries), width), -np.inf, np.float32)
    for i, (rows, scores) in enumerate(found):
        candidates[i, : len(rows)], exact_scores[i, : len(rows)] = rows, scores
    return candidates, exact_scores


def _proven(
    i: int,
    k: int,
    order: Int64,
    bound: Float32,
    query: Float32,
    metric: Metric,
    exact: Callable[[slice, Int64], Float32],
) -> tuple[Int64, Float32]:
    """Read rows in the order of their bounds until no unread one can be among the k best."""
    # Exact l2 scores are -|q - b|^2; bounds are of half that, without the query's own norm.
    half_query = 0.5 * float(query @ query) if metric == "l2" else 0.0
    seen = min(len(order), 4 * k)
    found = exact(slice(i, i + 1), order[None, :seen])[0]
    while seen < len(order):
        worst = float(np.partition(found, len(found) - k)[len(found) - k])
        bar = 0.5 * worst + half_query if metric == "l2" else worst
        open_rows = int(np.searchsorted(-bound, -bar, side="right"))
        if open_rows <= seen:
            break
        more = min(open_rows, 2 * seen)
        found = np.concatenate([found, exact(slice(i, i + 1), order[None, seen:more])[0]])
        seen = more
    return order[:seen], found
