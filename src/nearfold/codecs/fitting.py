"""Learn codecs from vectors; what several of them need is learned once."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import (
    Float32,
    Metric,
    as_vectors,
    check_metric,
    check_products,
    resolve_components,
)
from nearfold.codecs.codec import Codec
from nearfold.codecs.learning import CodeLearning, learn_codes
from nearfold.codecs.projections import SharedProjection
from nearfold.codecs.quantizers.base import CODEWORDS, Quantizer
from nearfold.codecs.quantizers.product import Product, sign_codebooks
from nearfold.codecs.quantizers.rabitq import RABITQ, RaBitQ
from nearfold.codecs.quantizers.scalar import FLOATS, SCALARS, Floats, Scalar
from nearfold.codecs.rotations import opq_rotation, random_rotation
from nearfold.codecs.spec import CodecSpec, parse_spec
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.methods.base import sample_rows
from nearfold.methods.nearfold import NearFold
from nearfold.methods.registry import METHODS, make
from nearfold.scan.scan import Blocks
from nearfold.scan.scanner import scan_array

__all__ = ["CodecFitter", "fit_codec"]

# Rows that quantisers other than AQ are trained on, at most: faiss's own limit for 256 codewords.
_TRAINING_ROWS = 1 << 16


def fit_codec(X: npt.ArrayLike, spec: str | CodecSpec, *, metric: Metric = "cosine", seed: int = 0) -> Codec:
    """Learn one codec.

    Parameters
    ----------
    X
        The base, shape (n, d), any real dtype.
    spec
        Such as "NearFold192,AQ24"; see `parse_spec`.
    metric
        What the vectors are searched with.
    seed
        Of everything drawn at random.

    Raises
    ------
    DataError
        X is not a finite table of vectors, or has a zero row under cosine.
    ParameterError
        The codec is unknown or doesn't fit the data.
    """
    return CodecFitter(X, metric=metric, seed=seed).fit(spec)


class CodecFitter:
    """Learns codecs on the same vectors: folds and neighbourhoods are kept for the next one.

    Parameters
    ----------
    X
        The base, shape (n, d), any real dtype.
    metric
        What the vectors are searched with.
    seed
        Of everything drawn at random.
    budget
        The share of the usual steps that rotations and codes are learned in: less than 1 to compare
        codecs, not to use them.
    """

    def __init__(
        self, X: npt.ArrayLike, *, metric: Metric = "cosine", seed: int = 0, budget: float = 1.0
    ) -> None:
        self._base = as_vectors(X, min_rows=2)
        self._metric, self._seed, self._effort = check_metric(metric), seed, budget
        check_products(self._base, self._metric, "X")
        self._folds: dict[tuple[str, int | str], Fold] = {}

    def fit(self, spec: str | CodecSpec) -> Codec:
        """Learn a codec; parameters and errors as for `fit_codec`."""
        wanted = parse_spec(spec) if isinstance(spec, str) else spec
        began = time.perf_counter()
        self._check(wanted)
        fold = None if wanted.method is None else self.fold(wanted.method, wanted.n_components or 0)
        codec = self._learned(wanted, fold) if wanted.quantizer == "AQ" else self._plain(wanted, fold)
        facts = {"rows": len(self._base), "fit_seconds": round(time.perf_counter() - began, 3)}
        return Codec(codec.spec, codec.projection, codec.quantizer, facts)

    def fold(self, method: str, n_components: int | str) -> Fold:
        """Return the fold that a method learns."""
        key = method, n_components
        if key not in self._folds:
            estimator = make(method, n_components, metric=self._metric, random_state=self._seed)
            self._folds[key] = estimator.fit(self._base).encoder_
        return self._folds[key]

    def _check(self, wanted: CodecSpec) -> None:
        """Refuse what can't be had of this base, before anything is learned."""
        width = self._base.shape[1]
        if wanted.n_components is not None:
            width = resolve_components(wanted.n_components, width)
        if wanted.width is not None and not 0 < wanted.width <= width:
            raise ParameterError(f"{wanted}: OPQ can't rotate {width} dimensions to {wanted.width}")
        if wanted.quantizer == "Binary" and width % 8:
            raise ParameterError(f"{wanted}: Binary needs dimensions that 8 divides, not {width}")
        if wanted.quantizer == "AQ" and wanted.method is not None and not METHODS[wanted.method].linear:
            raise ParameterError(f"{wanted}: AQ learns linear maps; fold by a linear method before it")
        if not wanted.n_bytes:
            return
        width = wanted.width or width
        if wanted.quantizer != "AQ" and width % wanted.n_bytes:
            raise ParameterError(
                f"{wanted}: {wanted.n_bytes} bytes don't divide {width} dimensions evenly; "
                f"fold to a multiple of {wanted.n_bytes}"
            )
        if wanted.n_bytes > width:
            raise ParameterError(
                f"{wanted}: {wanted.n_bytes} bytes are more than the {width} dimensions they code; "
                f"fold to more or use SQ8"
            )
        if len(self._base) < CODEWORDS:
            raise ParameterError(
                f"{wanted}: codebooks need at least {CODEWORDS} rows, there are {len(self._base)}; use SQ8"
            )

    @cached_property
    def _neighborhoods(self) -> tuple[Blocks, Float32 | None]:
        """Blocks, and what they are centred on."""
        learner = NearFold(1, metric=self._metric, random_state=self._seed)
        request = learner.scan_request(len(self._base), 1)
        scan, anchors = scan_array(self._base, request)
        assert anchors is not None
        centered = self._metric == "l2"
        return scan.blocks(anchors), scan.mean.astype(np.float32) if centered else None

    def _learned(self, wanted: CodecSpec, fold: Fold | None) -> Codec:
        if fold is None:
            start = np.eye(self._base.shape[1], dtype=np.float32)
        else:
            assert isinstance(fold, Encoder)
            start = fold.weight
        blocks, center = self._neighborhoods
        how = CodeLearning()
        how = replace(how, n_steps=max(1, round(self._effort * how.n_steps)))
        projection, quantizer = learn_codes(
            start, blocks, self._metric, wanted.n_bytes, self._seed, center, how
        )
        return Codec(str(wanted), projection, quantizer)

    def _plain(self, wanted: CodecSpec, fold: Fold | None) -> Codec:
        """Return a codec whose quantiser knows the folded vectors alone."""
        rows = sample_rows(self._base, _TRAINING_ROWS, np.random.default_rng(self._seed))
        unrotated = SharedProjection(fold, None, self._metric, self._base.shape[1])
        vectors = unrotated.project(rows)
        rotation = self._rotation(wanted, vectors)
        projection = SharedProjection(fold, rotation, self._metric, self._base.shape[1])
        if rotation is not None:
            vectors = vectors @ rotation.T
        return Codec(str(wanted), projection, self._quantizer(wanted, vectors, projection))

    def _rotation(self, wanted: CodecSpec, vectors: Float32) -> Float32 | None:
        width = vectors.shape[1]
        if wanted.quantizer == "OPQ":
            return opq_rotation(vectors, wanted.n_bytes, wanted.width or width, self._seed, self._effort)
        if wanted.quantizer in ("SQ4", "Binary") or wanted.quantizer in RABITQ:
            return random_rotation(width, self._seed)
        return None

    def _quantizer(self, wanted: CodecSpec, vectors: Float32, projection: SharedProjection) -> Quantizer:
        name, width = wanted.quantizer, vectors.shape[1]
        if name in FLOATS:
            return Floats(name, width)
        if name in SCALARS:
            return Scalar.train(name, vectors)
        if name in RABITQ:
            return RaBitQ.train(name, vectors, projection.score)
        if name == "Binary":
            return Product(name, sign_codebooks(vectors))
        return Product.train(f"{name}{wanted.n_bytes}", vectors, wanted.n_bytes, self._seed, self._effort)
