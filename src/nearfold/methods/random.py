"""Random projection, Gaussian, sparse or orthonormal, which is the baseline that learns nothing."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.utils import check_random_state

from nearfold._utils.arrays import Float32, Float64, Metric, check_finite
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold

__all__ = ["RandomProjection"]


class RandomProjection(LinearFold):
    """Project on random directions.

    Squared distances are kept on average, with an error that shrinks as 1 / sqrt(m) (Johnson-Lindenstrauss).
    Nothing is learned of the rows but how wide they are. "gaussian" and "sparse" are drawn by scikit-learn.
    "rotation" is the first m dimensions after a random rotation of all d: its directions are orthonormal, so
    that no combination of dimensions counts more than another, which at 25% of the dimensions keeps clearly
    more neighbours than "gaussian". It stands for what truncation keeps where no model was trained for it.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    kind : {"gaussian", "sparse", "rotation"}, default="gaussian"
        Distribution of the entries: normal; -1, 0 and 1 times a constant, of which one in sqrt(d) is not
        zero; or the first m rows of a rotation drawn uniformly, times sqrt(d / m).
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
        `kind` is none of the three.

    References
    ----------
    Johnson, Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space" (1984).

    Mezzadri, "How to generate random matrices from the classical compact groups" (Notices of the AMS 2007),
    for "rotation".

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
        kind: Literal["gaussian", "sparse", "rotation"] = "gaussian",
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
        if self.kind == "rotation":
            rng = check_random_state(self.random_state)
            return self._encoder(_rotation_rows(n_components, X.shape[1], rng), rows=len(X))
        if self.kind not in kinds:
            raise ParameterError(f"kind={self.kind!r} is unknown; use one of {', '.join(kinds)}, rotation")
        drawn = kinds[self.kind](n_components, random_state=self.random_state).fit(X[:1]).components_
        weight = drawn.toarray() if self.kind == "sparse" else drawn
        return self._encoder(weight, rows=len(X))

    @property
    def _method_name(self) -> str:
        return f"random-{self.kind}"


def _rotation_rows(count: int, n_features: int, rng: np.random.RandomState) -> Float64:
    """Return the first rows of a uniformly drawn rotation, scaled so that squared lengths stay on average."""
    axes, upper = np.linalg.qr(rng.standard_normal((n_features, count)))
    # The decomposition's own signs are not uniform; those of the diagonal undo them.
    rows: Float64 = (axes * np.sign(np.diag(upper))).T * np.sqrt(n_features / count)
    return rows
