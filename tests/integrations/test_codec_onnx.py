"""ONNX models encode as codecs do, in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from nearfold import Codec
from nearfold._utils.arrays import METRICS, Metric
from nearfold.codecs.projections import DualProjection
from nearfold.codecs.quantizers.additive import Additive
from nearfold.codecs.quantizers.base import Codes
from nearfold.errors import MissingExtraError, ParameterError
from nearfold.integrations.codec_onnx import codec_onnx_model, write_codec_onnx

from .conftest import CODED, CodecOf

Vectors = npt.NDArray[np.float32]


def run(path: Path, vectors: Vectors) -> Codes:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (codes,) = session.run(["codes"], {"vectors": vectors})
    return np.asarray(codes)


def check_alike(codec: Codec, codes: Codes, vectors: Vectors) -> None:
    """Nearly all bytes are the same, and codes that are not are as near to their vectors."""
    wanted = codec.encode(vectors)
    assert codes.dtype == np.uint8
    assert codes.shape == wanted.shape
    assert (codes != wanted).mean() < 0.002
    odd = (codes != wanted).any(axis=1)
    images = codec.projection.project(vectors)
    errors, own = (np.square(codec.decode(each) - images).sum(axis=1) for each in (codes, wanted))
    if isinstance(codec.quantizer, Additive):
        # From a tie on, the choice of the other bytes may end elsewhere.
        assert odd.mean() <= 0.01
        np.testing.assert_allclose(errors.mean(), own.mean(), rtol=1e-3)
    else:
        np.testing.assert_allclose(errors, own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spec", CODED)
@pytest.mark.parametrize("metric", METRICS)
def test_the_runtime_encodes_as_the_codec_does(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of(spec, metric)
    write_codec_onnx(codec, tmp_path / "codec.onnx")
    assert run(tmp_path / "codec.onnx", base[:0]).shape == (0, codec.bytes_per_vector)
    parts = [run(tmp_path / "codec.onnx", part) for part in np.split(base, [1, 8])]
    check_alike(codec, np.concatenate(parts), base)


def test_numbers_beyond_the_ranges_get_the_outer_steps(
    base: Vectors, codec_of: CodecOf, tmp_path: Path
) -> None:
    codec = codec_of("SQ8", "l2")
    write_codec_onnx(codec, tmp_path / "codec.onnx")
    far = np.stack([np.full(64, 1e6), np.full(64, -1e6)]).astype(np.float32)
    codes = run(tmp_path / "codec.onnx", far)
    assert np.array_equal(codes, codec.encode(far))
    assert (codes[0] == 255).all()
    assert not codes[1].any()


def test_additive_codes_of_several_groups_and_of_images_with_norms(base: Vectors, tmp_path: Path) -> None:
    """Those that earlier versions wrote: without norms of codes, but with those of images."""
    rng = np.random.default_rng(4)
    books = rng.standard_normal((2, 3, 256, 10)).astype(np.float32) / 3
    norms = np.linspace(-3, 0, 256, dtype=np.float32)
    starts = rng.standard_normal((256, 20)).astype(np.float32)
    maps = rng.standard_normal((2, 17, 64)).astype(np.float32) / 8
    center = base.mean(axis=0)
    projection = DualProjection(maps[0], maps[1], "l2", 20, center, 0.5)
    for quantizer in (Additive("AQ6", books), Additive("AQ6", books, starts, norms)):
        codec = Codec("PCA17,AQ6", projection, quantizer)
        write_codec_onnx(codec, tmp_path / "codec.onnx")
        wanted = codec.encode(base)
        codes = run(tmp_path / "codec.onnx", base)
        assert (codes == wanted).all(axis=1).mean() > 0.98


def test_a_network_may_come_first(network_codec: Codec, base: Vectors, tmp_path: Path) -> None:
    write_codec_onnx(network_codec, tmp_path / "codec.onnx")
    check_alike(network_codec, run(tmp_path / "codec.onnx", base), base)


@pytest.mark.parametrize("spec", ["NearFold32,F32", "F16", "RaBitQ1", "PCA32,RaBitQ2"])
def test_codes_of_floats_are_refused_by_name(spec: str, codec_of: CodecOf) -> None:
    with pytest.raises(ParameterError, match=spec.rpartition(",")[2]):
        codec_onnx_model(codec_of(spec, "l2"))


def test_without_onnx_the_extra_is_named(codec_of: CodecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of("SQ8", "l2")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"nearfold\[onnx\]"):
        codec_onnx_model(codec)
