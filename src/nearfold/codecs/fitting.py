"""Learn pipelines from vectors; what several of them need is learned once."""

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
from nearfold.codecs.codec import Pipeline
from nearfold.codecs.learning import CodeLearning, learn_codes
from nearfold.codecs.projections import OneSide
from nearfold.codecs.quantizers.base import CODEWORDS, Quantizer
from nearfold.codecs.quantizers.product import Product, sign_codebooks
from nearfold.codecs.quantizers.rabitq import RABITQ, RaBitQ
from nearfold.codecs.quantizers.scalar import FLOATS, SCALARS, Floats, Scalar
from nearfold.codecs.rotations import opq_rotation, random_rotation
from nearfold.codecs.spec import PipelineSpec, parse_spec
from nearfold.errors import ParameterError
from nearfold.folds.encoder import Encoder
from nearfold.folds.fold import Fold
from nearfold.methods.base import sample_rows
from nearfold.methods.nearfold import NearFold
from nearfold.methods.registry import METHODS, make
from nearfold.scan.scan import Blocks
from nearfold.scan.scanner import scan_array

__all__ = ["PipelineFitter", "fit_pipeline"]

# Rows that quantisers other than AQ are trained on, at most: faiss's own limit for 256 codewords.
_TRAINING_ROWS = 1 << 16


def fit_pipeline(
    X: npt.ArrayLike, spec: str | PipelineSpec, *, metric: Metric = "cosine", seed: int = 0
) -> Pipeline:
    """Learn one pipeline.

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
        The pipeline is unknown or doesn't fit the data.
    """
    return PipelineFitter(X, metric=metric, seed=seed).fit(spec)


class PipelineFitter:
    """Learns pipelines on the same vectors: folds and neighbourhoods are kept for the next one.

    Parameters
    ----------
    X
        The base, shape (n, d), any real dtype.
    metric
        What the vectors are searched with.
    seed
        Of everything drawn at random.
    effort
        The share of the usual steps that rotations and codes are learned in: less than 1 to compare
        pipelines, not to use them.
    """

    def __init__(
        self, X: npt.ArrayLike, *, metric: Metric = "cosine", seed: int = 0, effort: float = 1.0
    ) -> None:
        self._base = as_vectors(X, min_rows=2)
        self._metric, self._seed, self._effort = check_metric(metric), seed, effort
        check_products(self._base, self._metric, "X")
        self._folds: dict[tuple[str, int | str], Fold] = {}

    def fit(self, spec: str | PipelineSpec) -> Pipeline:
        """Learn a pipeline; parameters and errors as for `fit_pipeline`."""
        wanted = parse_spec(spec) if isinstance(spec, str) else spec
        began = time.perf_counter()
        self._check(wanted)
        fold = None if wanted.method is None else self.fold(wanted.method, wanted.n_components or 0)
        pipeline = self._learned(wanted, fold) if wanted.quantizer == "AQ" else self._plain(wanted, fold)
        facts = {"rows": len(self._base), "fit_seconds": round(time.perf_counter() - began, 3)}
        return Pipeline(pipeline.spec, pipeline.sides, pipeline.quantizer, facts)

    def fold(self, method: str, n_components: int | str) -> Fold:
        """Return the fold that a method learns."""
        key = method, n_components
        if key not in self._folds:
            estimator = make(method, n_components, metric=self._metric, random_state=self._seed)
            self._folds[key] = estimator.fit(self._base).encoder_
        return self._folds[key]

    def _check(self, wanted: PipelineSpec) -> None:
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

    def _learned(self, wanted: PipelineSpec, fold: Fold | None) -> Pipeline:
        if fold is None:
            start = np.eye(self._base.shape[1], dtype=np.float32)
        else:
            assert isinstance(fold, Encoder)
            start = fold.weight
        blocks, center = self._neighborhoods
        how = CodeLearning()
        how = replace(how, n_steps=max(1, round(self._effort * how.n_steps)))
        sides, quantizer = learn_codes(start, blocks, self._metric, wanted.n_bytes, self._seed, center, how)
        return Pipeline(str(wanted), sides, quantizer)

    def _plain(self, wanted: PipelineSpec, fold: Fold | None) -> Pipeline:
        """Return a pipeline whose quantiser knows the folded vectors alone."""
        rows = sample_rows(self._base, _TRAINING_ROWS, np.random.default_rng(self._seed))
        unrotated = OneSide(fold, None, self._metric, self._base.shape[1])
        vectors = unrotated.base(rows)
        rotation = self._rotation(wanted, vectors)
        sides = OneSide(fold, rotation, self._metric, self._base.shape[1])
        if rotation is not None:
            vectors = vectors @ rotation.T
        return Pipeline(str(wanted), sides, self._quantizer(wanted, vectors, sides))

    def _rotation(self, wanted: PipelineSpec, vectors: Float32) -> Float32 | None:
        width = vectors.shape[1]
        if wanted.quantizer == "OPQ":
            return opq_rotation(vectors, wanted.n_bytes, wanted.width or width, self._seed, self._effort)
        if wanted.quantizer in ("SQ4", "Binary") or wanted.quantizer in RABITQ:
            return random_rotation(width, self._seed)
        return None

    def _quantizer(self, wanted: PipelineSpec, vectors: Float32, sides: OneSide) -> Quantizer:
        name, width = wanted.quantizer, vectors.shape[1]
        if name in FLOATS:
            return Floats(name, width)
        if name in SCALARS:
            return Scalar.train(name, vectors)
        if name in RABITQ:
            return RaBitQ.train(name, vectors, sides.score)
        if name == "Binary":
            return Product(name, sign_codebooks(vectors))
        return Product.train(f"{name}{wanted.n_bytes}", vectors, wanted.n_bytes, self._seed, self._effort)
