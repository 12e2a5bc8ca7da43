"""Each dimension rounded to 2, 4 or 16 learned levels, after a learned rotation, for queries that stay whole.

The rotation is that of iterative quantisation (Gong, Lazebnik, "Iterative Quantization: A Procrustean
Approach to Learning Binary Codes", CVPR 2011) for any number of levels: codes are the nearest levels, levels
become the means of what is rounded to them (Lloyd), and the rotation solves an orthogonal Procrustes problem.
Then the map of queries and the levels are trained by NearFold's objective (see `nearfold.methods.objective`)
on blocks of neighbours. Scalar codes behind a learned orthonormal projection, compared with whole queries,
are the idea of ASH (arXiv 2606.07870).

Encoding takes a product of matrices and some comparisons, so it is many times faster than additive codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32, Metric
from nearfold._utils.progress import stage
from nearfold._utils.sampling import sampled_rows
from nearfold.codecs.descent import block_spread, code_gradients, descents, unit_factor
from nearfold.codecs.projections import DualProjection
from nearfold.codecs.quantizers.base import (
    CODEWORDS,
    Candidate,
    Codes,
    CodeTables,
    Images,
    JointQuantizer,
    QuantizerSpec,
    Training,
    candidates_by_width,
)
from nearfold.codecs.quantizers.product import product_index, product_lists_index
from nearfold.codecs.rotations import random_rotation
from nearfold.codecs.tensors import Score, Tensors, exact_tensors
from nearfold.errors import ParameterError
from nearfold.methods.adam import Adam
from nearfold.methods.training import WeightedBlocks
from nearfold.scan.scan import Blocks

__all__ = ["BITS", "Rotated"]

BITS = {"RSQ1": 1, "RSQ2": 2, "RSQ4": 4}
"""The bits of a dimension by name."""

# Rows that are encoded at once, so that what is compared stays in the cache.
_ROWS = 1024

_ROTATION_ROWS = 1 << 16
_ROTATION_ROUNDS = 30
# Rounds of levels alone, which start as quantiles, before the first rotation is learned.
_LEVEL_ROUNDS = 10

_STEPS, _BLOCKS_A_STEP = 300, 64
# The highest rates, for vectors of norm 1.
_QUERY_RATE, _LEVEL_RATE = 5e-4, 1e-4


class Rotated(JointQuantizer):
    """Each dimension as the nearest of 2^bits levels of its own, after a learned rotation.

    Parameters
    ----------
    name : {"RSQ1", "RSQ2", "RSQ4"}
        The number is that of the bits.
    levels : ndarray of shape (m, 2**bits), float32
        The levels of each dimension, rising. The dimensions of a byte are consecutive, the first of them in
        its lowest bits.
    norms : bool, default=False
        Whether a further dimension stands for norms: it takes no bits, and is -1/2 of the squared norm of
        what a code stands for, so that inner products rank as Euclidean distances do.
    """

    names: ClassVar = {
        "RSQ1": "1 bit a dimension, after a rotation learned with it, and queries mapped to match",
        "RSQ2": "the same in 2 bits",
        "RSQ4": "the same in 4 bits",
    }
    kind = "rotated"

    def __init__(self, name: str, levels: Float32, *, norms: bool = False) -> None:
        self.name, self._levels, self._norms = name, levels, norms
        self.width = len(levels) + norms
        self._codebooks = _codebooks(levels, BITS[name], norms=norms)

    @classmethod
    def check(cls, spec: QuantizerSpec, width: int, n_rows: int) -> None:  # noqa: ARG003
        """Refuse dimensions that don't fill bytes."""
        each = 8 // BITS[spec.name]
        if width % each:
            raise ParameterError(f"{spec.name} needs dimensions that {each} divides, not {width}")

    @classmethod
    def candidates(cls, n_bytes: int, n_features: int) -> Iterator[Candidate]:
        """Yield as many dimensions as fit."""
        fitting = [(name, 8 * n_bytes // bits) for name, bits in BITS.items()]
        for found in candidates_by_width(fitting, n_features):
            if (found.n_components or n_features) % (8 // BITS[found.spec.name]) == 0:
                yield found

    @classmethod
    def learn(
        cls,
        spec: QuantizerSpec,
        weight: Float32,
        images: Images,
        parts: Sequence[WeightedBlocks],
        metric: Metric,
        center: Float32 | None,
        how: Training,
    ) -> tuple[DualProjection, Self]:
        """Return projection and quantiser: the rotation first, then the map of queries and the levels."""
        bits, (mapped, unit) = BITS[spec.name], images
        if len(mapped) > _ROTATION_ROWS:
            mapped = mapped[sampled_rows(len(mapped), _ROTATION_ROWS, how.seed)]
        # For cosine, base images have norm 1 on average, as vectors do.
        scale = unit_factor(mapped) if metric == "cosine" else np.float32(1)
        rotation, levels = _rotated_levels(mapped * scale, bits, how)
        query = np.ascontiguousarray(rotation @ weight)
        base = query * (unit * scale)
        learned = _Maps(query, levels)
        _train(learned, base, parts, metric, unit, how)
        # Levels that have crossed are the same levels in another order.
        quantizer = cls(spec.stored, np.sort(learned.levels, axis=1), norms=metric == "l2")
        return DualProjection(base, learned.query * unit, metric, quantizer.width, center), quantizer

    @property
    def code_size(self) -> int:
        """The bytes of one vector."""
        return len(self._codebooks)

    def encode(self, vectors: Float32) -> Codes:
        """Return the codes of vectors (n, width): shape (n, code_size), uint8."""
        bits, m = BITS[self.name], len(self._levels)
        codes = np.empty((len(vectors), self.code_size), np.uint8)
        bounds = _bounds(self._levels)
        # Starting threads takes longer than the comparisons.
        for start in range(0, len(vectors), _ROWS):
            part = slice(start, start + _ROWS)
            codes[part] = _packed(_nearest(vectors[part, :m], bounds), bits)
        return codes

    def decode(self, codes: Codes) -> Float32:
        """Return the vectors that codes stand for: shape (n, width)."""
        each = 8 // BITS[self.name]
        words = self._codebooks[np.arange(self.code_size), codes]
        vectors = np.empty((len(codes), self.width), np.float32)
        vectors[:, : len(self._levels)] = words[:, :, :each].reshape(len(codes), -1)
        if self._norms:
            vectors[:, -1] = words[:, :, -1].sum(axis=1)
        return vectors

    def tensors(self) -> Tensors:
        """Return the levels."""
        return {"levels": self._levels}

    def indexed_tensors(self) -> Tensors:
        """Return the codebooks that an index has: all combinations of the levels that share a byte."""
        return {"codebooks": self._codebooks}

    def tables(self) -> CodeTables:
        """Return the levels; with norms, all combinations of those that share a byte."""
        dims = np.arange(len(self._levels), dtype=np.int32)
        if not self._norms:
            return CodeTables(BITS[self.name], self._levels[:, :, None], dims[:, None])
        last = np.full((self.code_size, 1), self.width - 1, np.int32)
        shared = np.concatenate([dims.reshape(self.code_size, -1), last], axis=1)
        return CodeTables(8, self._codebooks, shared)

    @classmethod
    def from_tensors(cls, name: str, width: int, tensors: Tensors) -> Self:
        """Return the quantiser that a file describes."""
        if name not in BITS:
            raise ValueError(f"{name!r:.60} is none of {', '.join(BITS)}")
        bits = BITS[name]
        (levels,) = exact_tensors(name, tensors, {"levels": (None, 2**bits)})
        if len(levels) not in (width, width - 1) or not len(levels) or len(levels) % (8 // bits):
            raise ValueError(f"{name} of {width} dimensions has levels of {len(levels)}")
        if (np.diff(levels, axis=1) < 0).any():
            raise ValueError(f"{name} has levels that do not rise")
        return cls(name, levels, norms=len(levels) < width)

    def index(self, score: Score) -> Any:
        """Return an empty faiss index: a product quantiser whose codewords are all combinations of levels.

        Raises
        ------
        ParameterError
            The score is not "ip", by which the two maps are learned.
        """
        if score != "ip":
            raise ParameterError(f"{self.name} codes are compared by inner product")
        return product_index(self._codebooks, score)

    def lists_index(self, n_lists: int, score: Score) -> Any:
        """Return an empty faiss index of inverted lists."""
        return product_lists_index(self._codebooks, n_lists, score)

    def prepare_queries(self, queries: Float32) -> Float32:
        """Return queries (q, width) as an index takes them: for l2 the factor of norms follows each part."""
        if not self._norms:
            return queries
        groups, _, each = self._codebooks.shape
        wide = np.empty((len(queries), groups, each), np.float32)
        wide[:, :, :-1] = queries[:, :-1].reshape(len(queries), groups, each - 1)
        wide[:, :, -1] = queries[:, -1:]
        return wide.reshape(len(queries), -1)


class _Maps(NamedTuple):
    """The map of queries (of vectors times `unit`) and the levels, trained in place, or their gradients."""

    query: Float32
    levels: Float32


def _bounds(levels: Float32) -> Float32:
    """Return the values halfway between the levels (m, L) of each dimension: shape (L - 1, m)."""
    return np.ascontiguousarray(((levels[:, 1:] + levels[:, :-1]) / 2).T)


def _nearest(vectors: Float32, bounds: Float32) -> Codes:
    """Return the number of the nearest level of each number of vectors (n, m); bounds as of `_bounds`."""
    found: Codes = (vectors > bounds[0]).view(np.uint8)
    for bound in bounds[1:]:
        found += vectors > bound
    return found


def _packed(numbers: Codes, bits: int) -> Codes:
    """Return numbers (n, m) packed to (n, m bits / 8) bytes, the first of each byte in its lowest bits."""
    if bits == 1:
        return np.packbits(numbers, axis=1, bitorder="little")
    each = 8 // bits
    codes = numbers[:, ::each].copy()
    for i in range(1, each):
        codes |= numbers[:, i::each] << np.uint8(bits * i)
    return codes


def _codebooks(levels: Float32, bits: int, *, norms: bool) -> Float32:
    """Return all combinations of the levels (m, 2^bits) that share a byte: shape (bytes, 256, 8 / bits).

    With `norms` each has -1/2 of its squared norm behind it.
    """
    each = 8 // bits
    numbers = (np.arange(CODEWORDS)[:, None] >> (bits * np.arange(each))) & (2**bits - 1)
    words = levels.reshape(-1, each, 2**bits)[:, np.arange(each), numbers]
    if norms:
        halves = -0.5 * np.einsum("gkj,gkj->gk", words, words)
        words = np.concatenate([words, halves[:, :, None]], axis=2)
    return np.ascontiguousarray(words, np.float32)


def _meant(numbers: Codes, levels: Float32) -> Float32:
    """Return the levels (m, L) that numbers (n, m) name: shape (n, m)."""
    meant: Float32 = levels[np.arange(len(levels)), numbers]
    return meant


def _level_sums(numbers: Codes, values: Float32 | None, n_levels: int) -> npt.NDArray[np.float64]:
    """Return the sums of values (n, m) over those that have each level, (m, n_levels); None counts them."""
    m = numbers.shape[1]
    places = (numbers + n_levels * np.arange(m)).ravel()
    weights = None if values is None else values.ravel()
    return np.bincount(places, weights, m * n_levels).reshape(m, n_levels).astype(np.float64)


def _mean_levels(images: Float32, levels: Float32) -> tuple[Codes, Float32]:
    """Return the nearest levels of images (n, m), and levels that are means of what is nearest to them."""
    numbers = _nearest(images, _bounds(levels))
    counts = _level_sums(numbers, None, levels.shape[1])
    sums = _level_sums(numbers, images, levels.shape[1])
    return numbers, np.where(counts > 0, sums / np.maximum(counts, 1), levels).astype(np.float32)


def _rotated_levels(images: Float32, bits: int, how: Training) -> tuple[Float32, Float32]:
    """Return the rotation (m, m) of images (n, m) and the levels (m, 2^bits) that lose least together.

    A random rotation comes first: it gives dimensions about the same variance.
    """
    rotation = random_rotation(images.shape[1], how.seed)
    rotated = images @ rotation.T
    shares = (np.arange(2**bits) + 0.5) / 2**bits
    levels = np.ascontiguousarray(np.quantile(rotated, shares, axis=0).T, np.float32)
    for _ in range(_LEVEL_ROUNDS):
        levels = _mean_levels(rotated, levels)[1]
    rounds = max(1, round(how.budget * _ROTATION_ROUNDS))
    with stage("rotation", rounds, "rounds") as advance:
        for _ in range(rounds):
            numbers, levels = _mean_levels(rotated, levels)
            left, _, right = np.linalg.svd(np.asarray(images.T @ _meant(numbers, levels), np.float64))
            rotation = np.ascontiguousarray((left @ right).T, np.float32)
            rotated = images @ rotation.T
            advance(1)
    return rotation, _mean_levels(rotated, levels)[1]


def _train(
    maps: _Maps,
    base: Float32,
    parts: Sequence[WeightedBlocks],
    metric: Metric,
    unit: np.float32,
    how: Training,
) -> None:
    """Train the map of queries and the levels in place; `base` is the map (m, d) of base vectors.

    Codes stay what the levels say at the start: so the loss is differentiable in both.
    """
    optimizers = [(Adam(maps.query), _QUERY_RATE), (Adam(maps.levels), _LEVEL_RATE)]
    at_start = _bounds(maps.levels)

    def gradients_on(blocks: Blocks) -> Callable[[Blocks, float], _Maps]:
        tau = block_spread(blocks, metric, unit)
        numbers = _nearest(blocks.vectors @ base.T, at_start)

        def gradients(some: Blocks, batch: float) -> _Maps:
            has = numbers[some.index.reshape(-1)]
            meant = _meant(has, maps.levels).reshape(*some.index.shape, -1)
            inside = some.vectors[some.index] * unit
            query, d_meant = code_gradients(
                maps.query, inside, meant, metric, tau, batch, foreign=some.foreign
            )
            levels = _level_sums(has, d_meant, maps.levels.shape[1]).astype(np.float32)
            return _Maps(query, levels)

        return gradients

    steps = max(1, round(how.budget * _STEPS))
    gradients = [gradients_on(part.blocks) for part in parts]
    for _ in descents(optimizers, parts, gradients, _BLOCKS_A_STEP, steps, how.seed):
        pass
