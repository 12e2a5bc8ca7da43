"""Learn codecs from vectors; what several of them need is learned once."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import numpy as np

from nearfold._utils.arrays import (
    Float32,
    Metric,
    check_metric,
    check_products,
    check_row_count,
    normalize_rows,
    resolve_components,
)
from nearfold.codecs.codec import Codec
from nearfold.codecs.projections import Projection, SharedProjection
from nearfold.codecs.quantizers.base import Images, JointQuantizer, Quantizer, Training
from nearfold.codecs.quantizers.registry import family_of
from nearfold.codecs.spec import CodecSpec, parse_spec
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.io.held import held_rows
from nearfold.io.npy import HeldSource
from nearfold.io.vectors import as_source
from nearfold.methods.base import sample_rows
from nearfold.methods.nearfold import NearFold
from nearfold.methods.queries import sample_of_queries, weighted_blocks
from nearfold.methods.registry import METHODS, make
from nearfold.methods.training import WeightedBlocks
from nearfold.scan.scanning import scan_source

__all__ = ["CodecFitter", "fit_codec", "folded_images"]

# Quantisers are trained on at most so many rows: faiss's own limit for 256 codewords.
_TRAINING_ROWS = 1 << 16

# Additive codebooks are fitted to at most so many.
_SAMPLE_ROWS = 1 << 17

# Rows that are prepared at once.
_CHUNK = 8192

_MOST_ANCHORS, _LEAST_ANCHORS = 10_000, 1024
# Scores of anchors with rows that are cheap beside the rest of learning codes.
_CHEAP_SCORES = 2_000_000_000
# The bytes of blocks' rows, of which a scan holds up to three times as many.
_CARRIED_BYTES, _BLOCK_ROWS = 400_000_000, 65


def fit_codec(
    X: Any, spec: str | CodecSpec, *, metric: Metric = "cosine", queries: Any = None, seed: int = 0
) -> Codec:
    """Learn a codec: a fold, a quantiser, or both.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The base vectors, of any real dtype. Files are scanned in bounded memory: codes are learned from
        the neighbourhoods that a scan finds and from a sample of at most 131,072 rows.
    spec : str or CodecSpec
        The name of the codec, such as "NearFold192,AQ24" or "SQ8"; see `parse_spec`.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric that the vectors are searched with.
    queries : as X, of shape (q, d), optional
        A sample of queries, where they differ from the base in kind. The fold and the codes are learned
        from both; see `NearFold.fit`. By default all is learned from the base.
    seed : int, default=0
        The seed of everything drawn at random.

    Returns
    -------
    Codec

    Raises
    ------
    DataError
        X is not a finite table of at least two vectors, or has a zero row under cosine; or queries are no
        such table of as many dimensions.
    FileError
        A file can't be read.
    ParameterError
        The codec is unknown or doesn't fit the data.

    Examples
    --------
    >>> from nearfold import fit_codec, load_sample
    >>> codec = fit_codec(load_sample().vectors, "PCA64,SQ8")
    >>> codec.bytes_per_vector
    64
    """
    return CodecFitter(X, metric=metric, queries=queries, seed=seed).fit(spec)


class CodecFitter:
    """Learns several codecs from the same vectors: folds and neighbourhoods are kept for the next one.

    Parameters
    ----------
    X : array-like of shape (n, d), data frame, path, URL or Source
        The base vectors, as for `fit_codec`.
    metric : {"cosine", "l2", "ip"}, default="cosine"
        The metric that the vectors are searched with.
    queries : as X, of shape (q, d), optional
        A sample of queries, as for `fit_codec`.
    seed : int, default=0
        The seed of everything drawn at random.
    budget : float, default=1.0
        The share of the usual steps that rotations and codes are learned in: less than 1 to compare
        codecs, not to use them.

    Raises
    ------
    DataError or FileError
        As for `fit_codec`.
    """

    def __init__(
        self, X: Any, *, metric: Metric = "cosine", queries: Any = None, seed: int = 0, budget: float = 1.0
    ) -> None:
        self._metric, self._seed, self._budget = check_metric(metric), seed, budget
        self._source = as_source(X)
        check_row_count(self._source.layout.rows, 2, self._source.path)
        if isinstance(self._source, HeldSource):
            rows = held_rows(self._source, directions=metric == "cosine", min_rows=2)
            check_products(rows, self._metric, "X")
        self._queries = sample_of_queries(queries, self._source)
        self._folds: dict[tuple[str, int | str], Fold] = {}

    def fit(self, spec: str | CodecSpec) -> Codec:
        """Learn a codec; the parameter and the errors are those of `fit_codec`."""
        wanted = parse_spec(spec) if isinstance(spec, str) else spec
        began = time.perf_counter()
        self._check(wanted)
        fold = None if wanted.method is None else self.fold(wanted.method, wanted.n_components or 0)
        projection, quantizer = self._learned(wanted, fold)
        facts = {"rows": self._source.layout.rows, "fit_seconds": round(time.perf_counter() - began, 3)}
        return Codec(str(wanted), projection, quantizer, facts)

    def fold(self, method: str, n_components: int | str) -> Fold:
        """Return the fold that a method learns."""
        key = method, n_components
        if key not in self._folds:
            estimator = make(method, n_components, metric=self._metric, random_state=self._seed)
            asked = self._queries is not None and isinstance(estimator, NearFold)
            learned_from = {"queries": self._queries} if asked else {}
            self._folds[key] = estimator.fit(self._source, **learned_from).encoder_
        return self._folds[key]

    def _check(self, wanted: CodecSpec) -> None:
        """Refuse what can't be had of this base, before anything is learned."""
        width = self._source.layout.n_features
        if wanted.n_components is not None:
            width = resolve_components(wanted.n_components, width)
        family, spec = family_of(wanted.quantizer), wanted.quantizer
        if issubclass(family, JointQuantizer) and wanted.method and not METHODS[wanted.method].linear:
            raise ParameterError(
                f"{wanted}: {spec.name} learns linear maps; fold by a linear method before it"
            )
        try:
            family.check(spec, width, self._source.layout.rows)
        except ParameterError as error:
            raise ParameterError(f"{wanted}: {error}") from None

    @cached_property
    def _neighborhoods(self) -> tuple[list[WeightedBlocks], Float32 | None]:
        """Blocks of rows, and of queries if there are some, and what they are centred on."""
        layout = self._source.layout
        learner = NearFold(
            1,
            metric=self._metric,
            n_anchors=_code_anchors(layout.rows, layout.n_features),
            random_state=self._seed,
        )
        request = learner.scan_spec(layout.rows, 1, self._queries)
        scan, anchors, *_ = scan_source(self._source, request, fewer_anchors=True)
        assert anchors is not None
        centered = self._metric == "l2"
        return weighted_blocks(scan, anchors), scan.mean.astype(np.float32) if centered else None

    def _sample(self) -> Float32:
        """Return rows as they are in the data: all, or a sample, which is not worth keeping."""
        return held_rows(self._source, _SAMPLE_ROWS, seed=self._seed, directions=self._metric == "cosine")

    def _learned(self, wanted: CodecSpec, fold: Fold | None) -> tuple[Projection, Quantizer]:
        spec, family, d = wanted.quantizer, family_of(wanted.quantizer), self._source.layout.n_features
        if issubclass(family, JointQuantizer):
            assert fold is None or isinstance(fold, Encoder)
            weight = np.eye(d, dtype=np.float32) if fold is None else fold.weight
            parts, center = self._neighborhoods
            images = folded_images(self._sample(), weight, self._metric, center)
            how = Training(seed=self._seed, budget=self._budget)
            return family.learn(spec, weight, images, parts, self._metric, center, how)
        unrotated = SharedProjection(fold, None, self._metric, d)
        rows = sample_rows(self._sample(), _TRAINING_ROWS, np.random.default_rng(self._seed))
        vectors = unrotated.project(rows)
        how = Training(unrotated.score, self._seed, self._budget)
        rotation = family.rotation(spec, vectors, how)
        if rotation is None:
            return unrotated, family.train(spec, vectors, how)
        projection = SharedProjection(fold, rotation, self._metric, d)
        return projection, family.train(spec, vectors @ rotation.T, how)


def folded_images(rows: Float32, weight: Float32, metric: Metric, center: Float32 | None) -> Images:
    """Return what a linear fold makes of rows, prepared for the metric a few at a time.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
        Rows as they are in the data.
    weight : ndarray of shape (m, d), float32
        The fold.
    metric : {"cosine", "l2", "ip"}
        The metric, which says how rows are prepared.
    center : ndarray of shape (d,), float32, optional
        What is subtracted from rows, for "l2".

    Returns
    -------
    Images
    """
    mapped, norms = np.empty((len(rows), len(weight)), np.float32), 0.0
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        if metric == "cosine":
            part = normalize_rows(part, first_row=start)
        elif center is not None:
            part = part - center
        norms += float(np.linalg.norm(part, axis=1).sum(dtype=np.float64))
        np.matmul(part, weight.T, out=mapped[start : start + _CHUNK])
    unit = np.float32(1) if metric == "cosine" else np.float32(1 / max(norms / len(rows), 1e-30))
    if unit != 1:
        mapped *= unit
    return Images(mapped, unit)


def _code_anchors(rows: int, n_features: int) -> int:
    """Return how many anchors codes are learned from: more than a fold's, as codes have more parameters."""
    most = min(_MOST_ANCHORS, max(_LEAST_ANCHORS, _CHEAP_SCORES // rows))
    carried = _CARRIED_BYTES // (4 * n_features)
    return most if rows <= carried else max(1, min(most, carried // _BLOCK_ROWS))
