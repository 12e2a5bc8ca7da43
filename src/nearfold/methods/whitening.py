"""Principal components scaled to equal variance."""

from __future__ import annotations

import numpy as np

from nearfold._utils.arrays import Metric
from nearfold.folds.encoder import Encoder
from nearfold.methods.moments import MomentFold
from nearfold.methods.pca import principal_axes
from nearfold.scan.moments import Moments, Precision

__all__ = ["Whitening"]


class Whitening(MomentFold):
    """Project on principal components, each scaled to variance 1, as image retrieval does.

    Frequent directions then count no more than rare ones, which helps some descriptors under cosine and hurts
    neighbourhoods elsewhere: axes of little variance are noise blown up.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold. Its facts are `rows` and `energy`, the share of the variance in the components.
    components_ : ndarray of shape (m, d), float32
        Principal axes, each divided by the standard deviation along it (its variance is divided by n). The
        row of an axis without variance is zero.
    mean_ : ndarray of shape (d,), float64
        Mean of the rows.
    explained_variance_ : ndarray of shape (m,), float64
        Variance of the rows along each axis, divided by n - 1 as in `sklearn.decomposition.PCA`.
    explained_variance_ratio_ : ndarray of shape (m,), float64
        Share of the total variance of the rows along each axis.
    singular_values_ : ndarray of shape (m,), float64
        Largest singular values of the matrix of rows less their mean.
    n_components_ : int
        Number m of reduced dimensions.
    n_samples_seen_ : int
        Number of rows that `fit`, or all calls of `partial_fit` together, have seen.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    References
    ----------
    Jegou, Chum, "Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening"
    (ECCV 2012).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> Whitening(n_components=2).fit_transform(X).std(axis=0).round(1)
    array([1., 1.], dtype=float32)
    """

    def __init__(self, n_components: int | str = "25%", *, metric: Metric = "cosine") -> None:
        self.n_components = n_components
        self.metric = metric

    @property
    def _products(self) -> Precision:
        # A covariance is a difference of moments, which float32 products would blur.
        return np.float64

    def _learn_from_moments(self, moments: Moments, n_components: int) -> Encoder:
        values, axes = principal_axes(moments.covariance)
        kept, tiny = values[:n_components], np.finfo(float).tiny
        # An axis without variance stays zero: dividing by its rounding would blow up noise.
        floor = max(values[0] * np.finfo(np.float32).eps, tiny)
        scales = np.where(kept > floor, 1 / np.sqrt(np.maximum(kept, floor)), 0.0)
        weight = axes[:n_components] * scales[:, None]
        ratio = kept / max(values.sum(), tiny)
        self.mean_ = moments.mean
        self.singular_values_ = np.sqrt(kept * moments.count)
        self.explained_variance_ = kept * (moments.count / max(1, moments.count - 1))
        self.explained_variance_ratio_ = ratio
        return self._encoder(weight, -weight @ moments.mean, rows=moments.count, energy=ratio.sum())

    @property
    def _method_name(self) -> str:
        return "whitening"
