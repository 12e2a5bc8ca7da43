from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import nearfold
from nearfold import Encoder
from nearfold.errors import DataError, FileError
from nearfold.folds.mlp import MLPEncoder


def network(rng: np.random.Generator, *widths: int, skip: bool = True) -> MLPEncoder:
    layers = [(rng.standard_normal((b, a)), rng.standard_normal(b)) for a, b in pairwise(widths)]
    return MLPEncoder(
        layers,
        skip=rng.standard_normal((widths[-1], widths[0])) if skip else None,
        metric="l2",
        method="test",
        parameters={"a": 1},
        facts={"rows": 3},
    )


@pytest.mark.parametrize("widths", [(7, 5, 3), (7, 5, 4, 3)])
@pytest.mark.parametrize("skip", [True, False])
def test_it_is_the_network(widths: tuple[int, ...], skip: bool, rng: np.random.Generator) -> None:
    fold = network(rng, *widths, skip=skip)
    x = rng.standard_normal(7)
    hidden = x
    for number, (weight, bias) in enumerate(fold.layers):
        hidden = weight @ hidden + bias
        if number < len(fold.layers) - 1:
            hidden = np.where(hidden > 0, hidden, 0)
    expected = hidden + (fold.skip @ x if fold.skip is not None else 0)
    np.testing.assert_allclose(fold.transform(x[None])[0], expected, rtol=1e-5)
    assert (fold.n_features, fold.n_components) == (7, 3)
    assert fold.transform(np.ones((2, 7), np.uint8), dtype=np.float16).dtype == np.float16


@pytest.mark.parametrize("widths", [(7, 9, 3), (7, 5, 4, 3)])
def test_jacobian_against_finite_differences(widths: tuple[int, ...], rng: np.random.Generator) -> None:
    fold = network(rng, *widths)
    x = rng.standard_normal(7)
    steps = 1e-6 * np.eye(7)
    numeric = (
        fold.transform(x + steps, dtype=np.float64) - fold.transform(x - steps, dtype=np.float64)
    ) / 2e-6
    np.testing.assert_allclose(fold.jacobian(x), numeric.T, atol=1e-5)


@pytest.mark.parametrize("skip", [True, False])
def test_round_trip(skip: bool, rng: np.random.Generator, tmp_path: Path) -> None:
    fold = network(rng, 6, 5, 2, skip=skip)
    fold.save(tmp_path / "f.safetensors")
    X = rng.standard_normal((4, 6))
    for back in (nearfold.load(tmp_path / "f.safetensors"), pickle.loads(pickle.dumps(fold))):
        np.testing.assert_array_equal(back.transform(X), fold.transform(X))
        assert dict(back.facts) == {"rows": 3}
    with pytest.raises(FileError, match=r"nearfold\.load"):
        Encoder.load(tmp_path / "f.safetensors")


def test_load_reads_linear_encoders_too(tmp_path: Path) -> None:
    Encoder(np.eye(2, 3)).save(tmp_path / "e.safetensors")
    assert isinstance(nearfold.load(tmp_path / "e.safetensors"), Encoder)


def test_bad_rows_cannot_hide_behind_the_relu(rng: np.random.Generator) -> None:
    fold = network(rng, 6, 5, 2, skip=False)
    X = np.zeros((5, 6))
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3, column 1"):
        fold.transform(X)
    X[3, 1] = -np.inf
    with pytest.raises(DataError, match="row 3"):
        fold.transform(X)


def test_shapes_are_checked(rng: np.random.Generator) -> None:
    one = np.ones((2, 3)), np.ones(2)
    for layers, skip, says in [
        ([], None, "layers is empty"),
        ([one, (np.ones((2, 3)), np.ones(2))], None, "layer 1"),
        ([(np.ones((2, 3)), np.ones(3))], None, "layer 0"),
        ([one], np.ones((3, 3)), "skip has shape"),
        ([(np.full((2, 3), np.nan), np.ones(2))], None, "NaN"),
    ]:
        with pytest.raises(DataError, match=says):
            MLPEncoder(layers, skip=skip)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    good = {"format_version": "1", "metric": "ip", "method": "x", "parameters": "{}", "facts": "{}"}
    W, b = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    for tensors, kind, says in [
        ({"layers.0.weight": W}, "nearfold.mlp", "unknown tensors"),
        ({"layers.0.weight": W, "layers.1.bias": b}, "nearfold.mlp", "layer 0"),
        ({"layers.0.weight": b, "layers.0.bias": b}, "nearfold.mlp", "wrong rank"),
        ({"layers.0.weight": W, "layers.0.bias": b, "x": b}, "nearfold.mlp", "unknown tensors"),
        ({"layers.0.weight": W, "layers.0.bias": np.ones(3, np.float32)}, "nearfold.mlp", "not a usable"),
        ({"weight": W}, "nearfold.forest", "upgrade nearfold"),
    ]:
        save_file(tensors, path, {"format": kind, **good})
        with pytest.raises(FileError, match=says):
            nearfold.load(path)
