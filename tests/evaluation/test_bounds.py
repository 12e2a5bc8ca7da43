from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold import PCA, Moments
from nearfold._utils.arrays import METRICS, Metric
from nearfold.evaluation.bounds import (
    bound_neighbors,
    null_space_energy,
    residual_norms,
    row_space,
    score_bounds,
)
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.scan.exact import exact_scores


@given(
    metric=st.sampled_from(METRICS), d=st.integers(3, 10), m=st.integers(1, 3), seed=st.integers(0, 10_000)
)
@settings(deadline=None)
def test_every_score_is_within_its_bounds(metric: Metric, d: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = (rng.standard_normal((40, d)) + rng.standard_normal(d)).astype(np.float32)
    queries = (rng.standard_normal((5, d)) * rng.uniform(0.1, 3)).astype(np.float32)
    W = rng.standard_normal((min(m, d - 1), d)).astype(np.float32)
    everyone = np.tile(np.arange(40), (5, 1))
    exact = exact_scores(base, queries, everyone, metric)
    for part, lower, upper in score_bounds(queries, base, W, metric):
        slack = 1e-4 * max(1.0, np.abs(exact).max())
        assert (lower <= exact[part] + slack).all()
        assert (upper >= exact[part] - slack).all()
        assert (lower <= upper).all()


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_proven_is_true(metric: Metric, rng: np.random.Generator) -> None:
    """Rows that hardly leave the subspace: much is proven, all of it right, and reading suffices."""
    spread = np.r_[np.ones(6), np.full(10, 0.01)]
    base, queries = ((rng.standard_normal((n, 16)) * spread).astype(np.float32) for n in (400, 50))
    k = 5
    W = PCA(6, center=False).fit(base).encoder_.weight
    truth = GroundTruth.compute(base, queries, k, metric)
    found = bound_neighbors(queries, base, W, metric, truth.scores[:, -1], k)
    assert found.proven.mean() > 1
    assert (found.candidates < 40).mean() > 0.9
    for part, lower, upper in score_bounds(queries, base, W, metric):
        for i, query in enumerate(range(*part.indices(len(queries)))):
            certain = [b for b in range(400) if (np.delete(upper[i], b) > lower[i, b]).sum() < k]
            assert len(certain) == found.proven[query]
            assert set(certain) <= set(truth.ids[query])
            read = np.argsort(-upper[i])[: found.candidates[query]]
            assert set(truth.ids[query]) <= set(read)


def test_fewer_rows_than_k_plus_one_are_all_proven(rng: np.random.Generator) -> None:
    base = rng.standard_normal((3, 4)).astype(np.float32)
    found = bound_neighbors(base[:1], base, np.eye(2, 4, dtype=np.float32), "ip", np.array([-1e9]), 3)
    assert found.proven.tolist() == [3]
    assert found.candidates.tolist() == [3]


def test_residuals_and_energy_add_up(clusters: np.ndarray) -> None:
    pca = PCA(5, center=False).fit(clusters).encoder_
    P = row_space(pca.weight)
    np.testing.assert_allclose(P @ P.T, np.eye(5), atol=1e-10)
    lost = np.square(residual_norms(clusters, P)).mean()
    second = Moments.of(clusters).uncentered
    assert lost / np.trace(second) == pytest.approx(null_space_energy(second, P), rel=1e-5)
    assert 1 - pca.facts["energy"] == pytest.approx(null_space_energy(second, P), rel=1e-4)
    assert len(row_space(np.repeat(np.eye(1, 4), 2, axis=0))) == 1
