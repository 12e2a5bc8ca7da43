"""Choosing a parameter inside `fit`: what an encoder keeps of held-back rows' neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric, normalize_rows
from nearfold.errors import DataError
from nearfold.folds.fold import Fold
from nearfold.scan.neighbors import nearest

__all__ = ["Validation"]

_K = 10
_MAX_QUERIES = 500
_MAX_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class Validation:
    """Rows split into those to learn from and those to ask with.

    Parameters
    ----------
    train, queries
        Shapes (n, d) and (q, d), float32.
    truth
        Row numbers of each query's nearest rows in d dimensions, shape (q, k).
    metric
        What near means.
    """

    train: Float32
    queries: Float32
    truth: npt.NDArray[np.int64]
    metric: Metric

    @classmethod
    def split(cls, X: Float32, metric: Metric, rng: np.random.Generator) -> Validation:
        """Hold back a tenth of the rows of X (at most 500, of at most 20,000 looked at).

        Raises
        ------
        DataError
            X has too few rows to hold some back, or a zero row under cosine.
        """
        order = rng.permutation(len(X))[:_MAX_ROWS]
        count = min(_MAX_QUERIES, len(order) // 10)
        if count < 1:
            raise DataError(
                f"X has {len(X)} sample(s) (n_samples = {len(X)}), too few to hold some back and choose a "
                f"parameter on them; give more rows, or the parameter"
            )
        queries, train = X[np.sort(order[:count])], X[np.sort(order[count:])]
        k = min(_K, max(1, len(train) // 2))
        return cls(train, queries, _search(train, queries, k, metric), metric)

    def recall(self, encoder: Fold) -> float:
        """Return recall@10 of the held-back rows (recall@k for k half the rows where those are under 20)."""
        k = self.truth.shape[1]
        found = _search(encoder.transform(self.train), encoder.transform(self.queries), k, self.metric)
        return float((found[:, :, None] == self.truth[:, None, :]).any(axis=2).mean())

    def best(
        self, candidates: list[float], learn: Callable[[Float32, float], Fold | None]
    ) -> dict[float, float]:
        """Return recall@10 by candidate, best first; those that `learn` has no encoder for are left out."""
        scored = {}
        for candidate in candidates:
            encoder = learn(self.train, candidate)
            if encoder is not None:
                scored[candidate] = self.recall(encoder)
        return dict(sorted(scored.items(), key=lambda item: -item[1]))


def _search(base: Float32, queries: Float32, k: int, metric: Metric) -> npt.NDArray[np.int64]:
    if metric == "cosine":
        base, queries = (normalize_rows(rows, keep_zero=True) for rows in (base, queries))
    return nearest(queries, [base], k, metric, len(base)).ids
