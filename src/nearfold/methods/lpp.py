"""Locality preserving projections, which keep the neighbours of a graph together."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse
from sklearn.utils import check_random_state

from nearfold._utils.arrays import (
    Float32,
    Metric,
    check_finite,
    check_positive,
    check_products,
    normalize_rows,
)
from nearfold.errors import DataError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import LinearFold, check_graph_neighbors, check_rows_for_components, sample_rows
from nearfold.scan.copies import without_copies
from nearfold.scan.neighbors import neighbor_graph

__all__ = ["LPP"]

# Added to the normalising matrix, as a share of its mean energy: rows that don't span the space
# would leave it singular.
_RIDGE = 1e-6


class LPP(LinearFold):
    """Keep rows that are joined in a neighbour graph near each other after folding.

    Each direction w minimises sum_ij S_ij (<w, x_i> - <w, x_j>)^2 under the constraint
    sum_i D_ii <w, x_i>^2 = 1. S is the symmetric matrix of the graph, which joins each row with its k nearest
    neighbours, and D is the diagonal matrix of its row sums.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    n_neighbors : int, default=10
        Number k of nearest neighbours that a row is joined with.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        What near means in the graph, and what the folded vectors will be searched with.
    max_rows : int, default=20_000
        The graph joins at most this many rows, drawn at random, as its cost grows with their square.
    random_state : int, RandomState or None, default=0
        Seed of that draw.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold. Its facts are `rows` and `graph_rows`, the number of rows in the graph.
    components_ : ndarray of shape (m, d), float32
        Directions w, the one that keeps neighbours nearest first.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    DataError
        X has zero rows only.
    ParameterError
        A parameter is out of range for so many rows.

    References
    ----------
    He, Niyogi, "Locality preserving projections" (NIPS 2003).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> LPP(n_components=2).fit_transform(X).shape
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
        n_neighbors: int = 10,
        metric: Metric = "cosine",
        max_rows: int = 20_000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.max_rows = max_rows
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        check_rows_for_components(len(X), n_components)
        check_products(X, self.metric, "X")
        check_positive("n_neighbors", self.n_neighbors)
        check_positive("max_rows", self.max_rows)
        rows = len(X)
        if self.metric == "cosine":
            X = normalize_rows(X)
        X = sample_rows(X, self.max_rows, check_random_state(self.random_state))
        check_graph_neighbors(self.n_neighbors, len(X))
        # Copies would join to each other alone.
        X = without_copies(X, max(n_components, int(self.n_neighbors) + 1))
        graph = neighbor_graph(X, self.n_neighbors, self.metric)
        degree = np.asarray(graph.sum(axis=1)).ravel()
        wide = X.astype(np.float64)
        norm = wide.T @ (degree[:, None] * wide)
        tension = norm - wide.T @ (graph @ wide)
        mean_energy = np.trace(norm) / len(norm)
        if mean_energy <= 0:
            raise DataError("X has zero rows only, which have no direction to keep; give other rows")
        norm[np.diag_indices_from(norm)] += _RIDGE * mean_energy
        _, axes = scipy.linalg.eigh(tension, norm, subset_by_index=[0, n_components - 1])
        return self._encoder(axes.T, rows=rows, graph_rows=len(X))

    @property
    def _method_name(self) -> str:
        return "lpp"
