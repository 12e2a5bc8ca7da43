from __future__ import annotations

import numpy as np
from sklearn import decomposition

from nearfold import PCA


def test_centred_is_scikit_learns(clusters: np.ndarray) -> None:
    ours, theirs = PCA(5).fit(clusters), decomposition.PCA(5, svd_solver="full").fit(clusters)
    np.testing.assert_allclose(
        np.abs(ours.transform(clusters)), np.abs(theirs.transform(clusters)), atol=1e-4
    )
    np.testing.assert_allclose(
        ours.encoder_.facts["energy"], theirs.explained_variance_ratio_.sum(), rtol=1e-5
    )


def test_uncentred_is_a_truncated_svd(clusters: np.ndarray) -> None:
    ours = PCA(5, center=False).fit(clusters)
    theirs = decomposition.TruncatedSVD(5, algorithm="arpack").fit(clusters)
    assert ours.encoder_.bias is None
    np.testing.assert_allclose(
        np.abs(ours.transform(clusters)), np.abs(theirs.transform(clusters)), atol=1e-4
    )


def test_rank_deficient_data_gives_finite_axes(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 9))
    W = PCA(4).fit(X).encoder_.weight
    np.testing.assert_allclose(W @ W.T, np.eye(4), atol=1e-5)


def test_one_repeated_row() -> None:
    assert np.isfinite(PCA(2).fit(np.ones((9, 4))).encoder_.weight).all()
