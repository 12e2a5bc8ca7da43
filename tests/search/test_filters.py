"""Searches among some of the rows: by ids, by a mask, by a function of ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfold import Codec, SearchIndex, fit_codec, load_sample
from nearfold.errors import DataError, NearfoldError
from nearfold.search import candidates

from .test_search import overlap

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ROWS = 4500


@pytest.fixture(scope="module")
def base() -> Vectors:
    return load_sample().vectors[:ROWS].astype(np.float32)


@pytest.fixture(scope="module")
def queries() -> Vectors:
    return load_sample().vectors[ROWS : ROWS + 200].astype(np.float32)


@pytest.fixture(scope="module")
def codec(base: Vectors) -> Codec:
    return fit_codec(base, "PCA96,SQ8")


@pytest.fixture(scope="module")
def indexes(codec: Codec, base: Vectors) -> dict[str, SearchIndex]:
    return {kind: SearchIndex.build(codec, base, kind=kind) for kind in ("flat", "ivf", "hnsw")}


@pytest.fixture(scope="module")
def truth(base: Vectors, queries: Vectors) -> Vectors:
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    return np.asarray(queries @ unit.T)


def nearest(truth: Vectors, allowed: Mask, k: int) -> npt.NDArray[np.int64]:
    return np.argsort(-np.where(allowed, truth, -np.inf), axis=1, kind="stable")[:, :k]


def masks(base: Vectors, queries: Vectors, share: float) -> dict[str, Mask]:
    """Return allowed rows drawn at random, and those farthest from a query, which no neighbour of it is."""
    far = base @ queries.mean(axis=0)
    return {
        "random": np.random.default_rng(3).random(len(base)) < share,
        "far": far <= np.quantile(far, share),
    }


@pytest.mark.parametrize(
    "spec", ["PCA32,SQ8", "PCA32,PQ8", "PCA48,RaBitQ1", "PCA16,F32", "Binary", "PCA16,AQ4"]
)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 99), queries_=st.integers(1, 40), k=st.integers(1, 30))
def test_a_flat_search_is_exact_among_allowed_codes(
    base: Vectors, spec: str, share: float, seed: int, queries_: int, k: int
) -> None:
    index = _flat(spec, base)
    rng = np.random.default_rng(seed)
    allowed = rng.random(800) < share
    asked = base[800 : 800 + queries_]
    everything = index.search(asked, 800, n_candidates=0).ids
    found = index.search(asked, k, n_candidates=0, where=allowed).ids
    there = min(k, int(allowed.sum()))
    assert (found[:, there:] == -1).all()
    assert allowed[found[:, :there]].all()
    # Where codes tie, either row is right: what counts is how near they are, by codes.
    rank = _code_scores(index, asked)
    wanted = [line[allowed[line]][:there] for line in everything]
    for i in range(len(asked)):
        np.testing.assert_allclose(rank[i, found[i, :there]], rank[i, wanted[i]], rtol=1e-4, atol=1e-4)


_MADE: dict[str, SearchIndex] = {}


def _flat(spec: str, base: Vectors) -> SearchIndex:
    if spec not in _MADE:
        _MADE[spec] = SearchIndex.build(fit_codec(base[:800], spec), base[:800])
    return _MADE[spec]


def _code_scores(index: SearchIndex, queries: Vectors) -> Vectors:
    """Return the score of each row by its code, as faiss computes it, shape (q, n)."""
    flat = index._candidates.index
    images = index.codec.projection.project_queries(queries / np.linalg.norm(queries, axis=1, keepdims=True))
    scores, numbers = flat.search(index.codec.quantizer.prepare_queries(images), flat.ntotal)
    by_code = np.empty_like(scores)
    np.put_along_axis(by_code, numbers, scores, 1)
    entry_of = index._groups.entry_of
    return by_code if entry_of is None else by_code[:, entry_of]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("which", ["random", "far"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("way", ["as chosen", "never copied"])
def test_filters_cost_no_recall(
    indexes: dict[str, SearchIndex],
    base: Vectors,
    queries: Vectors,
    truth: Vectors,
    share: float,
    which: str,
    kind: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "never copied":
        monkeypatch.setattr(candidates, "_cost_of_copy", lambda *_: np.inf)
        monkeypatch.setattr(candidates, "_COPY", np.inf)
    index, allowed = indexes[kind], masks(base, queries, share)[which]
    before = overlap(index.search(queries, 10).ids, nearest(truth, np.ones(ROWS, bool), 10))
    found = index.search(queries, 10, where=allowed).ids
    assert allowed[found].all()
    assert overlap(found, nearest(truth, allowed, 10)) > before - 0.01


@pytest.mark.parametrize(("kind", "setting"), [("ivf", {"nprobe": 4}), ("hnsw", {"ef_search": 12})])
def test_a_setting_keeps_its_recall(
    indexes: dict[str, SearchIndex],
    base: Vectors,
    queries: Vectors,
    truth: Vectors,
    kind: str,
    setting: dict[str, Any],
) -> None:
    index = indexes[kind]
    asked = {"n_candidates": 12, **setting}
    before = overlap(index.search(queries, 10, **asked).ids, nearest(truth, np.ones(ROWS, bool), 10))
    for share in (0.01, 0.1, 0.5):
        for allowed in masks(base, queries, share).values():
            found = index.search(queries, 10, where=allowed, **asked).ids
            assert overlap(found, nearest(truth, allowed, 10)) > before - 0.01


def test_all_forms_of_a_filter_say_the_same(
    codec: Codec, base: Vectors, queries: Vectors, truth: Vectors
) -> None:
    ids = np.arange(ROWS) * 3 + 7
    index = SearchIndex.build(codec, base, ids=ids)
    index.remove(ids[:100])
    allowed = np.arange(ROWS) % 5 == 0
    wanted = index.search(queries, 10, where=ids[100:][allowed[100:]])
    assert overlap((wanted.ids - 7) // 3, nearest(truth, allowed & (np.arange(ROWS) >= 100), 10)) > 0.95
    seen: list[npt.NDArray[np.int64]] = []

    def meets(asked: npt.NDArray[np.int64]) -> Mask:
        seen.append(asked)
        return ((asked - 7) // 3) % 5 == 0

    twice = np.repeat(ids[100:][allowed[100:]][::-1], 2).astype(np.uint32)
    for where in (allowed[100:], allowed[100:].tolist(), meets, twice):
        found = index.search(queries, 10, where=where)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(seen[0], index.ids)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_fewer_than_k_allowed_are_filled_up(
    indexes: dict[str, SearchIndex], queries: Vectors, kind: str
) -> None:
    for n_candidates in (None, 0):
        found = indexes[kind].search(queries[:3], 5, n_candidates=n_candidates, where=[11, 4000])
        assert (np.sort(found.ids[:, :2]) == [11, 4000]).all()
        assert (found.ids[:, 2:] == -1).all()
        assert np.isneginf(found.scores[:, 2:]).all()
        none = indexes[kind].search(queries[:3], 5, n_candidates=n_candidates, where=[])
        assert (none.ids == -1).all()
        assert (none.n_read == 0).all()


def test_a_certified_search_proves_the_nearest_allowed(
    codec: Codec, base: Vectors, queries: Vectors, truth: Vectors
) -> None:
    index = SearchIndex.build(codec, base, certify=True)
    index.remove(np.arange(50))
    for share in (0.01, 0.3):
        for allowed in masks(base, queries, share).values():
            found = index.search(queries[:30], 10, certified=True, where=allowed[50:])
            there = allowed & (np.arange(ROWS) >= 50)
            got = np.take_along_axis(truth[:30], found.ids, 1)
            wanted = np.take_along_axis(truth[:30], nearest(truth[:30], there, 10), 1)
            assert there[found.ids].all()
            np.testing.assert_allclose(got, wanted, atol=1e-6)
            assert (found.n_read <= there.sum()).all()


def test_rows_that_share_a_code_are_filtered_one_by_one(codec: Codec, base: Vectors) -> None:
    many = np.vstack([base[:400], base[:200], base[:200]])
    for kind in ("flat", "ivf", "hnsw"):
        index = SearchIndex.build(codec, many, kind=kind)
        allowed = np.zeros(800, bool)
        allowed[400:600] = True
        found = index.search(base[:200], 1, where=allowed).ids[:, 0]
        np.testing.assert_array_equal(found, np.arange(400, 600))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ([3, ROWS], f"where: id {ROWS} is not in the index"),
        ([-1], "where: ids must be from 0"),
        ([0.5], "where: ids must be whole numbers"),
        ([[1, 2]], "where: ids must be whole numbers"),
        (["a"], "where: ids must be whole numbers"),
        (np.ones(3, bool), r"where is bool of shape \(3,\)"),
        (np.ones((ROWS, 1), bool), "where is bool of shape"),
        (lambda ids: ids, r"where\(ids\) is int64"),
        (lambda _: np.ones(2, bool), r"where\(ids\) is bool of shape \(2,\)"),
        (lambda _: True, r"where\(ids\) is bool of shape \(\)"),
        (lambda _: None, r"where\(ids\) is object"),
    ],
)
def test_what_is_no_filter_is_refused(
    indexes: dict[str, SearchIndex], queries: Vectors, where: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        indexes["flat"].search(queries, 3, where=where)


def test_an_error_in_a_function_of_ids_leaves_the_index_usable(
    codec: Codec, base: Vectors, queries: Vectors
) -> None:
    index = SearchIndex.build(codec, base[:100])

    def fails(ids: npt.NDArray[np.int64]) -> Mask:
        raise KeyError("price")

    with pytest.raises(KeyError):
        index.search(queries, 3, where=fails)
    index.remove([1])
    with pytest.raises(NearfoldError, match="id 1 is not"):
        index.search(queries, 3, where=[1])
