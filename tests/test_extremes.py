"""Numbers at the ends of float32, data of low rank, rows that are all one: a fold or an error, never NaN."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nearfold import evaluate
from nearfold._utils.arrays import Metric
from nearfold.errors import NearfoldError
from nearfold.methods.registry import LINEAR, make

N, D, M = 400, 16, 4
RNG = np.random.default_rng(0)
SPREAD = RNG.standard_normal((N, D)) * np.linspace(2, 0.3, D)


def fitted(name: str, X: np.ndarray, metric: Metric) -> np.ndarray | None:
    """Return what a method folds X to; None where it refuses."""
    parameters = {"rae": {"n_steps": 50}, "nearfold": {"n_steps": 20}, "mds": {"max_rows": 200}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            known = parameters.get(name, {})
            return make(name, M, metric=metric, random_state=0, **known).fit(X).transform(X)
        except NearfoldError:
            return None


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("name", LINEAR)
def test_scales(name: str, scale: float, metric: Metric) -> None:
    folded = fitted(name, (SPREAD * scale).astype(np.float32), metric)
    assert folded is None or np.isfinite(folded).all()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_nearfold_keeps_as_much_at_any_scale(scale: float, metric: Metric) -> None:
    kept = []
    for X in (SPREAD.astype(np.float32), (SPREAD * scale).astype(np.float32)):
        fold = make("nearfold", M, metric=metric, random_state=0, n_steps=20).fit(X[:350]).encoder_
        kept.append(evaluate(fold, X[:350], X[350:]).recall[10].mean)
    assert kept[1] == pytest.approx(kept[0], abs=0.02)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank(name: str, rank: int, metric: Metric) -> None:
    X = (RNG.standard_normal((N, rank)) @ RNG.standard_normal((rank, D))).astype(np.float32)
    folded = fitted(name, X, metric)
    assert folded is None or np.isfinite(folded).all()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("name", LINEAR)
def test_one_row_many_times(name: str, metric: Metric) -> None:
    folded = fitted(name, np.tile(SPREAD[:1], (N, 1)).astype(np.float32), metric)
    assert folded is None or (np.isfinite(folded).all() and np.ptp(folded, axis=0).max() < 1e-3)
