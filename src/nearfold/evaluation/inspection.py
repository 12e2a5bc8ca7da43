"""All that can be said of a fold on a user's own vectors: spectrum, distortion, angles, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfold._utils.arrays import Float64, check_width, normalize_rows
from nearfold.evaluation.angles import gram_distance, principal_angles
from nearfold.evaluation.bounds import NeighborBounds, bound_neighbors, null_space_energy, row_space
from nearfold.evaluation.distortion import Distortion, distortion
from nearfold.evaluation.ground_truth import GroundTruth, warn_of_copies
from nearfold.evaluation.recall import (
    DEFAULT_KS,
    DEFAULT_N_CANDIDATES,
    EvaluationResult,
    check_counts,
    recall_of_fold,
)
from nearfold.evaluation.spectrum import Spectrum, singular_values, spectrum_of
from nearfold.evaluation.split import base_and_queries, rows_and_queries
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold, as_fold
from nearfold.methods.pca import principal_axes
from nearfold.scan.moments import Moments

__all__ = ["Inspection", "inspect"]

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a fold does to some vectors. All that is of a linear fold alone is None for others.

    Parameters
    ----------
    fold : Fold
        The fold.
    rows : int
        The number of rows of the base.
    k : int
        The number of neighbours that the bounds are about.
    evaluation : EvaluationResult
        What the fold keeps of held-out queries' neighbours.
    spectrum : Spectrum or None
        The extreme singular values of the weight; for a network, the medians over its Jacobians.
    distortion : Distortion
        The ratios |Wd| / |d| over neighbours and over random pairs.
    singular_values : ndarray of shape (m,), float64, or None
        All singular values of a linear fold's weight, falling.
    null_energy : float or None
        The share of the vectors' energy (for l2, about their mean) that a linear fold drops.
    gram_distance : float or None
        How far a linear fold's rows are from scaled orthonormal ones.
    angles : ndarray of shape (m,), float64, or None
        The angles in radians between a linear fold's row space and that of as many principal axes, which
        are centred for l2 alone; falling.
    bounds : NeighborBounds or None
        What a linear fold and one number a row prove of each query's k nearest neighbours.
    """

    fold: Fold
    rows: int
    k: int
    evaluation: EvaluationResult
    spectrum: Spectrum | None
    distortion: Distortion
    singular_values: Float64 | None = None
    null_energy: float | None = None
    gram_distance: float | None = None
    angles: Float64 | None = None
    bounds: NeighborBounds | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured as values of JSON.

        Returns
        -------
        dict of str to object
            The distortion is given by its quantiles, and the bounds by their means and medians.
        """
        results: dict[str, Any] = {
            "rows": self.rows,
            "evaluation": self.evaluation.as_dict(),
            "spectrum": None if self.spectrum is None else self.spectrum._asdict(),
            "distortion": {
                name: {
                    f"{q:g}": float(v) for q, v in zip(_QUANTILES, np.quantile(r, _QUANTILES), strict=True)
                }
                for name, r in self.distortion._asdict().items()
                if len(r)
            },
        }
        if self.singular_values is not None:
            results["singular_values"] = self.singular_values.tolist()
        if self.angles is not None:
            results |= {
                "null_energy": self.null_energy,
                "gram_distance": self.gram_distance,
                "angles_to_pca": self.angles.tolist(),
            }
        if self.bounds is not None:
            results["bounds"] = {
                "k": self.k,
                "proven_mean": float(self.bounds.proven.mean()),
                "fully_proven_share": float((self.bounds.proven >= self.k).mean()),
                "candidates_median": float(np.median(self.bounds.candidates)),
                "candidates_mean": float(self.bounds.candidates.mean()),
                "candidates_share": float(self.bounds.candidates.mean() / self.rows),
            }
        return results


def inspect(
    fold: Any, base: Any, queries: Any = None, k: int = 10, *, n_queries: int | None = None, seed: int = 0
) -> Inspection:
    """Inspect what a fold keeps of the vectors, in the metric that it was made for.

    Parameters
    ----------
    fold : Fold or estimator
        A fitted fold.
    base : array-like of shape (n, d), data frame, path, URL or Source
        The vectors to look at it on. They are held in memory; of files beyond the memory budget a sample
        is.
    queries : array-like of shape (n_queries, d), data frame, path, URL or Source, optional
        The vectors that are searched for, which should not be in the base. By default, rows of the base
        that are drawn at random are held out of it.
    k : int, default=10
        The number of neighbours that the bounds are about, at most n.
    n_queries : int, optional
        The number of rows to hold out where no queries are given. The default is a tenth, at most 1,000.
    seed : int, default=0
        The seed of that draw.

    Returns
    -------
    Inspection

    Raises
    ------
    DataError, FileError, ParameterError
        As `evaluate` raises them.
    """
    fold = as_fold(fold)
    metric = fold.metric
    vectors, given = rows_and_queries(base, queries, [metric], name="base")
    check_width("base", vectors.shape[1], fold.n_features)
    rows, asked = base_and_queries(vectors, given, n_queries, seed)
    check_counts([k, *DEFAULT_KS], [], len(rows))
    ground_truth = GroundTruth.compute(rows, asked, max(k, *DEFAULT_KS), metric)
    warn_of_copies(ground_truth)
    common: dict[str, Any] = {
        "fold": fold,
        "rows": len(rows),
        "k": k,
        "evaluation": recall_of_fold(fold, ground_truth, DEFAULT_KS, DEFAULT_N_CANDIDATES),
        "spectrum": spectrum_of(fold, rows),
        "distortion": distortion(fold, rows, metric),
    }
    if not isinstance(fold, Encoder):
        return Inspection(**common)
    moments = Moments.of(normalize_rows(rows, "base") if metric == "cosine" else rows)
    second = moments.covariance if metric == "l2" else moments.uncentered
    axes = principal_axes(second)[1][: fold.n_components]
    return Inspection(
        **common,
        singular_values=singular_values(fold.weight),
        null_energy=null_space_energy(second, row_space(fold.weight)),
        gram_distance=gram_distance(fold.weight),
        angles=principal_angles(row_space(fold.weight), axes),
        bounds=bound_neighbors(asked, rows, fold.weight, metric, ground_truth.scores[:, k - 1], k),
    )
