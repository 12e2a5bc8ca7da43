from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfold._utils.sampling import sampled_rows


@given(rows=st.integers(1, 5000), count=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_it_draws_distinct_rows_in_order(rows: int, count: int, seed: int) -> None:
    drawn = sampled_rows(rows, count, seed)
    assert len(drawn) == min(rows, count)
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < rows
    np.testing.assert_array_equal(drawn, sampled_rows(rows, count, seed))


@given(rows=st.integers(50, 3000), more=st.integers(1, 3000), seed=st.integers(0, 99))
def test_a_grown_whole_keeps_its_sample_or_replaces_it_by_new_rows(rows: int, more: int, seed: int) -> None:
    before, after = set(sampled_rows(rows, 40, seed)), set(sampled_rows(rows + more, 40, seed))
    assert all(row >= rows for row in after - before)


def test_the_samples_of_parts_hold_the_sample_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = set(sampled_rows(1000, 30, 7))
    assert whole <= set(sampled_rows(400, 30, 7)) | set(sampled_rows(1000, 30, 7, start=400))
    monkeypatch.setattr("nearfold._utils.sampling._STEP", 13)
    assert set(sampled_rows(1000, 30, 7)) == whole


def test_every_row_is_as_likely() -> None:
    counts = np.bincount(np.concatenate([sampled_rows(50, 10, seed) for seed in range(4000)]), minlength=50)
    # 800 expected each, standard deviation 25: five of them.
    assert np.abs(counts - 800).max() < 125
