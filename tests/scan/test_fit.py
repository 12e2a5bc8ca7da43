"""A fit of files is the fit of their array, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfold import PCA, RAE, NearFold, config_context
from nearfold.errors import DataError, FileError, NearfoldError, NearfoldWarning, ParameterError
from nearfold.evaluation.drift import add_drift_stats
from nearfold.io.vectors import open_source
from nearfold.scan import scanning
from nearfold.scan.checkpoint import ScanCheckpoint
from nearfold.scan.engine import Progress
from nearfold.scan.local import LocalEngine

ESTIMATORS = {
    "nearfold cosine": NearFold(24, n_steps=20),
    "nearfold l2": NearFold(24, n_steps=20, metric="l2", n_anchors=200),
    "nearfold ip": NearFold(24, n_steps=20, metric="ip", n_anchors=200),
    "pca": PCA(24),
    "pca-uncentred": PCA(24, center=False),
    "rae-exact": RAE(24, solver="exact"),
}


@pytest.fixture(params=["npy", "parquet"])
def path(request: pytest.FixtureRequest, sample: np.ndarray, tmp_path: Path) -> Path:
    if request.param == "npy":
        np.save(tmp_path / "x.npy", sample)
        return tmp_path / "x.npy"
    (tmp_path / "parts").mkdir()
    for i, rows in enumerate(np.array_split(sample, 4)):
        table = pa.table({"v": pa.array(list(rows), pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "parts" / f"{i}.parquet", row_group_size=100)
    return tmp_path / "parts"


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() <= 1e-4 * np.abs(other).max())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_files_give_what_arrays_give(name: str, path: Path, sample: np.ndarray) -> None:
    estimator = ESTIMATORS[name]
    expected = estimator.fit(sample).encoder_
    source = open_source(path)
    encoder = add_drift_stats(estimator.fit(source).encoder_, estimator, source)
    assert close(encoder.weight, expected.weight)
    assert (encoder.bias is None) == (expected.bias is None)
    assert estimator.transform(sample[:3]).shape == (3, 24)
    facts = {key: value for key, value in encoder.facts.items() if isinstance(value, int)}
    assert facts == {key: value for key, value in expected.facts.items() if isinstance(value, int)}
    assert [entry["rows"] for entry in encoder.facts["drift_stats"]] == [500]


def test_queries_of_another_kind(path: Path, sample: np.ndarray, rng: np.random.Generator) -> None:
    queries = sample[:200] + 0.02 * rng.standard_normal((200, sample.shape[1])).astype(np.float32)
    for metric in ("cosine", "l2"):
        estimator = NearFold(24, n_steps=20, metric=metric)
        expected = estimator.fit(sample, queries=queries).encoder_.weight
        assert close(estimator.fit(open_source(path), queries=queries).encoder_.weight, expected)
    with pytest.raises(TypeError, match="queries"):
        PCA(24).fit(open_source(path), queries=queries)  # type: ignore[call-arg]
    with pytest.raises(DataError, match="queries has 3 dimensions"):
        NearFold(24).fit(open_source(path), queries=queries[:, :3])


def test_rows_are_read_once_for_both_kinds_of_anchors(
    sample: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counting(LocalEngine):
        def scan(self, *arguments: Any, **options: Any) -> Iterator[Progress]:
            read.append(arguments[0].layout.rows - arguments[3])
            return super().scan(*arguments, **options)

    monkeypatch.setattr(scanning, "engine_for", lambda _: Counting(10**9))
    np.save(tmp_path / "x.npy", sample[:1000])
    NearFold(24, n_steps=5).fit(tmp_path / "x.npy", queries=sample[1000:])
    assert read == [1000]


def test_a_budget_is_for_both_kinds_of_anchors(sample: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30_000, 384)).astype(np.float32))
    with config_context(memory="320MB"):
        alone = NearFold(24, n_steps=5)
        with pytest.warns(NearfoldWarning, match=r"anchors, not of 3000"):
            alone.fit(tmp_path / "x.npy")
        n_anchors = alone.encoder_.facts["anchors"]
        for number in (20, 1500):
            with pytest.warns(NearfoldWarning, match=r"anchors, not of 3000"):
                facts = (
                    NearFold(24, n_steps=5).fit(tmp_path / "x.npy", queries=sample[:number]).encoder_.facts
                )
            assert facts["queries"] == min(number, facts["anchors"])
            assert n_anchors - 1 <= facts["anchors"] + facts["queries"] <= n_anchors


class Stopping(LocalEngine):
    """An engine that is stopped behind some chunks."""

    def __init__(self, after: int) -> None:
        super().__init__(10**9)
        self._after = after

    def scan(self, *arguments: Any, **options: Any) -> Iterator[Progress]:
        for i, progress in enumerate(super().scan(*arguments, **options)):
            yield progress
            if i == self._after:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name",
    ["nearfold cosine", "nearfold l2", "pca", "nearfold cosine for queries", "nearfold l2 for queries"],
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_fit_that_was_stopped_goes_on(
    name: str, after: int, path: Path, sample: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_WRITE_SECONDS", 0.0)
    monkeypatch.setattr(scanning, "_WRITE_SHARE", 0)
    monkeypatch.setattr("nearfold.io.vectors.chunk_rows", lambda *_: 256)
    estimator, state = ESTIMATORS[name.removesuffix(" for queries")], tmp_path / "scan.safetensors"
    options = {"queries": sample[:200, ::-1]} if name.endswith("queries") else {}
    monkeypatch.setattr(scanning, "engine_for", lambda _: Stopping(after))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(open_source(path), checkpoint=state, **options)
    begun = ScanCheckpoint.load(state)
    assert 0 < begun.done < begun.rows == len(sample)
    seen: list[int] = []

    class Watching(LocalEngine):
        def scan(self, *arguments: Any, **options: Any) -> Iterator[Progress]:
            seen.append(arguments[3])
            return super().scan(*arguments, **options)

    monkeypatch.setattr(scanning, "engine_for", lambda _: Watching(10**9))
    encoder = estimator.fit(open_source(path), checkpoint=state, **options).encoder_
    assert seen == [begun.done]
    again = estimator.fit(open_source(path), checkpoint=state, **options).encoder_
    monkeypatch.undo()
    assert close(encoder.weight, estimator.fit(sample, **options).encoder_.weight)
    assert seen == [begun.done]
    np.testing.assert_array_equal(again.weight, encoder.weight)


def test_a_state_of_other_queries_is_refused(path: Path, sample: np.ndarray, tmp_path: Path) -> None:
    state, estimator = tmp_path / "scan.safetensors", NearFold(24, n_steps=5, n_anchors=100)
    estimator.fit(open_source(path), queries=sample[:50], checkpoint=state)
    with pytest.raises(FileError, match="the scan of other vectors"):
        estimator.fit(open_source(path), queries=sample[1:51], checkpoint=state)
    with pytest.raises(FileError, match="the scan of other parameters"):
        estimator.fit(open_source(path), checkpoint=state)


def test_a_state_of_other_work_is_refused(path: Path, sample: np.ndarray, tmp_path: Path) -> None:
    state = tmp_path / "scan.safetensors"
    NearFold(24, n_steps=5, n_anchors=100).fit(open_source(path), checkpoint=state)
    with pytest.raises(FileError, match="the scan of other parameters"):
        NearFold(24, n_steps=5, n_anchors=101).fit(open_source(path), checkpoint=state)
    np.save(tmp_path / "other.npy", sample[::-1])
    other = open_source(tmp_path / "other.npy")
    with pytest.raises(FileError, match="the scan of other vectors"):
        NearFold(24, n_steps=5, n_anchors=100).fit(other, checkpoint=state)
    np.save(tmp_path / "fewer.npy", sample[:-1])
    fewer = open_source(tmp_path / "fewer.npy")
    with pytest.raises(FileError, match="the scan of 1500 rows, not 1499"):
        NearFold(24, n_steps=5, n_anchors=100).fit(fewer, checkpoint=state)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_damaged_state_is_refused(size: int, path: Path, tmp_path: Path) -> None:
    state = tmp_path / "scan.safetensors"
    NearFold(24, n_steps=5, n_anchors=100).fit(open_source(path), checkpoint=state)
    state.write_bytes(state.read_bytes()[:size])
    with pytest.raises(FileError, match=r"scan\.safetensors"):
        ScanCheckpoint.load(state)
    PCA(4).fit(np.random.default_rng(0).standard_normal((9, 8))).encoder_.save(state)
    with pytest.raises(FileError, match=r"not the checkpoint of a scan|not a scan"):
        ScanCheckpoint.load(state)


def test_bad_rows_are_named_with_their_file(tmp_path: Path, sample: np.ndarray) -> None:
    rows = sample.copy()
    rows[1100, 7] = np.inf
    for i, part in enumerate(np.array_split(rows, 3)):
        np.save(tmp_path / f"{i}.npy", part)
    for estimator in (PCA(24), NearFold(24, n_anchors=100)):
        with pytest.raises(DataError, match=r"(2\.npy holds .* row 100|holds .* row 1100), column 7"):
            estimator.fit(open_source(tmp_path))
    rows[1100] = 0
    np.save(tmp_path / "2.npy", rows[1000:])
    with pytest.raises(NearfoldError, match=r"2\.npy has a zero vector at row 100,"):
        NearFold(24, n_anchors=100).fit(open_source(tmp_path))


def test_memory_is_a_budget(path: Path) -> None:
    refused = pytest.raises(
        ParameterError, match=r"memory=260MB is too little for this scan, which needs \d+MB"
    )
    with config_context(memory="260MB"), refused:
        NearFold(24).fit(open_source(path))
    with config_context(memory="280MB"):
        assert NearFold(24, n_anchors=20, n_steps=5).fit(open_source(path)).encoder_


def test_what_holds_its_rows_says_so(path: Path, sample: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="holds its rows in memory"):
        RAE(24, n_steps=5).fit(open_source(path), checkpoint=tmp_path / "scan")
    assert close(RAE(24, n_steps=5).fit(path).encoder_.weight, RAE(24, n_steps=5).fit(sample).encoder_.weight)
    with config_context(memory=1_000_000), pytest.warns(NearfoldWarning, match=r"\d+ rows, drawn at random"):
        assert RAE(24, n_steps=5).fit(path).encoder_.facts["rows"] < len(sample)
