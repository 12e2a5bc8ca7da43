"""Folds and codecs of each kind, to be exported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Codec, Encoder, MLPEncoder, NearFold
from nearfold._utils.arrays import Metric
from nearfold.codecs.fitting import CodecFitter
from nearfold.codecs.projections import SharedProjection
from nearfold.codecs.quantizers.base import QuantizerSpec
from nearfold.codecs.quantizers.scalar import Scalar

Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def base(sample: Vectors) -> Vectors:
    return np.ascontiguousarray(sample[:1000, :64] + 0.02)


@pytest.fixture(scope="session")
def fold(base: Vectors) -> Encoder:
    """Return a linear fold 64 -> 16 for cosine, without bias."""
    return NearFold(n_components=16, n_steps=20).fit(base).encoder_


@pytest.fixture(scope="session")
def biased(fold: Encoder) -> Encoder:
    return Encoder(fold.weight, bias=np.linspace(-0.1, 0.2, 16, dtype=np.float32), metric="l2")


@pytest.fixture(scope="session")
def network() -> MLPEncoder:
    rng = np.random.default_rng(1)
    shapes = [(32, 64), (24, 32), (16, 24)]
    layers = [
        (rng.standard_normal(s).astype(np.float32) / 6, rng.standard_normal(s[0]).astype(np.float32) / 9)
        for s in shapes
    ]
    return MLPEncoder(layers, skip=rng.standard_normal((16, 64)).astype(np.float32) / 8)


CODED = (
    "SQ8",
    "PCA30,SQ6",
    "NearFold32,SQ4",
    "PQ8",
    "PCA32,OPQ4_16",
    "NearFold32,Binary",
    "NearFold32,AQ6",
    "PCA30,AQ5",
    "NearFold32,RSQ1",
    "RSQ2",
    "NearFold32,RSQ4",
)
"""Codecs of every kind whose codes are sums of codewords."""

CodecOf = Callable[[str, Metric], Codec]


@pytest.fixture(scope="session")
def codec_of(base: Vectors) -> CodecOf:
    """Return a function that fits a codec of a spec to `base` once, in few steps."""

    @cache
    def fitter(metric: Metric) -> CodecFitter:
        return CodecFitter(base, metric=metric, budget=0.1)

    @cache
    def fitted(spec: str, metric: Metric) -> Codec:
        return fitter(metric).fit(spec)

    return fitted


@pytest.fixture(scope="session")
def network_codec(network: MLPEncoder, base: Vectors) -> Codec:
    quantizer = Scalar.train(QuantizerSpec("SQ8"), network.transform(base))
    return Codec("MLPRAE16,SQ8", SharedProjection(network, None, network.metric, 64), quantizer)
