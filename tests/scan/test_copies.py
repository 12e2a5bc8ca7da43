"""Copies have one mark, others have others."""

from __future__ import annotations

import numpy as np
import pytest

from nearfold._utils.arrays import normalize_rows
from nearfold.scan.copies import NO_MARK, distinct_rows, row_marks, without_copies


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return normalize_rows(rng.standard_normal((3000, 64)).astype(np.float32))


def test_marks_tell_rows_apart_and_copies_together(rows: np.ndarray) -> None:
    marks = row_marks(rows)
    assert len(np.unique(marks)) == len(rows)
    np.testing.assert_array_equal(row_marks(np.tile(rows, (2, 1))), np.tile(marks, 2))
    np.testing.assert_array_equal(np.concatenate([row_marks(piece[None]) for piece in rows[:50]]), marks[:50])
    assert (row_marks(2 * rows) != marks).all()


def test_near_copies_have_the_same_mark_nearly_always(rows: np.ndarray) -> None:
    scaled = normalize_rows((rows * np.float32(3.7)).astype(np.float32))
    assert (row_marks(scaled) == row_marks(rows)).mean() > 0.999
    stored = normalize_rows(rows.astype(np.float16).astype(np.float32))
    assert (row_marks(stored) == row_marks(rows)).mean() > 0.85


def test_near_rows_are_no_copies(rows: np.ndarray, rng: np.random.Generator) -> None:
    moved = rows + np.float32(0.01 / 8) * rng.standard_normal(rows.shape).astype(np.float32)
    assert (row_marks(moved) == row_marks(rows)).mean() < 0.01


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-44, 1e38, np.inf, np.nan])
def test_any_row_has_a_mark(value: float) -> None:
    marks = row_marks(np.full((3, 5), value, np.float32))
    assert (marks == marks[0]).all()
    assert marks[0] != NO_MARK
    assert row_marks(np.zeros((1, 5), np.float32)) == row_marks(np.full((1, 5), -0.0, np.float32))


def test_distinct_rows_are_the_first_of_their_copies(rows: np.ndarray) -> None:
    order = np.array([4, 2, 4, 4, 0, 2, 9])
    np.testing.assert_array_equal(distinct_rows(rows[order]), [0, 1, 4, 6])
    np.testing.assert_array_equal(without_copies(rows[order], 4), rows[[4, 2, 0, 9]])
    assert len(without_copies(rows[order], 5)) == 7
