"""RAE, the Regularized Auto-Encoder (arXiv 2509.25839), by Adam as published or exactly."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from sklearn.utils import check_random_state

from nearfold.arrays import Float32, Metric, check_finite, check_positive
from nearfold.encoder import Encoder
from nearfold.errors import NearfoldWarning, ParameterError
from nearfold.methods.base import LinearFold, check_rows_for_components
from nearfold.methods.rae_adam import cosine_rates, draw_batches, initial_autoencoder, train_autoencoder
from nearfold.methods.rae_exact import exact_path
from nearfold.moments import Moments

__all__ = ["RAE"]


class RAE(LinearFold):
    """Linear autoencoder with Frobenius regularisation; the encoder is kept.

    Parameters
    ----------
    n_components
        Reduced dimensions m < d: a number, or a share such as "25%".
    solver
        "adam": as published, mini-batches and 3,000 steps from a random start.
        "exact": the same objective's global optimum, from second moments.
    weight_decay
        The regularisation lambda, on the scale of the published loss (a mean over elements).
    bias
        Train biases too (adam only): the paper's formula has none, its authors' code has.
    n_steps, batch_size, learning_rate, final_learning_rate
        Of Adam; the rate falls along half a cosine.
    metric
        What the folded vectors will be searched with; noted in the encoder, not used to learn.
    random_state
        Seed of the start and the batches (adam only).

    Attributes
    ----------
    encoder_ : Encoder
        Facts: rows; loss (adam: without penalty, of the last batch; exact: with penalty);
        dead_modes (exact): axes that the penalty has zeroed.

    Warns
    -----
    NearfoldWarning
        The penalty has zeroed some of the m axes (exact).

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
        weight_decay: float = 1e-6,
        bias: bool = False,
        n_steps: int = 3000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-5,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.weight_decay = weight_decay
        self.bias = bias
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.metric = metric
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> Encoder:
        check_positive("weight_decay", self.weight_decay, integer=False, zero=True)
        check_rows_for_components(len(X), n_components)
        if self.solver == "exact":
            return self._learn_exactly(X, n_components)
        if self.solver == "adam":
            return self._learn_by_adam(X, n_components)
        raise ParameterError(f"solver={self.solver!r} is unknown; use 'adam' or 'exact'")

    def _learn_exactly(self, X: Float32, n_components: int) -> Encoder:
        if self.bias:
            raise ParameterError("bias=True needs solver='adam': the closed form has no bias")
        moments = Moments.of(X, products=np.float32)
        (fold,) = exact_path(moments, n_components, [self.weight_decay])
        if fold.dead_modes == n_components:
            raise ParameterError(
                f"weight_decay={self.weight_decay!r} zeroes all {n_components} axes of this data; "
                f"use a smaller one"
            )
        if fold.dead_modes:
            warnings.warn(
                f"weight_decay={self.weight_decay!r} zeroes {fold.dead_modes} of {n_components} axes: "
                f"those reduced dimensions hold nothing; use a smaller one or fewer dimensions",
                NearfoldWarning,
                stacklevel=4,
            )
        return self._encoder(fold.weight, rows=len(X), loss=fold.loss, dead_modes=fold.dead_modes)

    def _learn_by_adam(self, X: Float32, n_components: int) -> Encoder:
        check_finite(X)
        for name in ("n_steps", "batch_size"):
            check_positive(name, getattr(self, name))
        for name in ("learning_rate", "final_learning_rate"):
            check_positive(name, getattr(self, name), integer=False)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        start = initial_autoencoder(X.shape[1], n_components, rng, bias=self.bias)
        batches = draw_batches(len(X), self.batch_size, self.n_steps, rng)
        rates = cosine_rates(self.n_steps, self.learning_rate, self.final_learning_rate)
        trained, loss = train_autoencoder(X, start, batches, rates, self.weight_decay)
        if not np.isfinite(trained.encoder).all():
            raise ParameterError(
                f"training diverged with learning_rate={self.learning_rate!r} on data of norm "
                f"{np.abs(X).max():.3g}; use a smaller rate or scale the data down"
            )
        return self._encoder(trained.encoder, trained.encoder_bias, rows=len(X), loss=loss)

    @property
    def _method_name(self) -> str:
        return "rae-exact" if self.solver == "exact" else "rae"
