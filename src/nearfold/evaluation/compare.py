"""Compare methods at several dimensions and metrics on one split, the truth computed once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_vectors,
    check_metric,
    check_positive,
    resolve_components,
)
from nearfold._utils.progress import track
from nearfold.errors import NearfoldWarning
from nearfold.evaluation.ground_truth import Truth, warn_of_copies
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.recall import (
    DEFAULT_DEPTHS,
    DEFAULT_KS,
    Judgement,
    check_counts,
    images,
    judge_folded,
    paired_difference,
)
from nearfold.evaluation.split import base_and_queries, check_numbers
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.folds.mlp import MLPEncoder
from nearfold.methods.base import FoldEstimator
from nearfold.methods.registry import LINEAR, make

__all__ = ["Comparison", "Entry", "compare"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at one number of dimensions under one metric.

    Parameters
    ----------
    method
        A name of the registry.
    encoder
        What it learned from the base (with the first seed).
    judgement
        What that keeps of the held-out queries' neighbours; the mean over seeds, query by query.
    fit_seconds, transform_seconds
        Wall time of learning, and of folding the base; means over seeds.
    by_seed
        P@k for the largest k with each seed; one number where the method has no chance in it.
    remarks
        Warnings that the method gave while learning.
    """

    method: str
    encoder: Fold
    judgement: Judgement
    fit_seconds: float
    transform_seconds: float
    by_seed: tuple[float, ...] = ()
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
                    "searched_by": entry.encoder.metric,
                    "fit_seconds": entry.fit_seconds,
                    "transform_seconds": entry.transform_seconds,
                    "by_seed": list(entry.by_seed),
                    "remarks": list(entry.remarks),
                }
            )
        shape = {"rows": self.rows, "n_features": self.n_features, "queries": self.queries}
        return {**shape, "entries": rows}


def compare(
    X: npt.ArrayLike,
    *,
    n_components: Sequence[int | str] = ("25%",),
    methods: Sequence[str] = LINEAR,
    metrics: Sequence[Metric] = ("cosine",),
    queries: npt.ArrayLike | None = None,
    n_queries: int | None = None,
    k: Sequence[int] = DEFAULT_KS,
    depths: Sequence[int] = DEFAULT_DEPTHS,
    seed: int = 0,
    n_seeds: int = 1,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> Comparison:
    """Fit methods on a base and judge each on queries that none has seen.

    Parameters
    ----------
    X
        Vectors, shape (n, d).
    n_components
        Dimensions to fold to: numbers or shares such as "25%".
    methods
        Names of the registry; the linear ones unless given.
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
    n_seeds
        Fit methods with chance in them this many times (seed, seed + 1, ...) on the same split, and
        average.
    parameters
        Other than the defaults, by method: {"rae": {"weight_decay": 1e-5}}.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError, ParameterError
        As the methods' `fit` and `evaluate` raise.
    """
    vectors = as_vectors(X, min_rows=2)
    given = None if queries is None else as_vectors(queries, "queries")
    # Before a split numbers rows in its own way.
    metrics = [check_metric(metric) for metric in metrics]
    for metric in metrics:
        check_numbers(vectors, metric, "X")
        check_numbers(given, metric, "queries")
    base, asked = base_and_queries(vectors, given, n_queries, seed)
    check_counts(k, depths, len(base))
    dims = list(dict.fromkeys(resolve_components(c, base.shape[1]) for c in n_components))
    check_positive("n_seeds", n_seeds)
    # Made before anything is fitted: an unknown name or missing extra is said at once.
    settings = parameters or {}
    for name in methods:
        make(name, dims[0], **settings.get(name, {}))
    plan = [(m, c, n) for m in metrics for c in dims for n in dict.fromkeys(methods)]

    truths: dict[Metric, Truth] = {}
    shared: dict[tuple[str, int, int], _Run] = {}
    entries = []
    for metric, components, name in track(plan, "compare", len(plan), "entries"):
        if metric not in truths:
            truths[metric] = Truth.compute(base, asked, max(k), metric)
            if len(truths) == 1:
                warn_of_copies(truths[metric])
        runs, judged = [], []
        for number in range(seed, seed + n_seeds):
            estimator = make(name, components, metric=metric, random_state=number, **settings.get(name, {}))
            known = (name, components, number)
            run = shared.get(known) or _Run.of(estimator, base, asked)
            if not estimator.learns_metric:
                shared[known] = run
            searched = run.encoder.metric if estimator.learns_metric else metric
            judged.append(judge_folded(truths[metric], run.base, run.queries, k, depths, searched))
            runs.append(run)
            if "random_state" not in estimator.get_params():
                break
        entries.append(
            Entry(
                name,
                runs[0].searched_with(searched),
                _mean(judged),
                sum(run.fit_seconds for run in runs) / len(runs),
                sum(run.transform_seconds for run in runs) / len(runs),
                tuple(j.preservation[j.k_max].mean for j in judged),
                runs[0].remarks,
            )
        )
    return Comparison(len(base), base.shape[1], len(asked), tuple(entries))


@dataclass(frozen=True, eq=False)
class _Run:
    """One fit and what it makes of base and queries."""

    encoder: Fold
    base: Float32
    queries: Float32
    fit_seconds: float
    transform_seconds: float
    remarks: tuple[str, ...]

    def searched_with(self, metric: Metric) -> Fold:
        """Return the encoder, marked as one for `metric`."""
        encoder = self.encoder
        if encoder.metric == metric or not isinstance(encoder, Encoder | MLPEncoder):
            return encoder
        return replace(encoder, metric=metric, parameters={**encoder.parameters, "metric": metric})

    @classmethod
    def of(cls, estimator: FoldEstimator, base: Float32, queries: Float32) -> _Run:
        started = time.perf_counter()
        remarks = _fit(estimator, base)
        fitted = time.perf_counter()
        folded = images(estimator.encoder_, base, estimator.metric)
        done = time.perf_counter()
        asked = images(estimator.encoder_, queries, estimator.metric)
        return cls(estimator.encoder_, folded, asked, fitted - started, done - fitted, remarks)


def _mean(judged: Sequence[Judgement]) -> Judgement:
    """Return the judgement of the mean over seeds of each query's shares."""
    first = judged[0]
    if len(judged) == 1:
        return first
    per_query = {
        column: np.mean([one.per_query[column] for one in judged], axis=0) for column in first.per_query
    }
    return Judgement.of(first.metric, list(first.preservation), list(first.recall), per_query)


def _fit(estimator: FoldEstimator, base: Float32) -> tuple[str, ...]:
    """Fit, and return what nearfold warned of; other warnings go on to whoever listens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NearfoldWarning)
        estimator.fit(base)
    for warning in caught:
        if not issubclass(warning.category, NearfoldWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return tuple(str(w.message) for w in caught if issubclass(w.category, NearfoldWarning))
