"""What a fold keeps of held-out queries' neighbours: recall@k, and k-recall@R."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, check_positive, largest_number
from nearfold.errors import ParameterError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import Estimate, estimate, paired_estimate
from nearfold.evaluation.labels import LabelledQueries, LabelResult, search_depth
from nearfold.folds.fold import Fold
from nearfold.scan.exact import check_enough, search

__all__ = [
    "DEFAULT_KS",
    "DEFAULT_N_CANDIDATES",
    "EvaluationResult",
    "candidate_counts",
    "check_counts",
    "images",
    "paired_difference",
    "recall_of_fold",
    "recall_of_neighbors",
    "recall_of_vectors",
]


DEFAULT_KS = (1, 5, 10)
DEFAULT_N_CANDIDATES = (20, 50, 100)

# Numbers that a fold could take beyond float32 are larger.
_LARGE = 1e30


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What a fold keeps of the queries' neighbours.

    Parameters
    ----------
    metric : {"cosine", "l2", "ip"}
        The metric that says what near means.
    recall : dict of int to Estimate
        recall@k by k: the share of the true top k among the reduced top k.
    candidate_recall : dict of int to Estimate
        k-recall@R by R, the number of candidates, for the largest k: the share of the true top k among
        the reduced top R, which an exact re-rank of R candidates recovers.
    per_query : dict of str to ndarray of shape (n_queries,), float64
        The shares that the estimates are means of, by column: "recall@10", "10-recall@100".
    labels : LabelResult, optional
        What labelled queries find after folding and before; None if no qrels were given.
    """

    metric: Metric
    recall: dict[int, Estimate]
    candidate_recall: dict[int, Estimate]
    per_query: dict[str, Float64] = field(repr=False)
    labels: LabelResult | None = None

    @classmethod
    def of(
        cls, metric: Metric, ks: Sequence[int], n_candidates: Sequence[int], per_query: dict[str, Float64]
    ) -> EvaluationResult:
        """Return the result for the shares of each query.

        Parameters
        ----------
        metric : {"cosine", "l2", "ip"}
            The metric that says what near means.
        ks : sequence of int
            The k of recall@k.
        n_candidates : sequence of int
            The R of k-recall@R for the largest k.
        per_query : dict of str to ndarray of shape (n_queries,), float64
            The shares by column. The columns follow `ks` and then `n_candidates`.

        Returns
        -------
        EvaluationResult
        """
        estimates = estimate(np.column_stack(list(per_query.values())))
        return cls(
            metric=metric,
            recall=dict(zip(ks, estimates[: len(ks)], strict=True)),
            candidate_recall=dict(zip(n_candidates, estimates[len(ks) :], strict=True)),
            per_query=per_query,
        )

    @property
    def k_max(self) -> int:
        """The largest k, which the recall among candidates is of."""
        return max(self.recall)

    @property
    def n_queries(self) -> int:
        """The number of queries."""
        return len(next(iter(self.per_query.values())))

    @property
    def columns(self) -> dict[str, Estimate]:
        """All estimates by the names of their columns, such as "recall@10" and "10-recall@100"."""
        estimates = [*self.recall.values(), *self.candidate_recall.values()]
        return dict(zip(self.per_query, estimates, strict=True))

    def values_of(self, column: str) -> Float64:
        """Return what the estimate of a column is the mean of.

        Parameters
        ----------
        column : str
            The name of a column, of neighbours such as "recall@10" or of labels such as "nDCG@10".

        Returns
        -------
        ndarray of shape (n_queries,) or (n_judged,), float64

        Raises
        ------
        KeyError
            There is no such column.
        """
        if self.labels is not None and column in self.labels.per_query:
            return self.labels.per_query[column]
        return self.per_query[column]

    def kept(self, column: str) -> Estimate:
        """Return the share that is kept in a column.

        Parameters
        ----------
        column : str
            The name of a column. Of neighbours, such as "recall@10", the share is the column's mean itself;
            of labels, such as "nDCG@10", it is the mean divided by that of the full vectors.

        Returns
        -------
        Estimate
            The share with its 95% confidence interval.

        Raises
        ------
        KeyError
            There is no such column.
        """
        if self.labels is not None and column in self.labels.kept:
            return self.labels.kept[column]
        return self.columns[column]

    def as_dict(self) -> dict[str, Any]:
        """Return the estimates as values of JSON.

        Returns
        -------
        dict of str to object
            The metric, the number of queries, and by column the mean and its interval; and "labels", if there
            are any: see `LabelResult.as_dict`.
        """
        columns: dict[str, Any] = {name: value._asdict() for name, value in self.columns.items()}
        labels = {} if self.labels is None else {"labels": self.labels.as_dict()}
        return {"metric": self.metric, "queries": self.n_queries, **columns, **labels}


def recall_of_fold(
    fold: Fold, ground_truth: GroundTruth, ks: Sequence[int], n_candidates: Sequence[int]
) -> EvaluationResult:
    """Return what a fold keeps of the true neighbours, by an exact search of the folded base.

    Parameters
    ----------
    fold : Fold
        A fold from the d dimensions of the ground truth.
    ground_truth : GroundTruth
        The true neighbours, at least max(ks) of each query, in a base that is an array.
    ks : sequence of int
        The k of recall@k.
    n_candidates : sequence of int
        The R of k-recall@R for the largest k. Those that are not above k, or above the number of base
        rows, are left out.

    Returns
    -------
    EvaluationResult
    """
    near = ground_truth.metric
    base, queries = (images(fold, np.asarray(x), near) for x in (ground_truth.base, ground_truth.queries))
    return recall_of_vectors(ground_truth, base, queries, ks, n_candidates)


def images(fold: Fold, vectors: Float32, metric: Metric) -> Float32:
    """Fold vectors, to be compared by a metric.

    Cosine disregards lengths, so vectors that float32 could not hold are made shorter for it.

    Parameters
    ----------
    fold : Fold
        The fold.
    vectors : ndarray of shape (n, d), float32
        The vectors.
    metric : {"cosine", "l2", "ip"}
        The metric that the folded vectors are compared by.

    Returns
    -------
    ndarray of shape (n, m), float32
    """
    if metric != "cosine" or not largest_number(vectors) > _LARGE:
        return fold.transform(vectors)
    wide = fold.transform(vectors.astype(np.float64), dtype="float64")
    largest = np.abs(wide).max(axis=1, keepdims=True)
    return (wide / np.where(largest > 0, largest, 1)).astype(np.float32)


def recall_of_vectors(
    ground_truth: GroundTruth,
    base: Float32,
    queries: Float32,
    ks: Sequence[int],
    n_candidates: Sequence[int],
    metric: Metric | None = None,
    labelled: LabelledQueries | None = None,
) -> EvaluationResult:
    """Return what folded vectors keep of the true neighbours, by an exact search among them.

    Parameters
    ----------
    ground_truth : GroundTruth
        The true neighbours, at least max(ks) of each query.
    base, queries : ndarray of shape (n, m) and (n_queries, m), float32
        The vectors of the ground truth after folding.
    ks : sequence of int
        The k of recall@k.
    n_candidates : sequence of int
        The R of k-recall@R for the largest k. Those that are not above k, or above n, are left out.
    metric : {"cosine", "l2", "ip"}, optional
        The metric that folded vectors are searched by. The default is that of the ground truth.
    labelled : LabelledQueries, optional
        The labels of the queries, if there are any.

    Returns
    -------
    EvaluationResult
    """
    ks, k_max = sorted(set(ks)), max(ks)
    deep = candidate_counts(n_candidates, k_max, len(ground_truth.base))
    near = metric or ground_truth.metric
    depth = 0 if labelled is None else search_depth(labelled.ks, len(base))
    found = search(base, queries, max([k_max, *deep, depth]), near, folded=True)
    result = recall_of_neighbors(ground_truth, found, ks, deep)
    if labelled is None:
        return result
    return replace(result, labels=labelled.result_of_found(found, base, queries, near))


def candidate_counts(n_candidates: Iterable[int], k_max: int, rows: int) -> list[int]:
    """Return the numbers of candidates that can be counted for the largest k.

    Parameters
    ----------
    n_candidates : iterable of int
        The numbers that the caller wants.
    k_max : int
        The largest k.
    rows : int
        The number of rows of the base.

    Returns
    -------
    list of int
        Those above `k_max` and at most `rows`, ascending.
    """
    return sorted({r for r in n_candidates if k_max < r <= rows})


def recall_of_neighbors(
    ground_truth: GroundTruth, found: Int64, ks: Sequence[int], n_candidates: Sequence[int]
) -> EvaluationResult:
    """Return how many of the true neighbours are among rows that were found after folding.

    Parameters
    ----------
    ground_truth : GroundTruth
        The true neighbours, at least max(ks) of each query.
    found : ndarray of shape (n_queries, r), int64
        Base row numbers, nearest first; r is at least the largest of `ks` and `n_candidates`.
    ks : sequence of int
        The k of recall@k, ascending.
    n_candidates : sequence of int
        The R of k-recall@R for the largest k, ascending and above it.

    Returns
    -------
    EvaluationResult
    """
    k_max = max(ks)
    per_query = {f"recall@{k}": ground_truth.correct(found[:, :k], k).mean(axis=1) for k in ks}
    right = ground_truth.correct(found, k_max)
    for count in n_candidates:
        # Ties at the k-th place can make more than k rows right; k of them is all there is to find.
        per_query[f"{k_max}-recall@{count}"] = np.minimum(right[:, :count].sum(axis=1), k_max) / k_max
    return EvaluationResult.of(ground_truth.metric, ks, n_candidates, per_query)


def paired_difference(first: EvaluationResult, second: EvaluationResult, column: str) -> Estimate:
    """Return the mean difference of two evaluations of the same queries, paired by query.

    Parameters
    ----------
    first, second : EvaluationResult
        The evaluations; the difference is first - second.
    column : str
        The name of the column, such as "recall@10", "10-recall@100" or "nDCG@10".

    Returns
    -------
    Estimate
        The mean and its 95% confidence interval.

    Raises
    ------
    KeyError
        One of them has no such column.
    """
    return paired_estimate(first.values_of(column), second.values_of(column))


def check_counts(ks: Iterable[int], n_candidates: Iterable[int], rows: int) -> None:
    """Refuse counts of neighbours that a base can't give.

    Parameters
    ----------
    ks : iterable of int
        The k of recall@k.
    n_candidates : iterable of int
        The R of k-recall@R.
    rows : int
        The number of rows of the base.

    Raises
    ------
    ParameterError
        A count is not a positive whole number, there is no k, or a k is larger than the base.
    """
    ks = list(ks)
    if not ks:
        raise ParameterError("k is empty; give at least one number of neighbours")
    for name, values in (("k", ks), ("n_candidates", list(n_candidates))):
        for value in values:
            check_positive(name, value)
    check_enough(max(ks), rows)
