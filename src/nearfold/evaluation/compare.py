"""Compare methods at several dimensions and metrics on one split, the truth computed once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from nearfold.arrays import Float32, Metric, as_vectors, check_metric, check_positive, resolve_components
from nearfold.encoder import Encoder
from nearfold.errors import DataError, NearfoldWarning
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.judge import (
    DEFAULT_DEPTHS,
    DEFAULT_KS,
    Judgement,
    check_counts,
    judge,
    paired_difference,
)
from nearfold.evaluation.split import hold_out
from nearfold.evaluation.truth import Truth
from nearfold.methods.base import LinearFold
from nearfold.methods.registry import METHODS, make
from nearfold.progress import track

__all__ = ["Comparison", "Entry", "compare"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at one number of dimensions under one metric.

    Parameters
    ----------
    method
        A name of the registry.
    encoder
        What it learned from the base.
    judgement
        What that keeps of the held-out queries' neighbours.
    fit_seconds, transform_seconds
        Wall time of learning, and of folding the base.
    remarks
        Warnings that the method gave while learning.
    """

    method: str
    encoder: Encoder
    judgement: Judgement
    fit_seconds: float
    transform_seconds: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Entries on one split of the data.

    Parameters
    ----------
    rows, n_features, queries
        The base's shape and the number of held-out queries.
    entries
        By metric, then dimensions, then method, in the order asked for.
    """

    rows: int
    n_features: int
    queries: int
    entries: tuple[Entry, ...]

    def group(self, metric: Metric, n_components: int) -> list[Entry]:
        """Return the entries of one metric and dimension: those that can be compared."""
        return [
            e for e in self.entries if e.judgement.metric == metric and e.encoder.n_components == n_components
        ]

    def difference(self, first: Entry, second: Entry, column: str) -> Estimate:
        """Return first - second in `column` ("P@10", "10-in-50"), paired by query."""
        return paired_difference(first.judgement, second.judgement, column)

    def best(self, metric: Metric, n_components: int) -> Entry:
        """Return the entry with the highest P@k for the largest k."""
        return max(
            self.group(metric, n_components), key=lambda e: e.judgement.preservation[e.judgement.k_max].mean
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything measured as JSON holds it; differences are to the group's best."""
        rows = []
        for entry in self.entries:
            best = self.best(entry.judgement.metric, entry.encoder.n_components)
            column = f"P@{entry.judgement.k_max}"
            rows.append(
                {
                    "method": entry.method,
                    "n_components": entry.encoder.n_components,
                    **entry.judgement.as_dict(),
                    "minus_best": {
                        "best": best.method,
                        "column": column,
                        **self.difference(entry, best, column)._asdict(),
                    },
                    "fit_seconds": entry.fit_seconds,
                    "transform_seconds": entry.transform_seconds,
                    "remarks": list(entry.remarks),
                }
            )
        shape = {"rows": self.rows, "n_features": self.n_features, "queries": self.queries}
        return {**shape, "entries": rows}


def compare(
    X: npt.ArrayLike,
    *,
    n_components: Sequence[int | str] = ("25%",),
    methods: Sequence[str] = tuple(METHODS),
    metrics: Sequence[Metric] = ("cosine",),
    queries: npt.ArrayLike | None = None,
    n_queries: int | None = None,
    k: Sequence[int] = DEFAULT_KS,
    depths: Sequence[int] = DEFAULT_DEPTHS,
    seed: int = 0,
) -> Comparison:
    """Fit methods on a base and judge each on queries that none has seen.

    Parameters
    ----------
    X
        Vectors, shape (n, d).
    n_components
        Dimensions to fold to: numbers or shares such as "25%".
    methods
        Names of the registry.
    metrics
        What near means; methods that train for a metric are fitted once for each.
    queries
        Vectors to ask with, shape (q, d); None holds out rows of X.
    n_queries
        How many rows to hold out; None for a tenth, at most 1,000.
    k, depths
        Of P@k and of recall k-in-R.
    seed
        Of the split and of the methods.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError, ParameterError
        As the methods' `fit` and `evaluate` raise.
    """
    vectors = as_vectors(X, min_rows=2)
    if queries is None:
        if n_queries is not None:
            check_positive("n_queries", n_queries)
        base, asked = hold_out(vectors, n_queries, seed)
    else:
        base, asked = vectors, as_vectors(queries, "queries")
        if asked.shape[1] != base.shape[1]:
            raise DataError(f"queries has {asked.shape[1]} dimensions where the base has {base.shape[1]}")
    check_counts(k, depths, len(base))
    dims = list(dict.fromkeys(resolve_components(c, base.shape[1]) for c in n_components))
    metrics = [check_metric(metric) for metric in metrics]
    estimators = {
        (n, c, m): make(n, c, metric=m, random_state=seed) for m in metrics for c in dims for n in methods
    }

    truths: dict[Metric, Truth] = {}
    entries = []
    for (name, _, metric), estimator in track(estimators.items(), "compare", len(estimators), "fits"):
        if metric not in truths:
            truths[metric] = Truth.compute(base, asked, max(k), metric)
        started = time.perf_counter()
        remarks = _fit(estimator, base)
        fitted = time.perf_counter()
        estimator.encoder_.transform(base)
        folded = time.perf_counter()
        judgement = judge(estimator.encoder_, truths[metric], k, depths)
        entries.append(Entry(name, estimator.encoder_, judgement, fitted - started, folded - fitted, remarks))
    return Comparison(len(base), base.shape[1], len(asked), tuple(entries))


def _fit(estimator: LinearFold, base: Float32) -> tuple[str, ...]:
    """Fit, and return what nearfold warned of; other warnings go on to whoever listens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NearfoldWarning)
        estimator.fit(base)
    for warning in caught:
        if not issubclass(warning.category, NearfoldWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return tuple(str(w.message) for w in caught if issubclass(w.category, NearfoldWarning))
