"""Learn a query map and additive codes together, from neighbourhoods.

Base vectors are mapped by the fold, rotated. Codebooks start as product codes of the images, then fit these
by least squares (`nearfold.codecs.least_squares`), then are trained with the query map by NearFold's
objective (`nearfold.codecs.descent`).

Codes are chosen between steps and held during one, so the loss is differentiable in the query map and
the codebooks. Training the base map too, by straight-through gradients, keeps no more neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, in_order
from nearfold.codecs.descent import block_spread, code_gradients, descents
from nearfold.codecs.least_squares import codeword_sums, fitted_codebooks
from nearfold.codecs.quantizers.base import CODEWORDS, Codes, Images
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
from nearfold.methods.training import WeightedBlocks
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
    images: Images,
    parts: Sequence[WeightedBlocks],
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
    images : Images
        Rows to fit codebooks to, as the fold maps them; at least 256.
    parts : sequence of WeightedBlocks
        Blocks of each kind, prepared for the metric, whose weighted losses are summed.
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
    trainer = _Trainer(start, images, metric, n_bytes, seed, how)
    trainer.train(parts, how, seed)
    base, query = trainer.base * trainer.unit, trainer.query * trainer.unit
    return LearnedCodes(base, query, trainer.codebooks, trainer.starts, trainer.norms)


class _Trainer:
    """The maps and codebooks while they are trained.

    The codebooks of all groups are one array, which an optimiser trains; a codebook and a dimension that
    stand for norms are among them, as zeros. Maps are of vectors times `unit`, whose norms are 1 on average.
    """

    def __init__(
        self, start: Float32, sample: Images, metric: Metric, n_bytes: int, seed: int, how: CodeLearning
    ) -> None:
        self._metric, self._m = metric, len(start)
        # Dividing both maps by a constant can't change an order.
        mapped, self.unit = sample
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
        images = np.zeros((len(mapped), self.starts.shape[1]), np.float32)
        np.matmul(mapped, (rotation * np.float32(scale)).T, out=images[:, :m])
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

    def train(self, parts: Sequence[WeightedBlocks], how: CodeLearning, seed: int) -> None:
        """Take the steps of Adam."""
        optimizers = [(Adam(self.query), how.query_rate), (Adam(self.codebooks), how.codebook_rate)]
        codes: list[Codes] = []
        gradients: list[Callable[[Blocks, float], _Gradients]] = []
        for blocks, _ in parts:
            tau = block_spread(blocks, self._metric, self.unit)
            images = self._images(blocks.vectors)
            codes.append(_codes_of(images, self._groups()))
            gradients.append(partial(self._gradients, all_images=images, all_codes=codes[-1], tau=tau))
        for found in descents(optimizers, parts, gradients, how.blocks_per_step, how.n_steps, seed):
            for known, threads in zip(codes, found, strict=True):
                for part in threads:
                    known[part.rows] = part.codes

    def _gradients(
        self, blocks: Blocks, batch: float, *, all_images: Float32, all_codes: Codes, tau: float
    ) -> _Gradients:
        """Return the gradients of the loss over some blocks of a batch; images and codes are of all rows."""
        index, m = blocks.index, self._m
        b, n = index.shape
        rows, place = np.unique(index, return_inverse=True)
        place = place.reshape(-1)
        # Equal rows are encoded once.
        images, codes, groups = all_images[rows], all_codes[rows], self._groups()
        for group in groups:
            own = np.ascontiguousarray(images[:, group.dims])
            chosen = np.ascontiguousarray(codes[:, group.books])
            images[:, group.dims] -= refine(own, group.codebooks, chosen, 1)
            codes[:, group.books] = chosen
        inside = blocks.vectors[index] * self.unit
        meant = images[place, :m].reshape(b, n, m)
        d_query, d_meant = code_gradients(
            self.query, inside, meant, self._metric, tau, batch, foreign=blocks.foreign
        )
        ones = np.ones(b * n, np.float32)
        sums = scipy.sparse.csr_array((ones, place, np.arange(b * n + 1)), shape=(b * n, len(rows)))
        d_rows = np.zeros_like(images)
        d_rows[:, :m] = sums.T @ d_meant
        d_codebooks = np.zeros_like(self.codebooks)
        for g, group in enumerate(groups):
            books, _, each = group.codebooks.shape
            own = codeword_sums(codes[:, group.books], d_rows[:, group.dims])
            d_codebooks[g, :books, :, :each] = own.reshape(group.codebooks.shape)
        return _Gradients(d_query, d_codebooks, rows, codes)


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
