"""RAE over its regularisation: spectrum and preservation along a grid of lambdas."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from nearfold._utils.arrays import Float32, Metric, as_vectors, check_metric, resolve_components
from nearfold._utils.progress import track
from nearfold.errors import NearfoldWarning, ParameterError
from nearfold.evaluation.compare import Comparison, compare
from nearfold.evaluation.ground_truth import Truth
from nearfold.evaluation.recall import DEFAULT_KS, Judgement, check_counts, judge
from nearfold.evaluation.spectrum import Spectrum, spectrum_of
from nearfold.evaluation.split import base_and_queries, check_numbers, hold_out
from nearfold.folds.fold import Fold
from nearfold.methods.rae.estimator import LAMBDA_GRID, DeadEncoderError
from nearfold.methods.registry import make

__all__ = ["SWEPT", "Point", "Sweep", "sweep"]

SWEPT = ("rae", "rae-exact", "rae-mlp")
"""The methods with a lambda to sweep."""


@dataclass(frozen=True, eq=False)
class Point:
    """One lambda of one method.

    Parameters
    ----------
    method, weight_decay
        Which.
    spectrum
        Of the encoder (for a network medians over Jacobians at data rows); None where the penalty
        has zeroed all of it.
    judgement
        What it keeps of the validation rows' neighbours; None likewise.
    """

    method: str
    weight_decay: float
    spectrum: Spectrum | None
    judgement: Judgement | None

    @property
    def preservation(self) -> float:
        """P@k for the largest k, 0 where nothing is left."""
        return 0.0 if self.judgement is None else self.judgement.preservation[self.judgement.k_max].mean


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep over lambda and what came of the lambdas chosen.

    Parameters
    ----------
    regularizer
        The penalty.
    k_max
        The k that lambdas are chosen by.
    train, validation
        Rows learned from and rows asked with while choosing.
    points
        By method, then lambda.
    chosen
        The best lambda of each method on the validation rows.
    final
        Those, learned again from the whole base, beside principal components, on held-out queries
        that had no part in choosing.
    """

    regularizer: str
    k_max: int
    train: int
    validation: int
    points: tuple[Point, ...]
    chosen: Mapping[str, float]
    final: Comparison

    def of(self, method: str) -> list[Point]:
        """Return a method's points, lambda rising."""
        return [p for p in self.points if p.method == method]

    def rank_correlation(self, method: str) -> float:
        """Return Spearman's rank correlation of kappa with P@k over a method's living points.

        NaN where fewer than three live or either does not vary.
        """
        pairs = np.array(
            [(p.spectrum.kappa, p.preservation) for p in self.of(method) if p.spectrum is not None]
        )
        if len(pairs) < 3 or (pairs == pairs[0]).all(axis=0).any():
            return float("nan")
        return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)

    def as_dict(self) -> dict[str, Any]:
        """Return everything measured as JSON holds it."""
        return {
            "regularizer": self.regularizer,
            "train": self.train,
            "validation": self.validation,
            "points": [
                {
                    "method": p.method,
                    "weight_decay": p.weight_decay,
                    "spectrum": None if p.spectrum is None else p.spectrum._asdict(),
                    "validation": None if p.judgement is None else p.judgement.as_dict(),
                }
                for p in self.points
            ],
            "chosen": dict(self.chosen),
            "rank_correlation": {name: self.rank_correlation(name) for name in self.chosen},
            "final": self.final.as_dict(),
        }


def sweep(
    X: npt.ArrayLike,
    *,
    n_components: int | str = "25%",
    metric: Metric = "cosine",
    weight_decays: Sequence[float] = LAMBDA_GRID,
    methods: Sequence[str] = ("rae", "rae-exact"),
    regularizer: str = "frobenius",
    queries: npt.ArrayLike | None = None,
    n_queries: int | None = None,
    k: Sequence[int] = DEFAULT_KS,
    seed: int = 0,
) -> Sweep:
    """Learn RAE at each lambda, choose the best on rows held back, and judge it on other rows.

    Parameters
    ----------
    X
        Vectors, shape (n, d).
    n_components
        Dimensions to fold to.
    metric
        What near means.
    weight_decays
        The lambdas.
    methods
        Some of SWEPT.
    regularizer
        As for `RAE`; networks know "frobenius" alone.
    queries
        Vectors to report on, shape (q, d); None holds out rows of X.
    n_queries
        Rows to hold out, for the report and again for choosing; None for a tenth, at most 1,000.
    k
        Of P@k; the largest decides.
    seed
        Of the splits and of the methods.

    Returns
    -------
    Sweep

    Raises
    ------
    DataError, ParameterError
        As `RAE.fit` and `evaluate` raise; or no lambda leaves an encoder.
    """
    vectors = as_vectors(X, min_rows=3)
    check_metric(metric)
    if not weight_decays:
        raise ParameterError("weight_decays is empty; give at least one lambda")
    for name in methods:
        if name not in SWEPT:
            raise ParameterError(f"method {name!r} has no lambda to sweep; use some of {', '.join(SWEPT)}")
    given = None if queries is None else as_vectors(queries, "queries")
    # Before splits number rows in ways of their own.
    check_numbers(vectors, metric, "X")
    check_numbers(given, metric, "queries")
    base, asked = base_and_queries(vectors, given, n_queries, seed)
    train, validation = hold_out(base, n_queries, seed + 1)
    check_counts(k, [], len(train))
    components = resolve_components(n_components, base.shape[1])
    fixed = {name: {} if name == "rae-mlp" else {"regularizer": regularizer} for name in methods}
    for name in methods:
        make(name, components, **fixed[name])
    truth = Truth.compute(train, validation, max(k), metric)
    plan = [(name, value) for name in methods for value in sorted(set(weight_decays))]
    points = []
    for name, value in track(plan, "sweep", len(plan), "fits"):
        estimator = make(
            name, components, metric=metric, random_state=seed, weight_decay=value, **fixed[name]
        )
        fold = _learned(estimator, train)
        points.append(
            Point(
                name,
                float(value),
                None if fold is None else spectrum_of(fold, train),
                None if fold is None else judge(fold, truth, k, []),
            )
        )
    chosen = {}
    for name in methods:
        best = max((p for p in points if p.method == name), key=lambda p: p.preservation)
        if best.judgement is None:
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
