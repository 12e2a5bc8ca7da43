"""Multidimensional scaling of a sample, carried to all rows by ridge regression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import smacof
from sklearn.utils import check_random_state

from nearfold._utils.arrays import Float32, Metric, check_finite, check_positive, normalize_rows, row_norms
from nearfold.errors import DataError, ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold, check_rows_for_components, sample_rows
from nearfold.methods.pca import principal_axes
from nearfold.scan.moments import Moments

__all__ = ["MDS"]


class MDS(LinearFold):
    """Place a sample of rows in m dimensions so that distances stay, and learn to map rows to their places.

    SMACOF (metric multidimensional scaling) starts at principal components and lowers the stress of the
    sample's Euclidean distances. It has no rule for new rows: here a ridge regression from rows to their
    places is the fold, for the sample too, so that base and queries are mapped alike.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    max_rows : int, default=2000
        Number of rows in the sample, at most 5,000, as time and memory grow with its square.
    n_steps : int, default=100
        SMACOF runs for at most this many iterations.
    ridge : float, default=1e-3
        Penalty of the regression, as a share of the mean variance of the rows in a dimension.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        What near means before folding; "cosine" scales rows to norm 1 first.
    random_state : int, RandomState or None, default=0
        Seed of the sample.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold, which has a bias and is to be searched with Euclidean distance whatever `metric` is.
        Its facts are `rows`, `sampled_rows`, `stress` (Kruskal's stress-1 of the sample), `fit` (the share of
        the variance of places that the regression explains), `fitted_for` (`metric`) and `new_rows`.
    components_ : ndarray of shape (m, d), float32
        Coefficients of the regression.
    mean_ : ndarray of shape (d,), float64
        Mean of the sample; by "cosine" that of its rows of norm 1 times the median norm of all rows.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    DataError
        X has equal rows only.
    ParameterError
        A parameter is out of range.

    References
    ----------
    Kruskal, "Multidimensional scaling by optimizing goodness of fit to a nonmetric hypothesis"
    (Psychometrika 1964).

    De Leeuw, "Applications of convex analysis to multidimensional scaling" (1977), for SMACOF.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> MDS(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    @property
    def learns_metric(self) -> bool:
        """Whether `metric` changes what is learned: always, as it decides which rows are neighbours."""
        return True

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        max_rows: int = 2000,
        n_steps: int = 100,
        ridge: float = 1e-3,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.max_rows = max_rows
        self.n_steps = n_steps
        self.ridge = ridge
        self.metric = metric
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        check_rows_for_components(len(X), n_components)
        check_positive("max_rows", self.max_rows)
        check_positive("n_steps", self.n_steps)
        check_positive("ridge", self.ridge, integer=False)
        if self.max_rows > 5000:
            raise ParameterError(f"max_rows={self.max_rows} must be at most 5000: MDS holds all distances")
        rows = len(X)
        scale = 1.0
        if self.metric == "cosine":
            # Places are those of rows of norm 1, and the rows to be mapped are as long as these.
            scale = float(np.median(row_norms(X))) or 1.0
            X = normalize_rows(X)
        sample = sample_rows(X, self.max_rows, check_random_state(self.random_state))
        moments = Moments.of(sample)
        centered = sample - moments.mean
        _, axes = principal_axes(moments.covariance)
        distances = squareform(pdist(centered))
        if distances.max() == 0:
            raise DataError("X has equal rows only, which have no distances to keep; give other rows")
        places, stress = smacof(
            distances,
            n_components=n_components,
            init=centered @ axes[:n_components].T,
            n_init=1,
            max_iter=int(self.n_steps),
            normalized_stress=True,
        )
        places -= places.mean(axis=0)
        gram = centered.T @ centered
        gram[np.diag_indices_from(gram)] += self.ridge * np.trace(gram) / len(gram)
        weight = scipy.linalg.solve(gram, centered.T @ places, assume_a="pos").T
        left = places - centered @ weight.T
        explained = 1 - np.square(left).sum() / max(np.square(places).sum(), np.finfo(float).tiny)
        self.mean_ = moments.mean * scale
        # Places are near each other in Euclidean distance, whatever the rows were near in.
        return replace(
            self._encoder(
                weight / scale,
                -weight @ moments.mean,
                rows=rows,
                sampled_rows=len(sample),
                stress=float(stress),
                fit=float(explained),
                fitted_for=self.metric,
                new_rows="by ridge regression from the sample's places",
            ),
            metric="l2",
        )

    @property
    def _method_name(self) -> str:
        return "mds"
