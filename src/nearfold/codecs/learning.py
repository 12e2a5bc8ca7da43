"""Learn a base map, a query map and additive codes together, from neighbourhoods.

The objective is NearFold's (see `nearfold.methods.objective`): in each block of an anchor and its
neighbours, P = softmax(scores in d dimensions / tau); Q is the softmax of what a search would see, the
inner products of query images with decoded base images. The loss is the mean KL(P || Q).

Codes are chosen between steps and held during one, so the loss is differentiable in the query map and
the codebooks. The base map takes the gradient of the decoded vectors as if decoding were the identity
(straight-through estimator; Bengio, Leonard, Courville, arXiv 1308.3432).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import shared_work
from nearfold.codecs.projections import widened
from nearfold.codecs.quantizers.base import CODEWORDS, Codes
from nearfold.codecs.quantizers.codewords import first_codes, groups_of, home_slices, refine
from nearfold.codecs.quantizers.product import centroids_of
from nearfold.codecs.rotations import balanced_rotation
from nearfold.methods.adam import Adam
from nearfold.methods.objective import check_told_apart, score_spread, soft_neighbors, softened
from nearfold.methods.training import batches, one_cycle, thread_bounds
from nearfold.scan.scan import Blocks

__all__ = ["CodeLearning", "LearnedCodes", "learn_codes"]

# Codebooks of a group: choosing codes costs their number times the group's dimensions.
_BOOKS_A_GROUP = 24


@dataclass(frozen=True)
class CodeLearning:
    """How codes are learned.

    Parameters
    ----------
    n_steps : int, default=150
        Steps of Adam.
    blocks_per_step : int, default=64
        How many blocks each step sees.
    map_rate, codebook_rate : float, default=1e-4 and 3e-4
        The highest rates of the one-cycle schedules, for vectors of norm 1.
    """

    n_steps: int = 150
    blocks_per_step: int = 64
    map_rate: float = 1e-4
    codebook_rate: float = 3e-4


class LearnedCodes(NamedTuple):
    """What `learn_codes` returns.

    Parameters
    ----------
    base_weight, query_weight : ndarray of shape (m, d), float32
        The maps of base vectors and of queries.
    codebooks : ndarray of shape (groups, books, 256, width / groups), float32
        The codewords.
    width : int
        The dimensions that are coded: at least m, and m + 1 for l2.
    constant : float
        What stands in the dimension for norms on the side of queries.
    """

    base_weight: Float32
    query_weight: Float32
    codebooks: Float32
    width: int
    constant: float


class _Gradients(NamedTuple):
    """The gradients of query map, base map and codebooks by one thread, and the codes that it chose."""

    query: Float32
    base: Float32
    codebooks: Float32
    rows: npt.NDArray[np.int64]
    codes: Codes


def learn_codes(
    start: Float32,
    blocks: Blocks,
    metric: Metric,
    n_bytes: int,
    seed: int,
    how: CodeLearning | None = None,
) -> LearnedCodes:
    """Learn codes of `n_bytes` behind a linear fold.

    Parameters
    ----------
    start : ndarray of shape (m, d), float32
        The weight W of the fold.
    blocks : Blocks
        Anchors and neighbours, prepared for the metric; at least 256 rows.
    metric : {"cosine", "l2", "ip"}
        The metric that will be searched with.
    n_bytes : int
        The bytes of a code; at most the dimensions.
    seed : int
        The seed of batches and k-means.
    how : CodeLearning, optional
        Steps and rates; None for the defaults.

    Raises
    ------
    DataError
        All neighbours are equal.
    """
    how = CodeLearning() if how is None else how
    vectors = blocks.vectors
    # Rates are for vectors of norm 1; dividing both projection by a constant can't change an order.
    unit = np.float32(1)
    if metric != "cosine":
        unit = np.float32(1 / max(float(np.linalg.norm(vectors, axis=1).mean(dtype=np.float64)), 1e-30))
        vectors = vectors * unit
    trainer = _Trainer(start, Blocks(vectors, blocks.index, blocks.foreign), metric, n_bytes, seed)
    trainer.train(how, seed)
    return LearnedCodes(
        trainer.base * unit, trainer.query * unit, trainer.codebooks, trainer.width, trainer.constant
    )


class _Trainer:
    """The maps and codebooks while they are trained."""

    def __init__(self, start: Float32, blocks: Blocks, metric: Metric, n_bytes: int, seed: int) -> None:
        self._blocks, self._metric = blocks, metric
        vectors = blocks.vectors
        mapped = vectors @ start.T
        scale = 1.0
        if metric == "cosine":
            # Base images start at norm 1 on average, as codes of directions.
            scale = float(np.mean(1 / np.maximum(np.linalg.norm(mapped, axis=1), 1e-6)))
        groups = _group_count(n_bytes)
        m = len(start)
        least = m + (metric == "l2")
        self.width = -(-least // groups) * groups
        # A unit of the dimension that stands for norms weighs what one of a query's others does.
        self.constant = float(1 / np.sqrt(m))
        rotation = balanced_rotation(mapped, _home_sizes(groups, n_bytes // groups, self.width, m))
        self.query = np.ascontiguousarray(rotation @ start)
        self.base = np.ascontiguousarray(self.query * np.float32(scale))
        images = self.images(vectors)
        self.codebooks = _first_codebooks(images, groups, n_bytes // groups, seed)
        self._codes = np.empty((len(vectors), n_bytes), np.uint8)
        for dims, books, codebooks in groups_of(self.codebooks):
            self._codes[:, books] = first_codes(np.ascontiguousarray(images[:, dims]), codebooks)

    def images(self, vectors: Float32) -> Float32:
        """Return base images, shape (n, width)."""
        return widened(vectors @ self.base.T, self._metric, self.width, self.constant, base=True)

    def train(self, how: CodeLearning, seed: int) -> None:
        """Take the steps of Adam."""
        vectors, index = self._blocks.vectors, self._blocks.index
        sample = vectors[index[:: max(1, len(index) // 256)]]
        tau = score_spread(sample, self._metric)
        check_told_apart(sample, tau, "to learn codes from (SQ8 learns none)")
        optimizers = Adam(self.query), Adam(self.base), Adam(self.codebooks)
        peaks = how.map_rate, how.map_rate, how.codebook_rate
        order = batches(len(index), how.blocks_per_step, how.n_steps, np.random.default_rng(seed))
        batch = order.shape[1]
        bounds = thread_bounds(batch)
        n_threads = len(bounds) - 1
        found: list[_Gradients | None] = [None] * n_threads
        schedule = one_cycle(len(order), 1.0)
        with stage("codes", len(order), "steps") as advance, shared_work(n_threads) as share:
            for chosen, rate in zip(order, schedule, strict=True):

                def descend(i: int, chosen: npt.NDArray[np.int64] = chosen) -> None:
                    mine = index[chosen[bounds[i] : bounds[i + 1]]]
                    found[i] = self._gradients(mine, tau, batch)

                share(descend)
                parts = [part for part in found if part is not None]
                for part in parts:
                    self._codes[part.rows] = part.codes
                for which, (adam, peak) in enumerate(zip(optimizers, peaks, strict=True)):
                    np.sum([part[which] for part in parts], axis=0, out=adam.gradient)
                    adam.step(rate * peak)
                advance(1)

    def _gradients(self, index: npt.NDArray[np.int64], tau: float, batch: int) -> _Gradients:
        """Return the gradients of the loss over b blocks of a batch, given by their rows (b, N)."""
        b, n = index.shape
        foreign = self._blocks.foreign
        rows, place = np.unique(index, return_inverse=True)
        place = place.reshape(-1)
        vectors = self._blocks.vectors[rows]
        inside = vectors[place]
        wanted = soft_neighbors(inside.reshape(b, n, -1), self._metric, tau)
        projected = inside @ self.query.T
        m = projected.shape[1]
        norms = None
        if self._metric == "cosine":
            norms = np.linalg.norm(projected, axis=1, keepdims=True) + np.float32(1e-20)
            projected /= norms
        # Equal rows are encoded once.
        images = self.images(vectors)
        codes = self._codes[rows]
        for dims, books, codebooks in groups_of(self.codebooks):
            own, chosen = np.ascontiguousarray(images[:, dims]), np.ascontiguousarray(codes[:, books])
            images[:, dims] -= refine(own, codebooks, chosen, 1)
            codes[:, books] = chosen
        decoded = images[place].reshape(b, n, -1)
        questions = projected.reshape(b, n, m)
        scores = np.matmul(questions, decoded[:, :, :m].transpose(0, 2, 1))
        if self._metric == "l2":
            scores += np.float32(self.constant) * decoded[:, None, :, m]
        slope = softened(scores, tau)
        slope -= wanted
        slope *= np.float32(1 / (tau * batch * (1 if foreign else n)))
        if foreign:
            slope[:, 1:] = 0
        d_queries = np.matmul(slope, decoded[:, :, :m]).reshape(b * n, m)
        if norms is not None:
            d_queries -= projected * np.einsum("ij,ij->i", d_queries, projected)[:, None]
            d_queries /= norms
        d_decoded = np.zeros((b * n, self.width), np.float32)
        d_decoded[:, :m] = np.matmul(slope.transpose(0, 2, 1), questions).reshape(b * n, m)
        if self._metric == "l2":
            d_decoded[:, m] = np.float32(self.constant) * slope.sum(axis=1).ravel()
        ones = np.ones(b * n, np.float32)
        sums = scipy.sparse.csr_array((ones, place, np.arange(b * n + 1)), shape=(b * n, len(rows)))
        d_rows = sums.T @ d_decoded
        d_codebooks = np.empty_like(self.codebooks)
        for g, (dims, books, codebooks) in enumerate(groups_of(self.codebooks)):
            d_codebooks[g] = _by_codeword(codes[:, books], d_rows[:, dims]).reshape(codebooks.shape)
        d_mapped = d_rows[:, :m]
        if self._metric == "l2":
            mapped = vectors @ self.base.T
            d_mapped = d_mapped - mapped * (d_rows[:, m : m + 1] / np.float32(self.constant))
        return _Gradients(d_queries.T @ inside, d_mapped.T @ vectors, d_codebooks, rows, codes)


def _by_codeword(codes: Codes, slopes: Float32) -> Float32:
    """Return the sums of slopes (n, s) over the rows that have each codeword: shape (M 256, s)."""
    n, books = codes.shape
    columns = codes.astype(np.int32) + CODEWORDS * np.arange(books, dtype=np.int32)
    has = scipy.sparse.csr_array(
        (np.ones(n * books, np.float32), columns.ravel(), books * np.arange(n + 1)),
        shape=(n, books * CODEWORDS),
    )
    sums: Float32 = has.T @ np.ascontiguousarray(slopes)
    return sums


def _group_count(n_bytes: int) -> int:
    """Return how many groups of dimensions codes of so many bytes are made in: a divisor."""
    wanted = max(1, round(n_bytes / _BOOKS_A_GROUP))
    return next(groups for groups in range(wanted, 0, -1) if n_bytes % groups == 0)


def _home_sizes(groups: int, books: int, width: int, m: int) -> list[int]:
    """Return how many of the m mapped dimensions each codebook has at the start; those behind are others."""
    sizes, left = [], m
    for _ in range(groups):
        for home in home_slices(books, width // groups):
            sizes.append(min(home.stop - home.start, left))
            left -= sizes[-1]
    return sizes


def _first_codebooks(images: Float32, groups: int, books: int, seed: int) -> Float32:
    """Return product quantisation of images (n, w) as additive codebooks (groups, books, 256, w / groups)."""
    each = images.shape[1] // groups
    codebooks = np.zeros((groups, books, CODEWORDS, each), np.float32)
    with stage("codebooks", groups * books, "codebooks") as advance:
        for g in range(groups):
            for j, home in enumerate(home_slices(books, each)):
                own = images[:, g * each : (g + 1) * each][:, home]
                codebooks[g, j, :, home] = centroids_of(own, seed + g * books + j)
                advance(1)
    return codebooks
