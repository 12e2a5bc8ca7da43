"""The linear map of least stress."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from nearfold import PCA
from nearfold.errors import NearfoldError
from nearfold.methods.isometric import Isometric, stress_of_pairs


@given(m=st.integers(1, 4), d=st.integers(4, 8), n=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_the_gradient_of_stress(m: int, d: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, pairs = rng.standard_normal((m, d)), rng.standard_normal((n, d))
    value, slope = stress_of_pairs(weight, pairs)  # type: ignore[arg-type]
    lengths = (np.linalg.norm(rows, axis=1) for rows in (pairs @ weight.T, pairs))
    folded, whole = lengths
    assert value == pytest.approx(np.square(folded - whole).mean())
    step = rng.standard_normal((m, d))
    ahead, behind = (stress_of_pairs(weight + e * step, pairs)[0] for e in (1e-6, -1e-6))  # type: ignore[arg-type]
    assert (slope * step).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=1e-5)


def test_pairs_at_one_point_give_no_gradient() -> None:
    weight = np.eye(2, 4, dtype=np.float32)
    value, slope = stress_of_pairs(weight, np.array([[0, 0, 3, 4], [0, 0, 0, 0]], np.float32))
    assert value == pytest.approx(12.5)
    assert (slope == 0).all()


def test_it_lowers_the_stress_of_pca(clusters: np.ndarray) -> None:
    def stress(places: np.ndarray) -> float:
        before, after = pdist(clusters.astype(float)), pdist(places.astype(float))
        return float(np.sqrt(np.square(after - before).sum() / np.square(after).sum()))

    fitted = Isometric(3, metric="l2").fit(clusters)
    reached = stress(fitted.transform(clusters))
    assert reached < stress(PCA(3).fit_transform(clusters))
    assert fitted.encoder_.facts["stress"] == pytest.approx(reached, rel=0.15)


def test_rows_that_fit_are_kept_as_they_are(rng: np.random.Generator) -> None:
    """Rows in a plane have a map of stress 0, under every metric."""
    X = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 9))
    folded = Isometric(2, metric="ip").fit_transform(X).astype(float)
    np.testing.assert_allclose(folded @ folded.T, X @ X.T, atol=1e-2 * np.abs(X @ X.T).max())


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_scale_changes_nothing(metric: str, clusters: np.ndarray) -> None:
    first, second = (
        Isometric(3, metric=metric, n_steps=50).fit(rows).components_  # type: ignore[arg-type]
        for rows in (clusters, clusters * 1024)
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_it_says_what_is_wrong(clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match="equal rows only"):
        Isometric(2, metric="l2").fit(np.ones((20, 5)))
    for parameters in ({"n_steps": 0}, {"pairs_per_step": 0}, {"learning_rate": -1}):
        with pytest.raises(NearfoldError, match=next(iter(parameters))):
            Isometric(2, **parameters).fit(clusters)  # type: ignore[arg-type]
