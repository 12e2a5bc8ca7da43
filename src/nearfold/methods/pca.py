"""Principal component analysis, centred or not, from second moments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.threads import single_threaded_blas
from nearfold.folds.encoder import Encoder
from nearfold.methods.moments import MomentFold
from nearfold.scan.moments import WIDE, Moments, Precision

__all__ = ["PCA", "leading_axes", "principal_axes"]

Float64 = npt.NDArray[np.float64]


def principal_axes(second: Float64) -> tuple[Float64, Float64]:
    """Return all eigenvalues of a second-moment matrix, largest first, and their axes as rows.

    Parameters
    ----------
    second : ndarray of shape (d, d), float64
        Symmetric matrix, such as `Moments.covariance` or `Moments.uncentered`.

    Returns
    -------
    values : ndarray of shape (d,), float64
        Eigenvalues, never negative.
    axes : ndarray of shape (d, d), float64
        Orthonormal rows. Each axis has its largest entry positive, so that the result does not depend on the
        eigensolver's choice of sign.
    """
    values, vectors = np.linalg.eigh(second)
    axes = vectors.T[::-1]
    return np.maximum(values[::-1], 0.0), axes * _signs(axes)


def leading_axes(second: Float64, count: int) -> Float32:
    """Return the first `count` of `principal_axes` in float32, as a start for training.

    In more than 1,024 dimensions axes whose eigenvalues differ by less than float32 tells, some 1e-7 of
    the largest, may be mixed.

    Parameters
    ----------
    second : ndarray of shape (d, d), float64
        Symmetric matrix, such as `Moments.covariance` or `Moments.uncentered`.
    count : int
        Number of axes, at most d.

    Returns
    -------
    ndarray of shape (count, d), float32
    """
    if len(second) <= WIDE:
        return principal_axes(second)[1][:count].astype(np.float32)
    scaled = np.empty(second.shape, np.float32)
    scale = max(float(np.trace(second)), np.finfo(np.float64).tiny)
    np.divide(second, scale, out=scaled, casting="same_kind")
    wanted = [len(second) - count, len(second) - 1]
    with single_threaded_blas():
        # Most of it is bound by the memory's speed: threads wait for each other, long where cores are busy.
        _, vectors = scipy.linalg.eigh(
            scaled.T, subset_by_index=wanted, driver="evr", overwrite_a=True, check_finite=False
        )
    axes = vectors.T[::-1]
    leading: Float32 = np.ascontiguousarray(axes * _signs(axes), np.float32)
    return leading


def _signs(axes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return -1 for axes whose largest entry is negative, else 1: shape (n, 1)."""
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return np.where(largest < 0, axes.dtype.type(-1), axes.dtype.type(1))[:, None]


class PCA(MomentFold):
    """Project on the directions of largest variance, or of largest energy when not centred.

    For cosine and inner product the uncentred form is the stronger baseline: subtracting the
    mean changes the angles that are to be kept.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    center : bool, default=True
        Whether the mean is subtracted first, which is classical PCA. Without it the axes are those of
        `sklearn.decomposition.TruncatedSVD`.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold; its weight has orthonormal rows. Its facts are `rows` and `energy`, the share of the
        variance (centred) or of the sum of squares (uncentred) that is kept.
    components_ : ndarray of shape (m, d), float32
        Principal axes, the one of largest variance or energy first. The largest entry of each is positive.
    mean_ : ndarray of shape (d,), float64, or None
        Mean of the rows; None with `center=False`.
    explained_variance_ : ndarray of shape (m,), float64
        Variance of the rows along each axis. As in scikit-learn, it is divided by n - 1 with `center=True`
        (as `PCA` does) and by n with `center=False` (as `TruncatedSVD` does).
    explained_variance_ratio_ : ndarray of shape (m,), float64
        Share of the total variance of the rows along each axis.
    singular_values_ : ndarray of shape (m,), float64
        Largest singular values of the matrix of rows, less their mean with `center=True`.
    n_components_ : int
        Number m of reduced dimensions.
    n_samples_seen_ : int
        Number of rows that `fit`, or all calls of `partial_fit` together, have seen.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> pca = PCA(n_components=2).fit(X)
    >>> pca.transform(X).shape, pca.components_.shape
    ((50, 2), (2, 8))

    Batches give what all rows give:

    >>> batches = PCA(n_components=2).partial_fit(X[:20]).partial_fit(X[20:])
    >>> bool(np.allclose(batches.components_, pca.components_, atol=1e-6))
    True
    """

    def __init__(
        self, n_components: int | str = "25%", *, center: bool = True, metric: Metric = "cosine"
    ) -> None:
        self.n_components = n_components
        self.center = center
        self.metric = metric

    @property
    def _products(self) -> Precision:
        # A covariance is a difference of moments, which float32 products would blur.
        return np.float64 if self.center else np.float32

    def _learn_from_moments(self, moments: Moments, n_components: int) -> Encoder:
        covariance = moments.covariance
        values, axes = principal_axes(covariance if self.center else moments.uncentered)
        kept, weight = values[:n_components], axes[:n_components]
        tiny = np.finfo(float).tiny
        self.mean_ = moments.mean if self.center else None
        self.singular_values_ = np.sqrt(kept * moments.count)
        if self.center:
            variance = kept
            self.explained_variance_ = kept * (moments.count / max(1, moments.count - 1))
        else:
            variance = np.maximum(kept - np.square(weight @ moments.mean), 0.0)
            self.explained_variance_ = variance
        self.explained_variance_ratio_ = variance / max(np.trace(covariance), tiny)
        bias = -weight @ moments.mean if self.center else None
        return self._encoder(weight, bias, rows=moments.count, energy=kept.sum() / max(values.sum(), tiny))

    @property
    def _method_name(self) -> str:
        return "pca" if self.center else "pca-uncentred"
