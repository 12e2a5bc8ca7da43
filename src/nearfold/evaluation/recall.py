"""Judge one fold: preservation P@k and recall k-in-R on held-out queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_vectors,
    check_metric,
    check_positive,
    check_width,
    largest_number,
)
from nearfold.errors import ParameterError
from nearfold.evaluation.ground_truth import Truth, search, warn_of_copies
from nearfold.evaluation.intervals import Estimate, estimate, paired_estimate
from nearfold.folds.fold import Fold

__all__ = [
    "DEFAULT_DEPTHS",
    "DEFAULT_KS",
    "Judgement",
    "evaluate",
    "images",
    "judge",
    "judge_folded",
    "judge_found",
    "paired_difference",
]

Int64 = npt.NDArray[np.int64]

DEFAULT_KS = (1, 5, 10)
DEFAULT_DEPTHS = (20, 50, 100)

# Numbers that a fold could take beyond float32 are larger.
_LARGE = 1e30


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a fold keeps of the queries' neighbours.

    Parameters
    ----------
    metric
        What near means, before and after folding.
    preservation
        P@k by k: the share of the true top k among the reduced top k.
    recall
        k-in-R by R, for the largest k: the share of the true top k among the reduced top R,
        which is what an exact re-rank of R candidates can recover.
    per_query
        The shares behind them: column name ("P@10", "10-in-100") to an array of shape (q,).
    """

    metric: Metric
    preservation: dict[int, Estimate]
    recall: dict[int, Estimate]
    per_query: dict[str, npt.NDArray[np.float64]] = field(repr=False)

    @classmethod
    def of(
        cls,
        metric: Metric,
        ks: Sequence[int],
        depths: Sequence[int],
        per_query: dict[str, npt.NDArray[np.float64]],
    ) -> Judgement:
        """Return the judgement that shares by query amount to; their columns follow ks and depths."""
        estimates = estimate(np.column_stack(list(per_query.values())))
        return cls(
            metric=metric,
            preservation=dict(zip(ks, estimates[: len(ks)], strict=True)),
            recall=dict(zip(depths, estimates[len(ks) :], strict=True)),
            per_query=per_query,
        )

    @property
    def k_max(self) -> int:
        """The largest k, the one of the recalls."""
        return max(self.preservation)

    def as_dict(self) -> dict[str, Any]:
        """Return the estimates as JSON holds them."""
        rows = {f"P@{k}": value for k, value in self.preservation.items()}
        rows |= {f"{self.k_max}-in-{depth}": value for depth, value in self.recall.items()}
        return {
            "metric": self.metric,
            "queries": len(next(iter(self.per_query.values()))),
            **{name: value._asdict() for name, value in rows.items()},
        }


def judge(
    encoder: Fold, truth: Truth, ks: Sequence[int], depths: Sequence[int], metric: Metric | None = None
) -> Judgement:
    """Judge `encoder` against `truth`, searching the folded base exactly.

    Parameters
    ----------
    encoder
        From truth's d dimensions.
    truth
        Computed for at least max(ks) neighbours.
    ks
        The k of P@k.
    depths
        The R of k-in-R for the largest k; those below k or above the base's rows are left out.
    metric
        What near means after folding; None for truth's.
    """
    near = metric or truth.metric
    base, queries = images(encoder, np.asarray(truth.base), near), images(encoder, truth.queries, near)
    return judge_folded(truth, base, queries, ks, depths, metric)


def images(fold: Fold, vectors: Float32, metric: Metric) -> Float32:
    """Return what a fold makes of vectors, (n, m), to be compared by a metric.

    For cosine, to which lengths are nothing, those that float32 could not hold are made shorter.
    """
    if metric != "cosine" or not largest_number(vectors) > _LARGE:
        return fold.transform(vectors)
    wide = fold.transform(vectors.astype(np.float64), dtype="float64")
    largest = np.abs(wide).max(axis=1, keepdims=True)
    return (wide / np.where(largest > 0, largest, 1)).astype(np.float32)


def judge_folded(
    truth: Truth,
    base: Float32,
    queries: Float32,
    ks: Sequence[int],
    depths: Sequence[int],
    metric: Metric | None = None,
) -> Judgement:
    """Judge folded vectors of truth's base (n, m) and queries (q, m); the rest is as for `judge`."""
    ks, k_max = sorted(set(ks)), max(ks)
    depths = sorted({r for r in depths if k_max < r <= len(truth.base)})
    found = search(base, queries, max([k_max, *depths]), metric or truth.metric, folded=True)
    return judge_found(truth, found, ks, depths)


def judge_found(truth: Truth, found: Int64, ks: Sequence[int], depths: Sequence[int]) -> Judgement:
    """Judge the rows found for truth's queries after folding: their numbers, nearest first.

    Shape (q, r), r at least the largest of ks (rising) and depths (rising, above the largest k).
    """
    k_max = max(ks)
    per_query = {f"P@{k}": truth.correct(found[:, :k], k).mean(axis=1) for k in ks}
    right = truth.correct(found, k_max)
    for depth in depths:
        # Ties at the k-th place can make more than k rows right; k of them is all there is to find.
        per_query[f"{k_max}-in-{depth}"] = np.minimum(right[:, :depth].sum(axis=1), k_max) / k_max
    return Judgement.of(truth.metric, ks, depths, per_query)


def paired_difference(first: Judgement, second: Judgement, column: str) -> Estimate:
    """Return first - second in `column`, query by query, with the interval of the mean difference."""
    return paired_estimate(first.per_query[column], second.per_query[column])


def check_counts(ks: Iterable[int], depths: Iterable[int], rows: int) -> None:
    """Refuse counts of neighbours that a base of `rows` rows can't give."""
    ks = list(ks)
    if not ks:
        raise ParameterError("k is empty; give at least one number of neighbours")
    for name, values in (("k", ks), ("depth", list(depths))):
        for value in values:
            check_positive(name, value)
    if max(ks) > rows:
        raise ParameterError(f"k={max(ks)} neighbours are asked of a base of {rows} rows; ask for fewer")


def evaluate(
    encoder: Fold,
    base: npt.ArrayLike,
    queries: npt.ArrayLike,
    *,
    metric: Metric | None = None,
    k: Sequence[int] = DEFAULT_KS,
    depths: Sequence[int] = DEFAULT_DEPTHS,
) -> Judgement:
    """Tell how well an encoder keeps the nearest neighbours of queries.

    Parameters
    ----------
    encoder
        A fitted encoder (`fold.encoder_`, `Encoder.load` or `nearfold.load`).
    base
        The vectors searched in, shape (n, d).
    queries
        Held-out vectors, shape (q, d): not in `base`, and never trained on.
    metric
        What near means; None for the metric that the encoder was trained for.
    k
        The k of P@k: |true top k in d dimensions and top k in m| / k.
    depths
        The R of recall k-in-R, for the largest k.

    Returns
    -------
    Judgement

    Raises
    ------
    DataError
        base or queries are not finite vectors of the encoder's d dimensions, or hold a zero
        row under cosine.
    ParameterError
        k is larger than the base, or the metric is unknown.

    Warns
    -----
    NearfoldWarning
        Queries are rows of the base: two at least, and one in a hundred.
    """
    base_vectors, query_vectors = as_vectors(base, "base"), as_vectors(queries, "queries")
    for name, vectors in (("base", base_vectors), ("queries", query_vectors)):
        check_width(name, vectors.shape[1], encoder.n_features)
    check_counts(k, depths, len(base_vectors))
    chosen = encoder.metric if metric is None else check_metric(metric)
    truth = Truth.compute(base_vectors, query_vectors, max(k), chosen)
    warn_of_copies(truth)
    return judge(encoder, truth, k, depths)
