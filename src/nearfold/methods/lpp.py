"""Locality Preserving Projections (He and Niyogi, NIPS 2003)."""

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
    """Keep neighbours of a graph together: min sum_ij S_ij (w x_i - w x_j)^2, w X^T D X w^T = 1.

    S joins each row with its k nearest neighbours, D holds S's row sums.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    n_neighbors
        k of the graph.
    metric
        What near means in the graph, and what the folded vectors will be searched with.
    max_rows
        The graph joins at most this many rows, drawn at random: its cost grows with their square.
    random_state
        Seed of that draw.

    Attributes
    ----------
    encoder_ : Encoder
        Facts: rows, graph_rows.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> LPP(n_components=2).fit_transform(X).shape
    (50, 2)
    """

    @property
    def learns_metric(self) -> bool:
        """True: what near means decides what is learned."""
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
