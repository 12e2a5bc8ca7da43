"""What every estimator must do, whatever it learns."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nearfold import PCA, RAE, NearFold
from nearfold._utils.arrays import METRICS
from nearfold.errors import MissingExtraError, NearfoldError, ParameterError
from nearfold.methods.base import FoldEstimator
from nearfold.methods.isometric import Isometric
from nearfold.methods.lpp import LPP
from nearfold.methods.manifold import Isomap
from nearfold.methods.mds import MDS
from nearfold.methods.mpad import MPAD
from nearfold.methods.random import RandomProjection
from nearfold.methods.registry import LINEAR, METHODS, make, resolve_methods
from nearfold.methods.spectemp import SpectralTempering
from nearfold.methods.truncation import Truncation
from nearfold.methods.whitening import Whitening

FAST: dict[str, dict[str, Any]] = {
    "rae": {"n_steps": 40},
    "nearfold": {"n_steps": 20},
    "rae-mlp": {"n_steps": 40},
    "mpad": {"n_steps": 5, "n_samples": 100},
    "mds": {"n_steps": 10},
    "isometric": {"n_steps": 20},
    # Fewer neighbours leave the clusters' graph in pieces, which Isomap warns of.
    "isomap": {"n_neighbors": 60},
}

# What needs an extra is tested where that extra is installed.
MARKS = {"rae-mlp": pytest.mark.torch, "umap": pytest.mark.manifold}
ALL = [pytest.param(name, marks=MARKS.get(name, ())) for name in METHODS]


def estimator(name: str, n_components: int | str = 4) -> FoldEstimator:
    return make(name, n_components, **FAST.get(name, {}))


def needs_directions(e: FoldEstimator) -> bool:
    """Return whether an estimator scales the rows that it learns from to norm 1."""
    return e.learns_metric and e.metric == "cosine" and getattr(e, "weight_decay", None) != "auto"


# That check fits a zero vector, which has no cosine to anything: an error by design.
ZERO_VECTOR = {"check_estimators_dtypes": "a zero vector is refused under cosine"}


@parametrize_with_checks(
    [
        PCA(),
        PCA(center=False),
        Whitening(),
        RAE(n_steps=40),
        RAE(solver="exact"),
        RAE(solver="exact", weight_decay="auto"),
        RAE(solver="exact", regularizer="laplacian", graph_neighbors=2),
        Truncation(),
        RandomProjection(),
        RandomProjection(kind="sparse"),
        RandomProjection(kind="rotation"),
        LPP(n_neighbors=2),
        MPAD(n_steps=3, n_samples=50),
        MDS(n_steps=5),
        *[Isometric(metric=m, n_steps=5) for m in METRICS],
        SpectralTempering(),
        SpectralTempering(center=False),
        Isomap(n_neighbors=2, metric="l2"),
        *[NearFold(metric=m, n_steps=20) for m in METRICS],
    ],
    expected_failed_checks=lambda e: ZERO_VECTOR if needs_directions(e) else {},
)
def test_scikit_learn_conventions(estimator: FoldEstimator, check: Callable[[FoldEstimator], None]) -> None:
    with warnings.catch_warnings():
        # scikit-learn's own checks warn of their deprecations and of tiny, degenerate data.
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.parametrize("name", ALL)
def test_same_data_and_seed_give_the_same_encoder(name: str, clusters: np.ndarray) -> None:
    first, second = (estimator(name).fit(clusters).encoder_ for _ in range(2))
    np.testing.assert_array_equal(first.transform(clusters), second.transform(clusters))
    assert first.method == name
    assert dict(first.facts) == dict(second.facts)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8])
def test_dtypes_and_layouts(name: str, dtype: type, clusters: np.ndarray) -> None:
    X = np.clip((clusters + 4) * 20, 1, 255).astype(dtype)
    expected = estimator(name).fit(X.astype(np.float32)).transform(X)
    read_only = np.repeat(X, 2, axis=0)[::2]
    read_only.flags.writeable = False
    np.testing.assert_array_equal(estimator(name).fit(read_only).transform(X), expected)
    assert estimator(name).fit(X).transform(X).dtype == np.float32


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda X: np.where(np.arange(len(X))[:, None] == 7, np.nan, X), "row 7, column 0"),
        (lambda X: X[:1], "1 sample"),
        (lambda X: X[:0], "0 sample"),
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


@pytest.mark.parametrize("name", ALL)
def test_bad_parameters_are_refused(name: str, clusters: np.ndarray) -> None:
    with pytest.raises(NearfoldError, match="metric"):
        make(name, 4, metric="hamming").fit(clusters)
    with pytest.raises(NearfoldError, match="has no parameter typo"):
        make(name, 4, typo=1)


@pytest.mark.parametrize("name", ALL)
def test_duplicate_rows_are_fine(name: str, clusters: np.ndarray) -> None:
    assert np.isfinite(estimator(name).fit_transform(np.repeat(clusters[:60], 5, axis=0))).all()


@pytest.mark.parametrize("name", ALL)
def test_not_fitted(name: str) -> None:
    with pytest.raises(NotFittedError):
        estimator(name).transform(np.ones((2, 3)))


@pytest.mark.parametrize("name", ALL)
def test_it_lives_in_pipelines(name: str, clusters: np.ndarray) -> None:
    pipeline = make_pipeline(StandardScaler(), clone(estimator(name)))
    assert pipeline.fit_transform(clusters).shape == (300, 4)
    assert len(pipeline.get_feature_names_out()) == 4
    assert pickle.loads(pickle.dumps(pipeline)).transform(clusters[:2]).shape == (2, 4)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_go_in_and_come_out(library: str, clusters: np.ndarray) -> None:
    frames = pytest.importorskip(library)
    columns = [f"x{column}" for column in range(clusters.shape[1])]
    frame = frames.DataFrame(dict(zip(columns, clusters.T, strict=True)))
    pipeline = make_pipeline(StandardScaler(), NearFold(n_components=4, n_steps=20))
    pipeline.set_output(transform=library)
    folded = pipeline.fit_transform(frame)
    assert isinstance(folded, frames.DataFrame)
    assert list(folded.columns) == [f"nearfold{column}" for column in range(4)]
    plain = make_pipeline(StandardScaler(), NearFold(n_components=4, n_steps=20)).fit_transform(clusters)
    np.testing.assert_allclose(folded.to_numpy(), plain, rtol=1e-5, atol=1e-6)


def test_registry_names() -> None:
    assert resolve_methods("all") == list(METHODS)
    assert resolve_methods("linear") == list(LINEAR)
    assert resolve_methods("pca,linear")[0] == "pca"
    assert resolve_methods("pca, rae,pca") == ["pca", "rae"]
    for bad in ("pca,what", "", ","):
        with pytest.raises(NearfoldError, match="method"):
            resolve_methods(bad)
    with pytest.raises(NearfoldError, match="unknown"):
        make("what", 2)


def test_a_missing_extra_is_named_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfold._utils.extras.importlib.util.find_spec", lambda _name: None)
    for name, extra in (("umap", "manifold"), ("rae-mlp", "torch")):
        with pytest.raises(MissingExtraError, match=rf"nearfold\[{extra}\]"):
            make(name, 4)


def test_what_cannot_be_saved_says_so(clusters: np.ndarray, tmp_path: Path) -> None:
    fold = estimator("isomap").fit(clusters).encoder_
    with pytest.raises(ParameterError, match="can't be saved"):
        fold.save(tmp_path / "f.safetensors")
    assert not list(tmp_path.iterdir())
    again = pickle.loads(pickle.dumps(fold))
    np.testing.assert_array_equal(again.transform(clusters[:5]), fold.transform(clusters[:5]))


@pytest.mark.parametrize("name", ALL)
def test_new_rows_are_mapped_like_known_ones(name: str, clusters: np.ndarray) -> None:
    """Rows that are all but equal to rows learned from fold to all but the same place."""
    fitted = estimator(name).fit(clusters)
    moved = clusters[:20] + np.float32(1e-6)
    known, new = fitted.transform(clusters)[:20], fitted.transform(moved)
    # UMAP places new rows by optimisation, near their neighbours and no nearer.
    allowed = 0.5 if name == "umap" else 1e-3
    assert np.abs(new - known).max() <= allowed * np.abs(known).max()


@pytest.mark.parametrize("name", ALL)
def test_too_few_rows_to_learn_from(name: str, clusters: np.ndarray) -> None:
    if name == "truncation" or name.startswith("random"):
        assert estimator(name).fit_transform(clusters[:3]).shape == (3, 4)
        return
    with pytest.raises(NearfoldError, match="n_components=4"):
        estimator(name).fit(clusters[:3])
