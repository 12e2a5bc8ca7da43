from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from nearfold._utils.arrays import METRICS, Metric
from nearfold.errors import NearfoldError
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.scan.exact import exact_scores, search


@pytest.mark.parametrize("metric", METRICS)
def test_search_finds_what_scikit_learn_finds(metric: Metric, sample: np.ndarray) -> None:
    base, queries = sample[:1000], sample[1000:1100]
    found = search(base, queries, 10, metric)
    if metric == "ip":
        expected = np.argsort(-(queries @ base.T), axis=1)[:, :10]
    else:
        kind = {"cosine": "cosine", "l2": "euclidean"}[metric]
        expected = NearestNeighbors(n_neighbors=10, metric=kind).fit(base).kneighbors(queries)[1]
    assert (found == expected).mean() > 0.995  # float32 may swap near-ties


def test_search_refuses_what_it_cannot_do(sample: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match="ask for fewer"):
        search(sample[:5], sample[5:6], 6, "ip")
    with pytest.raises(NearfoldError, match="queries has a zero vector at row 0"):
        search(sample[:5], np.zeros((1, 384), np.float32), 2, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_computed_in_pieces(
    metric: Metric, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = rng.standard_normal((30, 4)), rng.standard_normal((9, 4)).astype(np.float32)
    ids = rng.integers(0, 30, (9, 5))
    taken: list[int] = []

    class Rows:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, wanted: np.ndarray) -> np.ndarray:
            taken.append(4 * wanted.size)
            return vectors[wanted]

    whole = exact_scores(Rows(), queries, ids, metric)  # type: ignore[arg-type]
    for numbers, pieces in ((100, [100, 80]), (1, [20] * 9)):  # a query has 5 candidates of 4 numbers
        monkeypatch.setattr("nearfold.scan.exact._NUMBERS_AT_ONCE", numbers)
        taken.clear()
        np.testing.assert_allclose(exact_scores(Rows(), queries, ids, metric), whole)  # type: ignore[arg-type]
        assert taken == pieces


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_the_metrics(metric: Metric, rng: np.random.Generator) -> None:
    base, queries = (
        rng.standard_normal((9, 4)).astype(np.float32),
        rng.standard_normal((3, 4)).astype(np.float32),
    )
    ids = np.array([[0, 8], [3, 3], [5, 1]])
    scores = exact_scores(base, queries, ids, metric)
    for (q, c), i in np.ndenumerate(ids):
        a, b = queries[q].astype(float), base[i].astype(float)
        expected = {
            "ip": a @ b,
            "cosine": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
            "l2": -((a - b) ** 2).sum(),
        }[metric]
        assert scores[q, c] == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(METRICS))
def test_ties_are_not_errors(seed: int, metric: Metric) -> None:
    """Any choice among equally near rows is right; any farther row is wrong."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 3, (60, 3)).astype(np.float32) + 1  # many duplicates
    queries = rng.integers(0, 3, (4, 3)).astype(np.float32) + 1
    k = 7
    truth = GroundTruth.compute(base, queries, k, metric)
    everyone = np.tile(np.arange(60), (4, 1))
    scores = np.round(exact_scores(base, queries, everyone, metric), 9)
    bar = np.sort(scores, axis=1)[:, -k][:, None]
    np.testing.assert_array_equal(truth.correct(everyone, k), scores >= bar)
    assert truth.correct(truth.ids, k).all()
    shuffled = np.argsort(-scores + rng.uniform(0, 1e-10, scores.shape), axis=1)[:, :k]
    assert truth.correct(shuffled, k).all()


def test_scaled_copies_tie_under_cosine(rng: np.random.Generator) -> None:
    directions = rng.standard_normal((10, 6)).astype(np.float32)
    base = np.concatenate([directions * scale for scale in (1, 3, 7, 0.1)]).astype(np.float32)
    truth = GroundTruth.compute(base, directions[:3], 4, "cosine")
    copies = np.arange(3)[:, None] + np.array([0, 10, 20, 30])
    # float32 rounding of the copies moves their angle by far more than float64's.
    assert truth.correct(copies, 4).mean() >= 0.75
    assert set(truth.ids[0]) == set(copies[0])


def test_far_from_the_origin_l2_is_still_exact(rng: np.random.Generator) -> None:
    base = (rng.integers(0, 50, (500, 8)) + 100_000).astype(np.float32)
    queries = base[:20] + rng.integers(-3, 3, (20, 8)).astype(np.float32)
    truth = GroundTruth.compute(base, queries, 5, "l2")
    expected = -np.sort(
        ((queries[:, None].astype(float) - base[None].astype(float)) ** 2).sum(axis=2), axis=1
    )[:, :5]
    np.testing.assert_array_equal(truth.scores, expected)
