from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold import PCA, NearFold, evaluate, load_sample
from nearfold._utils.arrays import METRICS, Metric
from nearfold.errors import NearfoldError
from nearfold.folds.encoder import Encoder
from nearfold.io.vectors import as_source
from nearfold.methods.measured import MeasuredBlocks
from nearfold.methods.nearfold import default_anchors
from nearfold.methods.objective import block_scores, gradient, loss, score_spread, soft_neighbors
from nearfold.methods.queries import held_out, query_weight
from nearfold.methods.training import fitting_rate, one_cycle
from nearfold.scan.scanning import scan_source


@pytest.mark.parametrize(
    ("rows", "anchors"), [(50, 3000), (100_000, 3000), (100_001, 2999), (200_001, 1499), (10**9, 1024)]
)
def test_anchors_of_many_rows_are_fewer(rows: int, anchors: int) -> None:
    assert default_anchors(rows) == anchors
    assert isinstance(default_anchors(rows), int)


@pytest.mark.parametrize("metric", METRICS)
def test_thread_count_changes_rounding_only(
    metric: Metric, sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in (1, 2, 5):
        for module in ("methods.training", "scan.scanner", "scan.neighbors"):
            monkeypatch.setattr(f"nearfold.{module}.blas_threads", lambda n=threads: n)
        estimator = NearFold(8, metric=metric, n_steps=40)
        alone = estimator.fit(sample[:400, :32]).encoder_.weight
        asked = estimator.fit(sample[:400, :32], queries=sample[400:405, 32:64]).encoder_.weight
        found.append(np.stack([alone, asked]))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-3 * np.abs(found[0]).max())


@pytest.mark.parametrize(("rows", "stride"), [(300, 1), (65_535, 1), (65_536, 2), (1_000_000, 30)])
def test_moments_of_many_rows_are_those_of_a_share(rows: int, stride: int) -> None:
    assert NearFold(8).scan_spec(rows, 8).stride == stride


def test_the_rate_is_the_root_of_the_loss_up_to_its_peak() -> None:
    peak = fitting_rate(1e9)
    assert fitting_rate(1e8) == peak
    low = fitting_rate(1e-6)
    assert low < peak / 10
    assert fitting_rate(4e-6) == pytest.approx(2 * low)


@given(
    metric=st.sampled_from(METRICS),
    b=st.integers(1, 3),
    n=st.integers(2, 6),
    d=st.integers(2, 7),
    m=st.integers(1, 4),
    anchors_only=st.booleans(),
    nested=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None)
def test_gradient_against_finite_differences(
    metric: Metric, b: int, n: int, d: int, m: int, anchors_only: bool, nested: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # In float64 the same code leaves only the truncation error of the differences.
    B = rng.standard_normal((b, n, d))
    if metric == "cosine":
        B /= np.linalg.norm(B, axis=2, keepdims=True)
    W = 0.5 * rng.standard_normal((min(m, d), d))
    tau = 0.7
    P = soft_neighbors(B, metric, tau)
    widths = {1: 0.3, len(W): 0.7} if nested and len(W) > 1 else {len(W): 1.0}
    analytic = gradient(W, B, P, metric, tau, anchors_only=anchors_only, widths=widths if nested else None)
    numeric = np.zeros_like(W)
    for where in np.ndindex(*W.shape):
        up, down = W.copy(), W.copy()
        up[where] += 1e-5
        down[where] -= 1e-5
        ends = [
            sum(
                share * loss(end[:width], B, P, metric, tau, anchors_only=anchors_only)
                for width, share in widths.items()
            )
            for end in (up, down)
        ]
        numeric[where] = (ends[0] - ends[1]) / 2e-5
    scale = max(1e-3, np.abs(numeric).max())
    np.testing.assert_allclose(analytic, numeric, atol=2e-5 * scale)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_the_metrics(metric: Metric, rng: np.random.Generator) -> None:
    B = rng.standard_normal((2, 5, 4)).astype(np.float32)
    scores = block_scores(B, metric)
    for i, j in np.ndindex(5, 5):
        expected = -0.5 * np.sum((B[1, i] - B[1, j]) ** 2) if metric == "l2" else B[1, i] @ B[1, j]
        assert scores[1, i, j] == pytest.approx(expected, abs=1e-5)
    P = soft_neighbors(B, metric, score_spread(B, metric))
    np.testing.assert_allclose(P.sum(axis=2), 1, rtol=1e-5)
    assert not P[:, np.arange(5), np.arange(5)].any()


def test_keeping_everything_costs_nothing(rng: np.random.Generator) -> None:
    B = rng.standard_normal((2, 5, 4)).astype(np.float32)
    P = soft_neighbors(B, "ip", 1.0)
    assert loss(np.eye(4, dtype=np.float32), B, P, "ip", 1.0) == pytest.approx(0, abs=1e-6)
    assert loss(np.eye(1, 4, dtype=np.float32), B, P, "ip", 1.0) > 0.1


def test_the_loss_is_the_mean_divergence_of_all_rows_or_of_anchors(rng: np.random.Generator) -> None:
    B = rng.standard_normal((3, 6, 5)).astype(np.float32)
    W = rng.standard_normal((2, 5)).astype(np.float32)
    P, Q = soft_neighbors(B, "ip", 2.0), soft_neighbors(B @ W.T, "ip", 2.0)
    apart = ~np.eye(6, dtype=bool)
    rows = np.array(
        [
            [np.sum(P[b, i, apart[i]] * np.log(P[b, i, apart[i]] / Q[b, i, apart[i]])) for i in range(6)]
            for b in range(3)
        ]
    )
    assert loss(W, B, P, "ip", 2.0) == pytest.approx(rows.mean(), rel=1e-4)
    assert loss(W, B, P, "ip", 2.0, anchors_only=True) == pytest.approx(rows[:, 0].mean(), rel=1e-4)


def test_rates_rise_and_fall() -> None:
    rates = one_cycle(100, 1e-3)
    assert rates.argmax() == 30
    assert rates.max() == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(4e-5)
    assert rates[15] == pytest.approx(5.2e-4)
    assert rates[65] == pytest.approx(5e-4, rel=1e-3)
    assert 1e-7 < rates[-1] < 1e-6
    assert len(one_cycle(1, 1e-3)) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_it_beats_principal_components_on_real_vectors(metric: Metric, sample: np.ndarray) -> None:
    # Norms that differ tell the metrics apart.
    vectors = sample * np.random.default_rng(0).uniform(0.5, 1.5, (len(sample), 1)).astype(np.float32)
    base, queries = vectors[:1300], vectors[1300:]
    ours = NearFold(48, metric=metric).fit(base).encoder_
    assert ours.facts["loss_after"] < 0.8 * ours.facts["loss_before"]
    kept = evaluate(ours, base, queries).recall[10].mean
    for center in (True, False):
        rival = PCA(48, center=center).fit(base).encoder_
        assert kept > evaluate(rival, base, queries, metric=metric).recall[10].mean + 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_first_dimensions_of_a_nested_fold_are_folds(metric: Metric, sample: np.ndarray) -> None:
    base, asked = sample[150:1150], sample[:150]
    widths = [8, 16]

    def kept(fold: Encoder) -> float:
        return evaluate(fold, base, asked, metric=metric).recall[10].mean

    nested = NearFold(32, metric=metric, nested=widths).fit(base).encoder_
    plain = NearFold(32, metric=metric).fit(base).encoder_
    assert kept(nested) > kept(plain) - 0.02
    for width in widths:
        first = nested.truncate(width)
        own = NearFold(width, metric=metric).fit(base).encoder_
        assert kept(first) > kept(plain.truncate(width)) + 0.01
        assert kept(first) > kept(own) - 0.05
        np.testing.assert_allclose(first.transform(asked), nested.transform(asked)[:, :width], atol=1e-5)


def test_widths_of_a_nested_fold(clusters: np.ndarray) -> None:
    d = clusters.shape[1]
    fold = NearFold(6, metric="l2", nested=True, n_steps=5).fit(clusters).encoder_
    assert fold.facts["nested"] == [1, 2, 3, 4]
    assert fold.truncate(3).facts["nested"] == [1, 2]
    assert fold.truncate(3).facts["truncated_from"] == 6
    assert "loss_after" not in fold.truncate(3).facts
    assert fold.truncate(6).bias is not None
    assert "nested" not in NearFold(1, nested=True, n_steps=5).fit(clusters).encoder_.facts
    for nested, wrong in (([6], "below the 6"), ([0], "positive"), ("2,3", "list of widths"), (2, "list of")):
        with pytest.raises(NearfoldError, match=wrong):
            NearFold(6, nested=nested, n_steps=5).fit(clusters)  # type: ignore[arg-type]
    for wanted in (0, 7, 2.5):
        with pytest.raises(NearfoldError, match="n_components"):
            fold.truncate(wanted)  # type: ignore[arg-type]
    assert d > 6


def test_copies_take_nothing_from_what_is_learned(tmp_path: Path) -> None:
    vectors = load_sample().vectors.astype(np.float32)
    rng = np.random.default_rng(0)
    rows, queries = vectors[:1000], vectors[4800:]
    # Each row three times, one of them a thousand times, at three lengths, half of them rounded.
    X = rows[rng.permutation(np.concatenate([np.repeat(np.arange(1000), 3), np.full(1000, 5)]))]
    X *= rng.choice([0.7, 1.0, 1.3], (len(X), 1)).astype(np.float32)
    X[::2] = X[::2].astype(np.float16)
    learner = NearFold(48, n_steps=50)
    learned, once = learner.fit(X).encoder_, NearFold(48, n_steps=50).fit(rows).encoder_

    def recall(encoder: Encoder) -> float:
        return evaluate(encoder, X, queries).recall[10].mean

    least = max(recall(once) - 0.02, recall(PCA(48, metric="cosine").fit(X).encoder_))
    assert recall(learned) >= least
    np.save(tmp_path / "x.npy", X)
    from_file = learner.fit(tmp_path / "x.npy").encoder_
    np.testing.assert_allclose(from_file.weight, learned.weight, atol=1e-4)


def test_training_that_gains_nothing_leaves_the_start(sample: np.ndarray) -> None:
    fold = NearFold(24, metric="ip", n_steps=5, n_anchors=100, learning_rate=1e4).fit(sample).encoder_
    assert fold.facts["loss_after"] == fold.facts["loss_before"]
    start = PCA(24, center=False).fit(sample).encoder_.weight
    np.testing.assert_allclose(np.abs(fold.weight @ start.T), np.eye(24), atol=1e-2)


def test_cosine_ignores_norms(sample: np.ndarray) -> None:
    scaled = sample[:400] * np.linspace(0.1, 10, 400, dtype=np.float32)[:, None]
    first, second = (NearFold(8, n_steps=30).fit(X).encoder_.weight for X in (sample[:400], scaled))
    np.testing.assert_allclose(first, second, atol=2e-3)


def test_l2_ignores_the_origin(clusters: np.ndarray) -> None:
    first, second = (
        NearFold(4, metric="l2", n_steps=30).fit(X).encoder_ for X in (clusters, clusters + np.float32(8))
    )
    np.testing.assert_allclose(first.weight, second.weight, atol=2e-3)
    np.testing.assert_allclose(
        first.transform(clusters), second.transform(clusters + np.float32(8)), atol=2e-2
    )
    np.testing.assert_allclose(first.transform(clusters).mean(axis=0), 0, atol=1e-4)


def test_queries_of_another_kind(rng: np.random.Generator) -> None:
    """Queries see only some directions; anchors drawn from them learn to keep those."""
    d, seen = 32, 6
    base = rng.standard_normal((1500, d)).astype(np.float32)
    base[:, seen:] *= 2
    asked = np.zeros((900, d), np.float32)
    asked[:, :seen] = rng.standard_normal((900, seen))
    sample, held_out = asked[:700], asked[700:]
    blind = NearFold(seen, metric="ip").fit(base).encoder_
    told = NearFold(seen, metric="ip").fit(base, queries=sample).encoder_
    kept = [evaluate(e, base, held_out).recall[10].mean for e in (blind, told)]
    assert kept[1] > kept[0] + 0.3
    assert (told.facts["anchors"], told.facts["queries"]) == (1500, 700)
    assert told.facts["query_weight"] == 1
    assert "queries" not in blind.facts


@pytest.mark.parametrize("metric", METRICS)
def test_few_queries_cost_others_nothing(metric: Metric, rng: np.random.Generator) -> None:
    """Queries vary in a subspace; what a fold learns from some must not cost others what they find."""
    d, seen, m = 32, 12, 8
    scales = np.linspace(2, 0.5, d)
    base = (rng.standard_normal((2000, d)) * scales).astype(np.float32)
    asked = 0.1 * rng.standard_normal((1900, d))
    asked[:, -seen:] += rng.standard_normal((1900, seen))
    sample, held_out = asked[:1500].astype(np.float32), asked[1500:].astype(np.float32)
    estimator = NearFold(m, metric=metric, n_steps=150, n_neighbors=32)
    found = scan_source(as_source(base), estimator.scan_spec(len(base), m, held_out))
    queries = found.anchors.of_queries
    blocks = found.scan.of_anchors(queries).blocks(found.anchors.chosen(queries))
    measured = MeasuredBlocks(blocks, blocks.index, metric)
    without = measured.loss(estimator.fit(base).encoder_.weight)
    # By cosine ten queries cost up to 2.2% of the loss, more than seeds do (.4%). Alone they cost 41% by ip.
    for number, most in ((1, 1.03), (10, 1.03), (50, 1.0), (1500, 0.7)):
        fold = estimator.fit(base, queries=sample[:number]).encoder_
        assert measured.loss(fold.weight) < most * without, number


@pytest.mark.parametrize(
    ("queries", "held"), [(0, 0), (35, 0), (36, 8), (1000, 200), (3000, 500), (9001, 474)]
)
def test_a_fifth_of_the_queries_is_held_out(queries: int, held: int) -> None:
    assert held_out(queries).sum() == held


@pytest.mark.parametrize(("queries", "weight"), [(0, 0.0), (500, 0.25), (10**9, 0.5)])
def test_the_weight_of_queries_rises_with_their_number(queries: int, weight: float) -> None:
    assert query_weight(queries) == pytest.approx(weight)


def test_bad_input(clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match="zero vector at row 3"):
        NearFold(4).fit(np.where(np.arange(300)[:, None] == 3, 0, clusters))
    with pytest.raises(NearfoldError, match="equal vectors"):
        NearFold(2).fit(np.ones((50, 6)))
    with pytest.raises(NearfoldError, match="queries has 5 dimensions"):
        NearFold(4).fit(clusters, queries=np.ones((3, 5)))
    with pytest.raises(NearfoldError, match="queries holds NaN"):
        NearFold(4).fit(clusters, queries=np.full((3, 24), np.nan))
    for bad in (
        {"n_neighbors": 300},
        {"n_neighbors": 0},
        {"n_steps": 0},
        {"learning_rate": -1},
        {"n_anchors": 0},
    ):
        with pytest.raises(NearfoldError, match=next(iter(bad))):
            NearFold(4, **bad).fit(clusters)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-15, 1e12])
@pytest.mark.parametrize("metric", METRICS)
def test_scale_free(scale: float, metric: Metric, clusters: np.ndarray) -> None:
    first = NearFold(4, metric=metric, n_steps=50).fit(clusters).encoder_.facts["loss_after"]
    second = (
        NearFold(4, metric=metric, n_steps=50).fit(clusters * np.float32(scale)).encoder_.facts["loss_after"]
    )
    assert second == pytest.approx(first, rel=0.05)
