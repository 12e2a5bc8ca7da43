"""Choosing a parameter inside `fit`: the recall that an encoder reaches on rows held back from training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric
from nearfold.errors import DataError
from nearfold.folds.fold import Fold
from nearfold.scan.exact import exact_scores, search, searched_again, tied_from

__all__ = ["Validation"]

_K = 10
_MAX_QUERIES = 500
_MAX_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class Validation:
    """Rows split into those to learn from and those to ask with.

    Parameters
    ----------
    train : ndarray of shape (n, d), float32
        Rows to learn from, which are searched.
    queries : ndarray of shape (q, d), float32
        Rows held back, whose nearest rows are looked for.
    k : int
        Number of neighbours that are looked for.
    bars : ndarray of shape (q, 1), float64
        Score from which on a row is among a query's true k nearest; see `tied_from`.
    metric : {"cosine", "l2", "ip"}
        What near means.
    """

    train: Float32
    queries: Float32
    k: int
    bars: npt.NDArray[np.float64]
    metric: Metric

    @classmethod
    def split(cls, X: Float32, metric: Metric, rng: np.random.Generator) -> Validation:
        """Hold back a tenth of the rows of X (at most 500, of at most 20,000 looked at).

        Parameters
        ----------
        X : ndarray of shape (n, d), float32
            All rows.
        metric : {"cosine", "l2", "ip"}
            What near means.
        rng : numpy.random.Generator
            Chooses the rows.

        Returns
        -------
        Validation
            With k = 10, or half of the rows to learn from where those are under 20.

        Raises
        ------
        DataError
            X has too few rows to hold some back.
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
        near = searched_again([(train, 0)], queries, k, metric)
        bars = tied_from(exact_scores(train, queries, near, metric), k, metric)
        return cls(train, queries, k, bars, metric)

    def recall(self, encoder: Fold) -> float:
        """Return the recall@k that `nearfold.evaluate` reports of the held-back rows.

        Parameters
        ----------
        encoder : Fold
            Any fold of the d dimensions.

        Returns
        -------
        float
            Share of the k rows nearest after folding that are among the true k nearest, ties included.
        """
        base, queries = encoder.transform(self.train), encoder.transform(self.queries)
        found = search(base, queries, self.k, self.metric, folded=True)
        return float((exact_scores(self.train, self.queries, found, self.metric) >= self.bars).mean())

    def best(
        self, candidates: list[float], learn: Callable[[Float32, float], Fold | None]
    ) -> dict[float, float]:
        """Return the recall by candidate, the best first.

        Parameters
        ----------
        candidates : list of float
            Values of the parameter to choose.
        learn : callable
            Takes `train` and a candidate, and returns a fold; None where the candidate leads to none, which
            leaves it out.

        Returns
        -------
        dict of float to float
        """
        scored = {}
        for candidate in candidates:
            encoder = learn(self.train, candidate)
            if encoder is not None:
                scored[candidate] = self.recall(encoder)
        return dict(sorted(scored.items(), key=lambda item: -item[1]))
