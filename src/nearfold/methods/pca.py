"""Principal component analysis, centred or not, from second moments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.threads import single_threaded_blas
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.scanned import ScanFold
from nearfold.scan.moments import WIDE
from nearfold.scan.scan import Anchors, Request, Scan

__all__ = ["PCA", "leading_axes", "principal_axes"]

Float64 = npt.NDArray[np.float64]


def principal_axes(second: Float64) -> tuple[Float64, Float64]:
    """Return all eigenvalues of a second-moment matrix, largest first, and their axes as rows.

    Parameters
    ----------
    second
        Shape (d, d), symmetric: `Moments.covariance` or `Moments.uncentered`.

    Returns
    -------
    values, axes
        Shapes (d,), never negative, and (d, d), rows orthonormal. Each axis has its largest
        entry positive, so that the result does not depend on the eigensolver's choice of sign.
    """
    values, vectors = np.linalg.eigh(second)
    axes = vectors.T[::-1]
    return np.maximum(values[::-1], 0.0), axes * _signs(axes)


def leading_axes(second: Float64, count: int) -> Float32:
    """Return the first `count` of `principal_axes` in float32, as a start for training.

    In more than 1,024 dimensions axes whose eigenvalues differ by less than float32 tells, some 1e-7 of
    the largest, may be mixed.
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


class PCA(ScanFold):
    """Project on the directions of largest variance, or of largest energy when not centred.

    For cosine and inner product the uncentred form is the stronger baseline: subtracting the
    mean changes the angles that are to be kept.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    center
        Subtract the mean first (classical PCA).
    metric
        What the folded vectors will be searched with; noted in the encoder, not used to learn.

    Attributes
    ----------
    encoder_ : Encoder
        With orthonormal rows; facts: rows, energy (the share of variance or energy kept).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> PCA(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self, n_components: int | str = "25%", *, center: bool = True, metric: Metric = "cosine"
    ) -> None:
        self.n_components = n_components
        self.center = center
        self.metric = metric

    def scan_request(self, rows: int, n_components: int) -> Request:
        """Return what to scan for: moments alone."""
        check_rows_for_components(rows, n_components)
        # A covariance is a difference of moments, which float32 products would blur.
        return Request(self.metric, normalize=False, products=np.float64 if self.center else np.float32)

    def learn_from_scan(
        self,
        scan: Scan,
        anchors: Anchors | None,  # noqa: ARG002
        n_components: int,
        request: Request,  # noqa: ARG002
    ) -> Encoder:
        """Return the first principal axes."""
        moments = scan.moments
        values, axes = principal_axes(moments.covariance if self.center else moments.uncentered)
        weight = axes[:n_components]
        bias = -weight @ moments.mean if self.center else None
        energy = values[:n_components].sum() / max(values.sum(), np.finfo(float).tiny)
        return self._encoder(weight, bias, rows=scan.rows, energy=energy)

    @property
    def _method_name(self) -> str:
        return "pca" if self.center else "pca-uncentred"
