"""Descent on NearFold's objective for codes: the map of queries, and what codes stand for.

In each block of an anchor and its neighbours, P = softmax(scores in d dimensions / tau); Q is the softmax of
what a search would see, the scores of query images with decoded base images. The loss is the mean KL(P || Q);
see `nearfold.methods.objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import shared_work
from nearfold.methods.adam import Adam
from nearfold.methods.objective import check_told_apart, score_spread, soft_neighbors, softened
from nearfold.methods.training import WeightedBlocks, batches, one_cycle, thread_bounds
from nearfold.scan.scan import Blocks

__all__ = ["CodeGradients", "block_spread", "code_gradients", "descents", "unit_factor"]

Part = TypeVar("Part", bound=tuple[Any, ...])


class CodeGradients(NamedTuple):
    """The gradients of the loss over some blocks.

    Attributes
    ----------
    query : ndarray of shape (m, d), float32
        Gradient of the map of queries.
    meant : ndarray of shape (b * N, m), float32
        Gradient of what the code of each row of the blocks stands for.
    """

    query: Float32
    meant: Float32


def unit_factor(vectors: Float32) -> np.float32:
    """Return what vectors (n, s) are multiplied by to have norm 1 on average."""
    return np.float32(1 / max(float(np.linalg.norm(vectors, axis=1).mean(dtype=np.float64)), 1e-30))


def block_spread(blocks: Blocks, metric: Metric, unit: np.float32) -> float:
    """Return tau for blocks whose vectors are multiplied by `unit`.

    Raises
    ------
    DataError
        The rows of every block are equal, or differ by less than float32 tells.
    """
    sample = blocks.vectors[blocks.index[:: max(1, len(blocks.index) // 256)]] * unit
    tau = score_spread(sample, metric)
    check_told_apart(sample, tau, "to learn codes from (SQ8 learns none)")
    return tau


def code_gradients(
    query: Float32,
    inside: Float32,
    meant: Float32,
    metric: Metric,
    tau: float,
    batch: float,
    *,
    foreign: bool,
) -> CodeGradients:
    """Return the gradients of the loss over some blocks of a batch.

    Parameters
    ----------
    query : ndarray of shape (m, d), float32
        The map of queries.
    inside : ndarray of shape (b, N, d), float32
        The rows of the blocks, each of which is a query too.
    meant : ndarray of shape (b, N, m), float32
        What their codes stand for.
    metric : {"cosine", "l2", "ip"}
        The metric that will be searched with.
    tau : float
        Temperature, above 0.
    batch : float
        Number of blocks of the whole batch, divided by the weight of their loss.
    foreign : bool
        Whether the first row of each block alone is a query.

    Returns
    -------
    CodeGradients
    """
    b, n, d = inside.shape
    wanted = soft_neighbors(inside, metric, tau)
    projected = inside.reshape(b * n, d) @ query.T
    norms = None
    if metric == "cosine":
        norms = np.linalg.norm(projected, axis=1, keepdims=True) + np.float32(1e-20)
        projected /= norms
    questions = projected.reshape(b, n, -1)
    scores = np.matmul(questions, meant.transpose(0, 2, 1))
    if metric == "l2":
        scores -= 0.5 * np.einsum("bij,bij->bi", meant, meant)[:, None]
    slope = softened(scores, tau)
    slope -= wanted
    slope *= np.float32(1 / (tau * batch * (1 if foreign else n)))
    if foreign:
        slope[:, 1:] = 0
    d_queries = np.matmul(slope, meant).reshape(b * n, -1)
    if norms is not None:
        d_queries -= projected * np.einsum("ij,ij->i", d_queries, projected)[:, None]
        d_queries /= norms
    d_meant = np.matmul(slope.transpose(0, 2, 1), questions)
    if metric == "l2":
        d_meant -= slope.sum(axis=1)[:, :, None] * meant
    return CodeGradients(d_queries.T @ inside.reshape(b * n, d), d_meant.reshape(b * n, -1))


def descents(
    optimizers: Sequence[tuple[Adam, float]],
    parts: Sequence[WeightedBlocks],
    gradients: Sequence[Callable[[Blocks, float], Part]],
    blocks_per_step: int,
    n_steps: int,
    seed: int,
) -> Iterator[list[list[Part]]]:
    """Take steps of Adam on batches of blocks, and yield after each what its threads have returned.

    Parameters
    ----------
    optimizers : sequence of (Adam, float)
        The optimisers, each with the highest rate of its one-cycle schedule.
    parts : sequence of WeightedBlocks
        Blocks of each kind, whose weighted losses are summed.
    gradients : sequence of callable
        One for each kind. Called in threads with some blocks of a batch and the number of blocks in all of
        it, divided by their weight; returns a tuple that begins with one gradient for each optimiser.
    blocks_per_step, n_steps : int
        Number of blocks of each kind in a batch, and of steps.
    seed : int
        Seed of the batches.

    Yields
    ------
    list of list of tuple
        What each thread has returned, for each kind of blocks.
    """
    rng = np.random.default_rng(seed)
    orders = [batches(len(part.blocks.index), blocks_per_step, n_steps, rng) for part in parts]
    bounds = [thread_bounds(order.shape[1]) for order in orders]
    n_threads = max(map(len, bounds)) - 1
    found: list[list[Any]] = [[None] * (len(own) - 1) for own in bounds]
    with stage("codes", n_steps, "steps") as advance, shared_work(n_threads) as share:
        for step, rate in enumerate(one_cycle(n_steps, 1.0)):

            def descend(i: int, step: int = step) -> None:
                for part, order, own, seek, into in zip(parts, orders, bounds, gradients, found, strict=True):
                    if i + 1 < len(own):
                        mine = part.blocks.index[order[step, own[i] : own[i + 1]]]
                        some = Blocks(part.blocks.vectors, mine, part.blocks.foreign)
                        into[i] = seek(some, order.shape[1] / part.weight)

            share(descend)
            for which, (adam, peak) in enumerate(optimizers):
                np.sum([each[which] for into in found for each in into], axis=0, out=adam.gradient)
                adam.step(rate * peak)
            yield [list(into) for into in found]
            advance(1)
