"""Learned state by the names that scikit-learn gives it, the way back, and learning by batches."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import decomposition
from sklearn.exceptions import NotFittedError

from nearfold import PCA, RAE, NearFold
from nearfold.errors import DataError, NearfoldError, ParameterError
from nearfold.methods.base import LinearFold
from nearfold.methods.mds import MDS
from nearfold.methods.moments import MomentFold
from nearfold.methods.random import RandomProjection
from nearfold.methods.registry import LINEAR
from nearfold.methods.truncation import Truncation
from nearfold.methods.whitening import Whitening
from tests.methods.test_conventions import estimator

SPECTRUM = ("explained_variance_", "explained_variance_ratio_", "singular_values_")

BY_BATCHES = [
    PCA(5),
    PCA(5, center=False),
    Whitening(5),
    *[RAE(5, solver="exact", weight_decay=1e-3, regularizer=r) for r in ("frobenius", "nuclear", "spectral")],
]


@pytest.mark.parametrize("name", LINEAR)
def test_every_linear_estimator_has_its_components(name: str, clusters: np.ndarray) -> None:
    unfitted = estimator(name)
    assert not any(hasattr(unfitted, each) for each in ("components_", "n_components_", "mean_"))
    fitted = estimator(name).fit(clusters)
    assert isinstance(fitted, LinearFold)
    assert fitted.components_ is fitted.encoder_.weight
    assert fitted.components_.shape == (fitted.n_components_, fitted.n_features_in_) == (4, 24)
    prefix = type(fitted).__name__.lower()
    assert list(fitted.get_feature_names_out()) == [f"{prefix}{i}" for i in range(4)]


def test_names_of_columns_are_noted(clusters: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(clusters, columns=[f"x{i}" for i in range(24)])
    for fitted in (PCA(4).fit(frame), PCA(4).partial_fit(frame)):
        assert list(fitted.feature_names_in_) == list(frame.columns)
        with pytest.raises(ValueError, match="feature names"):
            fitted.transform(frame.rename(columns={"x0": "y0"}))
    with pytest.raises(ValueError, match="feature names"):
        PCA(4).partial_fit(frame).partial_fit(frame.rename(columns={"x0": "y0"}))


@pytest.mark.parametrize("ours", [PCA(5), Whitening(5)])
def test_spectrum_is_that_of_scikit_learns_pca(ours: Any, clusters: np.ndarray) -> None:
    theirs = decomposition.PCA(5, svd_solver="full").fit(clusters.astype(np.float64))
    ours.fit(clusters)
    for name in (*SPECTRUM, "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5)
    directions = ours.components_ / np.linalg.norm(ours.components_, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(directions), np.abs(theirs.components_), atol=1e-4)
    assert ours.n_components_ == theirs.n_components_
    assert ours.n_samples_seen_ == theirs.n_samples_


def test_uncentred_spectrum_is_that_of_truncated_svd(clusters: np.ndarray) -> None:
    ours = PCA(5, center=False).fit(clusters)
    theirs = decomposition.TruncatedSVD(5, algorithm="arpack").fit(clusters.astype(np.float64))
    for name in SPECTRUM:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4)
    np.testing.assert_allclose(np.abs(ours.components_), np.abs(theirs.components_), atol=1e-4)
    assert ours.mean_ is None


@pytest.mark.parametrize(
    "fitted", [PCA(4), Whitening(4), MDS(4, metric="l2"), NearFold(4, metric="l2", n_steps=5)]
)
def test_the_mean_folds_to_zero(fitted: LinearFold, clusters: np.ndarray) -> None:
    fitted.fit(clusters)
    assert fitted.mean_ is not None
    np.testing.assert_allclose(fitted.mean_, clusters.mean(axis=0, dtype=float), atol=1e-5)
    np.testing.assert_allclose(fitted.transform([fitted.mean_]), 0, atol=1e-4)
    np.testing.assert_allclose(fitted.inverse_transform(np.zeros((1, 4)))[0], fitted.mean_, atol=1e-5)


def test_the_way_back_is_scikit_learns(clusters: np.ndarray) -> None:
    for ours, theirs in (
        (PCA(5), decomposition.PCA(5, svd_solver="full")),
        (Whitening(5), decomposition.PCA(5, whiten=True, svd_solver="full")),
        (PCA(5, center=False), decomposition.TruncatedSVD(5, algorithm="arpack")),
    ):
        back = ours.inverse_transform(ours.fit_transform(clusters))
        expected = theirs.inverse_transform(theirs.fit_transform(clusters))
        np.testing.assert_allclose(back, expected, atol=1e-4)
        assert back.dtype == np.float32


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_there_and_back(name: str, metric: str, clusters: np.ndarray) -> None:
    """What comes back folds to the same place."""
    fitted: Any = estimator(name).set_params(metric=metric).fit(clusters)
    folded = fitted.transform(clusters)
    back = fitted.inverse_transform(folded)
    assert back.shape == clusters.shape
    np.testing.assert_allclose(fitted.transform(back), folded, atol=1e-3 * np.abs(folded).max())


def test_a_bias_and_dead_axes_on_the_way_back(clusters: np.ndarray) -> None:
    biased = RAE(4, bias=True, n_steps=300).fit(clusters)
    folded = biased.transform(clusters)
    np.testing.assert_allclose(biased.transform(biased.inverse_transform(folded)), folded, atol=1e-3)
    flat = Whitening(4).fit(np.outer(np.arange(9.0), np.ones(6)))
    assert np.isfinite(flat.inverse_transform(flat.transform(np.ones((2, 6))))).all()
    np.testing.assert_allclose(flat.inverse_transform(flat.transform(np.ones((2, 6)))), 1, atol=1e-4)


def test_what_cannot_come_back_is_refused(clusters: np.ndarray) -> None:
    with pytest.raises(NotFittedError):
        PCA(4).inverse_transform(clusters[:, :4])
    fitted = PCA(4).fit(clusters)
    with pytest.raises(DataError, match="24 reduced dimensions, but PCA folds to 4"):
        fitted.inverse_transform(clusters)
    with pytest.raises(DataError, match="row 0"):
        fitted.inverse_transform(np.full((1, 4), np.nan))
    assert not hasattr(estimator("isomap").fit(clusters), "inverse_transform")


@pytest.mark.parametrize("unfitted", BY_BATCHES, ids=str)
def test_batches_give_what_all_rows_give(unfitted: MomentFold, clusters: np.ndarray) -> None:
    whole = pickle.loads(pickle.dumps(unfitted)).fit(clusters)
    batched = pickle.loads(pickle.dumps(unfitted))
    for low, high in ((0, 100), (100, 101), (101, 300)):
        assert batched.partial_fit(clusters[low:high]) is batched
        assert batched.n_samples_seen_ == high
    np.testing.assert_allclose(batched.transform(clusters), whole.transform(clusters), atol=1e-4)
    for name in {*SPECTRUM, "mean_"} & vars(whole).keys():
        np.testing.assert_allclose(
            np.array(getattr(batched, name), float), np.array(getattr(whole, name), float), rtol=1e-5
        )
    assert dict(batched.encoder_.facts) == pytest.approx(
        {name: fact for name, fact in whole.encoder_.facts.items() if name != "fingerprint"}, rel=1e-5
    )


@pytest.mark.parametrize("unfitted", [PCA(5), RAE(5, solver="exact", weight_decay=1e-3)])
def test_batches_go_on_from_a_fit_and_a_fit_begins_anew(
    unfitted: MomentFold, clusters: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "rest.npy", clusters[100:])
    whole = pickle.loads(pickle.dumps(unfitted)).fit(clusters)
    unfitted.fit(clusters[:100])
    unfitted = pickle.loads(pickle.dumps(unfitted)).partial_fit(tmp_path / "rest.npy")
    np.testing.assert_allclose(unfitted.components_, whole.components_, atol=1e-4)
    again = unfitted.fit(clusters[:100])
    assert again.n_samples_seen_ == 100
    assert again.partial_fit(clusters[100:]).n_samples_seen_ == 300


def test_a_bad_batch_is_not_counted(clusters: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="n_components=5 needs at least as many rows"):
        PCA(5).partial_fit(clusters[:4])
    fitted = PCA(5).partial_fit(clusters[:100])
    bad = clusters[100:].copy()
    bad[3, 2] = np.nan
    with pytest.raises(DataError, match="row 3, column 2"):
        fitted.partial_fit(bad)
    with pytest.raises(DataError, match="23 features, but PCA is expecting 24"):
        fitted.partial_fit(clusters[:, 1:])
    assert fitted.n_samples_seen_ == 100
    fitted.partial_fit(clusters[100:])
    np.testing.assert_allclose(fitted.components_, PCA(5).fit(clusters).components_, atol=1e-4)


@pytest.mark.parametrize(
    "unfitted",
    [
        RAE(5),
        RAE(5, solver="exact", weight_decay="auto"),
        RAE(5, solver="exact", regularizer="laplacian"),
        NearFold(5),
        Truncation(5),
        RandomProjection(5),
    ],
    ids=str,
)
def test_what_needs_the_rows_has_no_partial_fit(unfitted: LinearFold) -> None:
    assert not hasattr(unfitted, "partial_fit")


def test_rows_that_another_solver_learned_from_are_not_counted(clusters: np.ndarray) -> None:
    fitted = RAE(5, solver="exact", weight_decay=1e-3).fit(clusters)
    fitted.set_params(solver="adam", n_steps=3).fit(clusters)
    fitted.set_params(solver="exact").partial_fit(clusters[:50])
    assert fitted.n_samples_seen_ == 50
    with pytest.raises(NearfoldError, match="no bias"):
        fitted.set_params(bias=True).partial_fit(clusters)
