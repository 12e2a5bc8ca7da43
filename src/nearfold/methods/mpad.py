"""MPAD (Maximum Pairwise Absolute Difference, arXiv 2504.16335)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from nearfold._utils.arrays import Float32, Metric, check_finite, check_positive
from nearfold._utils.progress import track
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold, check_rows_for_components
from nearfold.scan.copies import without_copies

__all__ = ["MPAD", "mean_of_smallest"]

Float64 = npt.NDArray[np.float64]


def mean_of_smallest(projected: Float64, share: float) -> tuple[float, Float64]:
    """Return the mean of the smallest pairwise differences and its slope in each projection.

    Parameters
    ----------
    projected : ndarray of shape (n,), float64
        Inner products of the rows with one direction.
    share : float
        Share of all n (n - 1) / 2 absolute differences that count, the smallest ones; above 0 and at most 1.

    Returns
    -------
    value : float
        The paper's mu_b.
    slope : ndarray of shape (n,), float64
        Its derivative with respect to `projected`.
    """
    order = np.argsort(projected, kind="stable")
    ranked = projected[order]
    n = len(ranked)
    pairs = n * (n - 1) // 2
    wanted = max(1, round(share * pairs))
    # In sorted order a row's near ones are a run behind it, found by bisection for any bound; the
    # bound itself is found by bisection on how many pairs it lets in.
    own = np.arange(n)
    # A little more than the largest difference, so that rounding can't shut out its pair.
    low, high = 0.0, float(ranked[-1] - ranked[0]) * (1 + 1e-9)
    for _ in range(50):
        middle = (low + high) / 2
        if (np.searchsorted(ranked, ranked + middle, side="right") - own - 1).sum() < wanted:
            low = middle
        else:
            high = middle
    ends = np.searchsorted(ranked, ranked + high, side="right")
    inside = ends - own - 1
    sums = np.concatenate([[0.0], np.cumsum(ranked)])
    count = max(1, int(inside.sum()))
    value = float((sums[ends] - sums[own + 1] - inside * ranked).sum()) / count
    # Row j has `inside[j]` partners above it and as many below as runs that reach it.
    below = np.cumsum(np.bincount(own + 1) - np.bincount(ends))[:n]
    slope = np.empty(n)
    slope[order] = (below - inside) / count
    return value, slope


class MPAD(LinearFold):
    """Learn directions, one after another, on which even the nearest pairs of rows stay far apart.

    Direction w maximises mu_b(w) - alpha sum_i <w_i, w>^2, where the w_i are the earlier directions and mu_b
    is the mean of the smallest b% of the absolute differences between two rows along w. It is found by
    projected gradient steps on the unit sphere from a random start. The pairs are those of a sample, as their
    number grows with the square of the rows.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    share : float, default=0.8
        The paper's b as a share of all pairs, above 0 and at most 1.
    alpha : float, default=5.0
        Penalty on directions that are not orthogonal, in units of the spread of the data (the root of its
        mean variance in a dimension), so that it does not depend on the scale of the data.
    n_samples : int, default=1000
        Pairs are made of at most this many rows, drawn at random.
    n_steps : int, default=40
        Number of gradient steps for each direction.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned.
    random_state : int, RandomState or None, default=0
        Seed of the sample and the starts.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold. Its facts are `rows` and `sampled_rows`.
    components_ : ndarray of shape (m, d), float32
        Directions, of norm 1 each.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        A parameter is out of range.

    References
    ----------
    "MPAD: a new dimension-reduction method for preserving nearest neighbors in high-dimensional vector
    search" (arXiv 2504.16335).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> MPAD(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        share: float = 0.8,
        alpha: float = 5.0,
        n_samples: int = 1000,
        n_steps: int = 40,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.share = share
        self.alpha = alpha
        self.n_samples = n_samples
        self.n_steps = n_steps
        self.metric = metric
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        check_rows_for_components(len(X), n_components)
        check_positive("share", self.share, integer=False)
        if self.share > 1:
            raise ParameterError(f"share={self.share!r} must be at most 1: it is a share of all pairs")
        check_positive("alpha", self.alpha, integer=False, zero=True)
        check_positive("n_samples", self.n_samples)
        check_positive("n_steps", self.n_steps)
        rng = check_random_state(self.random_state)
        drawn = X[rng.choice(len(X), min(len(X), int(self.n_samples)), replace=False)]
        # No direction keeps copies apart.
        sample = without_copies(drawn, n_components + 1).astype(np.float64)
        # Differences of projections don't change when the mean goes, and then they round less.
        sample -= sample.mean(axis=0)
        spread = np.sqrt(np.square(sample).mean())
        if spread > 0:
            sample /= spread
        directions = np.zeros((n_components, X.shape[1]))
        for number in track(range(n_components), "MPAD", n_components, "directions"):
            start = rng.standard_normal(X.shape[1])
            directions[number] = self._direction(sample, directions[:number], start)
        return self._encoder(directions, rows=len(X), sampled_rows=len(sample))

    def _direction(self, sample: Float64, earlier: Float64, start: Float64) -> Float64:
        """Climb from `start` to a direction of large mu_b that is nearly orthogonal to earlier ones."""
        # The penalty alone is least on the earlier ones' complement: start there.
        w = start - earlier.T @ (earlier @ start)
        w /= np.linalg.norm(w)
        step, best, best_w = 0.5, -np.inf, w
        for _ in range(int(self.n_steps)):
            value, slope = mean_of_smallest(sample @ w, self.share)
            overlap = earlier @ w
            value -= self.alpha * float(overlap @ overlap)
            if value > best:
                best, best_w, step = value, w, step * 1.2
                climb = slope @ sample - 2 * self.alpha * (overlap @ earlier)
                climb -= (climb @ w) * w
                length = np.linalg.norm(climb)
                if length <= 1e-12:
                    break
                direction = climb / length
            else:
                step *= 0.5
            w = best_w + step * direction
            w /= np.linalg.norm(w)
        return best_w

    @property
    def _method_name(self) -> str:
        return "mpad"
