"""Compare methods at several dimensions and metrics on one split, with one ground truth a metric."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Metric, check_metric, check_positive, resolve_components
from nearfold._utils.progress import track
from nearfold.errors import NearfoldWarning
from nearfold.evaluation.ground_truth import GroundTruth, warn_of_copies
from nearfold.evaluation.intervals import Estimate
from nearfold.evaluation.labels import LabelledQueries, LabelResult, asked_labels, search_depth
from nearfold.evaluation.recall import (
    DEFAULT_KS,
    DEFAULT_N_CANDIDATES,
    EvaluationResult,
    check_counts,
    images,
    paired_difference,
    recall_of_vectors,
)
from nearfold.evaluation.split import base_and_queries, rows_and_queries
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.folds.mlp import MLPEncoder
from nearfold.methods.base import FoldEstimator
from nearfold.methods.registry import LINEAR, make

__all__ = ["Comparison", "ComparisonEntry", "compare"]


@dataclass(frozen=True, eq=False)
class ComparisonEntry:
    """One method at one number of dimensions under one metric.

    Parameters
    ----------
    method : str
        The name of the method.
    encoder : Fold
        The fold that it learned from the base, with the first seed.
    evaluation : EvaluationResult
        What the fold keeps of the held-out queries' neighbours: the mean over seeds, query by query.
    fit_seconds, transform_seconds : float
        The wall time of learning, and of folding the base, in seconds; means over seeds.
    by_seed : tuple of float
        recall@k for the largest k with each seed: one number where the method has no chance in it.
    remarks : tuple of str
        The warnings that the method gave while learning.
    """

    method: str
    encoder: Fold
    evaluation: EvaluationResult
    fit_seconds: float
    transform_seconds: float
    by_seed: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods that were evaluated on one split of the data.

    Parameters
    ----------
    rows, n_features : int
        The shape of the base.
    queries : int
        The number of held-out queries.
    entries : tuple of ComparisonEntry
        The entries by metric, then dimensions, then method, in the order asked for.
    """

    rows: int
    n_features: int
    queries: int
    entries: tuple[ComparisonEntry, ...]

    def group(self, metric: Metric, n_components: int) -> list[ComparisonEntry]:
        """Return the entries of one metric and number of dimensions, which can be compared.

        Parameters
        ----------
        metric : {"cosine", "l2", "ip"}
            The metric that says what near means.
        n_components : int
            The number m of reduced dimensions.

        Returns
        -------
        list of ComparisonEntry
            The list is empty if nothing was compared there.
        """
        return [
            e
            for e in self.entries
            if e.evaluation.metric == metric and e.encoder.n_components == n_components
        ]

    def difference(self, first: ComparisonEntry, second: ComparisonEntry, column: str) -> Estimate:
        """Return the mean difference of two entries in a column of their evaluations, paired by query.

        Parameters
        ----------
        first, second : ComparisonEntry
            The entries; the difference is first - second.
        column : str
            The name of the column, such as "recall@10", "10-recall@100" or "nDCG@10".

        Returns
        -------
        Estimate
            The mean and its 95% confidence interval.

        Raises
        ------
        KeyError
            The evaluations have no such column.
        """
        return paired_difference(first.evaluation, second.evaluation, column)

    def best(self, metric: Metric, n_components: int) -> ComparisonEntry:
        """Return the entry of the highest recall@k for the largest k.

        Parameters
        ----------
        metric : {"cosine", "l2", "ip"}
            The metric that says what near means.
        n_components : int
            The number m of reduced dimensions.

        Returns
        -------
        ComparisonEntry

        Raises
        ------
        ValueError
            There is no entry of this metric and number of dimensions.
        """
        return max(
            self.group(metric, n_components), key=lambda e: e.evaluation.recall[e.evaluation.k_max].mean
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all entries as values of JSON, each with its difference to the best of its group.

        Returns
        -------
        dict of str to object
        """
        rows = []
        for entry in self.entries:
            best = self.best(entry.evaluation.metric, entry.encoder.n_components)
            column = f"recall@{entry.evaluation.k_max}"
            rows.append(
                {
                    "method": entry.method,
                    "n_components": entry.encoder.n_components,
                    **entry.evaluation.as_dict(),
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
    X: Any,
    queries: Any = None,
    *,
    n_components: Sequence[int | str] = ("25%",),
    methods: Sequence[str] = LINEAR,
    metrics: Sequence[Metric] = ("cosine",),
    n_queries: int | None = None,
    k: Sequence[int] = DEFAULT_KS,
    n_candidates: Sequence[int] = DEFAULT_N_CANDIDATES,
    seed: int = 0,
    n_seeds: int = 1,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    qrels: Any = None,
) -> Comparison:
    """Fit several methods to a base and evaluate each on queries that none of them has seen.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The vectors to fit to and to search. They are held in memory; of files beyond the memory budget a
        sample is.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, optional
        The vectors that are searched for. By default, rows of X that are drawn at random are held out.
    n_components : sequence of int or str, default=("25%",)
        The numbers of dimensions to fold to, as numbers or as shares of d such as "25%".
    methods : sequence of str, optional
        Names of methods, as `nearfold methods` lists them. The default is all linear ones.
    metrics : sequence of {"cosine", "l2", "ip"}, default=("cosine",)
        The metrics to evaluate by. Methods that train for a metric are fitted once for each.
    n_queries : int, optional
        The number of rows to hold out where no queries are given. The default is a tenth of X, at most
        1,000.
    k : sequence of int, default=(1, 5, 10)
        The k of recall@k.
    n_candidates : sequence of int, default=(20, 50, 100)
        The R of k-recall@R, for the largest k.
    seed : int, default=0
        The seed of the split and of the methods.
    n_seeds : int, default=1
        The number of times that a method with chance in it is fitted, with seeds seed, seed + 1 and so on,
        on the same split. Its shares are averaged query by query.
    parameters : dict of str to dict, optional
        Parameters other than the defaults, by method, such as {"rae": {"weight_decay": 1e-5}}.
    qrels : Qrels, mapping, str or path-like, optional
        Relevance labels of the queries, as for `evaluate`: evaluations then have `labels`.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError, FileError, ParameterError, MissingExtraError
        As the methods' `fit` and `evaluate` raise them.

    Examples
    --------
    >>> import nearfold as nf
    >>> vectors = nf.load_sample().vectors.astype("float32")[:1000]
    >>> found = nf.compare(vectors, n_components=[48], methods=["pca", "truncation"])
    >>> found.best("cosine", 48).method
    'pca'
    """
    metrics = [check_metric(metric) for metric in metrics]
    vectors, given = rows_and_queries(X, queries, metrics, min_rows=2)
    base, asked = base_and_queries(vectors, given, n_queries, seed)
    check_counts(k, n_candidates, len(base))
    dims = list(dict.fromkeys(resolve_components(c, base.shape[1]) for c in n_components))
    check_positive("n_seeds", n_seeds)
    # Made before anything is fitted: an unknown name or missing extra is said at once.
    settings = parameters or {}
    for name in methods:
        make(name, dims[0], **settings.get(name, {}))
    plan = [(m, c, n) for m in metrics for c in dims for n in dict.fromkeys(methods)]

    labels = asked_labels(qrels, X, queries, len(base), len(asked))
    depth = max(k) if labels is None else search_depth(k, len(base))

    ground_truths: dict[Metric, GroundTruth] = {}
    labelled: dict[Metric, LabelledQueries] = {}
    shared: dict[tuple[str, int, int], _Run] = {}
    entries = []
    for metric, components, name in track(plan, "compare", len(plan), "entries"):
        if metric not in ground_truths:
            ground_truths[metric] = GroundTruth.compute(base, asked, depth, metric)
            if labels is not None:
                labelled[metric] = LabelledQueries.of(labels, ground_truths[metric], k)
            if len(ground_truths) == 1:
                warn_of_copies(ground_truths[metric])
        runs, results = [], []
        for number in range(seed, seed + n_seeds):
            estimator = make(name, components, metric=metric, random_state=number, **settings.get(name, {}))
            known = (name, components, number)
            run = shared.get(known) or _Run.of(estimator, base, asked)
            if not estimator.learns_metric:
                shared[known] = run
            searched = run.encoder.metric if estimator.learns_metric else metric
            results.append(
                recall_of_vectors(
                    ground_truths[metric],
                    run.base,
                    run.queries,
                    k,
                    n_candidates,
                    searched,
                    labelled.get(metric),
                )
            )
            runs.append(run)
            if "random_state" not in estimator.get_params():
                break
        entries.append(
            ComparisonEntry(
                name,
                runs[0].searched_with(searched),
                _mean(results),
                sum(run.fit_seconds for run in runs) / len(runs),
                sum(run.transform_seconds for run in runs) / len(runs),
                tuple(j.recall[j.k_max].mean for j in results),
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


def _mean(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Return the result of the mean over seeds of each query's shares."""
    first = results[0]
    if len(results) == 1:
        return first

    def mean(columns: Iterable[str]) -> dict[str, Float64]:
        return {name: np.mean([one.values_of(name) for one in results], axis=0) for name in columns}

    result = EvaluationResult.of(
        first.metric, list(first.recall), list(first.candidate_recall), mean(first.per_query)
    )
    if first.labels is None:
        return result
    labels = LabelResult.of(
        first.labels.query_rows, mean(first.labels.per_query), first.labels.full_per_query
    )
    return replace(result, labels=labels)


def _fit(estimator: FoldEstimator, base: Float32) -> tuple[str, ...]:
    """Fit, and return what nearfold warned of; other warnings go on to whoever listens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NearfoldWarning)
        estimator.fit(base)
    for warning in caught:
        if not issubclass(warning.category, NearfoldWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return tuple(str(w.message) for w in caught if issubclass(w.category, NearfoldWarning))
