"""`export`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest

from nearfold import Encoder

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
