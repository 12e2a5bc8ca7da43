"""A row that can't be used is named by its number in the user's own file, whatever is drawn of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA, NearFold, SearchIndex, compare, fit_codec, plan, sweep
from nearfold.errors import DataError

from .conftest import Run

_BAD = 333

_METHODS = ("--methods", "pca", "-d", "4")
COMMANDS = {
    "fit": ("fit", "X", "-d", "4", "-o", "g"),
    "fit a sample": ("fit", "X", "-d", "4", "-o", "g", "--rows", "895"),
    "fit for queries": ("fit", "clean.npy", "-d", "4", "-o", "g", "--queries", "X"),
    "compare": ("compare", "X", *_METHODS),
    "compare a sample": ("compare", "X", *_METHODS, "--rows", "895"),
    "compare with queries": ("compare", "clean.npy", *_METHODS, "--queries", "X"),
    "sweep": ("sweep", "X", "--methods", "rae-exact", "-d", "4"),
    "plan": ("plan", "X", "--bytes", "16", "--codecs", "SQ8", "-o", "p"),
    "eval": ("eval", "f", "X"),
    "eval with queries": ("eval", "f", "clean.npy", "--queries", "X"),
    "inspect": ("inspect", "f", "X"),
    "drift": ("drift", "f", "X"),
    "search": ("search", "index", "X"),
}


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("folder", [False, True])
def test_commands_name_the_user_s_row(value: float, folder: bool, run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, 16)).astype(np.float32)
    np.save(tmp_path / "clean.npy", X)
    assert run("fit", "clean.npy", "-d", "4", "-o", "f", "--method", "pca").returncode == 0
    fit_codec(X, "PCA8,SQ8").save(tmp_path / "p.safetensors")
    index = ("index", "p.safetensors", "clean.npy", "-o", "index")
    assert run(*index).returncode == 0
    X[_BAD] = value
    first = 100 if folder else 0
    (tmp_path / "X").mkdir()
    np.save(tmp_path / "X" / "b.npy", X[first:])
    if folder:
        np.save(tmp_path / "X" / "a.npy", X[:first])
    name = "X" if folder else str(Path("X") / "b.npy")
    wanted = f"row {_BAD - first}"
    for label, command in COMMANDS.items():
        done = run(*(name if part == "X" else part for part in command))
        said = f"{label}: {done.stderr}{done.stdout if done.returncode == 0 else ''}"
        assert done.returncode == 2, said
        assert done.stderr.count("\n") == 1, said
        assert f"{wanted}," in done.stderr or f"{wanted} " in done.stderr, said
        assert "b.npy" in done.stderr, said


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_arrays_are_named_before_splits(value: float, rng: np.random.Generator) -> None:
    X = rng.standard_normal((900, 16)).astype(np.float32)
    X[_BAD] = value
    for work in (
        lambda: compare(X, n_components=[4], methods=["pca"]),
        lambda: sweep(X, n_components=4, methods=["rae-exact"]),
        lambda: plan(X, n_bytes=16, codecs=["SQ8"]),
        lambda: NearFold(4, n_anchors=800, n_steps=2).fit(X),
    ):
        with pytest.raises(DataError, match=rf"row {_BAD}\b"):
            work()


@pytest.mark.parametrize("spec", ["SQ8", "PCA8,SQ8"])
def test_an_index_names_file_and_row(
    spec: str, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rng.standard_normal((900, 16)).astype(np.float32)
    codec = fit_codec(X, spec)
    monkeypatch.setattr("nearfold.search.index._CHUNK_BYTES", 1)
    monkeypatch.setattr("nearfold.search.index._SAMPLE", 300)
    for value in (np.nan, 0.0):
        if value == 0 and spec != "SQ8":
            continue  # A fold may leave nothing of a row: zero rows are let in.
        X[700] = value
        np.save(tmp_path / "x.npy", X)
        for given, name in ((tmp_path / "x.npy", "x.npy"), (X, "X")):
            with pytest.raises(DataError, match=rf"{name}.*row 700\b"):
                SearchIndex.build(codec, given)
        built = SearchIndex.build(codec, X[:600])
        with pytest.raises(DataError, match=r"X.*row 100\b"):
            built.add(X[600:])
        with pytest.raises(DataError, match=r"queries.*row 700\b"):
            built.search(X)


def test_products_beyond_float32_name_a_row(rng: np.random.Generator) -> None:
    X = rng.standard_normal((900, 16)).astype(np.float32)
    X[_BAD, 3] = 1e19
    for work in (
        lambda: compare(X, n_components=[4], methods=["pca"], metrics=["l2"]),
        lambda: plan(X, n_bytes=16, codecs=["SQ8"], metric="ip"),
        lambda: PCA(4, metric="l2").fit(X) and SearchIndex.build(fit_codec(X[:300], "SQ8", metric="l2"), X),
    ):
        with pytest.raises(DataError, match=rf"row {_BAD} has numbers of"):
            work()
