"""The linear map that keeps distances: metric multidimensional scaling over linear maps."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

from nearfold._utils.arrays import (
    Float32,
    Metric,
    check_finite,
    check_positive,
    check_tiny,
    largest_number,
    normalize_rows,
)
from nearfold.errors import DataError, ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.adam import Adam
from nearfold.methods.base import LinearFold, check_rows_for_components
from nearfold.methods.pca import leading_axes
from nearfold.methods.rae.gradient import cosine_rates
from nearfold.scan.moments import Moments

__all__ = ["Isometric", "stress_of_pairs"]


def stress_of_pairs(weight: Float32, differences: Float32) -> tuple[float, Float32]:
    """Return by how much a linear map changes lengths, and the gradient of that.

    Parameters
    ----------
    weight : ndarray of shape (m, d), float32
        Map W.
    differences : ndarray of shape (n, d), float32
        Differences v of pairs of rows.

    Returns
    -------
    stress : float
        Mean over the pairs of (|W v| - |v|)^2.
    gradient : ndarray of shape (m, d), float32
        Its gradient in W. Pairs that W maps to one point give none.
    """
    folded = differences @ weight.T
    before, after = (np.sqrt(np.einsum("ij,ij->i", rows, rows)) for rows in (differences, folded))
    gap = after - before
    share = np.divide(gap, after, out=np.zeros_like(gap), where=after > 0)
    gradient: Float32 = (folded * share[:, None]).T @ differences
    gradient *= np.float32(2 / len(differences))
    return float(np.mean(np.square(gap))), gradient


class Isometric(LinearFold):
    """Learn the linear map that changes distances between random pairs of rows least.

    It minimises the mean over pairs of (|W v| - |v|)^2, where v is the difference of two rows: the stress of
    metric multidimensional scaling, with places that are a linear map of the rows. Adam descends from
    principal axes, with new pairs in each step. Under cosine (after rows are scaled to norm 1) and inner
    product the sums of the two rows count as much as their differences: keeping both keeps inner products.

    The least squared error of inner products, over all pairs, is uncentred PCA's. Here lengths are compared
    and not their squares, and the map may lengthen what it keeps to make up for what it drops. A bound on the
    worst pair instead of the mean, as other near-isometric maps have it, needs a semidefinite program.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    n_steps : int, default=600
        Number of steps of Adam.
    pairs_per_step : int, default=1024
        Number of pairs drawn in each step.
    learning_rate : float, default=0.06
        Rate of the first step, as a share of the root mean square of the start's entries, 1 / sqrt(d). It
        falls along half a cosine to a hundredth.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with, which decides what is kept.
    random_state : int, RandomState or None, default=0
        Seed of the pairs.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold, without a bias. Its facts are `rows` and `stress`, Kruskal's stress-1 of random
        pairs: the root of the squared error's share of the folded squared distances.
    components_ : ndarray of shape (m, d), float32
        The learned weight.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    DataError
        X has equal rows only, or numbers so small that their products vanish in float32.
    ParameterError
        A parameter is out of range, or training diverges.

    References
    ----------
    De Leeuw, Heiser, "Multidimensional scaling with restrictions on the configuration" (Multivariate Analysis
    V, 1980), for places that are linear in given variables.

    Hegde, Sankaranarayanan, Yin, Baraniuk, "NuMax: a convex approach for learning near-isometric linear
    embeddings" (IEEE Transactions on Signal Processing 2015), for the worst pair.

    Webb, "Multidimensional scaling by iterative majorization using radial basis functions" (Pattern
    Recognition 1995), for learning a map of new rows by the stress.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> Isometric(n_components=2, n_steps=20).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        n_steps: int = 600,
        pairs_per_step: int = 1024,
        learning_rate: float = 0.06,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.n_steps = n_steps
        self.pairs_per_step = pairs_per_step
        self.learning_rate = learning_rate
        self.metric = metric
        self.random_state = random_state

    @property
    def learns_metric(self) -> bool:
        """Whether `metric` changes what is learned: always, as it decides what is kept."""
        return True

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        check_rows_for_components(len(X), n_components)
        check_positive("n_steps", self.n_steps)
        check_positive("pairs_per_step", self.pairs_per_step)
        check_positive("learning_rate", self.learning_rate, integer=False)
        check_tiny(X, self.metric, "X")
        if self.metric == "cosine":
            X = normalize_rows(X)
        moments = Moments.of(X)
        if np.trace(moments.covariance) <= 0:
            raise DataError("X has equal rows only, which have no distances to keep; give other rows")
        second = moments.covariance if self.metric == "l2" else moments.uncentered
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        weight, stress = self._descend(leading_axes(second, n_components), X, rng)
        if not np.isfinite(weight).all():
            raise ParameterError(
                f"training diverged with learning_rate={self.learning_rate!r}; use a smaller rate"
            )
        return self._encoder(weight, rows=len(X), stress=stress)

    def _descend(self, start: Float32, X: Float32, rng: np.random.Generator) -> tuple[Float32, float]:
        """Return the map that Adam leads to from `start`, and its stress-1 for new pairs."""
        weight = np.ascontiguousarray(start)
        optimizer = Adam(weight)
        # A map that keeps distances keeps them at any scale of the rows.
        scale = np.float32(largest_number(X))
        rate = float(self.learning_rate) / np.sqrt(X.shape[1])
        for pace in cosine_rates(int(self.n_steps), rate, rate / 100):
            _, optimizer.gradient[...] = stress_of_pairs(weight, self._pairs(X, scale, rng))
            optimizer.step(pace)
        pairs = self._pairs(X, scale, rng)
        stress, _ = stress_of_pairs(weight, pairs)
        energy = float(np.square(pairs @ weight.T).sum()) / len(pairs)
        return weight, float(np.sqrt(stress / max(energy, np.finfo(float).tiny)))

    def _pairs(self, X: Float32, scale: np.float32, rng: np.random.Generator) -> Float32:
        """Return differences of pairs of distinct rows, and for angles their sums too."""
        first = rng.integers(len(X), size=int(self.pairs_per_step))
        second = (first + rng.integers(1, len(X), size=len(first))) % len(X)
        these, those = X[first] / scale, X[second] / scale
        pairs: Float32 = (
            these - those if self.metric == "l2" else np.concatenate([these - those, these + those])
        )
        return pairs

    @property
    def _method_name(self) -> str:
        return "isometric"
