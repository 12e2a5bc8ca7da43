"""RAE with a non-linear encoder, which is a ReLU network beside a linear map, trained by torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from nearfold._utils.arrays import Float32, Metric, check_finite, check_positive
from nearfold._utils.extras import import_extra
from nearfold._utils.progress import track
from nearfold.errors import ParameterError
from nearfold.folds.mlp import MLPEncoder
from nearfold.methods.base import FoldEstimator, check_rows_for_components
from nearfold.methods.rae.gradient import cosine_rates, draw_batches

__all__ = ["MLPRAE"]


class MLPRAE(FoldEstimator):
    """Autoencoder whose encoder and decoder are ReLU networks; the encoder is kept (extra "torch").

    The paper of RAE leaves networks as an open question. Loss, optimiser and schedule are those of `RAE`.
    The fold is applied by numpy: torch is needed to train it only.

    Parameters
    ----------
    n_components : int or str, default="25%"
        Number m of reduced dimensions, below d, or their share such as "25%".
    n_hidden : {1, 2}, default=1
        Number of hidden layers.
    hidden_size : int or None, default=None
        Width of the hidden layers; None takes d.
    residual : bool, default=True
        Whether the network is added to a linear map, at which training starts.
    weight_decay : float, default=1e-6
        Regularisation lambda on all weights, on the scale of the published loss.
    n_steps : int, default=3000
        Number of steps of Adam.
    batch_size : int, default=128
        Number of rows in a step.
    learning_rate, final_learning_rate : float, default=1e-3 and 1e-5
        Rates of the first and the last step, between which the rate falls along half a cosine.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        Metric that the folded vectors will be searched with. It is noted in the encoder and changes nothing
        that is learned.
    random_state : int, RandomState or None, default=0
        Seed of the start and the batches.

    Attributes
    ----------
    encoder_ : MLPEncoder
        The learned fold. Its facts are `rows` and `loss`, that of the last batch without the penalty.
    n_components_ : int
        Number m of reduced dimensions.
    n_features_in_ : int
        Number d of dimensions of the rows.
    feature_names_in_ : ndarray of shape (d,)
        Names of the columns, where X was a data frame whose columns have names.

    Raises
    ------
    ParameterError
        A parameter is out of range, or training diverges.
    MissingExtraError
        torch is not installed.

    References
    ----------
    Zhang, Zhao, "RAE: a neural network dimensionality reduction method for nearest neighbors preservation in
    vector search" (KDD 2026, arXiv 2509.25839).

    Examples
    --------
    >>> import numpy as np
    >>> from nearfold import MLPRAE
    >>> X = np.random.default_rng(0).standard_normal((100, 8))
    >>> MLPRAE(n_components=2, n_steps=10).fit_transform(X).shape  # doctest: +SKIP
    (100, 2)
    """

    def __init__(
        self,
        n_components: int | str = "25%",
        *,
        n_hidden: Literal[1, 2] = 1,
        hidden_size: int | None = None,
        residual: bool = True,
        weight_decay: float = 1e-6,
        n_steps: int = 3000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-5,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_components = n_components
        self.n_hidden = n_hidden
        self.hidden_size = hidden_size
        self.residual = residual
        self.weight_decay = weight_decay
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.metric = metric
        self.random_state = random_state

    def _learn(self, X: Float32, n_components: int) -> MLPEncoder:
        check_finite(X)
        check_rows_for_components(len(X), n_components)
        if self.n_hidden not in (1, 2):
            raise ParameterError(f"n_hidden={self.n_hidden!r} must be 1 or 2")
        hidden = X.shape[1] if self.hidden_size is None else self.hidden_size
        for name, value in (
            ("hidden_size", hidden),
            ("n_steps", self.n_steps),
            ("batch_size", self.batch_size),
        ):
            check_positive(name, value)
        for name in ("learning_rate", "final_learning_rate"):
            check_positive(name, getattr(self, name), integer=False)
        check_positive("weight_decay", self.weight_decay, integer=False, zero=True)
        torch = import_extra("torch", "torch", "method rae-mlp")
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        widths = [int(hidden)] * self.n_hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            encoder = _network(torch, [X.shape[1], *widths, n_components], residual=self.residual)
            decoder = _network(torch, [n_components, *reversed(widths), X.shape[1]], residual=self.residual)
        batches = draw_batches(len(X), self.batch_size, self.n_steps, rng)
        rates = cosine_rates(self.n_steps, self.learning_rate, self.final_learning_rate)
        loss = _train(torch, encoder, decoder, X, batches, rates, self.weight_decay)
        if not np.isfinite(loss):
            raise ParameterError(
                f"training diverged with learning_rate={self.learning_rate!r} on data of size "
                f"{np.abs(X).max():.3g}; use a smaller rate or scale the data down"
            )
        layers = [
            (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            for layer in encoder["layers"]
            if hasattr(layer, "weight")
        ]
        return MLPEncoder(
            layers,
            skip=encoder["skip"].weight.detach().numpy() if self.residual else None,
            metric=self.metric,
            **self._origin(rows=len(X), loss=loss),
        )

    @property
    def _method_name(self) -> str:
        return "rae-mlp"


def _network(torch: Any, widths: list[int], *, residual: bool) -> Any:
    """Return a ReLU network, and the linear map beside it, as modules by name."""
    nn = torch.nn
    layers = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers += [nn.Linear(fan_in, fan_out)] if number == 0 else [nn.ReLU(), nn.Linear(fan_in, fan_out)]
    modules = {"layers": nn.Sequential(*layers)}
    if residual:
        modules["skip"] = nn.Linear(widths[0], widths[-1], bias=False)
        # The network starts as nothing added to the linear map.
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
    return nn.ModuleDict(modules)


def _train(
    torch: Any,
    encoder: Any,
    decoder: Any,
    X: Float32,
    batches: np.ndarray[Any, Any],
    rates: np.ndarray[Any, Any],
    weight_decay: float,
) -> float:
    """Train both networks over `batches` of rows of X and return the last batch's loss."""

    def run(network: Any, rows: Any) -> Any:
        out = network["layers"](rows)
        return out + network["skip"](rows) if "skip" in network else out

    adam = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=rates[0], weight_decay=weight_decay
    )
    loss = None
    steps = zip(batches, rates, strict=True)
    for rows, rate in track(steps, "RAE-MLP", len(rates), "steps"):
        x = torch.from_numpy(X[rows])
        adam.param_groups[0]["lr"] = float(rate)
        adam.zero_grad()
        loss = torch.nn.functional.mse_loss(run(decoder, run(encoder, x)), x)
        loss.backward()
        adam.step()
    return float("nan") if loss is None else float(loss.detach())
