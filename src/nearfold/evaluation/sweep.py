"""RAE over its regularisation: spectrum and recall along a grid of lambdas."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nearfold._utils.arrays import Float32, Metric, check_metric, resolve_components
from nearfold._utils.progress import track
from nearfold.errors import NearfoldWarning, ParameterError
from nearfold.evaluation.compare import Comparison, compare
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.labels import asked_labels
from nearfold.evaluation.recall import DEFAULT_KS, EvaluationResult, check_counts, recall_of_fold
from nearfold.evaluation.spectrum import Spectrum, spectrum_of
from nearfold.evaluation.split import base_and_queries, hold_out, rows_and_queries
from nearfold.folds.fold import Fold
from nearfold.methods.rae.estimator import LAMBDA_GRID, DeadEncoderError
from nearfold.methods.registry import make

__all__ = ["SWEPT", "Sweep", "SweepPoint", "sweep"]

SWEPT = ("rae", "rae-exact", "rae-mlp")
"""The methods with a lambda to sweep."""


@dataclass(frozen=True, eq=False)
class SweepPoint:
    """One lambda of one method.

    Parameters
    ----------
    method : str
        The name of the method.
    weight_decay : float
        The lambda.
    spectrum : Spectrum or None
        The spectrum of the encoder, for a network the medians over its Jacobians at data rows. It is None
        where the penalty has zeroed all of the encoder.
    evaluation : EvaluationResult or None
        What the encoder keeps of the validation rows' neighbours; None likewise.
    """

    method: str
    weight_decay: float
    spectrum: Spectrum | None
    evaluation: EvaluationResult | None

    @property
    def recall(self) -> float:
        """The mean recall@k for the largest k; 0 where the penalty has left nothing."""
        return 0.0 if self.evaluation is None else self.evaluation.recall[self.evaluation.k_max].mean


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep over lambda, and the evaluation of the lambdas that were chosen.

    Parameters
    ----------
    regularizer : str
        The penalty.
    k_max : int
        The k of the recall@k that lambdas are chosen by.
    train, validation : int
        The numbers of rows that were learned from, and that were searched for, while choosing.
    points : tuple of SweepPoint
        The points by method, then lambda.
    chosen : dict of str to float
        The best lambda of each method on the validation rows.
    final : Comparison
        The chosen lambdas, learned again from the whole base, beside principal components, on held-out
        queries that had no part in choosing.
    """

    regularizer: str
    k_max: int
    train: int
    validation: int
    points: tuple[SweepPoint, ...]
    chosen: Mapping[str, float]
    final: Comparison

    def of(self, method: str) -> list[SweepPoint]:
        """Return the points of a method.

        Parameters
        ----------
        method : str
            The name of the method.

        Returns
        -------
        list of SweepPoint
            The points, with ascending lambda.
        """
        return [p for p in self.points if p.method == method]

    def rank_correlation(self, method: str) -> float:
        """Return Spearman's rank correlation of kappa with recall@k over the points of a method.

        Parameters
        ----------
        method : str
            The name of the method.

        Returns
        -------
        float
            The correlation over the points that have a spectrum. It is NaN if they are fewer than three, or
            if kappa or recall does not vary.
        """
        pairs = np.array([(p.spectrum.kappa, p.recall) for p in self.of(method) if p.spectrum is not None])
        if len(pairs) < 3 or (pairs == pairs[0]).all(axis=0).any():
            return float("nan")
        return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)

    def as_dict(self) -> dict[str, Any]:
        """Return all points and the final comparison as values of JSON.

        Returns
        -------
        dict of str to object
        """
        return {
            "regularizer": self.regularizer,
            "train": self.train,
            "validation": self.validation,
            "points": [
                {
                    "method": p.method,
                    "weight_decay": p.weight_decay,
                    "spectrum": None if p.spectrum is None else p.spectrum._asdict(),
                    "validation": None if p.evaluation is None else p.evaluation.as_dict(),
                }
                for p in self.points
            ],
            "chosen": dict(self.chosen),
            "rank_correlation": {name: self.rank_correlation(name) for name in self.chosen},
            "final": self.final.as_dict(),
        }


def sweep(
    X: Any,
    queries: Any = None,
    *,
    n_components: int | str = "25%",
    metric: Metric = "cosine",
    weight_decays: Sequence[float] = LAMBDA_GRID,
    methods: Sequence[str] = ("rae", "rae-exact"),
    regularizer: str = "frobenius",
    n_queries: int | None = None,
    k: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
    qrels: Any = None,
) -> Sweep:
    """Fit RAE at each lambda, choose the best on rows held back, and evaluate it on other rows.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The vectors to fit to and to search. They are held in memory; of files beyond the memory budget a
        sample is.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, optional
        The vectors that the choice is reported on. By default, rows of X that are drawn at random are held
        out.
    n_components : int or str, default="25%"
        The number of dimensions to fold to, as a number or as a share of d.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric that says what near means.
    weight_decays : sequence of float, optional
        The lambdas. The default is a grid from 1e-8 to 1e-1.
    methods : sequence of str, default=("rae", "rae-exact")
        Some of "rae", "rae-exact" and "rae-mlp".
    regularizer : str, default="frobenius"
        The penalty, as for `RAE`. Networks know "frobenius" alone.
    n_queries : int, optional
        The number of rows to hold out for the report, and again for choosing. The default is a tenth, at
        most 1,000.
    k : sequence of int, default=(1, 5, 10)
        The k of recall@k; the largest decides.
    seed : int, default=0
        The seed of the splits and of the methods.
    qrels : Qrels, mapping, str or path-like, optional
        Relevance labels of the queries, as for `evaluate`. They choose nothing: lambdas are chosen by the
        neighbours of rows held back, and `final` reports what the queries find.

    Returns
    -------
    Sweep

    Raises
    ------
    DataError, FileError, ParameterError, MissingExtraError
        As `RAE.fit` and `evaluate` raise them, or no lambda leaves an encoder.
    """
    check_metric(metric)
    if not weight_decays:
        raise ParameterError("weight_decays is empty; give at least one lambda")
    for name in methods:
        if name not in SWEPT:
            raise ParameterError(f"method {name!r} has no lambda to sweep; use some of {', '.join(SWEPT)}")
    vectors, given = rows_and_queries(X, queries, [metric], min_rows=3)
    base, asked = base_and_queries(vectors, given, n_queries, seed)
    labels = asked_labels(qrels, X, queries, len(base), len(asked))
    train, validation = hold_out(base, n_queries, seed + 1)
    check_counts(k, [], len(train))
    components = resolve_components(n_components, base.shape[1])
    fixed = {name: {} if name == "rae-mlp" else {"regularizer": regularizer} for name in methods}
    for name in methods:
        make(name, components, **fixed[name])
    ground_truth = GroundTruth.compute(train, validation, max(k), metric)
    plan = [(name, value) for name in methods for value in sorted(set(weight_decays))]
    points = []
    for name, value in track(plan, "sweep", len(plan), "fits"):
        estimator = make(
            name, components, metric=metric, random_state=seed, weight_decay=value, **fixed[name]
        )
        fold = _learned(estimator, train)
        points.append(
            SweepPoint(
                name,
                float(value),
                None if fold is None else spectrum_of(fold, train),
                None if fold is None else recall_of_fold(fold, ground_truth, k, []),
            )
        )
    chosen = {}
    for name in methods:
        best = max((p for p in points if p.method == name), key=lambda p: p.recall)
        if best.evaluation is None:
            raise ParameterError(f"no lambda leaves {name} an axis of this data; try smaller ones")
        chosen[name] = best.weight_decay
    final = compare(
        base,
        queries=asked,
        n_components=[components],
        methods=["pca", "pca-uncentred", *methods],
        metrics=[metric],
        k=k,
        seed=seed,
        parameters={name: {"weight_decay": value, **fixed[name]} for name, value in chosen.items()},
        qrels=labels,
    )
    return Sweep(regularizer, max(k), len(train), len(validation), tuple(points), chosen, final)


def _learned(estimator: Any, rows: Float32) -> Fold | None:
    """Return what was learned, or None where the penalty left nothing."""
    with warnings.catch_warnings():
        # Dead axes show in the point's spectrum.
        warnings.simplefilter("ignore", NearfoldWarning)
        try:
            fold: Fold = estimator.fit(rows).encoder_
        except DeadEncoderError:
            return None
    return fold
