"""Random projection, Gaussian or sparse, which is the baseline that learns nothing."""

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

    Squared distances are kept on average, with an error that shrinks as 1 / sqrt(m) (Johnson-Lindenstrauss).
    Nothing is learned of the rows but how wide they are.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    kind : {"gaussian", "sparse"}, default="gaussian"
        Distribution of the entries: normal, or -1, 0 and 1 times a constant, of which one in sqrt(d) is not
        zero.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned.
    random_state : int, RandomState or None, default=0
        Seed of the draw.

    Attributes
    ----------
    encoder_ : Encoder
        The drawn fold. Its only fact is `rows`.
    components_ : ndarray of shape (m, d), float32
        Random directions.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        `kind` is neither of the two.

    References
    ----------
    Johnson, Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space" (1984).

    Li, Hastie, Church, "Very sparse random projections" (KDD 2006).

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
