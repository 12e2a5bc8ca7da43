"""Confidence intervals against simulations in which the true mean is known, near 1 above all."""

from __future__ import annotations

import numpy as np
import pytest

from nearfold.evaluation.intervals import estimate, paired_estimate, ratio_estimate

_TRIALS = 400


def shares(rng: np.random.Generator, kind: str, q: int, recall: float) -> np.ndarray:
    """Return shares of `_TRIALS` simulated evaluations, shape (q, trials), whose true mean is `recall`."""
    size = (q, _TRIALS)
    if kind == "right or wrong":
        return (rng.random(size) < recall).astype(float)
    if kind == "a few hopeless":
        return np.where(rng.random(size) < (1 - recall) / 0.8, 0.2, 1.0)
    like = 0.0 if kind == "alike" else 0.3
    easy = rng.beta(recall * (1 - like) / like, (1 - recall) * (1 - like) / like, size) if like else recall
    return rng.binomial(10, easy, size) / 10


@pytest.mark.parametrize("kind", ["right or wrong", "a few hopeless", "alike", "of all kinds"])
@pytest.mark.parametrize("q", [20, 100, 1000])
@pytest.mark.parametrize("recall", [0.5, 0.9, 0.98, 0.995, 0.999])
def test_an_interval_holds_the_true_mean(rng: np.random.Generator, kind: str, q: int, recall: float) -> None:
    held = [each.low <= recall <= each.high for each in estimate(shares(rng, kind, q, recall))]
    # At a coverage of .95, fewer than .917 of 400 come once in a thousand such cells.
    assert np.mean(held) >= 0.917


@pytest.mark.parametrize("same", [0.0, 0.9])
@pytest.mark.parametrize("q", [30, 300])
@pytest.mark.parametrize(("first", "second"), [(0.7, 0.75), (0.98, 0.99), (0.995, 0.999), (0.999, 0.999)])
def test_an_interval_holds_the_true_difference(
    rng: np.random.Generator, same: float, q: int, first: float, second: float
) -> None:
    held = []
    for _ in range(_TRIALS):
        luck = rng.random((q, 10))
        other = np.where(rng.random((q, 10)) < same, luck, rng.random((q, 10)))
        given = paired_estimate((luck < first).mean(axis=1), (other < second).mean(axis=1))
        held.append(given.low <= first - second + 1e-12 and first - second - 1e-12 <= given.high)
    assert np.mean(held) >= 0.917


@pytest.mark.parametrize("lost", [0.3, 0.05, 0.005])
@pytest.mark.parametrize("q", [50, 300, 1500])
def test_an_interval_holds_the_true_ratio(rng: np.random.Generator, lost: float, q: int) -> None:
    # Values as nDCG has them, of which a part changes to those of a worse ranking.
    values, chances = np.array([0, 0.39, 0.5, 0.63, 1]), np.array([0.4, 0.1, 0.1, 0.1, 0.3])
    worse = values[[0, 0, 1, 3]]
    true = 1 - lost + lost * worse.mean() / (values @ chances)
    held = []
    for _ in range(_TRIALS):
        full = rng.choice(values, q, p=chances)
        given = ratio_estimate(np.where(rng.random(q) < lost, rng.choice(worse, q), full), full)
        assert given.low <= given.mean <= given.high
        held.append(given.low <= true <= given.high)
    assert np.mean(held) >= 0.917


def test_a_ratio_at_the_edges() -> None:
    zeros, ones, one = np.zeros(50), np.ones(50), np.eye(50)[0]
    assert np.isnan(ratio_estimate(ones, zeros)).all()
    assert ratio_estimate(zeros, ones)[:2] == (0, 0)
    assert ratio_estimate(zeros, ones).high < 0.2
    assert ratio_estimate(ones, ones).mean == 1
    assert 0.8 < ratio_estimate(ones, ones).low < 1
    wide = ratio_estimate(ones, one)
    assert wide.mean == pytest.approx(50)
    assert 0 <= wide.low < 50 < wide.high
    alone = ratio_estimate(one[:1], ones[:1])
    assert alone.low == 0
    assert alone.high >= 2


def test_a_ratio_of_equal_means_is_the_difference(rng: np.random.Generator) -> None:
    full = rng.beta(2, 1, 3000)
    folded = np.clip(full + 0.05 * rng.standard_normal(3000) - 0.02, 0, 1)
    ratio, difference = ratio_estimate(folded, full), paired_estimate(folded, full)
    for of, wanted in zip(ratio, difference, strict=True):
        assert of == pytest.approx(1 + wanted / full.mean(), abs=3e-3)


def test_away_from_the_edges_it_is_the_usual_one(rng: np.random.Generator) -> None:
    values = rng.binomial(10, [0.3, 0.7], (2000, 2)) / 10
    for given, column in zip(estimate(values), values.T, strict=True):
        half = 1.96 * column.std() / np.sqrt(len(column))
        assert given.mean == pytest.approx(column.mean())
        assert given.low == pytest.approx(column.mean() - half, abs=0.1 * half)
        assert given.high == pytest.approx(column.mean() + half, abs=0.1 * half)
    other = np.clip(values[:, 0] + 0.1 * rng.integers(-1, 2, 2000), 0, 1)
    given = paired_estimate(values[:, 0], other)
    half = 1.96 * (values[:, 0] - other).std() / np.sqrt(2000)
    assert given.high - given.low == pytest.approx(2 * half, rel=0.1)


def test_what_can_not_be_told_is_not_told() -> None:
    assert estimate(np.ones((1, 1))) == [(1.0, 0.0, 1.0)]
    perfect = estimate(np.ones((100, 1)))[0]
    assert (perfect.mean, perfect.high) == (1, 1)
    assert 0.95 < perfect.low < 0.97
    none = estimate(np.zeros((100, 1)))[0]
    assert (none.low, none.high) == pytest.approx((0, 1 - perfect.low))
    equal = paired_estimate(np.ones(100), np.ones(100))
    assert equal.mean == 0
    assert equal.low < 0 < equal.high
