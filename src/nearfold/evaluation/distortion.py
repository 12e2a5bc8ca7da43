"""What a fold does to the lengths of differences: |Wd| / |d| over pairs of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nearfold._utils.arrays import Float32, Float64, Int64, Metric, normalize_rows
from nearfold.folds.fold import Fold
from nearfold.scan.neighbors import nearest_others

__all__ = ["Distortion", "distortion"]


class Distortion(NamedTuple):
    """Ratios |f(x) - f(y)| / |x - y| of the lengths of differences after folding and before.

    Attributes
    ----------
    neighbors : ndarray of shape (n_pairs,), float64
        The ratios over rows and their nearest neighbours. Pairs of equal rows have none.
    random : ndarray of shape (n_pairs,), float64
        The ratios over random pairs of rows.

    Notes
    -----
    For a linear fold none is above sigma_max, and those of differences within its row space lie in
    the Rayleigh interval [sigma_min, sigma_max] (arXiv 2509.25839, section 3); differences of data
    have a part in the null space, so they can fall below sigma_min.
    """

    neighbors: Float64
    random: Float64


# How many rows' neighbours are looked at, drawn at random, and how many of each.
_ANCHORS, _NEIGHBORS = 1000, 10


def distortion(fold: Fold, base: Float32, metric: Metric) -> Distortion:
    """Measure ratios over rows and their k nearest, and over as many random pairs.

    Parameters
    ----------
    fold : Fold
        A fold from the d dimensions of the base.
    base : ndarray of shape (n, d), float32
        The rows.
    metric : {"cosine", "l2", "ip"}
        The metric that says what near means. Under cosine, rows are scaled to norm 1 first.

    Returns
    -------
    Distortion
    """
    rng = np.random.default_rng(0)
    rows = normalize_rows(base, "base") if metric == "cosine" else base
    chosen = np.sort(rng.choice(len(rows), min(_ANCHORS, len(rows)), replace=False))
    near = nearest_others(rows, chosen, min(_NEIGHBORS, len(rows) - 1), metric)
    first = np.repeat(chosen, near.shape[1])
    other = rng.integers(1, len(rows), len(first))
    folded = fold.transform(rows)

    def ratios(second: Int64) -> Float64:
        before = np.linalg.norm((rows[first] - rows[second]).astype(np.float64), axis=1)
        after = np.linalg.norm((folded[first] - folded[second]).astype(np.float64), axis=1)
        # Equal rows have no ratio.
        apart = before > 0
        ratio: Float64 = after[apart] / before[apart]
        return ratio

    return Distortion(ratios(near.ravel()), ratios((first + other) % len(rows)))
