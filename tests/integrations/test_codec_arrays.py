"""Codecs as plain arrays, decoded by the lines of Python and of JavaScript that the documentation has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nearfold import Codec
from nearfold._utils.arrays import METRICS, Metric
from nearfold.codecs.quantizers.base import filled
from nearfold.errors import ParameterError
from nearfold.integrations.codec_arrays import codec_arrays, write_codec_json, write_codec_npz

from .conftest import CODED, CodecOf

Vectors = npt.NDArray[np.float32]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export-codecs.md"


def block(language: str) -> str:
    """Return the block of the page that decodes in a language."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (found,) = [each for each in blocks if re.search(r"^(def|function) decode\(", each, re.MULTILINE)]
    return str(found)


@pytest.fixture
def decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Codec, Any], Vectors]:
    """Decode codes as the Python of the page does."""
    monkeypatch.chdir(tmp_path)

    def decoded(codec: Codec, codes: Any) -> Vectors:
        write_codec_npz(codec, "codec.npz")
        names: dict[str, Any] = {}
        exec(compile(block("python"), str(PAGE), "exec"), names)
        return np.asarray(names["decode"](codes))

    return decoded


def test_the_lines_are_few() -> None:
    for language in ("python", "js"):
        lines = [line for line in block(language).splitlines() if line.strip()]
        assert len(lines) <= 14
        assert "nearfold" not in block(language)


@pytest.mark.parametrize("spec", CODED)
@pytest.mark.parametrize("metric", METRICS)
def test_python_decodes_alike(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf, decode: Callable[[Codec, Any], Vectors]
) -> None:
    codec = codec_of(spec, metric)
    codes = codec.encode(base)
    wanted = codec.decode(codes)
    np.testing.assert_allclose(decode(codec, codes), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("spec", CODED)
@pytest.mark.parametrize("metric", METRICS)
def test_mapped_queries_rank_decoded_vectors_as_an_index_does(
    spec: str, metric: Metric, base: Vectors, codec_of: CodecOf
) -> None:
    codec = codec_of(spec, metric)
    codes = codec.encode(base[:900])
    arrays, queries, vectors = codec_arrays(codec), base[900:], codec.decode(codes)
    if "query_weight" in arrays:
        queries = queries @ arrays["query_weight"].T + arrays["query_bias"]
    if str(arrays["score"]) == "ip":
        scores = queries @ vectors.T
    else:
        scores = -np.square(queries[:, None] - vectors[None]).sum(axis=2)
    found = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    own = filled(codec.index(), codes).search(codec.prepare_queries(base[900:]), 5)[1]
    # Few vectors tie; those may be in any order.
    assert np.mean([len(np.intersect1d(a, b)) / 5 for a, b in zip(found, own, strict=True)]) > 0.97


@pytest.mark.parametrize("spec", CODED)
def test_javascript_decodes_alike(spec: str, base: Vectors, codec_of: CodecOf, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    codec = codec_of(spec, "l2")
    codes = codec.encode(base[:7])
    write_codec_json(codec, tmp_path / "codec.json")
    (tmp_path / "codes.json").write_text(json.dumps(codes.tolist()))
    more = """
const codes = JSON.parse(readFileSync("codes.json", "utf8"));
console.log(JSON.stringify(codes.map((code) => Array.from(decode(Uint8Array.from(code))))));
"""
    (tmp_path / "decode.mjs").write_text(block("js") + more)
    ended = subprocess.run([node, "decode.mjs"], capture_output=True, text=True, check=True, cwd=tmp_path)
    np.testing.assert_allclose(json.loads(ended.stdout), codec.decode(codes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", ["SQ8", "PCA32,OPQ4_16", "NearFold32,AQ6"])
def test_json_holds_every_bit_of_what_npz_does(spec: str, codec_of: CodecOf, tmp_path: Path) -> None:
    codec = codec_of(spec, "l2")
    write_codec_npz(codec, tmp_path / "codec.npz")
    write_codec_json(codec, tmp_path / "codec.json")
    held = json.loads((tmp_path / "codec.json").read_text())
    with np.load(tmp_path / "codec.npz", allow_pickle=False) as arrays:
        assert held.keys() == set(arrays) == codec_arrays(codec).keys()
        for name, array in arrays.items():
            assert np.array_equal(np.array(held[name], array.dtype), array), name


@pytest.mark.parametrize(
    ("spec", "said"),
    [("F16", "F16.*<f2"), ("NearFold32,F32", "F32.*<f4"), ("RaBitQ1", "RaBitQ1.*faiss")],
)
def test_codes_that_are_no_sums_are_refused_by_name(
    spec: str, said: str, codec_of: CodecOf, tmp_path: Path
) -> None:
    for write in (write_codec_json, write_codec_npz):
        with pytest.raises(ParameterError, match=said):
            write(codec_of(spec, "l2"), tmp_path / "codec")
    assert not list(tmp_path.iterdir())


def test_networks_are_refused(network_codec: Codec) -> None:
    with pytest.raises(ParameterError, match="network"):
        codec_arrays(network_codec)
