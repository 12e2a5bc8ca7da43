"""Judging files gives what judging arrays gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import PCA, evaluate
from nearfold._utils.arrays import METRICS, Metric
from nearfold.errors import DataError, NearfoldError
from nearfold.evaluation.streamed import evaluate_source, hold_out_rows
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
def test_it_is_what_arrays_give(
    metric: Metric, source: Source, sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfold.io.vectors._CHUNK_BYTES", 1)
    fold = PCA(24, metric=metric).fit(sample).encoder_
    queries, rows = hold_out_rows(source, 200)
    np.testing.assert_array_equal(queries, sample[rows])
    streamed = evaluate_source(fold, source, queries, held_out=rows)
    held = evaluate(fold, np.delete(sample, rows, axis=0), queries)
    for column, shares in held.per_query.items():
        np.testing.assert_allclose(streamed.per_query[column], shares, err_msg=column)


def test_ties_are_right_answers(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = np.repeat(rng.standard_normal((6, 8)).astype(np.float32), 60, axis=0)
    np.save(tmp_path / "x.npy", rows)
    fold = PCA(3).fit(rng.standard_normal((50, 8))).encoder_
    streamed = evaluate_source(fold, open_source(tmp_path / "x.npy"), rows[::60] + 0.01)
    plain = evaluate(fold, rows, rows[::60] + 0.01)
    for column, shares in plain.per_query.items():
        np.testing.assert_allclose(streamed.per_query[column], shares, err_msg=column)


def test_bad_input_is_named(source: Source, sample: np.ndarray) -> None:
    fold = PCA(4).fit(sample).encoder_
    with pytest.raises(DataError, match="queries: has 5 dimensions"):
        evaluate_source(fold, source, np.ones((3, 5)))
    with pytest.raises(DataError, match="give more rows"):
        hold_out_rows(source, 1499)
    with pytest.raises(NearfoldError, match="ask for fewer"):
        evaluate_source(fold, source, sample[:3], k=[1600])
