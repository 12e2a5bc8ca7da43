"""Training on blocks of anchors and neighbours, with its schedule, batches and threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, shared_work
from nearfold.methods.adam import Adam
from nearfold.methods.measured import MeasuredBlocks
from nearfold.methods.objective import gradient, soft_neighbors
from nearfold.scan.scan import Blocks

__all__ = ["Trained", "WeightedBlocks", "batches", "one_cycle", "thread_bounds", "train_on_blocks"]

_PEAK_RATE, _FULL_RATE_LOSS = 4e-3, 4e-3

# Blocks of a step that a thread takes at least: fewer are done sooner than threads have met.
_BLOCKS_A_THREAD = 4


def one_cycle(n_steps: int, peak: float) -> npt.NDArray[np.float64]:
    """Return learning rates that rise from peak / 25 over 30% of the steps and fall to nearly 0.

    Both are along half a cosine.

    Parameters
    ----------
    n_steps : int
        Number of steps.
    peak : float
        Largest rate.

    Returns
    -------
    ndarray of shape (n_steps,), float64

    References
    ----------
    Smith, Topin, "Super-convergence" (arXiv 1708.07120).
    """
    rise = max(1, round(0.3 * n_steps))
    step = np.arange(n_steps)
    up = 0.5 * (1 - np.cos(np.pi * step / rise))
    down = 0.5 * (1 + np.cos(np.pi * (step - rise) / max(1, n_steps - rise)))
    return peak * np.where(step < rise, 0.04 + 0.96 * up, 1e-4 + (1 - 1e-4) * down)


def fitting_rate(loss_before: float) -> float:
    """Return the peak rate for a start of this loss.

    Adam's steps have the rate's length whatever the gradient's, so the noise that they leave in W
    grows with the rate, while what can be gained is bounded by the loss at the start. The square
    root balances both, as was measured on validation rows at 12.5% to 75% of the dimensions.

    Parameters
    ----------
    loss_before : float
        Loss at the start.

    Returns
    -------
    float
        Rate of at most 4e-3.
    """
    return _PEAK_RATE * min(1.0, float(np.sqrt(max(0.0, loss_before) / _FULL_RATE_LOSS)))


class WeightedBlocks(NamedTuple):
    """Blocks of one kind, and the weight of their loss.

    Attributes
    ----------
    blocks : Blocks
        Anchors and neighbours, prepared for the metric.
    weight : float, default=1.0
        Factor of their mean loss in the loss that is trained.
    """

    blocks: Blocks
    weight: float = 1.0


class Trained(NamedTuple):
    """Encoder that training led to.

    Attributes
    ----------
    weight : ndarray of shape (m, d), float32
        The encoder W.
    learning_rate : float
        Peak of the schedule.
    loss_before, loss_after : float
        Losses of the start and of W on a fixed sample of blocks.
    """

    weight: Float32
    learning_rate: float
    loss_before: float
    loss_after: float


def train_on_blocks(
    start: Float32,
    parts: Sequence[WeightedBlocks],
    metric: Metric,
    n_steps: int,
    learning_rate: float | None,
    blocks_per_step: int,
    rng: np.random.Generator,
    widths: Mapping[int, float] | None = None,
) -> Trained:
    """Train an encoder on blocks by Adam.

    Parameters
    ----------
    start : ndarray of shape (m, d), float32
        Initial W, which is not changed.
    parts : sequence of WeightedBlocks
        Blocks of each kind, whose weighted losses are summed.
    metric : {"cosine", "l2", "ip"}
        Metric that the folded vectors will be searched with.
    n_steps : int
        Number of steps.
    learning_rate : float or None
        Peak of the one-cycle schedule; None takes `fitting_rate`.
    blocks_per_step : int
        Number of blocks of each kind in a batch.
    rng : numpy.random.Generator
        Shuffles the blocks.
    widths : mapping of int to float, optional
        The weight of the loss of the first so many rows of W, by their number. By default the loss of all
        of W counts alone.

    Returns
    -------
    Trained
        W is the start where training has not lowered the loss, as can be when nearly nothing was lost there.

    Raises
    ------
    DataError
        The rows of every block are equal, or differ by less than float32 tells.
    """
    samples = []
    for blocks, _ in parts:
        samples.append(MeasuredBlocks(blocks, blocks.index[:: max(1, len(blocks.index) // 256)], metric))
        samples[-1].check_told_apart("to learn")

    def lost(W: Float32) -> float:
        return sum(
            part.weight * share * sample.loss(W[:width])
            for width, share in (widths or {len(W): 1.0}).items()
            for part, sample in zip(parts, samples, strict=True)
        )

    W = np.array(start, np.float32, order="C")
    before = lost(W)
    peak = fitting_rate(before) if learning_rate is None else learning_rate
    rates = one_cycle(n_steps, peak)
    adam = Adam(W)
    orders = [batches(len(part.blocks.index), blocks_per_step, len(rates), rng) for part in parts]
    n_threads = max(len(thread_bounds(order.shape[1])) - 1 for order in orders)
    slopes = np.empty((n_threads, *W.shape), np.float32)
    added = np.empty_like(slopes) if len(parts) > 1 else slopes
    with stage("NearFold", len(rates), "steps") as advance, shared_work(n_threads) as share:
        for step, rate in enumerate(rates):

            def descend(i: int, step: int = step) -> None:
                out, summed = slopes[i], False
                for (blocks, weight), sample, order in zip(parts, samples, orders, strict=True):
                    batch = order.shape[1]
                    mine = order[step, batch * i // n_threads : batch * (i + 1) // n_threads]
                    if not len(mine):
                        continue
                    rows = blocks.vectors[blocks.index[mine]]
                    # A block is met about once: its targets cost no more here than when kept.
                    wanted = soft_neighbors(rows, metric, sample.tau)
                    alone = blocks.foreign
                    gradient(W, rows, wanted, metric, sample.tau, anchors_only=alone, widths=widths, out=out)
                    out *= np.float32(weight * len(mine) / batch)
                    if summed:
                        slopes[i] += out
                    out, summed = added[i], True
                if not summed:
                    slopes[i] = 0

            share(descend)
            slopes.sum(axis=0, out=adam.gradient)
            adam.step(rate)
            advance(1)
    after = lost(W)
    if not after < before:
        return Trained(np.array(start, np.float32), peak, before, before)
    return Trained(W, peak, before, after)


def batches(n_blocks: int, batch: int, n_steps: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which blocks each step takes, by one shuffle of all blocks after another.

    Parameters
    ----------
    n_blocks, batch, n_steps : int
        Number of blocks, of blocks in a step at most, and of steps.
    rng : numpy.random.Generator
        Shuffles the blocks.

    Returns
    -------
    ndarray of shape (n_steps, min(batch, n_blocks)), int64
    """
    batch = min(batch, n_blocks)
    rounds = -(-n_steps * batch // n_blocks)
    order = np.concatenate([rng.permutation(n_blocks) for _ in range(rounds)])
    return order[: n_steps * batch].reshape(n_steps, batch)


def thread_bounds(batch: int) -> list[int]:
    """Return where a batch of blocks is cut into nearly equal shares, one for each thread.

    Parameters
    ----------
    batch : int
        Number of blocks.

    Returns
    -------
    list of int
        Bounds from 0 to `batch`, one more than there are threads.
    """
    n_threads = max(1, min(blas_threads(), batch // _BLOCKS_A_THREAD))
    return [batch * i // n_threads for i in range(n_threads + 1)]
