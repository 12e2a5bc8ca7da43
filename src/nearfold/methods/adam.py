"""Adam in place on one block of memory, for the small matrices that folds are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Adam"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

# Weights that a constant input column leaves to weight decay alone shrink into float32's
# subnormal range, where every product with them is some ten times slower. Below this they
# are zero for all purposes; looking every few steps costs next to nothing.
_NEGLIGIBLE = np.float32(1e-20)
_NEGLIGIBLE_SQUARE = np.float32(1e-30)
_FLUSH_EVERY = 16


class Adam:
    """The optimiser Adam for one array of parameters.

    Write the gradient of the loss into all of `gradient`, then call `step`.

    Parameters
    ----------
    parameters : ndarray of any shape, float32
        Parameters to train, C-contiguous; they are updated in place.
    weight_decay : float, default=0.0
        Coupled weight decay lambda: lambda times the parameters is added to the gradient, as
        `torch.optim.Adam` does.
    scale : float, default=1.0
        Factor that makes `gradient` the gradient of the loss. Constant factors of a loss cost nothing when
        they are given here.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization" (ICLR 2015, arXiv 1412.6980), algorithm 1.
    """

    def __init__(
        self, parameters: npt.NDArray[np.float32], *, weight_decay: float = 0.0, scale: float = 1.0
    ) -> None:
        self.parameters = parameters
        # Both moments in one array, and gradient with its square in another: one call updates
        # both, which counts because a call's overhead is of the size of its work here.
        self._gradients = np.zeros((2, *parameters.shape), np.float32)
        self._moments = np.zeros_like(self._gradients)
        self._decay = np.array([_BETA1, _BETA2], np.float32).reshape(2, *[1] * parameters.ndim)
        self._scratch = np.empty_like(parameters)
        self._weight_decay = np.float32(weight_decay / scale)
        self._scale = scale
        self._steps = 0

    @property
    def gradient(self) -> npt.NDArray[np.float32]:
        """Array that the caller writes the gradient into; `step` adds the weight decay to it."""
        gradient: npt.NDArray[np.float32] = self._gradients[0]
        return gradient

    def step(self, rate: float) -> None:
        """Update the parameters.

        Parameters
        ----------
        rate : float
            Learning rate of this step.
        """
        self._steps += 1
        gradient, square = self._gradients
        first, second = self._moments
        scratch: npt.NDArray[Any] = self._scratch
        if self._weight_decay:
            np.multiply(self.parameters, self._weight_decay, out=scratch)
            gradient += scratch
        np.multiply(gradient, gradient, out=square)
        # The moments are kept without the factors (1 - beta): those join the scalars below.
        self._moments *= self._decay
        self._moments += self._gradients
        spread = self._scale * np.sqrt((1 - _BETA2) / (1 - _BETA2**self._steps))
        pace = rate * self._scale * (1 - _BETA1) / (1 - _BETA1**self._steps)
        np.sqrt(second, out=scratch)
        scratch += np.float32(_EPSILON / spread)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(pace / spread)
        self.parameters -= scratch
        if self._steps % _FLUSH_EVERY == 0:
            for array in (self.parameters, first):
                array[np.abs(array) < _NEGLIGIBLE] = 0
            second[second < _NEGLIGIBLE_SQUARE] = 0
