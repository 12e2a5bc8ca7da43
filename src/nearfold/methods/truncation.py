"""Truncation to the first dimensions, which Matryoshka models are trained for."""

from __future__ import annotations

import numpy as np

from nearfold._utils.arrays import Float32, Metric, check_finite
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold

__all__ = ["Truncation"]


class Truncation(LinearFold):
    """Keep the first m dimensions and drop the rest.

    This suits models that were trained so that the leading dimensions matter most (Matryoshka). For others
    it shows what blind cutting costs.

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
        The fold, whose weight is the first m rows of the identity. Its only fact is `rows`.
    components_ : ndarray of shape (m, d), float32
        First m rows of the identity.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    References
    ----------
    Kusupati et al., "Matryoshka representation learning" (NeurIPS 2022, arXiv 2205.13147).

    Examples
    --------
    >>> import numpy as np
    >>> Truncation(n_components=2).fit_transform(np.arange(8.0).reshape(2, 4))
    array([[0., 1.],
           [4., 5.]], dtype=float32)
    """

    def __init__(self, n_components: int | str = "25%", *, metric: Metric = "cosine") -> None:
        self.n_components = n_components
        self.metric = metric

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        return self._encoder(np.eye(n_components, X.shape[1]), rows=len(X))

    @property
    def _method_name(self) -> str:
        return "truncation"
