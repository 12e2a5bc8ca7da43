from __future__ import annotations

import numpy as np
import pytest

from nearfold import PCA, MLPEncoder, NearFold
from nearfold.errors import DataError, FileError
from nearfold.evaluation.drift import (
    Drift,
    Figures,
    compare_with_training,
    figures_of,
    held_back_figures,
    readable_facts,
    with_figures,
)
from nearfold.folds.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(sample: np.ndarray) -> Encoder:
    estimator, rows = NearFold(48, n_steps=40), sample[::2]
    more = np.concatenate([rows, rows + 0.01])
    return with_figures(estimator.fit(more).encoder_, held_back_figures(estimator, more))


def test_the_same_kind_has_not_drifted(sample: np.ndarray) -> None:
    # Rows that a fold was learned from are kept better than others: the figures must not be theirs.
    estimator = NearFold(48, n_steps=40)
    rows = sample[np.random.default_rng(0).permutation(len(sample))]
    encoder = estimator.fit(rows[:1000]).encoder_
    honest = with_figures(encoder, held_back_figures(estimator, rows[:1000]))
    found = compare_with_training(honest, rows[1000:])
    assert found.then.rows == found.now.rows == 500
    assert found.exceeds(0.05, 0.25) == []
    flattered = with_figures(encoder, figures_of(encoder, rows[:1000]))
    assert compare_with_training(flattered, rows[1000:]).exceeds(0.05, 0.25)


def test_other_vectors_have(encoder: Encoder, sample: np.ndarray) -> None:
    found = compare_with_training(encoder, sample[1::2, ::-1])
    assert found.exceeds(0.1, 0.5) == ["preservation", "energy", "loss"]
    assert found.energy_drop == pytest.approx(found.then.energy - found.now.energy)  # type: ignore[operator]


def test_a_network_is_watched_by_what_it_keeps(sample: np.ndarray) -> None:
    layers = (
        (sample[:20].copy(), np.zeros(20, np.float32)),
        (np.eye(9, 20, dtype=np.float32), np.zeros(9, np.float32)),
    )
    network = MLPEncoder(layers)  # type: ignore[arg-type]
    network = with_figures(network, figures_of(network, sample))
    found = compare_with_training(network, sample)
    assert found.energy_drop is None
    assert found.loss_rise is None
    assert found.preservation_drop == 0


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
    figures = held_back_figures(PCA(2, metric="l2"), X)
    assert [each.rows for each in figures] == sizes
    assert [each.rows for each in figures_of(PCA(2, metric="l2").fit(X).encoder_, X)] == [
        size for size in (500, 2000, 5000) if size <= rows
    ]


def test_drift_is_counted() -> None:
    then, now = Figures(500, 0.9, 0.8, 0.02), Figures(500, 0.84, 0.7, 0.05)
    drift = Drift(then, now)
    assert drift.preservation_drop == pytest.approx(0.06)
    assert drift.energy_drop == pytest.approx(0.1)
    assert drift.loss_rise == pytest.approx(1.5)
    assert drift.exceeds(0.05, 1.4) == ["preservation", "energy", "loss"]
    assert drift.exceeds(0.07, 1.6) == ["energy"]
    assert drift.exceeds(0.11, 1.6) == []
    assert Drift(then, then).exceeds(0, 0) == []
    for unknown in (Figures(500, 0.9), Figures(500, 0.9, None, 0.0)):
        assert Drift(unknown, now).energy_drop is None
        assert Drift(unknown, now).loss_rise is None
    assert Drift(then, Figures(500, 0.9)).loss_rise is None
    assert Drift(then, Figures(500, 0.9)).energy_drop is None


def test_facts_can_be_read(encoder: Encoder) -> None:
    facts = readable_facts(encoder)
    assert "watch" not in facts
    assert "preservation" in str(facts["sample of 500"])


def test_too_little_to_tell(encoder: Encoder, sample: np.ndarray) -> None:
    with pytest.raises(DataError, match="give at least 500"):
        compare_with_training(encoder, sample[:400])
    with pytest.raises(DataError, match="5 dimensions"):
        compare_with_training(encoder, sample[:, :5])
    plain = NearFold(8, n_steps=5).fit(sample[:300]).encoder_
    assert held_back_figures(NearFold(8), sample[:300]) == []
    assert with_figures(plain, []) is plain
    with pytest.raises(FileError, match="no figures of its training rows"):
        compare_with_training(plain, sample)
