"""The global optimum of RAE's objective in closed form (Kunin et al. 2019, arXiv 1901.08168).

Published loss: the mean over the d elements of (W_d W_e x - x)^2, with Adam's coupled weight
decay, which is the penalty (lambda / 2)(|W_e|^2 + |W_d|^2). Times d this is

    E |W_d W_e x - x|^2 + mu (|W_e|^2 + |W_d|^2),    mu = lambda d / 2.

Its minimum has W_e = diag(s) V^T and W_d = V diag(s) on the first m axes V of the uncentred
second moments E[x x^T]. For an axis of energy c the cost is c (1 - s^2)^2 + 2 mu s^2, least at
s^2 = max(0, 1 - mu / c): an axis with c <= mu is dead, its row of W_e is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearfold.methods.pca import principal_axes
from nearfold.moments import Moments

__all__ = ["ExactFold", "exact_path"]

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExactFold:
    """The optimum for one lambda.

    Parameters
    ----------
    weight_decay
        The lambda of the published loss.
    weight
        W_e, shape (m, d), float64; the decoder is its transpose.
    scales
        s, shape (m,): the singular values of W_e, largest first.
    loss
        The published loss with its penalty, at this optimum.
    """

    weight_decay: float
    weight: Float64
    scales: Float64
    loss: float

    @property
    def dead_modes(self) -> int:
        """How many of the m rows the penalty has made zero."""
        return int((self.scales == 0).sum())


def exact_path(moments: Moments, n_components: int, weight_decays: Iterable[float]) -> Iterator[ExactFold]:
    """Yield the optimum for each lambda, from one eigendecomposition.

    Parameters
    ----------
    moments
        Of the training rows.
    n_components
        m.
    weight_decays
        The lambdas, each at least 0.
    """
    values, axes = principal_axes(moments.uncentered)
    kept, directions = values[:n_components], axes[:n_components]
    d = moments.n_features
    for weight_decay in weight_decays:
        mu = weight_decay * d / 2
        # An axis without energy is dead at any lambda, 0 included: 0 / 0 never arises.
        shrinkage = np.divide(mu, kept, out=np.ones_like(kept), where=kept > 0)
        scales = np.sqrt(np.maximum(0.0, 1.0 - shrinkage))
        residual = values.sum() - kept.sum() + (kept * (1 - scales**2) ** 2).sum()
        loss = (residual + 2 * mu * (scales**2).sum()) / d
        yield ExactFold(float(weight_decay), scales[:, None] * directions, scales, float(loss))
