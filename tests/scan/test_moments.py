from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfold import Moments
from nearfold.errors import DataError
from nearfold.scan.moments import RunningMoments


@given(
    n=st.integers(1, 60),
    d=st.integers(1, 8),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_any_chunking_and_merging_gives_the_same(
    n: int, d: int, cuts: list[int], seed: int, scale: float
) -> None:
    X = (np.random.default_rng(seed).standard_normal((n, d)) * scale + scale).astype(np.float32)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    chunks = [X[a:b] for a, b in pairwise(edges)]
    exact = X.astype(np.float64)
    streamed = Moments.stream(chunks)
    parts = [Moments.of(chunk) for chunk in chunks if len(chunk)]
    merged = sum(parts[1:], parts[0])
    for moments in (streamed, merged):
        assert moments.count == n
        np.testing.assert_allclose(moments.total, exact.sum(axis=0), rtol=1e-12, atol=1e-12 * n * scale)
        np.testing.assert_allclose(moments.second, exact.T @ exact, rtol=1e-12, atol=1e-12 * n * scale**2)


def test_integers_are_exact_bit_for_bit(rng: np.random.Generator) -> None:
    X = rng.integers(0, 256, (5000, 16)).astype(np.float32)
    whole = Moments.of(X)
    pieces = Moments.stream([X[:17], X[17:3001], X[3001:]])
    np.testing.assert_array_equal(whole.second, pieces.second)
    np.testing.assert_array_equal(whole.second, X.astype(np.int64).T @ X.astype(np.int64))


def test_covariance_far_from_the_origin(rng: np.random.Generator) -> None:
    X = (rng.standard_normal((4000, 5)) + 1000).astype(np.float32)
    np.testing.assert_allclose(
        Moments.of(X).covariance, np.cov(X.T.astype(float), bias=True), rtol=1e-6, atol=1e-8
    )


def test_float32_products_are_near_and_survive_overflow(rng: np.random.Generator) -> None:
    X = rng.standard_normal((30_000, 6)).astype(np.float32)
    single, double = Moments.of(X, products=np.float32), Moments.of(X)
    np.testing.assert_allclose(single.second, double.second, rtol=0, atol=1e-5 * double.second.max())
    huge = np.full((10, 2), 1e25, np.float32)
    np.testing.assert_allclose(Moments.of(huge, products=np.float32).uncentered, 1e50, rtol=1e-6)


def test_bad_rows_behind_others_are_named(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfold.scan.moments._CHUNK_BYTES", 1)
    X = rng.standard_normal((3000, 3)).astype(np.float32)
    raw = X.copy()
    raw[2700, 1] = X[2700, 1] = np.nan
    running = RunningMoments(3, np.float64)
    running.add(X[:2600])
    with pytest.raises(DataError, match=r"base.*row 9700, column 1"):
        running.add(X, raw, "base", first_row=7000)


def test_bad_rows_are_named(rng: np.random.Generator) -> None:
    X = rng.standard_normal((20, 3)).astype(np.float32)
    X[13, 1] = np.inf
    with pytest.raises(DataError, match="row 13, column 1"):
        Moments.stream([X[:9], X[9:]])
    with pytest.raises(DataError, match="no rows"):
        Moments.stream([])
    with pytest.raises(DataError, match="dimensions"):
        Moments.stream([np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)])
    with pytest.raises(DataError, match="can't be merged"):
        Moments.of(np.ones((2, 3), np.float32)) + Moments.of(np.ones((2, 4), np.float32))
