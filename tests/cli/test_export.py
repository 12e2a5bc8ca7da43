"""`export`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest

from nearfold import Codec, Encoder, fit_codec
from nearfold.codecs.quantizers.base import filled

from .conftest import Run


@pytest.fixture
def encoder(base: Path, run: Run) -> str:
    assert run("fit", base, "-d", "16", "-o", "fold.safetensors").returncode == 0
    return "fold.safetensors"


@pytest.mark.parametrize("out", ["f.onnx", "f.faiss", "f.index", "f.json", "f.npy", "f.sql"])
def test_the_ending_tells_what_for(encoder: str, out: str, run: Run, tmp_path: Path) -> None:
    ended = run("export", encoder, out, "--json")
    assert ended.returncode == 0, ended.stderr
    fold = Encoder.load(tmp_path / encoder)
    target = json.loads(ended.stdout)["to"]
    path = tmp_path / out
    if target == "onnx":
        assert onnx.load(path).graph.input[0].name == "vectors"
    elif target == "faiss":
        index = faiss.read_index(str(path))
        assert (index.d, index.index.d) == (fold.n_features, fold.n_components)
    elif target == "json":
        assert np.array_equal(np.array(json.loads(path.read_text())["weight"], np.float32), fold.weight)
    elif target == "npy":
        assert np.array_equal(np.load(path), fold.weight)
    else:
        assert 'CREATE FUNCTION "fold"' in path.read_text()


def test_options_reach_the_file(encoder: str, run: Run, tmp_path: Path) -> None:
    assert run("export", encoder, "f.onnx", "--half", "--no-normalize").returncode == 0
    graph = onnx.load(tmp_path / "f.onnx").graph
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert "Div" not in [node.op_type for node in graph.node]
    assert run("export", encoder, "f.faiss", "--index", "HNSW8").returncode == 0
    assert isinstance(
        faiss.downcast_index(faiss.read_index(str(tmp_path / "f.faiss")).index), faiss.IndexHNSWFlat
    )
    assert run("export", encoder, "f.txt", "--to", "sql", "--name", 'my "fold"').returncode == 0
    assert 'CREATE FUNCTION "my ""fold"""' in (tmp_path / "f.txt").read_text()


def test_bad_input_is_one_line(encoder: str, run: Run, tmp_path: Path) -> None:
    for command, said in (
        ((encoder, "f.xyz"), "ending"),
        ((encoder, "f.json", "--half"), "--half"),
        ((encoder, "f.json", "--no-normalize"), "--normalize"),
        ((encoder, "f.onnx", "--index", "Flat"), "--index"),
        ((encoder, "f.faiss", "--index", "Nonsense"), "Nonsense"),
        ((encoder, "f.npz"), "npz"),
        ((encoder, "f.faiss", "--base", "base.npy"), "--base"),
        ((encoder, "f.faiss", "--codes", "base.npy"), "--codes"),
        ((encoder, "f.faiss", "--column", "a"), "--column"),
        ((encoder, "f", "--to", "model2vec"), "--model"),
        ((encoder, "f", "--to", "sentence-transformers", "--model", "nowhere"), "modules.json"),
        (("none.safetensors", "f.onnx"), "none.safetensors"),
        ((encoder, "nowhere/f.onnx"), "nowhere"),
    ):
        ended = run("export", *command)
        assert ended.returncode == 2, command
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert said in ended.stderr
    written = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("f"))
    assert written == ["fold.card.md", "fold.safetensors"]


@pytest.fixture
def codec(base: Path, tmp_path: Path) -> str:
    fit_codec(np.load(base), "PCA16,SQ8").save(tmp_path / "codec.safetensors")
    return "codec.safetensors"


def test_codecs_have_their_formats(codec: str, base: Path, run: Run, tmp_path: Path) -> None:
    loaded, vectors = Codec.load(tmp_path / codec), np.load(base)
    for out, target in (("c.onnx", "onnx"), ("c.faiss", "faiss"), ("c.json", "json"), ("c.npz", "npz")):
        ended = run("export", codec, out, "--json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["to"] == target
    assert onnx.load(tmp_path / "c.onnx").graph.output[0].name == "codes"
    with np.load(tmp_path / "c.npz") as arrays:
        assert arrays["codebooks"].shape == (16, 256, 1)
        assert np.array_equal(
            np.array(json.loads((tmp_path / "c.json").read_text())["codebooks"], np.float32),
            arrays["codebooks"],
        )
    assert faiss.read_index(str(tmp_path / "c.faiss")).ntotal == 0
    assert run("apply", codec, base, "-o", "codes.npy").returncode == 0
    wanted = filled(loaded.index(), loaded.encode(vectors)).search(loaded.prepare_queries(vectors[:5]), 3)[1]
    for options in (("--base", base), ("--codes", "codes.npy"), ("--base", base, "--index", "HNSW16")):
        ended = run("export", codec, "c.faiss", *options)
        assert ended.returncode == 0, ended.stderr
        assert f"{len(vectors):,} vectors" in ended.stdout
        assert "takes codes" not in ended.stdout
        index = faiss.read_index(str(tmp_path / "c.faiss"))
        assert (index.search(vectors[:5], 3)[1] == wanted).mean() > 0.9


def test_that_an_index_takes_codes_alone_is_said(base: Path, run: Run, tmp_path: Path) -> None:
    fit_codec(np.load(base), "PCA16,RSQ2").save(tmp_path / "codec.safetensors")
    ended = run("export", "codec.safetensors", "c.faiss", "--base", base)
    assert ended.returncode == 0, ended.stderr
    assert "takes codes, not vectors" in ended.stdout
    ended = run("export", "codec.safetensors", "c.faiss", "--json")
    assert json.loads(ended.stdout)["takes_vectors"] is False


def test_bad_input_for_codecs_is_one_line(codec: str, base: Path, run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.zeros((3, 5), np.uint8))
    for command, said in (
        ((codec, "c.npy"), "npy"),
        ((codec, "c.sql"), "sql"),
        ((codec, "c", "--to", "model2vec", "--model", "m"), "--model"),
        ((codec, "c.onnx", "--half"), "--half"),
        ((codec, "c.faiss", "--normalize"), "--normalize"),
        ((codec, "c.onnx", "--base", base), "--base"),
        ((codec, "c.faiss", "--column", "a"), "--column"),
        ((codec, "c.faiss", "--index", "IVF8"), "IVF8"),
        ((codec, "c.faiss", "--base", "none.npy"), "none.npy"),
        ((codec, "c.faiss", "--codes", "codes.npy"), "codes.npy"),
        ((codec, "c.faiss", "--codes", base), "uint8"),
        ((codec, "c.faiss", "--codes", "codes.npy", "--base", base), "both"),
        ((codec, "c.faiss", "--codes", "c.faiss"), "c.faiss"),
    ):
        ended = run("export", *command)
        assert ended.returncode == 2, command
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert said in ended.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("c.")]
