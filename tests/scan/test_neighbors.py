from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold._utils.arrays import METRICS, Metric
from nearfold.scan.neighbors import Neighbors, NeighborSearch, lowest_scores, nearest


def brute(anchors: np.ndarray, base: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    scores = anchors.astype(float) @ base.T.astype(float)
    if metric == "l2":
        scores = scores - 0.5 * (base.astype(float) ** 2).sum(axis=1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [7, 2048, 5000])
def test_it_finds_what_brute_force_finds(metric: Metric, rows: int, rng: np.random.Generator) -> None:
    base = rng.standard_normal((rows, 6)).astype(np.float32)
    anchors = rng.standard_normal((40, 6)).astype(np.float32)
    found = nearest(anchors, [base], 7, metric, rows)
    np.testing.assert_array_equal(found.ids, brute(anchors, base, 7, metric))
    assert (np.diff(found.scores, axis=1) <= 0).all()


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.integers(0, 1000))
def test_chunks_change_nothing(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers, so that no score is rounded; equal scores rank by row.
    chunks = [rng.integers(-99, 100, (size, 4)).astype(np.float32) for size in sizes]
    base = np.concatenate(chunks)
    k = min(5, len(base))
    found = nearest(base[:9], chunks, k, "ip", len(base))
    np.testing.assert_array_equal(found.ids, brute(base[:9], base, k, "ip"))


def test_parts_merge(rng: np.random.Generator) -> None:
    base, anchors = (
        rng.standard_normal((100, 4)).astype(np.float32),
        rng.standard_normal((3, 4)).astype(np.float32),
    )
    first, second = nearest(anchors, [base[:40]], 5, "ip", 40), nearest(anchors, [base[40:]], 5, "ip", 60)
    merged = first.merge(Neighbors(second.scores, second.ids + 40)).sorted()
    np.testing.assert_array_equal(merged.ids, brute(anchors, base, 5, "ip"))
    assert (Neighbors.empty(2, 3).ids == -1).all()


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 1000),
    known=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_copies_count_once_however_parts_are_merged(
    sizes: list[int], order: random.Random, seed: int, known: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers, so that no score is rounded; few rows, so that each is there many times.
    distinct = np.unique(rng.integers(-9, 10, (40, 3)), axis=0).astype(np.float32)
    base = distinct[rng.integers(0, len(distinct), sum(sizes))]
    rows, first = np.unique(base, axis=0, return_index=True)
    first = np.sort(first)
    anchors, k = base[:6], 9
    expected = first[brute(anchors, base[first], min(k, len(rows)), "l2")]
    expected = np.pad(expected, ((0, 0), (0, k - expected.shape[1])), constant_values=-1)
    floor = lowest_scores(anchors, base[first[:20]], k, "l2") if known else None
    parts = []
    for size, start in zip(sizes, np.cumsum([0, *sizes]), strict=False):
        search = NeighborSearch(anchors, k, "l2", 1, floor=floor, distinct=True)
        search.look(0, base[start : start + size], start)
        parts.append(search.found)
    order.shuffle(parts)
    while len(parts) > 1:
        place = order.randrange(len(parts) - 1)
        parts[place : place + 2] = [parts[place].merge(parts[place + 1])]
    np.testing.assert_array_equal(parts[0].sorted().ids, expected)
    np.testing.assert_array_equal(nearest(anchors, [base], k, "l2", len(base), distinct=True).ids, expected)


def test_a_row_of_thousands_of_copies_leaves_room_for_others(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((300, 5)).astype(np.float32)
    base = rows[rng.permutation(np.concatenate([np.zeros(5000, int), np.arange(300)]))]
    found = nearest(rows[:4], [base[:900], base[900:]], 20, "l2", len(base), distinct=True)
    np.testing.assert_allclose(base[found.ids], rows[brute(rows[:4], rows, 20, "l2")])


def test_equal_scores_go_to_the_lowest_numbers(rng: np.random.Generator) -> None:
    base = np.repeat(rng.standard_normal((7, 4)).astype(np.float32), 900, axis=0)[rng.permutation(6300)]
    anchors = rng.standard_normal((5, 4)).astype(np.float32)
    whole = nearest(anchors, [base], 50, "ip", len(base))
    np.testing.assert_array_equal(whole.ids, brute(anchors, base.astype(np.float32), 50, "ip"))


@pytest.mark.parametrize("metric", METRICS)
@given(k=st.integers(1, 12), seed=st.integers(0, 999), scale=st.sampled_from([1e-12, 1.0, 1e9]))
@settings(deadline=None, max_examples=40)
def test_the_lowest_scores_are_never_above_the_true(metric: Metric, k: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    base = (scale * rng.standard_normal((60, 5))).astype(np.float32)
    anchors = (scale * rng.standard_normal((8, 5))).astype(np.float32)
    floor = lowest_scores(anchors, base[10:30], k, metric)
    found = nearest(anchors, [base], k, metric, 60)
    assert (floor <= found.scores[:, -1]).all()
    search = NeighborSearch(anchors, k, metric, 1, floor=floor)
    for start in (40, 0, 20):
        search.look(0, base[start : start + 20], start)
    np.testing.assert_array_equal(search.found.sorted().ids, found.ids)
    assert np.isneginf(lowest_scores(anchors, base[: k - 1], k, metric)).all()
