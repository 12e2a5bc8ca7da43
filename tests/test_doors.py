"""Each deed has one door: an array, a frame, a column, a file, a folder, a URL and a Source give the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nearfold as nf
from nearfold.errors import ParameterError

KINDS = ("array", "frame", "pandas column", "polars column", "npy", "parquet folder", "url", "source")


@pytest.fixture(scope="module", name="X")
def vectors() -> np.ndarray:
    rows: np.ndarray = nf.load_sample().vectors[:1200, :32].astype(np.float32)
    return rows


@pytest.fixture(scope="module")
def inputs(X: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("doors")
    np.save(home / "x.npy", X)
    (home / "parts").mkdir()
    for number, rows in enumerate(np.array_split(X, 3)):
        table = pa.table({"id": range(len(rows)), "v": pa.array(list(rows), pa.list_(pa.float32()))})
        pq.write_table(table, home / "parts" / f"{number}.parquet")
    memory = fsspec.filesystem("memory")
    memory.pipe("/doors/x.npy", (home / "x.npy").read_bytes())
    yield {
        "array": X,
        "frame": pd.DataFrame(X),
        "pandas column": pd.Series(list(X)),
        "polars column": pl.Series(list(X)),
        "npy": home / "x.npy",
        "parquet folder": str(home / "parts"),
        "url": "memory://doors/x.npy",
        "source": nf.open_source(home / "x.npy"),
    }
    memory.rm("/doors", recursive=True)


FOLD = nf.NearFold(8, n_steps=5, n_anchors=50)


def recall(result: Any) -> float:
    mean: float = result.recall[10].mean
    return mean


DEEDS: dict[str, Callable[[Any, np.ndarray, Path], Any]] = {
    "fit": lambda given, _X, _: FOLD.fit(given).encoder_.weight,
    "fit in memory": lambda given, _X, _: nf.MPAD(2, n_samples=100).fit(given).encoder_.weight,
    "partial_fit": lambda given, _X, _: nf.PCA(8).partial_fit(given).encoder_.weight,
    "evaluate": lambda given, X, _: recall(nf.evaluate(nf.PCA(8).fit(X).encoder_, given, X[::40] + 0.01)),
    "compare": lambda given, _X, _: recall(nf.compare(given, methods=["pca"]).entries[0].evaluation),
    "sweep": lambda given, _X, _: nf.sweep(
        given, n_components=4, methods=["rae-exact"], weight_decays=[1e-6, 1e-4]
    ).chosen["rae-exact"],
    "fit_codec": lambda given, _X, _: nf.fit_codec(given, "PCA8,SQ8").encode(np.ones((1, 32), np.float32)),
    "plan": lambda given, _X, _: str(nf.plan(given, n_bytes=8, codecs=["SQ4", "PCA8,SQ8"]).chosen.spec),
    "inspect": lambda given, X, _: nf.inspect(nf.PCA(8).fit(X).encoder_, given).as_dict()["spectrum"][
        "kappa"
    ],
    "drift": lambda given, X, _: (
        nf.drift(nf.add_drift_stats(nf.PCA(8).fit(X).encoder_, nf.PCA(8), X), given).current.recall
    ),
    "update": lambda given, X, home: (
        nf.update(
            FOLD.fit(X[::-1][:1100], checkpoint=home / "scan").encoder_, home / "scan", given
        ).loss_before
    ),
    "index": lambda given, X, _: (
        nf.SearchIndex.build(nf.fit_codec(X, "PCA8,SQ8"), given).search(X[:3], 2).ids
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_every_input_gives_the_same(deed: str, X: np.ndarray, inputs: dict[str, Any], tmp_path: Path) -> None:
    found = {}
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        found[kind] = DEEDS[deed](inputs[kind], X, tmp_path / kind)
    for kind, value in found.items():
        if isinstance(value, str):
            assert value == found["array"], kind
        else:
            np.testing.assert_allclose(value, found["array"], rtol=1e-4, atol=1e-5, err_msg=kind)


def test_every_input_is_applied(X: np.ndarray, inputs: dict[str, Any], tmp_path: Path) -> None:
    fold = nf.PCA(8).fit(X).encoder_
    for kind in KINDS:
        for out in (f"{kind}.parquet", f"{kind} folder"):
            written = nf.apply(fold, inputs[kind], tmp_path / out)
            assert written.rows == len(X), (kind, out)
            with nf.config_context(n_threads=1):
                again = np.concatenate(
                    [np.asarray(c.vectors) for c in nf.open_source(tmp_path / out).chunks(10**6)]
                )
            np.testing.assert_allclose(again, fold.transform(X), rtol=1e-4, atol=1e-5)


def test_settings_hold_inside_a_block_and_everywhere() -> None:
    before = nf.get_config()
    with nf.config_context(memory="1GB", n_threads=1):
        assert nf.get_config() == {"memory": 10**9, "n_threads": 1, "scheduler": None}
        with nf.config_context(memory=None):
            assert nf.get_config()["memory"] is None
            assert nf.get_config()["n_threads"] == 1
    assert nf.get_config() == before
    nf.set_config(memory="800MB")
    try:
        assert nf.get_config()["memory"] == 800_000_000
    finally:
        nf.set_config(memory=None)
    for wrong in ({"memory": "much"}, {"memory": True}, {"n_threads": 0}, {"n_threads": 1.5}):
        with pytest.raises(ParameterError), nf.config_context(**wrong):
            pass


def test_an_array_is_scanned_whatever_the_budget(X: np.ndarray) -> None:
    """It is in memory already."""
    expected = FOLD.fit(X).encoder_.weight
    with nf.config_context(memory="1MB", scheduler="tcp://127.0.0.1:9"):
        np.testing.assert_array_equal(FOLD.fit(X).encoder_.weight, expected)


def test_a_fitted_estimator_stands_for_its_fold(X: np.ndarray, tmp_path: Path) -> None:
    fitted, fold = nf.PCA(8).fit(X), nf.PCA(8).fit(X).encoder_
    assert recall(nf.evaluate(fitted, X, X[::40] + 0.01)) == recall(nf.evaluate(fold, X, X[::40] + 0.01))
    assert nf.inspect(fitted, X).as_dict() == nf.inspect(fold, X).as_dict()
    assert nf.apply(fitted, X, tmp_path / "z.npy").rows == len(X)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), fold.transform(X), atol=1e-5)
    for wrong in (nf.PCA(8), "fold.safetensors"):
        with pytest.raises(ParameterError, match="is no fold"):
            nf.evaluate(wrong, X, X[:3])
