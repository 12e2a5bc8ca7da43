"""What a fold keeps of what people look for: nDCG, recall, MRR and MAP of labelled queries.

The measures are trec_eval's, computed by pytrec-eval-terrier (extra `labels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric
from nearfold._utils.extras import import_extra, require_extra
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import Estimate, estimate, ratio_estimate
from nearfold.evaluation.qrels import Labels, labels_of
from nearfold.scan.exact import Rows, exact_scores

__all__ = [
    "DEPTH",
    "LabelResult",
    "LabelledQueries",
    "asked_labels",
    "check_labels_extra",
    "ndcg_column",
    "ranked",
    "search_depth",
]

DEPTH = 100
"""How many documents of each query are ranked for MAP."""

# Scores nearer than this share of a query's largest are ties: it is some roundings of float32, in which
# copies of a row may differ by where they stand.
_TIED = 4 * float(np.finfo(np.float32).eps)

_NEEDED_BY = "measuring with qrels"


def check_labels_extra() -> None:
    """Refuse to go on without the library that computes the measures.

    Raises
    ------
    MissingExtraError
        pytrec_eval is not installed.
    """
    require_extra("pytrec_eval", "labels", _NEEDED_BY)


def asked_labels(qrels: Any, X: Any, queries: Any, n_documents: int, n_queries: int) -> Labels | None:
    """Return labels by row number, or None if no qrels were given.

    The parameters and the errors are those of `labels_of` and `check_labels_extra`.
    """
    if qrels is None:
        return None
    check_labels_extra()
    return labels_of(qrels, X, queries, n_documents, n_queries)


@dataclass(frozen=True, eq=False)
class LabelResult:
    """What labelled queries find after folding, beside what they find with the full vectors.

    All values are means over the queries that have a relevant document, with 95% confidence intervals.
    Columns are nDCG@k, R@k, MRR@k and MAP@100 as trec_eval defines them. The gain of nDCG is the grade.
    R@k is the share of a query's relevant documents among its first k; recall@k, without labels, is that of
    its nearest neighbours. MRR@k is the mean of 1 / rank of the first relevant document, or 0 if that is
    beyond k. Documents of equal score are ranked by row number.

    Parameters
    ----------
    values : dict of str to Estimate
        The measures after folding, by column.
    full : dict of str to Estimate
        Those of an exact search of the full vectors.
    kept : dict of str to Estimate
        The mean after folding divided by that of the full vectors, with an interval that is paired by query.
        NaN where the full vectors find nothing.
    query_rows : ndarray of shape (n_judged,), int64
        The row numbers of the queries with a relevant document. Others are left out.
    per_query, full_per_query : dict of str to ndarray of shape (n_judged,), float64
        The values that `values` and `full` are means of.
    """

    values: dict[str, Estimate]
    full: dict[str, Estimate]
    kept: dict[str, Estimate]
    query_rows: Int64 = field(repr=False)
    per_query: dict[str, Float64] = field(repr=False)
    full_per_query: dict[str, Float64] = field(repr=False)

    @classmethod
    def of(
        cls, query_rows: Int64, per_query: dict[str, Float64], full_per_query: dict[str, Float64]
    ) -> LabelResult:
        """Return the result for the values of each query.

        Parameters
        ----------
        query_rows : ndarray of shape (n_judged,), int64
            The row numbers of the queries.
        per_query, full_per_query : dict of str to ndarray of shape (n_judged,), float64
            The values after folding and before, by column.

        Returns
        -------
        LabelResult
        """
        values, full = (
            dict(zip(each, estimate(np.column_stack(list(each.values()))), strict=True))
            for each in (per_query, full_per_query)
        )
        kept = {name: ratio_estimate(own, full_per_query[name]) for name, own in per_query.items()}
        return cls(values, full, kept, query_rows, per_query, full_per_query)

    @property
    def n_judged(self) -> int:
        """The number of queries with a relevant document."""
        return len(self.query_rows)

    @property
    def main_columns(self) -> list[str]:
        """The columns that tables show: those of the largest k, and MAP."""
        deepest = max(int(name.partition("@")[2]) for name in self.values if name.startswith("nDCG@"))
        wanted = (f"nDCG@{deepest}", f"R@{deepest}", f"MRR@{deepest}", f"MAP@{DEPTH}")
        return [name for name in wanted if name in self.values]

    def as_dict(self) -> dict[str, Any]:
        """Return the estimates as values of JSON.

        Returns
        -------
        dict of str to object
            The number of judged queries, and by column the value after folding, that of the full vectors,
            and the share kept, each a mean with its interval.
        """
        columns = {
            name: {
                "value": value._asdict(),
                "full": self.full[name]._asdict(),
                "kept": self.kept[name]._asdict(),
            }
            for name, value in self.values.items()
        }
        return {"judged_queries": self.n_judged, **columns}


def ndcg_column(k: int) -> str:
    """Return the name of the column of nDCG@k."""
    return f"nDCG@{k}"


def search_depth(ks: Sequence[int], rows: int) -> int:
    """Return how many documents must be ranked for the measures: 100, or more for a larger k.

    Parameters
    ----------
    ks : sequence of int
        The k of nDCG@k.
    rows : int
        The number of rows of the base, which is the most.

    Returns
    -------
    int
    """
    return min(max([DEPTH, *ks]), rows)


def ranked(ids: Int64, scores: Float64) -> Int64:
    """Return documents by falling score, those of equal score by row number.

    Parameters
    ----------
    ids : ndarray of shape (q, r), int64
        The row numbers of each query's documents.
    scores : ndarray of shape (q, r), float64
        Their scores; higher is better. Scores that differ by some roundings of float32 are equal.

    Returns
    -------
    ndarray of shape (q, r), int64
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    apart = scores[:, :-1] - scores[:, 1:] > _TIED * np.abs(scores).max(axis=1, keepdims=True)
    groups = np.cumsum(np.pad(apart, ((0, 0), (1, 0))), axis=1)
    return np.take_along_axis(ids, np.lexsort((ids, groups)), 1)


@dataclass(frozen=True, eq=False)
class LabelledQueries:
    """Labels with what the full vectors find of them, to measure any number of folds against.

    Parameters
    ----------
    labels : Labels
        The labels.
    ks : tuple of int
        The k of nDCG@k, R@k and MRR@k, rising.
    full : dict of str to ndarray of shape (n_judged,), float64
        The values of an exact search of the full vectors, by column.
    """

    labels: Labels
    ks: tuple[int, ...]
    full: dict[str, Float64]

    @classmethod
    def of(cls, labels: Labels, ground_truth: GroundTruth, ks: Sequence[int]) -> LabelledQueries:
        """Measure what the full vectors find.

        Parameters
        ----------
        labels : Labels
            The labels.
        ground_truth : GroundTruth
            The true neighbours of all queries, `search_depth` of each.
        ks : sequence of int
            The k of nDCG@k, R@k and MRR@k.

        Returns
        -------
        LabelledQueries
        """
        ks = tuple(sorted(set(ks)))
        rows, depth = labels.query_rows, search_depth(ks, len(ground_truth.base))
        order = ranked(ground_truth.near_ids[rows], ground_truth.near_scores[rows])
        return cls(labels, ks, _measured(labels, order[:, :depth], ks))

    def result(self, ranking: Int64) -> LabelResult:
        """Return the measures of a ranking.

        Parameters
        ----------
        ranking : ndarray of shape (n_judged, r), int64
            The row numbers of the documents of each judged query, best first.

        Returns
        -------
        LabelResult
        """
        return LabelResult.of(self.labels.query_rows, _measured(self.labels, ranking, self.ks), self.full)

    def result_of_found(self, found: Int64, base: Rows, queries: Float32, metric: Metric) -> LabelResult:
        """Return the measures of documents that a search found, put in order by their vectors.

        Parameters
        ----------
        found : ndarray of shape (n_queries, r), int64
            The row numbers of the documents of all queries, at least `search_depth` of each.
        base, queries : Rows of shape (n, m) and ndarray of shape (n_queries, m), float32
            The vectors that were searched.
        metric : {"cosine", "l2", "ip"}
            The metric that they were searched by.

        Returns
        -------
        LabelResult
        """
        rows = self.labels.query_rows
        ids = found[rows, : search_depth(self.ks, len(base))]
        return self.result(ranked(ids, exact_scores(base, queries[rows], ids, metric)))


def _measured(labels: Labels, ranking: Int64, ks: Sequence[int]) -> dict[str, Float64]:
    """Return the measures of a ranking of the judged queries' documents, by column."""
    library = import_extra("pytrec_eval", "labels", _NEEDED_BY)
    cuts, names = ",".join(map(str, ks)), list(map(str, range(len(ranking))))
    graded = {
        name: dict(zip(map(str, rows.tolist()), grades.tolist(), strict=True))
        for name, rows, grades in zip(names, labels.documents, labels.grades, strict=True)
    }
    # trec_eval sorts by score, and by name where scores are equal: so each rank has a score of its own.
    run = {
        name: {str(row): float(-rank) for rank, row in enumerate(rows) if row >= 0}
        for name, rows in zip(names, ranking.tolist(), strict=True)
    }
    wanted = {f"ndcg_cut.{cuts}", f"recall.{cuts}", f"map_cut.{DEPTH}", "recip_rank"}
    measured: Mapping[str, Mapping[str, float]] = library.RelevanceEvaluator(graded, wanted).evaluate(run)

    def values(measure: str) -> Float64:
        return np.array([measured[name][measure] for name in names])

    first = values("recip_rank")
    columns = {ndcg_column(k): values(f"ndcg_cut_{k}") for k in ks}
    columns |= {f"R@{k}": values(f"recall_{k}") for k in ks}
    # 1 / rank is at least 1 / k up to rank k; between that and the next rank's lies what rounding may do.
    columns |= {f"MRR@{k}": np.where(first * (k + 0.5) >= 1, first, 0.0) for k in ks}
    return columns | {f"MAP@{DEPTH}": values(f"map_cut_{DEPTH}")}
