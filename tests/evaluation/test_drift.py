from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfold import PCA, MLPEncoder, NearFold, config_context
from nearfold.errors import DataError, FileError, NearfoldWarning
from nearfold.evaluation.drift import (
    DriftResult,
    DriftStats,
    add_drift_stats,
    drift,
    drift_stats,
    held_out_drift_stats,
    readable_facts,
    with_drift_stats,
)
from nearfold.folds.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(sample: np.ndarray) -> Encoder:
    estimator, rows = NearFold(48, n_steps=40), sample[::2]
    more = np.concatenate([rows, rows + 0.01])
    return with_drift_stats(estimator.fit(more).encoder_, held_out_drift_stats(estimator, more))


def test_the_same_kind_has_not_drifted(sample: np.ndarray) -> None:
    # Rows that a fold was learned from are kept better than others: the statistics must not be theirs.
    estimator = NearFold(48, n_steps=40)
    rows = sample[np.random.default_rng(0).permutation(len(sample))]
    encoder = estimator.fit(rows[:1000]).encoder_
    honest = with_drift_stats(encoder, held_out_drift_stats(estimator, rows[:1000]))
    found = drift(honest, rows[1000:])
    assert found.baseline.rows == found.current.rows == 500
    assert found.exceeds(0.05, 0.25) == []
    flattered = with_drift_stats(encoder, drift_stats(encoder, rows[:1000]))
    assert drift(flattered, rows[1000:]).exceeds(0.05, 0.25)


def test_other_vectors_have(encoder: Encoder, sample: np.ndarray) -> None:
    found = drift(encoder, sample[1::2, ::-1])
    assert found.exceeds(0.1, 0.5) == ["recall", "energy", "loss"]
    assert found.energy_drop == pytest.approx(found.baseline.energy - found.current.energy)  # type: ignore[operator]


def test_a_network_drifts_by_what_it_keeps(sample: np.ndarray) -> None:
    layers = (
        (sample[:20].copy(), np.zeros(20, np.float32)),
        (np.eye(9, 20, dtype=np.float32), np.zeros(9, np.float32)),
    )
    network = MLPEncoder(layers)  # type: ignore[arg-type]
    network = with_drift_stats(network, drift_stats(network, sample))
    found = drift(network, sample)
    assert found.energy_drop is None
    assert found.loss_rise is None
    assert found.recall_drop == 0


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (999, []),
        (1000, [500]),
        (4000, [500]),
        (9_999, [500]),
        (10_000, [500, 2000]),
        (27_000, [500, 2000, 5000]),
    ],
)
def test_a_fifth_is_held_back(rows: int, sizes: list[int], rng: np.random.Generator) -> None:
    X = rng.standard_normal((rows, 3)).astype(np.float32)
    stats = held_out_drift_stats(PCA(2, metric="l2"), X)
    assert [each.rows for each in stats] == sizes
    assert [each.rows for each in drift_stats(PCA(2, metric="l2").fit(X).encoder_, X)] == [
        size for size in (500, 2000, 5000) if size <= rows
    ]


def test_drift_is_counted() -> None:
    then, now = DriftStats(500, 0.9, 0.8, 0.02), DriftStats(500, 0.84, 0.7, 0.05)
    found = DriftResult(then, now)
    assert found.recall_drop == pytest.approx(0.06)
    assert found.energy_drop == pytest.approx(0.1)
    assert found.loss_rise == pytest.approx(1.5)
    assert found.exceeds(0.05, 1.4) == ["recall", "energy", "loss"]
    assert found.exceeds(0.07, 1.6) == ["energy"]
    assert found.exceeds(0.11, 1.6) == []
    assert DriftResult(then, then).exceeds(0, 0) == []
    for unknown in (DriftStats(500, 0.9), DriftStats(500, 0.9, None, 0.0)):
        assert DriftResult(unknown, now).energy_drop is None
        assert DriftResult(unknown, now).loss_rise is None
    assert DriftResult(then, DriftStats(500, 0.9)).loss_rise is None
    assert DriftResult(then, DriftStats(500, 0.9)).energy_drop is None


def test_facts_can_be_read(encoder: Encoder) -> None:
    facts = readable_facts(encoder)
    assert "drift_stats" not in facts
    assert "recall" in str(facts["sample of 500"])


def test_too_little_to_tell(encoder: Encoder, sample: np.ndarray) -> None:
    with pytest.raises(DataError, match="give at least 500"):
        drift(encoder, sample[:400])
    with pytest.raises(DataError, match="5 dimensions"):
        drift(encoder, sample[:, :5])
    plain = NearFold(8, n_steps=5).fit(sample[:300]).encoder_
    assert held_out_drift_stats(NearFold(8), sample[:300]) == []
    assert with_drift_stats(plain, []) is plain
    with pytest.raises(FileError, match="no drift statistics of its training rows"):
        drift(plain, sample)


def test_the_baseline_is_a_call_of_its_own(
    sample: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", sample)
    estimator = PCA(8)
    fold = estimator.fit(sample).encoder_
    held_out = with_drift_stats(fold, held_out_drift_stats(estimator, sample))
    for X in (sample, tmp_path / "x.npy"):
        told = add_drift_stats(fold, estimator, X)
        assert told.facts["drift_stats"] == held_out.facts["drift_stats"]
        assert drift(told, X).exceeds(0.05, 0.25) == []
    with config_context(memory="1MB"), pytest.warns(NearfoldWarning, match="too little for the second fit"):
        assert add_drift_stats(fold, estimator, sample) is fold
    monkeypatch.setattr("nearfold.evaluation.drift.IN_SAMPLE_ROWS", 1000)
    told = add_drift_stats(fold, estimator, tmp_path / "x.npy")
    assert [entry["rows"] for entry in told.facts["drift_stats"]] == [500]


def test_the_baseline_knows_the_queries(sample: np.ndarray) -> None:
    estimator = NearFold(8, n_steps=5)
    fold = estimator.fit(sample[:1200], queries=sample[1200:]).encoder_
    told = add_drift_stats(fold, estimator, sample[:1200], sample[1200:])
    again = held_out_drift_stats(estimator, sample[:1200], queries=sample[1200:])
    assert told.facts["drift_stats"] == [each._asdict() for each in again]
