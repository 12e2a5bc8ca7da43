"""Keep the first dimensions: what Matryoshka models are trained for (arXiv 2205.13147)."""

from __future__ import annotations

import numpy as np

from nearfold._utils.arrays import Float32, Metric, check_finite
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold

__all__ = ["Truncation"]


class Truncation(LinearFold):
    """Keep the first m dimensions and drop the rest.

    Right for models trained so that leading dimensions matter most (Matryoshka); for others it
    shows what blind cutting costs.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    metric
        What the folded vectors will be searched with; noted in the encoder, not used to learn.

    Attributes
    ----------
    encoder_ : Encoder
        The first m rows of the identity; facts: rows.

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
