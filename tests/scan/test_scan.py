"""A scan finds the same however the rows come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold._utils.arrays import METRICS, Metric, normalize_rows
from nearfold._utils.sampling import sampled_rows
from nearfold.errors import DataError
from nearfold.io.npy import HeldSource
from nearfold.scan.scan import Anchors, Scan, ScanSpec, anchors_of
from nearfold.scan.scanner import Scanner
from nearfold.scan.scanning import scan_source


def request(metric: Metric, queries: np.ndarray | None = None) -> ScanSpec:
    return ScanSpec(metric, metric == "cosine", np.float32, 20, 6, queries=queries)


def drawn(X: np.ndarray, wanted: ScanSpec) -> Anchors:
    rows = sampled_rows(len(X), wanted.n_anchors, wanted.seed)
    return anchors_of(X[rows], rows, wanted, X[np.isfinite(X).all(axis=1)][::2] + 0)


def scanned(X: np.ndarray, wanted: ScanSpec, anchors: Anchors, first: int, stop: int, step: int) -> Scan:
    scanner = Scanner(wanted, anchors)
    with scanner:
        for start in range(first, stop, step):
            scanner.see(X[start : min(stop, start + step)], start)
    return scanner.result()


def equal(one: Scan, other: Scan, anchors: Anchors) -> None:
    np.testing.assert_array_equal(one.neighbors.sorted().ids, other.neighbors.sorted().ids)
    np.testing.assert_array_equal(one.kept.ids, other.kept.ids)
    np.testing.assert_array_equal(one.kept.vectors, other.kept.vectors)
    np.testing.assert_allclose(one.moments.second, other.moments.second, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(one.blocks(anchors).index, other.blocks(anchors).index)


@pytest.mark.parametrize("metric", METRICS)
@given(cut=st.integers(30, 270), step=st.integers(1, 200), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_parts_make_the_whole(metric: Metric, cut: int, step: int, seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((300, 5)).astype(np.float32) + 1
    wanted = request(metric)
    anchors = drawn(X, wanted)
    whole, *_ = scan_source(HeldSource("X", X), wanted)
    parts = scanned(X, wanted, anchors, 0, cut, step) + scanned(X, wanted, anchors, cut, 300, step)
    equal(whole, parts, anchors)


def test_a_scan_goes_on_where_it_stopped(rng: np.random.Generator) -> None:
    X = rng.standard_normal((500, 6)).astype(np.float32)
    wanted = request("cosine")
    anchors = drawn(X, wanted)
    early = scanned(X, wanted, anchors, 0, 200, 70)
    scanner = Scanner(wanted, anchors, start=early)
    with scanner:
        scanner.see(X[200:], 200)
    equal(scan_source(HeldSource("X", X), wanted)[0], scanner.result(), anchors)


def test_rows_no_longer_needed_are_dropped(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    X = rng.standard_normal((4000, 3)).astype(np.float32)
    wanted = request("l2")
    # Without a floor many rows are neighbours for a while.
    anchors = replace(drawn(X, wanted), floor=None)
    whole, *_ = scan_source(HeldSource("X", X), wanted)
    dropped = []
    plain = Scanner._drop_unneeded

    def noted(self: Scanner) -> None:
        before = sum(len(piece.ids) for piece in self._kept)
        plain(self)
        dropped.append(before - sum(len(piece.ids) for piece in self._kept))

    monkeypatch.setattr(Scanner, "_drop_unneeded", noted)
    equal(whole, scanned(X, wanted, anchors, 0, 4000, 40), anchors)
    assert sum(dropped) > 0


def test_moments_and_blocks_are_those_of_the_data(rng: np.random.Generator) -> None:
    X = (rng.standard_normal((400, 4)) + 50).astype(np.float32)
    scan, anchors, *_ = scan_source(HeldSource("X", X), request("l2"))
    np.testing.assert_allclose(scan.mean, X.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(
        scan.moments.covariance, np.cov(X.T.astype(float), bias=True), rtol=1e-4, atol=1e-5
    )
    blocks = scan.blocks(anchors)
    np.testing.assert_allclose(
        blocks.vectors[blocks.index[:, 0]], X[anchors.rows] - X.mean(axis=0), atol=1e-4
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("distinct", "shape"), [(50, (20, 7)), (5, (5, 5)), (1, (1, 1))])
def test_blocks_hold_different_rows(
    distinct: int, shape: tuple[int, int], metric: Metric, rng: np.random.Generator
) -> None:
    base = np.repeat(rng.standard_normal((50, 4)).astype(np.float32)[:distinct], 50 // distinct, axis=0)
    scan, anchors, *_ = scan_source(HeldSource("X", base), request(metric))
    blocks = scan.blocks(anchors)
    assert blocks.index.shape == shape
    for block in blocks.index:
        assert len(np.unique(blocks.vectors[block], axis=0)) == shape[1]


@pytest.mark.parametrize("metric", METRICS)
def test_a_scan_of_copies_is_that_of_the_rows(metric: Metric, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((300, 5)).astype(np.float32) + 1
    X = rows[rng.permutation(np.concatenate([np.arange(300), np.arange(300), np.full(900, 7)]))]
    wanted = request(metric)
    whole, anchors, *_ = scan_source(HeldSource("X", X), wanted)
    assert len(np.unique(anchors.vectors, axis=0)) == len(anchors.vectors)
    parts = scanned(X, wanted, anchors, 700, 1500, 90) + scanned(X, wanted, anchors, 0, 700, 211)
    equal(whole, parts, anchors)
    wide, exact = whole.blocks(anchors), rows - whole.mean if metric == "l2" else rows
    exact = normalize_rows(rows) if metric == "cosine" else exact
    for block in wide.index:
        own = wide.vectors[block[0]].astype(float)
        scores = -np.square(exact - own).sum(axis=1) if metric == "l2" else exact @ own
        scores[np.abs(exact - own).max(axis=1) < 1e-4] = -np.inf
        best = exact[np.argsort(-scores)[:6]]
        np.testing.assert_allclose(wide.vectors[block[1:]], best, atol=1e-4)


def test_blocks_of_queries_hold_base_rows(rng: np.random.Generator) -> None:
    base, queries = (rng.standard_normal((n, 4)).astype(np.float32) for n in (50, 9))
    scan, anchors, *_ = scan_source(HeldSource("X", base), request("cosine", queries))
    assert (len(anchors.of_rows), len(anchors.of_queries)) == (20, 9)
    alone, own, *_ = scan_source(HeldSource("X", base), request("cosine"))
    blocks = scan.of_anchors(anchors.of_rows).blocks(anchors.chosen(anchors.of_rows))
    assert not blocks.foreign
    expected = alone.blocks(own)
    np.testing.assert_array_equal(blocks.vectors[blocks.index], expected.vectors[expected.index])
    blocks = scan.of_anchors(anchors.of_queries).blocks(anchors.chosen(anchors.of_queries))
    assert blocks.foreign
    rows, asked = normalize_rows(base), normalize_rows(queries)
    np.testing.assert_allclose(blocks.vectors[blocks.index[:, 0]], asked)
    nearest = np.argsort(-asked @ rows.T, axis=1)[:, :6]
    np.testing.assert_allclose(blocks.vectors[blocks.index[:, 1:]], rows[nearest])


def test_a_query_may_be_a_copy_of_an_anchor(rng: np.random.Generator) -> None:
    base = rng.standard_normal((50, 4)).astype(np.float32)
    _, anchors, *_ = scan_source(HeldSource("X", base), request("cosine", base[[3, 3, 4]]))
    assert (len(anchors.of_rows), len(anchors.of_queries)) == (20, 2)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "row 250, column 2"), (0.0, "zero vector at row 250")])
def test_bad_rows_are_named(value: float, says: str, rng: np.random.Generator) -> None:
    X = rng.standard_normal((300, 5)).astype(np.float32)
    X[250, 2 if np.isnan(value) else slice(None)] = value
    wanted = request("cosine")
    with pytest.raises(DataError, match=says):
        scanned(X, wanted, drawn(X[:200], wanted), 0, 300, 70)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_moments_of_every_third_block(metric: Metric, rng: np.random.Generator) -> None:
    X = rng.standard_normal((9000, 4)).astype(np.float32) + 1
    wanted = request(metric)._replace(stride=3)
    rows = np.flatnonzero(np.arange(9000) // 1024 % 3 == 0)
    anchors = drawn(X, wanted)
    chosen = normalize_rows(X)[rows] if metric == "cosine" else X[rows]
    for step in (9000, 1024, 700, 5):
        scan = scanned(X, wanted, anchors, 0, 9000, step)
        assert (scan.rows, scan.moments.count) == (9000, len(rows))
        np.testing.assert_allclose(scan.moments.second, chosen.T @ chosen, rtol=1e-4)
    X[1500, 2] = np.nan
    with pytest.raises(DataError, match="row 1500, column 2"):
        scanned(X, wanted, anchors, 0, 9000, 700)
