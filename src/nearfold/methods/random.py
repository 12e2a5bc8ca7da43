"""Random projection, Gaussian or sparse: the baseline that learns nothing (Johnson-Lindenstrauss)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from nearfold._utils.arrays import Float32, Metric, check_finite
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold

__all__ = ["RandomProjection"]


class RandomProjection(LinearFold):
    """Project on random directions, drawn by scikit-learn.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    kind
        "gaussian": normal entries; "sparse": entries of -1, 0 and 1, scaled, one in sqrt(d) of
        them not zero (Li, Hastie and Church 2006).
    metric
        What the folded vectors will be searched with; noted in the encoder, not used to learn.
    random_state
        Seed of the draw.

    Attributes
    ----------
    encoder_ : Encoder
        Facts: rows.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> RandomProjection(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        kind: Literal["gaussian", "sparse"] = "gaussian",
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.kind = kind
        self.metric = metric
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        kinds = {"gaussian": GaussianRandomProjection, "sparse": SparseRandomProjection}
        if self.kind not in kinds:
            raise ParameterError(f"kind={self.kind!r} is unknown; use one of {', '.join(kinds)}")
        drawn = kinds[self.kind](n_components, random_state=self.random_state).fit(X[:1]).components_
        weight = drawn.toarray() if self.kind == "sparse" else drawn
        return self._encoder(weight, rows=len(X))

    @property
    def _method_name(self) -> str:
        return f"random-{self.kind}"
