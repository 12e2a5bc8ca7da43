"""Blocks that a loss is measured on, gathered a few at a time as all of them are larger than the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric
from nearfold.methods.objective import (
    block_scores,
    check_told_apart,
    distinguishes,
    loss,
    softened,
    spread_of,
)
from nearfold.scan.scan import Blocks

__all__ = ["AT_ONCE", "MeasuredBlocks"]

AT_ONCE = 16
"""Number of blocks gathered at a time, which is enough for a product to run at full speed."""


class MeasuredBlocks:
    """Some of the blocks, with the softmax of their scores that a loss is measured against.

    Parameters
    ----------
    blocks : Blocks
        All blocks.
    index : ndarray of shape (b, N), int64
        Row numbers of the blocks to measure.
    metric : {"cosine", "l2", "ip"}
        What near means.

    Attributes
    ----------
    tau : float
        Spread of the scores.
    """

    def __init__(self, blocks: Blocks, index: npt.NDArray[np.int64], metric: Metric) -> None:
        self._blocks, self._index, self._metric = blocks, index, metric
        scores = np.concatenate([block_scores(rows, metric) for _, rows in self._pieces()])
        self.tau = spread_of(scores)
        self._targets = softened(scores, self.tau) if self.distinguished() else scores

    def _pieces(self) -> Iterator[tuple[slice, Float32]]:
        for start in range(0, len(self._index), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            yield part, self._blocks.vectors[self._index[part]]

    def distinguished(self) -> bool:
        """Return whether the scores differ by more than rounding."""
        return all(distinguishes(rows, self.tau) for _, rows in self._pieces())

    def check_told_apart(self, purpose: str) -> None:
        """Refuse blocks whose rows float32 doesn't tell apart; see `objective.check_told_apart`.

        Parameters
        ----------
        purpose : str
            End of the sentence "there is nothing ...", such as "to learn".

        Raises
        ------
        DataError
            No row of a block can be told from another.
        """
        # The largest vectors decide what rounding is.
        largest = max((rows for _, rows in self._pieces()), key=lambda rows: float(np.abs(rows).max()))
        check_told_apart(largest, self.tau, purpose)

    def loss(self, W: Float32) -> float:
        """Return the mean loss of an encoder over the blocks; see `objective.loss`.

        Parameters
        ----------
        W : ndarray of shape (m, d), float32
            The encoder.

        Returns
        -------
        float
        """
        total = 0.0
        for part, rows in self._pieces():
            targets = self._targets[part]
            mean = loss(W, rows, targets, self._metric, self.tau, anchors_only=self._blocks.foreign)
            total += len(rows) * mean
        return total / len(self._index)
