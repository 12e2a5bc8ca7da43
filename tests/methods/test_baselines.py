from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.manifold import Isomap as SklearnIsomap
from sklearn.neighbors import kneighbors_graph

from nearfold import PCA
from nearfold.errors import NearfoldError
from nearfold.methods.lpp import LPP
from nearfold.methods.manifold import Isomap
from nearfold.methods.mds import MDS
from nearfold.methods.mpad import MPAD, mean_of_smallest
from nearfold.methods.random import RandomProjection
from nearfold.methods.truncation import Truncation


def test_truncation_keeps_the_first(clusters: np.ndarray) -> None:
    np.testing.assert_array_equal(Truncation(5).fit_transform(clusters), clusters[:, :5])


@pytest.mark.parametrize("kind", ["gaussian", "sparse", "rotation"])
def test_random_projections_keep_lengths_on_average(kind: str, rng: np.random.Generator) -> None:
    X = rng.standard_normal((200, 400)).astype(np.float32)
    folded = RandomProjection(100, kind=kind).fit_transform(X)  # type: ignore[arg-type]
    ratios = np.linalg.norm(folded, axis=1) / np.linalg.norm(X, axis=1)
    assert abs(ratios.mean() - 1) < 0.05
    first, second = (RandomProjection(4, random_state=s).fit(X).encoder_.weight for s in (0, 1))
    assert (first != second).any()


def test_a_rotation_keeps_all_that_it_does_not_drop(rng: np.random.Generator) -> None:
    weight = RandomProjection(6, kind="rotation").fit(np.ones((3, 24))).components_
    np.testing.assert_allclose(weight @ weight.T, 4 * np.eye(6), atol=1e-5)
    # Drawn uniformly, no direction is favoured.
    drawn = np.stack(
        [
            RandomProjection(1, kind="rotation", random_state=s).fit(np.ones((3, 3))).components_[0]
            for s in range(600)
        ]
    )
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(3), atol=0.2)


def test_lpp_solves_its_eigenproblem(clusters: np.ndarray) -> None:
    W = LPP(4, metric="l2").fit(clusters).encoder_.weight.astype(float)
    graph = kneighbors_graph(clusters, 10).maximum(kneighbors_graph(clusters, 10).T).toarray()
    degree = np.diag(graph.sum(axis=1))
    X = clusters.astype(float)
    tension, norm = X.T @ (degree - graph) @ X, X.T @ degree @ X
    np.testing.assert_allclose(W @ norm @ W.T, np.eye(4), atol=1e-3)
    stretch = W @ tension @ W.T
    np.testing.assert_allclose(stretch, np.diag(np.diag(stretch)), atol=1e-4)
    # No other direction of norm 1 is stretched less than the first.
    values = np.linalg.eigvals(np.linalg.solve(norm, tension)).real
    np.testing.assert_allclose(np.diag(stretch), np.sort(values)[:4], rtol=1e-2)


def test_lpp_of_a_sample_of_the_rows(clusters: np.ndarray) -> None:
    assert LPP(4, max_rows=100).fit(clusters).encoder_.facts["graph_rows"] == 100


@given(n=st.integers(2, 40), share=st.floats(0.01, 1.0), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_mpads_mean_of_smallest_differences(n: int, share: float, seed: int) -> None:
    p = np.random.default_rng(seed).standard_normal(n)
    pairs = np.sort(np.abs(p[:, None] - p)[np.triu_indices(n, 1)])
    wanted = max(1, round(share * len(pairs)))
    value, slope = mean_of_smallest(p, share)
    assert value == pytest.approx(pairs[:wanted].mean(), rel=1e-6)
    numeric = [
        (mean_of_smallest(p + e, share)[0] - mean_of_smallest(p - e, share)[0]) / 2e-7
        for e in 1e-7 * np.eye(n)
    ]
    np.testing.assert_allclose(slope, numeric, atol=1e-5)


def test_mpad_climbs_and_stays_nearly_orthogonal(clusters: np.ndarray) -> None:
    W = MPAD(4).fit(clusters).encoder_.weight.astype(float)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, rtol=1e-5)
    assert np.abs(W @ W.T - np.eye(4)).max() < 0.2
    X = (clusters - clusters.mean(axis=0)) / clusters.std()
    blind = RandomProjection(1).fit(clusters).encoder_.weight[0].astype(float)
    blind /= np.linalg.norm(blind)
    assert mean_of_smallest(X @ W[0], 0.8)[0] > 1.2 * mean_of_smallest(X @ blind, 0.8)[0]


def test_mpad_of_all_rows_takes_each_once(clusters: np.ndarray) -> None:
    """So their order is no matter; drawn with replacement some would count twice and others not."""
    order = np.random.default_rng(1).permutation(len(clusters))
    first, second = (MPAD(1, n_samples=1000).fit(rows).encoder_ for rows in (clusters, clusters[order]))
    np.testing.assert_allclose(first.weight, second.weight, atol=1e-3)
    assert first.facts["sampled_rows"] == len(clusters)


def test_mds_places_its_sample_around_the_origin(clusters: np.ndarray) -> None:
    folded = MDS(3, metric="l2").fit(clusters).encoder_.transform(clusters)
    np.testing.assert_allclose(folded.mean(axis=0), 0, atol=1e-4 * np.abs(folded).max())


def test_mds_under_cosine_sees_directions_alone(clusters: np.ndarray) -> None:
    lengths = np.linspace(1, 9, len(clusters))[:, None]
    first, second = (MDS(3).fit(rows).encoder_ for rows in (clusters, clusters * lengths))
    np.testing.assert_allclose(first.bias, second.bias, atol=1e-3 * np.abs(first.bias).max())
    # Longer rows come to the same places by a smaller weight.
    longer = np.median(np.linalg.norm(clusters * lengths, axis=1)) / np.median(
        np.linalg.norm(clusters, axis=1)
    )
    np.testing.assert_allclose(first.weight, second.weight * longer, atol=1e-3 * np.abs(first.weight).max())


def test_mds_lowers_the_stress_of_pca(clusters: np.ndarray) -> None:
    fitted = MDS(3, metric="l2").fit(clusters).encoder_

    def stress(places: np.ndarray) -> float:
        before, after = pdist(clusters.astype(float)), pdist(places.astype(float))
        return float(np.sqrt(np.square(after - before).sum() / np.square(after).sum()))

    assert fitted.facts["stress"] < stress(PCA(3).fit_transform(clusters))
    assert fitted.metric == "l2"
    assert 0.5 < fitted.facts["fit"] <= 1
    with pytest.raises(NearfoldError, match="at most 5000"):
        MDS(3, max_rows=6000).fit(clusters)


def test_mds_of_equal_rows_says_so() -> None:
    with pytest.raises(NearfoldError, match="equal rows only"):
        MDS(2, metric="l2").fit(np.ones((20, 5)))


def test_lpp_of_zero_rows_says_so() -> None:
    with pytest.raises(NearfoldError, match="zero rows only"):
        LPP(2, metric="l2", n_neighbors=3).fit(np.zeros((20, 5)))


def test_isomap_is_scikit_learns(clusters: np.ndarray) -> None:
    ours = Isomap(3, metric="l2", n_neighbors=60).fit(clusters).encoder_
    theirs = SklearnIsomap(n_neighbors=60, n_components=3, eigen_solver="dense").fit(clusters)
    np.testing.assert_allclose(ours.transform(clusters), theirs.transform(clusters), rtol=1e-4, atol=1e-4)
    assert ours.metric == "l2"
    with pytest.raises(NearfoldError, match="row 1, column 2"):
        ours.transform(np.where((np.arange(3)[:, None] == 1) & (np.arange(24) == 2), np.nan, clusters[:3]))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (RandomProjection(2, kind="cauchy"), "kind='cauchy'"),  # type: ignore[arg-type]
        (LPP(2, n_neighbors=300), "n_neighbors=300"),
        (LPP(2, max_rows=0), "max_rows=0"),
        (MPAD(2, share=2), "share=2"),
        (MPAD(2, share=0), "share=0"),
        (MPAD(2, alpha=-1), "alpha=-1"),
        (MDS(2, ridge=0), "ridge=0"),
        (Isomap(2, n_neighbors=300), "n_neighbors=300"),
        (Isomap(20, max_rows=20), "n_components=20"),
    ],
)
def test_bad_parameters(method: object, says: str, clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match=says):
        method.fit(clusters)  # type: ignore[attr-defined]
