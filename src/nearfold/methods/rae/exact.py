"""The global optimum of RAE's objective from second moments, for every regulariser.

For Frobenius (Kunin et al. 2019, arXiv 1901.08168) the published loss, the mean over the d elements
of (W_d W_e x - x)^2 with Adam's coupled weight decay, times d is

    E |W_d W_e x - x|^2 + mu (|W_e|^2 + |W_d|^2),    mu = lambda d / 2.

Its minimum has W_e = diag(s) V^T and W_d = V diag(s) on the first m axes V of the uncentred second
moments E[x x^T]; `regularizers.scales` gives s, for this penalty and for the others that are blind to
rotation. An axis with s = 0 is dead: its row of W_e is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearfold.methods.pca import principal_axes
from nearfold.methods.rae.regularizers import Regularizer, laplacian_optimum, value_of_scales
from nearfold.methods.rae.regularizers import scales as regularizer_scales
from nearfold.methods.rae.regularizers import value as penalty_value
from nearfold.scan.moments import Moments

__all__ = ["ExactFold", "exact_path"]

Float64 = npt.NDArray[np.float64]

# A singular value this far below the largest is the alternation's remnant of a dead axis.
_DEAD = 1e-6


@dataclass(frozen=True, eq=False)
class ExactFold:
    """The optimum for one lambda.

    Parameters
    ----------
    weight_decay : float
        Lambda of the published loss.
    weight : ndarray of shape (m, d), float64
        The encoder W_e.
    scales : ndarray of shape (m,), float64
        Singular values of W_e, the largest first.
    loss : float
        Published loss with its penalty at this optimum.
    """

    weight_decay: float
    weight: Float64
    scales: Float64
    loss: float

    @property
    def dead_modes(self) -> int:
        """Number of the m rows that the penalty has made zero."""
        return int((self.scales == 0).sum())


def exact_path(
    moments: Moments,
    n_components: int,
    weight_decays: Iterable[float],
    regularizer: Regularizer = "frobenius",
    S: Float64 | None = None,
) -> Iterator[ExactFold]:
    """Yield the optimum for each lambda, from one eigendecomposition.

    Parameters
    ----------
    moments : Moments
        Moments of the training rows.
    n_components : int
        Number m of reduced dimensions.
    weight_decays : iterable of float
        Lambdas, each at least 0, and for "laplacian" above 0.
    regularizer : str, default="frobenius"
        Penalty, one of `REGULARIZERS`.
    S : ndarray of shape (d, d), float64, optional
        Second moments of neighbours' differences, which "laplacian" needs.

    Yields
    ------
    ExactFold
    """
    values, axes = principal_axes(moments.uncentered)
    kept, directions = values[:n_components], axes[:n_components]
    d = moments.n_features
    encoder = directions
    for weight_decay in weight_decays:
        mu = weight_decay * d / 2
        if regularizer == "laplacian" and S is not None:
            # The last optimum is the next one's start: along a path of lambdas few steps remain.
            encoder, decoder = laplacian_optimum(moments.uncentered, S, mu, encoder)
            scales: Float64 = np.linalg.svd(encoder, compute_uv=False).astype(np.float64)
            scales[scales <= scales[0] * _DEAD] = 0
            missed = decoder @ encoder - np.eye(d)
            error = float(np.sum(missed @ moments.uncentered * missed))
            penalty = penalty_value(regularizer, encoder, decoder, S)
        else:
            # Along principal axes the loss is a sum over modes: no product of d x d matrices is due.
            scales = regularizer_scales(regularizer, kept, mu)
            encoder = scales[:, None] * directions
            error = float(values.sum() - kept.sum() + (kept * (1 - scales**2) ** 2).sum())
            penalty = value_of_scales(regularizer, scales)
        loss = error + mu * penalty
        yield ExactFold(float(weight_decay), encoder, scales, loss / d)
