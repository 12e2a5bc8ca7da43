"""A search index against a plain dictionary: what was added is found, what was removed never is.

`python -m tests.searching` takes some ten thousand random steps (hypothesis): vectors, equal ones among
them, come, go and come again under their old ids, indexes are saved and loaded, and every answer is checked
against float64. `tests/search/test_changes.py` takes fewer of them in each run of the tests.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfold import Codec, SearchIndex, SearchResult, fit_codec
from nearfold._utils.arrays import Metric
from nearfold.errors import DataError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_RNG = np.random.default_rng(0)
_CENTERS = 2 * _RNG.standard_normal((12, 16))
# Single rows, rows that are there many times, and rows that differ in their last digits.
_SINGLE = _CENTERS[np.arange(300) % 12] + _RNG.standard_normal((300, 16))
POOL = np.vstack([_SINGLE, _SINGLE[np.arange(150) % 15], _SINGLE[:30] * (1 + 1e-6)]).astype(np.float32)
QUERIES = np.vstack([POOL[::60], _SINGLE[::40] + 0.3]).astype(np.float32)

SETUPS = [
    ("flat", "SQ8"), ("flat", "NearFold8,SQ8"), ("flat", "PCA8,PQ4"), ("flat", "Binary"), ("flat", "RaBitQ1"),
    ("flat", "AQ4"), ("flat", "NearFold8,RSQ4"), ("ivf", "SQ8"), ("ivf", "NearFold8,PQ4"), ("ivf", "F32"),
    ("hnsw", "SQ8"), ("hnsw", "F16"),
]  # fmt: skip

Rows = st.lists(st.integers(0, len(POOL) - 1), max_size=60)


@cache
def fitted(spec: str, metric: Metric) -> Codec:
    return fit_codec(POOL, spec, metric=metric)


def exact(queries: npt.NDArray[Any], base: npt.NDArray[Any], metric: Metric) -> Float64:
    """Return all scores in float64, shape (q, n)."""
    asked, rows = queries.astype(np.float64), base.astype(np.float64)
    if metric == "l2":
        return -np.square(asked[:, None] - rows[None]).sum(axis=2)
    scores = asked @ rows.T
    if metric == "cosine":
        scores /= np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    return np.asarray(scores)


class Changes(RuleBasedStateMachine):
    """An index and a dictionary of the same vectors by id, through the same changes."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.next_id = 0

    @initialize(
        setup=st.sampled_from(SETUPS),
        metric=st.sampled_from(["cosine", "l2", "ip"]),
        certify=st.booleans(),
        rows=st.integers(1, 400),
    )
    def build(self, setup: tuple[str, str], metric: Metric, certify: bool, rows: int) -> None:
        kind, spec = setup
        self.metric, self.certify = metric, certify and kind == "flat"
        base = POOL[np.arange(rows) % len(POOL)]
        self.index = SearchIndex.build(fitted(spec, metric), base, kind=kind, certify=self.certify)
        self.known = dict(enumerate(base))
        self.next_id = rows

    @rule(rows=Rows)
    def add(self, rows: list[int]) -> None:
        ids = np.arange(self.next_id, self.next_id + len(rows))
        self.index.add(POOL[rows], ids)
        self.known |= dict(zip(ids.tolist(), POOL[rows], strict=True))
        self.next_id += len(rows)

    @rule(share=st.floats(0, 1), seed=st.integers(0, 9))
    def remove(self, share: float, seed: int) -> None:
        ids = np.array(list(self.known), np.int64)
        gone = ids[np.random.default_rng(seed).random(len(ids)) < share]
        self.index.remove(gone)
        for number in gone.tolist():
            del self.known[number]

    @rule(axis=st.integers(0, 15), share=st.floats(0, 1))
    def remove_one_side(self, axis: int, share: float) -> None:
        """Remove what is far out in one dimension: whole neighbourhoods."""
        ids = sorted(self.known, key=lambda number: float(self.known[number][axis]))
        gone = ids[: round(share * len(ids))]
        self.index.remove(gone)
        for number in gone:
            del self.known[number]

    @precondition(lambda self: self.known)
    @rule(choice=st.integers(0, 1 << 30), row=st.integers(0, len(POOL) - 1))
    def replace(self, choice: int, row: int) -> None:
        number = list(self.known)[choice % len(self.known)]
        self.index.remove([number])
        self.index.add(POOL[row : row + 1], [number])
        del self.known[number]
        self.known[number] = POOL[row]

    @rule(row=st.integers(0, len(POOL) - 1))
    def refused(self, row: int) -> None:
        """What is refused changes nothing."""
        with pytest.raises(DataError):
            self.index.remove([*list(self.known)[:1], self.next_id + 5])
        with pytest.raises(DataError):
            self.index.add(np.vstack([POOL[row], np.full(16, np.nan)]))
        if self.known:
            with pytest.raises(DataError):
                self.index.add(POOL[row : row + 1], list(self.known)[:1])

    @rule()
    def save_and_load(self) -> None:
        self.index.save(self.folder / "index")
        self.index = SearchIndex.load(self.folder / "index")

    def filters(self, share: float, seed: int) -> tuple[Any, dict[int, Any]]:
        """Return a filter in one of its forms, and what it allows."""
        ids = np.array(list(self.known), np.int64)
        mask = np.random.default_rng(seed).random(len(ids)) < share
        chosen = ids[mask]
        forms = [chosen, chosen[::-1].tolist(), mask, lambda asked: np.isin(asked, chosen)]
        return forms[seed % len(forms)], {number: self.known[number] for number in chosen.tolist()}

    @rule(
        k=st.integers(1, 40),
        n=st.none() | st.integers(0, 120),
        breadth=st.none() | st.integers(1, 40),
        share=st.none() | st.floats(0, 1),
        seed=st.integers(0, 9),
    )
    def search(self, k: int, n: int | None, breadth: int | None, share: float | None, seed: int) -> None:
        name = {"flat": None, "ivf": "nprobe", "hnsw": "ef_search"}[self.index.kind]
        settings = {} if name is None else {name: breadth}
        where, allowed = (None, self.known) if share is None else self.filters(share, seed)
        found = self.index.search(QUERIES, k, n_candidates=n, where=where, **settings)
        self.checked(found, k, allowed, scored=n != 0)

    @rule(k=st.integers(1, 40), share=st.none() | st.floats(0, 1), seed=st.integers(0, 9))
    def search_everything(self, k: int, share: float | None, seed: int) -> None:
        where, allowed = (None, self.known) if share is None else self.filters(share, seed)
        found = self.index.search(QUERIES, k, n_candidates=max(1, len(allowed)), where=where)
        self.checked(found, k, allowed, nearest=True)
        if self.certify:
            proven = self.index.search(QUERIES, k, certified=True, where=where)
            self.checked(proven, k, allowed, nearest=True)

    @invariant()
    def holds_what_was_added(self) -> None:
        Changes.steps += 1
        if hasattr(self, "known"):
            assert len(self.index) == len(self.known)
            assert self.index.ids.tolist() == list(self.known)

    def checked(
        self,
        found: SearchResult,
        k: int,
        known: dict[int, Any],
        *,
        scored: bool = True,
        nearest: bool = False,
    ) -> None:
        there = min(k, len(known))
        assert found.ids.shape == found.scores.shape == (len(QUERIES), k)
        assert (found.ids[:, there:] == -1).all()
        assert np.isneginf(found.scores[:, there:]).all()
        ids = found.ids[:, :there]
        assert np.isin(ids, np.array(list(known), np.int64)).all(), "removed, not allowed, or not there"
        assert all(len(set(line)) == there for line in ids.tolist()), "found twice"
        if not there:
            return
        base = np.array(list(known.values()))
        place = {number: i for i, number in enumerate(known)}
        scores = exact(QUERIES, base, self.metric)
        chosen = np.array([[place[number] for number in line] for line in ids.tolist()])
        got = np.take_along_axis(scores, chosen, 1)
        if scored:
            np.testing.assert_allclose(found.scores[:, :there], got, rtol=1e-5, atol=1e-4)
        if nearest:
            np.testing.assert_allclose(-np.sort(-got), -np.sort(-scores)[:, :there], rtol=1e-12, atol=1e-12)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--shrink", action="store_true", help="look for the shortest way to a failure")
    given = parser.parse_args()
    machine = Changes.TestCase
    machine.settings = settings(
        max_examples=max(1, given.steps // 50),
        stateful_step_count=50,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if given.shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    machine().runTest()
    print(f"{Changes.steps} steps, nothing lost")


if __name__ == "__main__":
    main()
