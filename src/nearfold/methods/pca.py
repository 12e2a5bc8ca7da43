"""Principal component analysis, centred or not, from second moments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nearfold.arrays import Metric
from nearfold.encoder import Encoder
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.method import Method
from nearfold.methods.scanned import ScanFold
from nearfold.scan import Anchors, Request, Scan

__all__ = ["OFFERS", "PCA", "principal_axes"]

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
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return np.maximum(values[::-1], 0.0), axes * np.where(largest < 0, -1.0, 1.0)[:, None]


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


OFFERS = {
    "pca": Method(PCA, "centred principal components", 50),
    "pca-uncentred": Method(PCA, "principal components without centring", 51, {"center": False}),
}
