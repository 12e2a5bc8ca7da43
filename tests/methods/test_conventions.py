"""What every estimator must do, whatever it learns."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nearfold import PCA, RAE, NearFold
from nearfold.arrays import METRICS
from nearfold.errors import NearfoldError
from nearfold.methods.base import FoldEstimator
from nearfold.methods.registry import METHODS, make, resolve_methods

FAST = {"rae": {"n_steps": 40}, "nearfold": {"n_steps": 20}}


def estimator(name: str, n_components: int | str = 4) -> FoldEstimator:
    return make(name, n_components, **FAST.get(name, {}))


# That check fits a zero vector, which has no cosine to anything: an error by design.
ZERO_VECTOR = {"check_estimators_dtypes": "a zero vector is refused under cosine"}


@parametrize_with_checks(
    [
        PCA(),
        PCA(center=False),
        RAE(n_steps=40),
        RAE(solver="exact"),
        *[NearFold(metric=m, n_steps=20) for m in METRICS],
    ],
    expected_failed_checks=lambda e: ZERO_VECTOR if isinstance(e, NearFold) and e.metric == "cosine" else {},
)
def test_scikit_learn_conventions(estimator: FoldEstimator, check: Callable[[FoldEstimator], None]) -> None:
    with warnings.catch_warnings():
        # scikit-learn's own checks warn of their deprecations and of tiny, degenerate data.
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.parametrize("name", METHODS)
def test_same_data_and_seed_give_the_same_encoder(name: str, clusters: np.ndarray) -> None:
    first, second = (estimator(name).fit(clusters).encoder_ for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.method == name
    assert dict(first.facts) == dict(second.facts)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8])
def test_dtypes_and_layouts(name: str, dtype: type, clusters: np.ndarray) -> None:
    X = np.clip((clusters + 4) * 20, 1, 255).astype(dtype)
    expected = estimator(name).fit(X.astype(np.float32)).encoder_.weight
    read_only = np.repeat(X, 2, axis=0)[::2]
    read_only.flags.writeable = False
    np.testing.assert_array_equal(estimator(name).fit(read_only).encoder_.weight, expected)
    assert estimator(name).fit(X).transform(X).dtype == np.float32


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda X: np.where(np.arange(len(X))[:, None] == 7, np.nan, X), "row 7, column 0"),
        (lambda X: X[:1], "1 sample"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:3], "n_components=4"),
        (lambda X: X[0], "Reshape"),
        (lambda X: X[:, :4], "n_components=4"),
        (lambda X: X * 1e30 * 1e30, "beyond float32"),
        (lambda X: X.astype(str), "numbers"),
    ],
)
def test_bad_data_is_refused(
    name: str, spoil: Callable[[np.ndarray], np.ndarray], says: str, clusters: np.ndarray
) -> None:
    with pytest.raises(NearfoldError, match=says):
        estimator(name).fit(spoil(clusters.astype(float)))


@pytest.mark.parametrize("name", METHODS)
def test_bad_parameters_are_refused(name: str, clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match="metric"):
        make(name, 4, metric="hamming").fit(clusters)
    with pytest.raises(NearfoldError, match="has no parameter typo"):
        make(name, 4, typo=1)


@pytest.mark.parametrize("name", METHODS)
def test_duplicate_rows_are_fine(name: str, clusters: np.ndarray) -> None:
    assert np.isfinite(estimator(name).fit(np.repeat(clusters[:60], 5, axis=0)).encoder_.weight).all()


@pytest.mark.parametrize("name", METHODS)
def test_not_fitted(name: str) -> None:
    with pytest.raises(NotFittedError):
        estimator(name).transform(np.ones((2, 3)))


@pytest.mark.parametrize("name", METHODS)
def test_it_lives_in_pipelines(name: str, clusters: np.ndarray) -> None:
    pipeline = make_pipeline(StandardScaler(), clone(estimator(name)))
    assert pipeline.fit_transform(clusters).shape == (300, 4)
    assert len(pipeline.get_feature_names_out()) == 4
    assert pickle.loads(pickle.dumps(pipeline)).transform(clusters[:2]).shape == (2, 4)


def test_registry_names() -> None:
    assert resolve_methods("all") == list(METHODS)
    assert resolve_methods("pca, rae,pca") == ["pca", "rae"]
    for bad in ("pca,what", "", ","):
        with pytest.raises(NearfoldError, match="method"):
            resolve_methods(bad)
    with pytest.raises(NearfoldError, match="unknown"):
        make("what", 2)
