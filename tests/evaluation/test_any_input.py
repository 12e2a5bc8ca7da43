"""Whatever holds the vectors, the same is measured of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import PCA, compare, config_context, drift, evaluate, inspect, sweep
from nearfold._utils.arrays import METRICS, Metric
from nearfold._utils.sampling import sampled_rows
from nearfold.errors import DataError, NearfoldError, NearfoldWarning
from nearfold.evaluation.drift import add_drift_stats
from nearfold.io.base import Source
from nearfold.io.vectors import open_source


@pytest.fixture(params=["npy", "parquet"])
def source(request: pytest.FixtureRequest, sample: np.ndarray, tmp_path: Path) -> Source:
    if request.param == "npy":
        np.save(tmp_path / "x.npy", sample)
        return open_source(tmp_path / "x.npy")
    for i, rows in enumerate(np.array_split(sample, 3)):
        table = pa.table({"v": pa.array(list(rows), pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / f"{i}.parquet", row_group_size=170)
    return open_source(tmp_path)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_held_out_of_any_base(
    metric: Metric, source: Source, sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfold.io.vectors._CHUNK_BYTES", 1)
    fold = PCA(24, metric=metric).fit(sample).encoder_
    rows = sampled_rows(len(sample), 200, 3)
    expected = evaluate(fold, np.delete(sample, rows, axis=0), sample[rows])
    for base in (source, sample):
        held_out = evaluate(fold, base, n_queries=200, seed=3)
        for column, shares in expected.per_query.items():
            np.testing.assert_allclose(held_out.per_query[column], shares, err_msg=column)
    assert evaluate(fold, source).n_queries == 150


def test_queries_may_be_anything(source: Source, sample: np.ndarray, tmp_path: Path) -> None:
    fold = PCA(24).fit(sample).encoder_
    queries = sample[:20] + 0.01
    np.save(tmp_path / "queries.npy", queries)
    expected = evaluate(fold, sample, queries).as_dict()
    frame = pd.DataFrame({"v": list(queries)})
    for asked in (tmp_path / "queries.npy", str(tmp_path / "queries.npy"), frame["v"], queries.tolist()):
        assert evaluate(fold, source, asked).as_dict() == expected


def test_ties_are_right_answers(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = np.repeat(rng.standard_normal((6, 8)).astype(np.float32), 60, axis=0)
    np.save(tmp_path / "x.npy", rows)
    fold = PCA(3).fit(rng.standard_normal((50, 8))).encoder_
    read = evaluate(fold, tmp_path / "x.npy", rows[::60] + 0.01)
    held = evaluate(fold, rows, rows[::60] + 0.01)
    for column, shares in held.per_query.items():
        np.testing.assert_allclose(read.per_query[column], shares, err_msg=column)


def test_bad_input_is_named(source: Source, sample: np.ndarray) -> None:
    fold = PCA(4).fit(sample).encoder_
    with pytest.raises(DataError, match="queries: has 5 dimensions"):
        evaluate(fold, source, np.ones((3, 5)))
    with pytest.raises(DataError, match="give more rows"):
        evaluate(fold, source, n_queries=1499)
    with pytest.raises(NearfoldError, match="n_queries=0"):
        evaluate(fold, source, n_queries=0)
    with pytest.raises(NearfoldError, match="ask for fewer"):
        evaluate(fold, source, sample[:3], k=[1600])


def test_other_deeds_take_any_input(source: Source, sample: np.ndarray) -> None:
    fold = PCA(24).fit(sample).encoder_
    queries = sample[:20] + 0.01
    path = source.path
    assert inspect(fold, path, queries).as_dict() == inspect(fold, sample, queries).as_dict()
    told = add_drift_stats(fold, PCA(24), path)
    assert drift(told, path) == drift(told, sample)
    by_path, by_array = (compare(X, queries, methods=["pca"]).entries[0] for X in (path, sample))
    assert by_path.evaluation.as_dict() == by_array.evaluation.as_dict()
    options = {"methods": ["rae-exact"], "weight_decays": [1e-6], "n_components": 8}
    read, held = (sweep(X, queries, **options).points[0] for X in (path, sample))
    assert read.recall == held.recall


def test_a_sample_stands_for_what_memory_cannot_hold(source: Source, sample: np.ndarray) -> None:
    with config_context(memory="2MB"), pytest.warns(NearfoldWarning, match="drawn at random, stand for its"):
        found = compare(source, sample[:20] + 0.01, methods=["pca"], n_components=[8])
    assert found.rows < len(sample)
