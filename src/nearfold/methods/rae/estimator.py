"""RAE (Regularized Auto-Encoder, arXiv 2509.25839), by Adam as published or exactly."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from nearfold._utils.arrays import Float32, Metric, check_finite, check_positive, check_tiny
from nearfold._utils.warned import warn
from nearfold.errors import NearfoldWarning, ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.methods.base import check_rows_for_components
from nearfold.methods.moments import MomentFold
from nearfold.methods.rae.exact import exact_path
from nearfold.methods.rae.gradient import (
    cosine_rates,
    draw_batches,
    initial_autoencoder,
    train_autoencoder,
)
from nearfold.methods.rae.regularizers import Regularizer, check_regularizer, penalty
from nearfold.methods.rae.validation import Validation
from nearfold.scan.moments import Moments, Precision
from nearfold.scan.neighbors import neighbor_differences
from nearfold.scan.scan import ScanSpec

__all__ = ["LAMBDA_GRID", "RAE"]

LAMBDA_GRID = (1e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Lambdas that "auto" and sweeps try; denser where embeddings of norm 1 have their optimum."""


class DeadEncoderError(ParameterError):
    """The penalty has zeroed every axis: nothing would be left of the vectors."""


class RAE(MomentFold):
    """Linear autoencoder with a regularised encoder and decoder; the encoder is kept.

    It minimises the mean over the d elements of (W_d W_e x - x)^2, plus lambda / 2 times a penalty, which as
    published is |W_e|^2 + |W_d|^2 (Frobenius). z = W_e x is the fold.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    solver : {"adam", "exact"}, default="adam"
        "adam" trains as published, by mini-batches from a random start. "exact" computes the global optimum
        of the same objective from second moments, and then has `partial_fit` (but not with "auto" or
        "laplacian", which need the rows).
    weight_decay : float or "auto", default=1e-6
        Regularisation lambda, on the scale of the published loss (a mean over elements). "auto" tries a grid
        from 1e-8 to 1e-1, takes the one of highest recall@10, as `nearfold.evaluate` reports it, on rows held
        back from training, and learns again from all rows.
    regularizer : {"frobenius", "nuclear", "spectral", "orthogonality", "laplacian"}, default="frobenius"
        Penalty; "laplacian" draws neighbours together. See `nearfold.methods.rae.regularizers` for each.
    bias : bool, default=False
        Whether biases are trained too ("adam" only). The paper's formula has none, its authors' code has.
    n_steps : int, default=3000
        Number of steps of Adam.
    batch_size : int, default=128
        Number of rows in a step of Adam.
    learning_rate, final_learning_rate : float, default=1e-3 and 1e-5
        Rates of the first and the last step of Adam, between which the rate falls along half a cosine.
    graph_neighbors : int, default=10
        Number of neighbours of a row in the graph of "laplacian".
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It changes what is learned where neighbours are
        looked for ("auto" and "laplacian"); else it is noted in the encoder alone.
    random_state : int, RandomState or None, default=0
        Seed of the start, of the batches and of the rows held back.

    Attributes
    ----------
    encoder_ : Encoder
        The learned fold. Its facts are `rows`; `weight_decay`, the lambda used; `loss` (of the last batch
        without the penalty for "adam", of all rows with it for "exact"); `dead_modes` ("exact"), the number
        of axes that the penalty has zeroed; and `validation` ("auto"), the recall@10 by lambda.
    components_ : ndarray of shape (m, d), float32
        Weight W_e of the encoder. For "exact" its rows are scaled principal axes, except with "laplacian".
    n_samples_seen_ : int
        Number of rows that `fit`, or all calls of `partial_fit` together, have seen; only where there is
        `partial_fit`.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        A parameter is out of range, training diverges, or the penalty zeroes all axes.
    DataError
        X is so small that its products vanish in float32, or has too few rows for "auto".

    Warns
    -----
    NearfoldWarning
        The penalty has zeroed some of the m axes ("exact").

    References
    ----------
    Zhang, Zhao, "RAE: a neural network dimensionality reduction method for nearest neighbors preservation in
    vector search" (KDD 2026, arXiv 2509.25839).

    Kunin et al., "Loss landscapes of regularized linear autoencoders" (ICML 2019, arXiv 1901.08168), for the
    exact optimum.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 8))
    >>> RAE(n_components=2, solver="exact", weight_decay=1e-3).fit_transform(X).shape
    (50, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        solver: Literal["adam", "exact"] = "adam",
        weight_decay: float | Literal["auto"] = 1e-6,
        regularizer: Regularizer = "frobenius",
        bias: bool = False,
        n_steps: int = 3000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-5,
        graph_neighbors: int = 10,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.weight_decay = weight_decay
        self.regularizer = regularizer
        self.bias = bias
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.graph_neighbors = graph_neighbors
        self.metric = metric
        self.random_state = random_state

    @property
    def learns_metric(self) -> bool:
        """Whether neighbours are looked for, so that `metric` changes what is learned."""
        return self.weight_decay == "auto" or self.regularizer == "laplacian"

    def scan_spec(self, rows: int, n_components: int) -> ScanSpec | None:
        """Return what to scan for, which is moments alone; None where the rows themselves are needed.

        Parameters
        ----------
        rows : int
            Number of rows that will be learned from.
        n_components : int
            Number m of reduced dimensions.

        Returns
        -------
        ScanSpec or None
            None for Adam, `weight_decay="auto"` and `regularizer="laplacian"`.

        Raises
        ------
        ParameterError
            A parameter is out of range for so many rows.
        """
        self._check(rows, n_components)
        return super().scan_spec(rows, n_components) if self._learns_from_moments() else None

    @property
    def _products(self) -> Precision:
        return np.float32

    def _learns_from_moments(self) -> bool:
        return self.solver == "exact" and not self.learns_metric

    def _learn_from_moments(self, moments: Moments, n_components: int) -> Encoder:
        weight_decay = float(self.weight_decay)
        facts = {"rows": moments.count, "weight_decay": weight_decay}
        return self._exact_optimum(moments, n_components, weight_decay, None, facts)

    def _check(self, rows: int, n_components: int) -> None:
        check_regularizer(self.regularizer)
        check_rows_for_components(rows, n_components)
        if self.solver not in ("adam", "exact"):
            raise ParameterError(f"solver={self.solver!r} is unknown; use 'adam' or 'exact'")
        if self.weight_decay != "auto":
            check_positive("weight_decay", self.weight_decay, integer=False, zero=True)

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        self._check(len(X), n_components)
        # The penalty is one of size, whatever the metric: it takes all of vectors that are nothing beside it.
        check_tiny(X, "l2", "X")
        if self._learns_from_moments():
            return self._learn_and_count(Moments.of(X, products=self._products), n_components)
        self._moments = None
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        if self.weight_decay != "auto":
            return self._learn_with(X, n_components, float(self.weight_decay), rng)
        check_finite(X)
        split = Validation.split(X, self.metric, rng)
        check_rows_for_components(len(split.train), n_components)
        seed = int(rng.integers(2**31))
        scored = split.best(
            list(LAMBDA_GRID), lambda rows, value: self._tried(rows, n_components, value, seed)
        )
        if not scored:
            raise ParameterError(
                f"weight_decay='auto' finds no lambda from {LAMBDA_GRID[0]:g} to {LAMBDA_GRID[-1]:g} that "
                f"leaves this data an axis; scale the vectors up"
            )
        best = next(iter(scored))
        chosen = {f"{value:g}": score for value, score in sorted(scored.items())}
        return self._learn_with(X, n_components, best, np.random.default_rng(seed), validation=chosen)

    def _tried(self, X: Float32, n_components: int, weight_decay: float, seed: int) -> Encoder | None:
        """Return the encoder for one lambda, or None where the penalty leaves none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NearfoldWarning)
            try:
                return self._learn_with(X, n_components, weight_decay, np.random.default_rng(seed))
            except DeadEncoderError:
                return None

    def _learn_with(
        self,
        X: Float32,
        n_components: int,
        weight_decay: float,
        rng: np.random.Generator,
        **facts: Any,
    ) -> Encoder:
        facts = {"rows": len(X), "weight_decay": weight_decay, **facts}
        if self.solver == "exact":
            moments = Moments.of(X, products=self._products)
            return self._exact_optimum(moments, n_components, weight_decay, self._differences(X, rng), facts)
        return self._learn_by_adam(X, n_components, weight_decay, rng, facts)

    def _exact_optimum(
        self,
        moments: Moments,
        n_components: int,
        weight_decay: float,
        differences: npt.NDArray[np.float64] | None,
        facts: dict[str, Any],
    ) -> Encoder:
        if self.bias:
            raise ParameterError("bias=True needs solver='adam': the closed form has no bias")
        if differences is not None and weight_decay == 0:
            raise ParameterError("weight_decay=0 leaves regularizer='laplacian' nothing to weigh; raise it")
        (fold,) = exact_path(moments, n_components, [weight_decay], self.regularizer, differences)
        if fold.dead_modes == n_components:
            raise DeadEncoderError(
                f"weight_decay={weight_decay!r} zeroes all {n_components} axes of this data; "
                f"use a smaller one, or multiply all vectors by a constant"
            )
        if fold.dead_modes:
            warn(
                f"weight_decay={weight_decay!r} zeroes {fold.dead_modes} of {n_components} axes: "
                f"those reduced dimensions hold nothing; use a smaller one or fewer dimensions"
            )
        return self._encoder(fold.weight, **facts, loss=fold.loss, dead_modes=fold.dead_modes)

    def _learn_by_adam(
        self,
        X: Float32,
        n_components: int,
        weight_decay: float,
        rng: np.random.Generator,
        facts: dict[str, Any],
    ) -> Encoder:
        check_finite(X)
        for name in ("n_steps", "batch_size"):
            check_positive(name, getattr(self, name))
        for name in ("learning_rate", "final_learning_rate"):
            check_positive(name, getattr(self, name), integer=False)
        start = initial_autoencoder(X.shape[1], n_components, rng, bias=self.bias)
        batches = draw_batches(len(X), self.batch_size, self.n_steps, rng)
        rates = cosine_rates(self.n_steps, self.learning_rate, self.final_learning_rate)
        if self.regularizer == "frobenius":
            trained, loss = train_autoencoder(X, start, batches, rates, weight_decay)
        else:
            name, differences = self.regularizer, self._differences(X, rng)
            trained, loss = train_autoencoder(
                X, start, batches, rates, 0.0, lambda scale: penalty(name, weight_decay / scale, differences)
            )
        if not np.isfinite(trained.encoder).all():
            raise ParameterError(
                f"training diverged with learning_rate={self.learning_rate!r} on data of norm "
                f"{np.abs(X).max():.3g}; use a smaller rate or scale the data down"
            )
        return self._encoder(trained.encoder, trained.encoder_bias, **facts, loss=loss)

    def _differences(self, X: Float32, rng: np.random.Generator) -> npt.NDArray[np.float64] | None:
        """Return the second moments of neighbours' differences, where the regulariser needs them."""
        if self.regularizer != "laplacian":
            return None
        check_positive("graph_neighbors", self.graph_neighbors)
        check_finite(X)
        return neighbor_differences(X, self.graph_neighbors, self.metric, rng)

    @property
    def _method_name(self) -> str:
        return "rae-exact" if self.solver == "exact" else "rae"
