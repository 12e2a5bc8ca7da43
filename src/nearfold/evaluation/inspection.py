"""All that can be said of a fold on a user's own vectors: spectrum, distortion, angles, certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, check_width, normalize_rows
from nearfold.evaluation.angles import gram_distance, principal_angles
from nearfold.evaluation.bounds import Certificate, certify, null_space_energy, row_space
from nearfold.evaluation.distortion import Distortion, distortion
from nearfold.evaluation.ground_truth import Truth, warn_of_copies
from nearfold.evaluation.recall import DEFAULT_DEPTHS, DEFAULT_KS, Judgement, check_counts, judge
from nearfold.evaluation.spectrum import Spectrum, singular_values, spectrum_of
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.methods.pca import principal_axes
from nearfold.scan.moments import Moments

__all__ = ["Inspection", "inspect_fold"]

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a fold does to some vectors.

    Parameters
    ----------
    fold
        The fold.
    rows, k
        The base's rows; the neighbours of the certificate.
    judgement
        What it keeps of held-out queries' neighbours.
    spectrum
        Its extreme singular values; medians over Jacobians for a network.
    singular_values
        All of them, for a linear fold, else None.
    distortion
        |Wd| / |d| over neighbours and over random pairs.
    null_energy
        The share of the vectors' energy (about their mean for l2) that a linear fold drops.
    gram_distance
        How far a linear fold's rows are from scaled orthonormal ones.
    angles
        Between a linear fold's row space and that of as many principal axes (uncentred, or centred
        for l2), radians, falling.
    certificate
        What is proven of each query's k nearest, for a linear fold.
    """

    fold: Fold
    rows: int
    k: int
    judgement: Judgement
    spectrum: Spectrum | None
    distortion: Distortion
    singular_values: npt.NDArray[np.float64] | None = None
    null_energy: float | None = None
    gram_distance: float | None = None
    angles: npt.NDArray[np.float64] | None = None
    certificate: Certificate | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything measured as JSON holds it."""
        results: dict[str, Any] = {
            "rows": self.rows,
            "judgement": self.judgement.as_dict(),
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
        if self.certificate is not None:
            results["certificate"] = {
                "k": self.k,
                "proven_mean": float(self.certificate.proven.mean()),
                "fully_proven_share": float((self.certificate.proven >= self.k).mean()),
                "candidates_median": float(np.median(self.certificate.candidates)),
                "candidates_mean": float(self.certificate.candidates.mean()),
                "candidates_share": float(self.certificate.candidates.mean() / self.rows),
            }
        return results


def inspect_fold(fold: Fold, base: Float32, queries: Float32, k: int = 10) -> Inspection:
    """Look at a fold from all sides, in the metric that it was made for.

    Parameters
    ----------
    fold
        From d dimensions.
    base, queries
        Shapes (n, d) and (q, d), float32; queries not in the base.
    k
        Neighbours of the certificate, at most n.

    Raises
    ------
    DataError, ParameterError
        As `evaluate`.
    """
    check_width("base", base.shape[1], fold.n_features)
    check_counts([k, *DEFAULT_KS], [], len(base))
    metric = fold.metric
    truth = Truth.compute(base, queries, max(k, *DEFAULT_KS), metric)
    warn_of_copies(truth)
    judgement = judge(fold, truth, DEFAULT_KS, DEFAULT_DEPTHS)
    common: dict[str, Any] = {
        "fold": fold,
        "rows": len(base),
        "k": k,
        "judgement": judgement,
        "spectrum": spectrum_of(fold, base),
        "distortion": distortion(fold, base, metric),
    }
    if not isinstance(fold, Encoder):
        return Inspection(**common)
    moments = Moments.of(normalize_rows(base, "base") if metric == "cosine" else base)
    second = moments.covariance if metric == "l2" else moments.uncentered
    axes = principal_axes(second)[1][: fold.n_components]
    return Inspection(
        **common,
        singular_values=singular_values(fold.weight),
        null_energy=null_space_energy(second, row_space(fold.weight)),
        gram_distance=gram_distance(fold.weight),
        angles=principal_angles(row_space(fold.weight), axes),
        certificate=certify(queries, base, fold.weight, metric, truth.scores[:, k - 1], k),
    )
