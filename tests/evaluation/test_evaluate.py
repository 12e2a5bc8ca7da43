from __future__ import annotations

import itertools
import types
from typing import Any

import numpy as np
import pytest

from nearfold import PCA, Encoder, compare, evaluate
from nearfold.errors import NearfoldError
from nearfold.evaluation.compare import ComparisonEntry
from nearfold.evaluation.intervals import estimate
from nearfold.evaluation.recall import paired_difference
from nearfold.evaluation.split import hold_out


def rotation(d: int, rng: np.random.Generator) -> Encoder:
    return Encoder(np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32), metric="l2")


def test_a_rotation_keeps_everything(sample: np.ndarray, rng: np.random.Generator) -> None:
    result = evaluate(rotation(384, rng), sample[:1000], sample[1000:], k=[1, 10], n_candidates=[20])
    for kept in (result.recall[1], result.recall[10], result.candidate_recall[20]):
        assert kept.mean > 0.998  # float32 near-ties aside


def test_shares_by_hand(rng: np.random.Generator) -> None:
    """One dimension kept of two: counted by brute force."""
    base, queries = (
        rng.standard_normal((200, 2)).astype(np.float32),
        rng.standard_normal((30, 2)).astype(np.float32),
    )
    result = evaluate(
        Encoder(np.eye(1, 2, dtype=np.float32)), base, queries, metric="l2", k=[3, 5], n_candidates=[10, 50]
    )

    def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.argsort(((a[:, None].astype(float) - b[None].astype(float)) ** 2).sum(axis=2), axis=1)

    true, found = nearest(queries, base), nearest(queries[:, :1], base[:, :1])
    for k in (3, 5):
        by_hand = [len(set(t[:k]) & set(f[:k])) / k for t, f in zip(true, found, strict=True)]
        np.testing.assert_allclose(result.per_query[f"recall@{k}"], by_hand)
        assert result.recall[k].mean == pytest.approx(np.mean(by_hand))
    for depth in (10, 50):
        by_hand = [len(set(t[:5]) & set(f[:depth])) / 5 for t, f in zip(true, found, strict=True)]
        np.testing.assert_allclose(result.per_query[f"5-recall@{depth}"], by_hand)


def test_the_encoders_metric_is_the_default(sample: np.ndarray) -> None:
    encoder = PCA(8, metric="l2").fit(sample[:500]).encoder_
    assert evaluate(encoder, sample[:500], sample[500:600]).metric == "l2"
    assert evaluate(encoder, sample[:500], sample[500:600], metric="ip").metric == "ip"


def test_bad_input(sample: np.ndarray) -> None:
    encoder = PCA(8).fit(sample[:500]).encoder_
    base, queries = sample[:50], sample[50:60]
    for change, says in [
        ({"k": [51]}, "ask for fewer"),
        ({"k": []}, "k is empty"),
        ({"k": [0]}, "k=0"),
        ({"n_candidates": [-1]}, "n_candidates=-1"),
        ({"metric": "hamming"}, "metric"),
        ({"queries": queries[:, :9]}, "queries: has 9 dimensions"),
        ({"base": base[:, :9]}, "base: has 9 dimensions"),
        ({"queries": np.full((1, 384), np.nan)}, "queries holds NaN"),
        ({"base": np.zeros((50, 384))}, "base has a zero vector"),
    ]:
        with pytest.raises(NearfoldError, match=says):
            evaluate(**{"fold": encoder, "base": base, "queries": queries, **change})  # type: ignore[arg-type]


def test_intervals_cover_the_mean(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(200):
        low, high = estimate(rng.binomial(10, 0.7, (100, 1)) / 10)[0][1:]
        covered += low <= 0.7 <= high
    assert 178 <= covered <= 199


def test_differences_are_paired(rng: np.random.Generator, sample: np.ndarray) -> None:
    """A constant gap between two folds has a far narrower interval than their means have."""
    result = evaluate(PCA(8).fit(sample[:500]).encoder_, sample[:500], sample[500:600])
    other = evaluate(PCA(16).fit(sample[:500]).encoder_, sample[:500], sample[500:600])
    result.per_query["recall@10"] = other.per_query["recall@10"] - 0.125
    gap = paired_difference(other, result, "recall@10")
    alone = estimate(other.per_query["recall@10"][:, None])[0]
    assert gap.mean == pytest.approx(0.125)
    assert gap.low < 0.125 < gap.high
    assert gap.high - gap.low < 0.2 * (alone.high - alone.low)


def test_hold_out_splits(sample: np.ndarray) -> None:
    base, queries = hold_out(sample, 100, seed=3)
    assert (len(base), len(queries)) == (1400, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate([base, queries])[:, 0]), np.sort(sample[:, 0]))
    np.testing.assert_array_equal(hold_out(sample, 100, seed=3)[1], queries)
    assert (hold_out(sample, 100, seed=4)[1] != queries).any()
    assert len(hold_out(sample)[1]) == 150
    with pytest.raises(NearfoldError, match="give more rows"):
        hold_out(sample[:2])


def test_compare(sample: np.ndarray) -> None:
    result = compare(
        sample,
        n_components=["25%", 48, 96],
        metrics=["cosine", "l2"],
        methods=["pca", "rae-exact"],
        k=[5],
        n_candidates=[10],
    )
    shapes = [(e.evaluation.metric, e.encoder.n_components, e.method) for e in result.entries]
    assert shapes == [
        (metric, dims, method)
        for metric in ("cosine", "l2")
        for dims in (96, 48)
        for method in ("pca", "rae-exact")
    ]
    assert (result.rows, result.queries) == (1350, 150)
    for metric in ("cosine", "l2"):
        for dims in (96, 48):
            found = [(e.evaluation.metric, e.encoder.n_components) for e in result.group(metric, dims)]
            assert found == [(metric, dims)] * 2
    as_dict = result.as_dict()["entries"]
    assert as_dict[0]["recall@5"]["mean"] == result.entries[0].evaluation.recall[5].mean
    best = result.best("cosine", 96)
    assert next(e for e in as_dict if e["method"] == best.method)["minus_best"]["mean"] == 0
    same = compare(sample, methods=["pca"], k=[5], n_candidates=[10]).entries[0].evaluation
    np.testing.assert_array_equal(
        same.per_query["recall@5"], result.entries[0].evaluation.per_query["recall@5"]
    )


def test_compare_computes_the_ground_truth_once(sample: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfold.evaluation.ground_truth import GroundTruth

    calls = []
    original = GroundTruth.compute

    def counted(*args: object) -> GroundTruth:
        calls.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(GroundTruth, "compute", counted)
    compare(sample, n_components=[8, 16, 32], methods=["pca", "pca-uncentred"])
    assert len(calls) == 1


def test_times_are_means_over_seeds(sample: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = (number**2 for number in itertools.count())
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("nearfold.evaluation.compare.time", clock)
    options = {"n_components": [4], "methods": ["random-gaussian"], "n_seeds": 3}
    (entry,) = compare(sample[:200, :8], **options).entries
    # Each run reads the clock three times: 0 1 4, 9 16 25, 36 49 64.
    assert (entry.fit_seconds, entry.transform_seconds) == ((1 + 7 + 13) / 3, (3 + 9 + 15) / 3)
    assert len(set(entry.by_seed)) == 3
    assert entry.evaluation.recall[10].mean == pytest.approx(np.mean(entry.by_seed))


def test_compare_carries_remarks(rng: np.random.Generator) -> None:
    X = rng.standard_normal((100, 6)) * [5, 5, 5, 1e-3, 1e-3, 1e-3]
    result = compare(X, n_components=[4], methods=["rae-exact"], metrics=["l2"])
    assert "zeroes 1 of 4 axes" in result.entries[0].remarks[0]


def test_compare_with_queries_and_bad_input(sample: np.ndarray) -> None:
    assert compare(sample[:500], queries=sample[500:520], methods=["pca"]).queries == 20
    for change, says in [
        ({"queries": sample[:5, :3]}, "queries has 3 dimensions"),
        ({"n_queries": 0}, "n_queries"),
        ({"n_queries": 1499}, "give more rows"),
        ({"methods": ["what"]}, "method 'what'"),
        ({"metrics": ["what"]}, "metric"),
        ({"n_components": [384]}, "n_components=384"),
        ({"k": [2000]}, "ask for fewer"),
    ]:
        with pytest.raises(NearfoldError, match=says):
            compare(sample, **change)  # type: ignore[arg-type]


def test_compare_fits_once_where_the_metric_teaches_nothing(
    sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []
    original = PCA.learn_from_scan

    def counted(self: PCA, *arguments: Any) -> Encoder:
        fits.append(self.metric)
        return original(self, *arguments)

    monkeypatch.setattr(PCA, "learn_from_scan", counted)
    result = compare(sample[:600], n_components=[8], methods=["pca"], metrics=["cosine", "l2", "ip"])
    assert len(fits) == 1
    for entry, metric in zip(result.entries, ("cosine", "l2", "ip"), strict=True):
        assert entry.encoder.metric == entry.evaluation.metric == metric
        assert entry.encoder.parameters["metric"] == metric


def test_seeds_are_averaged(sample: np.ndarray) -> None:
    def run(seed: int, n_seeds: int) -> list[ComparisonEntry]:
        return list(
            compare(
                sample[:500],
                queries=sample[500:560],
                n_components=[8],
                methods=["random-gaussian", "pca"],
                seed=seed,
                n_seeds=n_seeds,
            ).entries
        )

    together, alone = run(3, 3), [run(seed, 1)[0] for seed in (3, 4, 5)]
    assert len(together[0].by_seed) == 3
    assert len(together[1].by_seed) == 1  # no chance in it
    expected = np.mean([e.evaluation.per_query["recall@10"] for e in alone], axis=0)
    np.testing.assert_allclose(together[0].evaluation.per_query["recall@10"], expected)
    assert together[0].by_seed == tuple(e.evaluation.recall[10].mean for e in alone)


def test_compare_takes_parameters(sample: np.ndarray) -> None:
    result = compare(
        sample[:300],
        n_components=[8],
        methods=["rae-exact"],
        parameters={"rae-exact": {"weight_decay": 1e-5}},
    )
    assert result.entries[0].encoder.parameters["weight_decay"] == 1e-5
    with pytest.raises(NearfoldError, match="no parameter typo"):
        compare(sample[:300], methods=["pca"], parameters={"pca": {"typo": 1}})


def test_places_of_mds_are_searched_with_euclidean_distance(sample: np.ndarray) -> None:
    entry = compare(sample[:300], n_components=[16], methods=["mds"], metrics=["cosine"]).entries[0]
    assert (entry.evaluation.metric, entry.encoder.metric) == ("cosine", "l2")


def test_a_fold_that_leaves_nothing_of_a_row_is_evaluated(sample: np.ndarray) -> None:
    base = np.array(sample[:300])
    base[7, :8] = 0  # folds to zero, which has no cosine
    result = evaluate(Encoder(np.eye(8, 384)), base, sample[300:320])
    assert 0 < result.recall[10].mean < 1
