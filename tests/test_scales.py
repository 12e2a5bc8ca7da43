"""Vectors of any size: as good as at size 1, or refused for their size, never as duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfold import NearFold, evaluate, fit_codec
from nearfold._utils.arrays import Metric, as_vectors, check_products, check_tiny, normalize_rows
from nearfold.errors import DataError, NearfoldError, NearfoldWarning
from nearfold.evaluation.compare import compare
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.inspection import inspect
from nearfold.evaluation.sweep import sweep
from nearfold.methods.registry import LINEAR, make
from nearfold.planning.plan import plan
from nearfold.scan.exact import search
from nearfold.scan.moments import Moments
from nearfold.scan.neighbors import nearest

N, D, M = 260, 20, 5
ROWS = (np.random.default_rng(3).standard_normal((N, D)) * np.linspace(2, 0.3, D)).astype(np.float32)
QUICK = {"rae": {"n_steps": 20}, "nearfold": {"n_steps": 10}, "mds": {"max_rows": 60, "n_steps": 10}}


def scaled(scale: float) -> np.ndarray:
    return ROWS * np.float32(scale)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 5e37])
def test_directions_are_right_at_any_size(scale: float) -> None:
    unit = normalize_rows(scaled(scale))
    np.testing.assert_allclose(unit, normalize_rows(ROWS), atol=1e-6)
    mixed = ROWS.copy()
    mixed[1] *= np.float32(scale)
    mixed[2] = 0
    expected = normalize_rows(ROWS)
    expected[2] = 0
    np.testing.assert_allclose(normalize_rows(mixed, keep_zero=True), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 5e37])
@pytest.mark.parametrize("name", ["nearfold", "pca", "pca-uncentred", "whitening", "mds", "lpp"])
def test_cosine_keeps_as_much_at_any_size(name: str, scale: float) -> None:
    kept = []
    # The map that multidimensional scaling fits by regression has the size of 1 / |x|.
    scale = min(scale, 1e25) if name == "mds" else scale
    for X in (ROWS, scaled(scale)):
        fold = make(name, M, random_state=0, **QUICK.get(name, {})).fit(X[:220]).encoder_
        kept.append(evaluate(fold, X[:220], X[220:], metric="cosine").recall[10].mean)
    assert kept[1] == pytest.approx(kept[0], abs=0.03)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("scale", [1e-20, 1e-25, 1e-38])
def test_every_method_says_that_vectors_are_tiny(scale: float, metric: Metric) -> None:
    for name in LINEAR:
        with pytest.raises(NearfoldError, match=r"tiny.*multiply all vectors"):
            make(name, M, metric=metric, **QUICK.get(name, {})).fit(scaled(scale))


def test_everything_that_compares_says_that_vectors_are_tiny(tmp_path: Path) -> None:
    X = scaled(1e-22)
    fold = make("pca", M, metric="l2").fit(ROWS).encoder_
    np.save(tmp_path / "x.npy", X)
    doings = [
        lambda: evaluate(fold, X[:200], X[200:]),
        lambda: evaluate(fold, tmp_path / "x.npy", X[:20]),
        lambda: inspect(fold, X[:200], X[200:]),
        lambda: compare(X, n_components=[M], methods=["pca"], metrics=["l2"]),
        lambda: sweep(X, n_components=M, metric="l2", methods=["rae-exact"]),
        lambda: plan(X, n_bytes=8, metric="l2", codecs=["SQ8"]),
        lambda: fit_codec(X, "SQ8", metric="l2"),
        lambda: NearFold(M, metric="l2").fit(tmp_path / "x.npy").encoder_,
    ]
    for do in doings:
        with pytest.raises(NearfoldError, match="tiny"):
            do()


def test_small_vectors_beside_larger_ones_are_none_that_are_tiny() -> None:
    mixed = ROWS.copy()
    mixed[:-1] *= np.float32(1e-20)
    check_tiny(mixed, "l2", "X")
    check_products(mixed, "l2", "X")
    check_products(scaled(1e-20), "l2", "queries", alone=False)
    check_tiny(np.zeros((4, 3), np.float32), "l2", "X")
    check_tiny(scaled(1e-20), "cosine", "X")
    fold = make("pca", M, metric="l2").fit(ROWS).encoder_
    assert evaluate(fold, ROWS, scaled(1e-20)[:20], k=[1]).recall[1].mean >= 0


def test_numbers_that_float32_has_none_for_are_no_zero_rows() -> None:
    with pytest.raises(DataError, match="too tiny for float32"):
        as_vectors(ROWS.astype(np.float64) * 1e-60)
    assert not as_vectors(np.zeros((3, 2))).any()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_moments_in_float32_hold_products_of_any_size(scale: float) -> None:
    found = Moments.of(scaled(scale), products=np.float32).second / np.float64(np.float32(scale)) ** 2
    np.testing.assert_allclose(found, Moments.of(ROWS).second, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("scale", [1e-30, 1e25, 5e37])
def test_exact_search_finds_the_same_at_any_size(scale: float, metric: Metric) -> None:
    expected = search(ROWS[:200], ROWS[200:], 5, metric)
    found = search(scaled(scale)[:200], scaled(scale)[200:], 5, metric, folded=True)
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_exact_search_hands_faiss_nothing_that_it_dies_of(bad: float, metric: Metric) -> None:
    broken = ROWS[:40].copy()
    broken[7, 3] = bad
    with pytest.raises(DataError, match=r"base holds NaN, inf.*row 7, column 3"):
        search(broken, ROWS[40:50], 3, metric)
    with pytest.raises(DataError, match=r"queries holds NaN, inf.*row 7"):
        search(ROWS, broken, 3, metric)
    with pytest.raises(DataError, match="queries has 3 dimensions"):
        search(ROWS, ROWS[:2, :3], 3, metric)
    with pytest.raises(NearfoldError, match="k=0"):
        search(ROWS, ROWS[:2], 0, metric)


def true_top(base: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    """Return the k nearest rows by float64."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        base = base / np.linalg.norm(base, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    if metric == "l2":
        return np.argsort(((queries[:, None] - base[None]) ** 2).sum(-1), axis=1)[:, :k]
    return np.argsort(-(queries @ base.T), axis=1)[:, :k]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("offset", [30, 300])
def test_what_all_vectors_share_hides_no_neighbour(offset: float, metric: Metric) -> None:
    shared = ROWS + np.float32(offset)
    base, queries = shared[:220], shared[220:]
    expected = true_top(base, queries, 5, metric)
    for found in (search(base, queries, 5, metric), nearest(*directed(queries, base, metric)).ids):
        assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, expected, strict=True)]) > 0.97


def directed(queries: np.ndarray, base: np.ndarray, metric: Metric) -> tuple:
    """Return the arguments of `nearest`."""
    if metric == "cosine":
        queries, base = normalize_rows(queries), normalize_rows(base)
    return queries, [base], 5, metric, len(base)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_evaluation_is_right_where_float32_does_not_tell_neighbours_apart(
    metric: Metric, tmp_path: Path
) -> None:
    """Clusters of rows that are nearly one: a search by float32 takes any of them."""
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((6, D)) * (1000 if metric == "l2" else 1)
    close = np.repeat(centers, 50, axis=0) + rng.standard_normal((300, D)) * (
        1e-2 if metric == "l2" else 2e-5
    )
    queries = (centers + rng.standard_normal((6, D)) * 1e-5).astype(np.float32)
    base = close.astype(np.float32)
    fold = make("truncation", D - 1, metric=metric).fit(base).encoder_
    wanted = true_top(base, queries, 10, metric)
    kept = true_top(fold.transform(base), fold.transform(queries), 10, metric)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(kept, wanted, strict=True)])
    np.testing.assert_array_equal(
        np.sort(GroundTruth.compute(base, queries, 10, metric).ids, axis=1), np.sort(wanted, axis=1)
    )
    np.save(tmp_path / "base.npy", base)
    for judged in (evaluate(fold, base, queries), evaluate(fold, tmp_path / "base.npy", queries)):
        assert judged.recall[10].mean == pytest.approx(share, abs=0.04)


def test_fits_say_that_float32_does_not_tell_neighbours_apart() -> None:
    with pytest.raises(DataError, match=r"differ by less than float32 tells.*subtract their mean"):
        NearFold(M, n_steps=5).fit(ROWS + np.float32(3e4))
    with pytest.warns(NearfoldWarning, match=r"partly chance.*subtract their mean"):
        NearFold(M, n_steps=5).fit(ROWS + np.float32(1000))
    with pytest.raises(DataError, match="equal vectors only"):
        NearFold(M, n_steps=5, metric="l2").fit(np.tile(ROWS[:1], (90, 1)))
