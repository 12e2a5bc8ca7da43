"""UMAP and Isomap, which are manifold methods by the libraries that have them, as baselines.

Neither is a map that can be written down: new rows are placed by the fitted model, which keeps its
training rows. Such a fold can be evaluated and applied, but not saved: only a pickle could hold it, and
nearfold reads none. Nearness after folding means Euclidean distance, whatever it meant before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.manifold import Isomap as SklearnIsomap
from sklearn.utils import check_random_state

from nearfold._utils.arrays import (
    Float32,
    Metric,
    check_directions,
    check_finite,
    check_positive,
    normalize_rows,
)
from nearfold._utils.extras import import_extra
from nearfold._utils.warned import warn
from nearfold.errors import ParameterError
from nearfold.folds.fold import Fold
from nearfold.methods.base import FoldEstimator, check_graph_neighbors, check_rows_for_components, sample_rows
from nearfold.scan.copies import distinct_rows

__all__ = ["UMAP", "Isomap", "ManifoldFold"]

Place = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


class ManifoldFold(Fold):
    """A fold that only its fitted model can apply.

    Parameters
    ----------
    place : callable
        Fitted model's `transform`, which maps an array of shape (n, d) to one of shape (n, m).
    shape : tuple of int
        The numbers m and d of dimensions.
    normalizes : bool
        Whether rows are scaled to norm 1 first, as cosine compares them.
    method, parameters, facts : str, dict and dict
        Origin of the fold; see `Encoder`.
    """

    format_name = "unsaved"

    def __init__(
        self,
        place: Place,
        shape: tuple[int, int],
        *,
        normalizes: bool,
        method: str,
        parameters: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        self.metric: Metric = "l2"
        self.method, self.parameters, self.facts = method, parameters, facts
        self._place, self._shape, self._normalizes = place, shape, normalizes
        self._freeze_origin()

    def __reduce__(self) -> tuple[Any, ...]:
        origin = {"method": self.method, "parameters": dict(self.parameters), "facts": dict(self.facts)}
        return _rebuilt, (self._place, self._shape, self._normalizes, origin)

    @property
    def n_components(self) -> int:
        """The number m of reduced dimensions."""
        return self._shape[0]

    @property
    def n_features(self) -> int:
        """The number d of dimensions that it takes."""
        return self._shape[1]

    def _apply(self, vectors: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        # These libraries refuse NaN in words of their own; ours name the row.
        check_finite(vectors)
        out[...] = self._place(_scaled(vectors, self._normalizes))

    def tensors(self) -> dict[str, Float32]:
        """Refuse to return weights, as there are none.

        Raises
        ------
        ParameterError
            Always.
        """
        raise ParameterError(
            f"a fold by {self.method} can't be saved: it is its fitted model, which only a pickle could "
            f"hold; use a linear method, or mds"
        )


def _rebuilt(place: Place, shape: tuple[int, int], normalizes: bool, origin: dict[str, Any]) -> ManifoldFold:
    return ManifoldFold(place, shape, normalizes=normalizes, **origin)


def _scaled(X: npt.NDArray[Any], normalizes: bool) -> npt.NDArray[Any]:
    return normalize_rows(X.astype(np.float32, copy=False)) if normalizes else X


class _Manifold(FoldEstimator):
    """Base of both: it chooses the rows to learn from, and passes on the library's warnings as its own."""

    @property
    def learns_metric(self) -> bool:
        """Whether `metric` changes what is learned: always, as it decides which rows are neighbours."""
        return True

    n_neighbors: int
    max_rows: int
    random_state: int | np.random.RandomState | None

    def _learn(self, X: Float32, n_components: int) -> ManifoldFold:
        check_finite(X)
        for name in ("n_neighbors", "max_rows"):
            check_positive(name, getattr(self, name))
        rows = len(X)
        rng = check_random_state(self.random_state)
        if self.metric == "cosine":
            # Before rows of a sample are numbered in its own way.
            check_directions(X, "X")
        X = sample_rows(X, self.max_rows, rng)
        check_rows_for_components(len(X) - 1, n_components)
        check_graph_neighbors(self.n_neighbors, len(X))
        normalizes = self.metric == "cosine"
        once = distinct_rows(_scaled(X, normalizes))
        if len(once) > max(n_components, int(self.n_neighbors)):
            # Copies would join to each other alone.
            X = X[once]
        model = self._model(n_components, rng.randint(2**31))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(_scaled(X, normalizes))
        if caught:
            warn(f"{self._method_name}: {str(caught[0].message).splitlines()[0]}")
        return ManifoldFold(
            model.transform,
            (n_components, X.shape[1]),
            normalizes=normalizes,
            **self._origin(
                rows=rows,
                graph_rows=len(X),
                fitted_for=self.metric,
                new_rows="placed by the fitted model beside the rows it learned from",
            ),
        )

    def _model(self, n_components: int, seed: int) -> Any:
        raise NotImplementedError


class Isomap(_Manifold):
    """Keep distances along a neighbour graph, by scikit-learn.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    n_neighbors : int, default=10
        Number of neighbours that a row is joined with.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        What near means before folding; "cosine" scales rows to norm 1 first. The graph is Euclidean.
    max_rows : int, default=5000
        At most this many rows, drawn at random, are learned from, as the cost grows with their square.
    random_state : int, RandomState or None, default=0
        Seed of that draw.

    Attributes
    ----------
    encoder_ : ManifoldFold
        The fold, to be searched with Euclidean distance. Its facts are `rows`, `graph_rows`, `fitted_for`
        (`metric`) and `new_rows`.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        A parameter is out of range for so many rows.

    Warns
    -----
    NearfoldWarning
        scikit-learn warns, such as of a graph in several pieces.

    References
    ----------
    Tenenbaum, de Silva, Langford, "A global geometric framework for nonlinear dimensionality reduction"
    (Science 2000).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> Isomap(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        n_neighbors: int = 10,
        metric: Metric = "cosine",
        max_rows: int = 5000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.max_rows = max_rows
        self.random_state = random_state

    def _model(self, n_components: int, seed: int) -> Any:  # noqa: ARG002
        # Dense: asked for many components, the iterative solver is slower and draws its own start.
        return SklearnIsomap(n_neighbors=self.n_neighbors, n_components=n_components, eigen_solver="dense")

    @property
    def _method_name(self) -> str:
        return "isomap"


class UMAP(_Manifold):
    """Keep a fuzzy neighbour graph, by umap-learn (extra "manifold").

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    n_neighbors : int, default=5
        Number of neighbours that a row is joined with.
    min_dist : float, default=0.2
        Distance that points keep from each other after folding.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        What near means before folding; "cosine" scales rows to norm 1 first. The graph is Euclidean.
    max_rows : int, default=50_000
        At most this many rows, drawn at random, are learned from.
    random_state : int, RandomState or None, default=0
        Seed of that draw and of umap-learn, which uses one thread for the same result each time.

    Attributes
    ----------
    encoder_ : ManifoldFold
        The fold, to be searched with Euclidean distance. Its facts are `rows`, `graph_rows`, `fitted_for`
        (`metric`) and `new_rows`.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        A parameter is out of range for so many rows.
    MissingExtraError
        umap-learn is not installed.

    Warns
    -----
    NearfoldWarning
        umap-learn warns.

    References
    ----------
    McInnes, Healy, Melville, "UMAP: uniform manifold approximation and projection for dimension reduction"
    (arXiv 1802.03426).

    Examples
    --------
    >>> import numpy as np
    >>> from nearfold import UMAP
    >>> X = np.random.default_rng(0).standard_normal((100, 8))
    >>> UMAP(n_components=2).fit_transform(X).shape  # doctest: +SKIP
    (100, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        n_neighbors: int = 5,
        min_dist: float = 0.2,
        metric: Metric = "cosine",
        max_rows: int = 50_000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.min_dist = min_dist
        self.metric = metric
        self.max_rows = max_rows
        self.random_state = random_state

    def _model(self, n_components: int, seed: int) -> Any:
        check_positive("min_dist", self.min_dist, integer=False, zero=True)
        umap = import_extra("umap", "manifold", "method umap")
        return umap.UMAP(
            n_components=n_components,
            n_neighbors=self.n_neighbors,
            min_dist=self.min_dist,
            random_state=seed,
            n_jobs=1,
        )

    @property
    def _method_name(self) -> str:
        return "umap"
