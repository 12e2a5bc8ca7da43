"""Principal components scaled to equal variance."""

from __future__ import annotations

import numpy as np

from nearfold._utils.arrays import Metric
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.pca import principal_axes
from nearfold.methods.scanned import ScanFold
from nearfold.scan.scan import Anchors, Request, Scan

__all__ = ["Whitening"]


class Whitening(ScanFold):
    """Project on principal components, each scaled to variance 1, as image retrieval does.

    Frequent directions then count no more than rare ones, which helps some descriptors under cosine and hurts
    neighbourhoods elsewhere: axes of little variance are noise blown up.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    metric
        What the folded vectors will be searched with; noted in the encoder, not used to learn.

    Attributes
    ----------
    encoder_ : Encoder
        Facts: rows, energy (the share of variance in the components).

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

    def scan_request(self, rows: int, n_components: int) -> Request:
        """Return what to scan for: moments alone."""
        check_rows_for_components(rows, n_components)
        return Request(self.metric, normalize=False, products=np.float64)

    def learn_from_scan(
        self,
        scan: Scan,
        anchors: Anchors | None,  # noqa: ARG002
        n_components: int,
        request: Request,  # noqa: ARG002
    ) -> Encoder:
        """Return the first principal axes, scaled; those without variance are left out of the sums."""
        values, axes = principal_axes(scan.moments.covariance)
        kept = values[:n_components]
        floor = max(values[0] * np.finfo(np.float32).eps, np.finfo(float).tiny)
        scales = np.where(kept > floor, 1 / np.sqrt(np.maximum(kept, floor)), 0.0)
        weight = axes[:n_components] * scales[:, None]
        energy = kept.sum() / max(values.sum(), np.finfo(float).tiny)
        return self._encoder(weight, -weight @ scan.moments.mean, rows=scan.rows, energy=energy)

    @property
    def _method_name(self) -> str:
        return "whitening"
