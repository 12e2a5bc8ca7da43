"""Spectral tempering: principal components between their own scale and equal variance."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from nearfold._utils.arrays import Float64, Metric, check_positive
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.moments import MomentFold
from nearfold.methods.pca import principal_axes
from nearfold.scan.moments import Moments, Precision

__all__ = ["SpectralTempering", "knee", "tempering"]

_TAIL = 0.1
"""Share of the eigenvalues, the smallest, whose mean is taken for noise."""


def knee(curve: Float64, sensitivity: float = 0.5) -> int:
    """Return the index at which a falling, convex curve bends, by the Kneedle algorithm.

    That is the first place that is farther below the curve's chord than its neighbours, and after which the
    distance falls clearly before it rises again.

    Parameters
    ----------
    curve : ndarray of shape (n,), float64
        Values that don't rise, at least one.
    sensitivity : float, default=0.5
        By how much the distance must fall: as a share of the chord's fall between two neighbours.

    Returns
    -------
    int
        0 where the curve is flat.

    References
    ----------
    Satopaa et al., "Finding a 'kneedle' in a haystack: detecting knee points in system behavior" (ICDCS
    Workshops 2011).

    Examples
    --------
    >>> import numpy as np
    >>> knee(np.array([9.0, 4.0, 1.0, 0.5, 0.2]))
    2
    """
    n, span = len(curve), curve[0] - curve[-1]
    if span <= 0:
        return 0
    below = np.linspace(1, 0, n) - (curve - curve[-1]) / span
    beside = np.pad(below, 1, constant_values=-np.inf)
    peaks = np.flatnonzero((below >= beside[:-2]) & (below >= beside[2:]))
    for peak, following in pairwise([*peaks, n]):
        valley = below[peak + 1 : following].min(initial=np.inf)
        if valley < below[peak] - sensitivity / (n - 1):
            return int(peak)
    return int(np.argmax(below))


def tempering(values: Float64, n_components: int) -> float:
    """Return the exponent gamma that a spectrum and a number of components lead to.

    The noise is the mean of the smallest tenth of the eigenvalues, and the signal-to-noise ratio of an axis
    is what its eigenvalue exceeds the noise by, divided by the noise. Gamma is the ratio of the last axis
    kept over that of the axis at the curve's knee, at most 1. So few axes are whitened, and the more of the
    tail are kept, the closer to PCA the fold is.

    Parameters
    ----------
    values : ndarray of shape (d,), float64
        All eigenvalues, two or more, largest first, none negative.
    n_components : int
        Number of axes that are kept, at most d.

    Returns
    -------
    float
        From 0, which is PCA, to 1, which is whitening. 1 where the knee is no higher than the noise, as for
        equal eigenvalues.

    Examples
    --------
    >>> import numpy as np
    >>> spectrum = 0.5 ** np.arange(20.0)
    >>> tempering(spectrum, 3), round(tempering(spectrum, 8), 3)
    (1.0, 0.125)
    """
    n_signal = int(len(values) * (1 - _TAIL))
    # Dividing all by the noise changes neither the knee nor a ratio of two, and fails where there is none.
    excess = np.maximum(values[:n_signal] - values[n_signal:].mean(), 0.0)
    at_knee = excess[knee(excess)]
    if at_knee <= 0:
        return 1.0
    return float(min(1.0, excess[min(n_components, n_signal) - 1] / at_knee))


class SpectralTempering(MomentFold):
    """Scale principal components by a power of their variance that the spectrum gives (SpecTemp).

    PCA leaves each axis its variance, and whitening makes all equal; this stands between: an axis of variance
    v is scaled by v^(-gamma / 2), with gamma from 0 (PCA) to 1 (whitening). Nothing is learned but moments,
    and no labels or held-out rows are needed.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    gamma : float or "auto", default="auto"
        Strength of the scaling, from 0 to 1. "auto" derives it from the spectrum as published: the noise is
        the mean of the smallest tenth of the variances, and gamma is the signal-to-noise ratio of the last
        axis kept divided by that at the knee of its curve, at most 1.
    center : bool, default=True
        Whether the mean is subtracted first, as published. Without it "variance" is the mean square along an
        axis, and under cosine more neighbours are kept, as is so of PCA.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned. The paper searches by cosine.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold. Its facts are `rows`, `gamma` (the one used) and `energy`, the share of the variance
        (centred) or of the sum of squares (uncentred) in the components.
    components_ : ndarray of shape (m, d), float32
        Principal axes, each scaled by (v / v_1)^(-gamma / 2), where v_1 is the largest variance. The row of
        an axis without variance is zero, unless gamma is 0.
    mean_ : ndarray of shape (d,), float64, or None
        Mean of the rows; None with `center=False`.
    n_components_ : int
        Number m of reduced dimensions.
    n_samples_seen_ : int
        Number of rows that `fit`, or all calls of `partial_fit` together, have seen.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        `gamma` is neither "auto" nor from 0 to 1.

    Notes
    -----
    The exponent, its noise, its knee (with its sensitivity) and the centring are the paper's, as its abstract
    and the authors' public code give them; none of that code is used. Ours are two details: the scales are
    divided by that of the first axis, which changes no search; and axes without variance are zeroed, where
    they add a small constant to all variances. So is the variant without centring.

    References
    ----------
    Li, Eustratiadis, Kanoulas, "Spectral tempering for embedding compression in dense passage retrieval"
    (SIGIR 2026, arXiv 2603.19339).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8)) * 0.7 ** np.arange(8)
    >>> SpectralTempering(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        gamma: float | Literal["auto"] = "auto",
        center: bool = True,
        metric: Metric = "cosine",
    ) -> None:
        self.n_components = n_components
        self.gamma = gamma
        self.center = center
        self.metric = metric

    @property
    def _products(self) -> Precision:
        # The noise is a mean of small eigenvalues, which float32 products would blur.
        return np.float64

    def _learn_from_moments(self, moments: Moments, n_components: int) -> Encoder:
        gamma = self.gamma
        if gamma != "auto":
            check_positive("gamma", gamma, integer=False, zero=True)
            if gamma > 1:
                raise ParameterError(f"gamma={gamma!r} must be 'auto' or from 0 (PCA) to 1 (whitening)")
        values, axes = principal_axes(moments.covariance if self.center else moments.uncentered)
        used = tempering(values, n_components) if gamma == "auto" else float(gamma)
        kept, tiny = values[:n_components], np.finfo(float).tiny
        # An axis without variance stays zero: dividing by its rounding would blow up noise.
        floor = max(values[0] * np.finfo(np.float32).eps, tiny)
        scales = (np.maximum(kept, floor) / max(values[0], floor)) ** (-used / 2)
        if used > 0:
            scales[kept <= floor] = 0.0
        weight = axes[:n_components] * scales[:, None]
        self.mean_ = moments.mean if self.center else None
        bias = -weight @ moments.mean if self.center else None
        energy = kept.sum() / max(values.sum(), tiny)
        return self._encoder(weight, bias, rows=moments.count, gamma=used, energy=energy)

    @property
    def _method_name(self) -> str:
        return "spectemp" if self.center else "spectemp-uncentred"
