from __future__ import annotations

import contextlib
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nearfold import Encoder, MLPEncoder
from nearfold.errors import DataError, FileError, NearfoldError, ParameterError
from nearfold.folds.fold import safetensors_bytes


@pytest.fixture
def encoder(rng: np.random.Generator) -> Encoder:
    return Encoder(
        rng.standard_normal((3, 7)).astype(np.float32),
        bias=rng.standard_normal(3).astype(np.float32),
        metric="l2",
        method="test",
        parameters={"a": 1},
        facts={"rows": 10, "loss": 0.5},
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8])
def test_transform_is_the_linear_map(encoder: Encoder, rng: np.random.Generator, dtype: type) -> None:
    X = rng.integers(0, 100, (50, 7)).astype(dtype)
    expected = X.astype(float) @ encoder.weight.T.astype(float) + encoder.bias
    np.testing.assert_allclose(encoder.transform(X), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", np.float64, np.float16])
def test_output_dtype(encoder: Encoder, dtype: str | type) -> None:
    assert encoder.transform(np.ones((2, 7)), dtype=dtype).dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "nonsense", np.uint8])
def test_bad_output_dtype(encoder: Encoder, dtype: str | type) -> None:
    with pytest.raises(ParameterError, match="dtype"):
        encoder.transform(np.ones((2, 7)), dtype=dtype)


def test_chunks_change_nothing(
    encoder: Encoder, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rng.standard_normal((2000, 7)).astype(np.float32)
    whole = encoder.transform(X)
    monkeypatch.setattr("nearfold.folds.fold._CHUNK_BYTES", 1)
    np.testing.assert_allclose(encoder.transform(X), whole, rtol=1e-5, atol=1e-6)
    X[1777, 2] = np.nan
    with pytest.raises(DataError, match="row 1777, column 2"):
        encoder.transform(X)


def test_layouts_of_the_input(encoder: Encoder, rng: np.random.Generator) -> None:
    X = rng.standard_normal((20, 14)).astype(np.float32)
    X.flags.writeable = False
    expected = encoder.transform(np.ascontiguousarray(X[::2, ::2]))
    np.testing.assert_allclose(encoder.transform(X[::2, ::2]), expected, rtol=1e-6)
    np.testing.assert_allclose(
        encoder.transform(np.asfortranarray(X[::2, ::2])), expected, rtol=1e-5, atol=1e-6
    )
    assert encoder.transform(np.empty((0, 7))).shape == (0, 3)


def test_bad_rows(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="7 features"):
        encoder.transform(np.ones((2, 6)))
    with pytest.raises(DataError, match="beyond float16"):
        encoder.transform(np.full((1, 7), 1e6), dtype=np.float16)
    with pytest.raises(DataError, match="beyond float32"):
        encoder.transform(np.full((1, 7), 1e300))


def test_it_is_a_value(encoder: Encoder) -> None:
    with pytest.raises(AttributeError):
        encoder.metric = "ip"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        encoder.weight[0, 0] = 1
    with pytest.raises(TypeError):
        encoder.facts["rows"] = 2  # type: ignore[index]
    W = np.ones((1, 2), np.float32)
    copied = Encoder(W)
    W[...] = 0
    assert copied.weight.all()


@pytest.mark.parametrize("through", ["file", "pickle"])
def test_round_trip(encoder: Encoder, tmp_path: Path, through: str) -> None:
    if through == "file":
        encoder.save(tmp_path / "e.safetensors")
        back = Encoder.load(tmp_path / "e.safetensors")
    else:
        back = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(back.weight, encoder.weight)
    np.testing.assert_array_equal(back.bias, encoder.bias)
    assert (back.metric, back.method) == (encoder.metric, encoder.method)
    assert (dict(back.parameters), dict(back.facts)) == (dict(encoder.parameters), dict(encoder.facts))


def test_bad_values_are_refused() -> None:
    with pytest.raises(DataError, match="bias"):
        Encoder(np.ones((2, 3), np.float32), bias=np.ones(3, np.float32))
    with pytest.raises(DataError, match="weight"):
        Encoder(np.full((2, 3), np.nan, np.float32))
    with pytest.raises(ParameterError, match="metric"):
        Encoder(np.ones((2, 3), np.float32), metric="hamming")  # type: ignore[arg-type]


def rewritten(path: Path, **metadata: str) -> Path:
    """Save an encoder whose metadata is changed."""
    good = {"format": "nearfold.encoder", "format_version": "1", "metric": "ip", "method": "x"}
    save_file(
        {"weight": np.ones((2, 3), np.float32)}, path, {**good, "parameters": "{}", "facts": "{}", **metadata}
    )
    return path


def test_metadata_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    assert Encoder.load(rewritten(path)).metric == "ip"
    for metadata, says in [
        ({"format": "other"}, "not a nearfold encoder"),
        ({"format_version": "2"}, "version 2, .*upgrade nearfold"),
        ({"format_version": "x"}, "format version"),
        ({"metric": "hamming"}, "metric"),
        ({"facts": "{"}, "damaged, or not made by nearfold"),
        ({"facts": "[]"}, "Expected `object`, got `array`"),
        ({"facts": "[" * 100_000}, "damaged, or not made by nearfold"),
        ({"facts": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"}, "nested too deeply"),
    ]:
        with pytest.raises(FileError, match=says):
            Encoder.load(rewritten(path, **metadata))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"weight": np.ones(3, np.float32)}, "rank 2"),
        ({"weight": np.ones((2, 3))}, "float64"),
        ({"weight": np.ones((0, 3), np.float32)}, "shape \\(0, 3\\)"),
        ({"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}, "bias"),
        ({"weight": np.full((2, 3), np.inf, np.float32)}, "weight"),
        ({"bias": np.ones(3, np.float32)}, "tensors"),
        ({"weight": np.ones((2, 3), np.float32), "more": np.ones(3, np.float32)}, "tensors"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    path = tmp_path / "e.safetensors"
    good = {"format": "nearfold.encoder", "format_version": "1", "metric": "ip", "method": "x"}
    save_file(tensors, path, {**good, "parameters": "{}", "facts": "{}"})
    with pytest.raises(FileError, match=says):
        Encoder.load(path)


def test_broken_files_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    whole = path.read_bytes()
    for broken in (
        b"",
        whole[:4],
        whole[:40],
        whole[:-1],
        whole + b"x",
        struct.pack("<Q", 2**60) + whole[8:],
    ):
        path.write_bytes(broken)
        with pytest.raises(FileError, match=r"e\.safetensors"):
            Encoder.load(path)
    with pytest.raises(FileError, match="can't be read"):
        Encoder.load(tmp_path / "missing")
    with pytest.raises(FileError, match="is a folder"):
        Encoder.load(tmp_path)


@given(st.data())
def test_mutated_files_raise_only_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutant") / "e.safetensors"
    rewritten(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(NearfoldError):
        Encoder.load(path)


def test_a_failed_save_leaves_the_old_file(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    before = path.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nearfold._utils.files.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        Encoder(np.ones((1, 2), np.float32)).save(path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [tmp_path / "e.card.md", path]
    with pytest.raises(FileError, match="can't be written"):
        encoder.save(tmp_path / "no" / "folder")
    with pytest.raises(FileError, match="is a folder"):
        encoder.save(tmp_path)


def test_applying_needs_numpy_alone(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "e.safetensors")
    code = (
        "import sys, numpy as np\n"
        "from nearfold.folds.encoder import Encoder\n"
        f"Encoder.load({str(tmp_path / 'e.safetensors')!r}).transform(np.ones((2, 7)))\n"
        "import json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"sklearn", "faiss", "pyarrow", "plotly", "scipy", "rich", "typer", "torch"} & set(loaded)
    assert {"numpy", "safetensors"} <= set(loaded)


def test_the_same_encoder_makes_the_same_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    facts = {f"fact {i}": i for i in range(9)}
    for name in ("a", "b", "c", "d"):
        Encoder(np.eye(2, 5, dtype=np.float32), metric="l2", method="é", facts=facts).save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1
    assert Encoder.load(tmp_path / "a").facts == facts


def test_it_says_what_it_is() -> None:
    assert repr(Encoder(np.eye(2, 5))) == "Encoder(unnamed, 5 -> 2, cosine)"
    assert repr(Encoder(np.eye(1, 2), metric="l2", method="pca")) == "Encoder(pca, 2 -> 1, l2)"
    assert repr(MLPEncoder([(np.eye(2, 3), np.zeros(2))])) == "MLPEncoder(unnamed, 3 -> 2, cosine)"


@pytest.mark.parametrize("length", range(9))
def test_tensors_start_where_numbers_are_aligned(length: int) -> None:
    content = safetensors_bytes({"weight": np.eye(3, dtype=np.float32)}, {"text": "x" * length})
    (header,) = struct.unpack("<Q", content[:8])
    assert header % 8 == 0
    assert json.loads(content[8 : 8 + header])["__metadata__"] == {"text": "x" * length}
    assert content[8 + header :] == np.eye(3, dtype=np.float32).tobytes()
