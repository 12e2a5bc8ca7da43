"""Learn a query map and additive codes together, from neighbourhoods.

Base vectors are mapped by the fold, rotated. Codebooks start as product codes of the images, then fit these
by least squares (`nearfold.codecs.least_squares`), then are trained with the query map by NearFold's
objective (see `nearfold.methods.objective`): in each block of an anchor and its neighbours,
P = softmax(scores in d dimensions / tau); Q is the softmax of what a search would see, the scores of query
images with decoded base images. The loss is the mean KL(P || Q).

Codes are chosen between steps and held during one, so the loss is differentiable in the query map and
the codebooks. Training the base map too, by straight-through gradients, keeps no more neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, in_order, shared_work
from nearfold.codecs.least_squares import codeword_sums, fitted_codebooks
from nearfold.codecs.quantizers.base import CODEWORDS, Codes
from nearfold.codecs.quantizers.codewords import (
    CodebookGroup,
    decoded,
    first_codes,
    groups_of,
    home_slices,
    refine,
)
from nearfold.codecs.quantizers.product import centroids_of
from nearfold.codecs.rotations import balanced_rotation
from nearfold.methods.adam import Adam
from nearfold.methods.objective import check_told_apart, score_spread, soft_neighbors, softened
from nearfold.methods.training import batches, one_cycle, thread_bounds
from nearfold.scan.scan import Blocks

__all__ = ["CodeLearning", "LearnedCodes", "learn_codes"]

# Codebooks of a group: choosing codes costs their number times the group's dimensions.
_BOOKS_A_GROUP = 24

_ROWS = 1024


@dataclass(frozen=True)
class CodeLearning:
    """How codes are learned.

    Parameters
    ----------
    n_rounds : int, default=4
        Rounds of least squares, with codes chosen anew after each.
    prior : float, default=128.0
        As how many rows a codeword counts in least squares as it was before.
    n_steps : int, default=300
        Steps of Adam.
    blocks_per_step : int, default=64
        How many blocks each step sees.
    query_rate, codebook_rate : float, default=5e-4 and 1e-4
        The highest rates of the one-cycle schedules, for vectors of norm 1.
    """

    n_rounds: int = 4
    prior: float = 128.0
    n_steps: int = 300
    blocks_per_step: int = 64
    query_rate: float = 5e-4
    codebook_rate: float = 1e-4


class LearnedCodes(NamedTuple):
    """What `learn_codes` returns.

    Attributes
    ----------
    base_weight, query_weight : ndarray of shape (m, d), float32
        The maps of base vectors and of queries.
    codebooks : ndarray of shape (groups, books, 256, width / groups), float32
        The codewords; zeros for the last codebook where it stands for norms.
    starts : ndarray of shape (256, width), float32
        Product codewords that choosing codes starts from.
    norms : ndarray of shape (256,), float32, or None
        What the last codebook adds to the score of a vector, for "l2": -1/2 of its squared norm. Rising.
    """

    base_weight: Float32
    query_weight: Float32
    codebooks: Float32
    starts: Float32
    norms: Float32 | None


class _Gradients(NamedTuple):
    """The gradients of query map and codebooks by one thread, and the codes that it chose."""

    query: Float32
    codebooks: Float32
    rows: npt.NDArray[np.int64]
    codes: Codes


def learn_codes(
    start: Float32,
    sample: Float32,
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
    sample : ndarray of shape (n, d), float32
        Rows to fit codebooks to, prepared for the metric; at least 256.
    blocks : Blocks
        Anchors and neighbours, prepared for the metric.
    metric : {"cosine", "l2", "ip"}
        The metric that will be searched with.
    n_bytes : int
        The bytes of a code; at most the dimensions, and at least 2 for "l2".
    seed : int
        The seed of batches and k-means.
    how : CodeLearning, optional
        Rounds, steps and rates; None for the defaults.

    Returns
    -------
    LearnedCodes

    Raises
    ------
    DataError
        All neighbours are equal.
    """
    how = CodeLearning() if how is None else how
    trainer = _Trainer(start, sample, metric, n_bytes, seed, how)
    trainer.train(blocks, how, seed)
    base, query = trainer.base * trainer.unit, trainer.query * trainer.unit
    return LearnedCodes(base, query, trainer.codebooks, trainer.starts, trainer.norms)


class _Trainer:
    """The maps and codebooks while they are trained.

    The codebooks of all groups are one array, which an optimiser trains; a codebook and a dimension that
    stand for norms are among them, as zeros. Maps are of vectors times `unit`, whose norms are 1 on average.
    """

    def __init__(
        self, start: Float32, sample: Float32, metric: Metric, n_bytes: int, seed: int, how: CodeLearning
    ) -> None:
        self._metric, self._m = metric, len(start)
        self.unit = np.float32(1)
        if metric != "cosine":
            # Rates are for norm 1; dividing both maps by a constant can't change an order.
            mean = float(np.linalg.norm(sample, axis=1).mean(dtype=np.float64))
            self.unit = np.float32(1 / max(mean, 1e-30))
        mapped = sample @ (start * self.unit).T
        scale = 1.0
        if metric == "cosine":
            # Base images have norm 1 on average, as codes of directions.
            scale = float(np.mean(1 / np.maximum(np.linalg.norm(mapped, axis=1), 1e-6)))
        m, groups, norms = self._m, _group_count(n_bytes), metric == "l2"
        books, each = n_bytes // groups, -(-(m + norms) // groups)
        rotation = balanced_rotation(mapped, _home_sizes(groups, books, each, m, norms=norms))
        self.query = np.ascontiguousarray(rotation @ start)
        self.base = np.ascontiguousarray(self.query * np.float32(scale))
        self.starts = np.zeros((CODEWORDS, groups * each), np.float32)
        self.codebooks = np.zeros((groups, books, CODEWORDS, each), np.float32)
        self.norms = np.zeros(CODEWORDS, np.float32) if norms else None
        images = self._images(sample)
        self._start_codebooks(images, seed)
        self._fit_codebooks(images, how)
        if norms:
            self.norms = _norm_levels(images, self._groups(), seed)

    def _images(self, vectors: Float32) -> Float32:
        """Return base images of vectors (n, d): shape (n, width), zeros behind the m mapped dimensions."""
        images = np.zeros((len(vectors), self.starts.shape[1]), np.float32)
        images[:, : self._m] = vectors @ (self.base * self.unit).T
        return images

    def _groups(self) -> list[CodebookGroup]:
        return groups_of(self.codebooks, self.starts, norms=self.norms is not None)

    def _start_codebooks(self, images: Float32, seed: int) -> None:
        """Make the codebooks product codes of images (n, width)."""
        groups = self._groups()
        with stage("codebooks", sum(len(group.codebooks) for group in groups), "codebooks") as advance:
            for g, group in enumerate(groups):
                own = images[:, group.dims]
                for j, home in enumerate(home_slices(len(group.codebooks), own.shape[1])):
                    words = centroids_of(own[:, home], seed + group.books.start + j)
                    self.codebooks[g, j, :, home] = words
                    self.starts[:, group.dims][:, home] = words
                    advance(1)

    def _fit_codebooks(self, images: Float32, how: CodeLearning) -> None:
        """Fit the codebooks to images (n, width) by least squares."""
        groups = self._groups()
        with stage("least squares", len(groups) * how.n_rounds, "rounds") as advance:
            for g, group in enumerate(groups):
                own = np.ascontiguousarray(images[:, group.dims])
                codebooks = group.codebooks
                codes = first_codes(own, group.starts, len(codebooks))
                for _ in range(how.n_rounds):
                    _refined(own, codebooks, codes)
                    codebooks = fitted_codebooks(own, codebooks, codes, how.prior)
                    advance(1)
                books, _, each = codebooks.shape
                self.codebooks[g, :books, :, :each] = codebooks

    def train(self, blocks: Blocks, how: CodeLearning, seed: int) -> None:
        """Take the steps of Adam."""
        vectors, index = blocks.vectors, blocks.index
        sample = vectors[index[:: max(1, len(index) // 256)]] * self.unit
        tau = score_spread(sample, self._metric)
        check_told_apart(sample, tau, "to learn codes from (SQ8 learns none)")
        images, groups = self._images(vectors), self._groups()
        codes = _codes_of(images, groups)
        optimizers = Adam(self.query), Adam(self.codebooks)
        peaks = how.query_rate, how.codebook_rate
        order = batches(len(index), how.blocks_per_step, how.n_steps, np.random.default_rng(seed))
        batch = order.shape[1]
        bounds = thread_bounds(batch)
        n_threads = len(bounds) - 1
        found: list[_Gradients | None] = [None] * n_threads
        schedule = one_cycle(len(order), 1.0)
        with stage("codes", len(order), "steps") as advance, shared_work(n_threads) as share:
            for chosen, rate in zip(order, schedule, strict=True):

                def descend(i: int, chosen: npt.NDArray[np.int64] = chosen) -> None:
                    mine = Blocks(vectors, index[chosen[bounds[i] : bounds[i + 1]]], blocks.foreign)
                    found[i] = self._gradients(mine, images, codes, tau, batch)

                share(descend)
                parts = [part for part in found if part is not None]
                for part in parts:
                    codes[part.rows] = part.codes
                for which, (adam, peak) in enumerate(zip(optimizers, peaks, strict=True)):
                    np.sum([part[which] for part in parts], axis=0, out=adam.gradient)
                    adam.step(rate * peak)
                advance(1)

    def _gradients(
        self, blocks: Blocks, all_images: Float32, all_codes: Codes, tau: float, batch: int
    ) -> _Gradients:
        """Return the gradients of the loss over some blocks of a batch; images and codes are of all rows."""
        index, foreign, m = blocks.index, blocks.foreign, self._m
        b, n = index.shape
        rows, place = np.unique(index, return_inverse=True)
        place = place.reshape(-1)
        inside = blocks.vectors[index.reshape(-1)] * self.unit
        wanted = soft_neighbors(inside.reshape(b, n, -1), self._metric, tau)
        projected = inside @ self.query.T
        norms = None
        if self._metric == "cosine":
            norms = np.linalg.norm(projected, axis=1, keepdims=True) + np.float32(1e-20)
            projected /= norms
        # Equal rows are encoded once.
        images, codes, groups = all_images[rows], all_codes[rows], self._groups()
        for group in groups:
            own = np.ascontiguousarray(images[:, group.dims])
            chosen = np.ascontiguousarray(codes[:, group.books])
            images[:, group.dims] -= refine(own, group.codebooks, chosen, 1)
            codes[:, group.books] = chosen
        meant = images[place, :m].reshape(b, n, m)
        questions = projected.reshape(b, n, m)
        scores = np.matmul(questions, meant.transpose(0, 2, 1))
        if self.norms is not None:
            scores -= 0.5 * np.einsum("bij,bij->bi", meant, meant)[:, None]
        slope = softened(scores, tau)
        slope -= wanted
        slope *= np.float32(1 / (tau * batch * (1 if foreign else n)))
        if foreign:
            slope[:, 1:] = 0
        d_queries = np.matmul(slope, meant).reshape(b * n, m)
        if norms is not None:
            d_queries -= projected * np.einsum("ij,ij->i", d_queries, projected)[:, None]
            d_queries /= norms
        d_meant = np.matmul(slope.transpose(0, 2, 1), questions)
        if self.norms is not None:
            d_meant -= slope.sum(axis=1)[:, :, None] * meant
        ones = np.ones(b * n, np.float32)
        sums = scipy.sparse.csr_array((ones, place, np.arange(b * n + 1)), shape=(b * n, len(rows)))
        d_rows = np.zeros_like(images)
        d_rows[:, :m] = sums.T @ d_meant.reshape(b * n, m)
        d_codebooks = np.zeros_like(self.codebooks)
        for g, group in enumerate(groups):
            books, _, each = group.codebooks.shape
            own = codeword_sums(codes[:, group.books], d_rows[:, group.dims])
            d_codebooks[g, :books, :, :each] = own.reshape(group.codebooks.shape)
        return _Gradients(d_queries.T @ inside, d_codebooks, rows, codes)


def _codes_of(images: Float32, groups: list[CodebookGroup]) -> Codes:
    """Return codes of images (n, width) after one sweep, without a byte for norms."""
    codes = np.zeros((len(images), groups[-1].books.stop), np.uint8)
    for group in groups:
        own = np.ascontiguousarray(images[:, group.dims])
        found = first_codes(own, group.starts, len(group.codebooks))
        _refined(own, group.codebooks, found)
        codes[:, group.books] = found
    return codes


def _norm_levels(images: Float32, groups: list[CodebookGroup], seed: int) -> Float32:
    """Return 256 rising values for -1/2 of the squared norms of what codes of images (n, width) stand for."""
    halves, codes = np.zeros(len(images), np.float32), _codes_of(images, groups)
    for group in groups:
        meant = decoded(codes[:, group.books], group.codebooks)
        halves -= 0.5 * np.einsum("ij,ij->i", meant, meant)
    return np.sort(centroids_of(halves[:, None], seed)[:, 0])


def _refined(vectors: Float32, codebooks: Float32, codes: Codes) -> None:
    """Improve the codes (n, M) of vectors (n, s) by one sweep, in place."""

    def sweep(start: int) -> None:
        part = slice(start, start + _ROWS)
        refine(vectors[part], codebooks, codes[part], 1)

    starts = range(0, len(vectors), _ROWS)
    for _ in in_order(sweep, starts, min(blas_threads(), len(starts))):
        pass


def _group_count(n_bytes: int) -> int:
    """Return how many groups of dimensions codes of so many bytes are made in: a divisor."""
    wanted = max(1, round(n_bytes / _BOOKS_A_GROUP))
    return next(groups for groups in range(wanted, 0, -1) if n_bytes % groups == 0)


def _home_sizes(groups: int, books: int, each: int, m: int, *, norms: bool) -> list[int]:
    """Return how many of the m mapped dimensions each codebook has at the start; those behind are others."""
    sizes, left = [], m
    for g in range(groups):
        less = int(norms and g == groups - 1)
        for home in home_slices(books - less, each - less):
            sizes.append(min(home.stop - home.start, left))
            left -= sizes[-1]
    return sizes
